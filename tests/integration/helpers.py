"""What several integration tests ask of a knowledge base."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ragself import Chunk, Hit, KnowledgeBase
from ragself.models.embedder import Embedder

Exact = Callable[[str], dict[str, float]]


def mrr(kb: KnowledgeBase, chunks: Sequence[Chunk]) -> float:
    """Mean reciprocal rank at 10 of each chunk when it is asked for by its title."""
    ranks = [[hit.id for hit in kb.search(str(chunk.title), 10)] for chunk in chunks]
    return float(
        np.mean([1 / (1 + ids.index(c.id)) if c.id in ids else 0.0 for c, ids in zip(chunks, ranks, strict=True)])
    )


def exact(kb: KnowledgeBase, number: int | None = None) -> Exact:
    """Cosines of a query with every document of the journal, in the space of a version: what search must agree with."""
    store = kb.store()
    version = store.registry.version(store.registry.live() if number is None else number)
    embedder = Embedder(store.base.encoder, store.adapter(version))
    chunks = store.journal.chunks()
    vectors = embedder.documents([chunk.text for chunk in chunks])

    def score(query: str) -> dict[str, float]:
        return dict(zip([chunk.id for chunk in chunks], (vectors @ embedder.queries([query])[0]).tolist(), strict=True))

    return score


def another(chunks: Sequence[Chunk], number: int) -> str:
    """A text that no chunk has and that is like the others: half of one, and half of one of another topic."""
    first, second = chunks[number].text.split(), chunks[number + len(chunks) // 2].text.split()
    return " ".join([*first[:20], *second[:20]])


def assert_right(hits: Sequence[Hit], scores: dict[str, float], k: int) -> None:
    """The hits are the k best by exact search: the score of each is its own, and no better chunk was left out."""
    best = sorted(scores.values(), reverse=True)[:k]
    assert len(hits) == len(best)
    np.testing.assert_allclose([hit.score for hit in hits], [scores[hit.id] for hit in hits], atol=1e-4)
    np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-4)


def segments(folder: Path) -> set[str]:
    """Names of the segment folders that Chroma keeps."""
    return {path.name for path in (folder / "versions").glob("*/chroma/*") if path.is_dir()}


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

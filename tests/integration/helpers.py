"""What several integration tests ask of a knowledge base."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ragself import Chunk, Hit, KnowledgeBase
from ragself.adapters.embedder import Embedder
from ragself.adapters.ranking import Ranking
from ragself.adapters.ranking_file import identity
from ragself.encoders.spread import unit
from ragself.index.reindex import apply_changes
from ragself.lexical.hybrid_score import Query, match
from ragself.lexical.view import View
from ragself.schema import Version

Law = Callable[[Sequence[str]], dict[str, dict[str, float]]]
Exact = Callable[[str], dict[str, float]]


def mrr(kb: KnowledgeBase, chunks: Sequence[Chunk]) -> float:
    """Mean reciprocal rank at 10 of each chunk when it is asked for by its title."""
    ranks = [[hit.id for hit in kb.search(str(chunk.title), 10, mode="vector")] for chunk in chunks]
    return float(
        np.mean([1 / (1 + ids.index(c.id)) if c.id in ids else 0.0 for c, ids in zip(chunks, ranks, strict=True)])
    )


def exact(kb: KnowledgeBase, number: int | None = None) -> Exact:
    """Cosines of a query with every document of the journal, in the space of a version: what search must agree with."""
    store = kb.engine.store
    version = store.registry.version(store.registry.live() if number is None else number)
    embedder = Embedder(store.base.encoder, store.adapter(version))
    chunks = store.journal.chunks()
    vectors = embedder.documents([chunk.text for chunk in chunks])

    def score(query: str) -> dict[str, float]:
        return dict(zip([chunk.id for chunk in chunks], (vectors @ embedder.queries([query])[0]).tolist(), strict=True))

    return score


def by_law(kb: KnowledgeBase) -> Law:
    """Parts of the score of every document of the journal for some queries, computed without index and candidates."""
    store = kb.engine.store
    ranking = store.ranking(store.registry.version(store.registry.live()))
    chunks = store.journal.chunks()
    embedder = Embedder(store.base.encoder, ranking.adapter)
    vectors = embedder.documents([chunk.text for chunk in chunks])
    corpus, scale = View.of([chunk.text for chunk in chunks]), unit(store.base)

    def parts(queries: Sequence[str]) -> dict[str, dict[str, float]]:
        middle = embedder.queries(queries).mean(axis=0)
        cosines = vectors @ (middle / np.linalg.norm(middle))
        lexical = np.zeros((2, len(chunks)))
        for text in queries:
            query = Query.of(text, corpus)
            found = match(query, corpus, np.arange(len(chunks)))
            lexical += scale * np.array(found.parts(query, ranking.weights)) / len(queries)
        return {
            chunk.id: {"vector": float(cosines[row]), "language_model": lexical[0, row], "bm25": lexical[1, row]}
            for row, chunk in enumerate(chunks)
        }

    return parts


def promote(kb: KnowledgeBase, ranking: Ranking) -> Version:
    """Make a version live that ranks by this, as a pass does."""
    store = kb.engine.store
    mark = store.manifest.fingerprint
    live, number = store.registry.version(store.registry.live()), store.registry.next_number()
    version = store.draft(number, ranking, live)
    if not store.shares(version, live):
        with store.filling(version) as index:
            apply_changes(store.journal, version.collection, index, store.base, ranking.bound(store.base).adapter)
    store.registry.add(version)
    store.registry.point(number, "promote", "a test", fingerprint=identity(mark, ranking))
    kb.refresh()
    return version


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

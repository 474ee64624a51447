"""What the cost of search is measured on: SciFact, or made-up texts that look like it; and copies of it on disk.

Made-up texts have lengths of SciFact's documents. Their words are SciFact's, in the order of their frequency, and then
made-up ones, drawn by Zipf's law. Their vectors lie around those of SciFact's documents, so that nothing is encoded.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings
from numpy.typing import NDArray

from ragself import Chunk, KnowledgeBase
from ragself.adapters.protocol import normalise
from ragself.cli.bench import _traffic, read
from ragself.corpus.words import words
from ragself.encoders.cache import VectorCache
from ragself.index.database import _GRAPH
from ragself.progress import Progress
from tests.benchmarks.subject import Subject

VOCABULARY = 200_000
SPREAD = 0.6  # length of what is added to the vector of a real document
GRAPHS: dict[str, dict[str, int]] = {
    "ragself's graph": dict(_GRAPH),  # type: ignore[arg-type]
    "Chroma's defaults": {"max_neighbors": 16, "ef_construction": 100, "ef_search": 100},
}


@dataclass(frozen=True)
class Corpus:
    """Documents, and what is asked.

    Attributes:
        name: ``scifact``, or ``made up``.
        chunks: n of them.
        vectors: (n, dimension) float32, normalised.
        queries: Texts.
        asked: Their vectors, (queries, dimension) float32.
    """

    name: str
    chunks: list[Chunk]
    vectors: NDArray[np.float32]
    queries: list[str]
    asked: NDArray[np.float32]


def corpus(data: Path, work: Path, documents: int, say: Progress) -> Corpus:
    """SciFact's documents, or made-up ones.

    Args:
        data: Holds the BEIR folder ``scifact``.
        work: Keeps vectors of the base model.
        documents: How many to make up; 0 takes those of SciFact.
        say: Told of texts encoded.
    """
    (work / "scifact").mkdir(parents=True, exist_ok=True)
    subject = Subject(read(data / "scifact", "test"), VectorCache(work / "scifact" / "cache.db"), say)
    queries = [*dict.fromkeys([*subject.asked, *_traffic(data / "scifact", "train")])]
    vectors, asked = subject.base(subject.texts, "documents"), subject.base(queries, "queries")
    if not documents:
        chunks = [Chunk(c.id, c.text, _metadata(row)) for row, c in enumerate(subject.collection.chunks)]
        return Corpus("scifact", chunks, vectors, queries, asked)
    chunks = [Chunk(f"d{row}", text, _metadata(row)) for row, text in enumerate(_texts(subject.texts, documents))]
    return Corpus("made up", chunks, around(vectors, documents), queries, asked)


def around(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Vectors in clusters around real ones, (count, dimension) float32, normalised."""
    draw = np.random.default_rng(1)
    out = np.empty((count, vectors.shape[1]), np.float32)
    for start in range(0, count, 10_000):
        size = min(10_000, count - start)
        noise = draw.normal(size=(size, vectors.shape[1])).astype(np.float32)
        noise *= SPREAD / np.sqrt(vectors.shape[1])
        out[start : start + size] = normalise(vectors[draw.integers(0, len(vectors), size)] + noise)
    return out


def _metadata(row: int) -> dict[str, Any]:
    return {"source": f"{row // 10}.md", "part": row % 10}


def _texts(real: Sequence[str], count: int) -> Iterator[str]:
    held = [words(text) for text in real]
    frequent = [word for word, _ in Counter(word for text in held for word in text).most_common(VOCABULARY)]
    beside = [f"{frequent[row % 997]}{frequent[row % 1009]}{row}" for row in range(VOCABULARY - len(frequent))]
    vocabulary = np.array([*frequent, *beside], dtype=object)
    law = np.cumsum(1.0 / (np.arange(VOCABULARY) + 2.7))
    draw, lengths = np.random.default_rng(0), np.array([len(text) for text in held])
    for _ in range(count):
        at = np.searchsorted(law, draw.random(draw.choice(lengths)) * law[-1])
        yield " ".join(vocabulary[at])


# on disk ------------------------------------------------------------------------------------------


def folders(work: Path, corpus: Corpus) -> tuple[Path, Path]:
    """Of the knowledge base and of the plain collection."""
    place = work / f"hybrid-{corpus.name.replace(' ', '-')}-{len(corpus.chunks)}"
    return place / "kb", place / "plain"


def filled(work: Path, corpus: Corpus, say: Progress) -> tuple[Path, Path]:
    """The same, made where they are not there. The plain collection has the same graph."""
    ours, plain = folders(work, corpus)
    if (plain / "filled").exists():
        return ours, plain
    shutil.rmtree(ours.parent, ignore_errors=True)
    with emptied(ours, corpus) as kb, collection(plain, "ragself's graph") as other:
        for done, part in batches(corpus, 1000):
            say("fill", done, len(corpus.chunks))
            kb.add(corpus.chunks[part])
            add(other, corpus, part)
    (plain / "filled").touch()
    say("fill", len(corpus.chunks), len(corpus.chunks))
    return ours, plain


@contextmanager
def emptied(folder: Path, corpus: Corpus) -> Iterator[KnowledgeBase]:
    """A new knowledge base that has all vectors already."""
    with KnowledgeBase(folder) as kb:
        for _, part in batches(corpus, 1000):
            kb.engine.store.base.keep([chunk.text for chunk in corpus.chunks[part]], corpus.vectors[part])
        yield kb


@contextmanager
def collection(folder: Path, graph: str | None) -> Iterator[Any]:
    """A plain Chroma collection: a new one with one of `GRAPHS`, or, with None, the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    client: Any = chromadb.PersistentClient(str(folder), Settings(anonymized_telemetry=False))
    with closing(client):
        if graph is None:
            yield client.get_collection("plain", embedding_function=None)
        else:
            hnsw = {"space": "cosine", **GRAPHS[graph]}
            yield client.create_collection("plain", configuration={"hnsw": hnsw}, embedding_function=None)


def batches(corpus: Corpus, size: int) -> Iterator[tuple[int, slice]]:
    """Where each begins, and its rows."""
    for start in range(0, len(corpus.chunks), size):
        yield start, slice(start, start + size)


def add(collection: Any, corpus: Corpus, part: slice) -> None:
    """Add some documents to a plain collection."""
    some = corpus.chunks[part]
    collection.add(
        ids=[chunk.id for chunk in some],
        embeddings=corpus.vectors[part],
        documents=[chunk.text for chunk in some],
        metadatas=[dict(chunk.metadata) for chunk in some],
    )

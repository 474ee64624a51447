"""The benchmark: a labelled BEIR collection, learned from without its labels, measured with them."""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.queries import read_queries
from ragself.corpus.words import words
from ragself.cycle import judged_adapter
from ragself.errors import InputError
from ragself.knowledge import KnowledgeBase
from ragself.learn.candidates import Bm25
from ragself.learn.metrics import bootstrap, ndcg, recall, relevance_of
from ragself.learn.teacher import fused, trust
from ragself.models.fusion import count, fuse
from ragself.models.hybrid import STRENGTH, Hybrid
from ragself.models.lexicon import Lexicon
from ragself.models.lora import lexical
from ragself.models.ngram import NgramScorer
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Report

DEPTH = 100
RRF_DEPTH = 1000  # of each list; a document without a word of the query is in no BM25 list
RANKERS = ("bm25", "base", "rrf", "teacher", "adapted", "fused")
RRF_K = 60  # Cormack, Clarke and Büttcher 2009


@dataclass(frozen=True)
class Collection:
    """A BEIR folder, one split of it.

    Attributes:
        chunks: The corpus; ``title`` and text joined by a space, as BEIR encodes it.
        queries: Text of each query of the split, by id.
        qrels: Gains of judged documents, by query id.
    """

    chunks: list[Chunk]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def run(
    directory: Path, split: str, traffic: str | None, kb: Path | None, progress: Progress = silent
) -> dict[str, Any]:
    """Learn from a collection's documents and traffic, and measure every ranker on the split.

    Args:
        directory: BEIR folder.
        split: The split that is measured, with its labels.
        traffic: Name of a split whose query texts are the traffic, or a file of queries; None for none.
        kb: Folder of the knowledge base; None for a temporary one.
        progress: Told of each stage.

    Raises:
        InputError: The folder is no BEIR collection, or the split is not there.
    """
    began = time.perf_counter()
    collection = read(directory, split)
    asked = _traffic(directory, traffic)
    with _folder(kb) as folder, KnowledgeBase(folder) as base:
        base.add(collection.chunks, progress)
        report = base.adapt(asked, progress, started="ragself bench")
        rankings = _rank(base, collection, report, progress)
    qrels = list(collection.qrels.values())
    results = {name: _measure(ranking, qrels) for name, ranking in rankings.items()}
    empty = {"ndcg@10": None, "recall@100": None}
    return {
        "dataset": directory.resolve().name,
        "split": split,
        "documents": len(collection.chunks),
        "queries": len(qrels),
        "traffic": len(asked),
        **{name: results.get(name, empty) for name in RANKERS},
        "decision": report.decision,
        "reason": report.reason,
        "report": report,
        "seconds": round(time.perf_counter() - began, 1),
    }


def read(directory: Path, split: str) -> Collection:
    """Read a BEIR folder. Raises InputError where a file is missing or malformed."""
    corpus = list(_json_lines(directory / "corpus.jsonl"))
    chunks = []
    for row in corpus:
        title, text = str(row.get("title") or "").strip(), str(row.get("text") or "").strip()
        joined = f"{title} {text}".strip()
        if joined:  # some collections hold empty documents
            chunks.append(Chunk(str(row["_id"]), joined, {"title": title} if title else {}))
    texts = _queries(directory)
    qrels: dict[str, dict[str, int]] = {}
    for query, document, gain in _judgements(directory, split):
        if gain > 0:
            qrels.setdefault(query, {})[document] = gain
    return Collection(chunks, {id: texts[id] for id in qrels}, qrels)


def _traffic(directory: Path, traffic: str | None) -> list[str]:
    if traffic is None:
        return []
    if (directory / "qrels" / f"{traffic}.tsv").exists():
        texts = _queries(directory)
        return [texts[id] for id in dict.fromkeys(query for query, _, _ in _judgements(directory, traffic))]
    path = Path(traffic)
    if not path.is_file():
        raise InputError(
            f"--traffic {traffic!r} is neither a split of {directory} nor a file. Splits: {_splits(directory)}."
        )
    return read_queries(path)


def _rank(
    base: KnowledgeBase, collection: Collection, report: Report, progress: Progress
) -> dict[str, list[list[str]]]:
    """Exact rankings of the corpus by every ranker, `DEPTH` deep."""
    store = base.store()
    texts = [chunk.text for chunk in collection.chunks]
    ids = np.array([chunk.id for chunk in collection.chunks])
    asked = list(collection.queries.values())
    documents, queries = store.base.documents(texts, progress), store.base.queries(asked, progress)
    dense = queries @ documents.T
    rows, scores = Bm25(texts).top(asked, len(texts))
    counted = np.zeros_like(dense)
    np.put_along_axis(counted, rows, scores, axis=1)
    gains = NgramScorer(texts).matrix(asked)
    ranked = {
        "bm25": counted,
        "base": dense,
        "rrf": _reciprocal_ranks(counted, counted > 0)
        + _reciprocal_ranks(dense, np.isfinite(dense))
        + 1e-9 * dense,  # reciprocal ranks tie often; the nearer one first
    }
    if report.weight:
        lengths = np.array([len(words(query)) for query in asked], dtype=np.int64)
        ranked["teacher"] = fused(gains, dense, trust(float(report.weight["weight"]), lengths))
    adapter = judged_adapter(store) if report.kind else None
    if adapter is not None:
        vectors = adapter.queries(queries, asked), adapter.documents(documents, texts)
        near = vectors[0] @ vectors[1].T
        ranked.update(adapted=near, fused=_again(near, lexical(adapter), vectors, asked, texts))
    return {name: _top(matrix, ids) for name, matrix in ranked.items()}


def _again(
    near: NDArray[np.float32],
    adapter: Hybrid | None,
    vectors: tuple[NDArray[np.float32], NDArray[np.float32]],
    asked: Sequence[str],
    texts: Sequence[str],
) -> NDArray[np.float32]:
    """What search in mode fused ranks by: scores of the `DEPTH` nearest of each query, -inf for all others."""
    dense, lexicon, strength = near, None, STRENGTH
    if adapter is not None:
        width = adapter.residual.dimension
        dense = vectors[0][:, :width] @ vectors[1][:, :width].T
        lexicon, strength = adapter.lexicon, adapter.strength
    lexicon, counted = lexicon or Lexicon.count(texts), [count(text) for text in texts]
    out = np.full_like(near, -np.inf)
    for row, best in enumerate(np.argsort(-near, axis=1, kind="stable")[:, :DEPTH]):
        held = [counted[column] for column in best]
        out[row, best] = fuse(lexicon, [asked[row]], held, dense[row, best], strength)
    return out


def _top(scores: NDArray[np.float32], ids: NDArray[np.str_]) -> list[list[str]]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return [ids[row].tolist() for row in order]


def _reciprocal_ranks(scores: NDArray[np.float32], listed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 / (k + rank) of the first `RRF_DEPTH` documents of a list, 0 of all others."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, scores.shape[1] + 1)[None, :], axis=1)
    return np.where(listed & (ranks <= RRF_DEPTH), 1.0 / (RRF_K + ranks), 0.0)


def _measure(ranking: list[list[str]], qrels: Sequence[dict[str, int]]) -> dict[str, Any]:
    relevance, ideal, total = relevance_of(ranking, qrels, DEPTH)
    out: dict[str, Any] = {}
    for name, values in (("ndcg@10", ndcg(relevance, ideal, 10)), ("recall@100", recall(relevance, total, DEPTH))):
        interval = bootstrap(values, 0.95)
        out[name] = round(interval.mean, 4)
        out[f"{name}_interval"] = [round(interval.low, 4), round(interval.high, 4)]
    return out


# reading ------------------------------------------------------------------------------------------


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict) or "_id" not in row:
                        raise InputError(f"{path} line {number} is no JSON object with an _id.")
                    yield row
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}. Expected a BEIR folder with corpus.jsonl.") from error


def _queries(directory: Path) -> dict[str, str]:
    return {str(row["_id"]): str(row["text"]) for row in _json_lines(directory / "queries.jsonl")}


def _judgements(directory: Path, split: str) -> Iterator[tuple[str, str, int]]:
    path = directory / "qrels" / f"{split}.tsv"
    if not path.exists():
        raise InputError(f"{path} does not exist. Splits of this collection: {_splits(directory)}.")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        next(rows, None)  # header
        for row in rows:
            yield row[0], row[1], int(float(row[2]))


def _splits(directory: Path) -> str:
    return ", ".join(sorted(path.stem for path in (directory / "qrels").glob("*.tsv"))) or "none"


@contextmanager
def _folder(kb: Path | None) -> Iterator[Path]:
    if kb is not None:
        yield kb
        return
    with tempfile.TemporaryDirectory(prefix="ragself-bench-") as folder:
        yield Path(folder) / "kb"

"""Benchmark on labelled BEIR collections: trains without the labels and evaluates with them."""

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

from ragself.adapters.ranking import Ranking
from ragself.corpus.query_file import read_queries
from ragself.corpus.words import words
from ragself.cycle import judged_ranking
from ragself.encoders.spread import unit
from ragself.errors import InputError
from ragself.evaluation.metrics import bootstrap, ndcg, recall, relevance_of
from ragself.knowledge_base import KnowledgeBase
from ragself.lexical.hybrid_score import Query, match
from ragself.lexical.view import View
from ragself.lm.ngram import NgramScorer
from ragself.probes.targets import TAU, gain_weights, teacher_logits
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Report

DEPTH = 100
LIST_DEPTH = 1000  # of each fused list; the BM25 list holds only documents with a word of the query
RANKERS = ("bm25", "base", "rrf", "linear", "untrained", "trained", "teacher")
RRF_K = 60  # Cormack, Clarke and Büttcher 2009


@dataclass(frozen=True)
class Collection:
    """One split of a BEIR folder.

    Attributes:
        chunks: The corpus. Title and text are joined by a space, as BEIR encodes them.
        queries: Text of each query of the split, by query id.
        qrels: Gains of the relevant documents by document id, for each query id.
    """

    chunks: list[Chunk]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def run(
    directory: Path, split: str, traffic: str | None, kb: Path | None, progress: Progress = silent
) -> dict[str, Any]:
    """Train on a collection's documents and traffic, then evaluate every ranker on the split.

    The result holds ``ndcg@10`` and ``recall@100`` with their intervals for each of `RANKERS`; both are None for a
    ranker that does not exist. It also holds ``gain``, the paired difference in nDCG@10 between ``trained`` and
    ``untrained`` with its interval; ``decision``, ``reason`` and ``report`` of the pass; and ``seconds`` in total.

    Args:
        directory: BEIR folder.
        split: The split to evaluate on, with its labels.
        traffic: Name of a split whose query texts are the traffic, or a file of queries; None means no traffic.
        kb: Folder of the knowledge base; None uses a temporary folder.
        progress: Called with each stage, steps done and total.

    Raises:
        InputError: The folder is not a BEIR collection, or the split does not exist.
    """
    began = time.perf_counter()
    collection = read(directory, split)
    traffic_queries = _traffic(directory, traffic)
    with _folder(kb) as folder, KnowledgeBase(folder) as base:
        base.add(collection.chunks, progress)
        report = base.adapt(traffic_queries, progress, started="ragself bench")
        rankings = _rank(base, collection, report, progress)
    qrels = list(collection.qrels.values())
    results = {name: _measure(ranking, qrels) for name, ranking in rankings.items()}
    empty = {"ndcg@10": None, "recall@100": None}
    return {
        "dataset": directory.resolve().name,
        "split": split,
        "documents": len(collection.chunks),
        "queries": len(qrels),
        "traffic": len(traffic_queries),
        **{name: results.get(name, empty) for name in RANKERS},
        "gain": _gain(rankings, qrels),
        "decision": report.decision,
        "reason": report.reason,
        "report": report,
        "seconds": round(time.perf_counter() - began, 1),
    }


def read(directory: Path, split: str) -> Collection:
    """Read a BEIR folder. Raises InputError if a file is missing or malformed."""
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
    """Rankings of the corpus by every ranker, to depth `DEPTH`."""
    store = base.engine.store
    texts = [chunk.text for chunk in collection.chunks]
    ids = np.array([chunk.id for chunk in collection.chunks])
    query_texts = list(collection.queries.values())
    documents, queries = store.base.documents(texts, progress), store.base.queries(query_texts, progress)
    cosines, counted = queries @ documents.T, bm25(texts, query_texts)
    law = Law(texts, query_texts, unit(store.base))
    ranked = {
        "bm25": counted,
        "base": cosines,
        "rrf": rrf(counted, cosines),
        "linear": linear(counted, cosines),
        "untrained": law.scores(cosines, Ranking(), progress),
    }
    if report.weight:
        lengths = np.array([len(words(query)) for query in query_texts], dtype=np.int64)
        weight, tau = float(report.weight["weight"]), TAU * law.unit
        gains = NgramScorer(texts).matrix(query_texts)
        ranked["teacher"] = teacher_logits(gains, ranked["untrained"], gain_weights(weight, lengths), tau)
    ranking = judged_ranking(store) if report.kind else None
    if ranking is not None:
        near = cosines
        if ranking.adapter is not None:
            near = ranking.adapter.queries(queries, query_texts) @ ranking.adapter.documents(documents, texts).T
        ranked["trained"] = law.scores(near, ranking, progress)
    return {name: _top(matrix, ids) for name, matrix in ranked.items()}


class Law:
    """The ranking law of hybrid search, for many queries over one corpus."""

    def __init__(self, texts: Sequence[str], asked: Sequence[str], unit: float) -> None:
        """Index the corpus and analyse the queries."""
        self._corpus = View.of(texts)
        self._queries = [Query.of(text, self._corpus) for text in asked]
        self.unit = unit

    def scores(
        self, cosines: NDArray[np.float32], ranking: Ranking, progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Scores by which search ranks the candidates of each query; -inf for all other documents.

        Args:
            cosines: (queries, documents) in the ranking's dense space.
            ranking: Its lexical weights are applied.
            progress: Called with the stage, queries done and total.
        """
        out = np.full(cosines.shape, -np.inf, dtype=np.float32)
        depth = min(DEPTH, cosines.shape[1])
        for number, (query, near) in enumerate(zip(self._queries, cosines, strict=True)):
            nearest = np.argpartition(-near, depth - 1)[:depth]
            rows = np.union1d(nearest, query.candidates(self._corpus, ranking.weights, DEPTH))
            language_model, counted = match(query, self._corpus, rows).parts(query, ranking.weights)
            out[number, rows] = near[rows] + self.unit * (language_model + counted)
            progress("measure", number + 1, len(cosines))
        return out


def bm25(texts: Sequence[str], asked: Sequence[str]) -> NDArray[np.float32]:
    """Scores of bm25s with its defaults (Lucene's variant, English stop words), (queries, documents) float32."""
    import bm25s

    tokens = bm25s.tokenize(list(texts), show_progress=False)
    out = np.zeros((len(asked), len(texts)), dtype=np.float32)
    if not tokens.vocab:  # a corpus of stop words only
        return out
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    split = bm25s.tokenize(list(asked), return_ids=False, show_progress=False)
    rows, scores = index.retrieve(split, k=len(texts), show_progress=False)
    np.put_along_axis(out, np.asarray(rows, dtype=np.int64), np.asarray(scores, dtype=np.float32), axis=1)
    return out


def rrf(counted: NDArray[np.float32], cosines: NDArray[np.float32]) -> NDArray[np.float64]:
    """Reciprocal rank fusion of BM25 and cosine scores. The cosine breaks ties, which are frequent."""
    ranks = _reciprocal_ranks(counted, counted > 0) + _reciprocal_ranks(cosines, np.isfinite(cosines))
    return np.asarray(ranks + 1e-9 * cosines)


def linear(counted: NDArray[np.float32], cosines: NDArray[np.float32], weight: float = 0.5) -> NDArray[np.float32]:
    """`weight` times the cosine plus `1 - weight` times BM25, each scaled to 0 to 1 over the list of each query."""
    return weight * _scaled(cosines, np.isfinite(cosines)) + (1.0 - weight) * _scaled(counted, counted > 0)


def _scaled(scores: NDArray[np.float32], listed: NDArray[np.bool_]) -> NDArray[np.float32]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :LIST_DEPTH]
    inside = np.zeros_like(listed)
    np.put_along_axis(inside, order, True, axis=1)
    inside &= listed
    low = np.where(inside, scores, np.inf).min(axis=1, keepdims=True)
    high = np.where(inside, scores, -np.inf).max(axis=1, keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    return np.where(inside, np.where(high > low, (scores - low) / span, 1.0), 0.0).astype(np.float32)


def _top(scores: NDArray[Any], ids: NDArray[np.str_]) -> list[list[str]]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return [ids[row].tolist() for row in order]


def _reciprocal_ranks(scores: NDArray[np.float32], listed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 / (k + rank) for the first `LIST_DEPTH` documents of a list, 0 for all others."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, scores.shape[1] + 1)[None, :], axis=1)
    return np.where(listed & (ranks <= LIST_DEPTH), 1.0 / (RRF_K + ranks), 0.0)


def _gain(rankings: dict[str, list[list[str]]], qrels: Sequence[dict[str, int]]) -> dict[str, float] | None:
    """Change in nDCG@10 by training; None if nothing was trained."""
    if "trained" not in rankings:
        return None
    trained, untrained = (
        ndcg(*relevance_of(rankings[name], qrels, DEPTH)[:2], 10) for name in ("trained", "untrained")
    )
    change = bootstrap(trained - untrained, 0.95)
    return {"mean": round(change.mean, 4), "low": round(change.low, 4), "high": round(change.high, 4)}


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
                        raise InputError(f"{path} line {number} is not a JSON object with an _id.")
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

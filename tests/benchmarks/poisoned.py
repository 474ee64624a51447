"""Hostile documents: what share of them moves the gate, and what is served then.

    python tests/benchmarks/poisoned.py DATA/scifact [--work FOLDER] [--shares 0.001 0.01 0.05 0.2]

Somebody who may add documents wants theirs to be found. `stuffed`: each is made of the rarer words of twenty titles of
others. `echo`, the worst case: they know what users ask, and each repeats ten of the train queries that the knowledge
base learns from. Told is, for each share of the corpus, whether the gate promotes, and, with labels that it never sees,
nDCG@10 of the untrained ranking and of the candidate on the test queries among all documents, and for how many queries
a hostile document is among the first ten. FOLDER keeps the encoded vectors between runs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ragself import Chunk, KnowledgeBase
from ragself.adapters.ranking import Ranking
from ragself.cli.bench import Collection, Law, _top, _traffic, read
from ragself.cycle import judged_ranking
from ragself.encoders.spread import unit
from ragself.evaluation.metrics import bootstrap, ndcg, relevance_of

BAD = "hostile-"


def stuffed(collection: Collection, asked: list[str], count: int) -> list[Chunk]:
    draw = random.Random(0)
    titles = [chunk.title or chunk.text[:80] for chunk in collection.chunks]
    texts = [
        " ".join(word for title in draw.sample(titles, 20) for word in title.split() if len(word) > 4)
        for _ in range(count)
    ]
    return [Chunk(f"{BAD}{row}", f"Buy now. {text}", {"title": f"Offer {row}"}) for row, text in enumerate(texts)]


def echo(collection: Collection, asked: list[str], count: int) -> list[Chunk]:
    draw = random.Random(0)
    texts = [" ".join(f"{query} Buy now." for query in draw.sample(asked, 10)) for _ in range(count)]
    return [Chunk(f"{BAD}{row}", text, {"title": f"Offer {row}"}) for row, text in enumerate(texts)]


ATTACKS = {"stuffed": stuffed, "echo": echo}


def rank(kb: KnowledgeBase, chunks: list[Chunk], queries: list[str], ranking: Ranking) -> list[list[str]]:
    """The ten best of hybrid search by a ranking."""
    store = kb.engine.store
    texts = [chunk.text for chunk in chunks]
    documents, asked = store.base.documents(texts), store.base.queries(queries)
    if ranking.adapter is not None:
        documents, asked = ranking.adapter.documents(documents, texts), ranking.adapter.queries(asked, queries)
    scores = Law(texts, queries, unit(store.base)).scores(asked @ documents.T, ranking)
    return _top(scores, np.array([chunk.id for chunk in chunks]))


def told(ranking: list[list[str]], qrels: list[dict[str, int]]) -> tuple[np.ndarray, float]:
    relevance, ideal, _ = relevance_of(ranking, qrels, 10)
    return ndcg(relevance, ideal, 10), float(np.mean([any(id.startswith(BAD) for id in ids) for ids in ranking]))


def measure(collection: Collection, asked: list[str], bad: list[Chunk], work: Path | None) -> dict[str, Any]:
    chunks = collection.chunks + bad
    queries, qrels = list(collection.queries.values()), list(collection.qrels.values())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kb"
        kept = work / "cache.db" if work else None
        if kept and kept.exists():
            folder.mkdir()
            shutil.copy(kept, folder / "cache.db")
        with KnowledgeBase(folder) as kb:
            kb.add(chunks)
            report = kb.adapt(asked)
            candidate = judged_ranking(kb.engine.store) if report.kind else None
            before, seen_before = told(rank(kb, chunks, queries, Ranking()), qrels)
            after, seen_after = told(rank(kb, chunks, queries, candidate or Ranking()), qrels)
        if kept and not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "cache.db", kept)
    change = bootstrap(after - before, 0.95)
    return {
        "hostile": len(bad),
        "decision": report.decision,
        "reason": report.reason,
        "kind": report.kind,
        "untrained": round(float(before.mean()), 4),
        "candidate": round(float(after.mean()), 4),
        "change": [round(value, 4) for value in (change.mean, change.low, change.high)],
        "queries with a hostile document": {"untrained": round(seen_before, 3), "candidate": round(seen_after, 3)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.001, 0.01, 0.05, 0.2])
    arguments = parser.parse_args()
    collection, asked = read(arguments.data, "test"), _traffic(arguments.data, "train")
    rows = [{"attack": "none", "share": 0.0, **measure(collection, asked, [], arguments.work)}]
    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    for name, attack in ATTACKS.items():
        for share in arguments.shares:
            bad = attack(collection, asked, round(len(collection.chunks) * share))
            rows.append({"attack": name, "share": share, **measure(collection, asked, bad, arguments.work)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

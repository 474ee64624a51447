"""Search in mode fused against the plain vector query and other ways to fuse, in one run: writes results/fused.json.

    python tests/benchmarks/fused.py DATA/scifact --traffic train --kb FOLDER [--rounds 2]

FOLDER keeps the knowledge base, which adapts where it has not yet. Times: both modes in turns, query by query, so that
noise hits both; in the first round hardly a text was counted before, in the last nearly all. Quality: nDCG@10, labels
for reporting only. RRF and the linear fusion are of the live version's vector ranking and BM25; the linear one adds
both scores with weight .5 each, from 0 for the least to 1 for the best of each one's first 100.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ragself import KnowledgeBase
from ragself.cli.bench import RRF_DEPTH, RRF_K, Collection, _measure, _traffic, read
from ragself.learn.candidates import Bm25

RESULTS = Path(__file__).parent / "results"
Ranking = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--traffic")
    parser.add_argument("--kb", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--queries", type=int, default=100, help="that are timed")
    arguments = parser.parse_args()
    collection = read(arguments.data, arguments.split)
    with KnowledgeBase(arguments.kb) as kb:
        kb.add(collection.chunks)
        if kb.status().live.number == 0:
            kb.adapt(_traffic(arguments.data, arguments.traffic))
        live = kb.status().live
        seconds = timed(kb, list(collection.queries.values())[: arguments.queries], arguments.rounds)
        quality = measured(kb, collection)
    traffic = f" --traffic {arguments.traffic}" if arguments.traffic else ""
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": f"python tests/benchmarks/fused.py DATA/{arguments.data.name}{traffic} --kb FOLDER",
        "documents": len(collection.chunks),
        "version": {"kind": live.kind, "dimension": live.dimension},
        "seconds": seconds,
        "quality": quality,
    }
    (RESULTS / "fused.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def timed(kb: KnowledgeBase, queries: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of both modes, as they took and of the processor, one entry a round."""
    for mode in ("vector", "fused"):
        kb.search("what is opened and counted first", mode=mode)  # type: ignore[arg-type]
    out = []
    for _ in range(rounds):
        took: dict[str, list[tuple[float, float]]] = {"vector": [], "fused": []}
        for query in queries:
            for mode, times in took.items():
                wall, processor = time.perf_counter(), time.thread_time()
                kb.search(query, mode=mode)  # type: ignore[arg-type]
                times.append((1000 * (time.perf_counter() - wall), 1000 * (time.thread_time() - processor)))
        entry: dict[str, Any] = {"queries": len(queries)}
        for name, percentile in (("p50", 50), ("p95", 95)):
            (vector, _), (fused, _) = (np.percentile(times, percentile, axis=0) for times in took.values())
            entry[name] = {
                "vector ms": round(vector, 2),
                "fused ms": round(fused, 2),
                "ratio": round(fused / vector, 3),
            }
        processor_ms = {mode: round(float(np.median([each for _, each in times])), 2) for mode, times in took.items()}
        out.append({**entry, "processor p50 ms": processor_ms})
    return out


def measured(kb: KnowledgeBase, collection: Collection) -> dict[str, Any]:
    """NDCG@10 of each ranker, with its interval."""
    asked = list(collection.queries.values())
    ids = [chunk.id for chunk in collection.chunks]
    columns, scores = Bm25([chunk.text for chunk in collection.chunks]).top(asked, RRF_DEPTH)
    rankings: dict[str, list[list[str]]] = {}
    for query, which, score in zip(asked, columns, scores, strict=True):
        near = {hit.id: hit.score for hit in kb.search(query, RRF_DEPTH)}
        lexical = {ids[column]: float(value) for column, value in zip(which, score, strict=True) if value > 0}
        lists = {
            "bm25": lexical,
            "vector": near,
            "fused": {hit.id: hit.score for hit in kb.search(query, 100, mode="fused")},
            "rrf": added(
                *({id: 1 / (RRF_K + rank) for rank, id in enumerate(best(each), 1)} for each in (near, lexical))
            ),
            "linear": added(*(spread({id: each[id] for id in best(each)[:100]}) for each in (near, lexical))),
        }
        for name, each in lists.items():
            rankings.setdefault(name, []).append(best(each)[:100])
    return {name: _measure(ranking, list(collection.qrels.values())) for name, ranking in rankings.items()}


def best(scores: Ranking) -> list[str]:
    return sorted(scores, key=scores.__getitem__, reverse=True)


def spread(scores: Ranking) -> Ranking:
    """Scores from 0 for the least to 1 for the best."""
    least, most = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {id: (score - least) / max(most - least, 1e-9) for id, score in scores.items()}


def added(*lists: Ranking) -> Ranking:
    """The sum of what each list says, 0 where it says nothing."""
    return {id: sum(each.get(id, 0.0) for each in lists) for id in dict.fromkeys(id for each in lists for id in each)}


if __name__ == "__main__":
    main()

"""A week of a service, as fast as it goes: documents arrive and go, users ask, every day ends with a pass and `gc`.

    python tests/benchmarks/week.py DATA [--documents 20000] [--queries 50000] [--days 7] [--defaults]

DATA holds BEIR folders: their documents, long ones in parts, arrive in equal shares a day, and a tenth of what is there
goes; their queries are asked with the frequencies of Zipf's law and remembered, half of them from the moment that the
day's pass begins. Told of each day is what the pass did, and, before it and after `gc`, the memory of the process that
serves and what is on disk. Labels are not used. Settings are such that passes end with a switch to a new collection
(versions.py), unless --defaults is given.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import psutil

from ragself import Chunk, KnowledgeBase
from ragself.background.runner import BackgroundAdaptation
from ragself.config import load
from ragself.engine.status import size
from tests.benchmarks.service import spread
from tests.benchmarks.versions import PROMOTING

SETS = ("scifact", "nfcorpus", "cosqa", "cranfield", "med", "xquad")
PARTS = ("corpus.db", "cache.db", "queries.db", "signals.db", "lexical", "versions", "pass")
GONE = 0.1  # of the documents, each day


def read(data: Path, count: int) -> tuple[list[Chunk], list[str]]:
    chunks, queries = [], []
    for name in SETS:
        for row in map(json.loads, (data / name / "corpus.jsonl").open()):
            words = f"{row.get('title', '')} {row['text']}".split()
            title = {"title": row["title"]} if row.get("title") else {}
            for part in range(0, len(words), 180):
                text = " ".join(words[part : part + 180])
                chunks.append(Chunk(f"{name}-{row['_id']}-{part}", text, title if part == 0 else {}))
        queries += [row["text"] for row in map(json.loads, (data / name / "queries.jsonl").open())]
    random.Random(0).shuffle(chunks)
    random.Random(1).shuffle(queries)
    return chunks[:count], [query for query in queries if query.strip()]


def state(kb: KnowledgeBase) -> dict[str, Any]:
    return {
        "memory MB": round(psutil.Process().memory_info().rss / 1e6),
        "disk MB": {part: round(size(kb.path / part) / 1e6, 1) for part in PARTS},
        "versions": [version.number for version in kb.status().versions],
    }


def ask(kb: KnowledgeBase, queries: list[str]) -> tuple[list[float], int]:
    """Seconds that each took, and how many failed."""
    took, errors = [], 0
    for query in queries:
        began = time.perf_counter()
        try:
            kb.search(query, 10)
        except Exception:
            errors += 1
        took.append(time.perf_counter() - began)
    return took, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--encoder")
    parser.add_argument("--defaults", action="store_true")
    arguments = parser.parse_args()
    chunks, queries = read(arguments.data, arguments.documents)
    draw = random.Random(2)
    zipf = np.random.default_rng(3).zipf(1.3, size=arguments.queries) % len(queries)
    settings: dict[str, Any] = {"queries": {"log": True}, **({} if arguments.defaults else PROMOTING)}
    if arguments.encoder:
        settings["encoder"] = {"model": arguments.encoder}
    days, there, errors = [], set[str](), 0
    began = time.time()
    with (
        tempfile.TemporaryDirectory() as scratch,
        KnowledgeBase(Path(scratch) / "kb", config=load(None, **settings)) as kb,
    ):
        share, asked = len(chunks) // arguments.days + 1, arguments.queries // arguments.days + 1
        for day in range(arguments.days):
            new = chunks[day * share : (day + 1) * share]
            for start in range(0, len(new), 200):
                kb.add(new[start : start + 200])
            there |= {chunk.id for chunk in new}
            gone = draw.sample(sorted(there), int(len(there) * GONE))
            kb.delete(gone)
            there -= set(gone)
            asked_today = [queries[at] for at in zipf[day * asked : (day + 1) * asked]]
            quiet, errors_quiet = ask(kb, asked_today[: asked // 2])
            before = state(kb)
            pass_began = time.time()
            with ThreadPoolExecutor(1) as nightly:
                running = nightly.submit(BackgroundAdaptation(kb, name="nightly").once, threading.Event())
                meanwhile, errors_meanwhile = ask(kb, asked_today[asked // 2 :])
                found = running.result()
            errors += errors_quiet + errors_meanwhile
            if found.error is not None:
                raise found.error
            report = found.report
            seconds = round(time.time() - pass_began)
            kb.gc()
            days.append(
                {
                    "day": day + 1,
                    "chunks": len(there),
                    "distinct queries": len(kb.recorded_queries()),
                    "search ms": spread(quiet),
                    "search ms, while the pass runs": spread(meanwhile),
                    "pass": {
                        "decision": report.decision if report else None,
                        "version": report.version if report else None,
                        "reason": report.reason if report else found.waiting,
                        "seconds": seconds,
                    },
                    "before the pass": before,
                    "after gc": state(kb),
                }
            )
            print(json.dumps(days[-1]), file=sys.stderr, flush=True)
            assert kb.status().chunks == len(there)
    print(
        json.dumps(
            {
                "documents": len(chunks),
                "queries": arguments.queries,
                "errors": errors,
                "seconds": round(time.time() - began),
                "days": days,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()

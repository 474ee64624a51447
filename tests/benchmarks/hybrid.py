"""What hybrid search costs beside encoding the query and asking plain Chroma. Writes results/hybrid.json.

    python tests/benchmarks/hybrid.py search DATA [--documents 100000] [--work FOLDER] [--queries 300]
    python tests/benchmarks/hybrid.py memory DATA [--documents 100000] [--work FOLDER]
    python tests/benchmarks/hybrid.py insert DATA [--documents 100000] [--batch 1000]
    python tests/benchmarks/hybrid.py graph DATA [--documents 100000]

DATA holds the BEIR folder scifact. Without --documents its texts are searched, with it that many made-up ones
(corpora.py); queries are SciFact's. FOLDER keeps vectors and what was filled. All ways are timed in turns, in one run.

- search: milliseconds and processor time of encoding a query, of plain Chroma (k = 10 with texts and metadata, the same
  graph), and of search in both modes; and of the lexical part of hybrid search alone.
- memory: resident memory of processes that open it and ask 200 queries, and what is on disk: of ragself with one
  version, and of a plain collection of the same texts. `none` has only encoded the queries.
- insert: documents a second that `add` takes whose vectors are known, and that a collection is built anew with, against
  `add` of chromadb in equal batches with the same graph and with Chroma's own.
- graph: parameters of HNSW: recall@10 against exact search, milliseconds a query, seconds to build.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parents[2]))

import chromadb
import numpy as np
import psutil
from chromadb.config import Settings

from ragself import KnowledgeBase
from ragself.config import EncoderConfig
from ragself.console import progress
from ragself.encoders.encoder import Encoder
from ragself.engine.status import size
from ragself.lexical.hybrid_score import Query, match
from ragself.lexical.weights import Weights
from ragself.progress import Progress
from tests.benchmarks.corpora import (
    GRAPHS,
    Corpus,
    add,
    batches,
    collection,
    corpus,
    emptied,
    filled,
)
from tests.benchmarks.lines import RESULTS, Row, renew

K, DEPTH = 10, 100
SHOWN = ["documents", "metadatas", "distances"]
TRIED = ((16, 100, 100), (16, 200, 100), (32, 200, 200), (32, 100, 100))  # neighbors, ef_construction, ef_search
Way = Callable[[int], object]


def timed(ways: Mapping[str, Way], count: int, say: Progress) -> Iterator[Row]:
    """Milliseconds of each way for as many queries; the first of each, which opens things, aside."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(count + 1):
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            way(number)
            took[name].append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - processor)))
        say("queries", number, count)
    for name, times in took.items():
        wall, processor = np.array(times[1:]).T
        yield {
            "way": name,
            "p50 ms": round(float(np.median(wall)), 2),
            "p95 ms": round(float(np.quantile(wall, 0.95)), 2),
            "processor p50 ms": round(float(np.median(processor)), 2),
        }


def search(found: Corpus, arguments: argparse.Namespace, say: Progress) -> Iterator[Row]:
    """Times of search, and of its parts."""
    ours, plain = filled(arguments.work, found, say)
    query, count = lambda number: found.queries[number % len(found.queries)], arguments.queries
    with KnowledgeBase(ours) as kb, collection(plain, None) as other:
        encoder, view = kb.engine.store.base.encoder, kb.engine.store.lexical.view()

        def direct(number: int) -> object:
            vector = encoder.queries([query(number)])
            return other.query(query_embeddings=vector, n_results=K, include=SHOWN)

        def lexical(number: int) -> object:
            asked = Query.of(query(number), view)
            return match(asked, view, asked.candidates(view, Weights(), DEPTH)).parts(asked, Weights())

        asked = found.asked[:, None]
        ways: dict[str, Way] = {
            "encode": lambda number: encoder.queries([query(number)]),
            "plain Chroma, vector given": lambda number: other.query(
                query_embeddings=asked[number % len(asked)], n_results=K, include=SHOWN
            ),
            "encode and plain Chroma": direct,
            "mode vector": lambda number: kb.search(query(number), K, mode="vector"),
            "mode hybrid": lambda number: kb.search(query(number), K),
            "lexical part of hybrid": lexical,
        }
        rows = list(timed(ways, count, say))
    base = next(row for row in rows if row["way"] == "encode and plain Chroma")
    for row in rows:
        ratios = {f"times plain, {name}": round(row[name] / base[name], 3) for name in ("p50 ms", "p95 ms")}
        yield {**row, "queries": count, **ratios}


def memory(found: Corpus, arguments: argparse.Namespace, say: Progress) -> Iterator[Row]:
    """Memory and disk, each in a process of its own."""
    ours, plain = filled(arguments.work, found, say)
    parts = {
        "none": {},
        "plain Chroma": {"plain": plain},
        "mode vector": {},
        "mode hybrid": {
            name: ours / name for name in ("versions/0000/chroma", "lexical", "corpus.db", "cache.db")
        },
    }  # fmt: skip
    asked, count = ours.parent / "queries.json", len(found.chunks)
    asked.write_text(json.dumps(found.queries[:200]))
    rows: list[Row] = []
    for way, folders in parts.items():
        command = [sys.executable, __file__, "child", str(plain if way == "plain Chroma" else ours), "--way", way]
        done = subprocess.run([*command, "--asked", str(asked)], check=True, stdout=subprocess.PIPE)
        disk = {name: size(folder) for name, folder in folders.items()}
        rows.append({"way": way, **json.loads(done.stdout), "disk MB": {n: round(b / 1e6, 1) for n, b in disk.items()}})
        beside = {key: rows[-1][key] - rows[0][key] for key in ("rss MB", "rss MB without files")}
        yield {
            **rows[-1],
            "rss bytes a chunk": round(1e6 * beside["rss MB"] / count),
            "rss bytes a chunk without files": round(1e6 * beside["rss MB without files"] / count),
            "disk bytes a chunk": {name: round(each / count) for name, each in disk.items()},
        }


def child(folder: Path, way: str, queries: list[str]) -> None:
    """Ask all queries, and say what memory this process has then."""

    def told() -> None:
        found = psutil.Process().memory_info()
        shared = getattr(found, "shared", 0)
        print(json.dumps({"rss MB": found.rss / 1e6, "rss MB without files": (found.rss - shared) / 1e6}))

    if way.startswith("mode"):
        with KnowledgeBase(folder, create=False) as kb:
            for query in queries:
                kb.search(query, K, mode="hybrid" if way == "mode hybrid" else "vector")
            told()
        return
    encoder = Encoder(EncoderConfig())
    vectors = [encoder.queries([query]) for query in queries]
    if way == "plain Chroma":
        with collection(folder, None) as other:
            for vector in vectors:
                other.query(query_embeddings=vector, n_results=K, include=SHOWN)
            told()
        return
    told()


def insert(found: Corpus, arguments: argparse.Namespace, say: Progress) -> Iterator[Row]:
    """Documents a second, by batches in turns."""
    took: dict[str, list[float]] = {"ragself, add": [], **{f"Chroma, add, {graph}": [] for graph in GRAPHS}}

    def measure(way: str, do: Callable[[], object]) -> None:
        began = time.perf_counter()
        do()
        took.setdefault(way, []).append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory(dir=arguments.work) as scratch:
        place, names = Path(scratch), list(GRAPHS)
        with (
            emptied(place / "kb", found) as kb,
            collection(place / "same", names[0]) as same,
            collection(place / "other", names[1]) as other,
        ):
            assert kb.engine.store.base.encoder  # loaded, to tell what is too long for it
            for done, part in batches(found, arguments.batch):
                say("insert", done, len(found.chunks))
                measure("ragself, add", lambda part=part: kb.add(found.chunks[part]))
                for graph, each in zip(names, (same, other), strict=True):
                    measure(f"Chroma, add, {graph}", lambda part=part, each=each: add(each, found, part))
            say("insert", len(found.chunks), len(found.chunks))
            store = kb.engine.store
            measure("ragself, built anew", lambda: store.rebuild(store.registry.version(0), say))
    like = f"Chroma, add, {next(iter(GRAPHS))}"
    for way, seconds in took.items():
        yield {
            "way": way,
            "documents a second": round(len(found.chunks) / sum(seconds), 1),
            "times Chroma, same graph": round(sum(took[like]) / sum(seconds), 3),
            "last tenth, documents a second": round(
                arguments.batch / float(np.mean(seconds[-max(len(seconds) // 10, 1) :])), 1
            ) if len(seconds) > 10 else None,
        }  # fmt: skip


def graph(found: Corpus, arguments: argparse.Namespace, say: Progress) -> Iterator[Row]:
    """Recall and times of HNSW with other parameters, vectors alone."""
    count = min(arguments.queries, len(found.asked) - 1)
    exact = [set(np.argpartition(-(found.vectors @ vector), K - 1)[:K].tolist()) for vector in found.asked[: count + 1]]
    with tempfile.TemporaryDirectory(dir=arguments.work) as scratch:
        client: Any = chromadb.PersistentClient(scratch, Settings(anonymized_telemetry=False))
        made, seconds, shares = {}, {}, {tried: list[float]() for tried in TRIED}
        for tried in TRIED:
            hnsw = dict(zip(("max_neighbors", "ef_construction", "ef_search"), tried, strict=True))
            name, began = "-".join(map(str, tried)), time.perf_counter()
            made[tried] = client.create_collection(
                name, configuration={"hnsw": {"space": "cosine", **hnsw}}, embedding_function=None
            )
            for done, part in batches(found, 1000):
                say(f"build {tried}", done, len(found.chunks))
                made[tried].add(ids=[chunk.id for chunk in found.chunks[part]], embeddings=found.vectors[part])
            say(f"build {tried}", len(found.chunks), len(found.chunks))
            seconds[tried] = time.perf_counter() - began
        row_of = {chunk.id: row for row, chunk in enumerate(found.chunks)}

        def ask(tried: tuple[int, int, int], number: int) -> None:
            near = made[tried].query(query_embeddings=found.asked[number][None], n_results=K, include=["distances"])
            shares[tried].append(len(exact[number] & {row_of[id] for id in near["ids"][0]}) / K)

        ways = {str(tried): lambda number, tried=tried: ask(tried, number) for tried in TRIED}
        for tried, row in zip(TRIED, timed(ways, count, say), strict=True):
            recall = round(float(np.mean(shares[tried])), 4)
            yield {**row, "recall@10": recall, "build seconds": round(seconds[tried], 1), "queries": count}
        client.close()


PARTS = {"search": search, "memory": memory, "insert": insert, "graph": graph}


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "child"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--documents", type=int, default=0, help="how many are made up; 0: those of SciFact")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--batch", type=int, default=1000, help="documents that are inserted at once")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "hybrid.json")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--asked", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "child":
        child(arguments.data, arguments.way, json.loads(arguments.asked.read_text()))
        return
    made = arguments.work is None
    arguments.work = arguments.work or Path(tempfile.mkdtemp(prefix="ragself-hybrid-"))
    with progress() as say:
        found = corpus(arguments.data, arguments.work, arguments.documents, say)
        date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        told = {"part": arguments.part, "corpus": found.name, "documents": len(found.chunks)}
        rows = [{**told, **row, "date": date} for row in PARTS[arguments.part](found, arguments, say)]
    renew(arguments.out, rows, ("part", "corpus", "documents", "way"))
    for row in rows:
        print(json.dumps(row))
    if made:
        shutil.rmtree(arguments.work)


if __name__ == "__main__":
    main()

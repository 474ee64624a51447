"""What searching sees of learning in the background, and of switching, in one run.

    python tests/benchmarks/service.py DATA/scifact [--work FOLDER] [--rate 20] [--server]

One client asks DATA's test queries, `rate` a second, first for a minute while nothing else happens, then for as long as
a whole pass takes in a process of its own, from DATA's train queries (their labels are not used), then while versions
switch a hundred times between two collections, and a hundred times within one. Search is hybrid. Settings are such that
the pass ends with a switch (versions.py). Every answer is compared with what its version finds, and with which scores.
FOLDER keeps the encoded documents between runs. `--server` keeps the vectors on a Chroma server.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import psutil

from ragself import Chunk, KnowledgeBase
from ragself.background.runner import BackgroundAdaptation
from ragself.config import load
from tests.benchmarks.versions import PROMOTING, shared

QUIET = 60.0  # seconds
SWITCHES = 100


class Client:
    """Asks at a steady rate, in a thread, and keeps when it asked, how long it took and what came."""

    def __init__(self, kb: KnowledgeBase, queries: list[str], rate: float) -> None:
        self.seen: list[tuple[float, float, str, list[Any]]] = []
        self.errors: list[BaseException] = []
        self._kb, self._queries, self._gap = kb, queries, 1.0 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due, draw = time.perf_counter(), random.Random(0)
        while not self._stop.is_set():
            time.sleep(max(due - time.perf_counter(), 0.0))
            query, began = draw.choice(self._queries), time.perf_counter()
            try:
                hits = self._kb.search(query, 10)
                self.seen.append((began, time.perf_counter() - began, query, hits))
            except BaseException as error:
                self.errors.append(error)
            due = max(due + self._gap, time.perf_counter())

    def between(self, began: float, ended: float) -> dict[str, Any]:
        took = [seconds for at, seconds, *_ in self.seen if began <= at < ended]
        p50, p95, worst = (1000 * float(value) for value in np.quantile(took, [0.5, 0.95, 1.0]))
        return {"queries": len(took), "p50 ms": round(p50, 2), "p95 ms": round(p95, 2), "worst ms": round(worst, 1)}

    def mixed(self, truth: dict[tuple[int, str], dict[str, float]]) -> int:
        """Answers that are of no one version: of several, or with scores that documents do not have in theirs."""
        wrong = 0
        for *_, query, hits in self.seen:
            scores = truth[hits[0].version, query]
            one = all(hit.version == hits[0].version and near(hit.score, scores.get(hit.id)) for hit in hits)
            wrong += not one or len({hit.id for hit in hits}) != 10
        return wrong

    def inexact(self, truth: dict[tuple[int, str], dict[str, float]]) -> int:
        """Answers that lack one of the ten best: HNSW is approximate, and may find others when it is opened anew."""
        return sum(
            not near(hits[-1].score, sorted(truth[hits[0].version, query].values())[-10])
            for *_, query, hits in self.seen
        )


def near(score: float, other: float | None) -> bool:
    return other is not None and abs(score - other) < 1e-5


def read(data: Path) -> tuple[list[Chunk], list[str], list[str]]:
    """Documents, traffic and the queries that are asked."""
    rows = [json.loads(line) for line in (data / "corpus.jsonl").open()]
    chunks = [Chunk(row["_id"], f"{row['title']}\n{row['text']}".strip()) for row in rows]
    texts = {row["_id"]: row["text"] for row in map(json.loads, (data / "queries.jsonl").open())}
    traffic, asked = (
        list(
            dict.fromkeys(
                texts[line.split("\t")[0]] for line in (data / "qrels" / f"{split}.tsv").open().readlines()[1:]
            )
        )
        for split in ("train", "test")
    )
    return chunks, traffic, asked


def answers(kb: KnowledgeBase, queries: list[str]) -> dict[tuple[int, str], dict[str, float]]:
    """The hundred best of the live version, by query, with their scores."""
    found = [kb.search(query, 100) for query in queries]
    return {
        (hits[0].version, query): {hit.id: hit.score for hit in hits}
        for hits, query in zip(found, queries, strict=True)
    }


@contextmanager
def server(folder: Path, wanted: bool) -> Iterator[str | None]:
    if not wanted:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(5)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def measure(kb: KnowledgeBase, traffic: list[str], asked: list[str], rate: float) -> dict[str, Any]:
    truth = answers(kb, asked)
    background = BackgroundAdaptation(kb, traffic, every=3600)
    with Client(kb, asked, rate) as client:
        quiet = time.perf_counter()
        time.sleep(QUIET)
        learning = time.perf_counter()
        background.start()
        while background.status().passes == 0:
            assert background.status().error is None, background.status().error
            time.sleep(0.05)
        learned = time.perf_counter()
        background.stop()
        report = background.status().report
        assert report is not None and report.decision == "promote", report
        time.sleep(2)
    truth |= answers(kb, asked)
    held = next(event["held"] for event in reversed(kb.history()) if event["event"] == "promote")
    pairs = {"between collections": (0, 1), "within one": (1, shared(kb))}
    kb.rollback(pairs["within one"][1])
    truth |= answers(kb, asked)
    clients, switches = [], {}
    for name, pair in pairs.items():
        other, switches[name] = switching(kb, asked, rate, pair)
        clients.append(other)
    before, during = client.between(quiet, learning), client.between(learning, learned)
    p50, p95 = (round(during[f"{name} ms"] / before[f"{name} ms"], 3) for name in ("p50", "p95"))
    clients.append(client)
    return {
        "documents": kb.status().chunks,
        "quiet": before,
        "while a pass runs": during,
        "ratio": {"p50": p50, "p95": p95},
        "pass": {"seconds": round(learned - learning, 1), "stages": dict(report.seconds)},
        "switches": switches,
        "switch ms, at the end of the pass": round(1000 * held, 1),
        "errors": sum(len(each.errors) for each in clients),
        "answers of no one version": sum(each.mixed(truth) for each in clients),
        "answers that lack one of the ten best of their version": sum(each.inexact(truth) for each in clients),
    }


def switching(kb: KnowledgeBase, asked: list[str], rate: float, pair: tuple[int, int]) -> tuple[Client, dict[str, Any]]:
    """Who asks while two versions switch, and what that took."""
    if kb.status().live.number != pair[1]:
        kb.rollback(pair[1])
    took: list[float] = []
    turns: list[tuple[float, float, float]] = []
    moving: list[float] = []
    lost: list[list[int]] = []  # of each that took longer than it should: ms, stolen, collecting garbage
    collecting = Collecting()
    taken = kb.engine.store.turn.taken

    @contextmanager
    def timed(*arguments: float) -> Iterator[None]:
        with taken(*arguments):
            at, taken_away, collected = time.perf_counter(), steal(), collecting.seconds
            yield
            turns.append((time.perf_counter() - at, steal() - taken_away, collecting.seconds - collected))

    kb.engine.store.turn.taken = timed  # type: ignore[method-assign]
    client = Client(kb, asked, rate)
    with client:
        began = time.perf_counter()
        for number in range(SWITCHES):
            turns.clear()
            at = time.perf_counter()
            kb.rollback(pair[number % 2])
            took.append(time.perf_counter() - at)
            moving.append(turns[-1][0])  # the ones before it are for catching up
            if turns[-1][0] > 0.05:
                lost.append([round(1000 * value) for value in turns[-1]])
            time.sleep(0.2)
        ended = time.perf_counter()
    kb.engine.store.turn.taken = taken  # type: ignore[method-assign]
    return client, {
        "searches meanwhile": client.between(began, ended),
        "switch ms, nobody else changes anything": spread(moving),
        "slower than 50 ms: how long, of which the host took, and Python collected garbage": lost,
        "switch ms, catching up and opening what becomes live before it": spread(took),
    }


class Collecting:
    """Seconds in which Python looked for garbage."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0
        gc.callbacks.append(self._told)

    def _told(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._began


def steal() -> float:
    """Seconds that the processors of this virtual machine were given to others."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def spread(seconds: list[float]) -> dict[str, float]:
    p50, p95, worst = (round(1000 * float(value), 1) for value in np.quantile(seconds, [0.5, 0.95, 1.0]))
    return {"p50": p50, "p95": p95, "worst": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--server", action="store_true")
    arguments = parser.parse_args()
    chunks, traffic, asked = read(arguments.data)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with server(folder / "chroma", arguments.server) as url:
            kept = arguments.work / "cache.db" if arguments.work else None
            if kept and kept.exists():
                (folder / "kb").mkdir()
                shutil.copy(kept, folder / "kb" / "cache.db")
            with KnowledgeBase(folder / "kb", config=load(None, **PROMOTING, chroma=url)) as kb:
                kb.add(chunks, lambda *where: print(*where, end="\r", file=sys.stderr))
                if kept:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(folder / "kb" / "cache.db", kept)
                print(
                    json.dumps(
                        {"place": "server" if url else "folder", **measure(kb, traffic, asked, arguments.rate)},
                        indent=2,
                    )
                )


if __name__ == "__main__":
    main()

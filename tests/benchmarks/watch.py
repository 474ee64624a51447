"""`ragself watch` on a folder that changes all the time, while another process searches: what is lost, what fails.

    python tests/benchmarks/watch.py FOLDER [--seconds 3600]

FOLDER holds text files, of which a random selection is copied, changed and deleted every few seconds; the settings make
watch learn every few minutes, and most passes end with a switch to a new collection. At the end it is stopped with
SIGTERM, and what the knowledge base holds is compared with what the folder holds.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ragself import KnowledgeBase
from ragself.corpus.journal import Journal
from ragself.errors import RagselfError

SUFFIXES = ("", ".txt", ".md", ".rst", ".html")
SETTINGS = """[train]
adapters = ["residual"]
[gate]
gain = 0.0
confidence = 0.51
margin = 1.0
[teacher]
weight = 3.0
[queries]
log = true
[watch]
poll = 5
rest = 60
documents = 150
queries = 150
every = 900
"""
FIRST = 150  # files that are there when it begins
LEAST = 100  # below which none is deleted
STEP = 5.0  # seconds between two changes
LAST = 300.0  # seconds in which the last change must have been taken over


class Folder:
    """What is watched, and how it changes."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path, self.changes, self._draw = path, 0, random.Random(0)
        self._pool = [
            file
            for file in sorted(source.rglob("*"))
            if file.is_file() and file.suffix in SUFFIXES and 500 < file.stat().st_size < 60_000
        ]
        self._draw.shuffle(self._pool)
        path.mkdir()
        for _ in range(FIRST):
            self._add()

    def change(self) -> None:
        for _ in range(self._draw.randint(0, 4)):
            files = sorted(self.path.iterdir())
            match self._draw.choices(("add", "append", "delete"), (0.6, 0.25, 0.15))[0]:
                case "append":
                    file = self._draw.choice(files)
                    text = file.read_text(errors="ignore")
                    words = " ".join(self._draw.choices(text.split(), k=15))
                    file.write_text(f"{text}\n\nAppended {self.changes}: {words}\n")
                case "delete" if len(files) > LEAST:
                    self._draw.choice(files).unlink()
                case _:
                    self._add()
            self.changes += 1

    def _add(self) -> None:
        file = self._pool.pop()
        shutil.copyfile(file, self.path / f"{len(self._pool):05d}{file.suffix or '.txt'}")


class Searches(threading.Thread):
    """What this process asks while `watch`, in another, writes and learns."""

    def __init__(self, kb: Path, folder: Path) -> None:
        super().__init__()
        self.took: list[float] = []
        self.errors: Counter[str] = Counter()
        self.versions: set[int] = set()
        self.stop = threading.Event()
        self._kb, self._folder, self._draw = kb, folder, random.Random(1)

    def run(self) -> None:
        with KnowledgeBase(self._kb, create=False) as kb:
            while not self.stop.wait(0.7):
                query = self._query()
                began = time.perf_counter()
                try:
                    self.versions |= {hit.version for hit in kb.search(query, 5)}
                    self.took.append(time.perf_counter() - began)
                except Exception as error:
                    known = isinstance(error, RagselfError)
                    self.errors[f"{'' if known else 'unexpected '}{type(error).__name__}: {error}"[:200]] += 1

    def _query(self) -> str:
        while True:
            file = self._draw.choice(sorted(self._folder.iterdir()))
            try:
                words = file.read_text(errors="ignore").split()
            except FileNotFoundError:  # deleted meanwhile
                continue
            at = self._draw.randrange(max(len(words) - 8, 1))
            if words:
                return " ".join(words[at : at + self._draw.randint(3, 8)])


def taken_over(path: Path) -> set[str]:
    with closing(Journal(path / "corpus.db")) as journal:
        return set(journal.own_sources())


def measure(source: Path, seconds: float, scratch: Path) -> dict[str, Any]:
    path, folder = scratch / "kb", Folder(scratch / "docs", source)
    path.mkdir()
    (path / "ragself.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "ragself", "watch", str(folder.path), "--kb", str(path)]
    end, memory = time.time() + seconds, list[float]()
    with (scratch / "watch.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as watch:
        while not (path / "store.json").exists():
            time.sleep(1)
        searches = Searches(path, folder.path)
        searches.start()
        while time.time() < end:
            time.sleep(STEP)
            assert watch.poll() is None, (scratch / "watch.log").read_text()
            folder.change()
            memory.append(psutil.Process(watch.pid).memory_info().rss / 1e6)
        searches.stop.set()
        searches.join()
        files, changed = {str(file) for file in folder.path.iterdir()}, time.time()
        while time.time() < changed + LAST and taken_over(path) != files:
            time.sleep(1)
        behind = time.time() - changed
        watch.send_signal(signal.SIGTERM)
        code = watch.wait(120)
    sources = taken_over(path)
    with KnowledgeBase(path, create=False) as kb:
        passes = [event for event in kb.history() if "report" in event]
        p50, p95, worst = (round(float(value), 3) for value in np.quantile(searches.took, [0.5, 0.95, 1.0]))
        return {
            "seconds": seconds,
            "exit": code,
            "changes": folder.changes,
            "files": len(files),
            "files that are not searched": len(files - sources),
            "searched though they are gone": len(sources - files),
            "seconds until the last change was taken over": round(behind),
            "chunks": kb.status().chunks,
            "memory MB of watch, medians of six parts": [round(np.median(part)) for part in np.array_split(memory, 6)],
            "passes": dict(Counter(event["event"] for event in passes)),
            "searches": len(searches.took),
            "search s": {
                "p50": p50,
                "p95": p95,
                "worst": worst,
                "the first, which opens it": round(searches.took[0], 3),
            },
            "errors": dict(searches.errors),
            "warnings": [line for line in (scratch / "watch.log").read_text().splitlines() if "WARN" in line.upper()],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=3600)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(arguments.folder, arguments.seconds, Path(scratch)), indent=1))


if __name__ == "__main__":
    main()

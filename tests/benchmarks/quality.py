"""Retrieval quality of ragself and of what else one could do: the whole table, results/quality.json and .md.

    pip install -e ".[benchmarks]"
    python tests/benchmarks/quality.py DATA [--collections scifact ...] [--methods ragself cold crop ...] [--seeds 3]
        [--budget 60] [--generator URL-or-path] [--lm FOLDER] [--work FOLDER] [--out FILE] [--again]

    python tests/benchmarks/quality.py DATA --methods bm25 dense rrf linear untrained --work FOLDER

DATA holds BEIR folders. Labels are used for reporting only, the defaults are the same for all. Methods are `ragself`,
a pass with unlabelled queries, `cold`, a pass without any, `lora`, and, where a language model can be made, `distill`,
`dream` and `revela`, all in passes.py; and those in rivals.py. A row is kept as soon as it is measured; what is in FILE
is not measured again, unless --again is given. --work keeps vectors of the base model between runs. Everything at three
seeds takes some ten hours of a processor, most of it to embed collections anew with what rivals have trained; without
crop, ict and tsdae four; the second line, with vectors in FOLDER, a few minutes. FILE holds one row a line.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parents[2]))

from ragself.cli.bench import read
from ragself.console import duration, progress
from ragself.encoders.cache import VectorCache
from ragself.progress import Progress
from tests.benchmarks import passes, rivals
from tests.benchmarks.lines import RESULTS
from tests.benchmarks.rows import Rows
from tests.benchmarks.subject import TRAFFIC, Subject, folder_of

METHODS = (*passes.PASSES, *rivals.RIVALS)
TRAINED = ("adapter", "adapter-long", "crop", "ict", "tsdae", "questions")  # within the budget
PASS = 150.0  # seconds that one takes, roughly


@dataclass(frozen=True)
class Job:
    """What makes rows: one method on one collection with one seed."""

    collection: str
    method: str
    seed: int


class Runner:
    """Measures jobs one after the other."""

    def __init__(self, arguments: argparse.Namespace, work: Path, say: Progress) -> None:
        self._data, self._work, self._say = arguments.data, work, say
        self._lm = arguments.lm
        self._rivals = rivals.Rivals(arguments.budget, arguments.generator, work, say)
        self._subjects: dict[str, Subject] = {}

    def subject(self, name: str) -> Subject:
        """A collection, read once. Its base vectors are where passes keep theirs."""
        if name not in self._subjects:
            (self._work / name).mkdir(parents=True, exist_ok=True)
            cache = VectorCache(self._work / name / "cache.db")
            self._subjects[name] = Subject(read(folder_of(self._data, name, self._work), "test"), cache, self._say)
        return self._subjects[name]

    def forecast(self, job: Job) -> float:
        """Seconds that a job may take."""
        if job.method in passes.CAUSAL:
            return 3 * PASS
        return PASS if job.method in passes.PASSES else self._rivals.forecast(self.subject(job.collection), job.method)

    def measure(self, job: Job) -> list[dict[str, Any]]:
        """Rows of a job."""
        subject = self.subject(job.collection)
        if job.method in passes.PASSES:
            traffic = None if job.method == "cold" else TRAFFIC.get(job.collection)
            folder = folder_of(self._data, job.collection, self._work)
            kb, lm = self._work / job.collection, None
            if job.method in passes.CAUSAL:
                lm = self._lm or passes.language_model(subject, self._work / "lm" / job.collection)
            rows = passes.measure(folder, traffic, job.seed, kb, job.method, lm)
        else:
            rows = [{"method": job.method, **self._rivals.measure(subject, job.method, job.seed)}]
        shared = {"collection": job.collection, "seed": job.seed}
        return [{**shared, "documents": len(subject.texts), "queries": len(subject.asked), **row} for row in rows]


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--collections", nargs="+", default=list(TRAFFIC))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of training, each rival and seed")
    parser.add_argument("--generator", help="URL of a vLLM server, or name or path of a causal language model")
    parser.add_argument(
        "--lm", type=Path, help="folder of the language model of distill, dream and revela; default: made"
    )
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "quality.json")
    parser.add_argument("--again", action="store_true", help="measure these methods again, also where FILE has them")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="ragself-quality-"))
    work.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.INFO)  # libraries log every model they open
    command = f"python tests/benchmarks/quality.py DATA --seeds {arguments.seeds} --budget {arguments.budget:g}"
    rows = Rows(arguments.out, command, (*passes.NOTES, *rivals.NOTES))
    with progress() as say:
        _run(Runner(arguments, work, say), _jobs(arguments, rows), rows, arguments.budget)


def _jobs(arguments: argparse.Namespace, rows: Rows) -> list[Job]:
    """What was not measured yet: the first seed of everything first."""
    jobs = [
        Job(collection, method, seed)
        for seed in range(arguments.seeds)
        for collection in arguments.collections
        for method in METHODS
        if method in arguments.methods
        and (method != "questions" or arguments.generator)
        and (method not in ("ragself", "lora") or TRAFFIC.get(collection))
        and (method not in passes.CAUSAL or collection in passes.TITLED)
        and (method not in rivals.FREE or not seed)
    ]
    return [
        job
        for job in jobs
        if arguments.again or not rows.has(job.collection, job.method, job.seed, _budget(job.method, arguments.budget))
    ]


def _budget(method: str, seconds: float) -> float | None:
    return seconds if method in TRAINED else None


def _run(runner: Runner, jobs: Sequence[Job], rows: Rows, budget: float) -> None:
    for at, job in enumerate(jobs):
        left = sum(runner.forecast(other) for other in jobs[at:])
        _say(f"[{at + 1}/{len(jobs)}] {job.collection} {job.method} seed {job.seed}; about {duration(left)} left")
        date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        try:
            measured = runner.measure(job)
        except subprocess.CalledProcessError:  # it has said why: so that one that may not learn costs no other its row
            _say(f"{job.collection} {job.method} seed {job.seed}: the pass ended with an error; it has no row")
            continue
        for row in measured:
            rows.add({**row, "budget": _budget(row["method"], budget), "date": date})
            _say(f"{job.collection} {row['method']} seed {job.seed}: nDCG@10 {row['ndcg@10']:.4f}, "
                 f"learning {row['train_seconds']} s, encoding {row['encode_seconds']} s")  # fmt: skip


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

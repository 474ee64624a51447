"""Is the gate honest? Candidates of good and bad teachers go before it; labels that it never sees tell the truth.

    python tests/benchmarks/honesty.py DATA [--seeds 2] [--work FOLDER] [--collections scifact ...] [--teachers ...]

A run is one collection, one teacher, one kind of adapter and one seed. Teachers: `counted` words as they are; `heavy`,
the same at a weight of 10; `noisy`, with noise of 1.5 standard deviations on each gain; `shuffled`, gains of other
candidates; `against`, gains with the sign turned; and the last three `unseen`, at the usual weight, as if calibration
had not noticed. Candidates are chosen and judged by the same bad teacher, as they would be. Told are, for all runs,
what the gate decided and by how much nDCG@10 on the test split truly changed, with a paired 95 % interval; and two
confusion tables: of passes as they are, and of those whose calibration noticed nothing. FOLDER keeps the encoded
vectors between runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from ragself import KnowledgeBase
from ragself.cli.bench import Collection, _traffic, read
from ragself.learn.calibrate import WEIGHT, weigh
from ragself.learn.choose import choose, confirm
from ragself.learn.metrics import Values, bootstrap, ndcg, relevance_of
from ragself.learn.probes import make
from ragself.learn.students import lexicon_of, teach, untrained
from ragself.learn.study import Study, study
from ragself.models.adapter import Adapter
from ragself.models.ngram import NgramScorer
from tests.benchmarks.subject import TRAFFIC

COLLECTIONS = ("scifact", "nfcorpus", "cosqa", "cranfield", "med", "xquad")
UNSEEN = " unseen"
TEACHERS = (
    "counted",
    "heavy",
    "noisy",
    "shuffled",
    "against",
    *(f"{t}{UNSEEN}" for t in ("noisy", "shuffled", "against")),
)
ADAPTERS = ("untrained", "hybrid", "residual")
HEAVY, NOISE = 10.0, 1.5
GAIN = 0.01  # a point of nDCG@10, which the gate should see
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--collections", nargs="*", default=list(COLLECTIONS))
    parser.add_argument("--teachers", nargs="*", choices=TEACHERS, default=list(TEACHERS))
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="ragself-honesty-"))
    rows: list[dict[str, Any]] = []
    for name in arguments.collections:
        for row in runs(arguments.data / name, TRAFFIC[name], work / name, arguments.seeds, arguments.teachers):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    table = {
        "as they are": confusion([row for row in rows if not row["teacher"].endswith(UNSEEN)]),
        "unseen": confusion([row for row in rows if row["teacher"].endswith(UNSEEN)]),
    }
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    command = f"python tests/benchmarks/honesty.py DATA --seeds {arguments.seeds}"
    RESULTS.mkdir(exist_ok=True)
    told = {"date": date, "command": command, "confusion": table, "runs": rows}
    (RESULTS / "honesty.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(table, indent=1))


def runs(
    directory: Path, traffic: str | None, folder: Path, seeds: int, teachers: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """All runs of one collection."""
    collection, asked = read(directory, "test"), _traffic(directory, traffic)
    with KnowledgeBase(folder) as kb:
        kb.add(collection.chunks)
        config, base = kb.config, kb.store().base
        truth = Truth(collection, kb)
        for seed in range(seeds):
            probes = make(collection.chunks, asked, config.probes, seed, need=config.gate.min_probes).probes
            lesson = study(probes, collection.chunks, base, None, NgramScorer, config.teacher, seed)
            settings = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            lexicon = lexicon_of(lesson)
            for teacher in teachers:
                taught = misled(lesson, teacher.removesuffix(UNSEEN), seed)
                forced = HEAVY if teacher == "heavy" else WEIGHT if teacher.endswith(UNSEEN) else None
                weight = forced or weigh(taught, lexicon, settings, counted=True).weight
                if not weight:  # the pass ends here: nothing is trained, and nothing goes before the gate
                    yield run_of(directory.name, teacher, "none", seed, weight)
                for kind in ADAPTERS if weight else ():
                    began = time.perf_counter()
                    rows = taught.rows("train")
                    rows = rows[taught.judged[0][rows]]
                    adapter: Adapter
                    if kind == "untrained":
                        if seed:  # nothing in it is drawn, but the judges are
                            continue
                        adapter = untrained(lesson, lexicon, weight, config.train.sketch)
                    elif len(rows) < config.probes.min_train:
                        continue
                    else:
                        adapter = teach(kind, taught, rows, lexicon, weight, settings.train)
                    best = choose(taught, {kind: adapter}, None, weight, config.gate)
                    decision = confirm(taught, best.adapter, None, weight, config.gate, 0)
                    change = bootstrap(truth.of(best.adapter) - truth.of(None), 0.95)
                    yield run_of(
                        directory.name,
                        teacher,
                        kind,
                        seed,
                        weight,
                        candidate=best.name,
                        promoted=decision.promote,
                        reason=decision.reason,
                        change=round(change.mean, 4),
                        low=round(change.low, 4),
                        high=round(change.high, 4),
                        seconds=round(time.perf_counter() - began, 1),
                    )


def run_of(collection: str, teacher: str, adapter: str, seed: int, weight: float, **found: Any) -> dict[str, Any]:
    """A row; one without a candidate changes nothing."""
    nothing = {"candidate": None, "promoted": False, "reason": "the likelihood helps nothing", "change": 0.0}
    row = {"collection": collection, "teacher": teacher, "adapter": adapter, "seed": seed, "weight": weight}
    return {**row, **nothing, "low": 0.0, "high": 0.0, "seconds": 0.0, **found}


class Truth:
    """nDCG@10 of each test query, which nothing but the table sees."""

    def __init__(self, collection: Collection, kb: KnowledgeBase) -> None:
        base = kb.store().base
        self._ids = np.array([chunk.id for chunk in collection.chunks])
        self._qrels = list(collection.qrels.values())
        self._texts, self._asked = [chunk.text for chunk in collection.chunks], list(collection.queries.values())
        self._documents, self._queries = base.documents(self._texts), base.queries(self._asked)
        self._base = self.of(None)

    def of(self, adapter: Adapter | None) -> Values:
        if adapter is None and hasattr(self, "_base"):
            return self._base
        queries, documents = self._queries, self._documents
        if adapter is not None:
            queries, documents = adapter.queries(queries, self._asked), adapter.documents(documents, self._texts)
        order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :10]
        relevance, ideal, _ = relevance_of([self._ids[row].tolist() for row in order], self._qrels, 10)
        return ndcg(relevance, ideal, 10)


def misled(lesson: Study, teacher: str, seed: int) -> Study:
    """The study as a bad teacher sees it."""
    if teacher in ("counted", "heavy"):
        return lesson
    draw, gains = np.random.default_rng(seed), lesson.gains.copy()
    finite = np.isfinite(gains)
    if teacher == "noisy":
        gains[finite] += NOISE * gains[finite].std() * draw.normal(size=int(finite.sum()))
    elif teacher == "against":
        gains[finite] *= -1
    else:
        for row, known in zip(gains, finite, strict=True):
            row[known] = draw.permutation(row[known])
    return replace(lesson, gains=gains.astype(np.float32))


def confusion(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs by truth and decision. Worse and better are beyond the interval; `gain` is a point of nDCG@10 or more."""
    truths = {
        "worse": lambda row: row["high"] < 0,
        "within the interval": lambda row: row["low"] <= 0 <= row["high"],
        "better": lambda row: row["low"] > 0,
        "gain": lambda row: row["change"] >= GAIN,
    }
    promoted = [row for row in rows if row["promoted"]]
    table: dict[str, Any] = {
        name: {"promoted": sum(map(is_so, promoted)), "runs": sum(map(is_so, rows))} for name, is_so in truths.items()
    }
    harmful, gain = table["worse"], table["gain"]
    return {
        "runs": len(rows),
        "promoted": len(promoted),
        **table,
        "of promoted, worse": round(harmful["promoted"] / max(len(promoted), 1), 3),
        "of gains, promoted": round(gain["promoted"] / max(gain["runs"], 1), 3),
    }


if __name__ == "__main__":
    main()

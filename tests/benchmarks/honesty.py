"""Is the gate honest? Candidates of good and bad teachers go before it; labels that it never sees tell the truth.

    python tests/benchmarks/honesty.py DATA [--seeds 2] [--work FOLDER] [--collections scifact ...] [--teachers ...]

A run is one collection, one teacher, one kind of candidate and one seed. Teachers: `counted` words as they are;
`heavy`, the same at a weight of 10; `noisy`, with noise of 1.5 standard deviations on each gain; `shuffled`, gains of
other candidates; `against`, gains with the sign turned; and the last three `unseen`, at the usual weight, as if
calibration had not noticed. Candidates: `weights`, `residual`, and `fusion weights`, which known items choose and the
teacher only judges. They are chosen and judged by the same bad teacher, as they would be. Told are, for all runs, what
the gate decided and by how much nDCG@10 of hybrid search on the test split truly changed, with a paired 95 % interval;
and two confusion tables: of passes as they are, and of those whose calibration noticed nothing. FOLDER keeps the
encoded vectors between runs. results/honesty.json holds one run a line; the tables are printed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.ranking import Ranking
from ragself.cli.bench import _top, _traffic, read
from ragself.config import Config
from ragself.encoders.cache import VectorCache
from ragself.evaluation.calibration import COUNTED, weigh
from ragself.evaluation.metrics import Values, bootstrap, ndcg, relevance_of
from ragself.evaluation.selection import choose, confirm
from ragself.lexical.weights import Weights
from ragself.lm.ngram import NgramScorer
from ragself.probes.dataset import Dataset, build_dataset
from ragself.probes.probes import make
from ragself.training.fusion import fusion_weights
from ragself.training.train_candidate import train_candidate
from tests.benchmarks import lines
from tests.benchmarks.subject import TRAFFIC, Subject, folder_of

COLLECTIONS = ("scifact", "nfcorpus", "cosqa", "cranfield", "med", "xquad")
UNSEEN = " unseen"
BAD = ("noisy", "shuffled", "against")
TEACHERS = ("counted", "heavy", *BAD, *(f"{teacher}{UNSEEN}" for teacher in BAD))
KINDS = ("weights", "residual", "fusion weights")
HEAVY, NOISE = 10.0, 1.5
GAIN = 0.01  # a point of nDCG@10, which the gate should see


def main() -> None:
    """Measure, and write after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--collections", nargs="*", default=list(COLLECTIONS))
    parser.add_argument("--teachers", nargs="*", choices=TEACHERS, default=list(TEACHERS))
    parser.add_argument("--out", type=Path, default=lines.RESULTS / "honesty.json")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="ragself-honesty-"))
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    rows: list[lines.Row] = []
    began = time.perf_counter()
    for done, name in enumerate(arguments.collections):
        (work / name).mkdir(parents=True, exist_ok=True)
        folder, cache = folder_of(arguments.data, name, work), VectorCache(work / name / "cache.db")
        subject = Subject(read(folder, "test"), cache, lambda *_: None)
        for row in runs(subject, name, _traffic(folder, TRAFFIC[name]), arguments.seeds, arguments.teachers):
            rows.append({**row, "date": date})
            print(json.dumps(row), file=sys.stderr, flush=True)
            lines.write(arguments.out, rows)
        seconds = time.perf_counter() - began
        left = seconds / (done + 1) * (len(arguments.collections) - done - 1)
        print(f"{done + 1}/{len(arguments.collections)} collections, about {left:.0f} s left", file=sys.stderr)
    table = {
        "as they are": confusion([row for row in rows if not row["teacher"].endswith(UNSEEN)]),
        "unseen": confusion([row for row in rows if row["teacher"].endswith(UNSEEN)]),
    }
    print(json.dumps(table, indent=1))


def runs(
    subject: Subject, name: str, asked: list[str], seeds: int, teachers: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """All runs of one collection."""
    config, chunks, truth = Config(), subject.collection.chunks, Truth(subject)
    for seed in range(seeds):
        probes = make(chunks, asked, config.probes, seed, need=config.gate.min_probes).probes
        dataset = build_dataset(probes, chunks, subject.vectors, Ranking(), NgramScorer, config.teacher, seed)
        settings = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
        fusion = fusion_weights(dataset, known_items(dataset), config.gate.confidence)  # no teacher has a say in them
        for teacher in teachers:
            taught = misled(dataset, teacher.removesuffix(UNSEEN), seed)
            forced = HEAVY if teacher == "heavy" else COUNTED if teacher.endswith(UNSEEN) else None
            weight = forced or weigh(taught, settings, counted=True).weight
            if not weight:  # the pass ends here: nothing is trained, and nothing goes before the gate
                yield run_of(name, teacher, "none", seed, weight)
            for kind in KINDS if weight else ():
                began = time.perf_counter()
                ranking = candidate(taught, kind, weight, settings, fusion)
                if ranking is None:
                    continue
                best = choose(taught, {kind: ranking}, Ranking(), weight, config.gate)
                decision = confirm(taught, best.ranking, Ranking(), weight, config.gate, 0)
                change = bootstrap(truth.of(best.ranking) - truth.untrained, 0.95)
                yield run_of(
                    name,
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


def known_items(dataset: Dataset) -> NDArray[np.int64]:
    """Rows that fusion weights are found by, as in a pass."""
    return np.concatenate([dataset.rows("train"), dataset.rows("select")])


def candidate(taught: Dataset, kind: str, weight: float, config: Config, fusion: Weights | None) -> Ranking | None:
    """A ranking of a kind; None where there is nothing to learn it from."""
    if kind == "fusion weights":
        return None if fusion is None else Ranking(None, fusion)
    rows = taught.rows("train")
    rows = rows[taught.judged[0][rows]]
    return train_candidate(kind, taught, rows, weight, config.train) if len(rows) >= config.probes.min_train else None


def run_of(collection: str, teacher: str, kind: str, seed: int, weight: float, **found: Any) -> dict[str, Any]:
    """A row; one without a candidate changes nothing."""
    nothing = {"candidate": None, "promoted": False, "reason": "the likelihood helps nothing", "change": 0.0}
    row = {"collection": collection, "teacher": teacher, "kind": kind, "seed": seed, "weight": weight}
    return {**row, **nothing, "low": 0.0, "high": 0.0, "seconds": 0.0, **found}


class Truth:
    """nDCG@10 of each test query by hybrid search, which nothing but the table sees.

    Attributes:
        untrained: Of the ranking that nothing was learned for.
    """

    def __init__(self, subject: Subject) -> None:
        """Rank without anything learned."""
        self._subject, self._qrels = subject, list(subject.collection.qrels.values())
        self.untrained = self.of(Ranking())

    def of(self, ranking: Ranking) -> Values:
        """The same of a ranking, in the order of the queries."""
        subject, cosines = self._subject, self._subject.dense
        if ranking.adapter is not None:
            queries, documents = subject.base(subject.asked, "queries"), subject.base(subject.texts, "documents")
            cosines = ranking.adapter.queries(queries, subject.asked)
            cosines = cosines @ ranking.adapter.documents(documents, subject.texts).T
        found = _top(subject.law.scores(cosines, ranking), subject.ids)
        return ndcg(*relevance_of(found, self._qrels, 10)[:2], 10)


def misled(dataset: Dataset, teacher: str, seed: int) -> Dataset:
    """The study as a bad teacher sees it."""
    if teacher in ("counted", "heavy"):
        return dataset
    draw, gains = np.random.default_rng(seed), dataset.gains.copy()
    finite = np.isfinite(gains)
    if teacher == "noisy":
        gains[finite] += NOISE * gains[finite].std() * draw.normal(size=int(finite.sum()))
    elif teacher == "against":
        gains[finite] *= -1
    else:
        for row, known in zip(gains, finite, strict=True):
            row[known] = draw.permutation(row[known])
    return replace(dataset, gains=gains.astype(np.float32))


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

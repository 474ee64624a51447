"""How the constants of the ranking law were chosen: nDCG@10 with each of them changed. Writes results/law.json.

    python tests/benchmarks/law.py DATA [--collections scifact ...] [--variants "as it is" ...] [--work FOLDER]

DATA holds BEIR folders, FOLDER the vectors of the base model, as of quality.py; `codes` is a collection of made-up
texts, which are alike but for an error code that the query asks for. Nothing is trained. A variant changes one constant
of `ragself.lexical.hybrid_score` or of the weights, and all others stay; bm25, dense, rrf and linear stand beside them.
Cosines of the encoders `E5-like 1` and `2` lie close together, as those of E5 do: a constant vector of that length is
added to each vector of the base model, and the sum normalised. For them the law has its own unit, and, for comparison,
that of the base model. Development was on scifact, nfcorpus, cosqa, cranfield, med, xquad and codes.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from numpy.typing import NDArray

from ragself import Chunk
from ragself.adapters.protocol import normalise
from ragself.adapters.ranking import Ranking
from ragself.cli.bench import Collection, Law, _measure, _top, linear, read, rrf
from ragself.console import progress
from ragself.encoders.cache import VectorCache
from ragself.encoders.spread import unit
from ragself.encoders.vectors import BaseVectors
from ragself.lexical import hybrid_score as law
from ragself.lexical.view import View
from ragself.lexical.weights import BM25, LANGUAGE_MODEL, Weights
from ragself.progress import Progress
from tests.benchmarks.lines import RESULTS, Row, renew
from tests.benchmarks.subject import TRAFFIC, Subject, folder_of

COLLECTIONS = (*TRAFFIC, "codes")
STRENGTHS = (1.0, 2.0)  # of the constant vector
AS_IT_IS = "as it is"
PARTS = ("pump", "valve", "gasket", "rotor", "bearing", "filter", "hose", "clamp", "sensor", "relay")
Change = Callable[[], AbstractContextManager[Any]]


def constants(**values: float) -> Change:
    """Other constants of the law, by their names."""
    return lambda: patch.multiple(law, **values)


@contextmanager
def plainly_counted() -> Iterator[None]:
    """All known words of a query are among its n, stop words too."""
    of = law.Query.of

    def counted(text: str, corpus: View) -> law.Query:
        found = of(text, corpus)
        return replace(found, informative=max(float(found.times.sum()), 1.0))

    with patch.object(law.Query, "of", counted):
        yield


CHANGES: dict[str, Change] = {
    AS_IT_IS: ExitStack,
    "length of L: 0": constants(_LENGTH=0.0),
    "length of L: .5": constants(_LENGTH=0.5),
    "length of L: 1": constants(_LENGTH=1.0),
    "s: always 1": constants(_LEAST=1.0, _MOST=1.0),
    "s: absolute gap alone": constants(_RELATIVE_POWER=0.0),
    "s: relative gap alone": constants(_GAP_POWER=0.0),
    "s: half the powers": constants(_GAP_POWER=law._GAP_POWER / 2, _RELATIVE_POWER=law._RELATIVE_POWER / 2),
    "s: one and a half times the powers": constants(
        _GAP_POWER=law._GAP_POWER * 1.5, _RELATIVE_POWER=law._RELATIVE_POWER * 1.5
    ),
    "s: no limits": constants(_LEAST=0.0, _MOST=math.inf),
    "s: at least .6": constants(_LEAST=0.6),
    "s: at least 1": constants(_LEAST=1.0),
    "s: at most 2": constants(_MOST=2.0),
    "s: at most 5": constants(_MOST=5.0),
    "n: all words": plainly_counted,
    "stop words: none": constants(COMMON=2.0),
    "stop words: in a tenth": constants(COMMON=0.1),
    "pairs: none": constants(NU=1e9),
    "nu: 50": constants(NU=50.0),
    "nu: 200": constants(NU=200.0),
    "mu: 100": constants(MU=100.0),
    "mu: 400": constants(MU=400.0),
}
WEIGHTS: dict[str, Weights] = {
    **{f"a: {a:g}": Weights(a, BM25) for a in (0.0, 0.05, 0.08, 0.15, 0.2)},
    **{f"b: {b:g}": Weights(LANGUAGE_MODEL, b) for b in (0.0, 0.01, 0.03, 0.05)},
}
VARIANTS = (*CHANGES, *WEIGHTS)


class Shifted(BaseVectors):
    """An encoder with a constant vector added to each of its vectors."""

    def __init__(self, base: BaseVectors, strength: float) -> None:
        """Draw the vector, which has the length `strength`."""
        self._base, self.dimension = base, base.dimension
        drawn = np.random.default_rng(0).normal(size=(1, base.dimension)).astype(np.float32)
        self._constant = strength * normalise(drawn)

    def documents(self, texts: Sequence[str], progress: Progress = lambda *_: None) -> NDArray[np.float32]:
        """Vectors of documents, (len(texts), dimension) float32, normalised."""
        return normalise(self._base.documents(texts, progress) + self._constant)

    def queries(self, texts: Sequence[str], progress: Progress = lambda *_: None) -> NDArray[np.float32]:
        """The same of queries."""
        return normalise(self._base.queries(texts, progress) + self._constant)


def codes(count: int = 300, asked: int = 100) -> Collection:
    """Texts that are alike but for an error code, and a query for each of the first."""
    draw = random.Random(1)
    numbers = draw.sample(range(1000, 9999), count)
    chunks = [
        Chunk(
            str(row),
            f"Error {number}: the {PARTS[row % 10]} of unit {row % 12} does not answer. Switch it off, wait a minute, "
            f"check the {PARTS[(row * 3 + 1) % 10]} and start again.",
        )
        for row, number in enumerate(numbers)
    ]
    queries = {str(row): f"what does error {number} mean" for row, number in enumerate(numbers[:asked])}
    return Collection(chunks, queries, {id: {id: 1} for id in queries})


def measured(subject: Subject, name: str, variants: Sequence[str], encoders: bool, say: Progress) -> Iterator[Row]:
    """Rows of one collection."""

    def row(encoder: str, method: str, scores: NDArray[Any]) -> Row:
        ranking = _top(scores, subject.ids)
        found = _measure(ranking, list(subject.collection.qrels.values()))
        first = [ids[0] in judged for ids, judged in zip(ranking, subject.collection.qrels.values(), strict=True)]
        told = {"collection": name, "encoder": encoder, "method": method, "queries": len(subject.asked)}
        return {**told, **found, "first is right": round(float(np.mean(first)), 4)}

    def others(encoder: str, cosines: NDArray[np.float32]) -> Iterator[Row]:
        yield row(encoder, "dense", cosines)
        yield row(encoder, "rrf", rrf(subject.lexical, cosines))
        yield row(encoder, "linear", linear(subject.lexical, cosines))

    yield row("base", "bm25", subject.lexical)
    yield from others("base", subject.dense)
    own = unit(subject.vectors)
    for done, variant in enumerate(variants):
        say(f"variants on {name}", done + 1, len(variants))
        with CHANGES.get(variant, ExitStack)():
            of = Law(subject.texts, subject.asked, own)
            yield row("base", variant, of.scores(subject.dense, Ranking(None, WEIGHTS.get(variant, Weights()))))
    for strength in STRENGTHS if encoders else ():
        encoder, shifted = f"E5-like {strength:g}", Shifted(subject.vectors, strength)
        cosines = shifted.queries(subject.asked) @ shifted.documents(subject.texts).T
        yield from others(encoder, cosines)
        for method, each in ((AS_IT_IS, unit(shifted)), ("unit of the base model", own)):
            scores = Law(subject.texts, subject.asked, each).scores(cosines, Ranking())
            yield {**row(encoder, method, scores), "unit": round(each, 3)}


def table(rows: Sequence[Row]) -> str:
    """Methods by collections, nDCG@10, and the mean over them."""
    names = list(dict.fromkeys(row["collection"] for row in rows))
    found = {(row["encoder"], row["method"], row["collection"]): row["ndcg@10"] for row in rows}
    told = [f"{'':44}" + "".join(f"{name:>10}" for name in [*names, "mean"])]
    for encoder, method in dict.fromkeys((row["encoder"], row["method"]) for row in rows):
        values = [found.get((encoder, method, name), math.nan) for name in names]
        told.append(f"{encoder + ', ' + method:44}" + "".join(f"{v:10.4f}" for v in [*values, float(np.mean(values))]))
    return "\n".join(told)


def main() -> None:
    """Measure, and write after each collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--collections", nargs="+", default=list(COLLECTIONS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--base-only", action="store_true", help="without the E5-like encoders")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "law.json")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="ragself-law-"))
    rows: list[Row] = []
    with progress() as say:
        for name in arguments.collections:
            (work / name).mkdir(parents=True, exist_ok=True)
            collection = codes() if name == "codes" else read(folder_of(arguments.data, name, work), "test")
            subject = Subject(collection, VectorCache(work / name / "cache.db"), say)
            found = list(measured(subject, name, arguments.variants, not arguments.base_only, say))
            rows += found
            renew(arguments.out, found, ("collection", "encoder", "method"))
    print(table(rows))


if __name__ == "__main__":
    main()

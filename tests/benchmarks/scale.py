"""Memory and time of learning at 100,000 documents and a vocabulary of 30,000 words.

    python tests/benchmarks/scale.py [--documents 100000] [--probes 4000]

Documents and their base vectors are made up, so that only ragself's own work is measured: candidates, likelihoods,
training weights and a residual, mapping every document. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from ragself.adapters.ranking import Ranking
from ragself.config import GateConfig, TeacherConfig, TrainConfig
from ragself.evaluation.calibration import COUNTED
from ragself.evaluation.judge import judge
from ragself.lm.ngram import NgramScorer
from ragself.probes.dataset import build_dataset
from ragself.schema import Chunk, Probe
from ragself.training.train_candidate import train_candidate

DIMENSION = 384


class MadeUpVectors:
    """Random unit vectors instead of an encoder's."""

    dimension = DIMENSION

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def documents(self, texts, progress=None):
        vectors = self._random.standard_normal((len(texts), DIMENSION), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    queries = documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--probes", type=int, default=4000)
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    vocabulary = np.array([f"w{number}" for number in range(30_000)])
    law = 1.0 / np.arange(1, len(vocabulary) + 1)
    law /= law.sum()
    chunks = [
        Chunk(str(number), " ".join(random.choice(vocabulary, 100, p=law)), {}) for number in range(arguments.documents)
    ]
    probes = [
        Probe(
            str(n), " ".join(random.choice(vocabulary, 8, p=law)), "", "traffic", None, "train" if n % 5 else "select"
        )
        for n in range(arguments.probes)
    ]
    probes = [Probe(p.id, p.text, p.text, p.kind, p.source, p.split) for p in probes]
    start_memory = _memory()
    seconds: dict[str, float] = {}

    began = time.perf_counter()
    dataset = build_dataset(probes, chunks, MadeUpVectors(), Ranking(), NgramScorer, TeacherConfig(), 0)
    seconds["candidates and likelihoods"] = time.perf_counter() - began
    rankings = [Ranking()]
    for kind in ("weights", "residual"):
        began = time.perf_counter()
        rankings.append(train_candidate(kind, dataset, dataset.rows("train"), COUNTED, TrainConfig()))
        seconds[f"train {kind}"] = time.perf_counter() - began
    began = time.perf_counter()
    judge(dataset, dataset.rows("select")[:200], rankings, COUNTED, GateConfig())
    seconds["map and judge"] = time.perf_counter() - began
    print(
        json.dumps(
            {
                "documents": arguments.documents,
                "probes": arguments.probes,
                "words of the probes": len(dataset.words.terms),
                "memory of the corpus itself, GB": round(start_memory, 2),
                "peak memory, GB": round(_memory(), 2),
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
            },
            indent=2,
        )
    )


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()

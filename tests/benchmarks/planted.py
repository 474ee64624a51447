"""Does the signal arrive? A language model that copies, planted answers, and the whole path from HTTP to the teacher.

    python tests/benchmarks/planted.py [--url URL] [--local] [--documents 400] [--probes 200]

Trains the copying model of tests/language_models.py (made-up words, so that nothing can be known beforehand), serves it
with the vLLM of .venv-vllm or VLLM_PYTHON unless --url names a server of it or --local loads it in this process, and
asks for documents by a few words that only one of them holds together: half of the probes in the document's order, half
scattered. Told is how often the planted document comes first among its candidates: by the base model, by the untrained
ranking, by the likelihood gain alone, and by the teacher after filters, for which a probe that the filters drop counts
as missed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from ragself import Chunk, KnowledgeBase
from ragself.adapters.ranking import Ranking
from ragself.evaluation.calibration import WEIGHT
from ragself.probes.dataset import Dataset, build_dataset
from ragself.probes.supervision import scored, supervise
from ragself.probes.targets import gain_weights, target_distribution
from ragself.schema import Probe
from tests.integration.vllm_server import VllmServer
from tests.language_models import copying_model

SYLLABLES = [
    "fe",
    "gu",
    "hi",
    "ja",
    "ko",
    "lo",
    "mi",
    "na",
    "pe",
    "qua",
    "ro",
    "sha",
    "ti",
    "vu",
    "wy",
    "xe",
    "yo",
    "ze",
]
NOTES = [
    "The {} valve on the {} line is set to {} and checked by {} before the {} shift. Spare parts are in the {} store.",
    "Customers of the {} plan may move to {} within a {}; the {} desk keeps the {} form and the {} fee is waived.",
    "When {} reports {}, restart the {} service first, then clear the {} queue and tell {} that the {} run was late.",
    "Every {} sample goes through {} and {} before {} signs it. Without the {} seal it is sent back to {}.",
]


def corpus(documents: int, probes: int, seed: int) -> tuple[list[Chunk], list[Probe], list[str]]:
    """Notes that look alike but for their jargon, each word of which is in several; probes; the note of each probe."""
    draw = random.Random(seed)
    jargon = ["".join(draw.choices(SYLLABLES, k=draw.randint(3, 4))) for _ in range(2 * documents)]
    held = [draw.sample(jargon, 6) for _ in range(documents)]
    chunks = [Chunk(f"d{number}", draw.choice(NOTES).format(*words)) for number, words in enumerate(held)]
    made, answers = [], []
    for number, source in enumerate(draw.sample(range(documents), probes)):
        count = draw.randint(3, 4)
        start = draw.randrange(6 - count + 1)
        query = " ".join(held[source][start : start + count] if number % 2 else draw.sample(held[source], count))
        made.append(Probe(f"{number:08x}", query, query, "traffic", None, "train"))
        answers.append(f"d{source}")
    return chunks, made, answers


def first(scores: np.ndarray, planted: np.ndarray) -> np.ndarray:
    """Whether the planted candidate is better than all others."""
    own = np.where(planted, scores, -np.inf).max(axis=1)
    return own > np.where(planted, -np.inf, scores).max(axis=1)


def shares(dataset: Dataset, answers: list[str], chunks: list[Chunk]) -> dict[str, float]:
    """Share of probes whose planted document is first, by each judge."""
    row_of = {chunk.id: row for row, chunk in enumerate(chunks)}
    planted = dataset.candidates == np.array([row_of[answer] for answer in answers])[:, None]
    law_of = target_distribution(dataset.gains, dataset.untrained, gain_weights(WEIGHT, dataset.lengths), dataset.tau)
    teacher = first(law_of, planted) & dataset.judged[0]
    odd = np.arange(len(answers)) % 2 == 1
    return {
        "planted among candidates": float((planted & np.isfinite(dataset.gains)).any(axis=1).mean()),
        "base model": float(first(dataset.cosines, planted).mean()),
        "untrained ranking": float(first(dataset.untrained, planted).mean()),
        "likelihood gain": float(first(dataset.gains, planted).mean()),
        "teacher": float(teacher.mean()),
        "teacher, words in order": float(teacher[odd].mean()),
        "teacher, words scattered": float(teacher[~odd].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        began = time.perf_counter()
        where = arguments.url
        if where is None:
            where = str(copying_model(folder / "copier", seed=arguments.seed))
        trained = time.perf_counter() - began
        if arguments.url is None and not arguments.local:
            server = VllmServer(Path(where), folder / "log")
            stack.callback(server.stop)
            server.start()
            where = server.url
        chunks, probes, answers = corpus(arguments.documents, arguments.probes, arguments.seed)
        kb = stack.enter_context(KnowledgeBase(folder / "kb"))
        kb.add(chunks)
        config = kb.config.model_copy(update={"generator": kb.config.generator.at(where)})
        store = kb.engine.store
        with supervise(config, folder) as supervision:
            dataset = build_dataset(
                probes, chunks, store.base, Ranking(), supervision.scorer, config.teacher, 0, asked=scored(config)
            )
            again = build_dataset(
                probes, chunks, store.base, Ranking(), supervision.scorer, config.teacher, 0, asked=scored(config)
            )
            cost = supervision.report()
        assert np.array_equal(dataset.gains, again.gains)
        result = {
            "training seconds": round(trained, 1),
            **{name: round(value, 3) for name, value in shares(dataset, answers, chunks).items()},
            "dropped": dict(dataset.judged[1]),
            "cost of both passes": cost,
        }
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

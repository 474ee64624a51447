"""LoRA training against the plain sentence-transformers trainer with a PEFT adapter: steps a second, in one run.

    python tests/benchmarks/lora_speed.py [--rounds 2]

Needs the packages datasets and accelerate besides ragself's own, which the trainer asks for: `pip install datasets
accelerate`. Texts are the documentation of Python's standard library; a step of either reads the same texts, on one
thread, with the same rank, modules, optimiser and rate:

- query: 32 titles. Theirs learns vectors by MSELoss, the least that a loss of theirs can cost; ours the teacher's law
  over 80 candidates each, whose vectors are cached.
- both: 4 titles with 8 documents each. Theirs learns a law by DistillKLDivLoss; ours the same.

Theirs is timed as it is, and without the dropout that it trains with and ours does not; the ratio is to the faster.
Time is the processor's, which others on the machine do not change, and the two alternate. A step is from the end of the
one before to its own end, data loading included; what comes before the first (copying the model, and ours to tokenise
once what theirs does in each step) is counted for neither.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MSELoss
from transformers import TrainerCallback

from ragself.cli.stdlib import documents
from ragself.config import EncoderConfig
from ragself.encoders.encoder import Encoder
from ragself.probes.targets import target_distribution
from ragself.training.lora_student import LoraData, LoraSettings, Probed
from ragself.training.token_reader import TARGETS, Reader
from ragself.training.train_lora import train_lora

RESULTS = Path(__file__).parent / "results" / "lora_speed.json"
SIZES = {"query": (32, 80, 6), "both": (4, 8, 2)}  # probes, candidates of each, steps
RANK, RATE = 16, 5e-4


def data(encoder: Encoder, sides: str) -> LoraData:
    probes, width, _ = SIZES[sides]
    draw = np.random.default_rng(0)
    chunks = [chunk for chunk in documents() if chunk.title and len(chunk.text) > 200]
    chunks = [chunks[row] for row in draw.permutation(len(chunks))[: probes * 8]]
    texts, asked = [chunk.text for chunk in chunks], [str(chunk.title) for chunk in chunks[:probes]]
    vectors, queries = encoder.documents(texts), encoder.queries(asked)
    found = np.stack([draw.permutation(len(texts))[:width] for _ in asked])
    if sides == "both":
        found = np.arange(probes * width).reshape(probes, width)  # no document twice: both read as many
    gains = draw.normal(size=found.shape).astype(np.float32)
    base = np.take_along_axis(queries @ vectors.T, found, axis=1)
    target, leaks, weights = (
        target_distribution(gains, base, 2.5),
        np.zeros(found.shape, bool),
        np.ones(probes, np.float32),
    )
    lexical = draw.random(found.shape, dtype=np.float32)  # which costs an addition, whatever it is
    nothing = Probed([], queries[:0], found[:0], target[:0], leaks[:0], weights[:0], lexical[:0])
    return LoraData(Probed(asked, queries, found, target, leaks, weights, lexical), nothing, texts, vectors)


def ours(encoder: Encoder, learned_from: LoraData, sides: Any) -> list[float]:
    """Seconds of each step but the first."""
    probes, width, steps = SIZES[sides]
    settings = LoraSettings(sides, steps + 1, RANK, probes, candidates=width, rate=RATE, every=10**6)
    ends: list[float] = []
    train_lora(learned_from, encoder, None, settings, None, lambda *_: ends.append(time.process_time()))
    return np.diff(ends[: steps + 1]).tolist()


class Clock(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.process_time())


def theirs(encoder: Encoder, learned_from: LoraData, sides: str, *, dropout: bool) -> list[float]:
    """Seconds of each step but the first."""
    probes, _, steps = SIZES[sides]
    model = copy.deepcopy(encoder._model)
    if not dropout:
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
            if hasattr(part, "dropout_prob"):
                part.dropout_prob = 0.0
    settings = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=sorted(TARGETS), exclude_modules=r".*pooler.*")
    inject_adapter_in_model(settings, model)  # `add_adapter` does the same, where transformers and peft are of one age
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert trained == sum(weight.numel() for weight in Reader(encoder, RANK, 2.0 * RANK, 0).weights.values())
    split = learned_from.train
    if sides == "query":
        columns = {"query": list(split.texts), "label": split.queries.tolist()}
        loss: Any = MSELoss(model)
    else:
        read = [[learned_from.texts[row] for row in split.candidates[:, column]] for column in range(SIZES[sides][1])]
        columns = {"query": list(split.texts)} | {f"d{n}": texts for n, texts in enumerate(read)}
        columns["label"] = np.log(split.target + 1e-9).tolist()
        loss = DistillKLDivLoss(model)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            per_device_train_batch_size=probes,
            max_steps=steps + 1,
            learning_rate=RATE,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model, arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[clock]
        )
        trainer.train()
    return np.diff(clock.ends).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder = Encoder(EncoderConfig())
    results: dict[str, Any] = {}
    for sides in SIZES:
        learned_from = data(encoder, sides)
        seconds: dict[str, list[float]] = {"ours": [], "trainer": [], "trainer without dropout": []}
        for _ in range(arguments.rounds):
            seconds["ours"] += ours(encoder, learned_from, sides)
            seconds["trainer"] += theirs(encoder, learned_from, sides, dropout=True)
            seconds["trainer without dropout"] += theirs(encoder, learned_from, sides, dropout=False)
        rates = {name: 1.0 / float(np.median(took)) for name, took in seconds.items()}
        results[sides] = {
            "probes, candidates, steps a round": SIZES[sides],
            "steps a second of processor time": {name: round(rate, 4) for name, rate in rates.items()},
            "ours / the faster trainer": round(rates["ours"] / max(rates[n] for n in rates if n != "ours"), 3),
        }
        print(sides, json.dumps(results[sides]), flush=True)
    results["machine"] = {"threads": 1, "torch": torch.__version__, "rounds": arguments.rounds}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

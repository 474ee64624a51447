"""The three objectives side by side: what each teaches on a planted corpus, and what a step costs.

    python tests/benchmarks/objectives.py learn [--topics 200] [--lm FOLDER] [--kinds weights residual lora]
    python tests/benchmarks/objectives.py steps [--model FOLDER] [--rounds 3]

`learn` makes notes of jargon that no encoder has seen, two of the same words each, and a language model that copies
(tests/language_models.py). Rankings learn from queries of some notes; told is the mean reciprocal rank at 10 of the
notes that queries of others were made from, by hybrid search and by cosine alone, with seconds of training and tokens
that the language model read for it.

`steps` times a training step of DREAM and Revela against a plain forward and backward pass of the same language model
on the same tokens, in one run, in turns: once with the gradient of all weights, as a model is trained, and once with
that of its inputs alone, as of one that is frozen. Without --model it is a Llama of random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from ragself import Chunk, KnowledgeBase
from ragself.adapters.ranking import Ranking
from ragself.cli.bench import Law
from ragself.config import GeneratorConfig, LoraConfig
from ragself.encoders.spread import unit
from ragself.evaluation.calibration import WEIGHT
from ragself.lm.causal import CausalLM
from ragself.lm.white_box import WhiteBox
from ragself.probes.dataset import build_dataset
from ragself.probes.supervision import scored, supervise
from ragself.schema import Account, Probe
from ragself.training.dream.contexts import Contexts
from ragself.training.dream.dream import nll as dreamt
from ragself.training.dream.heads import Heads
from ragself.training.lm_loss import LmTrainer
from ragself.training.revela.revela import looks
from ragself.training.revela.revela import nll as revealed
from ragself.training.train_candidate import TrainingContext, inner, train_candidate
from tests.benchmarks.planted import NOTES
from tests.language_models import copying_model

SYLLABLES = ("fe", "gu", "hi", "ja", "ko")  # so few that words look alike
HELD = 0.4  # share of the notes that are measured by, and not learned from
SELECT = 40
VOCABULARY = 32_000


def notes(topics: int, seed: int) -> tuple[list[Chunk], list[Probe]]:
    """Two notes of each topic, of the same words in other places; and a query of each note."""
    draw = random.Random(seed)
    jargon = ["".join(draw.choices(SYLLABLES, k=draw.randint(3, 4))) for _ in range(2 * topics)]
    chunks, probes = [], []
    for topic in range(topics):
        words, forms = draw.sample(jargon, 6), draw.sample(NOTES, 2)
        for note, form in enumerate(forms):
            id = f"n{topic}-{note}"
            chunks.append(Chunk(id, form.format(*draw.sample(words, 6))))
            query = " ".join(draw.sample(words, 3))
            probes.append(Probe(f"{topic:06x}{note}", query, query, "question", id, "train"))
    return chunks, draw.sample(probes, len(probes))


def learn(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows of the table."""
    chunks, probes = notes(arguments.topics, arguments.seed)
    held = int(HELD * len(probes))
    asked, rest = probes[:held], probes[held:]
    made = [Probe(p.id, p.text, p.target, p.kind, p.source, "train" if row >= SELECT else "select")
            for row, p in enumerate(rest)]  # fmt: skip
    row_of = {chunk.id: row for row, chunk in enumerate(chunks)}
    right = np.array([row_of[str(probe.source)] for probe in asked])
    texts = [chunk.text for chunk in chunks]
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lm = arguments.lm or str(copying_model(folder / "copier", seed=arguments.seed))
        kb = stack.enter_context(KnowledgeBase(folder / "kb"))
        kb.add(chunks)
        config = kb.config.model_copy(update={"generator": kb.config.generator.at(lm)})
        base = kb.engine.store.base
        queries, documents = base.queries([probe.text for probe in asked]), base.documents(texts)

        ranks_by = Law(texts, [probe.text for probe in asked], unit(base))

        def mrr(scores: Any) -> float:
            best = np.maximum(scores[np.arange(held), right], scores[np.arange(held), right ^ 1])  # either note
            ranks = 1 + (scores > best[:, None]).sum(axis=1)
            return float(np.where((ranks <= 10) & np.isfinite(best), 1 / ranks, 0).mean())

        def rank(ranking: Ranking) -> dict[str, float]:
            one, other = queries, documents
            if ranking.adapter is not None:
                one = ranking.adapter.queries(one, [p.text for p in asked])
                other = ranking.adapter.documents(other, texts)
            cosines = one @ other.T
            return {"mrr@10": mrr(ranks_by.scores(cosines, ranking)), "mrr@10 by cosine": mrr(cosines)}

        began = time.process_time()
        supervision = stack.enter_context(supervise(config, folder))
        parts_of_study = (made, chunks, base, Ranking(), supervision.scorer, config.teacher, arguments.seed)
        data = build_dataset(*parts_of_study, asked=scored(config))
        scoring, tokens = time.process_time() - began, supervision.account.tokens
        train = data.rows("train")
        train = train[data.judged[0][train]]
        rows.append({"objective": "-", "kind": "untrained", **rank(Ranking())})
        for objective in ("distill", "dream", "revela"):
            settings = config.train.model_copy(update={"objective": objective, "lora": LoraConfig(sides="both")})
            settings = settings.model_copy(update={"adapters": tuple(arguments.kinds), "seed": arguments.seed})
            parts = (supervision.generator, data, train, base, settings, Account())
            backprop = None if objective == "distill" else LmTrainer(*parts)  # type: ignore[arg-type]
            trained: dict[str, Ranking] = {}
            for kind in arguments.kinds:
                began = time.process_time()
                bench = TrainingContext(base, inner(trained), folder / f"{objective}-{kind}", backprop)
                trained[kind] = train_candidate(kind, data, train, WEIGHT, settings, bench=bench)
                seen = backprop.seen[kind] if backprop else {}
                rows.append({
                    "objective": objective, "kind": kind, **rank(trained[kind]),
                    "seconds": round(time.process_time() - began + (scoring if objective == "distill" else 0), 1),
                    "tokens": tokens, **seen,
                })  # fmt: skip
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"notes": len(chunks), "learned from": len(train), "measured by": held, "rows": rows}


def steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ratios of times, the median over rounds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    box, encode, begin = _model(arguments.model)
    draw = np.random.default_rng(0)
    words = [f"w{number}" for number in range(5000)]
    texts = [" ".join(draw.choice(words, size=200)) for _ in range(64)]
    out: dict[str, Any] = {"layers": box.layers, "heads": box.heads,
                           "weights": sum(weight.numel() for weight in box.model.parameters())}  # fmt: skip
    probes = [Probe(str(row), " ".join(draw.choice(words, size=12)), "", "traffic", None, "train") for row in range(2)]
    probes = [Probe(p.id, p.text, p.text, p.kind, None, "train") for p in probes]
    contexts = Contexts(box, encode, begin, texts, arguments.tokens)
    layers = range(box.layers // 2, box.layers)
    heads = Heads(tuple((layer, 0) for layer in layers)[:16], (), 0.0, 0)
    rows = draw.permutation(64)[: 2 * arguments.documents].reshape(2, -1)
    read, asked = contexts.read(probes, rows)
    scores = torch.randn(2, arguments.documents, requires_grad=True)
    whole = torch.cat([torch.zeros(2, read.owner.shape[1], dtype=torch.long), asked.ids], dim=1)
    out["dream tokens"] = whole.numel()
    out["dream"] = _ratios(
        arguments.rounds, box, whole, lambda: dreamt(contexts, heads, probes, rows, scores.log_softmax(dim=1)).sum()
    )
    chunks = [[*begin, *ids][: arguments.tokens] for ids in encode(texts[: arguments.chunks])]
    near = torch.randn(arguments.chunks, arguments.chunks, requires_grad=True)
    out["revela tokens"] = sum(len(chunk) for chunk in chunks)
    ids = torch.tensor(chunks)
    for name, sharp in (("revela, all looked at", 0.1), ("revela, as it learns", 5.0)):
        out[name] = _ratios(
            arguments.rounds, box, ids, lambda s=sharp: revealed(box, chunks, looks(near * s), True).sum()
        )
    return out


def _ratios(rounds: int, box: WhiteBox, ids: torch.Tensor, step: Callable[[], torch.Tensor]) -> dict[str, float]:
    def plain(trained: bool) -> torch.Tensor:
        box.model.requires_grad_(trained)
        inputs = box.model.get_input_embeddings()(ids).detach().requires_grad_()
        return box.model(inputs_embeds=inputs, labels=ids, use_cache=False).loss

    ways = {"trained": lambda: plain(True), "frozen": lambda: plain(False), "step": step}
    peak = {name: _peak(way) for name, way in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first warms up
        for name, way in ways.items():
            box.model.requires_grad_(False)
            began = time.process_time()
            way().backward()
            taken[name].append(time.process_time() - began)
            box.model.zero_grad(set_to_none=True)
            box.model.requires_grad_(False)
    median = {name: statistics.median(times[1:]) for name, times in taken.items()}
    return {
        "seconds": round(median["step"], 3),
        "times a plain step": round(median["step"] / median["trained"], 2),
        "times one of a frozen model": round(median["step"] / median["frozen"], 2),
        "peak memory, GB": peak["step"],
        "peak memory of a plain step, GB": peak["trained"],
        "peak memory of one of a frozen model, GB": peak["frozen"],
    }


def _peak(way: Callable[[], torch.Tensor]) -> float:
    """Gigabytes that a process of its own has at most in a step, the model included."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        way().backward()
        os.write(write, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        kilobytes = told.read()
    os.waitpid(child, 0)
    return round(int(kilobytes) / 1e6, 2)


def _model(folder: str | None) -> tuple[WhiteBox, Callable[..., list[list[int]]], list[int]]:
    if folder:
        lm = CausalLM(GeneratorConfig(model=folder))
        return lm.white_box(), lm.encode, lm.begin
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=4096,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    encode = lambda texts: [[hash_of(word) for word in text.split()] for text in texts]
    return WhiteBox(model, "a random Llama", 4096), encode, [1]


def hash_of(word: str) -> int:
    """A token id."""
    return sum(ord(letter) * 31**at for at, letter in enumerate(word)) % VOCABULARY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("learn", "steps"))
    parser.add_argument("--topics", type=int, default=200)
    parser.add_argument("--lm", help="folder of a language model; default: one that copies is made")
    parser.add_argument("--kinds", nargs="+", default=["weights", "residual", "lora"])
    parser.add_argument("--model", help="folder of a language model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps((learn if arguments.what == "learn" else steps)(arguments), indent=2))


if __name__ == "__main__":
    main()

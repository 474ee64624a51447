"""A model that is NaN after one of its tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.integration.faults.work import TEXTS, WORK
from tests.language_models import random_model, tokenizer

CHAT = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


@dataclass(frozen=True)
class Spoilt:
    """A model of other weights than the random Llama, with a chat template, and a token after which all is NaN."""

    folder: Path
    token: int
    text: str


def make_spoilt(folder: Path) -> Spoilt:
    """Make one of the random Llama's kind. The token is in some documents, and in no query."""
    tokens = tokenizer(TEXTS, 1000)
    tokens.chat_template = CHAT
    random_model(folder, "llama", tokens, seed=1)
    encode = lambda text: set(tokens(f" {text}", add_special_tokens=False)["input_ids"])
    often = Counter(id for text in TEXTS for id in encode(text))
    harmless = set().union(*map(encode, WORK.asked))
    word = lambda token: tokens.decode([token]).startswith(" ")
    token = next(id for id, count in often.most_common() if count <= 10 and id not in harmless and word(id))
    weights = load_file(folder / "model.safetensors")
    _spoil(weights, token)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return Spoilt(folder, token, tokens.decode([token]))


def _spoil(weights: dict[str, NDArray[np.float32]], token: int) -> None:
    """Have a token overflow in the last layer. A NaN that attention sees spoils later texts too, in vLLM's cache."""
    for name, weight in weights.items():  # the first dimension is for that token alone
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[0] = 0.0
    embedding = weights["model.embed_tokens.weight"]
    embedding[:, 0] = embedding[token] = 0.0
    embedding[token, 0] = 1000.0
    last = max(name for name in weights if name.endswith("up_proj.weight"))
    for name, value in ((last, 3e38), (last.replace("up_proj", "gate_proj"), 1.0)):
        weights[name][0] = 0.0
        weights[name][0, 0] = value
    weights["lm_head.weight"][token] = 0.0  # it is never written

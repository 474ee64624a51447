"""The encoder in training: LoRA in its linear modules; texts are tokenised once and encoded with little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from ragself.adapters.lora import Lora, Sides
from ragself.encoders.encoder import Encoder
from ragself.errors import EncoderError

# Names of a layer's linear modules: values, queries and the ones after the attention, in BERT and similar models,
# MPNet, DistilBERT, ModernBERT, and decoders.
_BERT = ("query", "value", "dense")
_OTHERS = ("q", "v", "o", "q_lin", "v_lin", "out_lin", "lin1", "lin2", "Wqkv", "Wo", "Wi")
_DECODERS = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
TARGETS = frozenset((*_BERT, *_OTHERS, *_DECODERS))
BUDGET = 4096  # tokens, padding included, that the encoder reads at once: limits memory
_WASTE = 1.1  # maximum ratio of tokens with padding to tokens without
_TOKENISED = 256  # texts tokenised at once


class Tokens:
    """Texts of one side, tokenised as the encoder tokenises that side."""

    def __init__(self, model: Any, texts: Sequence[str], side: Literal["document", "query"]) -> None:
        """Tokenise them with the model's prompt for the side."""
        self.side = side
        self._rows: list[dict[str, list[int]]] = []
        self._same: dict[str, Any] = {}  # features that are not per token, such as the length of the prompt
        prompt = (model.prompts or {}).get(side) or None
        for start in range(0, len(texts), _TOKENISED):
            features = model.preprocess(list(texts[start : start + _TOKENISED]), prompt=prompt, task=side)
            mask = features["attention_mask"].bool()
            flat = {name: t for name, t in features.items() if isinstance(t, Tensor) and t.shape == mask.shape}
            self._same = {name: value for name, value in features.items() if name not in flat}
            self._rows += [{name: t[row][kept].tolist() for name, t in flat.items()} for row, kept in enumerate(mask)]
        self.lengths = np.array([len(row["attention_mask"]) for row in self._rows], dtype=np.int64)

    def padded(self, model: Any, rows: Sequence[int]) -> dict[str, Any]:
        """Input of the model for some of the texts, padded to one length."""
        together = {name: [self._rows[row][name] for row in rows] for name in self._rows[rows[0]]}
        padded = model.tokenizer.pad(together, padding=True, return_tensors="pt", verbose=False)
        return {**self._same, **{name: tensor.to(model.device) for name, tensor in padded.items()}}


class Reader:
    """Frozen copy of the encoder with PEFT's LoRA, whose outputs start as those of the encoder.

    Attributes:
        weights: Trained weights: ``NAME.down`` (rank, in) and ``NAME.up`` (out, rank) of each module.
    """

    def __init__(self, encoder: Encoder, rank: int, alpha: float, seed: int) -> None:
        """Put LoRA into the modules named in `TARGETS`, except poolers, which mean pooling does not use.

        Args:
            encoder: The base encoder, which is not changed.
            rank: Rank of the changes.
            alpha: Numerator of their scale, alpha / rank.
            seed: Seed of initialisation.

        Raises:
            EncoderError: No module of the encoder has such a name.
        """
        from peft import LoraConfig, inject_adapter_in_model  # the import takes seconds, and only training needs it

        self._model: Any = encoder.copied()
        self._width, self._alpha = encoder.dimension, alpha
        names = _targets(self._model, encoder.name)
        settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(settings, self._model)
        self._model.eval()  # no dropout, so that resumed training has the same bits
        modules = dict(self._model.named_modules())
        self.weights: dict[str, nn.Parameter] = {}
        for name in names:
            self.weights[f"{name}.down"] = modules[name].lora_A["default"].weight
            self.weights[f"{name}.up"] = modules[name].lora_B["default"].weight

    def tokens(self, texts: Sequence[str], side: Literal["document", "query"]) -> Tokens:
        """Tokenise texts of one side."""
        return Tokens(self._model, texts, side)

    def read(self, tokens: Tokens, rows: NDArray[np.int64]) -> Tensor:
        """Encode some of the texts: (len(rows), base) float32, normalised, with a gradient to the weights."""
        parts, order = [], []
        for batch in batches(tokens.lengths[rows]):
            features = tokens.padded(self._model, rows[batch].tolist())
            parts.append(self._model(features, task=tokens.side)["sentence_embedding"].float().cpu())
            order.append(batch)
        back = np.argsort(np.concatenate(order))
        return normalize(torch.cat(parts)[torch.from_numpy(back)], dim=-1)

    def lora(self, sides: Sides) -> Lora:
        """Return the weights as an adapter without an inner one, not bound to an encoder."""
        arrays = {key: weight.detach().cpu().numpy().copy() for key, weight in self.weights.items()}
        names = [key.removesuffix(".down") for key in arrays if key.endswith(".down")]
        layers = {name: (arrays[f"{name}.down"], arrays[f"{name}.up"]) for name in names}
        return Lora(layers, self._alpha, self._width, sides)


def batches(lengths: NDArray[np.int64], budget: int = BUDGET) -> Iterator[NDArray[np.int64]]:
    """Positions of texts to encode at once, longest first: within the budget, and with at most a tenth of padding.

    >>> [batch.tolist() for batch in batches(np.array([10, 99, 9, 100]))]
    [[3, 1], [0, 2]]
    """
    order = np.argsort(-lengths, kind="stable")
    start = used = 0
    for at, position in enumerate(order):
        longest, count = int(lengths[order[start]]), at - start + 1
        used += int(lengths[position])
        if count > 1 and (longest * count > budget or longest * count > _WASTE * used):
            yield order[start:at]
            start, used = at, int(lengths[position])
    if len(order):
        yield order[start:]


def _targets(model: nn.Module, encoder: str) -> list[str]:
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    found = [name for name in linear if name.rsplit(".", 1)[-1] in TARGETS and "pooler" not in name]
    if not found:
        seen = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise EncoderError(
            f"{encoder} has no module that LoRA could change: its linear modules are called "
            f"{', '.join(seen) or '(there are none)'}, expected one of {', '.join(sorted(TARGETS))}. "
            "Leave lora out of train.adapters, or choose another encoder."
        )
    return found

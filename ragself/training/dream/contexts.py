"""Contexts of DREAM: documents that a language model reads, and the probe that follows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ragself.errors import GeneratorError
from ragself.lm.attention_injection import Context, Injection, read
from ragself.lm.prompts import TARGET_TOKENS, Prompt, prompt
from ragself.lm.white_box import WhiteBox
from ragself.schema import Probe

Rows = NDArray[np.int64]

NOTHING = "N/A"  # content-free target: measures the attention to a document for any query
_LEAST = 16  # minimum tokens of a document; fewer do not show its topic
_BETWEEN = "\n\n"
_AROUND = 8  # maximum tokens of the text around a document
_TOKENS = {"cpu": 4096, "cuda": 65_536}  # tokens read at once, padding included


@dataclass(frozen=True, slots=True)
class Asked:
    """Tokens that follow a context.

    Attributes:
        ids: (B, T) int64, padded at the right: the text between the documents and the target, and the target without
            its last token.
        targets: (B, T) int64, the next token of each.
        counted: (B, T) True where the next token is one of the target.
        positions: (B, T) int64 positions in the whole text.
    """

    ids: Tensor
    targets: Tensor
    counted: Tensor
    positions: Tensor


class Contexts:
    """Tokenised documents and probes, joined so that they fit into the model's context.

    Attributes:
        box: The language model.
        texts: The documents.
    """

    def __init__(
        self, box: WhiteBox, encode: Callable[[Sequence[str]], list[list[int]]], begin: Sequence[int],
        texts: Sequence[str], tokens: int,
    ) -> None:  # fmt: skip
        """Store the arguments; nothing is tokenised yet.

        Args:
            box: The language model.
            encode: Its tokenizer, without special tokens.
            begin: Ids before every text.
            texts: N documents.
            tokens: Maximum number of tokens of each document.
        """
        self.box, self._encode, self._begin = box, encode, list(begin)
        self.texts, self._tokens = texts, tokens
        self._kept: dict[str, list[int]] = {}

    def groups(self, documents: Rows) -> Iterator[Rows]:
        """Positions of probes whose contexts, (P, K) rows of documents, are read together."""
        size = self._room(documents.shape[1]) * documents.shape[1]
        count = max(_TOKENS.get(self.box.device.type, 4096) // max(size, 1), 1)
        for start in range(0, len(documents), count):
            yield np.arange(start, min(start + count, len(documents)))

    def read(self, probes: Sequence[Probe], documents: Rows) -> tuple[Context, Asked]:
        """Read documents with the model, and lay out the probes that follow.

        Args:
            probes: B probes.
            documents: (B, K) rows of the texts, in the order of the context.

        Raises:
            GeneratorError: The context of the model is too short for so many documents.
        """
        room = self._room(documents.shape[1])
        contexts, owners = [], []
        for probe, rows in zip(probes, documents.tolist(), strict=True):
            ids, owner = list(self._begin), [-1] * len(self._begin)
            for at, row in enumerate(rows):
                pieces = prompt(self.texts[row], probe)
                for piece, mine in ((pieces.head, False), (pieces.document, True), (_BETWEEN, False)):
                    last = piece is _BETWEEN and at == len(rows) - 1  # the tail begins with its own separator
                    found = [] if last else self._ids(piece)[: room if mine else None]
                    ids += found
                    owner += [at if mine else -1] * len(found)
            contexts.append(ids)
            owners.append(owner)
        lengths = torch.tensor([len(ids) for ids in contexts], device=self.box.device)
        context = read(self.box, self._padded(contexts, 0), self._padded(owners, -1), lengths, documents.shape[1])
        return context, self._asked(probes, lengths)

    def nothing(self, probes: Sequence[Probe], context: Context) -> Asked:
        """The layout of `read`, with a content-free target."""
        return self._asked(probes, context.lengths, NOTHING)

    def nll(self, asked: Asked, injection: Injection) -> Tensor:
        """Negative log-likelihood of each target, (B,) float32, nats per token, with a gradient to the injection."""
        states = self.box.states(asked.ids, injection, asked.positions)
        return self.box.nll(states, asked.targets, asked.counted)

    def _asked(self, probes: Sequence[Probe], lengths: Tensor, target: str | None = None) -> Asked:
        rows, targets, counted = [], [], []
        for probe in probes:
            pieces: Prompt = prompt("", probe)
            tail = self._ids(pieces.tail)
            scored = self._ids(pieces.target if target is None else " " + target)[:TARGET_TOKENS]
            whole = [*tail, *scored]
            rows.append(whole[:-1])
            targets.append(whole[1:])
            counted.append([at >= len(tail) - 1 for at in range(len(whole) - 1)])
        ids = self._padded(rows, 0)
        positions = lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
        return Asked(ids, self._padded(targets, 0), self._padded(counted, 0).bool(), positions)

    def _room(self, count: int) -> int:
        """Tokens available for each of `count` documents."""
        around = len(self._begin) + TARGET_TOKENS + _AROUND * (count + 1)
        room = min(self._tokens, (self.box.limit - around) // count)
        if room < _LEAST:
            raise GeneratorError(
                f"The language model has a context of {self.box.limit} tokens, too few for {count} documents and a "
                "probe. Set train.dream.documents lower, or use a model with a longer context."
            )
        return room

    def _ids(self, text: str) -> list[int]:
        if text not in self._kept:
            self._kept[text] = self._encode([text])[0]
        return self._kept[text]

    def _padded(self, rows: Sequence[Sequence[int]], fill: int) -> Tensor:
        longest = max(len(row) for row in rows)
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], device=self.box.device)

"""Data of Revela in one pass: batches of chunks, their first halves as queries, and the possible gain of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from ragself.config import TrainConfig
from ragself.encoders.vectors import BaseVectors
from ragself.lm.causal import CausalLM
from ragself.lm.white_box import WhiteBox
from ragself.probes.dataset import Dataset
from ragself.progress import Progress
from ragself.training.gap import Gap
from ragself.training.optimizer import EVERY
from ragself.training.revela import revela
from ragself.training.revela.pools import plan
from ragself.training.student import SHARPER, Side, Student

FORWARDS = 3.5  # time per token relative to scoring, measured on a CPU
_WATCHED = 64  # held-out chunks for early stopping
_TRIED = 32  # chunks to measure the possible gain on
_SHORT = 8  # minimum tokens of a chunk; shorter ones say too little


@dataclass(frozen=True)
class RevelaObjective:
    """Objective of one pass, shared by all kinds of adapters.

    Attributes:
        lm, box: The language model, and access to its layers.
        dataset: Documents and their vectors.
        base: Encoder of the first halves.
        config: Settings.
        progress: Called with each stage, steps done and total.
    """

    lm: CausalLM
    box: WhiteBox
    dataset: Dataset
    base: BaseVectors
    config: TrainConfig
    progress: Progress

    @cached_property
    def asked(self) -> Side:
        """First halves of the chunks, which serve as queries."""
        halves = revela.halves(self.searched[0])
        return halves, self.base.queries(halves, self.progress)

    @property
    def searched(self) -> Side:
        """The chunks."""
        return self._batches[1]

    @property
    def gap(self) -> Gap:
        """Possible gain from the best other chunk."""
        return self._tried[1]

    @property
    def facts(self) -> dict[str, Any]:
        """Whether V-norm is used."""
        return {"even": self._tried[0]}

    @property
    def parts(self) -> tuple[object, ...]:
        """Inputs that determine the bits of a run, besides the settings."""
        data = self._batches[0]
        return self._settings, data.train, data.held, tuple(self.searched[0])

    def objective(self, student: Student, key: str) -> revela.RevelaLoss:
        """Loss to minimise."""
        box, learns = self.box, dict[str, nn.Parameter]()
        if self.config.revela.model == "lora":
            box, learns = box.learning(self.config.lora.rank, self.config.seed)
        return revela.RevelaLoss(self._batches[0], box, student, self._settings, key, learns)

    @property
    def _settings(self) -> revela.RevelaSettings:
        return revela.RevelaSettings(self._tried[0], self.gap.unit, seed=self.config.seed)

    @cached_property
    def _batches(self) -> tuple[revela.RevelaData, Side]:
        """Batches, and the chunks that are in any of them."""
        dataset, config, size = self.dataset, self.config, self.config.revela.chunks
        texts, limit = dataset.texts[: dataset.size], min(config.tokens, self.box.limit)
        tokens = [[*self.lm.begin, *ids][:limit] for ids in self.lm.encode(texts)]
        long = np.array([row for row, ids in enumerate(tokens) if len(ids) >= _SHORT], dtype=np.int64)
        steps = max(config.steps, config.lora.steps if "lora" in config.adapters else 0)
        watched = -(-_WATCHED // size)
        some = [texts[row] for row in long]
        pools = long[plan(some, dataset.documents[long], size, steps + watched, config.seed, self.progress)]
        used, inverse = np.unique(pools, return_inverse=True)
        pools = inverse.reshape(pools.shape).astype(np.int64)
        data = revela.RevelaData([tokens[row] for row in used], pools[watched:], pools[:watched])
        return data, ([texts[row] for row in used], dataset.documents[used])

    @cached_property
    def _tried(self) -> tuple[bool, Gap]:
        """Whether to use V-norm, and the possible gain of training with that choice."""
        data, found = self._batches[0], dict[bool, Gap]()
        for even in (True, False):
            some = data.held[: max(_TRIED // self.config.revela.chunks, 1)]
            gaps = [revela.gap(self.box, [data.tokens[row] for row in pool], even) for pool in some]
            found[even] = Gap.of(np.concatenate(gaps))
        even = found[True].mean >= found[False].mean
        return even, found[even]


def tokens_read(config: TrainConfig, courses: Sequence[int], document: float) -> int:
    """Tokens that the language model reads while adapters are trained, without padding.

    Args:
        config: Settings.
        courses: Steps of each adapter.
        document: Mean tokens of a chunk.
    """
    size = config.revela.chunks
    tried = 2 * max(_TRIED // size, 1) * (1 + size)  # alone, and then once for each weighting of the others
    evaluations = sum(1 + len(SHARPER) + 2 * (1 + -(-steps // EVERY)) for steps in courses) * -(-_WATCHED // size)
    return int((tried + evaluations + 2 * sum(courses)) * size * min(document, config.tokens))

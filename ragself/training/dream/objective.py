"""Data of DREAM in one pass: contexts, retrieval heads, and the possible gain of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.config import TrainConfig
from ragself.errors import GeneratorError
from ragself.lm.causal import CausalLM
from ragself.lm.white_box import WhiteBox
from ragself.probes.dataset import Dataset
from ragself.progress import Progress
from ragself.training.dream import dream
from ragself.training.dream.contexts import Contexts
from ragself.training.dream.heads import Heads, find
from ragself.training.gap import Gap
from ragself.training.optimizer import EVERY
from ragself.training.student import Side, Student

Rows = NDArray[np.int64]

FORWARDS = 1.3  # time per token relative to scoring, measured on a CPU
_WATCHED = 64  # held-out probes for early stopping
_FOUND = 128  # known-item probes to find the retrieval heads with, as in QRHead
_KINDS = ("question", "title", "span")  # of known items, the most informative first
_FEW = 24  # known items below which less informative kinds are used, too


@dataclass(frozen=True)
class DreamObjective:
    """Objective of one pass, shared by all kinds of adapters.

    Attributes:
        lm, box: The language model, and access to its layers.
        dataset: Probes, documents and their vectors.
        rows: Rows of the probes to train on.
        config: Settings.
        progress: Called with each stage, steps done and total.
    """

    lm: CausalLM
    box: WhiteBox
    dataset: Dataset
    rows: Rows
    config: TrainConfig
    progress: Progress

    @cached_property
    def asked(self) -> Side:
        """The probes."""
        return [probe.text for probe in self.dataset.probes], self.dataset.queries

    @cached_property
    def searched(self) -> Side:
        """Documents that are a candidate of any probe; no others are read."""
        return [self.dataset.texts[row] for row in self._used], self.dataset.documents[self._used]

    @property
    def gap(self) -> Gap:
        """Possible gain from the right document, with the chosen heads."""
        return self._found[1]

    @property
    def facts(self) -> dict[str, Any]:
        """Number of retrieval heads, and how well they rank documents."""
        heads = self._found[0]
        return {"heads": len(heads.chosen), "head_rank": float(np.mean(heads.quality)), "chance": heads.chance}

    @property
    def parts(self) -> tuple[object, ...]:
        """Inputs that determine the bits of a run, besides the settings."""
        return self._settings, self._probes.train, self._probes.held, self._found[0].chosen

    def objective(self, student: Student, key: str) -> dream.DreamLoss:
        """Loss to minimise."""
        return dream.DreamLoss(self._probes, self._contexts, self._found[0], student, self._settings, key)

    @cached_property
    def _used(self) -> Rows:
        return np.unique(self.dataset.candidates)

    @cached_property
    def _contexts(self) -> Contexts:
        return Contexts(self.box, self.lm.encode, self.lm.begin, self.searched[0], self.config.tokens)

    @property
    def _documents(self) -> int:
        return min(self.config.dream.documents, int(self.dataset.candidates.shape[1]))

    @property
    def _settings(self) -> dream.DreamSettings:
        return dream.DreamSettings(self._documents, unit=self.gap.unit, seed=self.config.seed)

    @cached_property
    def _probes(self) -> dream.DreamData:
        """Probes with enough candidates that do not leak the target; the right document of a known item always fits."""
        dataset, config = self.dataset, self.config
        fit = ~np.isneginf(dataset.gains) & ~dataset.leaks
        known = dataset.positive >= 0
        fit[known] |= dataset.candidates[known] == dataset.positive[known][:, None]
        enough = fit.sum(axis=1) >= self._documents
        held = dataset.rows("select")
        held = held[enough[held]]
        held = np.random.default_rng(config.seed).permutation(held)[:_WATCHED]
        train = self.rows[enough[self.rows]]
        if not len(train):
            raise GeneratorError(
                f"DREAM puts {self._documents} documents into a context; no probe has so many candidates that do not "
                "leak its target. Set train.dream.documents lower, or generator.candidates higher."
            )
        candidates = np.searchsorted(self._used, dataset.candidates)
        right = np.where(known, np.searchsorted(self._used, dataset.positive), -1)
        return dream.DreamData(dataset.probes, candidates, fit, right, dataset.weights, train, held)

    @cached_property
    def _found(self) -> tuple[Heads, Gap]:
        """Retrieval heads, and the possible gain of training: measured on known-item probes, half for each."""
        dataset, data, config = self.dataset, self._probes, self.config
        if self._documents < 2:
            raise GeneratorError(
                "DREAM compares documents; a context of one has none to compare. Set train.dream.documents to 2 or "
                "more, or add documents."
            )
        enough = np.flatnonzero((dataset.positive >= 0) & (data.fit.sum(axis=1) >= self._documents))
        held_back = dataset.rows("confirm")  # reserved for the gate
        known = _telling(dataset, np.setdiff1d(enough, held_back))
        known = np.random.default_rng(config.seed).permutation(known)[: 2 * _FOUND]
        if len(known) < 2:
            raise GeneratorError(
                "DREAM finds the retrieval heads of the language model with known items; there are fewer than 2. "
                "Add documents with titles or sentences."
            )
        finders, judges = known[: len(known) // 2], known[len(known) // 2 :]
        documents = dream.arranged(data, finders, self._documents, np.random.default_rng(config.seed))
        right = (documents == data.right[finders][:, None]).argmax(axis=1)
        probes = [dataset.probes[row] for row in finders]
        heads = find(self._contexts, probes, documents, right, config.dream.heads, self.progress)
        settings = dream.DreamSettings(self._documents, seed=config.seed)
        tried = dream.gap(self._contexts, heads, data, finders, settings).mean(axis=1)
        best = dream.SHARES[int(np.argmax(tried))]  # chosen on some probes, measured on others
        return heads, Gap.of(dream.gap(self._contexts, heads, data, judges, settings, [best])[0])


def tokens_read(config: TrainConfig, courses: Sequence[int], document: float, target: float) -> int:
    """Tokens that the language model reads while adapters are trained, without padding.

    Args:
        config: Settings.
        courses: Steps of each adapter.
        document, target: Mean tokens of a document, and of a probe's target.
    """
    evaluations = sum(2 + -(-steps // EVERY) for steps in courses)  # one of them tries all temperatures
    contexts = 3 * _FOUND + evaluations * _WATCHED + sum(courses) * dream.DreamSettings().batch
    return int(contexts * (config.dream.documents * min(document, config.tokens) + target))


def _telling(dataset: Dataset, rows: Rows) -> Rows:
    """Rows of the most informative kinds. The rest of a document may say nothing of its first sentence."""
    found = np.empty(0, dtype=np.int64)
    for kind in _KINDS:
        if len(found) < _FEW:
            own = [row for row in rows.tolist() if dataset.probes[row].kind == kind]
            found = np.concatenate([found, np.array(own, dtype=np.int64)])
    return found

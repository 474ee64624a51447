"""Training by backpropagation through a language model: the code that DREAM and Revela share.

Both train the same adapters as distillation, on cached vectors or with LoRA. Both measure the possible gain beforehand:
how much the right document lowers the language model's loss.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import OutOfMemoryError

from ragself.adapters.ranking import Ranking
from ragself.adapters.ranking_file import identity
from ragself.config import TrainConfig
from ragself.encoders.vectors import BaseVectors
from ragself.errors import GeneratorError
from ragself.lexical.hybrid_score import Query
from ragself.lexical.view import View
from ragself.lexical.weights import Weights
from ragself.lm.causal import CausalLM
from ragself.lm.white_box import WhiteBox
from ragself.probes.dataset import Dataset
from ragself.probes.lexical_features import LexicalFeatures
from ragself.progress import Progress, silent
from ragself.schema import Account
from ragself.training.dream import objective as dream_objective
from ragself.training.dream.dream import DreamLoss
from ragself.training.dream.objective import DreamObjective
from ragself.training.gap import Gap
from ragself.training.optimizer import EVERY, EarlyStopping, minimize
from ragself.training.revela import objective as revela_objective
from ragself.training.revela.objective import RevelaObjective
from ragself.training.revela.revela import RevelaLoss
from ragself.training.student import SHARPER, Pace, Side, Student, TextStudent, VectorStudent, sharpen

Rows = NDArray[np.int64]

_PATIENCE = 4  # evaluations without a gain


class LmObjective(Protocol):
    """Data and loss of an objective in one pass, shared by all kinds of adapters."""

    @property
    def box(self) -> WhiteBox:
        """The language model."""
        ...

    @property
    def asked(self) -> Side:
        """Texts that serve as queries."""
        ...

    @property
    def searched(self) -> Side:
        """Texts that are searched."""
        ...

    @property
    def gap(self) -> Gap:
        """Possible gain of training."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Measurements that only this objective has."""
        ...

    @property
    def parts(self) -> tuple[object, ...]:
        """Inputs that determine the bits of a run, besides the settings."""
        ...

    def objective(self, student: Student, key: str) -> DreamLoss | RevelaLoss:
        """Loss to minimise."""
        ...


class LmTrainer:
    """Trainer of adapters with the language model of one pass.

    Attributes:
        seen: For each kind of adapter: the `gap`, the held-out `loss` before and after, `steps`, `tokens` that the
            model read since the kind before, and the measurements that only the objective has.
    """

    def __init__(
        self, lm: CausalLM, dataset: Dataset, rows: Rows, base: BaseVectors,
        config: TrainConfig, account: Account, progress: Progress = silent,
    ) -> None:  # fmt: skip
        """Store the arguments; nothing is read yet.

        Args:
            lm: The language model.
            dataset: Probes, documents and their vectors.
            rows: Rows of the probes to train on.
            base: The encoder and its vectors.
            config: Settings.
            account: Counts the tokens that the model reads.
            progress: Called with each stage, steps done and total.
        """
        self._lm, self._dataset, self._rows = lm, dataset, rows
        self._base, self._config, self._account, self._progress = base, config, account, progress
        self.seen: dict[str, dict[str, Any]] = {}

    def train(self, kind: str, inner: Ranking, state: Path) -> Ranking:
        """Train a ranking of one kind.

        Args:
            kind: ``weights``, ``residual`` or ``lora``.
            inner: Ranking that LoRA is trained under.
            state: File to save to, and from which a killed training resumes.

        Raises:
            GeneratorError: The objective does not work with the language model, or cannot gain from it.
            EncoderError: The encoder has no module for LoRA.
        """
        before, data, name = self._account.inside, self._objective, self._config.objective
        data.gap.check(name)
        student = self._student(kind, inner)
        objective = data.objective(student, self._key(kind, inner))
        sharper = sharpen(student, objective.tried(SHARPER), SHARPER)
        steps = self._config.lora.steps if kind == "lora" else self._config.steps
        stopping = EarlyStopping(steps, EVERY, _PATIENCE)
        try:
            loss, held = minimize(objective, stopping, state, self._progress, f"train {kind} by {name}")
        except OutOfMemoryError as error:
            raise GeneratorError(
                f"{data.box.device} has no memory for a step of {name} with {kind}. Set train.tokens, "
                "train.dream.documents or train.revela.chunks lower, or generator.device to cpu."
            ) from error
        self.seen[kind] = {
            "gap": data.gap.mean,
            "gap_error": data.gap.error,
            "sharper": sharper,
            "loss": [held[0], min(held)] if held else [loss[0], loss[-1]],
            "steps": len(loss),
            "tokens": self._account.inside - before,
            **data.facts,
        }
        return self._ranking(student, inner)

    @cached_property
    def _objective(self) -> LmObjective:
        lm, dataset, config = self._lm, self._dataset, self._config
        box = lm.white_box(self._account)
        if config.objective == "dream":
            return DreamObjective(lm, box, dataset, self._rows, config, self._progress)
        return RevelaObjective(lm, box, dataset, self._base, config, self._progress)

    def _student(self, kind: str, inner: Ranking) -> Student:
        queries, documents = self._objective.asked, self._objective.searched
        config, tau, words = self._config, self._dataset.tau, self._words
        if kind == "lora":
            pace = Pace(config.lora.rank, anchor=1.0, rate=5e-4, rate_scale=1e-2, seed=config.seed)
            encoder, sides = self._base.encoder, config.lora.sides
            return TextStudent(encoder, inner.adapter, sides, queries, documents, words, inner.weights, tau, pace)
        pace = Pace(seed=config.seed) if kind == "residual" else Pace(rank=0, seed=config.seed)
        return VectorStudent(queries[1], documents[1], words, tau, pace, Weights())

    @cached_property
    def _words(self) -> LexicalFeatures:
        """Lexical features of the objective's texts. Statistics are those of the corpus."""
        corpus = View.of(self._dataset.texts[: self._dataset.size])
        queries, documents = self._objective.asked[0], self._objective.searched[0]
        return LexicalFeatures(
            [Query.of(text, corpus) for text in queries], View.of(documents), self._dataset.words.unit
        )

    def _ranking(self, student: Student, inner: Ranking) -> Ranking:
        if isinstance(student, TextStudent):
            lora = replace(student.reader.lora(self._config.lora.sides), inner=inner.adapter)
            return Ranking(lora.bound(self._base, self._progress), inner.weights)
        assert isinstance(student, VectorStudent)
        return Ranking(*student.learned())

    def _key(self, kind: str, inner: Ranking) -> str:
        """Hash of all inputs that determine the bits of a run."""
        dataset = self._dataset
        digest = hashlib.blake2b(digest_size=16)
        settings = self._config.model_dump(mode="json")
        parent = identity(self._base.encoder.fingerprint, inner)
        digest.update(repr((kind, self._lm.name, parent, settings)).encode())
        for part in self._objective.parts:
            content = part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode("utf-8", "surrogatepass")
            digest.update(content)
        digest.update(
            "\0".join([*(probe.text for probe in dataset.probes), *dataset.texts]).encode("utf-8", "surrogatepass")
        )
        return digest.hexdigest()


def forecast(config: TrainConfig, document: float, target: float) -> tuple[int, float]:
    """Tokens that the language model reads if all adapters are trained to the last step, and the cost of one token.

    Args:
        config: Settings.
        document, target: Mean tokens of a document, and of a probe's target.

    Returns:
        Tokens without padding; and the time for one token, as a multiple of the time to score it.
    """
    courses = [config.lora.steps if kind == "lora" else config.steps for kind in config.adapters]
    if config.objective == "dream":
        return dream_objective.tokens_read(config, courses, document, target), dream_objective.FORWARDS
    return revela_objective.tokens_read(config, courses, document), revela_objective.FORWARDS

"""Learning from a language model's loss itself, with its weights at hand: what DREAM and Revela share.

Both make the same adapters as distillation does, from cached vectors or LoRA, and both say beforehand whether there is
anything to learn: how much better the language model would do if it were shown the right document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import OutOfMemoryError, nn

from ragself.config import TrainConfig
from ragself.errors import GeneratorError
from ragself.learn import dream, revela
from ragself.learn.contexts import Contexts
from ragself.learn.descent import Course, Objective, descend
from ragself.learn.heads import Heads, find
from ragself.learn.pools import plan
from ragself.learn.student import Pace, Student, TextStudent, VectorStudent, Words, sharpen
from ragself.learn.students import made
from ragself.learn.study import Study
from ragself.models.adapter import Adapter
from ragself.models.causal import CausalLM
from ragself.models.lexicon import Lexicon
from ragself.models.saved import fingerprint
from ragself.models.vectors import BaseVectors
from ragself.models.whitebox import WhiteBox
from ragself.progress import Progress, silent
from ragself.schema import Account

Rows = NDArray[np.int64]
Side = tuple[Sequence[str], NDArray[np.float32]]  # texts and their base vectors

_WATCHED = 64  # held-out probes, or chunks, that tell when to stop
_TRIED = 32  # chunks that tell whether there is anything to learn by Revela
_FOUND = 128  # known-item probes that tell which heads look for what is asked, as in QRHead
_KINDS = ("question", "title", "span")  # of known items, the most telling first
_FEW = 24  # known items below which less telling ones are taken, too
_EVERY, _PATIENCE = 10, 4  # steps between two looks; looks without a gain
_SHORT = 8  # tokens below which a chunk tells nothing
_LEAST_UNIT = 0.02  # nats per token below which a gap is none
FORWARDS = {"dream": 1.2, "revela": 3.5}  # times that scoring as many tokens takes, measured on a CPU


@dataclass(frozen=True, slots=True)
class Gap:
    """How much lower the loss is with the right document in view than with all alike, nats per token.

    Attributes:
        mean: Over what was tried.
        error: Standard error of the mean.
        count: How many were tried.
    """

    mean: float
    error: float
    count: int

    @classmethod
    def of(cls, differences: NDArray[np.float64]) -> Gap:
        """From single differences."""
        return cls(
            float(differences.mean()), float(differences.std() / np.sqrt(max(len(differences), 1))), len(differences)
        )

    def check(self, objective: str) -> None:
        """Raise GeneratorError where there is nothing to learn."""
        if self.mean <= self.error:
            raise GeneratorError(
                f"There is nothing to learn by {objective} from this language model: over {self.count} texts the right "
                f"document lowers its loss by {self.mean:.3f} nats per token against all alike, with a standard error "
                f"of {self.error:.3f}; expected more than that. Take a language model that reads these "
                "documents, or leave train.objective at distill."
            )


def tokens_read(config: TrainConfig, document: float, target: float) -> int:
    """Tokens that the language model reads, padding aside, while adapters are trained to the last step.

    Args:
        config: Settings.
        document, target: Mean tokens of a document, and of what a probe is to say.
    """
    document = min(document, config.tokens)
    courses = [config.lora_steps if kind == "lora" else config.steps for kind in config.adapters]
    if config.objective == "dream":
        looks = sum(1 + len(dream.SHARPER) + -(-steps // _EVERY) for steps in courses)
        contexts = 3 * _FOUND + looks * _WATCHED + sum(courses) * dream.Schedule().batch
        return int(contexts * (config.dream_documents * document + target))
    size = config.revela_chunks
    looks = sum(1 + len(revela.SHARPER) + -(-steps // _EVERY) for steps in courses)
    batches = max(_TRIED // size, 1) * 2 * size + looks * -(-_WATCHED // size) + sum(courses)
    return int(batches * 2 * size * document)  # each alone, and then with the others


class Backprop:
    """One pass's language model, opened once, and what it was tried with.

    Attributes:
        seen: Of each kind of adapter, the `gap`, the `loss` before and after on what is held out, `steps`, `tokens`
            that the model read since the kind before, and what the objective alone knows.
    """

    def __init__(
        self, lm: CausalLM, study: Study, rows: Rows, lexicon: Lexicon, weight: float, base: BaseVectors,
        config: TrainConfig, account: Account, progress: Progress = silent,
    ) -> None:  # fmt: skip
        """Name the parts; nothing is read yet.

        Args:
            lm: The language model.
            study: Probes, documents and their vectors.
            rows: Probes to train on.
            lexicon: Word weights, where training begins.
            weight: The teacher's: strength of words to begin with.
            base: The encoder and its vectors.
            config: Settings.
            account: Takes the tokens that are read.
            progress: Told of each stage.
        """
        self._lm, self._study, self._rows, self._lexicon, self._weight = lm, study, rows, lexicon, weight
        self._base, self._config, self._account, self._progress = base, config, account, progress
        self.seen: dict[str, dict[str, Any]] = {}

    def teach(self, kind: str, inner: Adapter | None, state: Path) -> Adapter:
        """Train an adapter of a kind.

        Args:
            kind: ``residual``, ``hybrid`` or ``lora``.
            inner: Put around LoRA; None for none.
            state: A file to go on from where training was killed, and to write to.

        Raises:
            GeneratorError: The language model cannot be used so, or there is nothing to learn from it.
            EncoderError: The encoder has no module for LoRA.
        """
        before = self._account.inside
        make = self._dream if self._config.objective == "dream" else self._revela
        student, objective, facts = make(kind, inner)
        steps = self._config.lora_steps if kind == "lora" else self._config.steps
        stage = f"train {kind} by {self._config.objective}"
        try:
            loss, held = descend(objective, Course(steps, _EVERY, _PATIENCE), state, self._progress, stage)
        except OutOfMemoryError as error:
            raise GeneratorError(
                f"{self._box.device} has no memory for a step of {self._config.objective} with {kind}. Set "
                "train.tokens, train.dream_documents or train.revela_chunks lower, or generator.device to cpu."
            ) from error
        facts |= {"loss": [held[0], min(held)] if held else [loss[0], loss[-1]], "steps": len(loss)}
        facts["tokens"] = self._account.inside - before
        self.seen[kind] = facts
        return self._adapter(student, inner)

    # DREAM ----------------------------------------------------------------------------------------

    @cached_property
    def _box(self) -> WhiteBox:
        return self._lm.white_box(self._account)

    @cached_property
    def _contexts(self) -> Contexts:
        texts = [self._study.texts[row] for row in self._searched]
        return Contexts(self._box, self._lm.encode, self._lm.begin, texts, self._config.tokens)

    @cached_property
    def _searched(self) -> Rows:
        """Documents that are a candidate of any probe: no others are read."""
        return np.unique(self._study.candidates)

    @cached_property
    def _probed(self) -> dream.Lesson:
        """Probes that have enough documents that do not give them away, and known items among them."""
        study, config = self._study, self._config
        fit = ~np.isneginf(study.gains)
        known = study.positive >= 0
        fit[known] |= study.candidates[known] == study.positive[known][:, None]
        enough = fit.sum(axis=1) >= self._documents
        held = study.rows("select")
        held = held[enough[held]]
        held = np.random.default_rng(config.seed).permutation(held)[:_WATCHED]
        train = self._rows[enough[self._rows]]
        if not len(train):
            raise GeneratorError(
                f"DREAM puts {self._documents} documents into a context; no probe has so many candidates that do not "
                "give it away. Set train.dream_documents lower, or generator.candidates higher."
            )
        candidates = np.searchsorted(self._searched, study.candidates)
        right = np.where(known, np.searchsorted(self._searched, study.positive), -1)
        return dream.Lesson(study.probes, candidates, fit, right, study.weights, train, held)

    @property
    def _documents(self) -> int:
        return min(self._config.dream_documents, int(self._study.candidates.shape[1]))

    @cached_property
    def _found(self) -> tuple[Heads, Gap]:
        """Heads that obey, and what there is to learn: from known-item probes, half for each."""
        study, lesson, config = self._study, self._probed, self._config
        if self._documents < 2:
            raise GeneratorError(
                "DREAM tells documents apart; a context of one has nothing to tell. Set train.dream_documents to 2 or "
                "more, or add documents."
            )
        enough = np.flatnonzero((study.positive >= 0) & (lesson.fit.sum(axis=1) >= self._documents))
        held_back = study.rows("confirm")  # which the gate alone may see
        known = _telling(study, np.setdiff1d(enough, held_back))
        known = np.random.default_rng(config.seed).permutation(known)[: 2 * _FOUND]
        if len(known) < 2:
            raise GeneratorError(
                "DREAM finds by known items which heads of the language model look for what is asked; there are none. "
                "Add documents with titles or sentences."
            )
        finders, judges = known[: len(known) // 2], known[len(known) // 2 :]
        documents = dream.arranged(lesson, finders, self._documents, np.random.default_rng(config.seed))
        right = (documents == lesson.right[finders][:, None]).argmax(axis=1)
        probes = [study.probes[row] for row in finders]
        heads = find(self._contexts, probes, documents, right, config.dream_heads, self._progress)
        schedule = dream.Schedule(self._documents, seed=config.seed)
        tried = dream.gap(self._contexts, heads, lesson, finders, schedule).mean(axis=1)
        best = dream.SHARES[int(np.argmax(tried))]  # chosen on some, told on others
        return heads, Gap.of(dream.gap(self._contexts, heads, lesson, judges, schedule, [best])[0])

    def _dream(self, kind: str, inner: Adapter | None) -> tuple[Student, Objective, dict[str, Any]]:
        study, lesson, config = self._study, self._probed, self._config
        heads, gap = self._found
        gap.check("dream")
        searched = self._contexts.texts, study.documents[self._searched]
        student = self._student(kind, inner, (self._texts_of_probes, study.queries), searched)
        schedule = dream.Schedule(self._documents, unit=max(gap.mean, _LEAST_UNIT), seed=config.seed)
        key = self._key(kind, inner, schedule, lesson.train, lesson.held, heads.chosen)
        objective = dream.Dream(lesson, self._contexts, heads, student, schedule, key)
        facts = {
            "gap": gap.mean,
            "gap_error": gap.error,
            "heads": len(heads.chosen),
            "head_rank": float(np.mean(heads.quality)),
            "chance": heads.chance,
            "sharper": sharpen(student, objective.tried(dream.SHARPER), dream.SHARPER),
        }
        return student, objective, facts

    @cached_property
    def _texts_of_probes(self) -> list[str]:
        return [probe.text for probe in self._study.probes]

    # Revela ---------------------------------------------------------------------------------------

    @cached_property
    def _chunked(self) -> tuple[revela.Lesson, Side, Side, bool, Gap]:
        """Batches, the chunks in them with their first halves, whether to even their voices, and the gap."""
        study, config = self._study, self._config
        begin, limit = self._lm.begin, min(config.tokens, self._box.limit)
        texts = study.texts[: study.size]
        tokens = [[*begin, *ids][:limit] for ids in self._lm.encode(texts)]
        long = np.array([row for row, ids in enumerate(tokens) if len(ids) >= _SHORT], dtype=np.int64)
        steps = max(config.steps, config.lora_steps if "lora" in config.adapters else 0)
        watched = -(-_WATCHED // config.revela_chunks)
        size = config.revela_chunks
        pools = long[
            plan(
                [texts[row] for row in long], study.documents[long], size, steps + watched, config.seed, self._progress
            )
        ]
        used, inverse = np.unique(pools, return_inverse=True)
        pools = inverse.reshape(pools.shape).astype(np.int64)
        chunks = [texts[row] for row in used]
        asked = revela.halves(chunks)
        lesson = revela.Lesson([tokens[row] for row in used], pools[watched:], pools[:watched])
        found = {}
        for even in (True, False):
            gaps = [
                revela.gap(self._box, [lesson.tokens[row] for row in pool], even)
                for pool in lesson.held[: max(_TRIED // size, 1)]
            ]
            found[even] = Gap.of(np.concatenate(gaps))
        even = found[True].mean >= found[False].mean
        vectors = self._base.queries(asked, self._progress)
        return lesson, (asked, vectors), (chunks, study.documents[used]), even, found[even]

    def _revela(self, kind: str, inner: Adapter | None) -> tuple[Student, Objective, dict[str, Any]]:
        lesson, asked, searched, even, gap = self._chunked
        gap.check("revela")
        box, learns = self._box, dict[str, nn.Parameter]()
        if self._config.revela_model == "lora":
            box, learns = self._box.learning(self._config.lora_rank, self._config.seed)
        student = self._student(kind, inner, asked, searched)
        schedule = revela.Schedule(even, max(gap.mean, _LEAST_UNIT), seed=self._config.seed)
        key = self._key(kind, inner, schedule, lesson.train, lesson.held, tuple(searched[0]))
        objective = revela.Revela(lesson, box, student, schedule, key, learns)
        facts = {
            "gap": gap.mean,
            "gap_error": gap.error,
            "even": even,
            "sharper": sharpen(student, objective.tried(revela.SHARPER), revela.SHARPER),
        }
        return student, objective, facts

    # both -----------------------------------------------------------------------------------------

    def _student(self, kind: str, inner: Adapter | None, queries: Side, documents: Side) -> Student:
        config, tau = self._config, self._study.tau
        if kind == "lora":
            pace = Pace(config.lora_rank, anchor=1.0, rate=5e-4, rate_scale=1e-2, seed=config.seed)
            return TextStudent(self._base.encoder, inner, config.lora_sides, queries, documents, tau, pace)
        words = Words.of(self._lexicon, queries[0], documents[0]) if kind == "hybrid" else None
        pace = Pace(strength=self._weight, width=config.sketch, seed=config.seed)
        return VectorStudent(queries[1], documents[1], words, tau, pace)

    def _adapter(self, student: Student, inner: Adapter | None) -> Adapter:
        config = self._config
        if isinstance(student, TextStudent):
            lora = replace(student.reader.lora(config.lora_sides), inner=inner)
            return lora.bound(self._base, self._progress)
        assert isinstance(student, VectorStudent)
        return made(*student.found(), self._lexicon, self._study, config.sketch)

    def _key(self, kind: str, inner: Adapter | None, *parts: object) -> str:
        """Hash of all that the bits of a run depend on."""
        study = self._study
        digest = hashlib.blake2b(digest_size=16)
        settings, mark = self._config.model_dump(mode="json"), fingerprint(self._base.encoder.fingerprint, inner)
        digest.update(repr((kind, self._lm.name, mark, settings, self._weight)).encode())
        for part in parts:
            told = part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode("utf-8", "surrogatepass")
            digest.update(told)
        digest.update("\0".join([*self._texts_of_probes, *study.texts]).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def _telling(study: Study, rows: Rows) -> Rows:
    """Those of the most telling kinds. The first sentence of a document need not be in the rest of it at all."""
    found = np.empty(0, dtype=np.int64)
    for kind in _KINDS:
        if len(found) < _FEW:
            own = [row for row in rows.tolist() if study.probes[row].kind == kind]
            found = np.concatenate([found, np.array(own, dtype=np.int64)])
    return found

"""Scorer that computes likelihood gains with a causal language model and caches its scores."""

from __future__ import annotations

import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ragself.config import GeneratorConfig
from ragself.errors import GeneratorError
from ragself.lm.gain import FLOORS, IRRELEVANT, gain, level
from ragself.lm.language_model import LanguageModel, Likelihoods, Pair, identify
from ragself.lm.prompts import TARGET_TOKENS, lay_out, prompt, template
from ragself.lm.score_cache import ModelRecord, ScoreCache, digest
from ragself.progress import Progress, silent
from ragself.schema import Account, Probe

logger = logging.getLogger(__name__)

NOISE_PAIRS = 200  # pairs scored twice to measure noise, once per model
_SMALLEST = 16  # minimum token limit of a model
_BLOCK = 64  # probes per cache lookup
_TOGETHER = 32  # pairs tokenised at once
_REMEMBERED = 4096  # tokenised texts kept in memory
_BROKEN = 0.1  # share of pairs without a likelihood above which the model itself counts as broken


class LanguageModelScorer:
    """Gains computed by a causal language model; each pair is scored once and cached.

    The gain of document d for a target of T tokens is

        1/T sum_t clip( log p(y_t | d, y_<t) - mean_n log p(y_t | n, y_<t), -3, 3 )

    over irrelevant documents n of about the same length, so that neither the prompt format nor the context length
    counts as a gain (REPLUG, Shi et al. 2023, without the subtraction; the subtraction as in InfoGain-RAG).
    """

    def __init__(
        self,
        documents: Sequence[str],
        corpus: int,
        generator: LanguageModel,
        cache: ScoreCache,
        config: GeneratorConfig,
        account: Account | None = None,
    ) -> None:
        """Prepare the scorer; nothing is scored yet.

        Args:
            documents: Texts that targets are scored against.
            corpus: Number of leading documents that may serve as irrelevant ones.
            generator: The language model.
            cache: Cache of its scores.
            config: Settings; the maximum number of tokens read from a document.
            account: Account that costs are added to; None creates one.

        Raises:
            GeneratorError: The model's token limit is too low.
        """
        if generator.limit < _SMALLEST:
            raise GeneratorError(
                f"{generator.name} takes {generator.limit} tokens; at least {_SMALLEST} are needed, and some hundreds "
                "are recommended. Serve it with a higher --max-model-len, or use another model."
            )
        self.name = generator.name
        self.account = account if account is not None else Account()
        self._documents, self._corpus = documents, corpus
        self._generator, self._cache = generator, cache
        self._limit = min(generator.limit, config.context + 2 * TARGET_TOKENS)
        self._room = config.context
        self._lengths = np.array([len(text) for text in documents], dtype=np.int64)
        self._digests: dict[int, bytes] = {}
        self._model: ModelRecord | None = cache.latest(generator.name)
        self._sure = False  # whether the model is confirmed to be the one in the cache
        self._unanswered: set[bytes] = set()
        self._remembered: OrderedDict[str, list[int]] = OrderedDict()

    def gains(
        self, probes: Sequence[Probe], candidates: NDArray[np.int64], progress: Progress = silent
    ) -> NDArray[np.float32]:
        """Compute the gain of each probe's target from its candidates; see `LikelihoodScorer.gains`.

        Gains that differ by less than three times the model's noise become equal. Scores so far stay cached on errors.

        Raises:
            GeneratorError: The model is lost, or has no likelihood for a tenth of the pairs.
        """
        rows = np.concatenate([candidates, self._irrelevant(probes, candidates)], axis=1)
        out = np.empty(candidates.shape, dtype=np.float32)
        # Probes with the same target are adjacent, so that no pair is scored twice.
        order = sorted(range(len(probes)), key=lambda row: (probes[row].target, probes[row].kind))
        missing = self._fill(order, probes, rows, out)
        unmeasured = self._model is None or self._model.floor is None
        if len(order) and (missing or unmeasured) and not self._sure:
            known, self._model, self._sure = self._model, identify(self._generator, self._cache), True
            if known is not None and known.id != self._model.id:
                logger.warning("%s is not the model whose scores are cached: scoring again", self.name)
                missing = self._fill(order, probes, rows, out)
        if missing:
            self._ask(missing, probes, rows, progress)
            self._fill(missing, probes, rows, out)
            if len(self._unanswered) > _BROKEN * max(rows.size, 10):
                raise GeneratorError(
                    f"{self.name} has no likelihood (NaN or none) for {len(self._unanswered)} of {rows.size} texts. "
                    "Its number format may be too narrow: try float32 or bfloat16 (vllm serve --dtype)."
                )
        self.account.pairs += rows.size
        self.account.floor = self._noise(probes, rows) if len(probes) else 0.0
        return level(out, FLOORS * self.account.floor)

    def time(self, probes: Sequence[Probe], candidates: NDArray[np.int64], progress: Progress = silent) -> float:
        """Measure tokens per second on a few pairs, whose scores are cached. Raises GeneratorError."""
        self._model, self._sure = identify(self._generator, self._cache), True
        self._ask(range(len(probes)), probes, candidates, progress)
        return self._model.rate or 1.0

    # cached scores --------------------------------------------------------------------------------

    def _fill(
        self, order: Sequence[int], probes: Sequence[Probe], rows: NDArray[np.int64], out: NDArray[np.float32]
    ) -> list[int]:
        """Compute the gains of probes whose scores are all cached. Returns the other probes."""
        missing: list[int] = []
        for start in range(0, len(order), _BLOCK):
            block = order[start : start + _BLOCK]
            keys = [self._keys(probes[row], rows[row]) for row in block]
            found = self._cache.look_up([key for of_probe in keys for key in of_probe]) if self._model else {}
            for row, of_probe in zip(block, keys, strict=True):
                if all(key in found or key in self._unanswered for key in of_probe):
                    out[row] = gain([found.get(key) for key in of_probe])
                else:
                    missing.append(row)
        return missing

    def _keys(self, probe: Probe, rows: NDArray[np.int64]) -> list[bytes]:
        """Cache keys of a probe and some documents: model, template, query, target, token limits, document."""
        if self._model is None:
            return [b""] * len(rows)
        made = template(probe)
        query = probe.text if "{query}" in made.tail else ""
        head = digest(f"{self.name}#{self._model.id}", made.name, query, probe.target, f"{self._room}/{self._limit}")
        return [head + self._digest(row) for row in rows.tolist()]

    def _digest(self, row: int) -> bytes:
        found = self._digests.get(row)
        if found is None:
            found = self._digests[row] = digest(self._documents[row])
        return found

    def _irrelevant(self, probes: Sequence[Probe], candidates: NDArray[np.int64]) -> NDArray[np.int64]:
        """Random documents that are not candidates: of those drawn, the nearest to the candidates in length, (P, 2)."""
        out = np.empty((len(probes), IRRELEVANT), dtype=np.int64)
        for row, probe in enumerate(probes):
            random = np.random.default_rng(int.from_bytes(digest(probe.id)[:8], "big"))
            drawn = random.choice(self._corpus, size=min(64, self._corpus), replace=False)
            free = drawn[~np.isin(drawn, candidates[row])][:16]
            free = free if len(free) >= IRRELEVANT else np.resize(drawn, IRRELEVANT)
            length = np.median(self._lengths[candidates[row]])
            out[row] = free[np.argsort(np.abs(self._lengths[free] - length), kind="stable")[:IRRELEVANT]]
        return out

    # scoring --------------------------------------------------------------------------------------

    def _ask(
        self, missing: Sequence[int], probes: Sequence[Probe], rows: NDArray[np.int64], progress: Progress
    ) -> None:
        assert self._model is not None  # identified before
        total = sum(1 for _ in self._wanted(missing, probes, rows))
        flying: dict[int, tuple[bytes, int]] = {}
        done, began = 0, time.monotonic()
        progress("score", 0, total)
        for batch in self._generator.score(self._pairs(missing, probes, rows, flying)):
            answers: list[tuple[bytes, Likelihoods]] = []
            for position, answer in batch:
                key, tokens = flying.pop(position)
                self.account.tokens += tokens
                if answer is None:
                    self._unanswered.add(key)
                    self.account.unanswered += 1
                else:
                    answers.append((key, answer))
            self._cache.store(self._model, answers)
            done += len(batch)
            progress("score", min(done, total), total)
        seconds = time.monotonic() - began
        self.account.asked += done
        self.account.seconds += seconds
        if self.account.seconds:
            self._model = replace(self._model, rate=self.account.tokens / self.account.seconds)
            self._cache.note(self._model)

    def _wanted(
        self, missing: Sequence[int], probes: Sequence[Probe], rows: NDArray[np.int64]
    ) -> Iterator[tuple[bytes, int, int]]:
        """Key, probe and document of each score that is not cached, each once."""
        target: str | None = None
        seen: set[bytes] = set()  # keys of the current target; no other target has the same ones
        for start in range(0, len(missing), _BLOCK):
            fresh: dict[bytes, tuple[int, int]] = {}
            for row in missing[start : start + _BLOCK]:
                if probes[row].target != target:
                    target, seen = probes[row].target, set()
                for key, document in zip(self._keys(probes[row], rows[row]), rows[row].tolist(), strict=True):
                    if key not in seen and key not in self._unanswered:
                        seen.add(key)
                        fresh[key] = (row, document)
            found = self._cache.look_up(list(fresh))
            yield from ((key, *at) for key, at in fresh.items() if key not in found)

    def _pairs(
        self,
        missing: Sequence[int],
        probes: Sequence[Probe],
        rows: NDArray[np.int64],
        flying: dict[int, tuple[bytes, int]],
    ) -> Iterator[Pair]:
        """Pairs, as the generator consumes them; records the key and token count of each in `flying`."""
        position = 0
        wanted = self._wanted(missing, probes, rows)
        while few := list(itertools.islice(wanted, _TOGETHER)):
            made = [self._pieces(probes[row], self._documents[document]) for _, row, document in few]
            self._encode([piece for pieces in made for piece in pieces])  # all at once
            for (key, _, _), pieces in zip(few, made, strict=True):
                pair = self._lay_out(pieces)
                flying[position] = (key, len(pair[0]) + len(pair[1]))
                position += 1
                yield pair

    def _pair(self, probe: Probe, document: str) -> Pair:
        return self._lay_out(self._pieces(probe, document))

    def _pieces(self, probe: Probe, document: str) -> list[str]:
        made = prompt(document, probe)
        return [made.head, made.document, made.tail, made.target]

    def _lay_out(self, pieces: Sequence[str]) -> Pair:
        head, body, tail, target = self._encode(pieces)
        return lay_out(self._generator.begin, head, body, tail, target, self._room, self._limit)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        new = [text for text in dict.fromkeys(texts) if text not in self._remembered]
        fresh = dict(zip(new, self._generator.encode(new), strict=True)) if new else {}
        out = [fresh[text] if text in fresh else self._remembered[text] for text in texts]
        self._remembered.update(fresh)
        for text in texts:
            self._remembered.move_to_end(text)
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return out

    # noise ----------------------------------------------------------------------------------------

    def _noise(self, probes: Sequence[Probe], rows: NDArray[np.int64]) -> float:
        """Root mean square difference between two scores of the same 200 pairs, nats per token.

        It is measured once per model: scores vary with the other texts in a batch, most of all in bfloat16.
        """
        if self._model is None:
            return 0.0
        if self._model.floor is not None:
            return self._model.floor
        random = np.random.default_rng(0)
        cells = random.permutation(rows.size)[:NOISE_PAIRS]
        chosen = [(int(cell) // rows.shape[1], int(rows.flat[cell])) for cell in cells]
        keys = [self._keys(probes[row], np.array([document]))[0] for row, document in chosen]
        known = self._cache.look_up(keys)
        pairs = [self._pair(probes[row], self._documents[document]) for row, document in chosen]
        differences = [
            float((answer - known[keys[position]]).mean())
            for batch in self._generator.score(pairs)
            for position, answer in batch
            if answer is not None and keys[position] in known
        ]
        floor = float(np.sqrt(np.mean(np.square(differences)))) if differences else 0.0
        self._model = replace(self._model, floor=floor)
        self._cache.note(self._model)
        return floor

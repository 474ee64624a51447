"""A language model in a page: answers are hashes of token ids, and it keeps book of what it was asked."""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ragself.errors import GeneratorError
from ragself.lm.language_model import CANARY, Likelihoods, Pair
from ragself.lm.prompts import Writing

BEGIN = 7
Frozen = tuple[tuple[int, ...], tuple[int, ...]]


def ids(text: str) -> list[int]:
    """One token a word."""
    return [8 + zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in text.split()]


def frozen(pair: Pair) -> Frozen:
    return tuple(pair[0]), tuple(pair[1])


class FakeGenerator:
    """A `LanguageModel` whose tokens are words; a word that the context holds is likelier, the rest is chance.

    Args:
        name: What it calls itself.
        limit: Tokens of context and target.
        seed: Another seed is another model.
        window: Pairs that it takes before it answers the first of them.
        batch: Answers at once; batches come last first, and their answers too.
        fails_after: Batches after which it is gone, for good.
        mute: Says which pairs have no likelihood.
        noise: Nats per token that its answer to a pair moves each time it is asked again.
        written: What it writes about a document, given the name of the wording.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        limit: int = 4096,
        seed: int = 0,
        window: int = 40,
        batch: int = 8,
        fails_after: int | None = None,
        mute: Callable[[Pair], bool] = lambda pair: False,
        noise: float = 0.0,
        written: Callable[[str, str], str | None] = lambda document, wording: None,
    ) -> None:
        self.name, self.limit, self.begin = name, limit, [BEGIN]
        self._seed, self._window, self._batch, self._left = seed, window, batch, fails_after
        self._mute, self._noise, self._written = mute, noise, written
        self.pairs: list[Frozen] = []
        self.canaries = 0
        self.writes: list[tuple[str, str]] = []
        self.encoded = self.encodings = 0
        self.closed = 0
        self._often: Counter[Frozen] = Counter()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        self.encoded += len(texts)
        self.encodings += 1
        return [ids(text) for text in texts]

    def likelihood(self, pair: Pair) -> Likelihoods:
        """What it answers when it is asked first."""
        context, target = pair
        random = np.random.default_rng(zlib.crc32(repr((self._seed, *frozen(pair))).encode()))
        held = np.isin(np.array(target), np.array(context))
        return (random.uniform(-6.0, -4.0, len(target)) + 2.0 * held).astype(np.float32)

    def score(self, pairs: Iterable[Pair]) -> Iterator[list[tuple[int, Likelihoods | None]]]:
        numbered = enumerate(pairs)
        while window := list(itertools.islice(numbered, self._window)):
            for _, pair in window:
                self._note(pair)
            for start in reversed(range(0, len(window), self._batch)):
                self._work()
                yield [(at, self._answer(pair)) for at, pair in reversed(window[start : start + self._batch])]

    def write(self, documents: Sequence[str], writing: Writing) -> Iterator[list[tuple[int, str | None]]]:
        rows = list(enumerate(documents))
        for start in reversed(range(0, len(rows), self._batch)):
            self._work()
            batch = rows[start : start + self._batch]
            self.writes += [(document, writing.name) for _, document in batch]
            yield [(at, self._written(document, writing.name)) for at, document in reversed(batch)]

    def close(self) -> None:
        self.closed += 1

    def _note(self, pair: Pair) -> None:
        if pair[1] == ids(CANARY)[: self.limit // 2]:
            self.canaries += 1
        else:
            self.pairs.append(frozen(pair))

    def _work(self) -> None:
        if self._left == 0:
            raise GeneratorError("gone")
        if self._left is not None:
            self._left -= 1

    def _answer(self, pair: Pair) -> Likelihoods | None:
        assert pair[0], "the context is empty"
        assert pair[1], "the target is empty"
        assert len(pair[0]) + len(pair[1]) <= self.limit, "the pair is too long"
        if self._mute(pair):
            return None
        self._often[frozen(pair)] += 1
        return self.likelihood(pair) + np.float32(self._noise * (self._often[frozen(pair)] - 1))

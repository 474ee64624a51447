"""A causal language model, wherever it runs: what it must be able to do to supervise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ragself.config import GeneratorConfig
from ragself.errors import GeneratorError
from ragself.lm.prompts import Writing
from ragself.lm.score_cache import ModelRecord, ScoreCache

Pair: TypeAlias = tuple[list[int], list[int]]
"""Token ids of a context, at least one, and of a target, at least one."""

Likelihoods: TypeAlias = NDArray[np.float32]
"""(target tokens,) float32, log p of each target token in nats."""

CANARY = "The quick brown fox jumps over the lazy dog. 3.14159 is not 2.71828, and Zürich is not Genève."
"""A text whose likelihood tells one model from another that is served under the same name."""


class Generator(Protocol):
    """A causal language model.

    Attributes:
        name: Where it runs, and model and revision or weights: what decides its answers.
        limit: Tokens of context and target together, at most.
        begin: Ids that its tokenizer puts before every text, often one or none.
    """

    name: str
    limit: int

    @property
    def begin(self) -> list[int]:
        """Ids before every text."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens around it."""
        ...

    def score(self, pairs: Iterable[Pair]) -> Iterator[list[tuple[int, Likelihoods | None]]]:
        """Score pairs, taken as they are needed.

        Returns:
            Batches as they are done, in any order: position of the pair, and its log p; None where the model has
            none to give, such as NaN.

        Raises:
            GeneratorError: The model cannot be reached or cannot do it; what was yielded before stays good.
        """
        ...

    def write(self, documents: Sequence[str], writing: Writing) -> Iterator[list[tuple[int, str | None]]]:
        """Write a question that each document answers, worded as `writing` asks; in batches, as `score` does."""
        ...

    def close(self) -> None:
        """Let go of connections and memory. Safe to call twice."""
        ...


def identify(generator: Generator, cache: ScoreCache) -> ModelRecord:
    """Ask the model for the likelihood of a fixed text, and find under whose name its answers are stored.

    Raises:
        GeneratorError: It has none.
    """
    ids = generator.encode([CANARY])[0]
    half = generator.limit // 2
    ((_, answer),) = next(iter(generator.score([([*generator.begin, *ids][:half], ids[:half])])))
    if answer is None:
        raise GeneratorError(
            f"{generator.name} has no likelihood (NaN) for plain English: its weights or its number format are broken. "
            "Try float32."
        )
    return cache.identify(generator.name, answer)


def open_generator(config: GeneratorConfig) -> Generator | None:
    """Open the model that the settings name, None where they name none.

    Raises:
        GeneratorError: It cannot be loaded or reached.
    """
    if config.url:
        from ragself.lm.vllm.generator import Vllm

        return Vllm(config)
    if config.model:
        from ragself.lm.causal import CausalLM

        return CausalLM(config)
    return None

"""The protocol of a causal language model that scores and writes texts, in this process or on a server."""

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
"""Token ids of a context and of a target, at least one each."""

Likelihoods: TypeAlias = NDArray[np.float32]
"""(target tokens,) float32, log p of each target token in nats."""

CANARY = "The quick brown fox jumps over the lazy dog. 3.14159 is not 2.71828, and Zürich is not Genève."
"""A fixed text; its likelihood distinguishes models that are served under the same name."""


class LanguageModel(Protocol):
    """A causal language model.

    Attributes:
        name: Everything that determines its scores: where it runs, the model, and the revision or weights.
        limit: Maximum number of tokens of context and target together.
        begin: Ids that its tokenizer puts before every text, often one or none.
    """

    name: str
    limit: int

    @property
    def begin(self) -> list[int]:
        """Ids that the tokenizer puts before every text."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens around it."""
        ...

    def score(self, pairs: Iterable[Pair]) -> Iterator[list[tuple[int, Likelihoods | None]]]:
        """Score pairs, which are consumed lazily.

        Returns:
            Batches in order of completion: position of each pair and its log p; None where the model has none, for
            example NaN.

        Raises:
            GeneratorError: The model cannot be reached or cannot score; batches yielded before remain valid.
        """
        ...

    def write(self, documents: Sequence[str], writing: Writing) -> Iterator[list[tuple[int, str | None]]]:
        """Write a question that each document answers, with the prompt `writing`; in batches, like `score`."""
        ...

    def close(self) -> None:
        """Release connections and memory. Safe to call twice."""
        ...


def identify(generator: LanguageModel, cache: ScoreCache) -> ModelRecord:
    """Score a fixed text with the model and find or create the model's record in the cache.

    Raises:
        GeneratorError: The model has no likelihood for the text.
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


def open_language_model(config: GeneratorConfig) -> LanguageModel | None:
    """Open the model that the settings name; None if they name none.

    Raises:
        GeneratorError: The model cannot be loaded or reached.
    """
    if config.url:
        from ragself.lm.vllm.generator import Vllm

        return Vllm(config)
    if config.model:
        from ragself.lm.causal import CausalLM

        return CausalLM(config)
    return None

"""Estimates the cost of re-embedding the documents with a fine-tuned encoder."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from ragself.config import TrainConfig
from ragself.encoders.vectors import BaseVectors
from ragself.schema import Reembedding

_SAMPLE = 32  # texts for timing the encoder


def reembedding(base: BaseVectors, texts: Sequence[str], config: TrainConfig) -> Reembedding | None:
    """Number of documents that `lora` re-embeds, and the estimated time on this machine.

    The base encoder is timed, because merged weights cost the same. The evaluation encodes each text once, and the new
    index reuses these vectors.

    Args:
        base: Base vectors, whose encoder is timed; it is not loaded if there is nothing to encode.
        texts: Documents, including the forms that their own probes see.
        config: Settings `adapters` and `lora.sides`.

    Returns:
        None if no encoder is fine-tuned; 0 documents and 0 seconds if only queries are encoded.
    """
    if "lora" not in config.adapters:
        return None
    texts = list(dict.fromkeys(texts))
    if config.lora.sides == "query" or not texts:
        return Reembedding(0, 0.0)
    sample = [texts[row] for row in np.random.default_rng(0).permutation(len(texts))[:_SAMPLE]]
    base.encoder.documents(sample[:1])  # warm-up: the first call takes longer
    began = time.perf_counter()
    base.encoder.documents(sample)
    return Reembedding(len(texts), (time.perf_counter() - began) / len(sample) * len(texts))

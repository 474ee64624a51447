"""What a tuned encoder has to read again before anything can be served by it: told before it is paid."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from ragself.config import TrainConfig
from ragself.encoders.vectors import BaseVectors
from ragself.schema import Reembedding

_SAMPLE = 32  # texts that the encoder is timed with


def reembedding(base: BaseVectors, texts: Sequence[str], config: TrainConfig) -> Reembedding | None:
    """How many documents `lora` encodes again, and about how long that takes here.

    Merged weights cost what the base costs, so that the base encoder is timed. Judging encodes each text once, and the
    new index takes the vectors from there.

    Args:
        base: Whose encoder is timed; it is not loaded where nothing is to be encoded.
        texts: Documents, also as they are shown to their own probes.
        config: Which adapters, and which sides `lora` encodes.

    Returns:
        None where no encoder is tuned; no documents and no time where queries alone are encoded.
    """
    if "lora" not in config.adapters:
        return None
    texts = list(dict.fromkeys(texts))
    if config.lora_sides == "query" or not texts:
        return Reembedding(0, 0.0)
    sample = [texts[row] for row in np.random.default_rng(0).permutation(len(texts))[:_SAMPLE]]
    base.encoder.documents(sample[:1])  # the first takes longer than others
    began = time.perf_counter()
    base.encoder.documents(sample)
    return Reembedding(len(texts), (time.perf_counter() - began) / len(sample) * len(texts))

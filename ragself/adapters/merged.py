"""Merges an encoder and a linear adapter into one sentence-transformers model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.protocol import Adapter
from ragself.adapters.residual import Residual
from ragself.encoders.encoder import Encoder
from ragself.errors import InputError


def check_linear(adapter: Adapter | None) -> Residual | None:
    """The adapter if it can be merged. Raises InputError if it is not a linear map of the vectors."""
    if adapter is not None and not isinstance(adapter, Residual):
        raise InputError(
            f"A {adapter.kind} adapter changes the encoder itself, possibly for queries only, and cannot be merged. "
            "Export it with its own loader: leave --format out."
        )
    return adapter


def save_merged(encoder: Encoder, adapter: Adapter | None, directory: Path) -> None:
    """Write a folder that `SentenceTransformer(directory)` loads, without ragself.

    Args:
        encoder: The base model.
        adapter: A residual adapter, or None for the unchanged base model.
        directory: An empty folder.

    Raises:
        InputError: The adapter is not a linear map of the vectors.
    """
    model = encoder.extended(*_modules(check_linear(adapter)))
    model.save(str(directory), create_model_card=False, safe_serialization=True)


def _modules(adapter: Residual | None) -> list[Any]:
    import torch

    try:
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize
    except ImportError:  # earlier releases
        from sentence_transformers.models import Dense, Normalize

    if adapter is None:
        return [Normalize()]
    width = adapter.dimension
    dense = Dense(width, width, bias=False, activation_function=torch.nn.Identity())
    weight: NDArray[np.float32] = (np.eye(width, dtype=np.float32) + adapter.down @ adapter.up).T
    with torch.no_grad():
        dense.linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    return [Normalize(), dense, Normalize()]

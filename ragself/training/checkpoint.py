"""Checkpoints of training: safetensors replaced atomically, so that a killed run resumes with the same bits."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ragself.errors import StoreError

logger = logging.getLogger(__name__)

_KEY = "run"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def write(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with the key of their run, replacing the file atomically.

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    scratch = path.with_name(path.name + ".new")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, scratch, {_KEY: key})
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    except (SafetensorError, OSError) as error:
        raise StoreError(f"Cannot write {path}: {error}. Free some space or fix the permissions.") from error


def read(path: Path, key: str) -> dict[str, Tensor]:
    """Read the tensors written with a key; none if the file is missing, damaged or has another key."""
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(_KEY) != key:
                logger.info("%s belongs to another run; training starts over", path)
                return {}
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read (%s); training starts over", path, error)
        return {}


def moments(optimiser: torch.optim.AdamW, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """State of the optimiser for each weight, as ``NAME/exp_avg`` and so on; empty before its first step."""
    return {
        f"{name}/{part}": optimiser.state[weight][part]
        for name, weight in weights.items()
        if weight in optimiser.state
        for part in _MOMENTS
    }


def restore(optimiser: torch.optim.AdamW, weights: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
    """Restore the state of the optimiser from the result of `moments`."""
    for name, weight in weights.items():
        if f"{name}/step" in saved:
            optimiser.state[weight] = {part: saved[f"{name}/{part}"].clone() for part in _MOMENTS}

"""How far training is, on disk: safetensors written in one step, so that a killed run goes on with the same bits."""

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
    """Write tensors under the key of what they belong to, replacing the file in one step.

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
        raise StoreError(f"Cannot write {path}: {error}. Free some space or mend the permissions.") from error


def read(path: Path, key: str) -> dict[str, Tensor]:
    """What was written under that key; nothing where the file is missing, damaged or of another key."""
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(_KEY) != key:
                logger.info("%s is of another run; training begins anew", path)
                return {}
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read (%s); training begins anew", path, error)
        return {}


def moments(optimiser: torch.optim.AdamW, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What the optimiser remembers of each weight, as ``NAME/exp_avg`` and so on; nothing before its first step."""
    return {
        f"{name}/{part}": optimiser.state[weight][part]
        for name, weight in weights.items()
        if weight in optimiser.state
        for part in _MOMENTS
    }


def restore(optimiser: torch.optim.AdamW, weights: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
    """Give the optimiser back what `moments` took."""
    for name, weight in weights.items():
        if f"{name}/step" in saved:
            optimiser.state[weight] = {part: saved[f"{name}/{part}"].clone() for part in _MOMENTS}

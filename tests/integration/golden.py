"""Fingerprints of trained adapters, so that a change that should not change training is seen not to.

    RENEW_GOLDEN=1 pytest tests/integration -k golden

writes them anew, where training was changed on purpose.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

STORED = Path(__file__).with_name("golden.json")
_TOLERANCE = 2e-3  # processors differ in the last bits, which training makes larger


def assert_golden(name: str, folder: Path) -> None:
    """Compare the adapters that the last pass of a knowledge base trained with those that are stored as `name`."""
    found = {path.stem: _fingerprint(load_file(path)) for path in sorted((folder / "pass").glob("*.safetensors"))}
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    if os.environ.get("RENEW_GOLDEN"):
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted((stored | {name: found}).items())]
        STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    expected = stored[name]
    assert found.keys() == expected.keys()
    for kind, tensors in expected.items():
        assert found[kind].keys() == tensors.keys()
        for tensor, values in tensors.items():
            assert found[kind][tensor] == pytest.approx(values, rel=_TOLERANCE, abs=1e-6), f"{name}, {kind}, {tensor}"


def _fingerprint(tensors: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    """Length, norm, and a projection of each tensor."""
    found = {}
    for name, tensor in tensors.items():
        flat = tensor.astype(np.float64).ravel()
        weights = np.cos(np.arange(len(flat)))
        norm = float(np.linalg.norm(flat))
        found[name] = [len(flat), float(f"{norm:.6g}"), float(f"{(flat @ weights) / max(norm, 1e-12):.6g}")]
    return found

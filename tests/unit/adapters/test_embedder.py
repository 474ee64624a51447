import json
from pathlib import Path

import numpy as np
import pytest

from ragself.adapters.embedder import Embedder, check_canary
from ragself.adapters.protocol import normalise
from ragself.errors import AdapterError, EncoderError

EXPECTED = normalise(np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32))


def turned(cosine: float, row: int) -> np.ndarray:
    """The canaries, one of them turned away to a given cosine."""
    other = np.roll(EXPECTED[row], 1)
    other -= (other @ EXPECTED[row]) * EXPECTED[row]
    found = EXPECTED.copy()
    found[row] = cosine * EXPECTED[row] + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)
    return found


def test_the_same_vectors_and_those_of_another_machine_pass() -> None:
    check_canary(EXPECTED, EXPECTED, "m")
    check_canary(turned(0.9995, 1), EXPECTED, "m")


@pytest.mark.parametrize("row", [0, 1, 2])
def test_one_canary_that_differs_is_enough(row: int) -> None:
    with pytest.raises(EncoderError, match=r"'org/m'.*cosine 0\.9980"):
        check_canary(turned(0.998, row), EXPECTED, "org/m")


@pytest.mark.parametrize("found", [EXPECTED[:, :8], EXPECTED[:2], np.zeros_like(EXPECTED), -EXPECTED])
def test_vectors_of_another_shape_or_direction_are_refused(found: np.ndarray) -> None:
    with pytest.raises(EncoderError):
        check_canary(found, EXPECTED, "m")


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(EncoderError):
        check_canary(2 * EXPECTED, EXPECTED, "m")


def test_vectors_that_are_no_numbers_are_refused() -> None:
    found = EXPECTED.copy()
    found[1] = np.nan
    with pytest.raises(EncoderError):
        check_canary(found, EXPECTED, "m")


@pytest.mark.parametrize("content", ["", "{", "{}", '{"base_model": "m", "kind": "base"}'])
def test_a_folder_that_is_no_export_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "ragself.json").write_text(content)
    with pytest.raises(AdapterError, match="not an exported version"):
        Embedder.load(tmp_path)
    with pytest.raises(AdapterError, match="not an exported version"):
        Embedder.load(tmp_path / "nowhere")


def test_an_export_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ragself.json").write_text(json.dumps(["m"]))
    with pytest.raises(AdapterError):
        Embedder.load(tmp_path)

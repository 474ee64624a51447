import numpy as np
import pytest

from ragself.adapters.protocol import normalise
from ragself.errors import VerificationError
from ragself.index.reindex import _compare

STORED = normalise(np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32))


def test_vectors_that_are_the_same_but_for_the_last_bits_agree() -> None:
    _compare(STORED, STORED + 1e-6, "stored vectors", "others")


@pytest.mark.parametrize("by", [0.9, 1.1, -1.0, np.nan])
def test_a_vector_of_another_length_or_direction_is_found(by: float) -> None:
    wrong = STORED.copy()
    wrong[3] *= by
    with pytest.raises(VerificationError, match="agree only to a cosine"):
        _compare(wrong, STORED, "stored vectors", "others")


def test_vectors_of_another_width_are_found() -> None:
    with pytest.raises(VerificationError, match=r"\(5, 40\) and others \(5, 39\)"):
        _compare(STORED, STORED[:, 1:], "stored vectors", "others")

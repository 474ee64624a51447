import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ragself.lm.gain import CLIP, IRRELEVANT, gain, level

Answer = NDArray[np.float32] | None


def answers(*rows: list[float] | None) -> list[Answer]:
    return [None if row is None else np.array(row, dtype=np.float32) for row in rows]


def slow(rows: list[Answer]) -> list[float]:
    """The formula of LanguageModelScorer, token by token."""
    without = [row.tolist() for row in rows[-2:] if row is not None]
    out = []
    for row in rows[:-2]:
        if row is None or not without:
            out.append(-np.inf)
            continue
        tokens = row.tolist()
        mean = [sum(other[t] for other in without) / len(without) for t in range(len(tokens))]
        out.append(sum(min(max(tokens[t] - mean[t], -3.0), 3.0) for t in range(len(tokens))) / len(tokens))
    return out


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32), st.floats(0.0, 1.0))
@settings(deadline=None)
def test_gains_are_those_of_the_formula(candidates: int, tokens: int, seed: int, silent: float) -> None:
    draw = np.random.default_rng(seed)
    rows: list[Answer] = [
        None if draw.random() < silent else draw.normal(-5, 4, tokens).astype(np.float32)
        for _ in range(candidates + IRRELEVANT)
    ]
    found = gain(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow(rows), rtol=1e-5, atol=1e-5)


def test_a_document_that_says_no_more_than_irrelevant_ones_gains_nothing() -> None:
    assert gain(answers([-1, -2], [-2, -4], [-1, -2], [-1, -2])).tolist() == [0.0, -1.5]


def test_one_token_gains_and_loses_no_more_than_the_clip() -> None:
    found = gain(answers([-0.1, -5, -5, -5], [-40, -5, -5, -5], [-20, -5, -5, -5], [-20, -5, -5, -5]))
    assert found.tolist() == [CLIP / 4, -CLIP / 4]


def test_irrelevant_documents_are_averaged_token_by_token_before_the_clip() -> None:
    # The mean of clipped differences would be (3 + 1) / 2.
    assert gain(answers([-1], [-9], [-2])).tolist() == [3.0]
    assert gain(answers([-1, -1], [-2, -4], [-4, -2])).tolist() == [2.0]


def test_without_an_answer_there_is_no_gain() -> None:
    found = gain(answers([-1], None, [-3], [-2], [-4]))
    assert found.tolist() == [2.0, -np.inf, 0.0]
    assert gain(answers(None, None, [-2], [-4])).tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("other", [([-2.0], None), (None, [-2.0])])
def test_one_irrelevant_document_is_enough_and_none_is_too_few(other: tuple[list[float] | None, ...]) -> None:
    assert gain(answers([-1], [-3], *other)).tolist() == [1.0, -1.0]
    assert gain(answers([-1], [-3], None, None)).tolist() == [-np.inf, -np.inf]


GAPS = st.sampled_from([1e-3, 0.02, 0.1, 0.5, 2.0])
FINITE = st.one_of(st.floats(-3, 3, width=32), st.integers(-30, 30).map(lambda tenths: float(np.float32(tenths / 10))))
ROWS = st.integers(1, 9).flatmap(
    lambda width: st.lists(
        st.lists(st.one_of(FINITE, FINITE, FINITE, st.just(-np.inf)), min_size=width, max_size=width), max_size=4
    ).map(lambda rows: np.array(rows, dtype=np.float32).reshape(len(rows), width))
)


@given(ROWS, GAPS)
@settings(deadline=None)
def test_gains_closer_than_the_gap_become_equal_and_all_others_stay_apart(
    gains: NDArray[np.float32], gap: float
) -> None:
    for before, after in zip(gains.astype(np.float64), level(gains, gap).astype(np.float64), strict=True):
        finite = np.flatnonzero(np.isfinite(before))
        for a in finite:
            for b in finite:
                if abs(before[a] - before[b]) < gap:
                    assert after[a] == after[b]
                assert after[a] == after[b] or abs(after[a] - after[b]) > gap - 1e-6
            if all(a == b or abs(before[a] - before[b]) >= gap for b in finite):
                assert after[a] == before[a]  # it has nothing near it to be joined with


@given(ROWS, GAPS)
@settings(deadline=None)
def test_the_order_of_gains_is_kept_and_their_sum_too(gains: NDArray[np.float32], gap: float) -> None:
    found = level(gains, gap)
    assert (found.dtype, found.shape) == (np.float32, gains.shape)
    for before, after in zip(gains, found, strict=True):
        assert (np.diff(after[np.argsort(before, kind="stable")][np.isfinite(np.sort(before))]) >= 0).all()
        finite = np.isfinite(before)
        np.testing.assert_array_equal(np.isfinite(after), finite)
        np.testing.assert_allclose(after[finite].sum(), before[finite].sum(), atol=1e-4)


@given(ROWS, GAPS)
@settings(deadline=None)
def test_infinite_gains_stay_and_are_near_to_nothing(gains: NDArray[np.float32], gap: float) -> None:
    found = level(gains, gap)
    np.testing.assert_array_equal(found[~np.isfinite(gains)], gains[~np.isfinite(gains)])
    for before, after in zip(gains, found, strict=True):
        finite = np.isfinite(before)
        np.testing.assert_array_equal(level(before[None, finite], gap)[0], after[finite])


@given(ROWS)
@settings(deadline=None)
def test_without_a_gap_nothing_changes(gains: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(level(gains, 0.0), gains)


def test_what_is_joined_by_others_becomes_equal_too() -> None:
    found = level(np.array([[0.0, 0.3, 0.1, 0.2, 0.9]], dtype=np.float32), 0.15)
    np.testing.assert_allclose(found, [[0.15, 0.15, 0.15, 0.15, 0.9]], atol=1e-6)


def test_gains_of_different_probes_have_nothing_to_do_with_each_other() -> None:
    gains = np.array([[0.0, 0.5], [0.01, 0.51]], dtype=np.float32)
    np.testing.assert_array_equal(level(gains, 0.1), gains)


def test_what_was_given_is_left_alone() -> None:
    gains = np.array([[0.0, 0.01]], dtype=np.float32)
    level(gains, 0.1)
    np.testing.assert_array_equal(gains, np.array([[0.0, 0.01]], dtype=np.float32))

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.probes.filters import HELP, RANGE, judge_probes

NONE = -np.inf
UNKNOWN = "probe without a likelihood"
UNHELPED = "probe that no document helps (gain below 0.02)"
ALIKE = "probe that all documents help alike (range below 0.1)"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([0.3, 0.0, 0.1], None),
        ([0.02, -0.081, 0.0], None),
        ([0.02, -0.079, 0.0], ALIKE),
        ([0.019, -3.0, 0.0], UNHELPED),
        ([-0.5, -0.5, -0.5], UNHELPED),
        ([1.0, 1.0, 1.0], ALIKE),
        ([1.0, 0.91, 0.95], ALIKE),
        ([1.0, 0.9, 0.95], None),
        ([1.0, NONE, NONE], ALIKE),  # what has no likelihood is not the worst
        ([NONE, 1.0, 0.5], None),
        ([0.01, NONE, -1.0], UNHELPED),
        ([NONE, NONE, NONE], UNKNOWN),
    ],
)
def test_a_probe_can_teach_where_documents_help_and_not_all_alike(row: list[float], reason: str | None) -> None:
    judged, dropped = judge_probes(np.array([row], dtype=np.float32))
    assert (judged.dtype, judged.tolist()) == (np.bool_, [reason is None])
    assert dropped == ({} if reason is None else {reason: 1})


def test_each_probe_that_cannot_teach_is_counted_once() -> None:
    rows = [[0.3, 0.0], [0.0, 0.0], [NONE, NONE], [1.0, 1.0], [-1.0, -2.0], [0.01, 0.0], [0.5, 0.1]]
    judged, dropped = judge_probes(np.array(rows, dtype=np.float32))
    assert judged.tolist() == [True, False, False, False, False, False, True]
    assert dropped == {UNKNOWN: 1, UNHELPED: 3, ALIKE: 1}


def test_a_probe_that_nobody_was_asked_about_cannot_teach_and_is_not_counted() -> None:
    rows = [[np.nan] * 3, [0.3, 0.0, 0.1], [NONE] * 3, [np.nan] * 3]
    judged, dropped = judge_probes(np.array(rows, dtype=np.float32))
    assert judged.tolist() == [False, True, False, False]
    assert dropped == {UNKNOWN: 1}


GAINS = st.lists(
    st.lists(st.one_of(st.floats(-3, 3, width=32), st.just(NONE)), min_size=4, max_size=4), max_size=12
).map(lambda rows: np.array(rows, dtype=np.float32).reshape(-1, 4))


@given(GAINS)
@settings(deadline=None)
def test_all_probes_are_judged_or_counted(gains: np.ndarray) -> None:
    judged, dropped = judge_probes(gains)
    assert judged.shape == (len(gains),)
    assert int(judged.sum()) + sum(dropped.values()) == len(gains)
    for row, good in zip(gains, judged, strict=True):
        known = row[np.isfinite(row)]
        assert good == (len(known) > 0 and known.max() >= np.float32(HELP) and np.ptp(known) >= np.float32(RANGE))


def test_without_probes_or_candidates_there_is_nothing_to_teach() -> None:
    assert judge_probes(np.empty((0, 5), np.float32))[1] == {}
    judged, dropped = judge_probes(np.empty((3, 0), np.float32))
    assert (judged.tolist(), dropped) == ([False] * 3, {UNKNOWN: 3})

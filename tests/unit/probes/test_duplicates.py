import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from ragself.probes.duplicates import groups, jaccard

ROWS = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=7)


def matrix(rows: list[list[int]]) -> csr_matrix:
    return csr_matrix(np.array(rows, dtype=np.float32))


def overlap(a: list[int], b: list[int]) -> float:
    one, two = ({column for column, count in enumerate(row) if count} for row in (a, b))
    return len(one & two) / len(one | two) if one | two else 0.0


@given(ROWS, ROWS)
@settings(deadline=None)
def test_jaccard_is_shared_words_by_all_words_however_often_they_occur(one: list, many: list) -> None:
    found = jaccard(matrix(one), matrix(many))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[overlap(a, b) for b in many] for a in one], rtol=1e-6)


def test_empty_texts_overlap_with_nothing() -> None:
    assert jaccard(matrix([[0, 0]]), matrix([[0, 0], [1, 0]])).tolist() == [[0.0, 0.0]]
    assert len(set(groups(matrix([[0, 0], [0, 0]]), 0.8).tolist())) == 2


@given(ROWS, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
@settings(deadline=None)
def test_groups_are_the_connected_pairs_of_a_loop(rows: list[list[int]], threshold: float) -> None:
    label = list(range(len(rows)))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            if overlap(a, b) >= threshold - 1e-9:
                label = [label[i] if each == label[j] else each for each in label]
    found = groups(matrix(rows), threshold).tolist()
    assert [[x == y for y in found] for x in found] == [[x == y for y in label] for x in label]


def test_a_chain_of_near_texts_is_one_group() -> None:
    rows = [[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]]
    assert overlap(rows[0], rows[2]) < 0.6 <= overlap(rows[0], rows[1])
    assert len(set(groups(matrix(rows), 0.6).tolist())) == 1


def test_the_threshold_itself_is_near_enough() -> None:
    rows = [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert overlap(*rows) == 0.8
    assert len(set(groups(matrix(rows), 0.8).tolist())) == 1
    assert len(set(groups(matrix(rows), 0.81).tolist())) == 2


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_no_texts_and_no_words_are_no_error(shape: tuple[int, int]) -> None:
    assert len(set(groups(csr_matrix(shape, dtype=np.float32), 0.8).tolist())) == shape[0]


def test_pairs_are_found_among_many_texts_however_far_apart() -> None:
    rows = np.arange(700)
    texts = np.column_stack([rows % 350, 350 + rows % 350])  # texts 350 apart hold the same two words
    counts = csr_matrix((np.ones(1400, np.float32), (rows.repeat(2), texts.ravel())), (700, 700))
    labels = groups(counts, 0.8)
    assert len(set(labels.tolist())) == 350
    np.testing.assert_array_equal(labels[:350], labels[350:])

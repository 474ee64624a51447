import numpy as np

from ragself.index.hybrid_search import _may_enter

NEAR = np.linspace(0.9, 0.5, 10)  # cosines of the nearest, which hold no word


def entering(rest: list[float], k: int, depth: int = 10) -> list[bool]:
    return _may_enter(NEAR, np.concatenate([np.zeros(len(NEAR)), rest]), k, depth).tolist()


def test_a_candidate_by_words_enters_where_its_words_make_up_for_the_farthest_cosine() -> None:
    # The third best of the nearest scores .811: with a cosine of .5 at most that takes .311 of words.
    assert entering([0.1, 0.32, 0.4, 0.5, 0.6, 0.3], k=3) == [False, True, True, True, True, False]


def test_the_best_by_words_enter_in_any_case() -> None:
    assert entering([0.01, 0.03, 0.02, 0.0], k=2) == [False, True, True, False]


def test_all_enter_where_fewer_came_by_vector_than_were_asked_for() -> None:
    assert entering([0.01, 0.02, 0.0], k=1, depth=11) == [True] * 3
    assert entering([0.01, 0.02, 0.0], k=10) == [True] * 3

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.corpus.words import words
from ragself.lm.ngram import NgramScorer
from ragself.schema import Probe

DOCUMENTS = [
    "the cat sat on the mat and the cat slept",
    "the dog sat on the log",
    "a cat and a dog",
    "",
    "mat mat mat",
]
TARGETS = ["the cat sat", "cat", "dog on the mat", "the unknown cat sat", "unknown", "", "cat cat cat cat", "log mat"]


def slow(documents: list[str], targets: list[str], corpus: int | None, mu: float, nu: float) -> list[list[float]]:
    """The two formulas of the docstring, word by word."""
    known = [word for text in documents[:corpus] for word in words(text)]
    p = {word: known.count(word) / len(known) for word in known}
    out = []
    for target in targets:
        row = []
        for text in documents:
            d = words(text)
            pairs = list(pairwise(d))
            gains, before = [], None
            for t in words(target):
                if t in p:
                    likelihood = (d.count(t) + mu * p[t]) / (len(d) + mu)
                    if before in p:
                        likelihood = (pairs.count((before, t)) + nu * likelihood) / (d.count(before) + nu)
                    gains.append(math.log(likelihood) - math.log(p[t]))
                before = t
            row.append(sum(gains) / len(gains) if gains else 0.0)
        out.append(row)
    return out


@pytest.mark.parametrize("corpus", [None, 3, 1])
@pytest.mark.parametrize(("mu", "nu"), [(200.0, 100.0), (3.0, 0.5)])
def test_gains_are_those_of_the_formulas(corpus: int | None, mu: float, nu: float) -> None:
    found = NgramScorer(DOCUMENTS, corpus, mu=mu, nu=nu).matrix(TARGETS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow(DOCUMENTS, TARGETS, corpus, mu, nu), rtol=1e-4, atol=1e-5)


SENTENCES = st.lists(st.lists(st.sampled_from("abcde"), max_size=8).map(" ".join), min_size=1, max_size=5)


@given(SENTENCES, SENTENCES, st.integers(1, 5))
@settings(deadline=None)
def test_gains_are_those_of_the_formulas_for_any_texts(documents: list[str], targets: list[str], corpus: int) -> None:
    found = NgramScorer(documents, corpus, mu=2.0, nu=1.0).matrix(targets)
    np.testing.assert_allclose(found, slow(documents, targets, corpus, 2.0, 1.0), rtol=1e-4, atol=1e-5)


def test_gains_pick_the_candidates_out_of_the_matrix_in_their_order() -> None:
    scorer = NgramScorer(DOCUMENTS)
    targets = [TARGETS[number % len(TARGETS)] for number in range(560)]  # more than are scored at once
    probes = [Probe(str(number), "asked", target, "traffic", None, "train") for number, target in enumerate(targets)]
    candidates = np.random.default_rng(0).integers(0, len(DOCUMENTS), size=(len(targets), 3))
    found = scorer.gains(probes, candidates)
    matrix = scorer.matrix(TARGETS)
    expected = [[matrix[row % len(TARGETS), document] for document in each] for row, each in enumerate(candidates)]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_document_makes_its_own_words_likelier_and_their_order_matters() -> None:
    scorer = NgramScorer(["red green blue", "green red blue", "black white grey"])
    gains = scorer.matrix(["red green"])[0]
    assert gains[0] > gains[1] > 0 > gains[2]


def test_words_that_the_corpus_does_not_hold_are_left_out() -> None:
    scorer = NgramScorer(DOCUMENTS)
    np.testing.assert_allclose(scorer.matrix(["cat zebra"]), scorer.matrix(["cat"]), rtol=1e-6)
    assert scorer.matrix(["zebra", "", "?!"]).tolist() == [[0.0] * 5] * 3


def test_documents_beyond_the_corpus_do_not_smooth_the_others() -> None:
    alone = NgramScorer(DOCUMENTS[:3]).matrix(TARGETS)
    more = NgramScorer([*DOCUMENTS[:3], "the the the the log"], corpus=3).matrix(TARGETS)
    np.testing.assert_array_equal(alone, more[:, :3])


def test_an_empty_document_is_the_corpus_itself() -> None:
    np.testing.assert_allclose(NgramScorer(DOCUMENTS).matrix(TARGETS)[:, 3], 0.0, atol=1e-6)


@pytest.mark.parametrize("documents", [[], [""], ["?!", ""]])
def test_a_corpus_without_words_gains_nothing(documents: list[str]) -> None:
    found = NgramScorer(documents).matrix(["cat sat", ""])
    assert found.shape == (2, len(documents))
    assert not found.any()


def test_no_targets_make_no_rows() -> None:
    scorer = NgramScorer(DOCUMENTS)
    assert scorer.matrix([]).shape == (0, 5)
    assert scorer.gains([], np.empty((0, 4), dtype=np.int64)).shape == (0, 4)


def test_the_name_tells_settings_apart() -> None:
    assert NgramScorer(["a"]).name == NgramScorer(["b"]).name == "ngram:bigram-dirichlet-200-100"
    assert NgramScorer(["a"], mu=1.5).name != NgramScorer(["a"]).name

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.corpus.words import words
from ragself.models.fusion import NU, count, fuse, lexical_scores
from ragself.models.lexicon import MU, WORDS, Lexicon
from ragself.models.ngram import NgramScorer
from tests.unit.test_lexicon import exact, random_texts

CORPUS = ["red green blue blue", "red yellow", "red green", "red white white white", "blue red", ""]
QUERIES = [
    "blue blue red",
    "red green blue",
    "yellow white",
    "white white white",
    "purple red",
    "green",
    "purple red pink",
]
TEXTS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=9).map(" ".join), max_size=6)


def slow(query: str, text: str, corpus: Sequence[str], weights: dict[str, float] | None = None) -> float:
    """The formulas of the docstrings, word by word and pair by pair."""
    everything = [word for each in corpus for word in words(each)]
    asked, held = words(query), words(text)
    if not asked:
        return 0.0
    share = {word: max(everything.count(word), 1) / max(len(everything), 1) for word in asked}
    total = sum((weights or {}).get(word, 1.0) * math.log1p(held.count(word) / (MU * share[word])) for word in asked)
    neighbours = list(pairwise(held))
    for first, second in pairwise(asked):
        smooth = (held.count(second) + MU * share[second]) / (len(held) + MU)
        total += math.log1p(neighbours.count((first, second)) / (NU * smooth))
        total += math.log(NU / (held.count(first) + NU))
    level = math.sqrt(len(asked) / WORDS) * math.log(MU / (len(held) + MU))
    return total / math.sqrt(WORDS * len(asked)) + level


def scores(lexicon: Lexicon, query: str, texts: Sequence[str], *, pairs: bool = True) -> np.ndarray:
    return lexical_scores(lexicon, query, [count(text) for text in texts], pairs=pairs)


@pytest.mark.parametrize("query", QUERIES)
def test_scores_are_those_of_the_formula(query: str) -> None:
    texts = [*CORPUS, "purple red", "red purple pink purple red"]
    expected = [slow(query, text, CORPUS) for text in texts]
    np.testing.assert_allclose(scores(Lexicon.count(CORPUS), query, texts), expected, atol=1e-6)


@given(TEXTS, TEXTS, st.lists(st.sampled_from("abcdefgh"), max_size=7).map(" ".join))
@settings(deadline=None)
def test_scores_are_those_of_the_formula_for_any_texts(corpus: list[str], texts: list[str], query: str) -> None:
    expected = [slow(query, text, corpus) for text in texts]
    np.testing.assert_allclose(scores(Lexicon.count(corpus), query, texts), expected, rtol=1e-5, atol=1e-6)


def test_what_was_learned_weighs_words_and_not_pairs() -> None:
    lexicon = Lexicon.fit(CORPUS)
    log_weight = np.zeros(len(lexicon.keys), np.float32)
    log_weight[lexicon.weigh(["blue"], "query").indices[0]] = 1.0
    found = scores(lexicon.learned(log_weight), "red blue blue", CORPUS)
    np.testing.assert_allclose(
        found, [slow("red blue blue", text, CORPUS, {"blue": math.e}) for text in CORPUS], atol=1e-6
    )
    assert not np.allclose(found, scores(lexicon, "red blue blue", CORPUS), atol=1e-3)


def test_without_pairs_they_are_the_scores_that_sketches_approximate() -> None:
    corpus, queries = random_texts(40, 0), random_texts(8, 1, length=7)
    known = [query for query in queries if set(query.split()) <= set(" ".join(corpus).split())]
    lexicon = Lexicon.fit(corpus)
    found = np.stack([scores(lexicon, query, corpus, pairs=False) for query in known])
    np.testing.assert_allclose(found, exact(lexicon, known, corpus), atol=1e-4)
    sketched = lexicon.sketch(queries, "query", 32768) @ lexicon.sketch(corpus, "document", 32768).T
    everything = np.stack([scores(lexicon, query, corpus, pairs=False) for query in queries])
    np.testing.assert_allclose(everything, sketched, atol=0.1)


def test_with_pairs_they_are_the_gains_of_the_document_language_model() -> None:
    corpus, queries = random_texts(40, 0), random_texts(12, 1, length=7)
    known = [query for query in queries if set(query.split()) <= set(" ".join(corpus).split())]
    assert len(known) > 3
    expected = NgramScorer(corpus).matrix(known) * math.sqrt(7 / WORDS)
    found = np.stack([scores(Lexicon.count(corpus), query, corpus) for query in known])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_neighbours_are_found_in_their_order_and_not_across_texts() -> None:
    lexicon = Lexicon.count(CORPUS)
    together, turned, apart = scores(lexicon, "red green", ["red green", "green red", "red blue green"])
    assert together > turned + 0.01
    assert apart < together
    first, second = scores(lexicon, "red green", ["blue red", "green blue"])
    alone = [scores(lexicon, "red green", [text])[0] for text in ("blue red", "green blue")]
    assert [first, second] == pytest.approx(alone, abs=1e-12)


def test_a_word_that_the_corpus_lacks_counts_as_one_that_it_holds_once() -> None:
    lexicon = Lexicon.count(CORPUS)
    held, missing = scores(lexicon, "purple", ["purple red", "white red"])
    assert held > missing + 0.01
    share, weight = lexicon.known(["purple", "red", "yellow"])
    np.testing.assert_allclose(share, np.array([1, 5, 1]) / 14, rtol=1e-6)
    np.testing.assert_array_equal(weight, 1.0)


def test_counting_alone_gives_what_fitting_does() -> None:
    fitted, counted = Lexicon.fit(CORPUS, QUERIES), Lexicon.count(iter(CORPUS))
    np.testing.assert_array_equal(counted.keys, fitted.keys)
    np.testing.assert_array_equal(counted.share, fitted.share)
    np.testing.assert_array_equal(counted.weight, fitted.weight)
    assert counted.unseen[0] == fitted.unseen[0]


@given(st.lists(st.floats(-1, 1, width=32), min_size=5, max_size=5))
def test_without_strength_the_order_is_the_dense_one(dense: list[float]) -> None:
    held, given = [count(text) for text in CORPUS[:5]], np.array(dense, np.float32)
    np.testing.assert_array_equal(fuse(Lexicon.count(CORPUS), ["blue red"], held, given, 0.0), given)


def test_strength_weighs_the_mean_of_the_queries() -> None:
    lexicon, held, dense = (
        Lexicon.count(CORPUS),
        [count(text) for text in CORPUS],
        np.linspace(1, 0, 6, dtype=np.float32),
    )
    found = fuse(lexicon, ["blue red", "white"], held, dense, 0.3)
    lexical = [(slow("blue red", text, CORPUS) + slow("white", text, CORPUS)) / 2 for text in CORPUS]
    np.testing.assert_allclose(found, dense + 0.3 * np.array(lexical), atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("corpus", [[], ["", "?!"]])
def test_a_corpus_without_words(corpus: list[str]) -> None:
    found = scores(Lexicon.count(corpus), "red red blue", ["red red", "", "blue"])
    np.testing.assert_allclose(found, [slow("red red blue", text, []) for text in ["red red", "", "blue"]], atol=1e-6)


def test_nothing_asked_or_nothing_to_rank() -> None:
    lexicon = Lexicon.count(CORPUS)
    assert scores(lexicon, "?!", CORPUS).tolist() == [0.0] * 6
    assert scores(lexicon, "red", []).shape == (0,)
    assert count("").shape == (0,)
    assert len(count("a b a")) == 3
    assert len(set(count("a b a").tolist())) == 2

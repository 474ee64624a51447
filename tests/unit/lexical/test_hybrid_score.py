"""The ranking law, against loops over words and pairs of words."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.corpus.words import words
from ragself.lexical.hybrid_score import COMMON, K1, MU, NU, SLOPE, SMALL, Query, match, stands_out
from ragself.lexical.terms import term_keys
from ragself.lexical.view import View
from ragself.lexical.weights import BM25, LANGUAGE_MODEL, Weights

LETTERS = st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join)
PLAIN = Weights()


def weighing(**logs: float) -> Weights:
    """Weights of single words, of which these are the logarithms."""
    keys = term_keys(logs)
    order = np.argsort(keys)
    return Weights(keys=keys[order], log_weight=np.array(list(logs.values()), np.float32)[order])


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts of very different lengths, of words some of which are frequent and most are rare."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 80, size=count)
    return [" ".join(f"w{word}" for word in draw.zipf(1.3, size=size) if word < 500) for size in sizes]


# as it is written down ----------------------------------------------------------------------------


class Slow:
    """The law by loops, from its description alone."""

    def __init__(self, documents: list[str], query: str) -> None:
        self.documents = [words(text) for text in documents]
        every = [word for document in self.documents for word in document]
        self.total, self.occurrences = len(every), Counter(every)
        self.frequency = Counter(word for document in self.documents for word in set(document))
        self.query = words(query)
        bound = COMMON * max(len(documents), SMALL)
        self.stop = {word for word, count in self.frequency.items() if count > bound}
        known = [word for word in self.query if word in self.frequency]
        self.n = max(sum(word not in self.stop for word in known), 1)

    def p(self, word: str) -> float:
        return self.occurrences[word] / self.total

    def language_model(self, row: int, weights: dict[str, float] | None = None) -> float:
        document = self.documents[row]
        count, pairs = Counter(document), Counter(pairwise(document))
        if not any(word in self.frequency for word in self.query):
            return 0.0
        norm, found = 1 / math.sqrt(10 * self.n), 0.0
        for word in self.query:
            if word in self.frequency:
                found += norm * (weights or {}).get(word, 1.0) * math.log(1 + count[word] / (MU * self.p(word)))
        for one, two in pairwise(self.query):
            if one in self.frequency and two in self.frequency:
                smooth = (count[two] + MU * self.p(two)) / (len(document) + MU)
                found += norm * math.log(1 + pairs[one, two] / (NU * smooth))
                found += norm * math.log(NU / (count[one] + NU))
        return found + 0.75 * math.sqrt(self.n / 10) * math.log(MU / (len(document) + MU))

    def bm25(self, row: int) -> float:
        document, found, size = self.documents[row], 0.0, len(self.documents)
        mean = max(self.total / size, 1.0)
        for word in self.query:
            if word in self.frequency and word not in self.stop:
                idf = math.log(1 + (size - self.frequency[word] + 0.5) / (self.frequency[word] + 0.5))
                count = document.count(word)
                found += idf * count / (count + K1 * (1 - SLOPE + SLOPE * len(document) / mean))
        return found / math.sqrt(self.n)

    def stands_out(self, rows: list[int]) -> float:
        scores = sorted((self.bm25(row) for row in rows), reverse=True)
        if self.n == 1 or not scores or scores[0] <= 0:
            return 1.0
        gap = scores[0] - (scores[9] if len(scores) > 9 else 0)
        return min(max((gap / 1.6) ** 0.35 * (gap / (scores[0] / 2)) ** 0.5, 0.8), 3.0)


def assert_as_written(documents: list[str], asked: str) -> None:
    corpus, slow = View.of(documents), Slow(documents, asked)
    query = Query.of(asked, corpus)
    rows = np.arange(len(documents))[::-1].copy()  # in any order
    found = match(query, corpus, rows)
    language_model = [slow.language_model(row) for row in rows]
    bm25 = [slow.bm25(row) for row in rows]
    np.testing.assert_allclose(found.language_model, language_model, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.bm25, bm25, rtol=1e-6, atol=1e-9)
    scale = slow.stands_out(rows.tolist())
    assert stands_out(query, found.bm25) == pytest.approx(scale)
    left, right = found.parts(query, PLAIN)
    np.testing.assert_allclose(left, scale * LANGUAGE_MODEL * np.array(language_model), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(right, scale * BM25 * np.array(bm25), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "asked",
    ["w7 w30", "w1 w2 w1 w40 w40 w40", "w9", "w3 unheardof w4", "w1 w1", "w12 w300 w25 w3 w1 w17 w2", "", "unheardof"],
)
def test_scores_are_those_of_a_loop(asked: str) -> None:
    assert_as_written(texts(120), asked)


@given(st.lists(LETTERS, min_size=1, max_size=30), st.lists(st.sampled_from("abcdefghxy"), max_size=8))
@settings(deadline=None, max_examples=60)
def test_scores_of_any_texts_are_those_of_a_loop(documents: list[str], asked: list[str]) -> None:
    assert_as_written(documents, " ".join(asked))


def test_pairs_count_in_their_order_and_only_side_by_side() -> None:
    documents = [
        "red apple here",
        "apple red here",
        "red one apple",
        *(f"other{n} thing{n} more{n}" for n in range(60)),
    ]
    corpus = View.of(documents)
    found = match(Query.of("red apple", corpus), corpus, np.arange(4)).language_model
    assert found[0] > found[1] + 0.05
    assert found[1] == pytest.approx(found[2])
    assert found[2] > found[3]
    apart = match(Query.of("red unheardof apple", corpus), corpus, np.arange(4)).language_model
    assert apart[0] == pytest.approx(apart[1])  # an unknown word stands between


def test_a_pair_never_reaches_from_one_document_into_the_next() -> None:
    corpus = View.of(["one red", "apple two", "red apple", *(f"other{n}" for n in range(60))])
    query = Query.of("red apple", corpus)
    together = match(query, corpus, np.array([0, 1])).language_model
    alone = [match(query, corpus, np.array([row])).language_model[0] for row in (0, 1)]
    np.testing.assert_allclose(together, alone)


# stop words ---------------------------------------------------------------------------------------


def test_a_word_is_a_stop_word_by_how_many_documents_hold_it() -> None:
    for holding, stop in ((21, True), (20, False)):
        corpus = View.of(["der fuchs" if row < holding else f"text{row}" for row in range(100)])
        query = Query.of("der text50", corpus)
        assert bool(query.idf[0] == 0.0) is stop
        assert query.idf[1] > 0
        assert query.informative == (1.0 if stop else 2.0)


def test_in_a_small_corpus_the_share_is_taken_of_fifty_documents() -> None:
    for holding, stop in ((10, False), (11, True)):
        corpus = View.of(["word own" if row < holding else f"text{row}" for row in range(12)])
        assert bool(Query.of("word", corpus).idf[0] == 0.0) is stop


def test_documents_are_told_apart_by_other_words_than_stop_words() -> None:
    documents = [f"the text{row} says the same" for row in range(60)]
    corpus = View.of(documents)
    query = Query.of("the the the", corpus)
    assert query.informative == 1.0
    assert not match(query, corpus, np.arange(60)).bm25.any()


# how far words single out -------------------------------------------------------------------------


def test_unknown_words_alone_score_nothing() -> None:
    corpus = View.of(texts(20))
    query = Query.of("nobody heard of it", corpus)
    found = match(query, corpus, np.arange(20))
    assert query.terms == ()
    assert found.gain.shape == (20, 0)
    assert not found.language_model.any()
    assert not found.bm25.any()
    assert stands_out(query, found.bm25) == 1.0
    assert not len(query.candidates(corpus, PLAIN, 5))


def test_a_query_of_one_informative_word_stands_out_as_usual_however_rare_it_is() -> None:
    corpus = View.of([*(f"the text{row}" for row in range(200)), "the zq17"])
    for asked in ("zq17", "the zq17", "unheardof zq17"):
        query = Query.of(asked, corpus)
        assert stands_out(query, match(query, corpus, np.arange(201)).bm25) == 1.0


def several() -> Query:
    return Query.of("w31 w32 w33 w34 w35 w36", View.of(texts(300)))


def test_words_count_more_the_further_the_best_stands_out_within_bounds() -> None:
    query = several()
    assert query.informative > 1
    found = [stands_out(query, np.array([5.0, *[5.0 - gap] * 20])) for gap in np.linspace(0.01, 5, 40)]
    assert found == sorted(found)
    assert found[0] == 0.8 < found[20] < found[-1] < 3.0
    assert stands_out(query, np.array([90.0, *[1.0] * 20])) == 3.0
    assert stands_out(query, np.array([1.6, *[0.0] * 20])) == pytest.approx(math.sqrt(2))
    assert stands_out(query, np.array([3.2, *[1.6] * 20])) == 1.0  # both gaps are the usual ones


def test_it_is_the_tenth_best_that_the_best_is_compared_with_in_any_order() -> None:
    query, draw = several(), np.random.default_rng(0)
    scores = np.array([5.0, *[4.9] * 8, 2.0, *[1.9] * 20])
    expected = stands_out(query, scores)
    assert expected == stands_out(query, draw.permutation(scores)) > stands_out(query, np.sort(scores)[::-1].clip(4.9))
    few = stands_out(query, np.array([5.0, 4.9]))  # where there are not ten, the tenth has nothing
    assert few == pytest.approx((5 / 1.6) ** 0.35 * 2**0.5)
    assert stands_out(query, np.zeros(20)) == stands_out(query, np.empty(0)) == 1.0


def test_a_rare_code_singles_its_document_out_and_common_words_do_not() -> None:
    documents = [f"how to replace the pump of model {row % 5} with parts of kind {row % 7}" for row in range(300)]
    documents[123] += " zx-4471-b"
    corpus = View.of(documents)
    rows = np.arange(300)
    plain, code = Query.of("replace pump kind", corpus), Query.of("replace pump zx-4471-b", corpus)
    assert stands_out(plain, match(plain, corpus, rows).bm25) <= 1.0
    found = match(code, corpus, rows)
    assert stands_out(code, found.bm25) > 1.5
    score = sum(found.parts(code, PLAIN))
    assert score.argmax() == 123
    assert np.sort(score)[-1] - np.sort(score)[-2] > 0.3  # more than cosines would set against it


# weights of words ---------------------------------------------------------------------------------


def test_weights_of_words_act_on_the_language_model_alone() -> None:
    documents = texts(120)
    corpus, asked = View.of(documents), "w3 w30 w3 w7 unheardof"
    query, rows = Query.of(asked, corpus), np.arange(120)
    found = match(query, corpus, rows)
    slow = Slow(documents, asked)
    learned = weighing(w3=0.7, w30=-2.0, w500=3.0)
    left, right = found.parts(query, learned, standing_out=1.0)
    factors = {"w3": math.exp(0.7), "w30": math.exp(-2.0)}
    expected = [LANGUAGE_MODEL * slow.language_model(row, factors) for row in rows]
    np.testing.assert_allclose(left, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(right, found.parts(query, PLAIN, standing_out=1.0)[1])
    scale = found.parts(query, learned)[1] / np.where(right, right, 1.0)
    np.testing.assert_allclose(scale[right > 0], stands_out(query, found.bm25))  # whatever is learned of words


def test_the_weights_of_both_scores_and_the_scale_multiply() -> None:
    corpus = View.of(texts(50))
    query = Query.of("w3 w30", corpus)
    found = match(query, corpus, np.arange(50))
    left, right = found.parts(query, Weights(0.3, 0.7), standing_out=2.0)
    np.testing.assert_allclose(left, 0.6 * found.language_model)
    np.testing.assert_allclose(right, 1.4 * found.bm25)


# candidates ---------------------------------------------------------------------------------------


def brute_force(documents: list[str], asked: str, factors: dict[str, float]) -> list[int]:
    """Rows by L of single words that are no stop words, best first."""
    slow, scores = Slow(documents, asked), {}
    counted = [word for word in slow.query if word in slow.frequency and word not in slow.stop]
    for row, document in enumerate(slow.documents):
        held = [word for word in counted or slow.query if word in document]
        if held:
            gain = sum(
                factors.get(word, 1.0) * math.log(1 + document.count(word) / (MU * slow.p(word))) for word in held
            )
            level = 0.75 * math.sqrt(slow.n / 10) * math.log(MU / (len(document) + MU))
            scores[row] = gain / math.sqrt(10 * slow.n) + level
    return sorted(scores, key=lambda row: (-round(scores[row], 5), row))


@pytest.mark.parametrize("factors", [{}, {"w3": 3.0, "w17": 0.2}])
def test_candidates_are_the_best_by_brute_force(factors: dict[str, float]) -> None:
    documents = texts(200)
    corpus = View.of(documents)
    learned = weighing(**{word: math.log(factor) for word, factor in factors.items()})
    for asked in ("w3 w17", "w5 w5 w60", "w1 w2 w3 w4 unheardof", "w150"):
        best = brute_force(documents, asked, factors)
        found = Query.of(asked, corpus).candidates(corpus, learned, 200).tolist()
        assert sorted(found) == sorted(best)
        assert Query.of(asked, corpus).candidates(corpus, learned, 7).tolist() == found[:7]
        assert set(found[:7]) == set(best[:7])
    assert brute_force(documents, "w3 w17", {}) != brute_force(documents, "w3 w17", {"w3": 3.0, "w17": 0.2})


def test_only_documents_that_are_allowed_are_candidates() -> None:
    documents = texts(100)
    corpus = View.of(documents)
    query = Query.of("w2 w9", corpus)
    every = query.candidates(corpus, PLAIN, 100).tolist()
    odd = [str(row) for row in range(1, 100, 2)]
    assert query.candidates(corpus, PLAIN, 100, odd).tolist() == [row for row in every if row % 2]
    assert query.candidates(corpus, PLAIN, 100, []).tolist() == []


# texts that are unlike others ---------------------------------------------------------------------


def test_a_query_of_five_thousand_words() -> None:
    documents = texts(100)
    draw = np.random.default_rng(0)
    asked = " ".join(f"w{word}" for word in draw.integers(1, 400, size=5000))
    assert_as_written(documents, asked)
    corpus = View.of(documents)
    query = Query.of(documents[40] * 100 + " " + asked, corpus)
    assert len(query.candidates(corpus, PLAIN, 10)) == 10
    long = View.of([f"a{row} b{row} c{row} d{row}" for row in range(1300)])
    everything = Query.of(" ".join(f"a{row} b{row} c{row} d{row}" for row in range(1300)), long)
    assert len(everything.terms) == 5200
    assert len(everything.candidates(long, PLAIN, 2000)) == 32  # those that hold the 128 rarest words


@pytest.mark.parametrize("asked", ["🦊🦊", "🦊 fuchs 🌲", "日本語 テスト", "ß ﬁ", "\ud800", "  \n\t"])
def test_signs_of_all_kinds_score_as_a_loop_says(asked: str) -> None:
    assert_as_written(["🦊 fuchs", "日本語 テスト です", "ß ﬁ ligature", *(f"text{row}" for row in range(20))], asked)


def test_an_empty_corpus_has_no_candidates_and_no_scores() -> None:
    corpus = View.of([])
    query = Query.of("some words", corpus)
    assert query.terms == ()
    assert query.candidates(corpus, PLAIN, 5).tolist() == []
    found = match(query, corpus, np.empty(0, np.int64))
    assert (found.language_model.shape, found.bm25.shape, found.gain.shape) == ((0,), (0,), (0, 0))
    assert stands_out(query, found.bm25) == 1.0


@pytest.mark.parametrize("documents", [["red apple red"], [""], ["", "", "red"]])
def test_one_document_or_empty_ones_score_as_a_loop_says(documents: list[str]) -> None:
    for asked in ("red apple", "red", "pear", ""):
        assert_as_written(documents, asked)


def test_identical_documents_score_alike_and_come_in_the_order_of_their_rows() -> None:
    documents = ["red apple pie", *["red apple"] * 30, *(f"other{n}" for n in range(200))]
    corpus = View.of(documents)
    query = Query.of("red apple", corpus)
    found = match(query, corpus, np.arange(len(documents)))
    assert len(set(found.language_model[1:31].tolist())) == len(set(found.bm25[1:31].tolist())) == 1
    assert query.candidates(corpus, PLAIN, 5).tolist() == [1, 2, 3, 4, 5]
    assert stands_out(query, found.bm25) == 0.8  # ten are alike: the words single nothing out


def test_texts_may_be_scored_by_the_statistics_of_another_corpus() -> None:
    corpus, passages = View.of(texts(80)), View.of(["w3 w4 and more", "nothing"])
    query = Query.of("w3 w4", corpus)
    alone = match(query, passages, np.array([0, 1]))
    both = match(query, View((*corpus.parts, *passages.parts)), np.array([80, 81]))
    np.testing.assert_allclose(alone.language_model, both.language_model)
    np.testing.assert_allclose(alone.bm25, both.bm25)
    assert alone.language_model[0] > alone.language_model[1]

"""The law for many queries at once: the same scores as one by one, whatever words weigh."""

from __future__ import annotations

import numpy as np
import pytest

from ragself.lexical.hybrid_score import Query, match, stands_out
from ragself.lexical.terms import term_keys
from ragself.lexical.view import View
from ragself.lexical.weights import Weights
from ragself.probes.lexical_features import LexicalFeatures, LexicalScores

UNIT = 0.4
DRAW = np.random.default_rng(0)
TEXTS = [" ".join(f"w{word}" for word in DRAW.zipf(1.2, size=30) if word < 300) for _ in range(80)]
ASKED = [" ".join(f"w{word}" for word in DRAW.integers(3, 90, size=4)) for _ in range(12)] + ["unheardof", ""]
CANDIDATES = np.stack([DRAW.permutation(80)[:20] for _ in ASKED])


def words() -> LexicalFeatures:
    corpus = View.of(TEXTS)
    return LexicalFeatures([Query.of(text, corpus) for text in ASKED], corpus, UNIT)


def learned() -> Weights:
    keys = np.sort(term_keys([f"w{number}" for number in range(0, 90, 2)]))
    return Weights(0.2, 0.05, keys, np.random.default_rng(1).normal(size=len(keys)).astype(np.float32))


def one_by_one(weights: Weights, candidates: np.ndarray, standing_out: float | None = None) -> np.ndarray:
    corpus = View.of(TEXTS)
    found = []
    for text, rows in zip(ASKED, candidates, strict=True):
        query = Query.of(text, corpus)
        found.append(UNIT * sum(match(query, corpus, rows).parts(query, weights, standing_out)))
    return np.stack(found)


@pytest.mark.parametrize("weights", [Weights(), learned()], ids=["untrained", "learned"])
def test_listed_are_scores_of_the_law_for_each_query_with_its_own_candidates(weights: Weights) -> None:
    made = words()
    scores = made.listed(CANDIDATES).scores(weights, made.log_weight(weights))
    assert (scores.dtype, scores.shape) == (np.float32, CANDIDATES.shape)
    np.testing.assert_allclose(scores, one_by_one(weights, CANDIDATES), rtol=1e-4, atol=1e-6)
    assert not scores[-2:].any()
    assert np.abs(scores[:-2]).max() > 0.02


@pytest.mark.parametrize("weights", [Weights(), learned()], ids=["untrained", "learned"])
def test_crossed_are_those_of_some_queries_with_the_same_documents_which_single_nothing_out(weights: Weights) -> None:
    made, rows, used = words(), np.array([5, 0, 12]), np.array([7, 3, 70, 12])
    scores = made.crossed(rows, used).scores(weights, made.log_weight(weights))
    expected = one_by_one(weights, np.tile(used, (len(ASKED), 1)), standing_out=1.0)[rows]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def test_some_of_a_block_are_as_if_they_were_made_alone_in_any_order() -> None:
    made, weights = words(), learned()
    whole, rows = made.listed(CANDIDATES), np.array([9, 2, 2, 13, 0])
    logs = made.log_weight(weights)
    np.testing.assert_array_equal(whole.take(rows).scores(weights, logs), whole.scores(weights, logs)[rows])
    again = whole.take(rows).take(np.array([1, 4]))
    np.testing.assert_array_equal(again.scores(weights, logs), whole.scores(weights, logs)[[2, 0]])
    none = whole.take(np.empty(0, np.int64))
    assert none.scores(weights, logs).shape == (0, 20)


def test_candidates_that_are_out_do_not_count_for_how_far_a_query_singles_documents_out() -> None:
    made, corpus = words(), View.of(TEXTS)
    out = np.zeros(CANDIDATES.shape, dtype=np.bool_)
    plain = made.listed(CANDIDATES)
    best = plain.bm25[:12].argmax(axis=1)
    out[np.arange(12), best] = True
    found = made.listed(CANDIDATES, out)
    changed = 0
    for row, text in enumerate(ASKED[:12]):
        query = Query.of(text, corpus)
        alone = match(query, corpus, CANDIDATES[row])
        scale = stands_out(query, alone.bm25[~out[row]])
        np.testing.assert_allclose(found.bm25[row], UNIT * scale * alone.bm25, rtol=1e-5)
        changed += scale != stands_out(query, alone.bm25)
    assert changed > 3


def test_words_are_known_by_the_row_of_their_key() -> None:
    made = words()
    assert sorted(made.terms) == sorted(set(" ".join(ASKED).split()) & set(" ".join(TEXTS).split()))
    assert made.keys.tolist() == sorted(made.keys.tolist()) == term_keys(made.terms).tolist()
    weights = learned()
    np.testing.assert_allclose(np.exp(made.log_weight(weights)), weights.of(made.terms), rtol=1e-6)
    assert not made.log_weight(Weights()).any()


def test_scoring_leaves_the_block_as_it_was() -> None:
    made, weights = words(), learned()
    block = made.listed(CANDIDATES)
    before = block.language_model.copy()
    first = block.scores(weights, made.log_weight(weights))
    np.testing.assert_array_equal(block.language_model, before)
    np.testing.assert_array_equal(block.scores(weights, made.log_weight(weights)), first)


def test_entries_are_what_single_words_add() -> None:
    made = words()
    block = made.listed(CANDIDATES)
    query = made.queries[3]
    alone = match(query, made.documents, CANDIDATES[3])
    scale = UNIT * stands_out(query, alone.bm25)
    here = block.row == 3
    assert isinstance(block, LexicalScores)
    for term, row, gain in zip(block.term[here], block.column[here], block.gain[here], strict=True):
        at = query.terms.index(made.terms[term])
        assert gain == pytest.approx(scale * alone.gain[row, at], rel=1e-5)
    assert here.sum() == np.count_nonzero(alone.gain)


def test_no_words_at_all_are_no_error() -> None:
    corpus = View.of(["", "?!"])
    made = LexicalFeatures([Query.of("red", corpus)], corpus, 1.0)
    block = made.listed(np.array([[0, 1]]))
    assert block.scores(Weights(), made.log_weight(Weights())).tolist() == [[0.0, 0.0]]
    assert made.keys.shape == (0,)

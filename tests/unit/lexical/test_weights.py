"""Weights of words: what they weigh, what lies between, and what tells them apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ragself.lexical.terms import term_keys
from ragself.lexical.weights import BM25, LANGUAGE_MODEL, Weights


def learned(a: float = 0.2, b: float = 0.05, **logs: float) -> Weights:
    keys = term_keys(logs)
    order = np.argsort(keys)
    return Weights(a, b, keys[order], np.array(list(logs.values()), np.float32)[order])


def test_words_weigh_what_was_learned_of_them_and_others_one() -> None:
    found = learned(red=0.5, green=-1.0, blue=0.0).of(["green", "unheardof", "red", "blue", "green"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [math.exp(-1), 1, math.exp(0.5), 1, math.exp(-1)], rtol=1e-6)
    assert learned(red=0.5).of([]).shape == (0,)
    assert Weights().of(["red", ""]).tolist() == [1.0, 1.0]


def test_many_words_are_told_apart() -> None:
    logs = {f"word{number}": number / 100 for number in range(300)}
    known = [f"word{number}" for number in range(600)]
    expected = [math.exp(logs.get(word, 0.0)) for word in known]
    np.testing.assert_allclose(learned(**logs).of(known), expected, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_interpolated_lie_between_the_untrained_and_these(alpha: float) -> None:
    whole = learned(red=0.5, green=-1.0)
    found = whole.interpolated(alpha)
    assert found.language_model == pytest.approx((1 - alpha) * LANGUAGE_MODEL + alpha * 0.2)
    assert found.bm25 == pytest.approx((1 - alpha) * BM25 + alpha * 0.05)
    np.testing.assert_allclose(found.of(["red", "green"]), whole.of(["red", "green"]) ** alpha, rtol=1e-6)
    np.testing.assert_array_equal(found.keys, whole.keys)


def test_the_mark_is_empty_where_nothing_was_learned_and_tells_all_else_apart() -> None:
    assert Weights().digest == ""
    assert Weights(LANGUAGE_MODEL, BM25).digest == ""
    some = [
        learned(red=0.5), learned(0.3, red=0.5), learned(b=0.06, red=0.5), learned(red=0.6), learned(green=0.5),
        learned(red=0.5, green=0.0), learned(), Weights(0.0), Weights(bm25=0.0),
    ]  # fmt: skip
    assert len({"", *(each.digest for each in some)}) == len(some) + 1
    assert learned(red=0.5, green=1).digest == learned(green=1, red=0.5).digest


def test_what_is_read_back_from_tensors_is_the_same() -> None:
    for each in (Weights(), learned(), learned(red=0.5, green=-1.0)):
        tensors = each.tensors()
        assert {name: tensor.dtype.name for name, tensor in tensors.items()} == {
            "fusion": "float64", "keys": "int64", "log_weight": "float32",
        }  # fmt: skip
        again = Weights.from_tensors(tensors)
        assert again.digest == each.digest
        assert (again.language_model, again.bm25) == (each.language_model, each.bm25)
        np.testing.assert_array_equal(again.of(["red", "green", "blue"]), each.of(["red", "green", "blue"]))


def test_no_word_can_be_read_from_what_is_given_away() -> None:
    tensors = learned(geheimnis=0.5).tensors()
    assert b"geheimnis" not in b"".join(tensor.tobytes() for tensor in tensors.values())

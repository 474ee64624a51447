import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from ragself.corpus.words import words
from ragself.models.lexicon import MU, WORDS, Lexicon
from ragself.models.ngram import NgramScorer

CORPUS = ["red green blue blue", "red yellow", "red green", "red white white white", ""]
QUERIES = ["blue blue red", "yellow white", "green", "purple", "red", "", "white purple purple"]


def random_texts(count: int, seed: int, length: int = 30) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in draw.zipf(1.5, size=length).clip(max=300)) for _ in range(count)]


def slow_score(query: str, text: str, corpus: Sequence[str], weights: dict[str, float] | None = None) -> float:
    """The formula of the docstring, word by word; a word that the corpus lacks counts as one that it holds once."""
    everything = [word for each in corpus for word in words(each)]
    asked, held = words(query), words(text)
    if not asked:
        return 0.0
    total = 0.0
    for word in asked:
        share = max(everything.count(word), 1) / len(everything)
        total += (weights or {}).get(word, 1.0) * math.log1p(held.count(word) / (MU * share))
    level = math.sqrt(len(asked) / WORDS) * math.log(MU / (len(held) + MU))
    return total / math.sqrt(WORDS * len(asked)) + level


def exact(lexicon: Lexicon, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    asked, searched = lexicon.weigh(queries, "query"), lexicon.weigh(texts, "document")
    levels = np.outer(lexicon.levels(queries, "query"), lexicon.levels(texts, "document"))
    return (asked.multiply(lexicon.weight) @ searched.T).toarray() + levels


def test_the_factors_of_both_sides_make_the_score() -> None:
    lexicon = Lexicon.fit(CORPUS)
    known = QUERIES[:3]
    expected = [[slow_score(query, text, CORPUS) for text in CORPUS] for query in known]
    np.testing.assert_allclose(exact(lexicon, known, CORPUS), expected, atol=1e-6)
    assert lexicon.weigh(known, "query").dtype == np.float32


def test_the_score_is_the_gain_of_the_word_model_times_the_root_of_the_length() -> None:
    corpus, queries = random_texts(50, 0), random_texts(8, 1, length=7)
    scorer = NgramScorer(corpus, nu=1e12)  # so that pairs of words say nothing
    expected = scorer.matrix(queries) * math.sqrt(7 / WORDS)
    known = [all(word in " ".join(corpus).split() for word in query.split()) for query in queries]
    assert sum(known) > 3
    np.testing.assert_allclose(exact(Lexicon.fit(corpus), queries, corpus)[known], expected[known], atol=1e-3)


@pytest.mark.parametrize("asked", [(), ("blue red", "white", "blue")])
def test_sketches_approximate_the_score_also_of_unseen_words(asked: Sequence[str]) -> None:
    lexicon = Lexicon.fit(CORPUS, asked)
    texts = [*CORPUS, "purple and orange"]
    expected = np.array([[slow_score(query, text, CORPUS) for text in texts] for query in QUERIES])
    found = lexicon.sketch(QUERIES, "query", 8192) @ lexicon.sketch(texts, "document", 8192).T
    np.testing.assert_allclose(found, expected, atol=0.005)
    assert expected[3][5] > expected[3][0] + 0.015  # an unseen word is found by itself


@pytest.mark.parametrize("width", [256, 1024, 4096])
def test_the_noise_of_sketches_is_that_of_their_lengths(width: int) -> None:
    draw = np.random.default_rng(0)
    corpus = [" ".join(f"w{word}" for word in draw.integers(2000, size=40)) for _ in range(300)]
    queries = [" ".join(f"w{word}" for word in draw.integers(2000, size=9)) for _ in range(100)]
    lexicon = Lexicon.fit(corpus)
    asked, searched = lexicon.sketch(queries, "query", width), lexicon.sketch(corpus, "document", width)
    spread = np.outer(*(np.linalg.norm(side[:, :-1], axis=1) for side in (asked, searched))) / math.sqrt(width)
    ratio = (asked @ searched.T - exact(lexicon, queries, corpus)) / spread
    assert abs(ratio.mean()) < 0.1
    assert 0.9 < ratio.std() < 1.1


def noise(corpus: list[str], queries: list[str], lexicon: Lexicon) -> float:
    found = lexicon.sketch(queries, "query", 512) @ lexicon.sketch(corpus, "document", 512).T
    return float((found - exact(lexicon, queries, corpus)).std())


def test_the_balance_makes_less_noise_and_more_so_when_it_is_known_what_is_asked() -> None:
    corpus = random_texts(200, 0)
    usual, rare = random_texts(60, 1, length=9), [f"w{number} w{number + 1}" for number in range(100, 160)]
    blind, told = Lexicon.fit(corpus), Lexicon.fit(corpus, rare)
    flat = replace(blind, balance=np.ones_like(blind.balance), unseen=np.array([blind.unseen[0], 1], np.float32))
    assert noise(corpus, usual, blind) < 0.9 * noise(corpus, usual, flat)
    assert noise(corpus, rare, told) < 0.9 * noise(corpus, rare, blind)


def test_what_was_learned_weighs_a_word_and_is_divided_between_both_sides() -> None:
    lexicon = Lexicon.fit(CORPUS)
    log_weight = np.zeros(len(lexicon.keys), np.float32)
    log_weight[lexicon.weigh(["blue"], "query").indices[0]] = 1.0
    learned = lexicon.learned(log_weight)
    expected = [[slow_score(query, text, CORPUS, {"blue": math.e}) for text in CORPUS] for query in QUERIES]
    found = learned.sketch(QUERIES, "query", 8192) @ learned.sketch(CORPUS, "document", 8192).T
    np.testing.assert_allclose(found, expected, atol=0.005)
    np.testing.assert_array_equal(lexicon.weight, 1.0)  # the old one is left alone
    for side in ("query", "document"):
        before, after = (each.sketch(["blue"], side, 64)[0, :-1] for each in (lexicon, learned))
        np.testing.assert_allclose(after, before * math.exp(0.5), rtol=1e-5)


def test_columns_of_weights_are_the_rows_of_the_keys() -> None:
    lexicon = Lexicon.fit(CORPUS)
    column = lexicon.weigh(["blue"], "query").indices[0]
    assert lexicon.keys[column] == int.from_bytes(hashlib.shake_256(b"blue").digest(8), "little")
    assert lexicon.share[column] == pytest.approx(2 / 12)


def test_the_last_dimension_is_what_depends_on_length_alone() -> None:
    lexicon = Lexicon.fit(CORPUS)
    texts = ["", "blue", "purple purple", " ".join(["word"] * 200)]
    asked, searched = lexicon.sketch(texts, "query", 64), lexicon.sketch(texts, "document", 64)
    np.testing.assert_allclose(asked[:, -1], np.sqrt(np.array([0, 1, 2, 200]) / WORDS), rtol=1e-6)
    np.testing.assert_allclose(searched[:, -1], np.log(MU / (MU + np.array([0, 1, 2, 200]))), atol=1e-6)
    np.testing.assert_array_equal(asked[:, -1], lexicon.levels(texts, "query"))
    assert not asked[0].any()
    assert not searched[0].any()


def test_a_sketch_does_not_depend_on_the_texts_beside_it() -> None:
    lexicon = Lexicon.fit(CORPUS)
    together = lexicon.sketch(["blue purple", "red white", "zebra"], "query", 128)
    alone = [lexicon.sketch([text], "query", 128)[0] for text in ["blue purple", "red white", "zebra"]]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_word_order_does_not_matter() -> None:
    a, b = Lexicon.fit(CORPUS).sketch(["green Blue", "blue-green"], "document", 64)
    np.testing.assert_array_equal(a, b)


def test_keys_are_ascending_hashes_and_hold_no_letter() -> None:
    lexicon = Lexicon.fit(CORPUS)
    expected = sorted(
        int.from_bytes(hashlib.shake_256(word.encode()).digest(8), "little") for word in set(words(" ".join(CORPUS)))
    )
    assert lexicon.keys.dtype == np.uint64
    assert lexicon.keys.tolist() == expected


def test_tensors_make_an_equal_lexicon() -> None:
    lexicon = Lexicon.fit(CORPUS, QUERIES)
    again = Lexicon.from_tensors(lexicon.tensors())
    np.testing.assert_array_equal(again.sketch(QUERIES, "query", 64), lexicon.sketch(QUERIES, "query", 64))
    assert again.keys.tolist() == lexicon.keys.tolist()
    assert {tensor.dtype for name, tensor in lexicon.tensors().items() if name != "keys"} == {np.dtype(np.float32)}


@pytest.mark.parametrize("corpus", [[], [""], ["?!"]])
def test_a_corpus_without_words_still_makes_sketches(corpus: list[str]) -> None:
    lexicon = Lexicon.fit(corpus)
    assert lexicon.weigh(["hello", ""], "query").shape == (2, 0)
    sketch = lexicon.sketch(["hello", "", "hello"], "query", 64)
    assert np.isfinite(sketch).all()
    np.testing.assert_array_equal(sketch[0], sketch[2])


def test_no_texts_make_no_rows() -> None:
    lexicon = Lexicon.fit(CORPUS)
    assert lexicon.weigh([], "query").shape == (0, len(lexicon.keys))
    assert isinstance(lexicon.weigh([], "query"), csr_matrix)
    assert lexicon.sketch([], "query", 64).shape == (0, 65)

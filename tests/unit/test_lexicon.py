import hashlib
import math

import numpy as np
import pytest

from ragself.corpus.words import words
from ragself.models.lexicon import MU, Lexicon

CORPUS = ["red green blue blue", "red yellow", "red green", "red white white white", ""]
WIDTH = 4096
NOISE = 5 / math.sqrt(WIDTH)  # five standard deviations


def random_texts(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in draw.zipf(1.5, size=30).clip(max=300)) for _ in range(count)]


def slow_weights(text: str, side: str, known_only: bool) -> dict[str, float]:
    """The weights of the docstring, word by word, for CORPUS."""
    tokenised = [words(each) for each in CORPUS]
    everything = [word for tokens in tokenised for word in tokens]
    out = {}
    for word in set(words(text)):
        frequency = sum(word in tokens for tokens in tokenised)
        if known_only and not frequency:
            continue
        importance = math.sqrt(math.log((len(CORPUS) + 1) / (frequency + 1)))
        share = max(everything.count(word), 1) / len(everything)
        tf = words(text).count(word)
        out[word] = importance * (math.log1p(tf / (MU * share)) if side == "document" else 1 + math.log(tf))
    return out


def cosine(a: dict[str, float], b: dict[str, float]) -> float:
    def norm(x: dict[str, float]) -> float:
        return math.sqrt(sum(value**2 for value in x.values()))

    dot = sum(value * b.get(word, 0.0) for word, value in a.items())
    return dot / (norm(a) * norm(b)) if norm(a) * norm(b) else 0.0


QUERIES = ["blue blue red", "yellow white", "green", "purple", "red", "", "white purple purple"]


def test_weights_are_those_of_the_formulas() -> None:
    lexicon = Lexicon.fit(CORPUS)
    asked, searched = lexicon.weigh(QUERIES, "query"), lexicon.weigh(CORPUS, "document")
    assert asked.dtype == np.float32
    expected = [
        [cosine(slow_weights(query, "query", True), slow_weights(text, "document", True)) for text in CORPUS]
        for query in QUERIES
    ]
    np.testing.assert_allclose((asked @ searched.T).toarray(), expected, atol=1e-6)


def test_sketches_approximate_the_weights_of_all_words_also_unseen_ones() -> None:
    lexicon = Lexicon.fit(CORPUS)
    texts = [*CORPUS, "purple and orange"]
    found = lexicon.sketch(QUERIES, "query", WIDTH) @ lexicon.sketch(texts, "document", WIDTH).T
    expected = [
        [cosine(slow_weights(query, "query", False), slow_weights(text, "document", False)) for text in texts]
        for query in QUERIES
    ]
    np.testing.assert_allclose(found, expected, atol=NOISE)
    assert expected[3][5] > 0.3  # an unseen word is found by itself


@pytest.mark.parametrize("width", [256, 1024, 4096])
def test_inner_products_of_sketches_are_those_of_weights_plus_noise_of_variance_one_by_width(width: int) -> None:
    corpus = random_texts(200, 0)
    lexicon = Lexicon.fit(corpus)
    exact = (lexicon.weigh(corpus[:80], "query") @ lexicon.weigh(corpus, "document").T).toarray()
    error = lexicon.sketch(corpus[:80], "query", width) @ lexicon.sketch(corpus, "document", width).T - exact
    assert abs(error.mean()) < 2 / math.sqrt(width)
    assert error.std() < 1.1 / math.sqrt(width)
    assert np.abs(error).max() < 5.5 / math.sqrt(width)
    assert error.std() > 0.1 / math.sqrt(width)  # it is a sketch, not the weights themselves


def test_rows_have_length_one_and_a_text_without_a_word_is_zeros() -> None:
    lexicon = Lexicon.fit(CORPUS)
    for side in ("query", "document"):
        sketch = lexicon.sketch(["blue", "", "?!", "purple", "white red"], side, 64)
        assert sketch.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(sketch, axis=1), [1, 0, 0, 1, 1], atol=1e-6)
        weights = lexicon.weigh(["blue", "", "purple"], side)
        np.testing.assert_allclose(np.sqrt(weights.multiply(weights).sum(axis=1)).ravel(), [[1, 0, 0]], atol=1e-6)


def test_a_word_of_every_document_weighs_nothing() -> None:
    lexicon = Lexicon.fit(["red green", "red blue"])
    assert lexicon.weigh(["red"], "query").nnz == 0
    assert not lexicon.sketch(["red"], "document", 64).any()


def test_a_sketch_does_not_depend_on_the_texts_beside_it() -> None:
    lexicon = Lexicon.fit(CORPUS)
    together = lexicon.sketch(["blue purple", "red white", "zebra"], "query", 128)
    alone = [lexicon.sketch([text], "query", 128)[0] for text in ["blue purple", "red white", "zebra"]]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_text_is_nearest_to_itself_and_word_order_does_not_matter() -> None:
    lexicon = Lexicon.fit(CORPUS)
    a, b = lexicon.sketch(["green Blue", "blue-green"], "document", 64)
    np.testing.assert_array_equal(a, b)


def test_learned_weights_multiply_the_importance_and_leave_the_old_lexicon_alone() -> None:
    lexicon = Lexicon.fit(CORPUS)
    before = lexicon.importance.copy()
    log_weight = np.linspace(-1, 1, len(lexicon.keys), dtype=np.float32)
    learned = lexicon.learned(log_weight)
    np.testing.assert_allclose(learned.importance, before * np.exp(log_weight), rtol=1e-6)
    np.testing.assert_array_equal(lexicon.importance, before)
    np.testing.assert_array_equal(learned.keys, lexicon.keys)


def test_columns_of_weights_are_the_learned_weights_rows() -> None:
    lexicon = Lexicon.fit(CORPUS)
    column = lexicon.weigh(["blue"], "query").indices[0]
    boost = np.zeros(len(lexicon.keys), np.float32)
    boost[column] = 3.0
    before, after = (each.weigh(["blue green"], "query")[0, column] for each in (lexicon, lexicon.learned(boost)))
    assert after > before


def test_keys_are_ascending_hashes_and_hold_no_letter() -> None:
    lexicon = Lexicon.fit(CORPUS)
    expected = sorted(
        int.from_bytes(hashlib.shake_256(word.encode()).digest(8), "little") for word in set(words(" ".join(CORPUS)))
    )
    assert lexicon.keys.dtype == np.uint64
    assert lexicon.keys.tolist() == expected


def test_tensors_make_an_equal_lexicon() -> None:
    lexicon = Lexicon.fit(CORPUS)
    again = Lexicon.from_tensors(lexicon.tensors())
    np.testing.assert_array_equal(again.sketch(QUERIES, "query", 64), lexicon.sketch(QUERIES, "query", 64))
    assert again.keys.tolist() == lexicon.keys.tolist()


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
    assert lexicon.sketch([], "query", 64).shape == (0, 64)

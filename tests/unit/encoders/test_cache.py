import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself.encoders.cache import VectorCache, key_of

WIDTH = 4


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[VectorCache]:
    cache = VectorCache(tmp_path / "cache.db")
    yield cache
    cache.close()


class Counting:
    """An encoder whose vectors say which text they are of, and which remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.calls = 0

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        self.asked += texts
        self.calls += 1
        return np.array([vector(text) for text in texts], dtype=np.float32)


def vector(text: str) -> list[float]:
    return [len(text), sum(map(ord, text)) / 7, 0.1, -1.0]


def test_vectors_come_in_the_order_of_the_texts(cache: VectorCache) -> None:
    texts = ["bb", "a", "cccc", "", "dd\0d", "🙂"]
    found = cache.vectors("s", texts, Counting(), WIDTH)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([vector(text) for text in texts], np.float32))


def test_a_text_is_encoded_once_and_comes_back_bit_for_bit(cache: VectorCache, tmp_path: Path) -> None:
    encode = Counting()
    first = cache.vectors("s", ["a", "b", "a", "a"], encode, WIDTH)
    assert sorted(encode.asked) == ["a", "b"]
    np.testing.assert_array_equal(first[0], first[2])
    cache.close()
    again = VectorCache(tmp_path / "cache.db")
    second = again.vectors("s", ["c", "a", "b"], encode, WIDTH)
    assert sorted(encode.asked) == ["a", "b", "c"]
    assert second[1].tobytes() == first[0].tobytes()
    again.close()


def test_spaces_do_not_share_vectors(cache: VectorCache) -> None:
    encode = Counting()
    cache.vectors("model/document", ["a"], encode, WIDTH)
    cache.vectors("model/query", ["a"], encode, WIDTH)
    assert encode.asked == ["a", "a"]


def test_nothing_is_encoded_for_nothing(cache: VectorCache) -> None:
    encode, told = Counting(), []
    assert cache.vectors("s", [], encode, WIDTH, lambda *what: told.append(what)).shape == (0, WIDTH)
    assert encode.calls == 0
    assert told == []


def test_progress_is_told_of_texts_to_encode_and_ends_at_the_total(cache: VectorCache) -> None:
    texts = [f"text {number}" for number in range(1100)]
    told: list[tuple[str, int, int]] = []
    cache.vectors("s", texts[:50], Counting(), WIDTH)
    cache.vectors("s", texts, Counting(), WIDTH, lambda *what: told.append(what), "encode queries")
    assert told == [("encode queries", done, 1050) for done in (0, 512, 1024, 1050)]
    told.clear()
    cache.vectors("s", texts, Counting(), WIDTH, lambda *what: told.append(what))
    assert told == []


def test_what_was_encoded_before_a_failure_is_kept(cache: VectorCache) -> None:
    texts = [f"text {number:04d}" for number in range(1100)]

    class Dying(Counting):
        def __call__(self, texts: list[str]) -> NDArray[np.float32]:
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().__call__(texts)

    with pytest.raises(KeyboardInterrupt):
        cache.vectors("s", texts, Dying(), WIDTH)
    encode = Counting()
    found = cache.vectors("s", texts, encode, WIDTH)
    assert len(encode.asked) == 1100 - 2 * 512
    np.testing.assert_array_equal(found, np.array([vector(text) for text in texts], np.float32))


def test_like_lengths_are_encoded_together(cache: VectorCache) -> None:
    encode = Counting()
    cache.vectors("s", ["a", "ccc", "bb", "dddd"], encode, WIDTH)
    assert encode.asked == ["dddd", "ccc", "bb", "a"]


def test_an_encoder_that_returns_too_few_vectors_writes_nothing(cache: VectorCache) -> None:
    with pytest.raises(ValueError, match="zip"):
        cache.vectors("s", ["a", "b"], lambda texts: np.ones((1, WIDTH), np.float32), WIDTH)
    encode = Counting()
    cache.vectors("s", ["a", "b"], encode, WIDTH)
    assert len(encode.asked) == 2


def test_doubles_are_kept_as_floats(cache: VectorCache) -> None:
    wide = lambda texts: np.full((len(texts), WIDTH), 1 / 3, dtype=np.float64)
    first = cache.vectors("s", ["a"], wide, WIDTH)
    np.testing.assert_array_equal(cache.vectors("s", ["a"], wide, WIDTH), first)
    assert first[0, 0] == np.float32(1 / 3)


def test_lone_surrogates_are_no_error(cache: VectorCache) -> None:
    found = cache.vectors("s", ["\ud800", "\ud801"], Counting(), WIDTH)
    assert found[0].tolist() != found[1].tolist()


def test_vectors_that_were_computed_elsewhere_are_kept_and_not_asked_for(cache: VectorCache) -> None:
    encoder = Counting()
    cache.vectors("s", ["own"], encoder, WIDTH)
    cache.keep("s", ["a", "own"], np.ones((2, WIDTH), np.float32))
    found = cache.vectors("s", ["a", "own", "b"], encoder, WIDTH)
    assert found.tolist() == np.array([[1.0] * WIDTH, vector("own"), vector("b")], np.float32).tolist()
    assert encoder.asked == ["own", "b"]
    assert cache.missing("other", ["a"]) == ["a"]


def test_what_nothing_needs_any_more_goes(tmp_path: Path) -> None:
    asked: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.ones((len(texts), 200), dtype=np.float32)

    cache = VectorCache(tmp_path / "cache.db")
    documents = [f"document {number}" for number in range(300)]
    cache.vectors("d", documents, encode, 200)
    cache.begin_pass()
    cache.vectors("d", [*documents, "passage 1"], encode, 200)
    cache.vectors("q", ["query 1"], encode, 200)
    cache.begin_pass()
    cache.vectors("q", ["query 1", "query 2"], encode, 200)
    assert cache.prune({"d": documents, "q": []}) == 0  # the last two passes may be gone on with
    learner = VectorCache(tmp_path / "cache.db")  # of another process
    learner.begin_pass()
    learner.vectors("q", ["query 2"], encode, 200)
    learner.close()
    before = (tmp_path / "cache.db").stat().st_size
    needed = {"d": documents[:10], "q": ["query 1"]}
    assert cache.prune(needed) == 291  # documents that are gone, and a passage of old
    assert (tmp_path / "cache.db").stat().st_size < before / 3
    asked.clear()
    cache.vectors("d", documents[:11], encode, 200)
    cache.vectors("q", ["query 1", "query 2"], encode, 200)
    assert asked == ["document 10"]
    for _ in range(2):
        cache.begin_pass()
    asked.clear()
    cache.prune({"d": documents, "q": ["query 1"]})
    cache.vectors("q", ["query 1", "query 2"], encode, 200)
    assert asked == ["query 2"]  # which is not remembered any more
    cache.close()


def test_a_cache_of_an_earlier_release_is_taken_over(tmp_path: Path) -> None:

    with closing(sqlite3.connect(tmp_path / "cache.db")) as db, db:
        db.execute("CREATE TABLE vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID")
        db.execute("INSERT INTO vectors VALUES (?, ?)", (key_of("d", "a"), np.full(4, 7, np.float32).tobytes()))
    cache = VectorCache(tmp_path / "cache.db")
    found = cache.vectors("d", ["a", "b"], lambda texts: np.zeros((len(texts), 4), np.float32), 4)
    assert found.tolist() == [[7.0] * 4, [0.0] * 4]
    cache.close()


def test_vectors_by_key_are_read_without_encoding(cache: VectorCache) -> None:
    vectors = cache.vectors("s", ["a", "b"], Counting(), WIDTH)
    keys = [key_of("s", text) for text in ("b", "nowhere", "a", "b")]
    for _ in range(2):  # from the file, and from memory
        nothing = np.full(WIDTH, np.nan)
        np.testing.assert_array_equal(cache.named(keys, WIDTH), [vectors[1], nothing, vectors[0], vectors[1]])
    cache.drop("s", ["b"])
    assert np.isnan(cache.named(keys, WIDTH)).all(axis=1).tolist() == [True, True, False, True]
    found = cache.named([], WIDTH)
    assert (found.shape, found.dtype) == ((0, WIDTH), np.float32)

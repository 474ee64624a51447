import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.corpus.words import words
from ragself.errors import StoreError
from ragself.lexical import segment as module
from ragself.lexical import terms as hashing
from ragself.lexical.segment import Document, Segment, term_key, term_keys
from ragself.lexical.stored import LAYOUT
from ragself.lexical.terms import encoded, id_hashes

TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "dd", "eé", "字", "getHTTP"]), max_size=12).map(" ".join), max_size=8
)


def documents(texts: list[str], first: int = 0) -> list[Document]:
    return [(f"id {row}", row + 1, text, row.to_bytes(16, "big")) for row, text in enumerate(texts, first)]


def vectors(keys: Sequence[bytes]) -> np.ndarray:
    """Vectors of three numbers that follow from the keys; those of even keys are not known."""
    found = np.array([[key[-1], key[0], 1] for key in keys], np.float32).reshape(-1, 3)
    found[[key[-1] % 2 == 0 for key in keys]] = np.nan
    return found


def find(segment: Segment, ids: list[str]) -> list[int]:
    return segment.find(*encoded(ids), id_hashes(ids)).tolist()


def check(segment: Segment, expected: list[Document]) -> None:
    """Compare all that a segment holds with its documents."""
    assert len(segment) == len(expected)
    tokenised = [words(text) for _, _, text, _ in expected]
    keys = sorted({term_key(word) for tokens in tokenised for word in tokens})
    assert segment.terms.tolist() == keys
    rows = range(len(expected))
    read = [[int(segment.terms[token]) for token in segment.text(np.array([row]))] for row in rows]
    assert read == [[term_key(word) for word in tokens] for tokens in tokenised]
    some = np.array(rows[::-2], np.int64)
    assert segment.terms[segment.text(some)].tolist() == [key for row in some for key in read[row]]
    counts = [Counter(map(term_key, tokens)) for tokens in tokenised]
    for term, key in enumerate(keys):
        postings = [array.tolist() for array in segment.postings(term)]
        held = [(row, min(count[key], 255)) for row, count in enumerate(counts) if key in count]
        assert list(zip(*postings, strict=True)) == held
        assert segment.occurrences[term] == sum(count[key] for count in counts)
    assert [segment.id(row) for row in range(len(segment))] == [document[0] for document in expected]
    assert segment.sequence.tolist() == [document[1] for document in expected]
    assert [key.tobytes() for key in segment.keys] == [document[3] for document in expected]
    assert find(segment, [*(document[0] for document in expected), "", "none"]) == [*range(len(expected)), -1, -1]
    kinds = {name: getattr(segment, name).dtype.str for name in LAYOUT}
    assert kinds == {name: kind for name, (_, kind) in LAYOUT.items()}
    assert len(segment.vectors) == len(expected)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_a_segment_holds_its_documents(texts: list[str]) -> None:
    check(Segment.build(documents(texts)), documents(texts))


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_merge_is_the_segment_of_what_is_alive(groups: list[list[str]], random) -> None:
    given = [documents(texts, 10 * number) for number, texts in enumerate(groups)]
    alive = [np.array([random.random() < 0.7 for _ in group], dtype=bool) for group in given]
    kept = [
        document
        for group, mask in zip(given, alive, strict=True)
        for document, is_alive in zip(group, mask, strict=True)
        if is_alive
    ]
    check(Segment.merge([Segment.build(group) for group in given], alive), kept)


def test_a_segment_comes_back_from_the_disk(tmp_path: Path) -> None:
    for number, texts in enumerate([[], [""], ["a b a", "", "c"], ["字 é"] * 3]):
        folder = tmp_path / str(number)
        Segment.build(documents(texts)).save(folder, "kb", vectors)
        check(Segment.open(folder, "kb"), documents(texts))
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2", "3"}


def test_base_vectors_are_written_with_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 2)
    built = Segment.build(documents(["a", "b", "c", "d", "e"]))
    assert built.base(np.array([1, 2])).shape == (2, 0)
    built.save(tmp_path / "segment", "kb", vectors)
    found = Segment.open(tmp_path / "segment", "kb").base(np.array([3, 0, 1, 3]))
    np.testing.assert_array_equal(found, [[3, 0, 1], [np.nan] * 3, [1, 0, 1], [3, 0, 1]])


def test_a_file_that_is_cut_off_while_it_is_open_is_an_error(saved: Path) -> None:
    segment = Segment.open(saved, "kb")
    for name in ("tokens", "rows"):
        path = saved / f"{name}.npy"
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"tokens\.npy was truncated"):
        segment.text(np.array([0, 1]))
    with pytest.raises(StoreError, match=r"rows\.npy was truncated"):
        segment.postings(int(np.argmax(segment.starts[1:] == segment.starts[-1])))


def test_ids_of_any_kind_are_found() -> None:
    ids = ["", "\ud800", "ä" * 1000, "a\0b", "a"]
    segment = Segment.build([(id, 1, "x", bytes(16)) for id in ids])
    assert find(segment, [*reversed(ids), "\ud801", "A"]) == [4, 3, 2, 1, 0, -1, -1]
    assert [segment.id(row) for row in range(5)] == ids


def test_ids_with_the_same_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_digest", lambda text: bytes([len(text)]) * 8)
    segment = Segment.build([(id, 1, "", bytes(16)) for id in ["ab", "cd", "x", "ef"]])
    assert find(segment, ["ef", "cd", "zz", "x", "ab", "y"]) == [3, 1, -1, 2, 0, -1]


def test_a_million_words_and_one_word_a_million_times() -> None:
    many = Segment.build([("many", 1, " ".join(f"w{number}" for number in range(1_000_000)), bytes(16))])
    assert len(many.terms) == len(many.rows) == 1_000_000
    one = Segment.build([("one", 1, "w7 " * 1_000_000, bytes(16))])
    assert (one.counts.tolist(), one.occurrences.tolist(), one.starts.tolist()) == ([255], [1_000_000], [0, 1])
    both = Segment.merge([many, one], [np.array([True])] * 2)
    term = int(both.locate(term_keys(["w7"]))[0])
    assert both.occurrences[term] == 1_000_001
    assert both.rows[both.starts[term] : both.starts[term + 1]].tolist() == [0, 1]


def test_keys_of_terms_are_the_same_when_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    before = term_keys(["a", "ü", "\ud800"]).tolist()
    monkeypatch.setattr(hashing, "_REMEMBERED", 1)
    assert [term_key(term) for term in ["a", "ü", "\ud800"]] == before
    assert len(set(before)) == 3


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "segment"
    Segment.build(documents(["a b a", "c d"])).save(folder, "kb", vectors)
    return folder


def test_whatever_is_missing_or_cut_off_is_noticed(saved: Path, tmp_path: Path) -> None:
    files = sorted(path.name for path in saved.iterdir())
    assert len(files) == 15
    for name in files:
        for size in (None, 0, 5, -1):
            copy = tmp_path / "copy"
            shutil.copytree(saved, copy)
            content = (copy / name).read_bytes()
            if size is None:
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(content[:size])
            with pytest.raises(StoreError, match="copy"):
                Segment.open(copy, "kb")
            shutil.rmtree(copy)


def test_what_does_not_fit_is_noticed(saved: Path) -> None:
    Segment.open(saved, "kb")
    with pytest.raises(StoreError, match="belongs to kb"):
        Segment.open(saved, "another")
    with pytest.raises(StoreError):
        Segment.open(saved.with_name("nowhere"), "kb")
    good = json.loads((saved / "segment.json").read_text())
    for damage in ({"format": 0}, {"documents": 3}, {"arrays": {}}, {"arrays": 7}, {"documents": None}):
        (saved / "segment.json").write_text(json.dumps({**good, **damage}))
        with pytest.raises(StoreError):
            Segment.open(saved, "kb")
    (saved / "segment.json").write_text(json.dumps(good))
    bounds = np.load(saved / "bounds.npy")
    np.save(saved / "bounds.npy", bounds + 1)
    with pytest.raises(StoreError, match="does not fit"):
        Segment.open(saved, "kb")


@pytest.mark.parametrize("function", ["save", "lib.format.write_array_header_1_0"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"numpy.{function}", full)
    with pytest.raises(OSError, match="No space"):
        Segment.build(documents(["a"])).save(tmp_path / "segment", "kb", vectors)
    assert list(tmp_path.iterdir()) == []

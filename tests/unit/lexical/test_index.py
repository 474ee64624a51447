import json
import logging
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from ragself.corpus.journal import Journal
from ragself.corpus.words import words
from ragself.errors import StoreError
from ragself.lexical import index as module
from ragself.lexical.index import LexicalIndex
from ragself.lexical.view import View
from ragself.schema import Chunk

WORDS = [f"w{number}" for number in range(12)]


def key(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def vectors(keys: Sequence[bytes]) -> np.ndarray:
    """Vectors of two numbers, the first bytes of the keys."""
    return np.array([[key[0], key[1]] for key in keys], np.float32).reshape(-1, 2)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "corpus.db")
    yield journal
    journal.close()


@pytest.fixture
def opened(tmp_path: Path, journal: Journal) -> Iterator[Callable[[], LexicalIndex]]:
    """Opens the index as one more process would."""
    indices: list[LexicalIndex] = []

    def open_index() -> LexicalIndex:
        indices.append(LexicalIndex(tmp_path / "lexical", tmp_path / "corpus.db", "kb", key, vectors))
        return indices[-1]

    yield open_index
    for index in indices:
        index.close()


def put(journal: Journal, texts: dict[str, str]) -> None:
    journal.put([Chunk(id, text) for id, text in texts.items()])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def manifest(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "lexical" / "manifest.json").read_text())


def check(view: View, texts: dict[str, str], seed: int = 0) -> None:
    """Compare all that a view answers with plain counting."""
    rng = np.random.default_rng(seed)
    counts = {id: Counter(words(text)) for id, text in texts.items()}
    terms = [*WORDS, "nowhere", "w0"]
    assert (view.documents, view.words) == (len(texts), sum(sum(count.values()) for count in counts.values()))
    statistics = view.statistics(terms)
    assert statistics.frequency.tolist() == [sum(term in count for count in counts.values()) for term in terms]
    assert statistics.occurrences.tolist() == [sum(count[term] for count in counts.values()) for term in terms]
    ids = [*texts, "no such id"]
    rows = view.rows(ids)
    assert rows[-1] == -1 and (rows[:-1] >= 0).all() and len(set(rows.tolist())) == len(ids)
    rows = rng.permutation(rows[:-1])
    found = view.ids(rows)
    assert sorted(found) == sorted(texts)
    assert view.keys(rows) == [key(texts[id]) for id in found]
    known = view.vectors(rows, 2)  # of what is in RAM only they are not
    expected = vectors([key(texts[id]) for id in found])
    assert (np.isnan(known).all(axis=1) | (known == expected).all(axis=1)).all()
    assert view.lengths(rows).tolist() == [sum(counts[id].values()) for id in found]
    asked = ["w3", "nowhere", "w1", "w3"]
    places, columns, owner, lengths = view.held(asked, rows)
    flat = [(number, word) for number, id in enumerate(found) for word in words(texts[id])]
    held = [place for place, (_, word) in enumerate(flat) if word in asked]
    assert places.tolist() == held
    assert owner.tolist() == [flat[place][0] for place in held]
    assert columns.tolist() == [asked.index(flat[place][1]) for place in held]
    assert lengths.tolist() == view.lengths(rows).tolist()
    for negative in (False, True):
        some = [str(term) for term in rng.choice(terms, 5)]
        impact = np.sort(rng.random((5, 256)), axis=1).astype(np.float32)
        impact[1] = -1 if negative else 0
        allowed = None if rng.random() < 0.5 else [*(str(id) for id in rng.choice(ids, len(ids) // 2)), "none"]
        check_top(view, counts, some, impact, allowed, int(rng.integers(0, 6)))


def check_top(
    view: View, counts: dict[str, Counter], terms: list[str], impact: np.ndarray, allowed: list[str] | None, k: int
) -> None:
    level, mu, expected = float(len(terms)), 10.0, []
    for id, count in counts.items():
        gains = [float(impact[column, min(count[term], 255)]) for column, term in enumerate(terms) if count[term]]
        if any(gain > 0 for gain in gains) and (allowed is None or id in allowed):
            score = sum(gains) + level * np.log(mu / (sum(count.values()) + mu))
            expected.append((score, int(view.rows([id])[0])))
    expected.sort(key=lambda pair: (-pair[0], pair[1]))
    rows, scores = view.top(terms, impact, level, k, allowed, mu)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    np.testing.assert_allclose(scores, [score for score, _ in expected[:k]], rtol=1e-4, atol=1e-5)
    true = {row: score for score, row in expected}
    np.testing.assert_allclose(scores, [true[row] for row in rows.tolist()], rtol=1e-4, atol=1e-5)
    ranks = list(zip(-scores, rows, strict=True))
    assert ranks == sorted(ranks)


def random_text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.1:
        return "— … —"
    if kind < 0.15:
        return "w1 " * 300 + "w2"
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 15)))


@pytest.mark.parametrize("seed", range(12))
def test_a_view_is_what_counting_says_after_any_changes(
    journal: Journal, opened: Callable[[], LexicalIndex], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    if seed % 3 == 0:
        monkeypatch.setattr(module, "_AT_ONCE", 5)
    texts: dict[str, str] = {}
    indices = [opened(), opened()]
    older: list[tuple[View, dict[str, str]]] = []
    for step in range(40):
        action = rng.random()
        if action < 0.6:
            new = {f"c{rng.randint(0, 40)}": random_text(rng) for _ in range(rng.choice([1, 1, 2, 12]))}
            put(journal, new)
            texts = texts | new
        elif action < 0.75:
            gone = rng.sample(sorted(texts), min(len(texts), rng.randint(1, 4)))
            journal.delete(gone)
            texts = {id: text for id, text in texts.items() if id not in gone}
        elif action < 0.9:
            rng.choice(indices).checkpoint(least=rng.choice([0, 5]))
        elif action < 0.95:
            rng.choice(indices).merge()
        else:
            indices[rng.randint(0, 1)] = opened()
        view = rng.choice(indices).view()
        check(view, texts, step)
        assert len(view.parts) <= module._IN_RAM + module._ON_DISK
        older.append((view, texts))
    for index in (*indices, opened()):
        check(index.view(), texts)
    for view, expected in rng.sample(older, 5):  # nobody has touched what was handed out
        check(view, expected)


def test_an_empty_index_answers(opened: Callable[[], LexicalIndex], tmp_path: Path) -> None:
    index = opened()
    view = index.view()
    check(view, {})
    assert [len(part) for part in view.top([], np.zeros((0, 256), np.float32), 0.0, 3)] == [0, 0]
    assert [len(part) for part in view.held([], [])] == [0, 0, 0, 0]
    assert view.statistics([]).frequency.shape == (0,)
    assert (index.seq, index.checkpoint(0), index.merge()) == (0, False, False)
    with pytest.raises(IndexError, match="rows 0 to"):
        view.ids([0])


def test_one_document_without_a_word_and_identical_ones(journal: Journal, opened: Callable[[], LexicalIndex]) -> None:
    index, texts = opened(), {"a": "…"}
    put(journal, texts)
    check(index.view(), texts)
    same = {f"same {number}": "w1 w2" for number in range(30)}
    put(journal, same)
    view = index.view()
    check(view, texts | same)
    rows, scores = view.top(["w1"], np.ones((1, 256), np.float32), 1.0, 7)
    assert rows.tolist() == sorted(rows.tolist()) == sorted(view.rows([*same]).tolist())[:7]
    assert len(set(scores.tolist())) == 1
    check(index.view(), texts | same)


def test_where_nothing_changed_the_view_is_the_same_one(journal: Journal, opened: Callable[[], LexicalIndex]) -> None:
    index = opened()
    put(journal, {"a": "w1"})
    first = index.view()
    assert index.view() is first
    put(journal, {"b": "w1"})
    assert index.view() is not first
    assert first.documents == 1


def test_processes_see_each_others_work(journal: Journal, opened: Callable[[], LexicalIndex], tmp_path: Path) -> None:
    one, two = opened(), opened()
    texts = {f"c{number}": f"w{number % 12} w1" for number in range(50)}
    put(journal, texts)
    assert one.view().documents == 50
    assert two.checkpoint(least=51) is False
    assert two.checkpoint(least=50) is True
    assert (two.seq, one.seq, opened().seq) == (50, 50, 50)
    assert two.checkpoint(least=0) is False
    assert one.checkpoint(least=50) is False  # another has done it
    assert [part.name for part in one.view().parts] == manifest(tmp_path)["segments"]  # and its segment is taken
    journal.delete(["c3"])
    put(journal, {"c4": "w5 w5"})
    texts["c4"] = "w5 w5"
    del texts["c3"]
    for index in (one, two):
        check(index.view(), texts)
    assert one.checkpoint(least=1)
    assert names(tmp_path / "lexical") == sorted(
        ["lock", "manifest.json", *manifest(tmp_path)["segments"], *manifest(tmp_path)["dead"].values()]
    )
    assert manifest(tmp_path)["dead"]
    assert two.merge()
    assert names(tmp_path / "lexical") == sorted(["lock", "manifest.json", *manifest(tmp_path)["segments"]])
    assert len(manifest(tmp_path)["segments"]) == 1
    assert two.merge() is False
    for index in (one, two, opened()):
        check(index.view(), texts)


def test_segments_stay_few_and_are_used_from_the_disk(
    journal: Journal, opened: Callable[[], LexicalIndex], tmp_path: Path
) -> None:
    index, texts = opened(), {}
    for number in range(120):
        new = {f"c{number}": f"w{number % 12}"}
        put(journal, new)
        texts |= new
        assert index.checkpoint(least=1)
        assert len(manifest(tmp_path)["segments"]) <= module._ON_DISK
        assert all(part.name for part in index.view().parts)
    check(index.view(), texts)


def test_tombstones_that_are_published_may_be_pruned(journal: Journal, opened: Callable[[], LexicalIndex]) -> None:
    one, two, three = opened(), opened(), opened()
    texts = {f"c{number}": "w1 w2" for number in range(20)}
    put(journal, texts)
    for index in (one, two):
        check(index.view(), texts)
    assert three.checkpoint(least=1)
    check(two.view(), texts)
    journal.delete(["c1", "c2"])
    put(journal, {"new": "w3"})
    texts = {id: text for id, text in texts.items() if id not in ("c1", "c2")} | {"new": "w3"}
    assert three.checkpoint(least=1)
    journal.mark_applied("lexical", three.seq)
    journal.forget("nothing")
    assert [change.id for batch in journal.changes(20) for change in batch] == ["new"]
    for index in (one, two, three, opened()):
        check(index.view(), texts)


def test_a_manifest_published_while_the_journal_is_read_is_taken(
    journal: Journal, opened: Callable[[], LexicalIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = opened(), opened()
    put(journal, {f"c{number}": "w1" for number in range(1500)})
    read = one._journal.after

    def interrupted(seq: int) -> list:
        found = read(seq)
        if seq == 0 and found:
            journal.delete(["c1400", "c3"])
            two.checkpoint(least=1)
            journal.mark_applied("lexical", two.seq)
            journal.forget("nothing")
        return found

    monkeypatch.setattr(one._journal, "after", interrupted)
    check(one.view(), {f"c{number}": "w1" for number in range(1500) if number not in (3, 1400)})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damages() -> dict[str, Callable[[Path], None]]:
    def changed(file: str, **values: object) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            path = next(folder.glob(file))
            path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

        return change

    return {
        "no segment": lambda folder: shutil.rmtree(next(folder.glob("segment-*"))),
        "no dead rows": lambda folder: next(folder.glob("dead-*")).unlink(),
        "cut dead rows": lambda folder: cut(next(folder.glob("dead-*"))),
        "other dead rows": lambda folder: np.save(next(folder.glob("dead-*")), np.array([10**6], np.uint32)),
        "cut array": lambda folder: cut(next(folder.glob("segment-*/tokens.npy"))),
        "empty array": lambda folder: next(folder.glob("segment-*/rows.npy")).write_bytes(b""),
        "old segment": changed("segment-*/segment.json", format=0),
        "foreign segment": changed("segment-*/segment.json", owner="another"),
        "old manifest": changed("manifest.json", format=0),
        "foreign manifest": changed("manifest.json", owner="another"),
        "other folders": changed("manifest.json", segments=["../elsewhere"]),
        "no number": changed("manifest.json", seq=None),
        "too new": changed("manifest.json", seq=1000),
        "cut manifest": lambda folder: cut(folder / "manifest.json"),
        "garbage": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\0[1]"),
        "another type": lambda folder: (folder / "manifest.json").write_text("[]"),
    }


@pytest.mark.parametrize("damage", damages())
def test_what_is_damaged_is_built_again(
    journal: Journal,
    opened: Callable[[], LexicalIndex],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    texts = {f"c{number}": f"w{number % 12} w1 w1" for number in range(40)}
    put(journal, texts)
    index = opened()
    index.checkpoint(least=1)
    journal.delete(["c7"])
    del texts["c7"]
    index.checkpoint(least=1)
    index.close()
    damages()[damage](tmp_path / "lexical")
    with caplog.at_level(logging.WARNING, "ragself.lexical"):
        index, other = opened(), opened()
        check(index.view(), texts)
        check(index.view(), texts)
    assert [record.name for record in caplog.records] == ["ragself.lexical.index"]
    assert "built again from the documents" in caplog.text and str(tmp_path) in caplog.text
    assert index.checkpoint()  # however little there is
    caplog.clear()
    for reader in (index, opened(), other):
        check(reader.view(), texts)
    assert not caplog.records
    assert len(names(tmp_path / "lexical")) == 3


def test_a_deleted_folder_is_built_again(journal: Journal, opened: Callable[[], LexicalIndex], tmp_path: Path) -> None:
    texts = {f"c{number}": "w1" for number in range(10)}
    put(journal, texts)
    index = opened()
    index.checkpoint(least=1)
    shutil.rmtree(tmp_path / "lexical")
    assert index.seq == 0
    put(journal, {"new": "w2"})
    for reader in (index, opened()):
        check(reader.view(), texts | {"new": "w2"})
    assert index.checkpoint(least=11)
    check(opened().view(), texts | {"new": "w2"})


def test_what_a_kill_left_is_removed(journal: Journal, opened: Callable[[], LexicalIndex], tmp_path: Path) -> None:
    folder, texts = tmp_path / "lexical", {"a": "w1"}
    put(journal, texts)
    opened().checkpoint(least=1)
    shutil.copytree(folder / manifest(tmp_path)["segments"][0], folder / "segment-killed")
    (folder / "segment-killed.new").mkdir()
    (folder / "dead-killed.npy").write_bytes(b"half")
    (folder / "manifest.json.new").write_text("{")
    index = opened()
    check(index.view(), texts)
    put(journal, {"b": "w2"})
    assert index.checkpoint(least=1)
    assert names(folder) == sorted(["lock", "manifest.json", *manifest(tmp_path)["segments"]])
    check(opened().view(), texts | {"b": "w2"})


@pytest.mark.parametrize("failing", ["np.save", "replace"])
def test_a_full_disk_stops_no_search(
    journal: Journal,
    opened: Callable[[], LexicalIndex],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failing: str,
) -> None:
    texts = {f"c{number}": f"w{number % 12}" for number in range(20)}
    put(journal, texts)
    index = opened()
    index.checkpoint(least=1)
    before = names(tmp_path / "lexical")
    journal.delete(["c1"])
    put(journal, {"c30": "w2", "c4": "w5"})
    texts = {id: text for id, text in texts.items() if id != "c1"} | {"c30": "w2", "c4": "w5"}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "ragself.lexical"):
        patch.setattr(*((np, "save") if failing == "np.save" else (Path, "replace")), full)
        assert index.checkpoint(least=1) is False
        assert index.merge() is False
        check(index.view(), texts)
        assert names(tmp_path / "lexical") == before
    assert len(caplog.records) == 1 and "No space left" in caplog.text
    assert opened().seq == 20
    assert index.checkpoint(least=1) is True
    for reader in (index, opened()):
        check(reader.view(), texts)


def test_a_folder_that_cannot_be_written_is_done_without(
    journal: Journal, opened: Callable[[], LexicalIndex], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lexical").write_text("a file where the folder should be")
    put(journal, {"a": "w1 w2"})
    index = opened()
    check(index.view(), {"a": "w1 w2"})
    assert index.checkpoint(least=1) is False
    check(index.view(), {"a": "w1 w2"})


def test_of_two_that_publish_one_does(journal: Journal, opened: Callable[[], LexicalIndex], tmp_path: Path) -> None:
    put(journal, {"a": "w1"})
    index = opened()
    (tmp_path / "lexical").mkdir()
    with FileLock(tmp_path / "lexical" / "lock"):
        assert index.checkpoint(least=1) is False
        check(index.view(), {"a": "w1"})
    assert index.checkpoint(least=1) is True


def test_what_changes_while_it_is_published_is_not_lost(
    journal: Journal, opened: Callable[[], LexicalIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(journal, {"a": "w1", "b": "w2"})
    index = opened()
    publish = module.manifest.publish

    def slowly(*arguments: object) -> object:
        put(journal, {"b": "w3", "c": "w4"})
        journal.delete(["a"])
        check(index.view(), {"b": "w3", "c": "w4"})
        return publish(*arguments)

    monkeypatch.setattr(module.manifest, "publish", slowly)
    assert index.checkpoint(least=1)
    monkeypatch.undo()
    assert index.seq == 2
    check(index.view(), {"b": "w3", "c": "w4"})
    assert index.checkpoint(least=1)
    check(opened().view(), {"b": "w3", "c": "w4"})


def test_threads_search_while_others_write_and_publish(journal: Journal, opened: Callable[[], LexicalIndex]) -> None:
    index, stop, failures = opened(), threading.Event(), []

    def search() -> None:
        try:
            while not stop.is_set():
                view = index.view()
                rows, _ = view.top(["w1"], np.ones((1, 256), np.float32), 1.0, 10**6)
                assert len(rows) == view.documents == view.statistics(["w1"]).frequency[0]
                assert view.held(["w1"], rows)[3].sum() == view.words
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(60):
        put(journal, {f"c{number % 17}": f"w1 x{number}", f"d{number}": "w1"})
        index.checkpoint(least=20)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_long_write_holds_up_no_search(journal: Journal, opened: Callable[[], LexicalIndex]) -> None:
    put(journal, {"a": "w1"})
    index = opened()
    index.view()
    with journal._db.write() as db:
        db.execute("DELETE FROM chunks")
        start = time.monotonic()
        check(index.view(), {"a": "w1"})
        check(opened().view(), {"a": "w1"})
        assert time.monotonic() - start < 5
        db.execute("INSERT INTO chunks (id, source, text) VALUES ('a', 's', 'w2')")
    check(index.view(), {"a": "w2"})


def test_a_rebuild_says_how_far_it_is(journal: Journal, opened: Callable[[], LexicalIndex]) -> None:
    put(journal, {f"c{number}": "w1" for number in range(2300)})
    said: list[tuple[str, int, int]] = []
    index = opened()
    index.view(lambda *step: said.append(step))
    assert [step[1:] for step in said] == [(1000, 2300), (2000, 2300), (2299, 2300), (2300, 2300)]
    index.view(lambda *step: said.append(step))
    assert len(said) == 4


def test_a_journal_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Cannot read"):
        LexicalIndex(tmp_path / "lexical", tmp_path / "none.db", "kb", key, vectors)
    (tmp_path / "bad.db").write_text("no database " * 100)
    index = LexicalIndex(tmp_path / "lexical", tmp_path / "bad.db", "kb", key, vectors)
    with pytest.raises(StoreError, match="Cannot read"):
        index.view()
    index.close()
    with pytest.raises(sqlite3.ProgrammingError):
        index.view()

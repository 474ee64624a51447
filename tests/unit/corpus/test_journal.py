import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.corpus.journal import Journal
from ragself.errors import StoreError
from ragself.schema import Chunk


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "corpus.db")
    yield journal
    journal.close()


def ids(journal: Journal) -> list[str]:
    return [chunk.id for chunk in journal.chunks()]


def follow(journal: Journal, index: dict[str, Chunk], after: int) -> int:
    """What an index does: apply the changes after a number, in order."""
    for batch in journal.changes(after):
        for change in batch:
            assert change.seq > after
            after = change.seq
            if change.chunk is None:
                index.pop(change.id, None)
            else:
                index[change.id] = change.chunk
    return after


def test_an_empty_journal_has_nothing(journal: Journal) -> None:
    assert (len(journal), journal.head, journal.sources(), journal.chunks()) == (0, 0, 0, [])
    assert list(journal.changes(0)) == []


def test_chunks_come_back_whole_also_from_the_disk(journal: Journal, tmp_path: Path) -> None:
    chunks = [
        Chunk("a", "text\n\0 🙂 \u2028", {"i": 2**63 - 1, "f": 0.1, "b": True, "s": "ä", "title": "T", "source": "s"}),
        Chunk("b", "x"),
    ]
    assert journal.put(chunks) == (2, 0, 0)
    journal.close()
    again = Journal(tmp_path / "corpus.db")
    assert again.chunks() == chunks
    assert [type(value) for value in again.chunks()[0].metadata.values()] == [int, float, bool, str, str, str]
    again.close()


def test_the_same_chunk_again_is_unchanged_and_takes_no_number(journal: Journal) -> None:
    journal.put([Chunk("a", "x", {"k": 1, "l": 2})])
    head = journal.head
    assert journal.put([Chunk("a", "x", {"l": 2, "k": 1})]) == (0, 1, 0)
    assert journal.head == head


@pytest.mark.parametrize("chunk", [Chunk("a", "y", {"k": 1}), Chunk("a", "x", {"k": 2}), Chunk("a", "x", {"k": True})])
def test_another_text_or_metadata_is_a_change_with_a_new_number(journal: Journal, chunk: Chunk) -> None:
    journal.put([Chunk("a", "x", {"k": 1}), Chunk("b", "x")])
    assert journal.put([chunk]) == (1, 0, 0)
    assert journal.chunks() == [Chunk("b", "x"), chunk]
    assert journal.head == 3


def test_replacing_deletes_the_other_chunks_of_a_source_only(journal: Journal) -> None:
    old = [Chunk(name, name, {"source": "f"}) for name in "abc"]
    journal.put([*old, Chunk("d", "d", {"source": "g"}), Chunk("f", "a chunk that is its own source")])
    assert journal.put([old[1], Chunk("e", "e", {"source": "f"})], ["f"]) == (1, 1, 3)
    assert ids(journal) == ["b", "d", "e"]
    assert journal.put([], ["f", "f", "nowhere"]) == (0, 0, 2)
    assert ids(journal) == ["d"]


def test_a_chunk_that_moves_to_another_source_is_not_deleted_with_the_old_one(journal: Journal) -> None:
    journal.put([Chunk("a", "x", {"source": "old"})])
    assert journal.put([Chunk("a", "x", {"source": "new"})], ["old", "new"]) == (1, 0, 0)
    assert journal.chunks()[0].source == "new"


def test_deleting_leaves_a_tombstone_and_counts_what_was_there(journal: Journal) -> None:
    journal.put([Chunk("a", "x"), Chunk("b", "x")])
    assert journal.delete(["a", "a", "nothing"]) == 1
    assert journal.delete(["a"]) == 0
    assert (len(journal), journal.sources(), journal.head) == (1, 1, 3)
    changes = [change for batch in journal.changes(0) for change in batch]
    assert [(change.seq, change.id, change.chunk is None) for change in changes] == [(2, "b", False), (3, "a", True)]


def test_a_deleted_chunk_can_come_back(journal: Journal) -> None:
    journal.put([Chunk("a", "x")])
    journal.delete(["a"])
    assert journal.put([Chunk("a", "x")]) == (1, 0, 0)
    assert ids(journal) == ["a"]


def test_a_failed_put_changes_nothing(journal: Journal) -> None:
    journal.put([Chunk("a", "x", {"source": "s"})])
    with pytest.raises(TypeError):
        journal.put([Chunk("b", "x"), Chunk("c", "x", {"k": {1}})], ["s"])  # type: ignore[dict-item]
    assert (ids(journal), journal.head) == (["a"], 1)


def test_changes_come_in_batches_that_leave_nothing_out(journal: Journal) -> None:
    journal.put([Chunk(f"{number}", "x") for number in range(2500)])
    batches = list(journal.changes(100))
    assert [len(batch) for batch in batches] == [1000, 1000, 400]
    assert [change.seq for batch in batches for change in batch] == list(range(101, 2501))
    assert journal.pending(100) == 2400


def test_collections_remember_how_far_they_are(journal: Journal, tmp_path: Path) -> None:
    assert journal.applied("v0") == 0
    journal.mark_applied("v0", 3)
    journal.mark_applied("v0", 7)
    journal.mark_applied("v1", 1)
    journal.close()
    again = Journal(tmp_path / "corpus.db")
    assert (again.applied("v0"), again.applied("v1")) == (7, 1)
    again.close()


def test_a_collection_is_marked_while_it_is_written_to_and_where_writing_broke_off(
    journal: Journal, tmp_path: Path
) -> None:
    with journal.writing("v0"), journal.writing("v1"):
        other = Journal(tmp_path / "corpus.db")
        assert other.unsettled() == {"v0", "v1"}
        other.close()
        assert journal.unsettled() == set()  # its own work
    assert journal.unsettled() == set()
    for name in ("v0", "v1"):
        with pytest.raises(KeyboardInterrupt), journal.writing(name):
            raise KeyboardInterrupt
    journal.forget("v1")
    with journal.writing("v2"):
        pass
    assert journal.unsettled() == {"v0"}
    with journal.writing("v0"):  # begun again, and this time done
        pass
    assert journal.unsettled() == set()


def test_forgetting_drops_only_tombstones_that_all_others_have_seen(journal: Journal) -> None:
    journal.put([Chunk(name, name) for name in "abc"])
    journal.delete(["a"])  # 4
    journal.delete(["b"])  # 5
    for name, seq in [("v0", 4), ("v1", 5), ("v2", 0)]:
        journal.mark_applied(name, seq)
    journal.forget("v1")  # v2 has seen nothing
    assert [change.id for batch in journal.changes(0) for change in batch] == ["c", "a", "b"]
    journal.forget("v2")
    assert [change.id for batch in journal.changes(0) for change in batch] == ["c", "b"]
    assert journal.applied("v2") == 0
    journal.forget("v0")  # nobody is left to have seen anything
    assert [change.id for batch in journal.changes(0) for change in batch] == ["c", "b"]


def test_a_number_is_never_given_twice(journal: Journal) -> None:
    journal.put([Chunk("a", "x")])
    journal.delete(["a"])
    journal.mark_applied("v0", 2)
    journal.forget("other")
    assert journal.pending(0) == 0
    journal.put([Chunk("b", "x")])
    assert journal.head == 3


def test_writes_of_another_connection_are_noticed_once_and_own_ones_not(journal: Journal, tmp_path: Path) -> None:
    journal.put([Chunk("a", "x")])
    assert not journal.changed_elsewhere()
    other = Journal(tmp_path / "corpus.db")
    assert not journal.changed_elsewhere()
    other.put([Chunk("b", "x")])
    assert journal.changed_elsewhere()
    assert not journal.changed_elsewhere()
    assert ids(journal) == ["a", "b"]
    other.close()


def test_a_damaged_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "corpus.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"corpus\.db"):
        Journal(tmp_path / "corpus.db")


NAMES = st.sampled_from("abcdef")
PUT = st.tuples(
    st.just("put"),
    st.dictionaries(NAMES, st.tuples(st.sampled_from("xy"), st.sampled_from("st")), max_size=4),
    st.lists(st.sampled_from("st"), max_size=2),
)
DELETE = st.tuples(st.just("delete"), st.lists(NAMES, max_size=3), st.none())
FOLLOW = st.tuples(st.just("follow"), st.sampled_from("12"), st.none())
FORGET = st.tuples(st.just("forget"), st.none(), st.none())


@given(st.lists(st.one_of(PUT, DELETE, FOLLOW, FORGET), max_size=15))
@settings(deadline=None, max_examples=60)
def test_any_history_leaves_what_a_dictionary_would_hold_and_every_follower_agrees(
    tmp_path_factory: pytest.TempPathFactory, steps: list
) -> None:
    journal = Journal(tmp_path_factory.mktemp("j") / "corpus.db")
    truth: dict[str, Chunk] = {}
    followers: dict[str, dict[str, Chunk]] = {"1": {}, "2": {}}
    for name in followers:
        journal.mark_applied(name, 0)
    for what, content, sources in steps:
        if what == "put":
            chunks = [Chunk(id, text, {"source": source}) for id, (text, source) in content.items()]
            changed = sum(truth.get(chunk.id) != chunk for chunk in chunks)
            truth.update({chunk.id: chunk for chunk in chunks})
            gone = [id for id, chunk in truth.items() if chunk.source in sources and id not in content]
            assert journal.put(chunks, sources) == (changed, len(chunks) - changed, len(gone))
            truth = {id: chunk for id, chunk in truth.items() if id not in gone}
        elif what == "delete":
            assert journal.delete(content) == len(set(content) & set(truth))
            truth = {id: chunk for id, chunk in truth.items() if id not in content}
        elif what == "follow":
            journal.mark_applied(content, follow(journal, followers[content], journal.applied(content)))
            assert followers[content] == truth
        else:
            journal.forget("no collection")
        assert {chunk.id: chunk for chunk in journal.chunks()} == truth
        assert len(journal) == len(truth)
        assert journal.sources() == len({chunk.source for chunk in truth.values()})
    for name, index in followers.items():
        assert follow(journal, index, journal.applied(name)) <= journal.head
        assert index == truth
    fresh: dict[str, Chunk] = {}
    follow(journal, fresh, 0)
    assert fresh == truth
    journal.close()


def test_what_is_shown_in_place_of_the_text_comes_back(journal: Journal) -> None:
    chunk = Chunk("a", "title: T\n\nwords", {"tags": ["x", "y"]}, "words")
    journal.put([chunk])
    assert journal.chunks() == [chunk]
    assert [change.chunk for batch in journal.changes(0) for change in batch] == [chunk]
    assert journal.put([Chunk("a", chunk.text, chunk.metadata)]) == (1, 0, 0)
    assert journal.chunks()[0].document is None


def test_changed_chunks_are_those_that_put_would_write(journal: Journal) -> None:
    there = [Chunk(str(number), "text", {"n": number}) for number in range(2500)]
    journal.put(there)
    other = [
        Chunk("7", "other"),
        Chunk("8", "text", {"n": 9}),
        Chunk("9", "text", {"n": 9}, "shown"),
        Chunk("new", "x"),
    ]
    assert journal.changed([*there[:7], *other, *there[10:]]) == other
    journal.delete(["3"])
    assert journal.changed([there[3]]) == [there[3]]
    assert journal.holds(["3", "4", "nothing"]) == {"4"}
    assert len(journal.holds([str(number) for number in range(5000)])) == 2499


def test_adopted_chunks_are_remembered_until_they_are_deleted(journal: Journal, tmp_path: Path) -> None:
    journal.put([Chunk("own", "x")])
    journal.put([Chunk("a", "x"), Chunk("b", "x")], adopted=True)
    journal.put([Chunk("a", "y")], adopted=True)
    journal.delete(["b"])
    assert journal.adopted() == {"a"}
    assert journal.adopted(["a", "b", "own"]) == {"a"}
    assert journal.adopted(["own"]) == set()
    journal.close()
    again = Journal(tmp_path / "corpus.db")
    assert again.adopted() == {"a"}
    again.close()


def test_a_source_that_is_replaced_keeps_its_adopted_chunks(journal: Journal) -> None:
    journal.put([Chunk("theirs", "x", {"source": "a.md"})], adopted=True)
    journal.put([Chunk("own", "x", {"source": "a.md"})])
    assert journal.put([Chunk("new", "x", {"source": "a.md"})], ["a.md"]) == (1, 0, 1)
    assert ids(journal) == ["theirs", "new"]


def test_a_journal_of_an_earlier_release_is_opened(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "corpus.db")
    db.execute(
        "CREATE TABLE chunks (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, "
        "text TEXT, metadata TEXT, digest BLOB)"
    )
    db.execute("INSERT INTO chunks (id, source, text, metadata) VALUES ('a', 'a', 'words', '{}')")
    db.commit()
    db.close()
    journal = Journal(tmp_path / "corpus.db")
    assert journal.chunks() == [Chunk("a", "words")]
    journal.close()

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ragself.errors import StoreError
from ragself.lm import score_cache as scores
from ragself.lm.score_cache import ModelRecord, ScoreCache, digest

CANARY = np.array([-1.0, -2.0, -3.0, -4.0], dtype=np.float32)
OTHER = CANARY - 1.0


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ScoreCache]:
    cache = ScoreCache(tmp_path / "scores.db")
    yield cache
    cache.close()


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set today's date, a number of days."""
    return lambda number: monkeypatch.setattr(scores, "_today", lambda: number)


def some(*names: str) -> list[tuple[bytes, NDArray[np.float32]]]:
    return [(name.encode(), np.array([-len(name), -0.5], dtype=np.float32)) for name in names]


def kept(cache: ScoreCache, *names: str) -> set[str]:
    return {key.decode() for key in cache.look_up([name.encode() for name in names])}


def test_answers_come_back_as_they_were_also_from_the_disk(cache: ScoreCache, tmp_path: Path) -> None:
    model = cache.identify("m", CANARY)
    answer = np.array([-0.1, -1e-9, -123.456], dtype=np.float32)
    cache.store(model, [(b"a", answer), (b"b", np.array([-1 / 3], dtype=np.float64))])
    cache.close()
    again = ScoreCache(tmp_path / "scores.db")
    found = again.look_up([b"a", b"b", b"c"])
    again.close()
    assert set(found) == {b"a", b"b"}
    np.testing.assert_array_equal(found[b"a"], answer)
    assert found[b"b"].tolist() == [np.float32(-1 / 3)]
    assert found[b"a"].dtype == found[b"b"].dtype == np.float32


def test_any_number_of_keys_can_be_asked_for(cache: ScoreCache) -> None:
    names = [f"key {number}" for number in range(2500)]
    assert cache.look_up([]) == {}
    cache.store(cache.identify("m", CANARY), some(*names[::2]))
    assert kept(cache, *names, *names) == set(names[::2])
    assert len(cache) == 1250


def test_the_first_answer_stays(cache: ScoreCache) -> None:
    model = cache.identify("m", CANARY)
    cache.store(model, [(b"a", np.zeros(2, np.float32))])
    cache.store(model, [(b"a", np.ones(2, np.float32)), (b"b", np.ones(2, np.float32))])
    assert {key: value.tolist() for key, value in cache.look_up([b"a", b"b"]).items()} == {b"a": [0, 0], b"b": [1, 1]}


def test_a_batch_is_kept_whole_or_not_at_all(cache: ScoreCache) -> None:
    model = cache.identify("m", CANARY)
    cache._db._connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON scores WHEN NEW.key = x'62' BEGIN SELECT RAISE(FAIL, 'full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        cache.store(model, some("a", "b", "c"))
    assert kept(cache, "a", "b", "c") == set()


def test_texts_are_kept_apart_from_answers(cache: ScoreCache) -> None:
    model = cache.identify("m", CANARY)
    cache.store(model, some("a"))
    cache.store_texts(model, [(b"a", "what is ä 🙂?"), (b"b", "")])
    cache.store_texts(model, [(b"a", "another")])
    assert cache.look_up_texts([b"a", b"b", b"c"]) == {b"a": "what is ä 🙂?", b"b": ""}
    assert kept(cache, "a", "b") == {"a"}
    assert len(cache) == 1


def test_a_model_that_answers_the_same_is_the_same(cache: ScoreCache) -> None:
    first = cache.identify("m", CANARY)
    assert first == ModelRecord(first.id, "m", None, None)
    assert cache.identify("m", CANARY) == first
    moved = CANARY + np.array([0.09, -0.09, 0.0, 0.0], dtype=np.float32)  # bfloat16 moves single tokens by more
    assert cache.identify("m", moved) == first
    assert cache.latest("m") == first


@pytest.mark.parametrize(
    ("name", "canary"),
    [("m", CANARY + 0.06), ("m", CANARY * 0), ("m", CANARY[:3]), ("n", CANARY)],
    ids=["other answers", "much different", "other tokens", "other name"],
)
def test_a_model_that_answers_otherwise_is_another(cache: ScoreCache, name: str, canary: NDArray[np.float32]) -> None:
    first = cache.identify("m", CANARY)
    other = cache.identify(name, canary)
    assert other.id != first.id
    assert cache.latest(name) == other
    assert cache.identify("m", CANARY) == first


def test_a_name_never_seen_has_no_model(cache: ScoreCache) -> None:
    cache.identify("m", CANARY)
    assert cache.latest("n") is None


def test_the_latest_model_is_the_one_last_seen(cache: ScoreCache) -> None:
    first, second = cache.identify("m", CANARY), cache.identify("m", OTHER)
    assert cache.latest("m") == second
    cache.identify("m", CANARY)
    assert cache.latest("m") == first


def test_floor_and_rate_of_each_model_are_remembered(cache: ScoreCache) -> None:
    one, two = cache.identify("m", CANARY), cache.identify("m", OTHER)
    cache.note(ModelRecord(one.id, "m", 0.25, 1000.0))
    cache.note(ModelRecord(two.id, "m", 0.0, None))
    assert cache.identify("m", CANARY) == ModelRecord(one.id, "m", 0.25, 1000.0)
    assert cache.identify("m", OTHER) == ModelRecord(two.id, "m", 0.0, None)


TEXTS = st.lists(st.text(max_size=3), max_size=4)


@given(TEXTS, TEXTS)
@settings(deadline=None)
def test_no_two_lists_of_texts_have_the_same_digest(one: list[str], two: list[str]) -> None:
    assert (digest(*one) == digest(*two)) == (one == two)
    assert len(digest(*one)) == 16


def test_a_digest_tells_where_one_text_ends_and_stands_for_any_text() -> None:
    assert len({digest("ab"), digest("a", "b"), digest("", "ab"), digest("ab", ""), digest("\ud800")}) == 5


# at the same time ---------------------------------------------------------------------------------


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Run `work` in threads that begin together; what one raises is raised here."""
    barrier, raised = threading.Barrier(count), list[BaseException]()

    def run(number: int) -> None:
        try:
            barrier.wait(10)
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if raised:
        raise raised[0]


def test_two_connections_that_write_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    caches = [ScoreCache(tmp_path / "scores.db") for _ in range(2)]
    model = caches[0].identify("m", CANARY)

    def write(which: int) -> None:
        for batch in range(40):
            shared = [f"shared {batch} {number}" for number in range(5)]
            caches[which].store(model, some(*shared, *(f"own {which} {batch} {number}" for number in range(5))))
            caches[which].store_texts(model, [(f"text {which} {batch}".encode(), "x")])
            assert kept(caches[which], *shared) == set(shared)

    at_once(2, write)
    assert len(caches[0]) == len(caches[1]) == 40 * (5 + 2 * 5)
    assert len(caches[1].look_up_texts([f"text {w} {b}".encode() for w in range(2) for b in range(40)])) == 80
    for cache in caches:
        cache.close()


def test_connections_that_meet_a_new_model_at_the_same_time_agree_on_it(tmp_path: Path) -> None:
    caches = [ScoreCache(tmp_path / "scores.db") for _ in range(4)]
    found: dict[int, int] = {}
    at_once(4, lambda which: found.update({which: caches[which].identify("m", CANARY).id}))
    assert len(found) == 4
    assert len(set(found.values())) == 1
    for cache in caches:
        cache.close()


def test_a_file_that_another_connection_is_just_making_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "scores.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE other (key)")
    timer = threading.Timer(0.2, other.close)
    timer.start()
    try:
        ScoreCache(path).close()
    finally:
        timer.join()


# keeping house ------------------------------------------------------------------------------------


def test_what_was_not_used_for_long_is_removed_and_the_rest_stays(
    cache: ScoreCache, day: Callable[[int], None]
) -> None:
    model = cache.identify("m", CANARY)
    for today, name in ((100, "old"), (110, "just"), (150, "new")):
        day(today)
        cache.store(model, some(name))
        cache.store_texts(model, [(name.encode(), name)])
    day(200)
    assert cache.prune(90) == 2
    assert (kept(cache, "old", "just", "new"), len(cache)) == ({"just", "new"}, 2)
    assert set(cache.look_up_texts([b"old", b"just", b"new"])) == {b"just", b"new"}
    assert cache.prune(90) == 0
    assert cache.identify("m", CANARY) == model


def test_reading_counts_as_using(cache: ScoreCache, day: Callable[[int], None]) -> None:
    day(100)
    model = cache.identify("m", CANARY)
    cache.store(model, some("read", "unread"))
    cache.store_texts(model, [(b"read", "x"), (b"unread", "x")])
    day(150)
    assert kept(cache, "read") == {"read"}
    assert cache.look_up_texts([b"read"]) == {b"read": "x"}
    day(240)
    assert cache.prune(90) == 2
    assert kept(cache, "read", "unread") == {"read"}
    assert cache.look_up_texts([b"read", b"unread"]) == {b"read": "x"}


def test_reading_what_is_fresh_writes_nothing(cache: ScoreCache, day: Callable[[int], None]) -> None:
    day(100)
    cache.store(cache.identify("m", CANARY), some("a"))
    changes = lambda: cache._db._connection.total_changes
    before = changes()
    day(107)
    assert kept(cache, "a") == {"a"}
    assert changes() == before
    day(108)
    assert kept(cache, "a") == {"a"}
    assert changes() == before + 1
    day(110)
    assert kept(cache, "a") == {"a"}
    assert changes() == before + 1


def test_what_was_used_yesterday_is_not_removed_however_few_days_are_kept(
    cache: ScoreCache, day: Callable[[int], None]
) -> None:
    day(100)
    cache.store(cache.identify("m", CANARY), some("a"))
    day(105)
    assert kept(cache, "a") == {"a"}
    day(106)
    cache.prune(5)
    assert kept(cache, "a") == {"a"}


def test_pruning_gives_the_space_back(cache: ScoreCache, tmp_path: Path, day: Callable[[int], None]) -> None:
    day(100)
    cache.store(
        cache.identify("m", CANARY), [(f"{number}".encode(), np.zeros(500, np.float32)) for number in range(2000)]
    )
    day(200)
    assert cache.prune(90) == 2000
    cache.close()
    assert (tmp_path / "scores.db").stat().st_size < 100_000


def test_pruning_is_no_error_while_another_connection_reads(
    cache: ScoreCache, tmp_path: Path, day: Callable[[int], None]
) -> None:
    day(100)
    cache.store(cache.identify("m", CANARY), some("a", "b"))
    reader = sqlite3.connect(tmp_path / "scores.db", isolation_level=None)
    cache._db._connection.execute("PRAGMA busy_timeout = 50")
    reader.execute("BEGIN")
    assert len(reader.execute("SELECT key FROM scores").fetchall()) == 2
    day(200)
    assert cache.prune(90) == 2
    assert len(reader.execute("SELECT key FROM scores").fetchall()) == 2  # what it saw when it began
    reader.close()
    assert len(cache) == 0


def test_a_damaged_file_is_a_store_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "scores.db"
    path.write_bytes(b"this is no database, and it never was one" * 100)
    with pytest.raises(StoreError, match=r"scores\.db"):
        ScoreCache(path)


def test_closing_twice_is_no_error(cache: ScoreCache) -> None:
    cache.close()
    cache.close()

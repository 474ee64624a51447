import sqlite3
import stat
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from ragself.config import QueriesConfig
from ragself.corpus.query_log import QueryLog, redaction
from ragself.errors import ConfigError, StoreError
from ragself.monitoring.recorder import Recorder
from ragself.monitoring.search_log import SignalLog, bucket

DAY = 86_400.0


@pytest.fixture
def log(tmp_path: Path) -> QueryLog:
    return QueryLog(tmp_path / "queries.db", QueriesConfig(log=True, keep=5, days=30))


def test_a_query_is_there_once_with_how_often_it_was_asked(log: QueryLog) -> None:
    log.add({"What now?": 2, "  where\n to ": 1, "?!": 3})
    log.add({"what, NOW": 1})
    assert log.asked() == {"where to": 1, "What now?": 3}  # as it was worded first
    assert (len(log), log.total) == (2, 2)  # asking again brings nothing new


def test_only_the_owner_may_read_it(log: QueryLog, tmp_path: Path) -> None:
    log.add({"secret": 1})
    files = list(tmp_path.glob("queries.db*"))
    assert len(files) > 1  # with what SQLite keeps beside it
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "queries.db").touch(0o644)
    QueryLog(tmp_path / "queries.db", QueriesConfig()).close()
    assert stat.S_IMODE((tmp_path / "queries.db").stat().st_mode) == 0o600


def test_what_is_too_old_or_too_much_goes(log: QueryLog) -> None:
    now = time.time()
    log.add({"old one": 1, "kept alive": 1}, now - 40 * DAY)
    assert log.asked() == {}  # also before anything is written
    log.add({"kept alive": 1}, now - 10)
    assert log.asked() == {"kept alive": 2}
    for number in range(8):
        log.add({f"number {number}": 1}, now - 8 + number)
    assert list(log.asked()) == [f"number {number}" for number in range(3, 8)]
    assert log.total == 10


def test_what_has_become_too_old_goes_from_the_disk_though_nobody_asks_any_more(log: QueryLog, tmp_path: Path) -> None:
    log.add({"private matter": 1, "of today": 1}, time.time() - 29 * DAY)
    log.add({"of today": 1})
    assert log.purge() == []
    assert log.purge(time.time() + 2 * DAY) == ["private matter"]
    assert log.asked() == {"of today": 2}
    log.add({"private matter": 1}, time.time() - 31 * DAY)
    log.close()
    QueryLog(tmp_path / "queries.db", QueriesConfig(days=30)).close()  # as who logs no more, and only opens it
    assert not any(b"private" in file.read_bytes() for file in tmp_path.glob("queries.db*"))


def test_who_reads_while_something_is_forgotten_is_told_of(
    log: QueryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.add({"private matter": 1, "other": 1})
    log._db._connection.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(tmp_path / "queries.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM queries").fetchall()
        with pytest.raises(StoreError, match=r"another process reads it.*run the same command again"):
            log.forget(matching="private")
    assert log.forget(matching="private") == []
    assert not any(b"private" in file.read_bytes() for file in tmp_path.glob("queries.db*"))


def test_a_clock_that_was_set_back_forgets_nothing_new(log: QueryLog) -> None:
    now = time.time()
    log.add({"first": 1}, now)
    log.add({"first": 1, "second": 1}, now - 20 * DAY)
    assert log.asked() == {"second": 1, "first": 2}


def test_forgotten_queries_are_not_on_disk(log: QueryLog, tmp_path: Path) -> None:
    log.add({"my password is hunter2": 1, "what is new": 1, "other matter": 1})
    assert log.forget(matching="HUNTER") == ["my password is hunter2"]
    log.close()
    assert not any(b"hunter" in file.read_bytes() for file in tmp_path.glob("queries.db*"))
    again = QueryLog(tmp_path / "queries.db", QueriesConfig())
    assert again.asked() == {"what is new": 1, "other matter": 1}
    assert again.forget(before=time.time() - DAY) == []
    assert len(again.forget()) == 2
    assert (len(again), again.total) == (0, 3)
    again.add({"what is new": 1})
    assert again.total == 4


def test_queries_that_were_never_asked_before(log: QueryLog) -> None:
    log.add({"early": 1, "both": 1}, time.time() - 100)
    since = time.time() - 50
    log.add({"both": 1, "late": 2})
    assert log.asked(first_after=since) == {"late": 2}


def mask(text: str) -> str | None:
    return None if "secret" in text else text.replace("4711", "#")


def test_what_may_be_kept_is_what_the_function_says() -> None:
    assert redaction(None)("as it is") == "as it is"
    assert redaction(f"{__name__}:mask")("card 4711") == "card #"


@pytest.mark.parametrize("name", ["nowhere:mask", f"{__name__}:nothing", f"{__name__}:DAY", "mask", ":"])
def test_a_function_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"queries\.redact.*expected|Expected MODULE:FUNCTION"):
        redaction(name)


def recorder(folder: Path, redact: object = None) -> Recorder:
    config = QueriesConfig(log=True)
    return Recorder(lambda: SignalLog(folder / "signals.db"), lambda: QueryLog(folder / "queries.db", config), redact)  # type: ignore[arg-type]


def test_searches_are_noted_and_what_is_masked_is_never_written(tmp_path: Path) -> None:
    noted = recorder(tmp_path, mask)
    for _ in range(3):
        noted.note(["card 4711", "the secret"], 2, 0.010)
    noted.note((), 2, None)
    noted.note(["another"], 1, 0.5)
    noted.close()
    log = QueryLog(tmp_path / "queries.db", QueriesConfig())
    assert log.asked() == {"another": 1, "card #": 3}
    signals = SignalLog(tmp_path / "signals.db")
    found = signals.of(2)
    assert (found.searches, found.failed) == (4, 1)
    assert 0.009 < found.p50 <= found.p95 < 0.0115
    assert signals.of(1, since=time.time() + 3600).searches == 0
    assert signals.of(1, until=time.time() - 3600).searches == 0
    assert not any(b"4711" in file.read_bytes() or b"secret" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_function_that_fails_keeps_nothing_and_tells_no_query(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(text: str) -> str:
        raise ValueError(text)

    for redact, said in ((fails, "raised ValueError"), (len, "gave a int, expected a str")):
        noted = recorder(tmp_path, redact)
        for _ in range(3):
            noted.note(["private matter"], 1, 0.01)
        noted.close()
        assert QueryLog(tmp_path / "queries.db", QueriesConfig()).asked() == {}
        assert caplog.text.count(said) == 1
    assert "private" not in caplog.text


def test_without_a_log_no_text_is_kept(tmp_path: Path) -> None:
    noted = Recorder(lambda: SignalLog(tmp_path / "signals.db"), None)
    noted.note(["private matter"], 1, 0.01)
    noted.flush()
    assert SignalLog(tmp_path / "signals.db").of(1).searches == 1
    noted.close()
    assert not any(b"private" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_told_once_and_keeps_nobody_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> SignalLog:
        raise StoreError("the disk is full")

    noted = Recorder(full, None)
    for _ in range(2):
        noted.note((), 1, 0.01)
        noted.flush()
    began = time.monotonic()
    for _ in range(20_000):
        noted.note((), 1, 0.01)
    assert time.monotonic() - began < 5
    noted.close()
    assert caplog.text.count("searches are not recorded: the disk is full") == 1


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    noted = recorder(tmp_path)

    def ask(number: int) -> None:
        for row in range(200):
            noted.note([f"query {row}"], number, 0.001 * number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    noted.close()
    assert QueryLog(tmp_path / "queries.db", QueriesConfig()).asked() == {f"query {row}": 8 for row in range(200)}
    signals = SignalLog(tmp_path / "signals.db")
    assert [signals.of(number).searches for number in range(1, 9)] == [200] * 8
    noted.note(["too late"], 1, 0.1)  # after it was closed nothing is noted, and nothing fails


def test_times_are_known_to_a_tenth() -> None:
    log_times = Counter(bucket(seconds) for seconds in (0.0, 1e-5, 1e-4, 1.0, 1.04, 1.3))
    assert min(log_times) == 0
    assert bucket(1.0) < bucket(1.2) < bucket(60.0)


def test_opening_it_again_takes_nothing_from_who_writes(tmp_path: Path) -> None:
    """Closing any handle of a file drops all locks that its process has on it."""
    config = QueriesConfig(log=True)
    writing = QueryLog(tmp_path / "queries.db", config)
    stop = threading.Event()
    errors: list[Exception] = []

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                writing.add({f"query {number}": 1})
            except Exception as error:
                errors.append(error)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(30):
            again = QueryLog(tmp_path / "queries.db", config)
            again.asked()
            again.close()
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert len(writing) > 0

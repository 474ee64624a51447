import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragself.corpus.database import Database
from ragself.errors import StoreError

SCHEMA = "CREATE TABLE IF NOT EXISTS t (x INTEGER UNIQUE, y TEXT);"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "x.db", SCHEMA)
    yield database
    database.close()


def rows(database: Database) -> list[int]:
    with database.read() as connection:
        return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]


def test_what_was_written_is_there_when_opened_again(db: Database) -> None:
    with db.write() as connection:
        connection.execute("INSERT INTO t (x) VALUES (1)")
    db.close()
    again = Database(db.path, SCHEMA)
    assert rows(again) == [1]
    again.close()


def test_an_error_inside_a_transaction_undoes_all_of_it(db: Database) -> None:
    with pytest.raises(KeyError), db.write() as connection:
        connection.execute("INSERT INTO t (x) VALUES (1)")
        raise KeyError
    assert rows(db) == []
    with db.write() as connection:
        connection.execute("INSERT INTO t (x) VALUES (2)")
    assert rows(db) == [2]


def test_an_interrupt_undoes_the_transaction(db: Database) -> None:
    with pytest.raises(KeyboardInterrupt), db.write() as connection:
        connection.execute("INSERT INTO t (x) VALUES (1)")
        raise KeyboardInterrupt
    assert rows(db) == []


def fill(db: Database) -> pytest.ExceptionInfo[StoreError]:
    """Write more than there is room for; SQLite itself says "database or disk is full"."""
    with db.read() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match="Nothing of this step was kept") as caught, db.write() as connection:
        connection.executemany("INSERT INTO t (x, y) VALUES (?, ?)", [(x, "y" * 1000) for x in range(100)])
    return caught


def test_a_full_disk_is_a_store_error_and_nothing_is_kept(db: Database) -> None:
    fill(db)
    assert rows(db) == []
    with db.write() as connection:
        connection.execute("INSERT INTO t (x) VALUES (1)")
    assert rows(db) == [1]


def test_a_full_disk_is_named(db: Database) -> None:
    assert "disk is full" in str(fill(db).value)


def test_a_database_that_another_process_writes_to_is_a_store_error(db: Database) -> None:
    with db.read() as connection:
        connection.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(db.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"), db.write():
        pass
    other.execute("ROLLBACK")
    other.close()
    with db.write() as connection:
        connection.execute("INSERT INTO t (x) VALUES (1)")
    assert rows(db) == [1]


def test_readers_see_the_old_state_while_another_connection_writes(db: Database) -> None:
    other = Database(db.path, SCHEMA)
    with db.write() as connection:
        connection.execute("INSERT INTO t (x) VALUES (1)")
        assert rows(other) == []
    assert rows(other) == [1]
    other.close()


def test_commits_are_durable_and_the_log_is_write_ahead(db: Database) -> None:
    with db.read() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: survives a power loss


def test_threads_share_one_connection_without_losing_a_write(db: Database) -> None:
    def write(start: int) -> None:
        for x in range(start, start + 25):
            with db.write() as connection:
                connection.execute("INSERT INTO t (x) VALUES (?)", (x,))

    threads = [threading.Thread(target=write, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(db)) == 100


def test_a_file_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match=r"x\.db"):
        Database(path, SCHEMA)
    assert path.read_bytes() == b"this is not a database" * 100


def test_a_folder_that_is_not_there_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        Database(tmp_path / "nowhere" / "x.db", SCHEMA)


def damage(db: Database) -> None:
    """Overwrite every page but the first, which is all that opening looks at."""
    with db.write() as connection:
        connection.executemany("INSERT INTO t (x, y) VALUES (?, ?)", [(x, "y" * 500) for x in range(200)])
    db.close()
    content = bytearray(db.path.read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    db.path.write_bytes(content)


def test_damage_found_while_reading_is_a_store_error(db: Database) -> None:
    damage(db)
    again = Database(db.path, SCHEMA)
    try:
        with pytest.raises(StoreError):
            rows(again)
    finally:
        again.close()


def test_damage_found_while_writing_is_a_store_error(db: Database) -> None:
    damage(db)
    again = Database(db.path, SCHEMA)
    try:
        with pytest.raises(StoreError), again.write() as connection:
            connection.execute("INSERT INTO t (x, y) VALUES (1000, 'y')")
    finally:
        again.close()


def test_closing_twice_is_no_error(db: Database) -> None:
    db.close()
    db.close()


def test_a_file_that_was_closed_is_not_called_damaged(db: Database) -> None:
    db.close()
    with pytest.raises((StoreError, sqlite3.ProgrammingError)) as caught:
        rows(db)
    assert "backup" not in str(caught.value)


def test_a_broken_rule_of_the_schema_is_not_called_damage(db: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError), db.write() as connection:
        connection.executemany("INSERT INTO t (x) VALUES (?)", [(1,), (1,)])

"""What is on disk, while others remove some of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ragself.engine.status import size


def test_a_database_counts_with_what_sqlite_keeps_beside_it(tmp_path: Path) -> None:
    (tmp_path / "corpus.db").write_bytes(bytes(5))
    (tmp_path / "corpus.db-wal").write_bytes(bytes(7))
    (tmp_path / "cache.db").write_bytes(bytes(11))
    assert size(tmp_path / "corpus.db") == 12
    assert size(tmp_path / "scores.db") == 0


def test_what_goes_while_it_is_measured_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = tmp_path / "versions"
    for name in ("0000", "0001"):
        (versions / name / "chroma").mkdir(parents=True)
        (versions / name / "chroma" / "data").write_bytes(bytes(10))
    assert size(versions) == 20

    scandir, left = os.scandir, [versions / "0001"]

    def goes(path: Any) -> Any:
        """Removes version 1 once the folder that it lies in has been read."""
        if left and Path(path) != versions:
            shutil.rmtree(left.pop())
        return scandir(path)

    monkeypatch.setattr(os, "scandir", goes)
    assert size(versions) == 10
    assert not left


def test_a_file_that_goes_between_its_name_and_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "corpus.db"
    database.write_bytes(bytes(5))
    (tmp_path / "corpus.db-wal").write_bytes(bytes(7))
    stat = Path.stat

    def closed(path: Path, **options: Any) -> os.stat_result:
        if path.name.endswith("-wal"):
            path.unlink(missing_ok=True)  # as SQLite does when the last connection is closed
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", closed)
    assert size(database) == 5

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ragself.errors import StoreError
from ragself.versions.json_files import append_json, read_json, write_json


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_values_come_back_and_nothing_is_left_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for value in ({"version": 1, "text": 'ä "🙂" \u2028'}, [1, 2.5, None, True], "x"):
        write_json(path, value)
        assert read_json(path) == value
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"version": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"Cannot write .*a\.json.*No space left"):
        write_json(path, {"version": 2})
    monkeypatch.undo()
    assert read_json(path) == {"version": 1}
    write_json(path, {"version": 3})
    assert read_json(path) == {"version": 3}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["open", "replace"])
def test_a_disk_that_fails_at_any_step_leaves_the_old_content(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    monkeypatch.setattr(Path, call, full)
    with pytest.raises(StoreError, match="Free some space"):
        write_json(path, 2)
    monkeypatch.undo()
    assert read_json(path) == 1


def test_content_is_on_the_disk_before_it_replaces_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    seen = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        seen.append(json.loads(path.read_text()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_json(path, 2)
    assert seen == [1, 2]  # first the new file, while the old one is in place; then the folder that names it


def test_a_value_that_is_no_json_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, {"a": {1}})
    assert read_json(path) == 1


def test_a_scratch_file_that_a_kill_left_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.with_name("a.json.new").write_text('{"half')
    write_json(path, 1)
    assert read_json(path) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"nonsense"])
def test_what_cannot_be_read_is_a_store_error_that_names_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    for path in (tmp_path / "a.json", tmp_path / "missing.json", tmp_path):
        with pytest.raises(StoreError, match=path.name):
            read_json(path)


def test_lines_are_appended_one_each(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for value in ({"a": "line\nbreak"}, {"b": "ä"}):
        append_json(path, value)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]] == [
        {"a": "line\nbreak"},
        {"b": "ä"},
    ]


def test_a_full_disk_while_appending_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    append_json(path, 1)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreError, match="Cannot write"):
        append_json(path, 2)
    monkeypatch.undo()
    assert path.read_text() == "1\n"


def test_an_append_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError):
        append_json(tmp_path / "a.jsonl", 1)

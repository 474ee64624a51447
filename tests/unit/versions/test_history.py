import json
from pathlib import Path

import pytest

from ragself.versions import history as module
from ragself.versions.history import History


def test_what_is_appended_here_or_by_others_is_seen(tmp_path: Path) -> None:
    here, there = History(tmp_path / "history.jsonl"), History(tmp_path / "history.jsonl")
    assert here.events() == []
    for number in range(5):
        (here, there)[number % 2].append({"event": number})
        assert here.events() == there.events() == [{"event": each} for each in range(number + 1)]


def test_each_line_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "history.jsonl")
    parsed: list[bytes] = []
    loads = json.loads
    monkeypatch.setattr(module.json, "loads", lambda line: (parsed.append(line), loads(line))[1])
    for number in range(20):
        history.append({"event": number})
        assert len(history.events()) == len(history.events()) == number + 1
    assert sum(map(bool, parsed)) == 20


def test_a_line_that_was_cut_off_is_skipped_and_one_that_was_completed_is_not(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    path.write_bytes(b'{"event": 1}\n{"event"')
    assert history.events() == [{"event": 1}]
    path.write_bytes(b'{"event": 1}\n{"event": 2}')
    assert history.events() == [{"event": 1}, {"event": 2}]
    history.append({"event": 3})
    assert history.events() == [{"event": 1}, {"event": 2}, {"event": 3}]


def test_a_file_that_was_replaced_or_removed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    for number in range(3):
        history.append({"event": number})
    assert len(history.events()) == 3
    (tmp_path / "other").write_text('{"event": "a"}\n' * 9)
    (tmp_path / "other").replace(path)
    assert history.events() == [{"event": "a"}] * 9
    path.write_text('{"event": "b"}\n')
    assert history.events() == [{"event": "b"}]
    path.unlink()
    assert history.events() == []

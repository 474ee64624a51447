import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from ragself import console
from ragself.schema import Added, Hit, Report, Skipped


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    return [line[9:] for line in lines]


def test_off_a_terminal_a_stage_is_said_when_it_begins_and_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with console.progress() as show:
        for done in range(5):
            show("train", done, 4)
            clock.now += 1
    assert said(capsys) == ["train: 0/4", "train: 4 done in 4 s"]


def test_off_a_terminal_a_long_stage_is_said_now_and_then_with_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with console.progress() as show:
        for done in range(101):
            show("encode", done, 100)
            clock.now += 0.5
    assert said(capsys) == [
        "encode: 0/100",
        "encode: 20/100, about 40 s left",
        "encode: 40/100, about 30 s left",
        "encode: 60/100, about 20 s left",
        "encode: 80/100, about 10 s left",
        "encode: 100 done in 50 s",
    ]


def test_stages_are_timed_apart_and_each_time_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with console.progress() as show:
        show("a", 0, 2)
        clock.now += 20
        show("b", 0, 2)
        clock.now += 5
        show("b", 2, 2)
        show("a", 2, 2)
        clock.now += 100
        show("a", 0, 1)
        clock.now += 3
        show("a", 1, 1)
        show("nothing to do", 0, 0)
    assert said(capsys) == [
        "a: 0/2", "b: 0/2", "b: 2 done in 5 s", "a: 2 done in 25 s", "a: 0/1", "a: 1 done in 3 s",
        "nothing to do: 0 done in 0 s",
    ]  # fmt: skip


def test_a_stage_that_begins_again_at_once_is_said_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    with console.progress() as show:
        for _ in range(2):
            show("train", 0, 4)
            show("train", 4, 4)
    assert said(capsys) == ["train: 0/4", "train: 4 done in 0 s"] * 2


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(quiet=True) as show:
        show("train", 0, 1)
        show("train", 1, 1)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_are_bars_with_an_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=file, force_terminal=True, width=120))
    with console.progress() as show:
        show("train", 0, 4)
        show("train", 4, 4)
        show("train", 0, 8)  # the same stage again: a second bar
        show("train", 3, 8)
    text = file.getvalue()
    assert "ETA" in text
    assert "4/4" in text
    assert "3/8" in text


def test_json_of_dataclasses_is_one_document_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    added = Added(1, 2, 3, ("a", "b"), (Skipped("ä.md", "is empty"),))
    console.emit({"added": added, "path": Path("x") / "y", 3: [Hit("a", "t\n", {"k": True}, 0.5, 1)], "none": None})
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "added": {
            "added": 1, "unchanged": 2, "removed": 3, "truncated": ["a", "b"],
            "skipped": [{"name": "ä.md", "reason": "is empty"}],
        },
        "path": "x/y",
        "3": [{"id": "a", "text": "t\n", "metadata": {"k": True}, "score": 0.5, "version": 1, "parts": {}}],
        "none": None,
    }  # fmt: skip
    assert "ä.md" in captured.out


def test_json_of_a_report_has_all_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("keep", "why", 0, None, 3, {"title": {"train": 1}}, candidates=({"name": "weights"},))
    console.emit(report)
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(Report.__dataclass_fields__)
    assert found["candidates"] == [{"name": "weights"}]


def test_tables_show_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("figures", "metric", "before", rows=[("ndcg@10", "0.5"), ("mrr", "0.25")])
    captured = capsys.readouterr()
    assert captured.err == ""
    for cell in ("figures", "metric", "before", "ndcg@10", "0.5", "mrr", "0.25"):
        assert cell in captured.out


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 kB"),
        (1024**2, "1.0 MB"),
        (1024**3, "1.0 GB"),
        (5000 * 1024**3, "5000.0 GB"),
    ],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert console.size(count) == text

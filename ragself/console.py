"""Output for people and programs: progress bars with an ETA on a terminal, log lines elsewhere, tables, JSON.

Results go to standard output, everything else to standard error, so that `--json` can be piped.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from ragself.progress import Progress

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())  # log lines are not wrapped

_LOG_EVERY = 10.0  # seconds between two log lines of one stage


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Yield a function that shows progress: bars on a terminal, lines elsewhere, nothing when `quiet`."""
    if quiet:
        yield lambda stage, done, total: None
    elif err.is_terminal:
        with _bars() as show:
            yield show
    else:
        yield _Lines()


@contextmanager
def _bars() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=err) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks or (bars.tasks[tasks[stage]].finished and done < total):
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


class _Lines:
    """Progress lines: one when a stage begins, one every few seconds, and one when it ends."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        began = self._began.setdefault(stage, now)
        if done >= total:
            self._say(f"{stage}: {total} done in {now - began:.0f} s")
            del self._began[stage]
            self._said.pop(stage, None)
        elif now - self._said.get(stage, -_LOG_EVERY) >= _LOG_EVERY:
            self._said[stage] = now
            left = f", about {(now - began) / done * (total - done):.0f} s left" if done else ""
            self._say(f"{stage}: {done}/{total}{left}")

    def _say(self, line: str) -> None:
        with suppress(OSError):  # the reader has closed the pipe, or the disk is full
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
            sys.stderr.flush()


def emit(value: Any, *, lines: bool = False) -> None:
    """Print a value as an indented JSON document; with `lines`, as one line of JSON Lines."""
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False, indent=None if lines else 2) + "\n")
    sys.stdout.flush()


@contextmanager
def screen() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield a function that calls its argument and shows its output in place of the previous output."""
    if not out.is_terminal:
        yield lambda show: show()
        return
    with Live(console=Console(), auto_refresh=False) as live:

        def replace(show: Callable[[], None]) -> None:
            with out.capture() as printed:
                show()
            live.update(Text.from_ansi(printed.get()), refresh=True)

        yield replace


def table(title: str, *columns: str, rows: Sequence[tuple[str, ...]], left: bool = False) -> None:
    """Print a table; every column after the first is right-aligned, unless `left`."""
    grid = Table(title=title, title_justify="left", header_style="bold")
    for position, column in enumerate(columns):
        grid.add_column(column, justify="right" if position and not left else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    out.print(grid)


def duration(seconds: float) -> str:
    """Human-readable duration.

    >>> duration(75), duration(7300)
    ('1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Human-readable number of bytes.

    >>> size(1536)
    '1.5 kB'
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1024 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path | Exception) else value

"""Results of quality.py: one row a collection, method and seed, kept as they come; and the table made of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import lines
from tests.benchmarks.passes import PASSES
from tests.benchmarks.subject import TRAFFIC

Row = lines.Row
METHODS = (
    "bm25", "dense", "rrf", "linear", "adapter", "adapter-long", "crop", "ict", "tsdae", "questions",
    "untrained", "cold teacher", "cold", "ragself teacher", "ragself", "lora", "distill", "dream", "revela",
)  # fmt: skip


class Rows:
    """The rows in a file, so that an interrupted run goes on where it was."""

    def __init__(self, path: Path, command: str, notes: Sequence[str]) -> None:
        """Read what is there.

        Args:
            path: A JSON file, one row a line; the table is written beside it, as .md.
            command: What makes all of it.
            notes: What a reader must know, told below the table.
        """
        self._path, self._command, self._notes = path, command, list(notes)
        self.rows: list[Row] = lines.read(path)

    def has(self, collection: str, method: str, seed: int, budget: float | None) -> bool:
        """Whether it was measured before; budget is None where nothing is trained."""
        return any(_key(row) == [collection, method, seed, budget] for row in self.rows)

    def add(self, row: Row) -> None:
        """Keep a row instead of one that was measured before, and make the table anew."""
        self.rows = [other for other in self.rows if _key(other) != _key(row)] + [row]
        lines.write(self._path, self.rows)
        self._path.with_suffix(".md").write_text(self.table(), encoding="utf-8")

    def table(self) -> str:
        """Markdown: quality by collection and method, then decisions and what it took."""
        collections = _ordered([row["collection"] for row in self.rows], list(TRAFFIC))
        methods = _ordered([_label(row) for row in self.rows], METHODS)
        dates = sorted({row["date"] for row in self.rows})
        told = [
            f"Test split; mean ± standard deviation over the seeds, of which the number stands in brackets where there "
            f"is more than one; {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, `{self._command}`. Dash: not "
            "measured. Intervals over queries are in the JSON file beside this one.",
        ]
        passes = [method for method in methods if method in PASSES]
        for title, names, cell in (
            ("nDCG@10", methods, lambda runs: _mean([run["ndcg@10"] for run in runs], 4)),
            ("recall@100", methods, lambda runs: _mean([run["recall@100"] for run in runs], 4)),
            ("gain: nDCG@10 beyond untrained", passes, _gain),
            ("what the gate decided: candidates promoted, and which", passes, _decided),
            ("steps / seconds of training / seconds of encoding", methods, _cost),
        ):
            told += ["", f"**{title}**", "", *self._grid(names, collections, cell)]
        return "\n".join([*told, "", *(f"- {note}" for note in self._notes)]) + "\n"

    def _grid(self, methods: Sequence[str], collections: Sequence[str], cell: Callable[[list[Row]], str]) -> list[str]:
        told = ["| method, budget | " + " | ".join(collections) + " |", "|---" * (len(collections) + 1) + "|"]
        for method in methods:
            runs = [[row for row in self.rows if (row["collection"], _label(row)) == (name, method)]
                    for name in collections]  # fmt: skip
            told.append(f"| {method} | " + " | ".join(cell(own) if own else "-" for own in runs) + " |")
        return told


def _key(row: Row) -> list[Any]:
    return [row[key] for key in ("collection", "method", "seed", "budget")]


def _ordered(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Each once, as in an order, whatever came with a budget after a comma."""
    found = dict.fromkeys(names)
    return sorted(found, key=lambda name: order.index(plain) if (plain := name.partition(",")[0]) in order else 99)


def _decided(runs: Sequence[Row]) -> str:
    """How many of the runs ended with a switch, and the candidates that stood before the gate.

    >>> _decided([{"decision": "keep", "candidate": "weights"}, {"decision": "promote", "candidate": "weights"}])
    '1 of 2: weights'
    """
    names = ", ".join(dict.fromkeys(run["candidate"] or "none" for run in runs))
    return f"{sum(run['decision'] == 'promote' for run in runs)} of {len(runs)}: {names}"


def _gain(runs: Sequence[Row]) -> str:
    """Mean over the seeds, with the interval over queries that reaches furthest.

    >>> _gain([{"gain": {"mean": 0.01, "low": 0.0, "high": 0.02}}, {"gain": {"mean": 0.02, "low": 0.01, "high": 0.03}}])
    '+0.0150, interval +0.0000 to +0.0300'
    """
    gains = [run["gain"] for run in runs]
    mean = statistics.mean(gain["mean"] for gain in gains)
    return f"{mean:+.4f}, interval {min(g['low'] for g in gains):+.4f} to {max(g['high'] for g in gains):+.4f}"


def _label(row: Row) -> str:
    """Method and budget."""
    return row["method"] if row["budget"] is None else f"{row['method']}, {row['budget']:g} s"


def _mean(values: Sequence[float], digits: int) -> str:
    """Mean, spread and number of values.

    >>> _mean([0.5], 2), _mean([0.5, 0.7], 2)
    ('0.50', '0.60 ± 0.10 (2)')
    """
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.pstdev(values):.{digits}f} ({len(values)})"


def _cost(runs: Sequence[Row]) -> str:
    """Means over the seeds; a seed that found all vectors made before says nothing about what encoding takes."""
    steps, train, encode = (
        [run[key] for run in runs if run[key]] for key in ("steps", "train_seconds", "encode_seconds")
    )
    parts = (f"{statistics.mean(values):.0f}" if values else "-" for values in (steps, train, encode))
    return " / ".join(parts)

"""Results of the baselines: one row a collection, method and seed, kept as they come; and the table made of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """The rows in a file, so that an interrupted run goes on where it was."""

    def __init__(self, path: Path, notes: Sequence[str]) -> None:
        """Read what is there.

        Args:
            path: A JSON file; the table is written beside it, as .md.
            notes: What a reader must know, told below the table.
        """
        self._path, self._notes = path, list(notes)
        self.rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []

    def has(self, collection: str, method: str, seed: int, budget: float | None) -> bool:
        """Whether it was measured before; budget is None where nothing is trained."""
        wanted = [collection, method, seed, budget]
        return any([row[key] for key in ("collection", "method", "seed", "budget")] == wanted for row in self.rows)

    def add(self, row: Row) -> None:
        """Keep a row, and make the table anew."""
        self.rows.append(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".tmp")
        beside.write_text(json.dumps({"notes": self._notes, "runs": self.rows}, indent=1) + "\n", encoding="utf-8")
        beside.replace(self._path)
        self._path.with_suffix(".md").write_text(self.table(), encoding="utf-8")

    def table(self) -> str:
        """Markdown: quality by collection and method, then what it took."""
        collections = list(dict.fromkeys(row["collection"] for row in self.rows))
        methods = list(dict.fromkeys(_label(row) for row in self.rows))
        dates = sorted({row["date"] for row in self.rows})
        lines = [
            f"Test split; mean ± standard deviation over the seeds, of which the number stands in brackets where there "
            f"is more than one; {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}.",
        ]
        for title, cell in (
            ("nDCG@10", lambda runs: _mean([run["ndcg@10"] for run in runs], 4)),
            ("recall@100", lambda runs: _mean([run["recall@100"] for run in runs], 4)),
            ("steps / seconds of training / seconds of encoding", _cost),
        ):
            lines += ["", f"**{title}**", "", *self._grid(methods, collections, cell)]
        lines += ["", *(f"- {note}" for note in self._notes)]
        commands = dict.fromkeys(row["command"] for row in self.rows)
        return "\n".join([*lines, "", "Commands:", "", *(f"    {command}" for command in commands)]) + "\n"

    def _grid(self, methods: Sequence[str], collections: Sequence[str], cell: Callable[[list[Row]], str]) -> list[str]:
        lines = ["| method, budget | " + " | ".join(collections) + " |", "|---" * (len(collections) + 1) + "|"]
        for method in methods:
            runs = [[row for row in self.rows if (row["collection"], _label(row)) == (name, method)]
                    for name in collections]  # fmt: skip
            lines.append(f"| {method} | " + " | ".join(cell(own) if own else "-" for own in runs) + " |")
        return lines


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

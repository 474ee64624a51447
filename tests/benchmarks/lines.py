"""Results in files: a JSON list, one row a line, so that a changed figure is one changed line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file. Raises ValueError where it holds no list."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not isinstance(found, list):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected a list of rows. Move it away.")
    return found


def write(path: Path, rows: Sequence[Row]) -> None:
    """Replace a file in one step.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "a.json", [{"b": 1}, {"b": 2}])
    ...     (Path(folder) / "a.json").read_text(), read(Path(folder) / "a.json")
    ('[\\n{"b": 1},\\n{"b": 2}\\n]\\n', [{'b': 1}, {'b': 2}])
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    beside.replace(path)


def renew(path: Path, rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Write rows in place of those of the file that are the same by `keys`."""
    told = {tuple(row.get(key) for key in keys) for row in rows}
    kept = [row for row in read(path) if tuple(row.get(key) for key in keys) not in told]
    write(path, [*kept, *rows])

"""Reading what users asked from a file."""

from __future__ import annotations

from pathlib import Path

from ragself.errors import InputError


def read_queries(path: Path, *, or_none: bool = False) -> list[str]:
    """The lines of a UTF-8 file that are not blank. Raises InputError where it cannot be read.

    Also where it has no such line, unless `or_none`.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Cannot read the queries in {path}: {error}. Expected UTF-8 text, one query a line."
        ) from error
    if not lines and not or_none:
        raise InputError(f"{path} holds no query. Expected UTF-8 text, one query a line; or leave the option out.")
    return lines

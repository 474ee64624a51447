"""Reading of queries from a file."""

from __future__ import annotations

from pathlib import Path

from ragself.errors import InputError


def read_queries(path: Path, *, or_none: bool = False) -> list[str]:
    """Non-blank lines of a UTF-8 file.

    Raises:
        InputError: The file cannot be read, or has no such line and `or_none` is False.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Cannot read the queries in {path}: {error}. Expected UTF-8 text, one query a line."
        ) from error
    if not lines and not or_none:
        raise InputError(f"{path} holds no query. Expected UTF-8 text, one query a line; or omit the option.")
    return lines

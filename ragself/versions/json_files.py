"""Writes small JSON files atomically: a reader never sees half a file, even after a kill."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ragself.errors import StoreError


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace `path` in one step: it holds either the old or the new content, even after a crash.

    Args:
        path: The file.
        value: A value that JSON can represent.
        durable: Whether the content survives a power cut; without that, writing takes microseconds.

    Raises:
        StoreError: The disk is full or the folder is not writable; the old content is intact.
    """
    scratch = path.with_name(path.name + ".new")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        scratch.replace(path)
        if not durable:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error}. Free some space or fix the permissions.") from error


def append_json(path: Path, value: Any) -> None:
    """Append one line of JSON durably. Raises StoreError if that fails."""
    try:
        with path.open("ab") as file:
            line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
            file.write(b"\n" + line if _cut_off(path) else line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error}. Free some space or fix the permissions.") from error


def _cut_off(path: Path) -> bool:
    """Whether the file lacks the end of its last line, as after a kill."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        StoreError: The file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"Cannot read {path}: {error}. The knowledge base is damaged; restore this file from a backup."
        ) from error

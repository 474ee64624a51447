"""Writing small JSON files so that a reader, or a kill, never sees half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ragself.errors import StoreError


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace `path` in one step: afterwards it holds the old or the new content, whatever dies.

    Args:
        path: The file.
        value: What JSON can hold.
        durable: It survives a power cut; without, it is a matter of microseconds.

    Raises:
        StoreError: The disk is full or the folder cannot be written; the old content is still there.
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
        raise StoreError(f"Cannot write {path}: {error}. Free some space or mend the permissions.") from error


def append_json(path: Path, value: Any) -> None:
    """Append one line of JSON durably. Raises StoreError where that is impossible."""
    try:
        with path.open("ab") as file:
            line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
            file.write(b"\n" + line if _cut_off(path) else line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error}. Free some space or mend the permissions.") from error


def _cut_off(path: Path) -> bool:
    """Whether a kill left the file without the end of its last line."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        StoreError: It is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"Cannot read {path}: {error}. The knowledge base is damaged there; restore this file from a backup."
        ) from error

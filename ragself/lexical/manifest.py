"""Manifest of the published segments and of the last journal change in them: one small file, replaced atomically."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ragself.errors import StoreError
from ragself.lexical import stored
from ragself.lexical.part import Part
from ragself.lexical.segment import Segment, Vectors

logger = logging.getLogger(__name__)

LOCK = "lock"
_NAME = "manifest.json"

Stamp: TypeAlias = tuple[int, int, int] | None
"""Inode, modification time in ns and size of a manifest: identifies it without reading it. None: there is none."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The published segments.

    Attributes:
        seq: Sequence number of the newest change of the journal in the segments.
        segments: Names of their folders, in order.
        dead: Name of the file with the dead rows of a segment, by the name of the segment.
    """

    seq: int
    segments: tuple[str, ...]
    dead: dict[str, str]


def stamp(directory: Path) -> Stamp:
    """Stamp of the manifest; None if there is none."""
    try:
        found = (directory / _NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read(directory: Path, owner: str) -> Manifest:
    """Read the manifest. If there is none, return one without segments.

    Raises:
        StoreError: It is damaged, has another format or belongs to another knowledge base than `owner`.
    """
    path = directory / _NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found["format"], found["owner"]) != (stored.FORMAT, owner):
            raise StoreError(f"{path} has format {found['format']} and belongs to {found['owner']}.")
        names, dead = tuple(map(str, found["segments"])), {str(name): str(file) for name, file in found["dead"].items()}
        manifest = Manifest(int(found["seq"]), names, dead)
    except FileNotFoundError:
        return Manifest(0, (), {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"Cannot read {path}: {type(error).__name__}: {error}.") from error
    if any(Path(name).name != name for name in (*names, *dead.values())):
        raise StoreError(f"{path} names files in other folders.")
    return manifest


def parts_of(directory: Path, manifest: Manifest, owner: str) -> tuple[Part, ...]:
    """Map the segments of a manifest. Raises StoreError if any of them is damaged."""
    parts = []
    for name in manifest.segments:
        segment = Segment.open(directory / name, owner)
        file = manifest.dead.get(name)
        try:
            dead = None if file is None else np.array(stored.read_array(directory / file))
            if dead is not None and (dead.dtype != np.uint32 or dead.ndim != 1):
                raise ValueError(f"{dead.dtype} {dead.shape}")
            parts.append(Part.of(segment, dead, name))
        except (OSError, ValueError, IndexError) as error:
            raise StoreError(f"Cannot read {directory / str(file)}: {error}.") from error
    return tuple(parts)


def save(directory: Path, segment: Segment, owner: str, vectors: Vectors) -> str:
    """Write a segment with its base vectors, without publishing it. Returns its name. Raises OSError."""
    name = f"segment-{uuid.uuid4().hex[:16]}"
    segment.save(directory / name, owner, vectors)
    return name


def publish(directory: Path, owner: str, seq: int, parts: Sequence[Part]) -> Stamp:
    """Publish parts on disk. Raises OSError; then either the old or the new manifest is in place."""
    dead: dict[str, str] = {}
    for part in parts:
        if len(part.dead):
            dead[str(part.name)] = f"dead-{uuid.uuid4().hex[:16]}.npy"
            stored.write_array(directory / dead[str(part.name)], part.dead)
    content = {
        "format": stored.FORMAT, "owner": owner, "seq": seq, "segments": [part.name for part in parts], "dead": dead
    }  # fmt: skip
    scratch = directory / (_NAME + ".new")
    stored.write_text(scratch, json.dumps(content, indent=2, ensure_ascii=False))
    scratch.replace(directory / _NAME)
    stored.sync(directory)
    return stamp(directory)


def sweep(directory: Path, owner: str) -> None:
    """Remove files that the manifest does not name: replaced ones, and leftovers of a kill or a full disk."""
    try:
        manifest = read(directory, owner)
    except StoreError:
        return  # it may be readable later
    named = {_NAME, LOCK, *manifest.segments, *manifest.dead.values()}
    for path in directory.iterdir():
        if path.name in named:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            path.unlink()
        except OSError as error:
            logger.debug("Cannot remove %s: %s", path, error)

"""Which segments are published, and up to which change of the journal they go: one small file, replaced in one step."""

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
"""What tells one published manifest from another without reading it; None: there is none."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is published.

    Attributes:
        seq: The newest change of the journal that the segments know of.
        segments: Names of their folders, in order.
        dead: By the name of a segment, the file with its rows that are dead.
    """

    seq: int
    segments: tuple[str, ...]
    dead: dict[str, str]


def stamp(directory: Path) -> Stamp:
    """What the manifest is known by; None where there is none."""
    try:
        found = (directory / _NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read(directory: Path, owner: str) -> Manifest:
    """Read what is published; where nothing is, that is the manifest of no segment.

    Raises:
        StoreError: It is damaged, of another format or of another knowledge base than `owner`.
    """
    path = directory / _NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found["format"], found["owner"]) != (stored.FORMAT, owner):
            raise StoreError(f"{path} has format {found['format']} and is of {found['owner']}.")
        names, dead = tuple(map(str, found["segments"])), {str(name): str(file) for name, file in found["dead"].items()}
        manifest = Manifest(int(found["seq"]), names, dead)
    except FileNotFoundError:
        return Manifest(0, (), {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"Cannot read {path}: {type(error).__name__}: {error}.") from error
    if any(Path(name).name != name for name in (*names, *dead.values())):
        raise StoreError(f"{path} names files of other folders.")
    return manifest


def parts_of(directory: Path, manifest: Manifest, owner: str) -> tuple[Part, ...]:
    """Map what a manifest names. Raises StoreError where any of it is damaged."""
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
    """Write a segment that nobody knows of yet, with base vectors. Returns its name. Raises OSError."""
    name = f"segment-{uuid.uuid4().hex[:16]}"
    segment.save(directory / name, owner, vectors)
    return name


def publish(directory: Path, owner: str, seq: int, parts: Sequence[Part]) -> Stamp:
    """Replace what is published by parts that have names. Raises OSError; then the old is still there, or the new."""
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
    """Remove what the manifest does not name: what was replaced, and what a kill or a full disk left behind."""
    try:
        manifest = read(directory, owner)
    except StoreError:
        return  # it may be readable tomorrow
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
            logger.debug("%s stays: %s", path, error)

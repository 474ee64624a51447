"""Reads the status of a knowledge base without loading a model or Chroma."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ragself.config import Config, load
from ragself.corpus.journal import Journal
from ragself.monitoring.progress_file import seen
from ragself.schema import Status
from ragself.versions.lock import ProcessLock
from ragself.versions.registry import Registry

_PARTS = ("corpus.db", "cache.db", "scores.db", "lexical", "versions")


def read_status(directory: Path, config: Config | None = None) -> Status:
    """Read the status of the knowledge base in `directory`, even while another process writes.

    Args:
        directory: Folder of the knowledge base.
        config: Settings; None loads those of the folder.

    Raises:
        StoreError: There is no knowledge base, or it is damaged or too new.
        ConfigError: Its settings are invalid.
    """
    registry = Registry(directory)
    manifest = registry.manifest()
    journal = Journal(directory / "corpus.db")
    try:
        documents, chunks = journal.sources(), len(journal)
    finally:
        journal.close()
    server = manifest.place((config or load(directory)).chroma)
    history = registry.history()
    return Status(
        path=str(directory),
        encoder=manifest.encoder,
        documents=documents,
        chunks=chunks,
        live=registry.pointed(),
        versions=registry.versions(),
        pinned=registry.pinned,
        learning=seen(directory),
        last=history[-1] if history else {},
        writer=ProcessLock(directory).holder(),
        server=server,
        bytes={part: size(directory / part) for part in _PARTS},
    )


def size(path: Path) -> int:
    """Bytes of all files in a folder, or of a database with its -wal and -shm. Files deleted meanwhile count 0."""
    if path.is_dir():
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    else:
        files = list(path.parent.glob(path.name + "*"))
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total

"""A segment on disk: one ``.npy`` file per array, with their expected shapes and types in ``segment.json``."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.errors import StoreError

FORMAT = 2
LAYOUT = {
    "terms": ("V", "<u8"), "starts": ("V+1", "<i8"), "rows": ("P", "<u4"), "counts": ("P", "|u1"),
    "occurrences": ("V", "<i8"), "tokens": ("T", "<u4"), "bounds": ("n+1", "<i8"), "ids": ("B", "|u1"),
    "id_bounds": ("n+1", "<i8"), "id_order": ("n", "<u4"), "id_hashes": ("n", "<u8"), "sequence": ("n", "<i8"),
    "keys": ("n", "|u1"), "vectors": ("n", "<f4"),
}  # fmt: skip
"""Length and type of each array. Equal symbols mean equal lengths. `keys` has 16 columns, `vectors` any number."""
RUNS = ("rows", "counts", "tokens", "vectors")
"""The large arrays. A search reads a few runs of them. Mapped, they would fill the memory of the process."""
_ENDS = {"starts": "rows", "bounds": "tokens", "id_bounds": "ids"}  # the last value of one is the length of the other
_DESCRIPTION = "segment.json"


class File:
    """A one- or two-dimensional array on disk, from which runs of rows are read on demand.

    Unlike the pages of a mapped file, they do not stay in the memory of the process.
    """

    def __init__(self, path: Path, array: np.memmap[Any, Any]) -> None:
        """Open the file that `array` maps. Raises OSError."""
        self._path, self._dtype, self._row, self._start = path, array.dtype, array.shape[1:], array.offset
        self._size = array.itemsize * int(np.prod(self._row, dtype=np.int64))
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def runs(self, starts: list[int], ends: list[int]) -> NDArray[Any]:
        """Concatenated rows of several runs. Raises StoreError if the file was truncated."""
        size, first, descriptor, read = self._size, self._start, self._descriptor, os.pread
        spans = zip(starts, ends, strict=True)
        pieces = [read(descriptor, (end - start) * size, first + start * size) for start, end in spans]
        found = b"".join(pieces)
        if len(found) != size * (sum(ends) - sum(starts)):
            raise StoreError(f"{self._path} was truncated while it was open. Open the knowledge base again.")
        return np.frombuffer(found, self._dtype).reshape(-1, *self._row)


def write(
    folder: Path,
    owner: str,
    documents: int,
    arrays: Mapping[str, NDArray[Any]],
    blocks: Mapping[str, tuple[int, Iterable[NDArray[Any]]]],
) -> None:
    """Write arrays into `folder`, completely or not at all, so that they survive a power cut.

    Args:
        folder: Must not exist yet.
        owner: Id of the knowledge base.
        documents: Number of documents.
        arrays: All arrays except those in `blocks`.
        blocks: Number of columns and blocks of rows of each array that has one row per document.

    Raises:
        OSError: The disk is full or not writable.
    """
    scratch = folder.with_name(folder.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        for name, array in arrays.items():
            write_array(scratch / f"{name}.npy", array)
        described = {name: [list(array.shape), array.dtype.str] for name, array in arrays.items()}
        for name, (columns, rows) in blocks.items():
            kind = LAYOUT[name][1]
            _write_blocks(scratch / f"{name}.npy", (documents, columns), kind, rows)
            described[name] = [[documents, columns], kind]
        content = {"format": FORMAT, "owner": owner, "documents": documents, "arrays": described}
        write_text(scratch / _DESCRIPTION, json.dumps(content, indent=2, ensure_ascii=False))
        sync(scratch)
        scratch.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def read(folder: Path, owner: str) -> tuple[dict[str, NDArray[Any]], dict[str, File]]:
    """Map the arrays of `folder`, and open the files of those in `RUNS`.

    Raises:
        StoreError: It is missing, truncated, has another format or belongs to another knowledge base than `owner`.
    """
    try:
        found = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        if (found["format"], found["owner"]) != (FORMAT, owner):
            raise StoreError(f"{folder} has format {found['format']} and belongs to {found['owner']}.")
        described = {name: (tuple(shape), kind) for name, (shape, kind) in found["arrays"].items()}
        arrays = {name: read_array(folder / f"{name}.npy") for name in LAYOUT}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"Cannot read {folder}: {error}.") from error
    for name, array in arrays.items():
        if described.get(name) != (array.shape, array.dtype.str):
            raise StoreError(f"{folder / name}.npy does not match {_DESCRIPTION}.")
    _check(folder, found["documents"], arrays)
    try:
        files = {name: File(folder / f"{name}.npy", arrays[name]) for name in RUNS}
    except OSError as error:
        raise StoreError(f"Cannot read {folder}: {error}.") from error
    return {name: array.view(np.ndarray) for name, array in arrays.items()}, files  # a memmap is slow to slice


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one array durably. Raises OSError."""
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def read_array(path: Path) -> np.memmap[Any, Any]:
    """Map one array. Raises OSError or ValueError if it is missing, truncated or not an array."""
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except ArithmeticError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if mapped.offset + mapped.nbytes != path.stat().st_size:
        raise ValueError(f"{path.name} is longer than its array")
    return mapped


def write_text(path: Path, text: str) -> None:
    """Write one text file durably. Raises OSError."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Make new names in a folder survive a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_blocks(path: Path, shape: tuple[int, int], kind: str, blocks: Iterable[NDArray[Any]]) -> None:
    """Write one array durably from blocks of rows. Raises OSError."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(np.ascontiguousarray(block, kind).data)
        file.flush()
        os.fsync(file.fileno())


def _check(folder: Path, documents: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise StoreError if arrays do not fit each other."""
    lengths: dict[str, int] = {"n": documents}
    for name, (length, kind) in LAYOUT.items():
        array = arrays[name]
        symbol, _, more = length.partition("+")
        size = array.shape[0] - int(more or 0) if array.ndim else -1
        columns = (16,) if name == "keys" else array.shape[1:2] if name == "vectors" else ()
        if array.dtype.str != kind or array.shape[1:] != columns or lengths.setdefault(symbol, size) != size:
            raise StoreError(f"{folder / name}.npy has the shape {array.shape} and the type {array.dtype.str}.")
    for name, other in _ENDS.items():
        if (arrays[name][0], arrays[name][-1]) != (0, len(arrays[other])):
            raise StoreError(f"{folder / name}.npy does not fit {other}.npy.")

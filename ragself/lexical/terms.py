"""64-bit hashes of words and ids, and runs of rows: the addresses in the arrays of a segment."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

_REMEMBERED = 2_000_000  # maximum number of cached terms

_known: dict[str, int] = {}


def term_key(term: str) -> int:
    """Key of a term, the same in every process: 64 bits of its BLAKE2b hash."""
    found = _known.get(term)
    if found is None:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        found = _known[term] = int.from_bytes(_digest(term), "little")
    return found


def term_keys(terms: Iterable[str]) -> NDArray[np.uint64]:
    """Keys of many terms.

    Returns:
        (t,) uint64, in the order of `terms`.
    """
    return np.array([term_key(term) for term in terms], dtype=np.uint64)


def id_hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    """64-bit hashes of ids. They are not cached.

    Returns:
        (n,) uint64, in the order of `ids`.
    """
    return np.frombuffer(b"".join(map(_digest, ids)), dtype="<u8").astype(np.uint64)


def encoded(ids: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Ids as one blob of UTF-8.

    Returns:
        The bytes, and the offsets (n+1,) at which each id begins.
    """
    parts = [id.encode("utf-8", "surrogatepass") for id in ids]
    return np.frombuffer(b"".join(parts), dtype=np.uint8), bounds_of(np.array([len(part) for part in parts], np.int64))


def bounds_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Offsets of concatenated runs of these lengths (n,), and the end of the last one: (n+1,)."""
    bounds = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def runs(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenated positions of many runs: ``starts[0], starts[0] + 1, …, starts[1], …``."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total, dtype=np.int64)


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()

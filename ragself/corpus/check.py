"""Checking chunks before anything is written: bad input is refused whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ragself.errors import InputError
from ragself.schema import Chunk

_SHOWN = 5


def check(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return the chunks if every one of them can be stored.

    Raises:
        InputError: Naming the first few chunks that cannot, and why.
    """
    seen = Counter(chunk.id for chunk in chunks)
    faults = [f"id {id!r} occurs {count} times; ids must be unique" for id, count in seen.items() if count > 1]
    for chunk in chunks:
        fault = _fault(chunk)
        if fault is not None:
            faults.append(f"chunk {chunk.id!r}: {fault}")
    if faults:
        more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
        raise InputError(
            f"{len(faults)} of {len(chunks)} chunks cannot be stored; nothing was written. "
            + "; ".join(faults[:_SHOWN])
            + more
        )
    return list(chunks)


def _fault(chunk: Chunk) -> str | None:
    if not isinstance(chunk.id, str) or not chunk.id:
        return "the id must be a non-empty string"
    if not isinstance(chunk.text, str) or not chunk.text.strip():
        return "the text is empty; leave the chunk out"
    if not _encodable(chunk.id) or not _encodable(chunk.text):
        return "the text holds lone surrogates, which are no Unicode characters; decode it with errors='replace'"
    for key, value in chunk.metadata.items():
        if not isinstance(key, str) or not key or key.startswith("chroma:"):
            return f"metadata key {key!r} must be a non-empty string not beginning with 'chroma:'"
        if not isinstance(value, str | int | float | bool):
            return (
                f"metadata {key!r} is a {type(value).__name__}; Chroma filters on str, int, float and bool. "
                "Leave it out or turn it into a string"
            )
        if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
            return f"metadata {key!r} does not fit 64 bits; turn it into a string"
        if isinstance(value, str) and not _encodable(value):
            return f"metadata {key!r} holds lone surrogates; decode it with errors='replace'"
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Checking chunks before anything is written: bad input is refused whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from ragself.errors import InputError
from ragself.schema import Chunk

_SHOWN = 5
_RESERVED = ("chroma:", "#", "$")


def check(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return the chunks if every one of them can be stored.

    Raises:
        InputError: Naming the first few chunks that cannot, and why.
    """
    seen = Counter(chunk.id for chunk in chunks if isinstance(chunk.id, str))
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
    if not encodable(chunk.id) or not encodable(chunk.text):
        return "the text holds lone surrogates, which are no Unicode characters; decode it with errors='replace'"
    if not isinstance(chunk.metadata, Mapping):
        return f"the metadata is a {type(chunk.metadata).__name__}, expected a dict; leave it out where there is none"
    faults = (_key_fault(key) or _value_fault(key, value) for key, value in chunk.metadata.items())
    return next((fault for fault in faults if fault), None)


def _key_fault(key: object) -> str | None:
    if not isinstance(key, str) or not key or key.startswith(_RESERVED):
        return f"metadata key {key!r} must be a non-empty string not beginning with 'chroma:', '#' or '$'"
    if not encodable(key):
        return f"metadata key {key!r} holds lone surrogates; decode it with errors='replace'"
    return None


def _value_fault(key: str, value: object) -> str | None:
    if not isinstance(value, str | int | float | bool):
        return (
            f"metadata {key!r} is a {type(value).__name__}; Chroma filters on str, int, float and bool. "
            "Leave it out or turn it into a string"
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"metadata {key!r} does not fit 64 bits; turn it into a string"
    if isinstance(value, float) and not math.isfinite(value):
        return f"metadata {key!r} is {value}, which Chroma drops; leave it out or turn it into a string"
    if isinstance(value, str) and not encodable(value):
        return f"metadata {key!r} holds lone surrogates; decode it with errors='replace'"
    return None


def encodable(text: str) -> bool:
    """Whether a text is Unicode throughout: lone surrogates are not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Checking chunks before anything is written: bad input is refused whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set

from ragself.errors import InputError
from ragself.schema import Chunk

_SHOWN = 5
_SCALARS = (str, int, float, bool)
_RESERVED = ("chroma:", "#", "$")


def check(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return the chunks if every one of them can be stored.

    Raises:
        InputError: Naming the first few chunks that cannot, and why.
    """
    seen = Counter(chunk.id for chunk in chunks if isinstance(chunk.id, str))
    faults = [f"id {id!r} occurs {count} times; ids must be unique" for id, count in seen.items() if count > 1]
    for chunk in chunks:
        reason = fault(chunk)
        if reason is not None:
            faults.append(f"chunk {chunk.id!r}: {reason}")
    if faults:
        more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
        raise InputError(
            f"{len(faults)} of {len(chunks)} chunks cannot be stored; nothing was written. "
            + "; ".join(faults[:_SHOWN])
            + more
        )
    return list(chunks)


def check_queries(query: str | Sequence[str]) -> list[str]:
    """One or several texts to look for, as a list.

    Raises:
        InputError: There is none, one is empty, or one is no Unicode text.
    """
    if not isinstance(query, str) and not isinstance(query, Sequence):
        raise InputError(f"The query is a {type(query).__name__}, expected a string.")
    queries = [query] if isinstance(query, str) else list(query)
    if not queries or not all(isinstance(text, str) and text.strip() for text in queries):
        raise InputError("The query is empty. Give at least one word.")
    if not all(map(encodable, queries)):
        raise InputError("The query holds lone surrogates, which are no Unicode characters.")
    return queries


def check_asked(queries: Iterable[str]) -> list[str]:
    """What users asked, as a list.

    Raises:
        InputError: It is one string, which would be taken letter by letter, or holds something else than strings.
    """
    if isinstance(queries, str | bytes):
        raise InputError(f"The queries are one string, {queries!r:.40}. Give a list, or an open file with one a line.")
    asked = list(queries)
    others = [query for query in asked if not isinstance(query, str)]
    if others:
        raise InputError(f"Among the queries is {others[0]!r:.40} ({type(others[0]).__name__}); expected strings only.")
    return asked


def check_arguments(given: Iterable[str], known: Set[str]) -> None:
    """Raise InputError where an argument is given that is none of a retriever's."""
    if unknown := sorted(set(given) - known):
        raise InputError(f"{', '.join(unknown)}: no such argument. The retriever's are {', '.join(sorted(known))}.")


def fault(chunk: Chunk) -> str | None:
    """Why a chunk cannot be stored, or None."""
    if not isinstance(chunk.id, str) or not chunk.id:
        return "the id must be a non-empty string"
    if not isinstance(chunk.text, str) or not chunk.text.strip():
        return "the text is empty; leave the chunk out"
    if not encodable(chunk.id) or not encodable(chunk.text) or not encodable(chunk.shown):
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
    if isinstance(value, list | tuple):
        if not value or len({type(item) for item in value}) > 1 or not isinstance(value[0], _SCALARS):
            return f"metadata {key!r} is the list {value!r:.60}; Chroma takes lists of one kind of values, none empty"
        return next((fault for item in value if (fault := _value_fault(key, item))), None)
    if not isinstance(value, _SCALARS):
        return (
            f"metadata {key!r} is a {type(value).__name__}; Chroma holds str, int, float, bool and lists of them. "
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

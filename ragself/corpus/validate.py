"""Validates input before anything is written. If one chunk is invalid, all are rejected."""

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
    """Return the chunks if all of them can be stored.

    Raises:
        InputError: Some cannot. The message names the first few of them, with the reasons.
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
    """Return one or several queries as a list.

    Raises:
        InputError: There is no query, one is empty, or one is not valid Unicode.
    """
    if not isinstance(query, str) and not isinstance(query, Sequence):
        raise InputError(f"The query is a {type(query).__name__}, expected a string.")
    queries = [query] if isinstance(query, str) else list(query)
    if not queries or not all(isinstance(text, str) and text.strip() for text in queries):
        raise InputError("The query is empty. Give at least one word.")
    if not all(map(encodable, queries)):
        raise InputError("The query holds lone surrogates, which are not Unicode characters.")
    return queries


def count_queries(queries: Iterable[str] | Mapping[str, int]) -> Counter[str]:
    """Count how often users searched for each text.

    Args:
        queries: Texts, where one that occurs several times counts as often; or texts with their counts.

    Raises:
        InputError: It is one string, which would be read letter by letter, or contains something other than strings, or
            a count that is not a whole number of 1 or more.
    """
    if isinstance(queries, str | bytes):
        raise InputError(f"The queries are one string, {queries!r:.40}. Give a list, or an open file with one a line.")
    texts = list(queries)
    others = [query for query in texts if not isinstance(query, str)]
    if others:
        raise InputError(f"Among the queries is {others[0]!r:.40} ({type(others[0]).__name__}); expected strings only.")
    if not isinstance(queries, Mapping):
        return Counter(texts)
    for query, count in queries.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"The count of the query {query!r:.40} is {count!r:.40}; expected 1 or more.")
    return Counter(queries)


def check_arguments(given: Iterable[str], known: Set[str]) -> None:
    """Raise InputError if an argument is given that the retriever does not have."""
    if unknown := sorted(set(given) - known):
        raise InputError(f"{', '.join(unknown)}: no such argument. Expected: {', '.join(sorted(known))}.")


def fault(chunk: Chunk) -> str | None:
    """Reason why a chunk cannot be stored, or None."""
    if not isinstance(chunk.id, str) or not chunk.id:
        return "the id must be a non-empty string"
    if not isinstance(chunk.text, str) or not chunk.text.strip():
        return "the text is empty; omit the chunk"
    if not encodable(chunk.id) or not encodable(chunk.text) or not encodable(chunk.shown):
        return "the text holds lone surrogates, which are not Unicode characters; decode it with errors='replace'"
    if not isinstance(chunk.metadata, Mapping):
        return f"the metadata is a {type(chunk.metadata).__name__}, expected a dict; omit it if there is none"
    faults = (_key_fault(key) or _value_fault(key, value) for key, value in chunk.metadata.items())
    return next((fault for fault in faults if fault), None)


def _key_fault(key: object) -> str | None:
    if not isinstance(key, str) or not key or key.startswith(_RESERVED):
        return f"metadata key {key!r} must be a non-empty string that does not begin with 'chroma:', '#' or '$'"
    if not encodable(key):
        return f"metadata key {key!r} holds lone surrogates; decode it with errors='replace'"
    return None


def _value_fault(key: str, value: object) -> str | None:
    if isinstance(value, list | tuple):
        if not value or len({type(item) for item in value}) > 1 or not isinstance(value[0], _SCALARS):
            return f"metadata {key!r} is the list {value!r:.60}; Chroma takes non-empty lists of values of one type"
        return next((fault for item in value if (fault := _value_fault(key, item))), None)
    if not isinstance(value, _SCALARS):
        return (
            f"metadata {key!r} is a {type(value).__name__}; Chroma takes str, int, float, bool and lists of them. "
            "Omit it or convert it to a string"
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"metadata {key!r} does not fit 64 bits; convert it to a string"
    if isinstance(value, float) and not math.isfinite(value):
        return f"metadata {key!r} is {value}, which Chroma drops; omit it or convert it to a string"
    if isinstance(value, str) and not encodable(value):
        return f"metadata {key!r} holds lone surrogates; decode it with errors='replace'"
    return None


def encodable(text: str) -> bool:
    """Whether a text is valid Unicode, without lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Memory management: return freed memory to the system, and pause garbage collection."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def release_memory() -> None:
    """Return freed memory that the C library retains to the system. Does nothing if the C library is not glibc.

    Each short-lived thread leaves the memory it freed in its own arena. A process that opens versions and encodes
    documents for weeks would grow to several times the size it needs. A call takes some milliseconds, during which
    other threads may wait for memory, so do not call it while a query is served.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause Python's garbage collection during a block of some milliseconds that other threads wait for.

    With torch loaded, a full collection visits half a million objects: no thread runs for a third of a second.
    """
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()

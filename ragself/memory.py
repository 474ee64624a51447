"""Memory that was freed, given back to the system; and moments in which Python does not look for any."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def release_memory() -> None:
    """Give back what the C library keeps of freed memory; does nothing where it is not glibc.

    Threads that come and go each leave what they freed in an arena of its own: a process that opens versions and
    encodes documents for weeks would grow to several times what it needs. Takes some milliseconds, during which other
    threads may wait for memory: not for the path of a query.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Put Python's garbage collection off for the milliseconds of something that others wait for.

    A full one looks at half a million objects where torch is loaded: a third of a second in which no thread runs.
    """
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()

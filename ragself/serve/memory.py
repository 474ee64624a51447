"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Give back what the C library keeps of freed memory; does nothing where it is not glibc.

    Threads that come and go each leave what they freed in an arena of its own: a process that opens versions and
    encodes documents for weeks would grow to several times what it needs. Takes some milliseconds, during which other
    threads may wait for memory: not for the path of a query.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

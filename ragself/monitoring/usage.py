"""Records the cost of a pass while it runs, so that the cost of a killed pass is not lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from ragself.errors import StoreError
from ragself.monitoring.search_log import SIGNALS, SignalLog
from ragself.schema import Account


@contextmanager
def spending(directory: Path, account: Account) -> Iterator[Callable[[], None]]:
    """Record the processor time and tokens that this process uses from now on.

    Args:
        directory: Folder of the knowledge base.
        account: Account of the language model's cost.

    Yields:
        Function that writes what was used since the last call. It is also called at the end.
    """
    cpu, tokens = time.process_time(), account.tokens + account.inside

    def note() -> None:
        nonlocal cpu, tokens
        taken, read = time.process_time(), account.tokens + account.inside
        with suppress(StoreError), closing(SignalLog(directory / SIGNALS)) as log:  # a full disk is reported elsewhere
            log.spend(taken - cpu, read - tokens)
            cpu, tokens = taken, read

    try:
        yield note
    finally:
        note()


def usage(directory: Path, within: float) -> tuple[float, int]:
    """Cost of recent passes, including those that failed, were stopped or were killed.

    Args:
        directory: Folder of the knowledge base.
        within: Seconds up to now.

    Returns:
        Seconds of processor time, and tokens that a language model read.
    """
    now = time.time()
    with closing(SignalLog(directory / SIGNALS)) as log:
        return log.spent(now - within, now)

"""What a process takes for learning, written down as it goes: a kill must not make a pass look cheap."""

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
    """Note what this process takes from now on, whenever what is yielded is called and when this ends.

    Args:
        directory: Of the knowledge base.
        account: What the language model costs.
    """
    cpu, tokens = time.process_time(), account.tokens + account.inside

    def note() -> None:
        nonlocal cpu, tokens
        taken, read = time.process_time(), account.tokens + account.inside
        with suppress(StoreError), closing(SignalLog(directory / SIGNALS)) as log:  # a full disk is met elsewhere
            log.spend(taken - cpu, read - tokens)
            cpu, tokens = taken, read

    try:
        yield note
    finally:
        note()

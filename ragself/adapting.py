"""What the retrievers of all frameworks offer beside retrieving: to learn, to be told how far that is, to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragself.background import BackgroundAdaptation, BackgroundStatus, Queries
from ragself.knowledge import KnowledgeBase
from ragself.schema import Added, Status

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)


class SelfAdapting:
    """What the retrievers of all frameworks offer beside retrieving: to learn, to be told how far that is, to end."""

    if TYPE_CHECKING:  # as attributes or as fields, as a framework has it
        knowledge_base: KnowledgeBase
        _background: BackgroundAdaptation | None

    def start_adapting(
        self,
        queries: Queries = (),
        every: float | None = None,
        generator: str | Sequence[str] | None = None,
    ) -> None:
        """Learn in the background, in a process of its own, whenever that can pay, as long as the program lives.

        Args:
            queries: What users asked, no answers, no labels: texts, or what is read whenever a pass may be due, the
                `pathlib.Path` of a file with one a line or a function. Those that `queries.log` remembers come to them.
            every: Seconds after which a pass begins where anything is new; None takes `watch.every`, a day.
            generator: URL of a vLLM server, or name or path of a causal language model; None counts words.

        Raises:
            ValueError: The queries are no strings, or `every` is not above 0.
            StoreError: The knowledge base is closed.
        """
        if self._background is not None and self._background.goes_on:
            logger.warning("It is learning already; what it was started with stays. Call stop_adapting() before.")
            return
        self._background = BackgroundAdaptation(self.knowledge_base, queries, every=every, generator=generator)
        self._background.start()

    def stop_adapting(self, timeout: float | None = None) -> bool:
        """End it at its next step; what it has done is kept. Returns whether it ended within `timeout` seconds."""
        return self._background is None or self._background.stop(timeout)

    async def astop_adapting(self, timeout: float | None = None) -> bool:
        """As `stop_adapting`, without holding up the event loop."""
        return await asyncio.to_thread(self.stop_adapting, timeout)

    def adapting(self) -> BackgroundStatus:
        """How far learning in the background is."""
        return BackgroundStatus() if self._background is None else self._background.status()

    def sync(self) -> Added:
        """Take over what was added to and deleted from the collection that is followed."""
        return self.knowledge_base.sync()

    def status(self) -> Status:
        """What the knowledge base holds, and its live version."""
        return self.knowledge_base.status()

    def close(self) -> None:
        """Stop learning and close the knowledge base, so that another program may write to it."""
        self.stop_adapting()
        self.knowledge_base.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *ended: object) -> None:
        """Close."""
        self.close()

"""Interface for framework integrations: a mixin for their retrievers, and shared helpers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragself.background.runner import BackgroundStatus, Queries
from ragself.config import Config, load
from ragself.console import progress
from ragself.corpus.validate import check_arguments
from ragself.knowledge_base import KnowledgeBase
from ragself.progress import Progress
from ragself.schema import Added, Status

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RetrieverMixin", "check_arguments", "progress_bars", "read_config"]


class RetrieverMixin:
    """Background training, status and shutdown for the retrievers of frameworks."""

    if TYPE_CHECKING:  # an attribute or a field, depending on the framework
        knowledge_base: KnowledgeBase

    def start_adapting(
        self,
        queries: Queries = (),
        every: float | None = None,
        generator: str | Sequence[str] | None = None,
    ) -> None:
        """Train in the background. Arguments and errors as for `KnowledgeBase.start_adapting`."""
        self.knowledge_base.start_adapting(queries, every, generator)

    def stop_adapting(self, timeout: float | None = None) -> bool:
        """Stop background training. Arguments and result as for `KnowledgeBase.stop_adapting`."""
        return self.knowledge_base.stop_adapting(timeout)

    async def astop_adapting(self, timeout: float | None = None) -> bool:
        """Do the same as `stop_adapting` without blocking the event loop."""
        return await asyncio.to_thread(self.stop_adapting, timeout)

    def adapting(self) -> BackgroundStatus:
        """Progress of background training."""
        return self.knowledge_base.adapting()

    def sync(self) -> Added:
        """Apply the changes of the adopted collection. Errors as for `KnowledgeBase.sync`."""
        return self.knowledge_base.sync()

    def status(self) -> Status:
        """Status of the knowledge base."""
        return self.knowledge_base.status()

    def close(self) -> None:
        """Stop training and close the knowledge base, so that another program may write to it."""
        self.knowledge_base.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *ended: object) -> None:
        """Close."""
        self.close()


def read_config(
    knowledge_base: str | Path, model: str | None = None, prompts: Mapping[str, str] | None = None
) -> Config:
    """Settings of a knowledge base that may not exist yet.

    Args:
        knowledge_base: Folder of the knowledge base.
        model: Name or path of the embedding model; None takes the settings.
        prompts: Texts to put before queries and documents, keys ``query`` and ``document``; None takes the settings.

    Raises:
        ConfigError: A setting is unknown or out of range.
    """
    if model is None:
        return load(knowledge_base)
    encoder: dict[str, Any] = {"model": model} if prompts is None else {"model": model, "prompts": dict(prompts)}
    return load(knowledge_base, encoder=encoder)


def progress_bars(shown: bool) -> AbstractContextManager[Progress]:
    """Context with a function that shows progress: bars on a terminal, lines elsewhere; nothing unless `shown`."""
    return progress(quiet=not shown)

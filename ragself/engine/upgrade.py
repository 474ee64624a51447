"""Upgrades the knowledge base of an earlier ragself."""

from __future__ import annotations

import logging
from contextlib import suppress

from ragself.corpus.journal import LEXICAL
from ragself.engine.engine import Engine
from ragself.errors import RagselfError, StoreError

logger = logging.getLogger(__name__)


def upgrade(engine: Engine) -> None:
    """Index the words of the documents if that was never done, and replace a live version of a retired kind."""
    with suppress(RagselfError):  # a pointer that is damaged or read-only raises later, where it is needed
        _retire(engine)
    store = engine.store
    if store.journal.follows(LEXICAL):
        return
    with suppress(StoreError):  # if nothing can be written the lexical index stays in memory
        if store.journal.head:
            logger.info("%s: indexing the words of %d chunks, once", engine.path, len(store.journal))
            engine.publish_words(1)
        store.journal.mark_applied(LEXICAL, store.lexical.seq)


def _retire(engine: Engine) -> None:
    """Make version 0 live if the live version is of a kind that is not served any more."""
    registry = engine.store.registry
    if registry.serves(registry.pointed()):
        return
    with engine.store.turn.taken():
        retired = registry.retire()
    if retired is not None:
        logger.warning(
            "%s: version %d is of a kind that this ragself does not serve any more (%s). Version 0 is live. "
            "To train again: ragself adapt", engine.path, retired.number, retired.kind,
        )  # fmt: skip

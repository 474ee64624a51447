"""A retriever that trains itself on its user's own documents.

    from ragself import Chunk, KnowledgeBase

    kb = KnowledgeBase("my-kb")
    kb.add_files(["docs/"])
    kb.adapt(queries=["what users asked"])
    kb.search("how are retries configured", k=5)

Importing this loads neither torch nor chromadb: names are resolved when first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragself.config import Config
    from ragself.errors import RagselfError
    from ragself.knowledge import KnowledgeBase
    from ragself.models.embedder import Embedder
    from ragself.schema import Added, Chunk, Embedding, Hit, Report, Status, Version

__version__ = "0.1.0"
__all__ = [
    "Added",
    "Chunk",
    "Config",
    "Embedder",
    "Embedding",
    "Hit",
    "KnowledgeBase",
    "RagselfError",
    "Report",
    "Status",
    "Version",
]

_HOMES = {"Config": "config", "RagselfError": "errors", "KnowledgeBase": "knowledge", "Embedder": "models.embedder"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'schema')}"), name)


def __dir__() -> list[str]:
    return __all__

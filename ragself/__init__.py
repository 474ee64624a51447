"""A retriever that trains itself on its user's own documents.

    from ragself import Chunk, KnowledgeBase

    kb = KnowledgeBase("my-kb")
    kb.add_files(["docs/"])
    kb.adapt(queries=["how many retries are there"])
    kb.search("how are retries configured", k=5)

Importing ragself loads neither torch nor chromadb: names are resolved at first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragself.adapters.embedder import Embedder
    from ragself.background.runner import BackgroundStatus
    from ragself.config import Config
    from ragself.errors import (
        AdapterError,
        ConfigError,
        EncoderError,
        GeneratorError,
        InputError,
        LimitError,
        RagselfError,
        StoreError,
        StoreLocked,
        StoreTooNew,
        VerificationError,
    )
    from ragself.knowledge_base import KnowledgeBase
    from ragself.schema import Added, Chunk, Embedding, Hit, Report, Status, Version

__version__ = "0.1.0"
_ERRORS = [
    "AdapterError",
    "ConfigError",
    "EncoderError",
    "GeneratorError",
    "InputError",
    "LimitError",
    "RagselfError",
    "StoreError",
    "StoreLocked",
    "StoreTooNew",
    "VerificationError",
]
__all__ = [
    "AdapterError",
    "Added",
    "BackgroundStatus",
    "Chunk",
    "Config",
    "ConfigError",
    "Embedder",
    "Embedding",
    "EncoderError",
    "GeneratorError",
    "Hit",
    "InputError",
    "KnowledgeBase",
    "LimitError",
    "RagselfError",
    "Report",
    "Status",
    "StoreError",
    "StoreLocked",
    "StoreTooNew",
    "VerificationError",
    "Version",
]

_HOMES = {
    **dict.fromkeys(_ERRORS, "errors"),
    "BackgroundStatus": "background.runner",
    "Config": "config",
    "Embedder": "adapters.embedder",
    "KnowledgeBase": "knowledge_base",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'schema')}"), name)


def __dir__() -> list[str]:
    return __all__

"""Converts the embedding model of a LangChain application into ragself settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings

from ragself import Config
from ragself.retriever import read_config


def config_for(embedding: Embeddings | str | None, knowledge_base: str | Path) -> Config:
    """Settings with the embedding model of an application.

    Args:
        embedding: A `HuggingFaceEmbeddings`, or the name or path of a sentence-transformers model; None takes the
            model of the settings.
        knowledge_base: Folder of the knowledge base whose settings are read.

    Raises:
        ValueError: The model cannot be loaded here, so it cannot be trained.
    """
    if embedding is None:
        return read_config(knowledge_base)
    if isinstance(embedding, str):
        return read_config(knowledge_base, embedding)
    model: Any = getattr(embedding, "_client", None)
    if model is None or not hasattr(model, "encode_query"):
        raise ValueError(
            f"The embedding model is a {type(embedding).__name__}, expected a HuggingFaceEmbeddings, or the name or "
            "path of a sentence-transformers model: ragself cannot train what it cannot load."
        )
    settings: Any = embedding
    documents, queries = settings.encode_kwargs, settings.query_encode_kwargs or settings.encode_kwargs
    prompts = {"query": _prompt(model, queries), "document": _prompt(model, documents)}
    return read_config(knowledge_base, settings.model_name, prompts)


def _prompt(model: Any, settings: dict[str, Any]) -> str:
    """Prompt put before a text, chosen as in `SentenceTransformer.encode`."""
    name = settings.get("prompt_name") or model.default_prompt_name
    return str(settings.get("prompt") or (model.prompts.get(name) if name else "") or "")

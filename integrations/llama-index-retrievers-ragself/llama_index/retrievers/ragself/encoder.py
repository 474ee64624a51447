"""Converts the embedding model of a LlamaIndex application into ragself settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from ragself import Config
from ragself.retriever import read_config


def config_for(embed_model: BaseEmbedding | str | None, knowledge_base: str | Path) -> Config:
    """Settings with the embedding model of an application.

    Args:
        embed_model: A `HuggingFaceEmbedding`, or the name or path of a sentence-transformers model, also with
            LlamaIndex's prefix ``local:``; None takes the model of the settings.
        knowledge_base: Folder of the knowledge base whose settings are read.

    Raises:
        ValueError: The model cannot be loaded here, so it cannot be trained.
    """
    if embed_model is None:
        return read_config(knowledge_base)
    if isinstance(embed_model, str):
        return read_config(knowledge_base, embed_model.removeprefix("local:"))
    model: Any = getattr(embed_model, "_model", None)
    if model is None or not hasattr(model, "encode_query"):
        raise ValueError(
            f"The embedding model is a {type(embed_model).__name__}, expected a HuggingFaceEmbedding, or the name or "
            "path of a sentence-transformers model: ragself cannot train what it cannot load."
        )
    prompts = {"query": model.prompts.get("query") or "", "document": model.prompts.get("text") or ""}
    return read_config(knowledge_base, embed_model.model_name, prompts)

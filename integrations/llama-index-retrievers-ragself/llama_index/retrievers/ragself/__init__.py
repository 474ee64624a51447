"""A LlamaIndex retriever that trains itself on the documents it serves."""

from llama_index.retrievers.ragself.base import RagselfRetriever

__all__ = ["RagselfRetriever"]

"""A LangChain retriever that trains itself on the documents it serves."""

from langchain_ragself.retrievers import RagselfRetriever

__all__ = ["RagselfRetriever"]

"""Adopt a LlamaIndex index in Chroma, train on queries, and use the retriever in a query engine.

In an empty folder: python llama_index_retriever.py
"""

import chromadb
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.storage import StorageContext
from llama_index.retrievers.ragself import RagselfRetriever
from llama_index.vector_stores.chroma import ChromaVectorStore

from ragself.config import EncoderConfig
from ragself.encoders.encoder import Encoder

CITIES = ["Lisbon", "Oslo", "Vienna", "Prague", "Athens", "Dublin", "Bern", "Riga", "Turin", "Ghent"]
TOPICS = ["museums", "markets", "trams", "parks", "bakeries", "harbours", "bridges", "theatres", "libraries", "cafes"]


class Mini(BaseEmbedding):
    """all-MiniLM-L6-v2, from the offline package if necessary; your application would use HuggingFaceEmbedding."""

    _encoder: Encoder = PrivateAttr(default_factory=lambda: Encoder(EncoderConfig()))

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoder.queries([query])[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._encoder.documents([text])[0].tolist()


def main() -> None:
    # Existing code: an index that keeps its vectors in Chroma.
    documents = [
        Document(text=f"In {city} the {topic} are worth a whole morning.", metadata={"title": f"{topic} of {city}"})
        for city in CITIES
        for topic in TOPICS
    ]
    store = ChromaVectorStore(chromadb.PersistentClient("chroma").get_or_create_collection("guide"))
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=Mini())

    # New code.
    retriever = RagselfRetriever.from_vector_store(store, "kb", similarity_top_k=3)
    report = retriever.knowledge_base.adapt(
        queries=[f"which {topic} in {city}?" for city in CITIES for topic in TOPICS]
    )
    print(f"{report.decision}: {report.reason}")

    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
    for source in engine.query("trams of Lisbon").source_nodes:
        print(f"{source.score:.3f}  {source.node.get_content()}")
    retriever.close()


if __name__ == "__main__":
    main()

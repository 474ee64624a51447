"""Adopt a LangChain vector store in Chroma, train in the background, and use the retriever in a chain.

In an empty folder: python langchain_retriever.py
"""

import asyncio

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_ragself import RagselfRetriever

from ragself.config import DEFAULT_ENCODER, EncoderConfig
from ragself.encoders.encoder import Encoder

CITIES = ["Lisbon", "Oslo", "Vienna", "Prague", "Athens", "Dublin", "Bern", "Riga", "Turin", "Ghent"]
TOPICS = ["museums", "markets", "trams", "parks", "bakeries", "harbours", "bridges", "theatres", "libraries", "cafes"]


class Mini(Embeddings):
    """all-MiniLM-L6-v2, from the offline package if necessary; your application would use HuggingFaceEmbeddings."""

    def __init__(self) -> None:
        self._encoder = Encoder(EncoderConfig())

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.documents(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self._encoder.queries([text])[0].tolist()


async def main() -> None:
    # Existing code: a vector store that keeps its vectors in Chroma.
    documents = [
        Document(f"In {city} the {topic} are worth a whole morning.", metadata={"title": f"{topic} of {city}"})
        for city in CITIES
        for topic in TOPICS
    ]
    vectorstore = Chroma.from_documents(documents, Mini(), persist_directory="chroma")

    # New code.
    retriever = RagselfRetriever.from_vectorstore(vectorstore, "kb", embedding=DEFAULT_ENCODER, k=3)
    retriever.start_adapting(queries=[f"which {topic} in {city}?" for city in CITIES for topic in TOPICS])
    while retriever.adapting().passes == 0:
        await retriever.ainvoke("it answers while it learns")
    report, error = retriever.adapting().report, retriever.adapting().error
    print(f"{report.decision}: {report.reason}" if report else error)

    prompt = ChatPromptTemplate.from_template("Answer from {context}: {question}")
    chain = {"context": retriever, "question": RunnablePassthrough()} | prompt
    print((await chain.ainvoke("trams of Lisbon")).to_string())
    await retriever.astop_adapting()
    retriever.close()


if __name__ == "__main__":
    asyncio.run(main())

"""A small corpus that a small encoder learns from, in a `langchain_chroma.Chroma`, embedded or on a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_ragself import RagselfRetriever

from ragself import Config, KnowledgeBase
from ragself.config import load
from ragself.encoders.encoder import Encoder
from tests.conftest import documents as corpus
from tests.conftest import queries, tiny_model  # noqa: F401
from tests.integration.chroma_server import a_client, a_server  # noqa: F401


class SameModel(Embeddings):
    """The model of the knowledge bases, as LangChain wants it."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.documents(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self._encoder.queries([text])[0].tolist()


@pytest.fixture(scope="session")
def settings(tiny_model: Path) -> Config:  # noqa: F811
    return load(None, encoder={"model": str(tiny_model)})


@pytest.fixture(scope="session")
def model(settings: Config) -> SameModel:
    return SameModel(Encoder(settings.encoder))


@pytest.fixture(scope="session")
def asked() -> list[str]:
    return queries()


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """Documents with metadata of every kind that Chroma holds, and some with none."""
    made = []
    for number, (id, title, text) in enumerate(corpus()):
        metadata = {
            "title": title,
            "topic": id.split("-")[0],
            "number": number,
            "part": number / 8,
            "even": number % 2 == 0,
        }
        made.append(Document(text, id=id, metadata={**metadata, "tags": [title.split()[0]]} if number % 5 else {}))
    return made


@pytest.fixture
def vectorstore(client: chromadb.ClientAPI, documents: list[Document], model: SameModel) -> Chroma:
    """What users have: a store with the defaults of langchain_chroma."""
    return Chroma.from_documents(documents, model, client=client, ids=[document.id for document in documents])


@pytest.fixture(scope="session")
def filled_template(
    documents: list[Document], settings: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A knowledge base of the documents, and the same after a pass that promoted version 1."""
    base = tmp_path_factory.mktemp("filled") / "kb"
    retriever = RagselfRetriever.from_documents(documents, base, settings.encoder.model)
    retriever.close()
    learned = Path(shutil.copytree(base, tmp_path_factory.mktemp("learned") / "kb"))
    with KnowledgeBase(learned, config=settings) as kb:
        report = kb.adapt(queries())
        assert report.decision == "promote", report.reason
    return base, learned


@pytest.fixture
def filled(filled_template: tuple[Path, Path], settings: Config, tmp_path: Path) -> Iterator[KnowledgeBase]:
    with KnowledgeBase(shutil.copytree(filled_template[0], tmp_path / "filled"), config=settings) as kb:
        yield kb


@pytest.fixture
def learned(filled_template: tuple[Path, Path], settings: Config, tmp_path: Path) -> Iterator[KnowledgeBase]:
    with KnowledgeBase(shutil.copytree(filled_template[1], tmp_path / "learned"), config=settings) as kb:
        yield kb

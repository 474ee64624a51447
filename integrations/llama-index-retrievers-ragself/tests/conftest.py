"""A small corpus that a small encoder learns from, in a `ChromaVectorStore`, embedded or on a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import chromadb
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.vector_stores.chroma import ChromaVectorStore

from ragself import Config, KnowledgeBase
from ragself.config import load
from ragself.encoders.encoder import Encoder
from tests.conftest import documents, queries, tiny_model  # noqa: F401
from tests.integration.chroma_server import a_client, a_server  # noqa: F401


class SameModel(BaseEmbedding):
    """The model of the knowledge bases, as LlamaIndex wants it."""

    _encoder: Any = None

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(model_name="same")
        self._encoder = encoder

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoder.queries([query])[0].tolist()  # type: ignore[no-any-return]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._encoder.documents([text])[0].tolist()  # type: ignore[no-any-return]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.documents(texts).tolist()  # type: ignore[no-any-return]


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
def nodes() -> list[TextNode]:
    """Nodes with metadata of every kind that is embedded, or kept from it, and with a document each four share."""
    made = []
    for number, (id, title, text) in enumerate(documents()):
        node = TextNode(
            text=text,
            id_=id,
            metadata={"title": title, "topic": id.split("-")[0], "number": number, "part": number / 8, "none": None},
            excluded_embed_metadata_keys=["number"],
        )
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=f"document-{number // 4}")
        made.append(node)
    for one, other in pairwise(made):
        one.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=other.node_id)
    return made


@pytest.fixture
def index(client: chromadb.ClientAPI, nodes: list[TextNode], model: SameModel) -> VectorStoreIndex:
    """What users have: an index in a collection of Chroma's own defaults."""
    store = ChromaVectorStore(chroma_collection=client.create_collection("theirs"))
    context = StorageContext.from_defaults(vector_store=store)
    return VectorStoreIndex(nodes, storage_context=context, embed_model=model)


@pytest.fixture(scope="session")
def filled_template(
    nodes: list[TextNode], settings: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A knowledge base of the nodes, and the same after a pass that promoted version 1."""
    from llama_index.retrievers.ragself.nodes import as_chunks

    base = tmp_path_factory.mktemp("filled") / "kb"
    with KnowledgeBase(base, config=settings) as kb:
        kb.add(as_chunks(nodes))
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

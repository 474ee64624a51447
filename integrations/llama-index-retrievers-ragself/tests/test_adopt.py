"""Collections that LlamaIndex filled: the same is found as with its own retriever, and changes are followed."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import chromadb
import pytest
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import ImageNode, IndexNode, MediaResource, MetadataMode, Node, TextNode
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from llama_index.retrievers.ragself import RagselfRetriever
from llama_index.vector_stores.chroma import ChromaVectorStore

from ragself import Config
from ragself.errors import StoreError
from ragself.index.row_formats import as_chunk
from tests.integration.stored import Stored

F, Op = MetadataFilter, FilterOperator

FILTERS = [
    [F(key="topic", value="t3")],
    [F(key="topic", value="t3", operator=Op.EQ)],
    [F(key="topic", value="t3", operator=Op.NE)],
    [F(key="number", value=100, operator=Op.GT)],
    [F(key="number", value=100, operator=Op.GTE)],
    [F(key="part", value=20.5, operator=Op.LT)],
    [F(key="part", value=20.5, operator=Op.LTE)],
    [F(key="topic", value=["t1", "t5"], operator=Op.IN)],
    [F(key="topic", value=["t1", "t5"], operator=Op.NIN)],
    [F(key="none", value="")],
    [F(key="nowhere", value=1)],
    [F(key="nowhere", value=1, operator=Op.NE)],
    [F(key="topic", value="t3"), F(key="number", value=52, operator=Op.GT)],
    [F(key="ref_doc_id", value="document-3")],
    [],
]


@pytest.fixture
def adopted(index: VectorStoreIndex, settings: Config, tmp_path: Path) -> Any:
    retriever = RagselfRetriever.from_vector_store(
        index.vector_store, tmp_path / "kb", settings.encoder.model, similarity_top_k=10
    )
    yield retriever
    retriever.close()


def ids(found: list[Any]) -> list[str]:
    return [node.node_id for node in found]


def test_the_same_is_found_as_with_the_framework_itself(
    index: VectorStoreIndex, adopted: RagselfRetriever, model: Any, asked: list[str]
) -> None:
    theirs, exact = index.as_retriever(similarity_top_k=10), Stored(index.vector_store.client)
    alike, adopted.mode = [], "vector"
    for query in asked[::10]:
        expected, found = theirs.retrieve(query), adopted.retrieve(query)
        exact.check(ids(found), model.get_query_embedding(query), 10)
        alike.append(ids(found) == ids(expected))
        of_theirs = {one.node_id: one.node for one in expected}
        for one in found:
            other = of_theirs.get(one.node_id, one.node)
            assert one.node.metadata == other.metadata
            assert one.node.relationships == other.relationships
            assert one.node.get_content(MetadataMode.ALL) == other.get_content(MetadataMode.ALL)
    assert sum(alike) > 0.9 * len(alike)


def test_filters_give_the_same_answers(
    index: VectorStoreIndex, adopted: RagselfRetriever, model: Any, asked: list[str]
) -> None:
    exact = Stored(index.vector_store.client)
    for given, condition in product(FILTERS, (FilterCondition.AND, FilterCondition.OR)):
        filters = MetadataFilters(filters=given, condition=condition)
        among = ids(index.vector_store.get_nodes(None, filters))
        ours = RagselfRetriever(adopted.knowledge_base, 10, filters, mode="vector")
        for query in asked[::100]:
            exact.check(ids(ours.retrieve(query)), model.get_query_embedding(query), 10, among)


def test_nested_filters_give_the_same_answers(
    index: VectorStoreIndex, adopted: RagselfRetriever, model: Any, asked: list[str]
) -> None:
    inner = MetadataFilters(filters=FILTERS[12], condition=FilterCondition.OR)
    filters = MetadataFilters(filters=[inner, F(key="part", value=30.0, operator=Op.LT)])
    among = ids(index.vector_store.get_nodes(None, filters))
    found = ids(RagselfRetriever(adopted.knowledge_base, 10, filters, mode="vector").retrieve(asked[0]))
    Stored(index.vector_store.client).check(found, model.get_query_embedding(asked[0]), 10, among)


def test_operators_that_chroma_lacks_are_refused_as_by_the_framework(
    index: VectorStoreIndex, adopted: RagselfRetriever
) -> None:
    for operator in (Op.CONTAINS, Op.TEXT_MATCH, Op.ANY, Op.ALL, Op.IS_EMPTY):
        filters = MetadataFilters(filters=[F(key="topic", value="t3", operator=operator)])
        with pytest.raises(ValueError, match="not supported") as theirs:
            index.as_retriever(filters=filters).retrieve("x")
        with pytest.raises(ValueError, match="not supported") as ours:
            RagselfRetriever(adopted.knowledge_base, filters=filters)
        assert str(ours.value) == str(theirs.value)


def test_changes_through_the_framework_are_followed(
    index: VectorStoreIndex, adopted: RagselfRetriever, nodes: list[TextNode]
) -> None:
    index.vector_store.delete("document-0")
    index.insert(Document(text="a new document of its own", doc_id="new"))
    done = adopted.sync()
    assert (done.added, done.unchanged, done.removed) == (1, len(nodes) - 4, 4)
    found = adopted.retrieve("a new document of its own")[0]
    assert found.node.get_content() == "a new document of its own"
    assert found.node.ref_doc_id == "new"
    with pytest.raises(ValueError, match="belong to the collection 'theirs'"):
        adopted.delete("document-1")


def test_from_an_index_with_its_own_model(
    index: VectorStoreIndex, nodes: list[TextNode], model: Any, settings: Config, tmp_path: Path, asked: list[str]
) -> None:
    with pytest.raises(ValueError, match="The embedding model is a SameModel, expected"):
        RagselfRetriever.from_index(index, tmp_path / "kb")
    assert not (tmp_path / "kb").exists()
    retriever = RagselfRetriever.from_index(index, tmp_path / "kb", settings.encoder.model)
    assert retriever.knowledge_base.followed is not None
    retriever.close()
    in_memory = VectorStoreIndex(nodes, embed_model=model)
    retriever = RagselfRetriever.from_index(
        in_memory, tmp_path / "kb-2", settings.encoder.model, similarity_top_k=5, mode="vector"
    )
    assert ids(retriever.retrieve(asked[0])) == ids(in_memory.as_retriever(similarity_top_k=5).retrieve(asked[0]))
    retriever.close()


def test_from_an_index_whose_nodes_stand_for_others(
    client: chromadb.ClientAPI, nodes: list[TextNode], model: Any, settings: Config, tmp_path: Path
) -> None:
    """As `VectorStoreIndex` does it: a node that points at a retriever is what that one finds."""
    small = VectorStoreIndex(nodes[:20], embed_model=model)
    store = ChromaVectorStore(chroma_collection=client.create_collection("theirs"))
    context = StorageContext.from_defaults(vector_store=store)
    for where, vectors in ((context, "chroma"), (None, "memory")):
        pointing = IndexNode(text="where the first twenty are", index_id="first", obj=small.as_retriever())
        index = VectorStoreIndex(nodes[20:40], objects=[pointing], storage_context=where, embed_model=model)
        retriever = RagselfRetriever.from_index(index, tmp_path / vectors, settings.encoder.model)
        found = retriever.retrieve("where the first twenty are")
        assert ids(found) == ids(index.as_retriever().retrieve("where the first twenty are"))
        assert {node.node_id for node in nodes[:20]} & set(ids(found))
        retriever.close()


def test_from_an_index_that_keeps_parents_besides(
    nodes: list[TextNode], model: Any, settings: Config, tmp_path: Path
) -> None:
    context = StorageContext.from_defaults()
    context.docstore.add_documents([TextNode(text="a parent", id_="parent"), *nodes[:20]])
    index = VectorStoreIndex(nodes[:20], storage_context=context, embed_model=model)
    retriever = RagselfRetriever.from_index(index, tmp_path / "kb", settings.encoder.model, similarity_top_k=50)
    assert sorted(ids(retriever.retrieve("a parent"))) == sorted(node.node_id for node in nodes[:20])
    retriever.close()
    with pytest.raises(ValueError, match="keeps no nodes itself"):
        RagselfRetriever.from_index(VectorStoreIndex([], embed_model=model), tmp_path / "none", settings.encoder.model)


def test_what_cannot_be_adopted_is_told(client: chromadb.ClientAPI, settings: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a SimpleVectorStore, expected a ChromaVectorStore"):
        RagselfRetriever.from_vector_store(SimpleVectorStore(), tmp_path / "kb")
    store = ChromaVectorStore(chroma_collection=client.create_collection("theirs"))
    with pytest.raises(ValueError, match=r"'theirs' in .* is empty"):
        RagselfRetriever.from_vector_store(store, tmp_path / "kb", settings.encoder.model)
    VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=32)).insert(Document(text="words"))
    with pytest.raises(ValueError, match="does not reproduce the vectors of the collection 'theirs': their cosine is"):
        RagselfRetriever.from_vector_store(store, tmp_path / "kb", settings.encoder.model)
    client.delete_collection("theirs")
    with pytest.raises(StoreError, match="'theirs' is gone"):
        RagselfRetriever.from_vector_store(store, tmp_path / "kb", settings.encoder.model)
    assert not (tmp_path / "kb").exists()


def test_rows_whose_node_was_altered_are_served_as_by_the_framework(
    index: VectorStoreIndex, settings: Config, tmp_path: Path, nodes: list[TextNode]
) -> None:
    collection = index.vector_store.client
    collection.update(ids=["t0-0"], metadatas=[{"_node_content": "{not json"}])
    retriever = RagselfRetriever.from_vector_store(
        index.vector_store, tmp_path / "kb", settings.encoder.model, similarity_top_k=len(nodes)
    )
    found = {node.node_id: node for node in retriever.retrieve("x")}
    theirs = index.vector_store.get_nodes(node_ids=["t0-0"])[0]
    assert found["t0-0"].node.metadata == theirs.metadata
    assert found["t0-0"].text == theirs.get_content() == nodes[0].text
    retriever.close()


TEMPLATED = [
    TextNode(text="plain"),
    TextNode(text=" spaced \n", metadata={"a": 1, "b": None, "c": 1.5, "d": True}),
    TextNode(text="all kept out", metadata={"a": 1}, excluded_embed_metadata_keys=["a"]),
    TextNode(text="kept from the model only", metadata={"a": 1}, excluded_llm_metadata_keys=["a"]),
    TextNode(text="{braces}", metadata={"{k}": "{v}"}),
    TextNode(text="x", metadata={"a": "b"}, text_template="<{metadata_str}|{content}> {{}}"),
    TextNode(text="x", metadata={"a": "b", "c": "d"}, metadata_template="{value}:{key}", metadata_seperator=" & "),
    TextNode(text="Zürich", metadata={"ort": "Genève"}),
    Node(text_resource=MediaResource(text="of a node"), metadata={"a": " "}),
    Node(text_resource=MediaResource(text="of a node")),
    IndexNode(text="index", index_id="i", metadata={"a": 1}),
    ImageNode(text="image", metadata={"a": 1}),
    Document(text="document", metadata={"title": "t"}),
]


@pytest.mark.parametrize("node", TEMPLATED, ids=lambda node: node.get_content()[:12])
def test_the_text_that_was_embedded_is_made_again(node: Any) -> None:
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=True)
    shown, text = node.get_content(MetadataMode.NONE), node.get_content(MetadataMode.EMBED)
    chunk = as_chunk(node.node_id, shown, metadata)
    assert (chunk.text, chunk.shown) == (text, shown)


@pytest.mark.parametrize("template", ["{content.__class__}", "{content:>99999999}", "{content!r}", "{other}", "{"])
def test_a_template_that_does_more_than_fill_in_is_not_followed(template: str) -> None:
    node = TextNode(text="words", metadata={"a": 1})
    content = json.loads(node_to_metadata_dict(node, remove_text=True)["_node_content"])
    chunk = as_chunk("id", "words", {"_node_content": json.dumps({**content, "text_template": template})})
    assert chunk.text == "words"

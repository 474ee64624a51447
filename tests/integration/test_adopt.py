"""Collections that were built with chromadb alone are followed, in an embedded database and on a server."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.utils.embedding_functions import known_embedding_functions, register_embedding_function

from ragself import Chunk, Config, KnowledgeBase
from ragself.config import load
from ragself.corpus.journal import Journal
from ragself.encoders.encoder import Encoder
from ragself.errors import InputError, StoreError, StoreLocked
from tests.conftest import documents
from tests.integration.chroma_server import ChromaServer, Gateway, close
from tests.integration.conftest import Child
from tests.integration.helpers import contents
from tests.integration.stored import Stored

Make = Callable[..., chromadb.Collection]


@pytest.fixture(scope="session")
def encoder(settings: Config) -> Encoder:
    return Encoder(settings.encoder)


@pytest.fixture
def make(client: chromadb.ClientAPI, encoder: Encoder, chunks: list[Chunk]) -> Make:
    """Make ``make(name, space=..., chunks=..., vectors=...)``, a collection as people make them."""

    def make(
        name: str = "theirs", space: str = "l2", chunks: list[Chunk] = chunks[:150], vectors: Any = None, **parts: Any
    ) -> chromadb.Collection:
        collection = client.create_collection(name, embedding_function=None, configuration={"hnsw": {"space": space}})
        texts = [chunk.text for chunk in chunks]
        rows = {
            "embeddings": encoder.documents(texts) if vectors is None else vectors,
            "documents": texts,
            "metadatas": [dict(chunk.metadata) for chunk in chunks],
            **parts,
        }
        collection.add(ids=[chunk.id for chunk in chunks], **rows)
        return collection

    return make


def fill(folder: Path, encoder: Encoder, chunks: list[Chunk]) -> None:
    with closing(chromadb.PersistentClient(str(folder))) as client:
        texts = [chunk.text for chunk in chunks]
        collection = client.create_collection("theirs", embedding_function=None)
        collection.add(ids=[chunk.id for chunk in chunks], embeddings=encoder.documents(texts), documents=texts)


def stored(collection: chromadb.Collection) -> Any:
    found = collection.get(include=["documents", "metadatas", "embeddings"])
    return found["ids"], found["documents"], found["metadatas"], np.asarray(found["embeddings"]).tolist()


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_the_same_is_found_as_before_and_the_collection_is_not_written_to(
    make: Make, space: str, encoder: Encoder, asked: list[str], settings: Config, tmp_path: Path
) -> None:
    collection = make(space=space)
    before = stored(collection)
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        exact = Stored(collection)
        for query in asked[::20]:
            hits = kb.search(query, mode="vector")
            exact.check([hit.id for hit in hits], encoder.queries([query])[0].tolist(), 10)
            theirs = collection.get(ids=[hit.id for hit in hits])
            rows = zip(theirs["ids"], theirs["documents"], theirs["metadatas"], strict=True)
            shown = {id: (text, metadata) for id, text, metadata in rows}
            assert {hit.id: (hit.text, hit.metadata) for hit in hits} == shown
        assert kb.status().chunks == 150
    assert stored(collection) == before


def test_vectors_are_taken_over_and_only_a_sample_is_encoded(
    make: Make, chunks: list[Chunk], settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = make(chunks=chunks)
    encoded: list[str] = []
    original = Encoder.documents
    monkeypatch.setattr(Encoder, "documents", lambda self, texts: encoded.extend(texts) or original(self, texts))
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        assert kb.status().chunks == len(chunks)
    assert len(encoded) < len(chunks) / 2


def test_where_a_row_of_the_sample_was_altered_all_are_encoded_anew(
    make: Make, chunks: list[Chunk], settings: Config, tmp_path: Path
) -> None:
    collection = make()
    looked_at = np.random.default_rng(0).permutation(150)[0]
    id = collection.get(include=[])["ids"][looked_at]
    collection.update(ids=[id], documents=["altered"], embeddings=[[1.0] + [0.0] * 31])
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        hit = kb.search("altered", 1, mode="vector")[0]
    assert (hit.id, hit.text) == (id, "altered")
    assert hit.score > 0.9


def test_additions_changes_and_deletions_are_followed(make: Make, settings: Config, tmp_path: Path) -> None:
    collection = make()
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        assert kb.sync(collection).unchanged == 150
        collection.delete(ids=["t0-0", "t0-1"])
        collection.add(ids=["new"], embeddings=[[0.5] * 32], documents=["quite new"], metadatas=[{"a": [1, 2]}])
        collection.update(ids=["t0-2"], metadatas=[{"title": "another"}])
        done = kb.sync()
        assert (done.added, done.unchanged, done.removed) == (2, 147, 2)
        assert kb.search("quite new", 1)[0].metadata == {"a": [1, 2]}
        assert {hit.id for hit in kb.search("quite new", 300)}.isdisjoint({"t0-0", "t0-1"})
        assert kb.search("x", 1, {"title": "another"})[0].id == "t0-2"
        assert kb.history()[-1]["event"] == "sync"
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:  # once more: opened, and followed
        assert kb.status().chunks == 149


def test_what_was_learned_stays_when_the_collection_changes(
    make: Make, chunks: list[Chunk], asked: list[str], settings: Config, tmp_path: Path
) -> None:
    collection = make(chunks=chunks)
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        assert kb.adapt(asked).decision == "promote"
        collection.delete(ids=["t0-0"])
        collection.add(ids=["new"], embeddings=[[0.5] * 32], documents=[chunks[0].text])
        kb.sync()
        hit = kb.search(chunks[0].text, 1)[0]
        assert (hit.id, hit.version) == ("new", 1)


def test_own_chunks_live_beside_adopted_ones(make: Make, settings: Config, tmp_path: Path) -> None:
    collection = make()
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        kb.add([Chunk("own", "a text of our own")])
        kb.sync()
        assert kb.search("a text of our own", 1)[0].id == "own"
        for refused in (lambda: kb.add([Chunk("t0-0", "x")]), lambda: kb.delete(["own", "t0-0"])):
            with pytest.raises(InputError, match=r"'t0-0', belong to the collection 'theirs'.*then call sync\(\)"):
                refused()
        collection.add(ids=["own"], embeddings=[[0.5] * 32], documents=["theirs"])
        done = kb.sync()
        assert [(row.name, row.reason) for row in done.skipped] == [("own", "it was added here before")]
        assert kb.delete(["own"]) == 1
        kb.sync()
        assert kb.search("x", 1, None) and kb.status().chunks == 151


def test_rows_without_text_are_left_out_and_named(make: Make, settings: Config, tmp_path: Path) -> None:
    collection = make()
    collection.add(ids=["bare", "blank"], embeddings=[[0.5] * 32] * 2, documents=[None, "  "])  # type: ignore[list-item]
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        assert kb.status().chunks == 150
        assert [row["name"] for row in kb.history()[-1]["skipped"]] == ["bare", "blank"]
        told = len(kb.history())
        assert [row.name for row in kb.sync().skipped] == ["bare", "blank"]
        assert len(kb.history()) == told  # once is enough
        collection.delete(ids=["bare"])
        kb.sync()
        assert [row["name"] for row in kb.history()[-1]["skipped"]] == ["blank"]


def refused(collection: chromadb.Collection, config: Config, folder: Path) -> str:
    with pytest.raises((InputError, StoreError)) as caught:
        KnowledgeBase.adopt(folder / "kb", collection, config=config)
    assert not (folder / "kb").exists()
    return str(caught.value)


def test_another_model_is_told_by_the_cosine_that_was_found(make: Make, settings: Config, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(150, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    said = refused(make(vectors=vectors), settings, tmp_path)
    assert "does not reproduce the vectors of the collection 'theirs': their cosine is " in said
    assert "Name that model as the encoder" in said


def test_vectors_of_another_width_are_refused(make: Make, settings: Config, tmp_path: Path) -> None:
    said = refused(make(vectors=np.ones((150, 48))), settings, tmp_path)
    assert "have 48 dimensions, but" in said
    assert "built with another model" in said


@pytest.mark.parametrize("space", ["l2", "ip"])
def test_vectors_that_cosine_ranks_otherwise_are_refused(
    make: Make, space: str, encoder: Encoder, chunks: list[Chunk], settings: Config, tmp_path: Path
) -> None:
    vectors = encoder.documents([chunk.text for chunk in chunks[:150]]) * np.linspace(1, 2, 150)[:, None]
    said = refused(make(vectors=vectors, space=space), settings, tmp_path)
    assert f"ranks by {space}, and its vectors have lengths from 1." in said


def test_an_empty_collection_is_refused(client: chromadb.ClientAPI, settings: Config, tmp_path: Path) -> None:
    collection = client.create_collection("theirs", embedding_function=None)
    assert "The collection 'theirs' in " in (said := refused(collection, settings, tmp_path)) and " is empty" in said


def test_a_collection_without_texts_is_refused(make: Make, settings: Config, tmp_path: Path) -> None:
    said = refused(make(documents=None), settings, tmp_path)
    assert "holds no row with a text and a vector (checked 64 of 150 rows)" in said


def test_a_collection_that_was_emptied_deletes_nothing(make: Make, settings: Config, tmp_path: Path) -> None:
    collection = make()
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        collection.delete(ids=collection.get(include=[])["ids"])
        with pytest.raises(InputError, match=r"is empty now. Nothing was deleted here"):
            kb.sync()
        assert len(kb.search("x")) == 10


def test_a_collection_that_is_gone_deletes_nothing(
    make: Make, client: chromadb.ClientAPI, settings: Config, tmp_path: Path
) -> None:
    collection = make()
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        client.delete_collection("theirs")
        for given in (None, collection):
            with pytest.raises(StoreError, match="The collection 'theirs' is gone"):
                kb.sync(given)
        assert len(kb.search("x")) == 10
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        with pytest.raises(StoreError, match=r"has no collection 'theirs'. Collections there: none"):
            kb.sync()
        assert len(kb.search("x")) == 10


def test_a_collection_that_was_built_anew_is_followed_if_the_model_is_the_same(
    make: Make, client: chromadb.ClientAPI, chunks: list[Chunk], settings: Config, tmp_path: Path
) -> None:
    with KnowledgeBase.adopt(tmp_path / "kb", make(), config=settings) as kb:
        client.delete_collection("theirs")
        make(chunks=chunks[100:250])
        done = kb.sync()
        assert (done.added, done.unchanged, done.removed) == (100, 50, 100)
        client.delete_collection("theirs")
        make(vectors=np.random.default_rng(0).normal(size=(150, 32)))
        with pytest.raises(InputError, match=r"lengths|reproduce"):
            kb.sync()
        assert kb.status().chunks == 150


def test_another_collection_is_not_followed(make: Make, settings: Config, tmp_path: Path) -> None:
    first, other = make(), make("other")
    with (
        KnowledgeBase.adopt(tmp_path / "kb", other, config=settings) as kb,
        pytest.raises(StoreError, match=r"follows the collection 'other' in .*, not 'theirs' in "),
    ):
        kb.sync(first)


def test_a_collection_is_opened_by_place_and_name(
    make: Make, client: chromadb.ClientAPI, settings: Config, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    make()
    embedded = "embedded" in request.node.name
    place = str(tmp_path / "theirs") if embedded else request.getfixturevalue("server").url
    with KnowledgeBase.adopt(tmp_path / "kb", "theirs", chroma=place, config=settings) as kb:
        assert kb.followed is not None
        assert (kb.followed.place, kb.followed.collection) == (place, "theirs")
        assert kb.sync().unchanged == 150
    with pytest.raises(InputError, match="Where is the collection 'theirs'"):
        KnowledgeBase.adopt(tmp_path / "kb", "theirs")


def test_a_database_that_is_opened_by_its_folder_is_not_touched(
    tmp_path: Path, encoder: Encoder, chunks: list[Chunk], settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "theirs", encoder, chunks)
    before, copies = contents(tmp_path / "theirs"), tmp_path / "copies"
    copies.mkdir()
    made = copies.stat().st_mtime_ns
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    monkeypatch.chdir(tmp_path)
    with KnowledgeBase.adopt("kb", "theirs", chroma="theirs", config=settings) as kb:
        assert kb.status().chunks == len(chunks)
        assert kb.followed is not None
        assert kb.followed.place == str(tmp_path / "theirs")
        assert copies.stat().st_mtime_ns > made  # it was copied there
        monkeypatch.chdir("/")
        assert kb.sync().unchanged == len(chunks)
    assert contents(tmp_path / "theirs") == before
    assert list(copies.iterdir()) == []  # the copy is gone


WRITER = """
import sys, chromadb
collection = chromadb.PersistentClient(sys.argv[1]).get_collection("theirs", embedding_function=None)
found = collection.get(include=["documents", "embeddings"])
for round in range(40):
    ids = [f"{round}-{id}" for id in found["ids"]]
    collection.add(ids=ids, documents=found["documents"], embeddings=found["embeddings"])
"""


def test_a_database_that_another_program_writes_to_is_read_and_stays_whole(
    tmp_path: Path, encoder: Encoder, chunks: list[Chunk], settings: Config
) -> None:
    fill(tmp_path / "theirs", encoder, chunks[:100])
    with (
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "theirs")]) as writer,
        KnowledgeBase.adopt(tmp_path / "kb", "theirs", chroma=tmp_path / "theirs", config=settings) as kb,
    ):
        while writer.poll() is None:
            kb.sync()
        done = kb.sync()
        assert kb.status().chunks == 4100
        assert done.skipped == ()
    assert writer.returncode == 0
    with closing(chromadb.PersistentClient(str(tmp_path / "theirs"))) as client:
        found = client.get_collection("theirs", embedding_function=None).get(include=["embeddings"])
        assert np.asarray(found["embeddings"]).shape == (4100, 32)


@pytest.mark.parametrize("broken", ["", "no database" * 1000])
def test_a_database_that_is_none_is_told(tmp_path: Path, settings: Config, broken: str) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "chroma.sqlite3").write_text(broken)
    with pytest.raises(StoreError, match=r"Cannot copy the database in .*theirs to .*: (no such table|file is not)"):
        KnowledgeBase.adopt(tmp_path / "kb", "theirs", chroma=tmp_path / "theirs", config=settings)


def test_where_there_is_no_database_none_is_made(settings: Config, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no Chroma database"):
        KnowledgeBase.adopt(tmp_path / "kb", "theirs", chroma=tmp_path / "nothing", config=settings)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(StoreError, match=r"No Chroma server answers at http://127.0.0.1:1"):
        KnowledgeBase.adopt(tmp_path / "kb", "theirs", chroma="http://127.0.0.1:1", config=settings)


def test_a_closed_client_is_told(tmp_path: Path, encoder: Encoder, chunks: list[Chunk], settings: Config) -> None:
    client = chromadb.PersistentClient(str(tmp_path / "theirs"))
    collection = client.create_collection("theirs", embedding_function=None)
    client.close()
    with pytest.raises(StoreError, match=r"'theirs' cannot be read: .* Open its client again"):
        KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings)


def test_a_server_that_went_away_is_told_and_followed_again_when_it_is_back(
    tmp_path: Path, encoder: Encoder, chunks: list[Chunk], settings: Config
) -> None:
    server = ChromaServer(tmp_path / "theirs").start()
    try:
        client = server.client()
        collection = client.create_collection("theirs", embedding_function=None)
        texts = [chunk.text for chunk in chunks[:20]]
        collection.add(ids=[chunk.id for chunk in chunks[:20]], embeddings=encoder.documents(texts), documents=texts)
        with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
            server.stop()
            with pytest.raises(
                StoreError, match=rf"The server of the collection 'theirs', {server.url}, does not answer"
            ):
                kb.sync()
            assert len(kb.search("x")) == 10
        with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
            with pytest.raises(StoreError, match=f"No Chroma server answers at {server.url}"):
                kb.sync()
            server.start()
            assert kb.sync().unchanged == 20
        close(client)
    finally:
        server.stop()


def test_a_server_that_wants_a_token(
    server: ChromaServer, encoder: Encoder, chunks: list[Chunk], settings: Config, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gateway = Gateway(server, "s3cret")
    try:
        client = chromadb.HttpClient("127.0.0.1", gateway.server_port, headers={"Authorization": "Bearer s3cret"})
        collection = client.get_or_create_collection("guarded", embedding_function=None)
        texts = [chunk.text for chunk in chunks[:20]]
        collection.add(ids=[chunk.id for chunk in chunks[:20]], embeddings=encoder.documents(texts), documents=texts)
        with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
            assert kb.sync().unchanged == 20  # by the client that was passed
        assert not any(b"s3cret" in file.read_bytes() for file in (tmp_path / "kb").rglob("*") if file.is_file())
        with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
            with pytest.raises(StoreError, match="needs a token, set CHROMA_CLIENT_AUTH_PROVIDER"):
                kb.sync()
            provider = "chromadb.auth.token_authn.TokenAuthClientProvider"
            monkeypatch.setenv("CHROMA_CLIENT_AUTH_PROVIDER", provider)
            monkeypatch.setenv("CHROMA_CLIENT_AUTH_CREDENTIALS", "s3cret")
            assert kb.sync().unchanged == 20
        close(client)
    finally:
        gateway.shutdown()
        gateway.server_close()


def test_another_database_of_the_server(
    server: ChromaServer, encoder: Encoder, chunks: list[Chunk], settings: Config, tmp_path: Path
) -> None:
    admin = chromadb.AdminClient(
        chromadb.Settings(
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host="127.0.0.1",
            chroma_server_http_port=server.port,
        )
    )
    admin.create_database("another")
    client = chromadb.HttpClient("127.0.0.1", server.port, database="another")
    collection = client.create_collection("theirs", embedding_function=None)
    texts = [chunk.text for chunk in chunks[:20]]
    collection.add(ids=[chunk.id for chunk in chunks[:20]], embeddings=encoder.documents(texts), documents=texts)
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings):
        pass
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        assert kb.sync().unchanged == 20
    close(client)


def test_a_collection_in_memory_is_followed_as_long_as_it_is_passed(
    encoder: Encoder, chunks: list[Chunk], settings: Config, tmp_path: Path
) -> None:
    client = chromadb.EphemeralClient()
    collection = client.create_collection("in-memory", embedding_function=None)
    texts = [chunk.text for chunk in chunks[:20]]
    collection.add(ids=[chunk.id for chunk in chunks[:20]], embeddings=encoder.documents(texts), documents=texts)
    with closing(client):
        with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
            assert kb.sync().unchanged == 20
        with (
            KnowledgeBase(tmp_path / "kb", config=settings) as kb,
            pytest.raises(StoreError, match=r"follows a collection in a program's memory. Pass the collection"),
        ):
            kb.sync()


def test_a_vector_that_points_nowhere_is_made_anew(
    make: Make, encoder: Encoder, chunks: list[Chunk], settings: Config, tmp_path: Path
) -> None:
    vectors = encoder.documents([chunk.text for chunk in chunks[:150]])
    vectors[7] = 0.0
    with KnowledgeBase.adopt(tmp_path / "kb", make(vectors=vectors, space="cosine"), config=settings) as kb:
        assert kb.search(chunks[7].text, 1)[0].id == chunks[7].id


def test_a_collection_of_the_same_name_elsewhere_is_another(
    make: Make, encoder: Encoder, chunks: list[Chunk], settings: Config, tmp_path: Path
) -> None:
    fill(tmp_path / "elsewhere", encoder, chunks[:20])
    with KnowledgeBase.adopt(tmp_path / "kb", make(), config=settings) as kb:
        pass
    with pytest.raises(StoreError, match=r"follows the collection 'theirs' in .*, not 'theirs' in .*elsewhere"):
        KnowledgeBase.adopt(tmp_path / "kb", "theirs", chroma=tmp_path / "elsewhere", config=settings)
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        assert kb.status().chunks == 150


def test_a_database_that_was_moved_is_the_same(
    encoder: Encoder, chunks: list[Chunk], settings: Config, tmp_path: Path
) -> None:
    fill(tmp_path / "theirs", encoder, chunks[:20])
    with KnowledgeBase.adopt(tmp_path / "kb", "theirs", chroma=tmp_path / "theirs", config=settings):
        pass
    (tmp_path / "theirs").rename(tmp_path / "moved")
    with KnowledgeBase.adopt(tmp_path / "kb", "theirs", chroma=tmp_path / "moved", config=settings) as kb:
        assert kb.engine.adopted.last.unchanged == 20
        assert kb.sync().unchanged == 20


def test_files_of_the_same_source_leave_adopted_chunks_alone(make: Make, settings: Config, tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("# A title\n\nnotulu zonodo nozoba")
    collection = make(metadatas=[{"source": str(file)}] * 150)
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        done = kb.add_files([file])
        assert (done.added, done.removed) == (1, 0)
        assert kb.status().chunks == 151
        file.write_text("# A title\n\nveludo mezono")
        assert kb.add_files([file]).added == 1
        assert kb.sync().unchanged == 150


def test_an_adoption_that_broke_off_protects_what_it_has_taken(
    make: Make, settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Journal, ids: Any) -> int:
        raise KeyboardInterrupt

    collection = make()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Journal, "delete", broken)  # the last thing that is done to the journal
        KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings)
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        with pytest.raises(InputError, match="belong to the collection 'theirs'"):
            kb.add([Chunk("t0-0", "words of our own")])
        assert kb.sync(collection).unchanged == 150
        assert kb.status().chunks == 150


def test_a_collection_whose_embedding_function_is_not_here(
    client: chromadb.ClientAPI, encoder: Encoder, chunks: list[Chunk], settings: Config, tmp_path: Path
) -> None:
    @register_embedding_function
    class Mine(chromadb.EmbeddingFunction[Any]):
        def __init__(self) -> None:
            pass

        def __call__(self, input: Any) -> Any:
            return list(encoder.documents(input))

        @staticmethod
        def name() -> str:
            return "mine"

        def get_config(self) -> dict[str, Any]:
            return {}

        @staticmethod
        def build_from_config(config: dict[str, Any]) -> Any:
            return Mine()

    collection = client.create_collection("theirs", embedding_function=Mine())
    collection.add(ids=[chunk.id for chunk in chunks[:20]], documents=[chunk.text for chunk in chunks[:20]])
    del known_embedding_functions["mine"]
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        assert kb.status().chunks == 20


def test_line_breaks_that_were_embedded_as_spaces(client: chromadb.ClientAPI, tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    rules = json.loads((model / "tokenizer.json").read_text())
    breaks = {"type": "Replace", "pattern": {"String": "\n"}, "content": " notulu "}  # line breaks are words to it
    rules["normalizer"] = {"type": "Sequence", "normalizers": [breaks, rules["normalizer"]]}
    (model / "tokenizer.json").write_text(json.dumps(rules))
    config = load(None, encoder={"model": str(model)})
    texts = [f"{text}\nveludo\nmezono" for _, _, text in documents()[:20]]
    vectors = Encoder(config.encoder).documents([text.replace("\n", " ") for text in texts])
    collection = client.create_collection("theirs", embedding_function=None)
    collection.add(ids=[str(row) for row in range(20)], embeddings=vectors, documents=texts)
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=config) as kb:
        hit = kb.search(texts[7].replace("\n", " "), 1, mode="vector")[0]
        assert (hit.id, hit.text) == ("7", texts[7])
        assert hit.score == pytest.approx(1, abs=1e-4)
        assert kb.sync().unchanged == 20
        assert kb.followed is not None
        assert kb.followed.flattened


def test_a_database_that_does_not_tell_all_ids_deletes_nothing(
    make: Make, settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = make()
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        original = chromadb.Collection.get
        monkeypatch.setattr(chromadb.Collection, "get", lambda self, **given: original(self, **{"limit": 100, **given}))
        with pytest.raises(StoreError, match="has 150 rows, but returned the ids of 100 only"):
            kb.sync(collection)
        monkeypatch.undo()
        assert kb.status().chunks == 150


def test_prompts_of_the_encoder_are_kept_with_the_knowledge_base(tiny_model: Path, tmp_path: Path) -> None:
    config = load(None, encoder={"model": str(tiny_model), "prompts": {"query": "find "}})
    with KnowledgeBase(tmp_path / "kb", config=config) as kb:
        kb.add([Chunk("a", "one two three")])
        score = kb.search("one", mode="vector")[0].score
    with KnowledgeBase(tmp_path / "kb", config=load(None)) as kb:
        assert kb.search("one", mode="vector")[0].score == pytest.approx(score, abs=1e-6)
    with KnowledgeBase(tmp_path / "other", config=load(None, encoder={"model": str(tiny_model)})) as kb:
        kb.add([Chunk("a", "one two three")])
        assert kb.search("one", mode="vector")[0].score != pytest.approx(score, abs=1e-4)


def test_a_collection_is_served_as_it_is_while_another_process_writes(
    make: Make,
    encoder: Encoder,
    settings: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spawn: Callable[..., Child],
) -> None:
    collection = make()
    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings):
        pass
    collection.delete(ids=["t0-0"])
    writer = spawn("write", kb=tmp_path / "kb", documents={"own": "notulu zonodo"})
    while not writer.lines():
        time.sleep(0.05)
    with caplog.at_level(logging.WARNING, "ragself"):
        kb = KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings)
    assert f"is served without the latest changes of the collection: {tmp_path / 'kb'} is being" in caplog.text
    with kb:
        assert kb.status().chunks == 151
        with pytest.raises(StoreLocked):
            kb.sync()
        writer.go("leave")
        writer.result()
        assert kb.sync().removed == 1


def test_a_pass_of_this_program_does_not_hold_up_who_adopts_again(
    make: Make, settings: Config, asked: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collection, hold, held = make(), threading.Event(), threading.Event()

    def told(stage: str, done: int, total: int) -> None:
        held.set()
        hold.wait(60)

    with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
        passing = threading.Thread(target=kb.adapt, args=(asked, told))
        passing.start()
        try:
            assert held.wait(60)
            collection.delete(ids=["t0-0"])
            with caplog.at_level(logging.WARNING, "ragself"):
                again = KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings)
            assert not caplog.text
            assert again.engine.adopted.last.removed == 1  # what is new is taken over meanwhile
            assert passing.is_alive()
            assert len(again.search("x")) == 10
        finally:  # also where an assertion fails: closing waits for the pass
            hold.set()
        passing.join(60)
        assert again.sync().unchanged == 149
        again.close()

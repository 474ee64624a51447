"""Documents in, hits out: one real knowledge base on disk, with real Chroma and a real, tiny model."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import chromadb
import pytest

from ragself import Added, Chunk, Config, Embedding, KnowledgeBase
from ragself.config import load
from ragself.errors import EncoderError, InputError, StoreError
from ragself.schema import Hit
from ragself.versions.lock import ProcessLock
from tests.integration.helpers import assert_right, contents, exact, mrr

A = Chunk("a", "notulu zonodo nozoba sonono", {"source": "one.md", "title": "notulu", "year": 2019, "open": True})
B = Chunk("b", "veludo mezono banono lurino", {"source": "one.md", "year": 2021, "score": 0.5})
C = Chunk("c", "rimeki vebaki pabado vekino", {"source": "two.md", "year": 2023, "open": False})


def metadata_in_chroma(kb: KnowledgeBase, id: str) -> dict[str, object]:

    collection: chromadb.Collection = kb.engine.store.snapshot(0).index._collection
    return dict(collection.get(ids=[id])["metadatas"][0] or {})


def rows(folder: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{folder / 'corpus.db'}?mode=ro", uri=True) as db:
        return db.execute("SELECT seq, id, text, metadata FROM chunks ORDER BY seq").fetchall()


def test_made_once_and_opened_again(tmp_path: Path, settings: Config) -> None:
    with KnowledgeBase(tmp_path / "deep" / "kb", config=settings) as kb:
        assert kb.search("anything") == []
        assert kb.add([A, B, C]) == Added(added=3)
        before = kb.search("notulu nozoba", 3)
    with KnowledgeBase(tmp_path / "deep" / "kb", config=settings) as kb:
        assert kb.search("notulu nozoba", 3) == before
        assert kb.status().chunks == 3
        assert kb.status().documents == 2
        assert [event["event"] for event in kb.history()] == ["create"]


def test_opening_needs_no_settings_after_it_was_made(tmp_path: Path, settings: Config) -> None:
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add([A, B])
    with KnowledgeBase(tmp_path / "kb") as kb:  # the encoder belongs to the knowledge base
        assert {hit.id for hit in kb.search("notulu")} == {"a", "b"}


def test_not_made_when_told_not_to(tmp_path: Path, settings: Config) -> None:
    with pytest.raises(StoreError, match=r"holds no knowledge base.*ragself add --kb"):
        KnowledgeBase(tmp_path / "kb", create=False, config=settings)
    assert not (tmp_path / "kb").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path, settings: Config) -> None:
    (tmp_path / "kb").write_text("not a folder")
    with pytest.raises(StoreError, match=r"Cannot use .*kb as a knowledge base"):
        KnowledgeBase(tmp_path / "kb", config=settings)


def test_a_failed_beginning_is_no_obstacle(tmp_path: Path, settings: Config) -> None:
    with pytest.raises(EncoderError) as caught:
        KnowledgeBase(tmp_path / "kb", config=load(None, encoder={"model": str(tmp_path / "nowhere")}))
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        assert kb.add([A]).added == 1
    assert "nowhere" in str(caught.value)


def test_a_hit_has_all_that_was_stored(kb: KnowledgeBase) -> None:
    kb.add([A, B, C])
    hit = kb.search("notulu zonodo nozoba sonono", 1, mode="vector")[0]
    assert hit == Hit("a", A.text, dict(A.metadata), pytest.approx(1.0, abs=1e-4), 0, {"vector": hit.score})


def test_hits_agree_with_exact_search(filled: Path, settings: Config, chunks: list[Chunk]) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        scores = exact(kb)
        for chunk in chunks[::24]:
            assert_right(kb.search(str(chunk.title), 10, mode="vector"), scores(str(chunk.title)), 10)
            assert kb.search(chunk.text, 1)[0].id == chunk.id
        assert 0.05 < mrr(kb, chunks[::8]) < 0.6  # the base model: there is something to learn


def test_adding_again_changes_nothing(kb: KnowledgeBase) -> None:
    kb.add([A, B, C])
    before = rows(kb.path)
    assert kb.add([C, A]) == Added(unchanged=2)
    assert kb.add(iter([A, Chunk("d", "new")])) == Added(added=1, unchanged=1)
    assert rows(kb.path)[:3] == before
    assert kb.add([]) == Added()


def test_a_changed_chunk_is_replaced_with_its_metadata(kb: KnowledgeBase) -> None:
    kb.add([A, B, C])
    assert kb.add([Chunk("a", "vebaki rimeki", {"source": "one.md", "open": 1})]) == Added(added=1)
    hit = next(hit for hit in kb.search("vebaki rimeki", mode="vector") if hit.id == "a")
    assert hit.text == "vebaki rimeki"
    assert hit.score == pytest.approx(1.0, abs=1e-4)
    assert hit.metadata == {"source": "one.md", "open": 1}
    assert metadata_in_chroma(kb, "a") == {"source": "one.md", "open": 1}  # upsert alone would have kept year
    assert kb.search("vebaki", where={"year": 2019}) == []
    assert len(kb.search("vebaki")) == 3
    assert kb.add([Chunk("a", "vebaki rimeki")]) == Added(added=1)  # metadata alone is a change too
    assert metadata_in_chroma(kb, "a") == {}


def test_deleted_chunks_are_gone(kb: KnowledgeBase, settings: Config) -> None:
    kb.add([A, B, C])
    assert kb.delete(["a", "nobody", "a", "c"]) == 2
    assert [hit.id for hit in kb.search("notulu")] == ["b"]
    assert kb.delete(["a"]) == 0
    assert kb.delete([]) == 0
    assert kb.add([A]) == Added(added=1)
    assert {hit.id for hit in kb.search("notulu")} == {"a", "b"}
    assert kb.delete(["a", "b"]) == 2
    assert kb.search("notulu") == []


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({"source": "one.md"}, {"a", "b"}),
        ({"year": {"$gte": 2021}}, {"b", "c"}),
        ({"open": True}, {"a"}),
        ({"score": {"$lt": 0.6}}, {"b"}),
        ({"$and": [{"source": "one.md"}, {"year": {"$ne": 2019}}]}, {"b"}),
        ({"$or": [{"year": 2019}, {"year": 2023}]}, {"a", "c"}),
        ({"source": {"$in": ["two.md", "three.md"]}}, {"c"}),
        ({"source": "nowhere"}, set()),
        ({}, {"a", "b", "c"}),
    ],
)
def test_filters(kb: KnowledgeBase, where: dict[str, object], found: set[str]) -> None:
    kb.add([A, B, C])
    assert {hit.id for hit in kb.search("notulu", where=where)} == found


@pytest.mark.parametrize(
    "where", [{"year": {"$almost": 3}}, {"year": None}, {"a": 1, "b": 2}, {"year": {"$in": []}}, {"year": [1]}, {1: 2}]
)
def test_a_filter_that_chroma_refuses_is_the_users_error(kb: KnowledgeBase, where: dict[str, object]) -> None:
    kb.add([A])
    with pytest.raises(InputError, match=r"Chroma refuses the filter .*Expected for example"):
        kb.search("notulu", where=where)
    assert len(kb.search("notulu")) == 1


@pytest.mark.parametrize("k", [3, 4, 100_000])
def test_k_above_the_corpus_gives_all(kb: KnowledgeBase, k: int) -> None:
    kb.add([A, B, C])
    assert {hit.id for hit in kb.search("notulu", k)} == {"a", "b", "c"}


@pytest.mark.parametrize(("query", "k"), [("", 3), (" \n\t", 3), ("notulu", 0), ("notulu", -1)])
def test_a_query_that_asks_nothing(kb: KnowledgeBase, query: str, k: int) -> None:
    kb.add([A])
    with pytest.raises(
        InputError, match="query is empty" if not query.strip() else "expected a whole number, 1 or more"
    ):
        kb.search(query, k)


def test_an_empty_knowledge_base(kb: KnowledgeBase) -> None:
    assert kb.search("anything", 5, {"source": "x"}) == []
    assert kb.status().chunks == kb.status().documents == 0
    assert kb.gc() == []
    assert "at least 100" in kb.adapt(["a question"]).reason
    with pytest.raises(InputError, match="nothing before it"):
        kb.rollback()


@pytest.mark.parametrize(
    "text",
    ["naïve Größe", "数据库 检索", "مرحبا بالعالم", "👩‍👩‍👧 family", "e\u0301 combining", "a\u0000b", "tab\tand\nline"],
)
def test_unicode_comes_back_as_it_went_in(kb: KnowledgeBase, text: str) -> None:
    chunk = Chunk(f"id {text}", text, {"source": text, f"key {text}": text})
    kb.add([chunk, A])
    hit = kb.search(text, 1, {"source": text})[0]
    assert (hit.id, hit.text, hit.metadata) == (chunk.id, chunk.text, chunk.metadata)
    assert kb.add([chunk]) == Added(unchanged=1)
    assert kb.delete([chunk.id]) == 1


def test_a_text_longer_than_the_model_reads_is_named(kb: KnowledgeBase) -> None:
    long = Chunk("long", "notulu " * 100)
    assert kb.add([A, long]).truncated == ("long",)
    assert kb.add([A, long]).truncated == ()  # told once, when it is added
    assert next(hit for hit in kb.search("notulu") if hit.id == "long").text == long.text


REFUSED = {
    "duplicate ids": ([Chunk("x", "one"), Chunk("x", "two")], "'x' occurs 2 times"),
    "empty text": ([Chunk("x", " \n")], "the text is empty"),
    "empty id": ([Chunk("", "text")], "non-empty string"),
    "none in metadata": ([Chunk("x", "text", {"k": None})], "is a NoneType"),  # type: ignore[dict-item]
    "mixed list in metadata": ([Chunk("x", "text", {"k": ["v", 1]})], "is the list"),
    "key of chroma's": ([Chunk("x", "text", {"chroma:document": "v"})], "does not begin with 'chroma:'"),
    "empty key": ([Chunk("x", "text", {"": "v"})], "non-empty string"),
    "too large": ([Chunk("x", "text", {"k": 2**63})], "64 bits"),
    "surrogate in text": ([Chunk("x", "\ud800")], "surrogates"),
    "surrogate in metadata": ([Chunk("x", "text", {"k": "\ud800"})], "surrogates"),
    "surrogate in key": ([Chunk("x", "text", {"k\ud800": "v"})], "surrogates"),
    "key that chroma refuses": ([Chunk("x", "text", {"$and": "v"})], "metadata key"),
    "another such key": ([Chunk("x", "text", {"#document": "v"})], "metadata key"),
    "not a number": ([Chunk("x", "text", {"k": float("nan")})], "metadata 'k'"),
    "infinity": ([Chunk("x", "text", {"k": float("inf")})], "metadata 'k'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_chunks_are_refused_whole(kb: KnowledgeBase, case: str) -> None:
    kb.add([A, B])
    before = rows(kb.path), kb.search("notulu", 10)
    bad, said = REFUSED[case]
    with pytest.raises(InputError, match=r"nothing was written") as caught:
        kb.add([C, *bad])
    assert said in str(caught.value)
    assert (rows(kb.path), kb.search("notulu", 10)) == before
    assert kb.add([C]) == Added(added=1)  # and it is not in the way of what comes next


def test_a_query_that_is_no_unicode(kb: KnowledgeBase) -> None:
    kb.add([A])
    with pytest.raises(InputError, match="surrogates"):
        kb.search("\ud800 word")


def test_a_closed_knowledge_base_says_so(kb: KnowledgeBase) -> None:
    kb.add([A])
    kb.close()
    kb.close()
    for use in (lambda: kb.search("notulu"), lambda: kb.add([B]), lambda: kb.delete(["a"])):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_what_embed_made_is_used_while_its_version_is_live(promoted: Path, settings: Config, asked: list[str]) -> None:
    with KnowledgeBase(promoted, config=settings) as kb:
        expected, of_one = kb.search(asked[0], mode="vector"), kb.embed(asked[0])
        assert kb.search("something else", embedding=of_one, mode="vector") == expected
        kb.rollback(0)
        at_zero = kb.search("something else", mode="vector")
        assert kb.search("something else", embedding=of_one, mode="vector") == at_zero
        narrow = Embedding(of_one.vector[:-1], kb.base.fingerprint)
        assert kb.search("something else", embedding=narrow, mode="vector") == at_zero


def test_several_queries_are_one_in_the_middle(kb: KnowledgeBase) -> None:
    kb.add([A, B, C])
    both = kb.search([A.text, B.text], 3, mode="vector")
    assert {hit.id for hit in both[:2]} == {"a", "b"}
    assert both[0].score == pytest.approx(both[1].score, abs=1e-5)
    assert both[1].score > both[2].score
    assert kb.search([A.text] * 2, mode="vector")[0].score == pytest.approx(1, abs=1e-5)
    for nothing in ([], ["one", " "]):
        with pytest.raises(InputError, match="The query is empty"):
            kb.search(nothing)
        with pytest.raises(InputError, match="The query is empty"):
            kb.embed(nothing)


def test_lists_and_what_is_shown_come_back(kb: KnowledgeBase) -> None:
    kb.add([Chunk("a", "title: T words", {"tags": ["x", "y"], "n": [1, 2]}, "words"), Chunk("b", "title: T words")])
    hit = kb.search("title: T words", 1, {"tags": {"$contains": "x"}}, mode="vector")[0]
    assert (hit.id, hit.text, hit.metadata) == ("a", "words", {"tags": ["x", "y"], "n": [1, 2]})
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert kb.ids({"n": {"$contains": 2}}) == ["a"]
    with pytest.raises(InputError, match="Chroma refuses the filter"):
        kb.ids({"n": {"$nonsense": 2}})


def test_the_database_of_another_program_is_left_alone(tmp_path: Path, settings: Config) -> None:
    with closing(chromadb.PersistentClient(str(tmp_path / "chroma"))) as client:
        client.create_collection("theirs", embedding_function=None)
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=r"is a Chroma database that ragself has not made\. Choose another folder"):
        KnowledgeBase(tmp_path / "chroma", config=settings)
    assert contents(tmp_path) == before
    with KnowledgeBase(tmp_path, config=settings) as kb:  # beside it
        kb.add([A])
        assert [hit.id for hit in kb.search(A.text)] == ["a"]
    assert {name: contents(tmp_path)[name] for name in before} == before


def test_ids_that_are_no_list_delete_nothing(kb: KnowledgeBase) -> None:
    kb.add([A, B, C])
    for ids in ("ab", ["a", 1]):
        with pytest.raises(InputError, match=r"expected a list of strings\. Nothing was deleted"):
            kb.delete(ids)  # type: ignore[arg-type]
    assert kb.status().chunks == 3


def test_what_is_no_query_filter_or_list_of_queries(kb: KnowledgeBase) -> None:
    kb.add([A])
    wrong: dict[str, Callable[[], object]] = {
        "The query is a NoneType": lambda: kb.search(None),  # type: ignore[arg-type]
        "The query is empty": lambda: kb.search([1]),  # type: ignore[list-item]
        "k is '5', expected a whole number": lambda: kb.search("x", "5"),  # type: ignore[arg-type]
        "The filter is 'a=1', expected a dict": lambda: kb.search("x", where="a=1"),  # type: ignore[arg-type]
        "The queries are one string, 'asked.txt'": lambda: kb.adapt("asked.txt"),
        "Among the queries is None": lambda: kb.adapt([None]),  # type: ignore[list-item]
        r"Among the queries is 3 \(int\)": lambda: kb.forecast([3]),  # type: ignore[list-item]
    }
    for said, call in wrong.items():
        with pytest.raises(InputError, match=said):
            call()


def test_a_program_may_open_it_twice(tmp_path: Path, settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with KnowledgeBase("kb", config=settings) as one:
        one.add([A])
        with KnowledgeBase(tmp_path / "kb", config=settings) as other:
            assert [hit.id for hit in other.search(A.text)] == ["a"]
            other.add([B])
            one.add([C])
            for kb in (one, other):
                assert {hit.id for hit in kb.search(A.text)} == {"a", "b", "c"}
        assert f"process {os.getpid()} " in str(one.status().writer)
        assert one.delete(["a"]) == 1
        assert {hit.id for hit in one.search(A.text)} == {"b", "c"}
    assert ProcessLock(tmp_path / "kb").holder() is None


def test_a_path_below_the_home_folder(tmp_path: Path, settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with KnowledgeBase("~/kb", config=settings) as kb:
        assert kb.path == tmp_path / "kb"


def test_memory_goes_back_after_each_change(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    for change in (lambda: kb.add([Chunk("more", "text")]), lambda: kb.delete(["more"]), kb.gc):
        with monkeypatch.context() as patched:
            for module in ("knowledge_base", "engine.live"):
                patched.setattr(f"ragself.{module}.release_memory", lambda: given.append("back"))
            change()
    assert given == ["back"] * 3

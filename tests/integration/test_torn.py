"""A writer that dies while Chroma writes: what is left of its files is never read, and is replaced."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ragself import Chunk, Config, KnowledgeBase
from ragself.errors import StoreError
from ragself.index.collection import ChromaCollection
from tests.integration.conftest import Child
from tests.integration.helpers import another, assert_right, exact

Spawn = Callable[..., Child]


def until(child: Child, line: str) -> None:
    end = time.monotonic() + 60
    while line not in child.lines():
        assert child.process.is_alive() and time.monotonic() < end, child.said()
        time.sleep(0.01)


def tear(kb: Path, version: str) -> None:
    """Cut the files of a graph short, as a kill does that comes while they are written."""
    graphs = (kb / "versions" / version / "chroma").glob("*/data_level0.bin")
    graphs = [path for path in graphs if path.stat().st_size > 0]
    assert graphs
    for path in graphs:
        for file in (path, path.with_name("link_lists.bin")):
            whole = file.read_bytes()
            file.write_bytes(whole[: len(whole) // 3])


def right(kb: KnowledgeBase, chunks: list[Chunk]) -> None:
    scores = exact(kb)
    for chunk in chunks[::29]:
        assert_right(kb.search(chunk.text, 10, mode="vector"), scores(chunk.text), 10)


@pytest.fixture
def many(chunks: list[Chunk]) -> dict[str, str]:
    """So many documents that Chroma writes its graph to disk."""
    return {f"more-{row}": another(chunks, row % (len(chunks) // 2)) + f" {row}" for row in range(1000)}


def test_a_torn_live_index_is_waited_for_while_its_writer_lives_and_replaced_when_it_died(
    filled: Path, settings: Config, chunks: list[Chunk], many: dict[str, str], spawn: Spawn
) -> None:
    writer = spawn("halt", kb=filled, documents=many, asked="")
    until(writer, "half")
    reader = spawn("read", kb=filled, query=chunks[0].text)
    time.sleep(3)
    assert reader.process.is_alive() and not reader.lines()  # half an index is no index
    writer.kill()
    tear(filled, "0000")
    end = time.monotonic() + 60
    while not reader.lines():
        assert reader.process.is_alive() and time.monotonic() < end, reader.said()
        time.sleep(0.05)
    with KnowledgeBase(filled, create=False, config=settings) as kb:
        assert kb.add([Chunk("later", "one more")]).added == 1  # who mended does not keep the lock
    reader.go("leave")
    reader.join()
    assert "Waiting to open the index" in reader.said() and "version 0 was interrupted" in reader.said()
    with KnowledgeBase(filled, create=False, config=settings) as kb:
        assert {chunk.id for chunk in kb.engine.store.journal.chunks()} == {chunk.id for chunk in chunks} | set(
            many
        ) | {"later"}
        right(kb, chunks)
        assert not kb.engine.store.journal.unsettled()


def test_a_torn_build_begins_anew(
    filled: Path,
    settings: Config,
    chunks: list[Chunk],
    asked: list[str],
    many: dict[str, str],
    tmp_path: Path,
    spawn: Spawn,
) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        kb.add([Chunk(id, text) for id, text in many.items()])
    file = tmp_path / "asked.json"
    file.write_text(json.dumps(asked))
    writer = spawn("halt", kb=filled, documents={}, asked=file)
    until(writer, "half")
    writer.kill()
    tear(filled, "0001")
    with KnowledgeBase(filled, config=settings) as kb:
        right(kb, chunks)
        report = kb.adapt(asked)
        assert (report.decision, report.version) == ("promote", 1)
        right(kb, chunks)


def test_what_is_open_goes_on_answering_while_another_process_writes(
    filled: Path, settings: Config, chunks: list[Chunk], spawn: Spawn
) -> None:
    text = another(chunks, 3)
    with KnowledgeBase(filled, create=False, config=settings) as kb:
        kb.search(text, 3, mode="vector")
        writer = spawn("halt", kb=filled, documents={"new": text}, asked="")
        until(writer, "half")
        for _ in range(30):
            began = time.monotonic()
            hits = kb.search(text, 3, mode="vector")
            assert time.monotonic() - began < 10
            assert len(hits) == 3
            assert "new" not in {hit.id for hit in hits}  # it was not opened anew amid the writing
            time.sleep(0.1)
        writer.go("on")
        until(writer, "done")
        end = time.monotonic() + 10
        while kb.search(text, 1, mode="vector")[0].id != "new":
            assert time.monotonic() < end
            time.sleep(0.05)
        writer.go("leave")
        writer.join()


def test_a_write_that_failed_is_mended_by_the_next_and_searches_meanwhile_wait(
    filled: Path,
    settings: Config,
    chunks: list[Chunk],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "ragself")
    text = another(chunks, 5)
    with KnowledgeBase(filled, config=settings) as kb:
        kb.search(text, 3, mode="vector")
        upsert = ChromaCollection.upsert

        def failing(self: ChromaCollection, chunks: list[Chunk], vectors: np.ndarray) -> None:
            upsert(self, chunks, vectors)
            raise StoreError("Chroma cannot write")

        monkeypatch.setattr(ChromaCollection, "upsert", failing)
        with pytest.raises(StoreError):
            kb.add([Chunk("new", text)])
        assert len(kb.search(text, 3, mode="vector")) == 3

        def slow(self: ChromaCollection, chunks: list[Chunk], vectors: np.ndarray) -> None:
            asking.start()
            time.sleep(0.5)
            assert asking.is_alive()
            monkeypatch.setattr(ChromaCollection, "upsert", upsert)
            upsert(self, chunks, vectors)

        found: list[str] = []
        asking = threading.Thread(target=lambda: found.extend(hit.id for hit in kb.search(text, 1, mode="vector")))
        monkeypatch.setattr(ChromaCollection, "upsert", slow)
        assert kb.add([Chunk("new", text)]).unchanged == 1  # it was acknowledged by the journal before
        asking.join(30)
        assert found == ["new"]
        right(kb, chunks)
    assert [line for line in caplog.messages if "was interrupted" in line] == [
        "Writing to the index of version 0 was interrupted; rebuilding it from the documents"
    ]


def test_what_a_callback_adds_amid_a_build_leaves_the_build_alone(
    filled: Path, settings: Config, chunks: list[Chunk], asked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = another(chunks, 7)
    with KnowledgeBase(filled, config=settings) as kb:

        def told(stage: str, done: int, total: int) -> None:
            if stage == "re-embed" and kb.add([Chunk("new", text)]).added:
                assert kb.search(text, 1, mode="vector")[0].id == "new"

        assert kb.adapt(asked, told).decision == "promote"
        assert kb.search(text, 1, mode="vector")[0].id == "new"
        right(kb, chunks)
    assert not [line for line in caplog.messages if "was interrupted" in line]


def test_who_stops_between_two_writes_leaves_nothing_to_mend(
    filled: Path, settings: Config, chunks: list[Chunk], caplog: pytest.LogCaptureFixture
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "index" and done == 1000:
            raise KeyboardInterrupt

    new = [Chunk(f"new-{number}", another(chunks, number % 150)) for number in range(1500)]
    with KnowledgeBase(filled, config=settings) as kb:
        with pytest.raises(KeyboardInterrupt):
            kb.add(new, stop)
        with caplog.at_level(logging.WARNING, "ragself"):
            assert kb.delete(["t0-0"]) == 1
        assert "was interrupted" not in caplog.text
        assert len(kb.engine.store.snapshot(0).index) == len(chunks) + 1500 - 1
        right(kb, chunks[1:])


def test_a_mending_that_broke_off_is_begun_again(
    filled: Path, settings: Config, chunks: list[Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the end of what was torn and the beginning of what replaces it there is nothing at all."""
    from ragself.engine.version_store import VersionStore

    with KnowledgeBase(filled, create=False, config=settings) as kb:
        collection = kb.status().live.collection
        store = kb.engine.store

        def dies(*_: object) -> None:
            raise StoreError("the server was killed")

        with monkeypatch.context() as patch:
            patch.setattr(VersionStore, "_made", dies)
            with pytest.raises(StoreError, match="killed"):
                store.rebuild(store.registry.version(0))
        assert not store.built(store.registry.version(0))
        assert collection in kb.engine.store.journal.unsettled()
    with KnowledgeBase(filled, create=False, config=settings) as kb:
        right(kb, chunks)
        assert not kb.engine.store.journal.unsettled()


def test_a_version_whose_index_is_lost_is_built_when_it_is_rolled_back_to(
    promoted: Path, settings: Config, chunks: list[Chunk]
) -> None:
    import shutil

    shutil.rmtree(promoted / "versions" / "0000" / "chroma")
    with KnowledgeBase(promoted, create=False, config=settings) as kb:
        assert kb.rollback().number == 0
        right(kb, chunks)

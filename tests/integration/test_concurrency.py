"""Threads that search while versions switch, and processes beside each other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ragself import Chunk, Config, Hit, KnowledgeBase
from ragself.errors import StoreLocked
from tests.integration.conftest import Child
from tests.integration.helpers import another, assert_right, exact

SOON = 4.0  # seconds; a reader looks once a second, and the machine may be busy


class Searchers:
    """Threads that search one knowledge base again and again until they are stopped."""

    def __init__(self, kb: KnowledgeBase, queries: list[str], count: int) -> None:
        self.seen: list[tuple[str, list[Hit]]] = []
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(kb, queries[n::count])) for n in range(count)]

    def __enter__(self) -> Searchers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a search hangs"

    def _run(self, kb: KnowledgeBase, queries: list[str]) -> None:
        try:
            while not self._stop.is_set():
                for query in queries:
                    self.seen.append((query, kb.search(query, 5, mode="vector")))
        except BaseException as error:
            self.errors.append(error)


def test_threads_search_while_versions_switch(
    filled: Path, settings: Config, asked: list[str], chunks: list[Chunk]
) -> None:
    queries = [str(chunk.title) for chunk in chunks[::12]]
    with KnowledgeBase(filled, config=settings) as kb:
        kb.search("warm")
        with Searchers(kb, queries, 8) as searchers:
            assert kb.adapt(asked).decision == "promote"
            for target in (0, 1, 0, 1):
                time.sleep(0.1)
                assert kb.rollback(target).number == target
                assert {hit.version for hit in kb.search(queries[0])} == {target}  # at once, for who switched
            time.sleep(0.1)
        assert searchers.errors == []
        scores = {number: exact(kb, number) for number in (0, 1)}
        truth = {(number, query): scores[number](query) for number in (0, 1) for query in queries}
    assert {hits[0].version for _, hits in searchers.seen} == {0, 1}
    for query, hits in searchers.seen:
        assert len({hit.version for hit in hits}) == 1
        assert_right(hits, truth[hits[0].version, query], 5)


def test_threads_search_while_documents_come_and_go(filled: Path, settings: Config, chunks: list[Chunk]) -> None:
    queries = [str(chunk.title) for chunk in chunks[::12]]
    texts = [another(chunks, number) for number in range(12)]
    kb = KnowledgeBase(filled, config=settings)
    with kb, Searchers(kb, queries, 8) as searchers:
        while len(searchers.seen) < 16:
            time.sleep(0.01)
        began = time.monotonic()
        kb.add([Chunk("first", another(chunks, 50))])  # takes the writer's lock: Chroma is opened anew meanwhile
        assert time.monotonic() - began < 10, "searches keep the writer waiting"
        for number, text in enumerate(texts):
            kb.add([Chunk(f"new {number}", text)])
            assert kb.search(text, 1)[0].id == f"new {number}"
        assert kb.delete([f"new {number}" for number in range(12)]) == 12
        assert kb.gc() == []
        assert not any(hit.id.startswith("new") for text in texts for hit in kb.search(text, 5))
    assert searchers.errors == []
    assert all(len(hits) == 5 for _, hits in searchers.seen)


def test_threads_that_write_take_turns(kb: KnowledgeBase, chunks: list[Chunk]) -> None:
    threads = [threading.Thread(target=kb.add, args=(chunks[n * 20 : n * 20 + 20],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert kb.status().chunks == 80
    assert {hit.id for hit in kb.search("warm", 1000)} == {chunk.id for chunk in chunks[:80]}


def test_a_second_writer_is_refused_and_reading_goes_on(
    filled: Path, settings: Config, chunks: list[Chunk], spawn: Callable[..., Child]
) -> None:
    writer = spawn("write", kb=filled, documents={"theirs": another(chunks, 3)})
    wait_for(lambda: writer.lines(), writer)
    with KnowledgeBase(filled, config=settings) as kb:
        for write in (lambda: kb.add([Chunk("mine", "one")]), lambda: kb.delete(["theirs"])):
            with pytest.raises(StoreLocked, match=rf"process {writer.process.pid} .*Searching is possible"):
                write()
        assert kb.search(another(chunks, 3), 1)[0].id == "theirs"
        assert f"process {writer.process.pid}" in str(kb.status().writer)
        assert kb.gc() == []
        assert kb.adapt().documents == 385  # what changes no document is possible
        line = spawn("cli", argv=["add", "--kb", str(filled), __file__])
        assert line.join() == 4
        assert f"process {writer.process.pid}" in " ".join(line.said().split())
        writer.go("leave")
        assert writer.result() == {"added": 1}
        assert kb.status().writer is None
        assert kb.add([Chunk("mine", another(chunks, 9))]).added == 1
        assert kb.search(another(chunks, 9), 1)[0].id == "mine"


def test_a_killed_writer_leaves_no_lock(
    filled: Path, settings: Config, chunks: list[Chunk], spawn: Callable[..., Child]
) -> None:
    writer = spawn("write", kb=filled, documents={"theirs": another(chunks, 3)})
    wait_for(lambda: writer.lines(), writer)
    assert writer.kill() == -9
    with KnowledgeBase(filled, config=settings) as kb:
        assert kb.status().writer is None
        assert kb.add([Chunk("mine", another(chunks, 9))]).added == 1
        assert kb.search(another(chunks, 3), 1)[0].id == "theirs"  # it was acknowledged


def test_a_reader_sees_what_another_process_does(
    filled: Path, settings: Config, asked: list[str], chunks: list[Chunk], spawn: Callable[..., Child]
) -> None:
    text = another(chunks, 3)
    reader = spawn("read", kb=filled, query=text)
    wait_for(lambda: reader.lines(), reader)
    with KnowledgeBase(filled, config=settings) as kb:
        assert kb.add([Chunk("new", text)]).added == 1
        added = time.time()
        wait_for(lambda: reader.lines()[-1]["ids"][0] == "new", reader)
        assert kb.adapt(asked).version == 1
        promoted = time.time()
        wait_for(lambda: reader.lines()[-1]["versions"] == [1], reader)
        back = time.time()  # others may see it before the call returns
        kb.rollback()
        wait_for(lambda: reader.lines()[-1]["versions"] == [0], reader)
        deleted = time.time()
        kb.delete(["new"])
        wait_for(lambda: reader.lines()[-1]["ids"][0] != "new", reader)
    reader.go("leave")
    reader.result()
    lines = reader.lines()
    assert all(len(line["versions"]) == 1 and len(line["ids"]) == 3 for line in lines)
    late = [line for line in lines if added + SOON < line["began"] and line["ended"] < deleted]
    assert [line for line in late if line["ids"][0] != "new"] == []
    late = [line for line in lines if promoted + SOON < line["began"] and line["ended"] < back]
    assert [line for line in late if line["versions"] != [1]] == []


def wait_for(condition: Callable[[], object], child: Child, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert child.process.is_alive(), child.said()
        assert time.monotonic() < end, json.dumps(child.lines()[-3:])
        time.sleep(0.02)

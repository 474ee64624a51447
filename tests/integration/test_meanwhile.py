"""What comes, goes or is decided while a new version is built: it is in that version at the moment of the switch."""

from __future__ import annotations

import gc
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from chromadb import Collection

from ragself import Chunk, Config, KnowledgeBase
from ragself.engine.live import Live
from ragself.errors import InputError, StoreError, StoreLocked
from ragself.index.collection import ChromaCollection
from ragself.index.database import ChromaDatabase
from ragself.index.snapshot import Snapshot
from ragself.versions.registry import Registry
from tests.integration.chroma_server import ChromaServer
from tests.integration.conftest import Child
from tests.integration.helpers import another, assert_right, exact

Spawn = Callable[..., Child]
SOON = 4.0  # seconds; a reader looks four times a second, and the machine may be busy


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, settings: Config) -> Config:
    """Settings of a knowledge base whose vectors are in its folder, and of one whose are on a Chroma server."""
    if request.param == "folder":
        return settings
    server: ChromaServer = request.getfixturevalue("server")
    return settings.model_copy(update={"chroma": server.url})


def wait_for(condition: Callable[[], object], child: Child, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert child.process.is_alive(), child.said()
        assert time.monotonic() < end, child.lines()[-3:]
        time.sleep(0.005)


@pytest.mark.parametrize("seed", [0])  # of what comes and goes when
def test_nothing_is_lost_and_nothing_comes_back(
    seed: int, tmp_path: Path, place: Config, chunks: list[Chunk], asked: list[str], spawn: Spawn
) -> None:
    draw = random.Random(seed)
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    there = {chunk.id: chunk.text for chunk in chunks}
    gone: set[str] = set()
    with KnowledgeBase(tmp_path / "kb", config=place) as kb:
        kb.add(chunks)
        learner = spawn("adapt", kb=tmp_path / "kb", asked=tmp_path / "asked.json", slowly=True)
        changes = building = 0
        while learner.process.is_alive():
            match draw.choice(["add", "add", "replace", "delete", "again"]):
                case "add":
                    new = {
                        f"n{changes}-{row}": f"{another(chunks, draw.randrange(150))} {changes} {row}"
                        for row in range(9)
                    }
                    kb.add([Chunk(id, text) for id, text in new.items()])
                    there |= new
                case "replace":
                    id = draw.choice(sorted(there))
                    there[id] = f"{another(chunks, draw.randrange(150))} {changes}"
                    kb.add([Chunk(id, there[id])])
                case "delete":
                    ids = draw.sample(sorted(there), 3)
                    assert kb.delete(ids) == 3
                    gone |= {id for id in ids if there.pop(id)}
                case "again" if gone:
                    id = draw.choice(sorted(gone))
                    gone.discard(id)
                    there[id] = f"{another(chunks, draw.randrange(150))} again"
                    kb.add([Chunk(id, there[id])])
            changes += 1
            building += learner.lines()[-1:] != [] and learner.lines()[-1][0] == "re-embed"
            probe = draw.choice(sorted(there))
            assert probe in {hit.id for hit in kb.search(there[probe], 20)}
            assert not gone & {hit.id for hit in kb.search(there[probe], 20)}
        result = learner.result()
        assert result["decision"] == "promote", result["reason"]
        assert changes > 5
        assert building > 0  # some came when the new version was nearly there
        assert [right for stage, right, _ in learner.lines() if stage == "switch"] == [1]
        audit(kb, there, 1)
        assert kb.rollback().number == 0
        audit(kb, there, 0)
    with KnowledgeBase(tmp_path / "kb", config=place) as kb:
        audit(kb, there, 0)


def audit(kb: KnowledgeBase, there: dict[str, str], version: int) -> None:
    """Everything that is there is in the index, nothing else is, and the scores are those of the version."""
    hits = kb.search("warm", len(there) + 100, mode="vector")
    assert {hit.version for hit in hits} == {version}
    assert {hit.id: hit.text for hit in hits}.items() <= there.items()
    assert len(hits) >= 0.98 * len(there)  # HNSW does not reach every one
    with kb._live.borrowed() as snapshot:
        assert snapshot.index.ids() == there.keys()
    scores, reached = exact(kb), {hit.id for hit in hits}
    for text in list(there.values())[:: max(len(there) // 20, 1)]:
        assert_right(
            kb.search(text, 10, mode="vector"), {id: score for id, score in scores(text).items() if id in reached}, 10
        )


def test_who_writes_and_who_learns_are_two_processes_and_a_second_learner_is_refused(
    filled: Path, settings: Config, asked: list[str], spawn: Spawn, tmp_path: Path
) -> None:
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    learner = spawn("halt", kb=filled, documents={}, asked=tmp_path / "asked.json")
    wait_for(lambda: "half" in learner.lines(), learner)
    with KnowledgeBase(filled, config=settings) as kb:
        assert kb.add([Chunk("new", "notulu zonodo papaba mesori")]).added == 1
        with pytest.raises(StoreLocked, match=rf"is already being trained by process {learner.process.pid}"):
            kb.adapt(asked)
        assert kb.gc() == []  # the build of the other is no rubbish
        learner.go("on")
        wait_for(lambda: "done" in learner.lines(), learner)
        end = time.monotonic() + 10
        while kb.search("notulu zonodo papaba mesori", 1)[0].version != 1:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert kb.search("notulu zonodo papaba mesori", 1)[0].id == "new"
        learner.go("leave")
        learner.join()


def test_a_switch_of_another_process_is_seen_within_a_second_and_no_query_waits_for_it(
    promoted: Path, settings: Config, spawn: Spawn
) -> None:
    with KnowledgeBase(promoted, config=settings) as kb:
        assert kb.search("notulu", 1)[0].version == 1
        longest, began = 0.0, time.monotonic()
        child = spawn("cli", argv=["rollback", "--kb", str(promoted)])
        while (version := kb.search("notulu", 1)[0].version) == 1 and time.monotonic() < began + 30:
            time.sleep(0.005)
        assert version == 0
        child.join()
        for target in (1, 0, 1):
            other = threading.Thread(target=lambda to=target: back(promoted, settings, to))
            other.start()
            other.join()
            switched = time.monotonic()
            while kb.search("notulu", 1)[0].version != target:
                assert time.monotonic() < switched + 5
                asked = time.monotonic()
                kb.search("notulu", 1)
                longest = max(longest, time.monotonic() - asked)
        assert longest < 2


def test_who_asks_now_and_then_is_not_answered_from_the_past(
    tmp_path: Path, place: Config, chunks: list[Chunk], asked: list[str], spawn: Spawn
) -> None:
    """One query after a pause, not one that looks and one that sees."""
    text = "notulu zonodo papaba mesori"
    (tmp_path / "new.txt").write_text(text)
    with KnowledgeBase(tmp_path / "kb", config=place) as kb:
        kb.add(chunks)
        assert kb.adapt(asked).decision == "promote"
    with KnowledgeBase(tmp_path / "kb", config=place) as kb:
        assert kb.search(text, 1)[0].version == 1
        spawn("cli", argv=["rollback", "--kb", str(tmp_path / "kb")]).join()
        time.sleep(1.1)
        assert kb.search(text, 1)[0].version == 0
        spawn("cli", argv=["add", "--kb", str(tmp_path / "kb"), str(tmp_path / "new.txt")]).join()
        time.sleep(1.1)
        assert text in kb.search(text, 1)[0].text


def test_a_read_that_fails_does_not_wait_for_who_is_at_the_same_index(
    promoted: Path, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, failed = ChromaCollection.near, threading.Event()

    def once(self: ChromaCollection, *arguments: Any, **named: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise StoreError("the connection was reset")
        return near(self, *arguments, **named)

    with KnowledgeBase(promoted, config=settings) as kb:
        kb.search("notulu")
        monkeypatch.setattr(ChromaCollection, "near", once)
        with kb._live.borrowed() as held:  # as a long addition has it
            other = threading.Thread(target=kb.search, args=("notulu",))
            other.start()
            other.join(30)
            assert failed.is_set()
            assert not other.is_alive()
            assert kb._live._snapshot is not held
            assert held.search("notulu", 1)  # it is closed when nobody has it any more
        assert kb._live._retired == []
        with pytest.raises(StoreError):
            held.search("notulu", 1)


def test_a_switch_waits_for_no_query(promoted: Path, settings: Config) -> None:
    with KnowledgeBase(promoted, config=settings) as kb:
        with kb._live.borrowed() as held:  # as a slow query has it
            other = threading.Thread(target=kb.rollback)
            other.start()
            other.join(30)
            assert not other.is_alive()
            assert {hit.version for hit in kb.search("notulu")} == {0}
            assert {hit.version for hit in held.search("notulu", 10)} == {1}
        with pytest.raises(StoreError):
            held.search("notulu", 1)


def test_a_switch_waits_for_nobody_who_has_seen_the_pointer_move(
    promoted: Path, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, switch, took = Registry.point, Live.switch, []

    def seen_at_once(self: Registry, *arguments: Any, **details: Any) -> None:
        point(self, *arguments, **details)
        renewal.start()
        time.sleep(0.5)  # by now it waits for whoever moved it

    def counted(self: Live, snapshot: Snapshot) -> None:
        began = time.monotonic()
        switch(self, snapshot)
        took.append(time.monotonic() - began)

    monkeypatch.setattr(Registry, "point", seen_at_once)
    monkeypatch.setattr(Live, "switch", counted)
    monkeypatch.setattr("ragself.engine.live._WAIT", 5.0)
    with KnowledgeBase(promoted, config=settings) as kb:
        kb.search("notulu", 1)
        renewal = threading.Thread(target=kb._live.renew)
        kb.rollback()
        renewal.join()
        assert kb.search("notulu", 1)[0].version == 0
    assert took[0] < 2


@pytest.mark.parametrize("move", [KnowledgeBase.rollback, KnowledgeBase.adapt])
def test_no_garbage_is_collected_while_nobody_else_may_change_anything(
    filled: Path, promoted: Path, settings: Config, asked: list[str], monkeypatch: pytest.MonkeyPatch, move: Any
) -> None:
    point, seen = Registry.point, []

    def counted(self: Registry, *arguments: Any, **details: Any) -> None:
        seen.append(gc.isenabled())
        point(self, *arguments, **details)

    monkeypatch.setattr(Registry, "point", counted)
    adapting = move is KnowledgeBase.adapt
    with KnowledgeBase(filled if adapting else promoted, config=settings) as kb:
        move(kb, *[asked] * adapting)
    assert seen == [False]
    assert gc.isenabled()


def test_closing_waits_for_the_queries_of_a_version_that_was_switched_from(promoted: Path, settings: Config) -> None:
    kb = KnowledgeBase(promoted, config=settings)
    with kb._live.borrowed() as held:
        kb.rollback()
        other = threading.Thread(target=kb.close)
        other.start()
        other.join(0.5)
        assert other.is_alive()
        assert held.search("notulu", 1)
    other.join(30)
    assert not other.is_alive()


def test_a_server_is_never_busy_for_long_with_what_is_written_to_it(
    tmp_path: Path, place: Config, chunks: list[Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    add, shares = Collection.add, []

    def counted(self: Collection, **rows: Any) -> None:
        shares.append(len(rows["ids"]))
        add(self, **rows)

    monkeypatch.setattr(Collection, "add", counted)
    with KnowledgeBase(tmp_path / "kb", config=place) as kb:
        kb.add(chunks[:120])
    assert shares == ([50, 50, 20] if place.chroma else [120])


def test_what_a_build_that_was_given_up_had_written_goes(
    filled: Path, place: Config, asked: list[str], chunks: list[Chunk], tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "re-embed":
            raise Enough

    with KnowledgeBase(tmp_path / "kb", config=place) as kb:
        kb.add(chunks)
        for number in range(3):
            with pytest.raises(Enough):
                kb.adapt(asked, stop)
            assert len(kb.engine.store.registry.unregistered()) == 1  # to be gone on with
            kb.add([Chunk(f"new-{number}", another(chunks, number))])
        assert kb.adapt(asked).decision == "promote"
        assert kb.engine.store.registry.unregistered() == []
        server = kb.engine.store.server
        if server is not None:
            with closing(ChromaDatabase(server)) as database:
                mark = kb.engine.store.manifest.prefix(server)
                assert len([name for name in database.names() if name.startswith(mark)]) == 2


def back(folder: Path, settings: Config, to: int) -> None:
    with KnowledgeBase(folder, config=settings) as kb:
        kb.rollback(to)


def test_a_pinned_version_stays_until_it_is_unpinned(filled: Path, settings: Config, asked: list[str]) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        assert kb.pin(reason="the fair is on", started="a test").number == 0
        kb.pin()  # again is nothing new
        report = kb.adapt(asked, started="a test")
        assert (report.decision, report.version) == ("keep", 0)
        assert report.reason.startswith("version 0 is pinned, though the candidate is better: known-item nDCG rose")
        assert kb.status().pinned
        kb.unpin()
        assert kb.adapt(asked).version == 1
        assert kb.pin(0).number == 0
        assert kb.search("notulu")[0].version == 0
        assert kb.adapt(asked).version == 0
        with pytest.raises(InputError, match="There is no version 7"):
            kb.pin(7)
        events = [(event["event"], event["version"], event["started"]) for event in kb.history()[1:]]
        assert events == [
            ("pin", 0, "a test"),
            ("keep", 0, "a test"),
            ("unpin", 0, "python"),
            ("promote", 1, "python"),
            ("rollback", 0, "python"),
            ("pin", 0, "python"),
            ("keep", 0, "python"),
        ]


def test_what_was_rolled_back_during_a_pass_is_not_replaced_by_it(
    promoted: Path, settings: Config, chunks: list[Chunk], asked: list[str]
) -> None:
    with KnowledgeBase(promoted, config=settings) as kb:

        def told(stage: str, done: int, total: int) -> None:
            if kb.status().live.number:
                kb.rollback(0)

        report = kb.adapt(asked[::-1], told)
        assert (report.decision, kb.status().live.number) == ("keep", 0)
        if "rolled back" not in report.reason:  # the gate had refused it before
            assert "no reason to switch" in report.reason or "rose beyond doubt" in report.reason


def test_several_readers_and_writers_on_a_server(
    tmp_path: Path, settings: Config, server: ChromaServer, chunks: list[Chunk], asked: list[str], spawn: Spawn
) -> None:
    text = another(chunks, 3)
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    config = settings.model_copy(update={"chroma": server.url})
    with KnowledgeBase(tmp_path / "kb", config=config) as kb:
        kb.add(chunks)
        readers = [spawn("read", kb=tmp_path / "kb", query=text) for _ in range(3)]
        for reader in readers:
            wait_for(reader.lines, reader)
        writer = spawn("write", kb=tmp_path / "kb", documents={"theirs": another(chunks, 9)})
        wait_for(writer.lines, writer)  # it has not ended
        assert kb.add([Chunk("new", text)]).added == 1
        assert kb.search(another(chunks, 9), 1)[0].id == "theirs"
        added = time.time()
        learner = spawn("adapt", kb=tmp_path / "kb", asked=tmp_path / "asked.json")
        assert learner.result()["version"] == 1
        switched = time.time()
        for reader in readers:
            wait_for(lambda reader=reader: reader.lines()[-1]["versions"] == [1], reader)  # type: ignore[misc]
        back_at = time.time()
        kb.rollback()
        for reader in readers:
            wait_for(lambda reader=reader: reader.lines()[-1]["versions"] == [0], reader)  # type: ignore[misc]
            reader.go("leave")
            reader.result()
            lines = reader.lines()
            assert all(len(line["versions"]) == 1 and len(line["ids"]) == 3 for line in lines)
            late = [line for line in lines if switched + SOON < line["began"] < back_at and line["versions"] != [1]]
            assert late == []
            assert all(line["ids"][0] == "new" for line in lines if line["began"] > added + SOON)
        writer.go("leave")
        writer.result()


def test_a_server_that_is_killed_and_comes_back(
    tmp_path: Path, settings: Config, chunks: list[Chunk], asked: list[str]
) -> None:
    server = ChromaServer(tmp_path / "chroma").start()
    try:
        config = settings.model_copy(update={"chroma": server.url})
        with KnowledgeBase(tmp_path / "kb", config=config) as kb:
            kb.add(chunks)
            before = kb.search("notulu", 10)
            server.stop()
            for use in (lambda: kb.search("notulu"), lambda: kb.add([Chunk("new", "notulu zonodo")])):
                with pytest.raises(StoreError, match=r"[Ss]erver"):
                    use()
            server.start()
            assert kb.search("zonodo notulu", 500)[0].id  # what broke off is mended, and found
            there = {hit.id for hit in kb.search("notulu", 500)}
            assert there == {chunk.id for chunk in chunks} | {"new"}  # the journal had acknowledged it
            assert [hit.id for hit in kb.search("notulu", 10) if hit.id != "new"][:9] == [h.id for h in before][:9]
        other = KnowledgeBase(tmp_path / "other", config=config)
        other.add(chunks[:5])
        assert len(other.search("notulu", 500)) == 5  # several share a server
        other.close()
        server.stop()
        with pytest.raises(StoreError, match="No Chroma server answers"):
            KnowledgeBase(tmp_path / "third", config=config)
        assert not (tmp_path / "third" / "store.json").exists()
    finally:
        server.stop()


def test_vectors_move_to_a_server_and_back(
    promoted: Path, settings: Config, server: ChromaServer, chunks: list[Chunk]
) -> None:
    there = {chunk.id: chunk.text for chunk in chunks}
    for place in (server.url, "folder"):
        with KnowledgeBase(promoted, config=settings.model_copy(update={"chroma": place})) as kb:
            assert kb.status().server == (None if place == "folder" else place)
            if place != "folder":
                with pytest.raises(StoreError, match="ragself gc"):
                    kb.search("notulu")
                assert len([line for line in kb.gc() if "again from 384 chunks" in line]) == 2
                kb.add([Chunk("new", "notulu zonodo")])
                there["new"] = "notulu zonodo"
            audit(kb, there, 1)

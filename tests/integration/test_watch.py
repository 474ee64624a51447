"""What an operator leaves running: it takes over what changes, learns when that pays, and takes back what was worse."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragself import Chunk, Config, Hit, KnowledgeBase
from ragself.adapters.ranking import Ranking
from ragself.adapters.residual import Residual
from ragself.background.folders import Folders
from ragself.background.guard import Guard
from ragself.background.pending import pending
from ragself.background.runner import BackgroundAdaptation
from ragself.errors import ConfigError, InputError, RagselfError, StoreError
from ragself.index.snapshot import Snapshot
from ragself.monitoring.search_log import SignalLog, bucket
from ragself.monitoring.usage import usage
from ragself.review import review_promotion
from ragself.schema import Pending
from ragself.versions.registry import Registry
from tests.integration.helpers import another

REMEMBERS = {"log": True}


def remembering(config: Config, **values: object) -> Config:
    return config.model_copy(update={"queries": config.queries.model_copy(update=REMEMBERS | values)})


def test_nothing_is_remembered_unless_it_is_asked_for(filled: Path, settings: Config) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        kb.search("a private matter")
        assert kb.recorded_queries() == {}
        assert (kb.forget(), kb.engine.traffic.total) == (0, 0)
    assert not (filled / "queries.db").exists()
    assert not any(b"private" in file.read_bytes() for file in filled.rglob("*") if file.is_file())


def test_what_is_remembered_is_learned_from_and_can_be_forgotten(
    filled: Path, settings: Config, asked: list[str]
) -> None:
    with KnowledgeBase(filled, config=remembering(settings)) as kb:
        for query in asked:
            kb.search(query, 1)
        kb.search([asked[0], asked[1]], 1)
        with pytest.raises(InputError):
            kb.search("   ")
        assert kb.recorded_queries() == {query: 2 if query in asked[:2] else 1 for query in asked}
        changes, last = pending(kb.engine, Counter(), kb.config)
        assert (changes, last) == (Pending(384, len(asked)), None)  # what is asked again is not new
        report = kb.adapt()
        assert (report.decision, sum(report.probes["traffic"].values())) == ("promote", len(asked))
        kb.search("one more")
        changes, last = pending(kb.engine, Counter(), kb.config)
        assert changes == Pending(0, 1)
        assert last is not None and abs(time.time() - last) < 60
        assert pending(kb.engine, Counter(["given"]), kb.config)[0].other == "other given"

        kb.adapt([asked[0] + " please"])  # whose vector is now in the cache
        assert kb.engine.store.base.missing(asked, "query") == []
        assert kb.forget(matching=asked[0].split()[0].upper()) > 0
        left = kb.recorded_queries()
        assert left
        assert kb.forget() == len(left)
        assert kb.recorded_queries() == {}
        assert kb.engine.traffic.total == len(asked) + 1  # what is forgotten is not news again
        assert kb.engine.store.base.missing(asked, "query") == asked  # their vectors went, too
    with KnowledgeBase(filled, config=settings) as kb:
        assert kb.recorded_queries() == {}


def test_what_is_forgotten_during_a_pass_is_not_brought_back_by_it(
    filled: Path, settings: Config, asked: list[str]
) -> None:
    with KnowledgeBase(filled, config=remembering(settings)) as kb:
        for query in asked:
            kb.search(query, 1)
        assert len(kb.recorded_queries()) == len(asked)

        def progress(stage: str, done: int, total: int) -> None:
            if stage == "encode queries" and kb.recorded_queries():
                assert kb.forget() == len(asked)

        kb.adapt(progress=progress)
        assert kb.recorded_queries() == {}
        assert kb.engine.store.base.missing(asked, "query") == asked


def test_a_redaction_that_cannot_be_found_is_told_before_anything_is_asked(filled: Path, settings: Config) -> None:
    with pytest.raises(ConfigError, match=r"queries\.redact = 'nowhere:mask' cannot be imported"):
        KnowledgeBase(filled, config=remembering(settings, redact="nowhere:mask"))


def write(folder: Path, chunks: list[Chunk]) -> None:
    folder.mkdir(exist_ok=True)
    for chunk in chunks:
        (folder / f"{chunk.id}.md").write_text(f"# {chunk.title}\n\n{chunk.text}\n")


def test_what_changes_in_a_folder_is_taken_over(
    tmp_path: Path, settings: Config, chunks: list[Chunk], caplog: pytest.LogCaptureFixture
) -> None:
    docs = tmp_path / "docs"
    write(docs, chunks[:6])
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add([Chunk("mine", "not of any folder", {"source": "docs/of-mine.md"})])
        folders = Folders(kb, [docs])
        with caplog.at_level(logging.INFO, "ragself.background.folders"):
            folders.poll()
            folders.poll()
        assert caplog.messages == ["6 chunks added or changed, 0 removed"]
        text = another(chunks, 7)
        (docs / "t0-0.md").write_text(f"# Changed\n\n{text}\n")
        (docs / "t0-1.md").unlink()
        write(docs, chunks[6:7])
        folders.poll()
        assert kb.search(text, 1)[0].metadata["title"] == "Changed"
        assert chunks[1].text not in {hit.text for hit in kb.search(chunks[1].text, 20)}
        assert kb.status().chunks == 7
    (docs / "t0-2.md").unlink()  # while nobody looks
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        folders = Folders(kb, [docs])
        folders.poll()
        assert kb.status().chunks == 6
        for file in docs.iterdir():
            file.unlink()
        with pytest.raises(InputError, match=r"There is no file left in .*docs, .*None of its documents was deleted"):
            folders.poll()
        docs.rmdir()
        with pytest.raises(InputError):
            folders.poll()
        assert kb.status().chunks == 6
        with pytest.raises(InputError):
            BackgroundAdaptation(kb, folders=[docs])


def test_a_folder_that_is_away_costs_no_document(
    tmp_path: Path, settings: Config, chunks: list[Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here", chunks[:3])
    write(tmp_path / "there", chunks[3:6])
    write(tmp_path / "there" / "below", chunks[6:9])
    scandir = os.scandir

    def unlisted(*names: str) -> None:
        def scan(path: Any) -> Any:
            if Path(path).name in names:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", scan)

    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        folders = Folders(kb, [tmp_path / "here", tmp_path / "there"])
        folders.poll()
        for names in (["below"], ["there"], ["there", "here"]):
            unlisted(*names)
            with pytest.raises(InputError, match=r"cannot be listed\. None of its documents was deleted"):
                folders.poll()
            assert kb.status().chunks == 9
        monkeypatch.undo()
        (tmp_path / "there").rename(tmp_path / "gone")
        (tmp_path / "there").mkdir()  # an empty mount point
        (tmp_path / "here" / "t0-0.md").unlink()
        with pytest.raises(InputError, match=r"There is no file left in .*there"):
            folders.poll()
        assert kb.status().chunks == 8  # what is gone elsewhere is gone
        (tmp_path / "there").rmdir()
        (tmp_path / "gone").rename(tmp_path / "there")
        (tmp_path / "there" / "below" / "t0-6.md").unlink()
        folders.poll()
        assert kb.status().chunks == 7


def test_files_are_known_by_whatever_name(tmp_path: Path, settings: Config, chunks: list[Chunk]) -> None:
    write(tmp_path / "docs", chunks[:3])
    odd = os.fsencode(tmp_path / "docs") + b"/caf\xe9.md"
    with open(odd, "w") as file:  # noqa: PTH123
        file.write(chunks[3].text)
    (tmp_path / "other").mkdir()
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        folders = Folders(kb, [tmp_path / "other" / ".." / "docs", tmp_path / "docs"])
        for _ in range(2):
            folders.poll()
            assert kb.status().chunks == 4
        assert chunks[3].text == kb.search(chunks[3].text, 1)[0].text
        (tmp_path / "docs" / "t0-1.md").unlink()
        os.unlink(odd)  # noqa: PTH108
        folders.poll()
        assert kb.status().chunks == 2


@pytest.fixture
def worse(promoted: Path, settings: Config) -> Path:
    """A promotion that should not have been: version 2 turns every query into another."""
    with KnowledgeBase(promoted, config=remembering(settings)) as kb:
        store = kb.engine.store
        random = np.random.default_rng(0)
        down, up = (random.normal(size=shape).astype(np.float32) for shape in ((32, 16), (16, 32)))
        ranking, live = Ranking(Residual(down, up)), store.registry.version(store.registry.live())
        from ragself.cycle import _version  # the tests' own way to a version that no gate would let through
        from ragself.evaluation.gate import Decision

        version = _version(store, promoted / "pass", ranking, Decision(True, "", {}), live)
        with store.filling(version) as index:
            from ragself.index.reindex import apply_changes

            apply_changes(store.journal, version.collection, index, store.base, ranking.adapter)
        store.registry.add(version)
        seen = {"head": store.journal.head, "queries": 0, "given": "", "settings": ""}
        report = {"weight": {"weight": 2.5}}
        store.registry.point(version.number, "promote", "a mistake", seen=seen, report=report)
    return promoted


def test_a_promotion_that_finds_worse_is_taken_back(worse: Path, settings: Config, asked: list[str]) -> None:
    with KnowledgeBase(worse, config=remembering(settings)) as kb:
        assert kb.search(asked[0], 1)[0].version == 2
        guard = Guard(kb)
        guard.poll(threading.Event())
        for query in asked[:90]:
            kb.search(query, 1)
        guard.poll(threading.Event())
        assert kb.status().live.number == 2  # too few to say
        for query in asked:
            kb.search(query, 1)
        review = review_promotion(kb.engine, kb.config)
        assert review is not None
        assert (review.version, review.before) == (2, 1)
        assert review.fell > review.rose
        assert review.high < 0
        guard.poll(threading.Event())
        assert kb.status().live.number == 1
        last = kb.history()[-1]
        assert (last["event"], last["started"]) == ("rollback", "guard")
        assert "from version 2: LM utility fell for" in last["reason"]
        guard.poll(threading.Event())  # what was not promoted is not taken back
        assert kb.status().live.number == 1
        assert review_promotion(kb.engine, kb.config) is None


@pytest.mark.parametrize(("bound", "spent"), [({"cpu_minutes": 1.0}, (59.9, 0)), ({"tokens": 1000}, (0.0, 999))])
def test_no_pass_begins_when_what_may_be_spent_is_spent_also_by_passes_that_failed(
    filled: Path, settings: Config, bound: dict[str, float], spent: tuple[float, int]
) -> None:
    config = settings.model_copy(update={"watch": settings.watch.model_copy(update=bound)})
    with KnowledgeBase(filled, config=config) as kb, closing(SignalLog(filled / "signals.db")) as log:
        background = BackgroundAdaptation(kb)
        log.spend(*spent)
        assert background._due(Counter()) == ("the first pass", None)
        log.spend(*spent)
        assert background._due(Counter()) == (None, "the budget for 24 hours is used up")
        assert background.once(threading.Event()).waiting == "the budget for 24 hours is used up"
        assert [event["event"] for event in kb.history()] == ["create"]


@pytest.mark.parametrize(
    ("hindrance", "said"),
    [
        ({"hours": "{before}"}, "the time is not between"),
        ({"cpu_minutes": 1e-9}, "the budget for 24 hours is used up"),
    ],
)
def test_what_keeps_a_pass_that_is_due_from_beginning_is_told_once(
    hindrance: dict[str, Any], said: str, filled: Path, settings: Config, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now().astimezone()
    before = f"{now - timedelta(hours=2):%H:%M}-{now - timedelta(hours=1):%H:%M}"
    values = {key: before if value == "{before}" else value for key, value in hindrance.items()}
    config = settings.model_copy(update={"watch": settings.watch.model_copy(update=values)})
    with KnowledgeBase(filled, config=config) as kb, closing(SignalLog(filled / "signals.db")) as log:
        log.spend(1.0, 0)
        background = BackgroundAdaptation(kb)
        with caplog.at_level(logging.INFO, "ragself.background.runner"):
            for _ in range(3):
                assert said in str(background.once(threading.Event()).waiting)
        assert [line for line in caplog.messages if line.startswith("a pass is due, the first pass, but")] == [
            f"a pass is due, the first pass, but {background.status().waiting}"
        ]
        assert kb.history()[-1]["event"] == "create"


def test_a_pass_that_cannot_pay_does_not_begin(tmp_path: Path, settings: Config, chunks: list[Chunk]) -> None:
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add(chunks[:99])
        background = BackgroundAdaptation(kb)
        assert "only 99 chunks, at least 100 are needed" in str(background.once(threading.Event()).waiting)
        kb.add(chunks[99:])
        kb.pin()
        assert background.once(threading.Event()).waiting == "the live version is pinned"
        assert [event["event"] for event in kb.history()] == ["create", "pin"]


def test_a_pass_ends_with_the_hours_and_says_so(
    filled: Path, settings: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ragself.background.runner.left", lambda *_: 0.2)
    config = settings.model_copy(update={"watch": settings.watch.model_copy(update={"hours": "22:00-06:00"})})
    with KnowledgeBase(filled, config=config) as kb:
        background = BackgroundAdaptation(kb)
        found = background.once(threading.Event())
        assert str(found.error).endswith("minutes; see watch.hours")
        assert (kb.history()[-1]["event"], kb.history()[-1]["reason"]) == ("fail", str(found.error))
        assert kb.history()[-1]["started"] == "in the background: the first pass"
        assert "the next pass is in 0 s" in caplog.text
        assert usage(kb.path, 3600)[0] >= 0.0


def test_an_application_sees_passes_in_its_metrics(filled: Path, settings: Config, asked: list[str]) -> None:
    from ragself.background import runner as module

    counted: list[str] = []
    with pytest.MonkeyPatch.context() as patched, KnowledgeBase(filled, config=settings) as kb:
        patched.setattr(module.passes, "add", lambda number, attributes: counted.append(attributes["decision"]))
        BackgroundAdaptation(kb, asked).once(threading.Event())
        failing = settings.model_copy(update={"watch": settings.watch.model_copy(update={"minutes": 1e-6})})
        kb.config = failing
        kb.add([Chunk("new", "notulu zonodo papaba mesori")])
        BackgroundAdaptation(kb, asked).once(threading.Event())
        assert counted == ["promote", "fail"]
        events = [event["event"] for event in kb.history()]
        assert events[1] == "promote"
        assert events[-1] == "fail"


def test_a_promotion_that_cannot_be_opened_is_taken_back(worse: Path, settings: Config, asked: list[str]) -> None:
    """As it happens: the file is damaged, searches of a new process fail, and who watches finds out by itself."""
    (worse / "versions" / "0002" / "adapter.safetensors").write_bytes(b"damaged")
    with KnowledgeBase(worse, config=settings) as kb:
        with pytest.raises(RagselfError):
            kb.search(asked[0])
        found = BackgroundAdaptation(kb).once(threading.Event())
        assert (kb.status().live.number, kb.search(asked[0], 1)[0].version) == (1, 1)
        (event,) = (event for event in kb.history() if event["event"] == "rollback")
        assert event["started"] == "guard"
        assert event["reason"].startswith("from version 2: it cannot be opened:")
        assert found.waiting is None or found.report is not None


def test_a_promotion_that_fails_is_taken_back_unless_it_is_pinned(
    worse: Path, settings: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    search = Snapshot.search

    def fails(self: Snapshot, *arguments: Any) -> list[Hit]:
        if self.version.number == 2:
            raise StoreError("it is broken")
        return search(self, *arguments)

    with KnowledgeBase(worse, config=settings) as kb, closing(SignalLog(worse / "signals.db")) as log:
        day = 86_400.0
        log.add(Counter({(1, bucket(0.01)): 1000}), time.time() - day)
        log.add(Counter({(2, bucket(0.01)): 900, (2, None): 100}))
        with caplog.at_level(logging.INFO, "ragself.background.guard"):
            Guard(kb).poll(threading.Event())
        assert kb.status().live.number == 2
        assert "but not due to version 2" in caplog.text  # a server was away, say
        monkeypatch.setattr(Snapshot, "search", fails)
        kb.pin()
        Guard(kb).poll(threading.Event())
        assert kb.status().live.number == 2
        kb.unpin()
        Guard(kb).poll(threading.Event())
        assert kb.status().live.number == 1
        assert kb.history()[-1]["reason"] == (
            "from version 2: 10.0% of 1,000 searches failed, 0.0% before; "
            "compared directly, 100% fail, and 0% with version 1"
        )


def test_a_promotion_that_is_slow_is_taken_back_unless_it_is_the_machine(
    worse: Path, settings: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with KnowledgeBase(worse, config=settings) as kb, closing(SignalLog(worse / "signals.db")) as log:
        log.add(Counter({(1, bucket(0.1)): 1000}), time.time() - 86_400)
        log.add(Counter({(2, bucket(0.5)): 1000}))
        with caplog.at_level(logging.INFO, "ragself.background.guard"):
            Guard(kb).poll(threading.Event())
        assert kb.status().live.number == 2
        assert "but not due to version 2" in caplog.text
        search = Snapshot.search

        def slow(self: Snapshot, *arguments: Any) -> list[Hit]:
            time.sleep(0.05 if self.version.number == 2 else 0.0)
            return search(self, *arguments)

        monkeypatch.setattr(Snapshot, "search", slow)
        Guard(kb).poll(threading.Event())
        assert kb.status().live.number == 1
        assert re.search(r"up to 5\d\d ms, 1\d\d ms before; compared directly, it takes", kb.history()[-1]["reason"])


def test_what_was_rolled_back_does_not_come_again_as_it_is(
    filled: Path, settings: Config, asked: list[str], chunks: list[Chunk]
) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        assert kb.adapt(asked).version == 1
        kb.rollback()
        report = kb.adapt(asked)
        assert (report.decision, report.version) == ("keep", 0)
        assert report.reason == "the candidate is identical to version 1, which was rolled back"
        kb.rollback(1)
        kb.rollback(0)
        kb.add([Chunk(f"new-{row}", another(chunks, row), {"title": f"new {row}"}) for row in range(20)])
        assert kb.adapt(asked[: len(asked) // 2]).version == 2  # that is another one


def test_searches_that_fail_are_counted_and_wrong_arguments_are_not(
    filled: Path, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ragself.index.collection import ChromaCollection

    with KnowledgeBase(filled, config=settings) as kb:
        kb.search("notulu")
        kb.search("notulu")
        with pytest.raises(InputError):
            kb.search("notulu", where={"a": {"$nonsense": 1}})

        def broken(*_: object, **__: object) -> Any:
            raise StoreError("gone")

        monkeypatch.setattr(ChromaCollection, "near", broken)
        with pytest.raises(StoreError):
            kb.search("notulu")
    with closing(SignalLog(filled / "signals.db")) as log:
        assert (log.of(0).searches, log.of(0).failed) == (2, 1)  # not the one that had to open it


# the command --------------------------------------------------------------------------------------


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process and process.communicate()
        if time.monotonic() > end:
            if process is not None:
                process.kill()  # or it is waited for without end
            pytest.fail(f"not within {seconds:.0f} s{process.communicate() if process else ''}")
        time.sleep(0.05)


def test_watch_learns_from_a_folder_that_changes_and_ends_on_sigterm(
    tmp_path: Path, tiny_model: Path, chunks: list[Chunk], asked: list[str]
) -> None:
    docs, kb = tmp_path / "docs", tmp_path / "kb"
    write(docs, chunks[:300])
    (tmp_path / "asked.txt").write_text("\n".join(asked))
    kb.mkdir()
    (kb / "ragself.toml").write_text(
        f'[encoder]\nmodel = "{tiny_model}"\n[watch]\npoll = 0.1\nrest = 0\ndocuments = 20\n'
    )
    command = [sys.executable, "-m", "ragself", "watch", str(docs), "--kb", str(kb), "--queries", "asked.txt"]
    registry = Registry(kb)

    def status() -> Any:
        from ragself.engine.status import read_status

        return dataclasses.asdict(read_status(kb))

    def passes() -> int:
        return sum("report" in event for event in registry.history())

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: registry.exists and passes() == 1, process)
        write(tmp_path / "more", chunks[300:])
        (tmp_path / "more").rename(docs / "more")  # all at once
        until(lambda: "84 chunks" in ((status()["learning"] or {}).get("started") or ""), process)
        write(docs, [Chunk("meanwhile", another(chunks, 5), {"title": "taken over during a pass"})])
        until(lambda: status()["chunks"] == 385, process)
        until(lambda: passes() == 2, process)
        write(docs, [Chunk("extra", another(chunks, 4), {"title": "too little to learn from"})])
        found = subprocess.run(
            [sys.executable, "-m", "ragself", "status", "--kb", str(kb), "--json"], capture_output=True, text=True
        )
        assert "ragself watch" in json.loads(found.stdout)["writer"] or "__main__" in json.loads(found.stdout)["writer"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    events = [event for event in registry.history() if "report" in event]
    assert [event["started"] for event in events] == [
        "ragself watch: the first pass",
        "ragself watch: 84 chunks are new, changed or gone",
    ]
    assert events[0]["event"] == "promote"
    assert "chunks added or changed" in err
    assert "version" in out
    assert registry.live() >= 1


def test_watch_once_learns_where_anything_is_new(
    filled: Path, tiny_model: Path, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asked.txt").write_text("\n".join(asked))
    monkeypatch.setenv("RAGSELF_ENCODER__MODEL", str(tiny_model))

    def once(code: int = 0) -> dict[str, Any]:
        command = [sys.executable, "-m", "ragself", "watch", "--once", "--kb", str(filled), "--json", "-q"]
        done = subprocess.run([*command, "--queries", str(tmp_path / "asked.txt")], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    monkeypatch.setenv("RAGSELF_WATCH__MEMORY", "0.2")
    assert "watch.memory" in once(1)["error"]
    monkeypatch.delenv("RAGSELF_WATCH__MEMORY")
    first = once()
    assert first["report"]["decision"] == "promote"
    second = once()
    assert (second["report"], second["passes"], second["waiting"]) == (None, 0, "nothing is new")


def test_a_promotion_that_was_right_stays(filled: Path, settings: Config, asked: list[str]) -> None:
    """By queries of the same kind that came after it, a good version looks as good as the gate found it."""
    with KnowledgeBase(filled, config=remembering(settings)) as kb:
        figures = kb.adapt(asked[::2]).figures
        for query in asked[1::2]:
            kb.search(query, 1)
        review = review_promotion(kb.engine, kb.config)
        assert review is not None
        gate = next(figure for name, figure in figures.items() if name.startswith("utility"))
        assert review.rose > review.fell
        assert review.change == pytest.approx(gate["change"], abs=0.01)
        assert review.low > 0
        Guard(kb).poll(threading.Event())
        assert kb.status().live.number == 1

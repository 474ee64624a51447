"""Learning in the background: what is followed is looked at before each pass, and what fails is told."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import chromadb
import pytest

from ragself import Chunk, Config, KnowledgeBase
from ragself.background.runner import BackgroundAdaptation, BackgroundStatus
from ragself.encoders.encoder import Encoder
from ragself.errors import InputError, StoreError


def impatient(config: Config) -> Config:
    """The settings, for who does not want to wait."""
    return config.model_copy(update={"watch": config.watch.model_copy(update={"poll": 0.05, "rest": 0.0})})


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_collection_that_is_followed_is_looked_at_first(
    settings: Config, chunks: list[Chunk], asked: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [chunk.text for chunk in chunks]
    with closing(chromadb.PersistentClient(str(tmp_path / "theirs"))) as client:
        collection = client.create_collection("theirs", embedding_function=None)
        rows = {"embeddings": Encoder(settings.encoder).documents(texts), "documents": texts}
        collection.add(ids=[chunk.id for chunk in chunks], **rows)  # type: ignore[arg-type]
        with KnowledgeBase.adopt(tmp_path / "kb", collection, config=settings) as kb:
            collection.delete(ids=["t0-0"])
            background = BackgroundAdaptation(kb, iter(asked), every=3600)
            background.start()
            until(lambda: background.status().passes == 1)
            first = background.status()
            assert background.stop()
            assert first.error is None
            assert first.report is not None
            assert first.report.documents == kb.status().chunks == len(chunks) - 1

            client.delete_collection("theirs")
            kb.add([Chunk("mine", "notulu zonodo papaba mesori")])
            kb.config = impatient(kb.config)
            background = BackgroundAdaptation(kb, asked, every=0.1)
            with caplog.at_level(logging.WARNING, "ragself.background.runner"):
                background.start()
                until(lambda: background.status().passes == 1)
            second = background.status()
            assert background.stop()
            assert isinstance(second.error, StoreError)
            assert "'theirs' is gone" in caplog.text
            assert "the pass failed" not in caplog.text  # no pass has to wait for that
            assert second.report is not None
            assert second.report != first.report  # it learned nevertheless, and from the same queries
            assert second.report.probes["traffic"] == first.report.probes["traffic"]
            assert kb.status().chunks == len(chunks)


@pytest.fixture
def kb(filled: Path, settings: Config) -> Iterator[KnowledgeBase]:
    with KnowledgeBase(filled, config=settings) as kb:
        yield kb


def test_what_is_no_time_between_passes(kb: KnowledgeBase) -> None:
    for every in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="seconds, expected more than 0"):
            BackgroundAdaptation(kb, every=every)
    assert BackgroundAdaptation(kb).status() == BackgroundStatus()
    assert BackgroundAdaptation(kb).stop()


def test_it_says_when_it_does_not_stop_in_time(kb: KnowledgeBase) -> None:
    begun: list[float] = []

    def slow() -> list[str]:
        begun.append(time.monotonic())
        time.sleep(0.5)
        return []

    background = BackgroundAdaptation(kb, slow)
    background.start()
    until(lambda: bool(begun))
    assert not background.stop(timeout=0.01)
    assert background.status().running
    assert background.stop(timeout=60)
    assert not background.status().running


def test_it_begins_anew_after_a_stop_that_did_not_come_in_time(kb: KnowledgeBase, asked: list[str]) -> None:
    begun: list[float] = []

    def slow() -> list[str]:
        begun.append(time.monotonic())
        time.sleep(0.5)
        return asked

    kb.start_adapting(slow)
    until(lambda: bool(begun))
    assert not kb.stop_adapting(timeout=0.01)
    kb.start_adapting(asked)
    until(lambda: kb.adapting().passes == 1)
    assert kb.adapting().running
    assert len(begun) == 1
    assert kb.stop_adapting()
    kb.add([Chunk("new", "notulu zonodo papaba mesori")])
    kb.config = impatient(kb.config)
    background = BackgroundAdaptation(kb, slow, every=0.1)
    background.start()
    until(lambda: len(begun) == 2)
    assert not background.stop(timeout=0.01)
    background.start()
    until(lambda: background.status().passes == 1)
    assert len(begun) == 3
    assert background.stop()


ENDS = """
import sys, time
from ragself import KnowledgeBase
from ragself.background.runner import BackgroundAdaptation
from tests.conftest import queries

background = BackgroundAdaptation(KnowledgeBase(sys.argv[1]), queries())
background.start()
while not (background.status().stage or "").startswith(sys.argv[2]):
    assert background.status().passes == 0, background.status()
    time.sleep(0.001)
print("bye", flush=True)
"""


@pytest.mark.parametrize("stage", ["encode", "train"])
def test_a_program_may_end_amid_a_pass(stage: str, filled: Path) -> None:
    command = [sys.executable, "-c", ENDS, str(filled), stage]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "bye\n", "")


def test_queries_are_read_from_a_file_at_each_pass(kb: KnowledgeBase, asked: list[str], tmp_path: Path) -> None:
    file = tmp_path / "asked.txt"
    file.write_text("\n".join(asked[:100]))
    seen: list[int] = []
    kb.config = impatient(kb.config)
    background = BackgroundAdaptation(kb, file, every=0.1)
    for count in (0, 100):
        file.write_text("\n".join(asked[:count]))
        before = background.status().passes
        background.start()
        until(lambda before=before: background.status().passes > before)  # type: ignore[misc]
        assert background.stop()
        report = background.status().report
        assert report is not None
        seen.append(sum(report.probes.get("traffic", {}).values()))
    assert 0 == seen[0] < seen[1] == 100


def test_what_it_cannot_learn_from_is_told_at_once(kb: KnowledgeBase, caplog: pytest.LogCaptureFixture) -> None:
    for wrong in ("asked.txt", [None], b"x"):
        with pytest.raises(InputError, match="queries"):
            kb.start_adapting(wrong)  # type: ignore[arg-type]
    with kb:
        kb.start_adapting()
        with caplog.at_level(logging.WARNING, "ragself"):
            kb.start_adapting(["more"])
        assert "is training already" in caplog.text
    assert not kb.adapting().running
    with pytest.raises(StoreError, match="was closed"):
        kb.start_adapting()


def test_it_stops_amid_reading_files_and_goes_on_there(settings: Config, chunks: list[Chunk], tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for chunk in chunks[:6]:
        (docs / f"{chunk.id}.md").write_text(chunk.text)
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        background, stopping = BackgroundAdaptation(kb, folders=[docs]), threading.Event()
        stopping.set()
        assert background.once(stopping).error is None
        assert kb.status().chunks == 0
        stopping.clear()
        assert background.once(stopping).error is None
        assert kb.status().chunks == 6


def test_queries_that_cannot_be_read_are_complained_of_once(
    kb: KnowledgeBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kb.config = impatient(kb.config)
    background = BackgroundAdaptation(kb, tmp_path / "asked.txt")
    background.start()
    until(lambda: background.status().error is not None)
    time.sleep(0.5)
    assert isinstance(background.status().error, InputError)
    assert [line for line in caplog.messages if "Cannot read the queries" in line] == [
        line for line in caplog.messages if line.startswith("training did not start: ")
    ][:1]
    (tmp_path / "asked.txt").write_text("")
    until(lambda: background.status().error is None)  # also before there is a pass
    (tmp_path / "asked.txt").write_text("notulu zonodo\n")
    until(lambda: background.status().passes == 1)
    assert background.stop()
    assert background.status().error is None

"""Whole passes on a corpus that can be learned from: promotion, history, rollback, export, and what leaves it alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ragself import Chunk, Config, Embedder, KnowledgeBase, Report
from ragself.config import load
from ragself.errors import InputError, StoreError
from ragself.evaluation.calibration import Calibration
from tests.integration.conftest import Child
from tests.integration.helpers import another, assert_right, contents, exact, segments

Promoted = tuple[Path, Report]
QUERY = "papaba mesori pameri notulu"  # words of the first topic


def found(kb: KnowledgeBase, chunks: Sequence[Chunk]) -> float:
    """Mean reciprocal rank at 10 of chunks that are asked for by their titles."""
    ranks = [[hit.id for hit in kb.search(str(chunk.title), 10)] for chunk in chunks]
    return float(
        np.mean([1 / (1 + ids.index(c.id)) if c.id in ids else 0 for c, ids in zip(chunks, ranks, strict=True)])
    )


def test_a_pass_promotes_and_search_improves(
    filled: Path, promoted: Path, settings: Config, chunks: list[Chunk], promoted_template: Promoted
) -> None:
    report = promoted_template[1]
    assert (report.version, report.documents) == (1, len(chunks))
    assert report.figures["ndcg@10"]["low"] > 0
    assert {"probes", "study", "train", "judge", "re-embed"} <= report.seconds.keys()
    with KnowledgeBase(filled, config=settings) as before, KnowledgeBase(promoted, config=settings) as after:
        was, now = found(before, chunks), found(after, chunks)
        assert now > was + 0.02
        scores = exact(after)
        for chunk in chunks[::24]:
            hits = after.search(str(chunk.title), 10, mode="vector")
            assert_right(hits, scores(str(chunk.title)), 10)
            assert {hit.version for hit in hits} == {1}


def test_history_and_status_tell_of_it(promoted: Path, settings: Config, promoted_template: Promoted) -> None:
    report = promoted_template[1]
    with KnowledgeBase(promoted, config=settings) as kb:
        create, event = kb.history()
        status = kb.status()
    assert create["event"] == "create"
    assert (event["event"], event["version"], event["before"]) == ("promote", 1, 0)
    assert event["reason"] == report.reason
    assert event["report"]["figures"] == json.loads(json.dumps(report.figures))
    assert status.live.number == 1
    assert status.live.figures == report.figures
    assert [version.number for version in status.versions] == [0, 1]
    assert status.last == event
    assert status.writer is None


def test_rollback_there_and_back_keeps_what_was_added_since(
    promoted: Path, settings: Config, chunks: list[Chunk]
) -> None:
    new, changed = another(chunks, 5), another(chunks, 100)
    query = str(chunks[7].title)
    with KnowledgeBase(promoted, config=settings) as kb:
        kb.add([Chunk("new", new), Chunk("t0-0", changed)])
        kb.delete(["t0-1"])
        for number, way in ((0, None), (1, None), (0, 0)):
            assert kb.rollback(way).number == number
            hit = kb.search(new, 1)[0]
            assert (hit.id, hit.version) == ("new", number)
            assert kb.search(changed, 1)[0].text == changed
            everything = {hit.id for hit in kb.search(query, 1000)}
            assert len(everything) == len(chunks)
            assert "t0-1" not in everything
            assert_right(kb.search(query, 10, mode="vector"), exact(kb)(query), 10)
        assert [event["event"] for event in kb.history()][-3:] == ["rollback"] * 3
        for impossible, said in ((0, "live already"), (7, "no version 7. Versions here: 0, 1")):
            with pytest.raises(InputError, match=re.escape(said)):
                kb.rollback(impossible)


def test_documents_unlike_all_others_are_found_after_a_rollback(
    promoted: Path, settings: Config, tmp_path: Path
) -> None:
    lone = {"new": "sokime notudo someki", "t0-0": "tubazo ripame"}  # short, where all others have 40 words
    for number in range(8):  # each graph is another one
        with KnowledgeBase(shutil.copytree(promoted, tmp_path / str(number)), config=settings) as kb:
            kb.add([Chunk(id, text) for id, text in lone.items()])
            kb.delete(["t0-1"])
            kb.rollback(0)
            assert {id: kb.search(text, 1)[0].id for id, text in lone.items()} == {id: id for id in lone}


def test_gc_keeps_what_can_be_needed_and_leaves_no_orphan(
    promoted: Path, tiny_model: Path, asked: list[str], chunks: list[Chunk]
) -> None:
    settings = load(None, encoder={"model": str(tiny_model)}, keep_versions=1)
    with KnowledgeBase(promoted, config=settings) as kb:
        for extra in range(2):  # each promotes a version anew, from version 0
            kb.rollback(0)
            kb.add([Chunk(f"extra {extra}", another(chunks, extra))])
            assert kb.adapt(asked).version == extra + 2
        assert len(segments(promoted)) == 4
        done = kb.gc()
        assert [v.number for v in kb.status().versions] == [0, 2, 3]  # the first, the live one, and one more
        assert any(line.startswith("removed version 1 (") for line in done)
        assert len(segments(promoted)) == 3
        assert sorted(path.name for path in (promoted / "versions").iterdir()) == ["0000", "0002", "0003"]
        assert kb.gc() == []
        assert_right(kb.search(QUERY, 10, mode="vector"), exact(kb)(QUERY), 10)
        assert kb.rollback().number == 0
        kb.add([Chunk("extra 2", another(chunks, 2))])
        assert kb.adapt(asked).version == 4  # a number is never used twice


def test_gc_removes_what_was_never_finished(promoted: Path, settings: Config) -> None:
    for folder in (promoted / "versions" / "0007", promoted / "mine"):
        folder.mkdir()
        (folder / "file").write_text("left behind")
    with KnowledgeBase(promoted, config=settings) as kb:
        assert kb.gc() == ["removed unfinished 0007"]
    assert (promoted / "mine").exists()  # nothing of ragself's
    assert len(segments(promoted)) == 2


def test_an_export_makes_the_live_vectors_and_tells_nothing(
    promoted: Path, settings: Config, tiny_model: Path, chunks: list[Chunk], asked: list[str], tmp_path: Path
) -> None:
    with KnowledgeBase(promoted, config=settings) as kb:
        files = kb.export(tmp_path / "out")
        with pytest.raises(InputError, match="not an empty folder"):
            kb.export(tmp_path / "out")
        vectors, _ = kb.engine.store.snapshot(1).index.vectors([chunk.id for chunk in chunks])
        best = [hit.id for hit in kb.search(asked[0], 5, mode="vector")]
    assert {file.name for file in files} == {"adapter.safetensors", "ragself.json", "README.md"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "residual adapter" in card
    assert f"{len(chunks)} chunks" in card
    assert "with words as hashes" in card
    assert "compared by cosine" in card
    embedder = Embedder.load(tmp_path / "out", str(tiny_model))
    made = embedder.documents([chunk.text for chunk in chunks])
    np.testing.assert_allclose(made, vectors, atol=1e-5)
    order = np.argsort(-(embedder.queries([asked[0]]) @ made.T)[0])[:5]
    assert [chunks[row].id for row in order] == best

    words = {word for chunk in chunks for word in chunk.text.split()} | {w for query in asked for w in query.split()}
    secrets = [*words, *(chunk.id for chunk in chunks), str(promoted), str(tiny_model.parent), str(tmp_path)]
    for file in files:
        data = file.read_bytes().lower()
        assert [secret for secret in secrets if secret.lower().encode() in data] == [], file


def test_the_base_model_can_be_exported_too(
    filled: Path, settings: Config, tiny_model: Path, chunks: list[Chunk], tmp_path: Path
) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        assert {file.name for file in kb.export(tmp_path / "out")} == {"ragself.json", "README.md"}
        vectors, _ = kb.engine.store.snapshot(0).index.vectors([chunks[0].id])
    card = (tmp_path / "out" / "README.md").read_text()
    assert [claim for claim in ("Fitted", "adapter for", "passed ragself's gate", "hashes") if claim in card] == []
    assert "compared by cosine" in card
    made = Embedder.load(tmp_path / "out", str(tiny_model)).documents([chunks[0].text])
    np.testing.assert_allclose(made, vectors, atol=1e-5)


def test_a_second_pass_starts_from_the_promoted_version(
    promoted: Path, settings: Config, asked: list[str], chunks: list[Chunk], promoted_template: Promoted
) -> None:
    first = promoted_template[1].figures["ndcg@10"]
    with KnowledgeBase(promoted, config=settings) as kb:
        was = found(kb, chunks[::6])
        report = kb.adapt(asked)
        live = kb.status().live.number
        assert live == report.version == (2 if report.decision == "promote" else 1)
        assert report.figures["ndcg@10"]["before"] > first["before"] + 0.02  # judged against version 1, not 0
        assert found(kb, chunks[::6]) > was - 0.05
        assert_right(kb.search(QUERY, 10, mode="vector"), exact(kb)(QUERY), 10)
        assert kb.history()[-1]["event"] == report.decision


@pytest.mark.parametrize("few", [0, 1, 99])
def test_too_few_documents(tmp_path: Path, settings: Config, chunks: list[Chunk], asked: list[str], few: int) -> None:
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add(chunks[:few])
        report = kb.adapt(asked)
        assert (report.decision, report.version, report.kind) == ("keep", 0, None)
        assert report.reason == f"only {few} chunks, at least 100 are needed to train; add documents"
        assert kb.history()[-1]["reason"] == report.reason
        assert len(kb.search("notulu", 10)) == min(few, 10)


def test_no_probes(tmp_path: Path, settings: Config, chunks: list[Chunk]) -> None:
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add([Chunk(c.id, c.text.replace(" ", " == ")) for c in chunks])  # no titles, nothing that reads as prose
        report = kb.adapt(["", "  ", "?!"])
        assert (report.decision, report.version) == ("keep", 0)
        assert "only 0 held-out probes" in report.reason
        assert report.dropped == {"query without a word": 3}
        assert len(kb.search("notulu", 10)) == 10


def test_queries_that_teach_nothing_change_nothing(filled: Path, settings: Config) -> None:
    strange = [f"xq{number} zz{number * 7}" for number in range(300)]  # words that no document has
    with KnowledgeBase(filled, config=settings) as kb:
        before = kb.search(QUERY, 10)
        report = kb.adapt(strange)
        assert report.decision == "keep"
        assert kb.search(QUERY, 10) == before
        assert len(segments(filled)) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("free", [0, 100_000, 800_000])
def test_a_full_disk_leaves_the_live_version_alone(
    filled_template: Path, disk: Path, settings: Config, asked: list[str], spawn: Callable[..., Child], free: int
) -> None:
    folder = shutil.copytree(filled_template, disk / "kb")
    (disk / "asked.json").write_text(json.dumps(asked))
    before = contents(folder / "versions"), (folder / "live.json").read_bytes()
    before = {name: mark for name, mark in before[0].items() if "chroma" not in name}, before[1]  # it writes to read
    # With this much room it is Chroma that meets the end of it. Now and then it never answers that process again.
    ask = free < 800_000
    child = spawn("starved", kb=folder, asked=disk / "asked.json", ballast=disk / "ballast", free=free, ask=ask)
    result = child.result()
    assert result["error"], "it had room enough"
    assert re.search(r"free some space", result["error"], re.IGNORECASE), result["error"]
    assert result["same"] == [True, True] * ask  # the process that met it still answers
    now = contents(folder / "versions")
    assert {name: now[name] for name in before[0] if "chroma" not in name} == before[0]
    assert (folder / "live.json").read_bytes() == before[1]
    with KnowledgeBase(folder, config=settings) as kb:
        assert_right(kb.search(QUERY, 10, mode="vector"), exact(kb)(QUERY), 10)
        assert kb.adapt(asked).decision == "promote"


def test_an_export_to_where_nothing_can_be_written(promoted: Path, settings: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with KnowledgeBase(promoted, config=settings) as kb, pytest.raises((StoreError, InputError)):
        kb.export(tmp_path / "file" / "out")


@pytest.fixture
def twice(filled_template: Path, promoted: Path, settings: Config, asked: list[str], tmp_path: Path) -> list[Path]:
    """Two knowledge bases that went through the same pass."""
    again = Path(shutil.copytree(filled_template, tmp_path / "again"))
    with KnowledgeBase(again, config=settings) as kb:
        assert kb.adapt(asked).decision == "promote"
    return [promoted, again]


def test_the_same_pass_twice_learns_the_same(twice: list[Path]) -> None:
    for name in ("versions/0001/adapter", "pass/weights", "pass/residual"):
        one, other = (load_file(folder / f"{name}.safetensors") for folder in twice)
        assert one.keys() == other.keys()
        assert all(one[key].tobytes() == other[key].tobytes() for key in one)
    first, second = (json.loads((folder / "versions" / "0001" / "version.json").read_text()) for folder in twice)
    assert {**first, "created": None} == {**second, "created": None}


def test_the_same_pass_twice_makes_the_same_bytes(twice: list[Path]) -> None:
    one, other = (folder / "versions" / "0001" / "adapter.safetensors" for folder in twice)
    assert one.read_bytes() == other.read_bytes()


def test_what_was_judged_and_why_nothing_was_trained_is_told(filled: Path, settings: Config, asked: list[str]) -> None:
    few = settings.model_copy(update={"probes": settings.probes.model_copy(update={"min_train": 10_000})})
    with KnowledgeBase(filled, config=few) as kb:
        report = kb.adapt(asked)
    assert (report.decision, report.candidate, report.candidates) == ("keep", None, ())
    assert report.reason.startswith(
        f"nothing was trained: {report.probes['traffic']['train']} probes to train on, 10000 are needed; and no scale"
    )
    with KnowledgeBase(filled, config=settings) as kb:
        report = kb.adapt(asked)
    assert report.candidate in {row["name"] for row in report.candidates}
    assert len(report.candidates) > 1
    assert "nothing was trained" not in report.reason


def test_a_likelihood_that_helps_nothing_teaches_nothing(
    filled: Path, settings: Config, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragself.cycle.weigh", lambda *_, **__: Calibration(0.0, "hard known items say so"))
    with KnowledgeBase(filled, config=settings) as kb:
        report = kb.adapt(asked)
        assert (report.decision, report.kind, len(report.candidates)) == ("keep", None, 0)
        assert report.reason.endswith("(hard known items say so)")
        assert (report.weight["weight"], report.weight["reason"]) == (0.0, "hard known items say so")
        assert kb.status().live.number == 0


def test_documents_that_echo_the_queries_are_told_of_and_gain_nothing(
    filled: Path, settings: Config, chunks: list[Chunk], asked: list[str]
) -> None:
    draw = np.random.default_rng(0)
    several = [" Buy now. ".join(asked[row] for row in draw.permutation(len(asked))[:10]) for _ in range(80)]
    with KnowledgeBase(filled, config=settings) as kb:
        kb.add([Chunk(f"echo-{row}", text) for row, text in enumerate(several)])
        report = kb.adapt(asked)
        found = [name for name in report.dropped if name.startswith("document that repeats")]
        assert [report.dropped[name] > 40 for name in found] == [True]
        seen = [hit.id.startswith("echo") for query in asked[::20] for hit in kb.search(query, 3)]
        kb.rollback(0)
        before = [hit.id.startswith("echo") for query in asked[::20] for hit in kb.search(query, 3)]
    assert np.mean(seen) <= np.mean(before)

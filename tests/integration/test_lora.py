"""A pass that tunes the encoder: from training to search, and after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragself import Chunk, Config, Embedder, KnowledgeBase, cycle
from ragself.config import load
from ragself.encoders.encoder import Encoder
from tests.integration.helpers import another, assert_right, exact, segments

QUERY = "papaba mesori pameri notulu"


def tuning(tiny_model: Path, **train: Any) -> Config:
    return load(None, encoder={"model": str(tiny_model)}, train={"seed": 0, **train})


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts lora before the gate, whichever is best; names of the candidates that there were."""
    names: list[str] = []
    choose = cycle.choose

    def lora(dataset: Any, rankings: Any, *given: Any) -> Any:
        found = choose(dataset, rankings, *given)
        names.extend(str(row["name"]) for row in found.table if " x " not in row["name"])
        return replace(found, name="lora", ranking=rankings["lora"])

    monkeypatch.setattr(cycle, "choose", lora)
    return names


@pytest.mark.parametrize("sides", ["query", "both"])
def test_a_tuned_encoder_is_promoted_under_a_residual_and_serves(
    sides: str,
    filled: Path,
    tiny_model: Path,
    chunks: list[Chunk],
    asked: list[str],
    chosen: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = tuning(tiny_model, adapters=("lora", "residual"), lora={"sides": sides, "steps": 6, "rank": 4})
    read: list[str] = []
    encode = Encoder.documents
    monkeypatch.setattr(Encoder, "documents", lambda self, texts: (read.extend(texts), encode(self, texts))[1])
    with KnowledgeBase(filled, config=settings) as kb:
        report = kb.adapt(asked)
        assert chosen == ["residual", "lora"]
        assert (report.decision, report.version, report.kind) == ("promote", 1, "lora"), report.reason
        texts = [chunk.text for chunk in chunks]
        # Documents have base vectors, and 8 are read by either encoder to check the index. With both sides each is
        # read once more, for judging and the new index together, and 33 to tell how long that takes.
        assert sum(read.count(text) for text in texts) <= 16 + (len(texts) + 33 if sides == "both" else 0)
        new = another(chunks, 5)
        kb.add([Chunk("new", new)])
        assert kb.search(new, 1)[0].id == "new"
        assert_right(kb.search(QUERY, 10, mode="vector"), exact(kb)(QUERY), 10)
        hits = [hit.id for hit in kb.search(QUERY, 10)]
        kb.export(tmp_path / "out")
        assert kb.gc() == []
        assert kb.rollback().number == 0
        assert kb.rollback(1).kind == "lora"
    with KnowledgeBase(filled, config=settings) as kb:
        assert [hit.id for hit in kb.search(QUERY, 10)] == hits
        vectors, _ = kb.engine.store.snapshot(1).index.vectors([chunk.id for chunk in chunks])
    embedder = Embedder.load(tmp_path / "out", model=str(tiny_model))
    np.testing.assert_allclose(embedder.documents(texts), vectors, atol=1e-5)


def test_a_tuned_query_side_alone_shares_the_vectors_of_the_documents(
    filled: Path, tiny_model: Path, chunks: list[Chunk], asked: list[str], chosen: list[str]
) -> None:
    settings = tuning(tiny_model, adapters=("weights", "lora"), lora={"steps": 6, "rank": 4})
    before = segments(filled)
    with KnowledgeBase(filled, config=settings.model_copy(update={"gate": lenient(settings)})) as kb:
        report = kb.adapt(asked)
        assert chosen == ["weights", "lora"]
        assert (report.decision, report.kind) == ("promote", "lora"), report.reason
        ranking = kb.engine.store.ranking(kb.engine.store.registry.version(1))
        assert ranking.kind == "lora"
        assert ranking.weights.digest  # LoRA was trained under those weights
        assert "re-embed" not in report.seconds
        assert segments(filled) == before
        assert_right(kb.search(QUERY, 10, mode="vector"), exact(kb)(QUERY), 10)
        kb.add([Chunk("new", another(chunks, 5))])
        assert kb.rollback().number == 0
        assert kb.search(another(chunks, 5), 1)[0].id == "new"


def lenient(settings: Config) -> Any:
    """A gate that lets pass whatever does not harm beyond doubt."""
    return settings.gate.model_copy(update={"confidence": 0.51, "gain": 0.0, "margin": 1.0})


class Killed(Exception):
    pass


def test_a_pass_that_was_killed_goes_on_with_its_training(
    filled: Path, tiny_model: Path, asked: list[str], chosen: list[str]
) -> None:
    def kill(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("train lora", 22):
            raise Killed

    seen: list[int] = []

    def note(stage: str, done: int, total: int) -> None:
        if stage == "train lora":
            seen.append(done)

    with KnowledgeBase(filled, config=tuning(tiny_model, adapters=("lora",), lora={"steps": 24, "rank": 4})) as kb:
        with pytest.raises(Killed):
            kb.adapt(asked, progress=kill)
        assert (filled / "pass" / "lora-state.safetensors").exists()
        kb.adapt(asked, progress=note)
    assert seen[0] == 21
    assert chosen == ["lora"]
    assert not (filled / "pass" / "lora-state.safetensors").exists()

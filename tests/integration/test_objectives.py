"""Whole passes that lower a language model's own loss, by DREAM and by Revela, and what stops them."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ragself import Chunk, Config, KnowledgeBase, cycle
from ragself.config import load
from ragself.errors import ConfigError, GeneratorError
from ragself.lm.causal import CausalLM
from ragself.probes.supervision import Supervision, inside
from ragself.training.dream.contexts import Contexts
from tests.benchmarks.planted import SYLLABLES
from tests.integration.golden import assert_golden
from tests.integration.helpers import assert_right, exact
from tests.language_models import copying_model

FORMS = ("The {} valve on {} is set to {}. Ask {} in the {} room for {}.", "{} or {} for {}, and {}, {}, {}.")
OBJECTIVES = ("dream", "revela")


def notes(objective: str) -> tuple[list[Chunk], list[str]]:
    """Short notes of made-up words, with some as a title; and queries. For Revela two notes of the same words each."""
    draw = random.Random(0)
    chunks, asked = [], []
    together = 2 if objective == "revela" else 1
    for number in range(120 // together):
        words = ["".join(draw.choices(SYLLABLES, k=3)) for _ in range(6)]
        asked.append(" ".join(draw.sample(words, 3)))
        for form in range(together):
            title = " ".join(draw.sample(words, 3))
            chunks.append(Chunk(f"n{number}-{form}", FORMS[form].format(*draw.sample(words, 6)), {"title": title}))
    return chunks, asked


ASKED = {objective: notes(objective)[1] for objective in OBJECTIVES}


@pytest.fixture(scope="module")
def copier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a language model that copies, wired and not trained."""
    return copying_model(tmp_path_factory.mktemp("generators") / "copier", steps=0)


@pytest.fixture(scope="module")
def templates(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {objective: tmp_path_factory.mktemp("noted") / "kb" for objective in OBJECTIVES}
    for objective, folder in folders.items():
        with KnowledgeBase(folder, config=settings(tiny_model)) as kb:
            kb.add(notes(objective)[0])
    return folders


@pytest.fixture
def noted(templates: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Knowledge bases of notes that look alike but for their jargon, which the copier can copy: one an objective."""
    return {objective: Path(shutil.copytree(folder, tmp_path / objective)) for objective, folder in templates.items()}


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that lets everything pass: the untrained ranking finds all of these notes already."""
    confirm = cycle.confirm
    monkeypatch.setattr(cycle, "confirm", lambda *given: replace(confirm(*given), promote=True))


def settings(tiny_model: Path, **train: Any) -> Config:
    few = {
        "steps": 11,
        "tokens": 64,
        "dream": {"documents": 4},
        "revela": {"chunks": 8},
        "lora": {"steps": 4, "rank": 4},
    }
    generator = {"candidates": 8, "pairs": 2200, "context": 64}
    probes = {"questions": 0, "known_items": 120, "min_train": 20}
    return load(None, encoder={"model": str(tiny_model)}, train=few | train, generator=generator, probes=probes)


@pytest.mark.usefixtures("passing")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_golden_a_whole_pass_trains_all_kinds_and_what_it_makes_serves(
    objective: Any, noted: dict[str, Path], tiny_model: Path, copier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tiny_model, adapters=("weights", "residual", "lora"))
    splits, read = set[str](), Contexts.read
    note: Any = lambda self, probes, *rest: (splits.update(p.split for p in probes), read(self, probes, *rest))[1]
    monkeypatch.setattr(Contexts, "read", note)
    with KnowledgeBase(noted[objective], config=config) as kb:
        cost = kb.forecast(ASKED[objective], generator=str(copier), objective=objective)
        assert kb.forecast(ASKED[objective], generator=str(copier)).inside == 0
        assert cost.seconds["train"] > 0
        report = kb.adapt(ASKED[objective], generator=str(copier), objective=objective)
        read = sum(seen["tokens"] for seen in report.objective["seen"].values())
        assert cost.inside / 20 < read < 1.2 * cost.inside  # padding counts
        assert {row["name"] for row in report.candidates} >= {"weights", "residual", "lora"}
        assert report.objective["name"] == objective
        for kind in ("weights", "residual", "lora"):
            seen = report.objective["seen"][kind]
            assert seen["gap"] > seen["gap_error"]
            assert seen["loss"][1] <= seen["loss"][0]
            assert seen["steps"] > 0
        assert splits == ({"train", "select"} if objective == "dream" else set())  # the gate's own are not looked at
        assert (report.decision, report.version) == ("promote", 1), report.reason
        assert_right(kb.search(ASKED[objective][7], 10, mode="vector"), exact(kb)(ASKED[objective][7]), 10)
        event = json.loads((noted[objective] / "history.jsonl").read_text().splitlines()[-1])
        assert event["report"]["objective"]["seen"].keys() == {"weights", "residual", "lora"}
    assert_golden(objective, noted[objective])


class Killed(Exception):
    pass


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_pass_that_was_killed_goes_on_and_says_what_it_had_seen(
    objective: Any, noted: dict[str, Path], tiny_model: Path, copier: Path
) -> None:
    seen: list[tuple[str, int]] = []

    def kill(stage: str, done: int, total: int) -> None:
        if (stage, done) == (f"train residual by {objective}", 10):
            raise Killed

    with KnowledgeBase(noted[objective], config=settings(tiny_model)) as kb:
        with pytest.raises(Killed):
            kb.adapt(ASKED[objective], kill, generator=str(copier), objective=objective)
        assert (noted[objective] / "pass" / "residual-state.safetensors").exists()
        assert kb.status().live.number == 0
        told: Any = lambda *given: seen.append(given[:2])
        report = kb.adapt(ASKED[objective], told, generator=str(copier), objective=objective)
    assert next(each for each in seen if each[0].startswith("train")) == (f"train residual by {objective}", 11)
    assert set(report.objective["seen"]) == {"weights", "residual"}
    assert not list((noted[objective] / "pass").glob("*-state.safetensors"))


def untouched(kb: KnowledgeBase) -> bool:
    return kb.status().live.number == 0 and len(kb.search("hifeko", 5)) == 5


def test_without_a_language_model_here_it_is_refused_before_anything_is_done(
    noted: dict[str, Path], tiny_model: Path
) -> None:
    with KnowledgeBase(noted["dream"], config=settings(tiny_model)) as kb:
        with pytest.raises(ConfigError, match=r"dream trains on the loss of a language model.*none is named.*--gen"):
            kb.adapt(objective="dream")
        with pytest.raises(
            ConfigError, match=r"loaded in this process; the settings name a server. Also set generator.mod"
        ):
            kb.adapt(generator="http://127.0.0.1:9", objective="revela")
        with pytest.raises(ConfigError, match="objective = 'wish'"):
            kb.adapt(objective="wish")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="none is named"):  # a dry run says so, too
            kb.forecast(objective="revela")
        assert untouched(kb)
        assert not (noted["dream"] / "pass").exists()


def full(*given: Any, **named: Any) -> None:
    raise torch.OutOfMemoryError("no")


def blind(*given: Any, **named: Any) -> np.ndarray:
    return np.full((3, 8), -0.1)


@pytest.mark.parametrize(
    ("spoilt", "by", "reason"),
    [
        ("DreamLoss.accumulate_gradient", full, "cpu has no memory for a step of dream with weights"),
        ("gap", blind, r"nothing to learn by dream from this language model: over 8 texts .* by -0.100 nats"),
    ],
)
def test_what_goes_wrong_is_told_and_leaves_the_live_version_alone(
    spoilt: str,
    by: Any,
    reason: str,
    noted: dict[str, Path],
    tiny_model: Path,
    copier: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"ragself.training.dream.dream.{spoilt}", by)
    with KnowledgeBase(noted["dream"], config=settings(tiny_model)) as kb:
        with pytest.raises(GeneratorError, match=reason):
            kb.adapt(ASKED["dream"], generator=str(copier), objective="dream")
        assert untouched(kb)


def test_where_a_server_scores_the_model_that_it_serves_is_loaded_here(copier: Path) -> None:
    served = load(None, train={"objective": "dream"}, generator={"url": "http://127.0.0.1:9", "model": str(copier)})
    with inside(served, Supervision(served.generator)) as model:
        assert isinstance(model, CausalLM)
        assert model.white_box().layers == 2
    with inside(load(None), Supervision(served.generator)) as none:
        assert none is None


@pytest.mark.usefixtures("passing")
def test_the_language_model_may_learn_along(noted: dict[str, Path], tiny_model: Path, copier: Path) -> None:
    config = settings(tiny_model, adapters=("weights",), revela={"chunks": 8, "model": "lora"})
    with KnowledgeBase(noted["revela"], config=config) as kb:
        report = kb.adapt(ASKED["revela"], generator=str(copier), objective="revela")
        assert report.objective["seen"]["weights"]["steps"] > 0
        assert (report.decision, report.version) == ("promote", 1), report.reason

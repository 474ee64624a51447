from collections.abc import Sequence

import numpy as np
import pytest

from ragself.config import GateConfig
from ragself.learn import choose as module
from ragself.learn.choose import FADES, choose, confirm
from ragself.learn.study import Study
from ragself.models.residual import Residual
from ragself.schema import Probe

P = 80
Values = dict[str, np.ndarray]
CONFIG = GateConfig(min_probes=30)


@pytest.fixture
def study() -> Study:
    probes = tuple(Probe(str(n), "x", "x", "traffic", None, ("select", "confirm")[n % 2]) for n in range(P))
    nothing = np.full(P, -1)
    return Study(
        probes, ("x",) * 8, 8, np.eye(8, dtype=np.float32), np.ones((P, 8), np.float32),
        np.tile(np.arange(8), (P, 1)), np.tile(np.arange(8, dtype=np.float32), (P, 1)), nothing, nothing,
        np.full(P, 10), np.full(P, np.nan, np.float32), np.empty(0, np.int64),
    )  # fmt: skip


def size(adapter: Residual | None) -> float:
    return 0.0 if adapter is None else float(adapter.up.sum())


def judges(monkeypatch: pytest.MonkeyPatch, gain: dict[float, float], harm: dict[float, float]) -> list[Sequence[int]]:
    """Have adapters, known by their size, gain so much utility, and find known items so much worse."""
    asked = []

    def judge(study: Study, rows: np.ndarray, adapters: Sequence[Residual | None], *_: object) -> list[Values]:
        asked.append(rows.tolist())
        return [one(rows, adapter) for adapter in adapters]

    def one(rows: np.ndarray, adapter: Residual | None) -> Values:
        wobble = np.random.default_rng(0).normal(size=len(rows)) * 1e-3
        base = np.full(len(rows), 0.5)
        up, down = gain.get(size(adapter), 0.0), harm.get(size(adapter), 0.0)
        moved = base + up + (wobble if adapter is not None else 0)
        return {"utility": moved, "careful utility": moved, "ndcg": base - down}

    monkeypatch.setattr(module, "judge", judge)
    monkeypatch.setattr(module, "weights", lambda study, rows, config: np.ones(len(rows)))
    return asked


def sized(value: float) -> Residual:
    return Residual(np.ones((1, 1), np.float32), np.full((1, 1), value, np.float32))


def test_the_best_that_passes_is_chosen_and_none_is_faded(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    judges(monkeypatch, {1.0: 0.1, 2.0: 0.3, 4.0: 0.2}, {2.0: 0.2})
    found = choose(study, {"a": sized(1), "b": sized(2), "c": sized(4)}, None, 3.0, CONFIG)
    assert (found.name, size(found.adapter)) == ("c", 4.0)
    assert [(row["name"], row["passes"]) for row in found.table] == [("a", True), ("b", False), ("c", True)]


@pytest.mark.parametrize(
    ("gains", "harm", "chosen"),
    [
        ((0.3, 0.3), {}, "learned"),  # alike
        ((0.3, 0.2), {}, "plain"),  # better beyond doubt
        ((0.3, 0.3), {2.0: 0.2}, "plain"),  # the other does not pass
        ((0.3, 0.2), {1.0: 0.001}, "learned"),  # better, but known items are found worse
        ((0.2, 0.3), {}, "learned"),
    ],
)
def test_what_learned_nothing_must_be_better_beyond_doubt(
    study: Study, monkeypatch: pytest.MonkeyPatch, gains: tuple[float, float], harm: dict[float, float], chosen: str
) -> None:
    judges(monkeypatch, {1.0: gains[0], 2.0: gains[1]}, harm)
    found = choose(study, {"plain": sized(1), "learned": sized(2)}, None, 3.0, CONFIG, plain="plain")
    assert found.name == chosen
    assert len(found.table) == 2  # and nothing weaker was looked at


def test_one_that_learned_nothing_is_chosen_where_it_is_alone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    judges(monkeypatch, {1.0: 0.3}, {})
    assert choose(study, {"plain": sized(1)}, None, 3.0, CONFIG, plain="plain").name == "plain"


def test_where_none_passes_the_best_is_faded(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    judges(monkeypatch, {4.0: 0.3, 3.0: 0.25, 2.0: 0.2, 1.0: 0.1}, {4.0: 0.2, 3.0: 0.1})
    found = choose(study, {"a": sized(4)}, None, 3.0, CONFIG)
    assert (found.name, size(found.adapter)) == ("a x 0.5", 2.0)
    assert [row["name"] for row in found.table] == ["a", *(f"a x {alpha:g}" for alpha in FADES)]
    assert [row["passes"] for row in found.table] == [False, False, True, True]


def test_choosing_sees_the_select_split_alone_and_the_gate_the_confirm_split(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judges(monkeypatch, {1.0: 0.1}, {})
    choose(study, {"a": sized(1)}, None, 3.0, CONFIG)
    assert all(row % 2 == 0 for rows in asked for row in rows)
    asked.clear()
    assert confirm(study, sized(1), None, 3.0, CONFIG, 0).promote
    assert all(row % 2 == 1 for rows in asked for row in rows)

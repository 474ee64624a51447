from collections.abc import Sequence

import numpy as np
import pytest

from ragself.adapters.lora import Lora
from ragself.adapters.ranking import Ranking
from ragself.adapters.residual import Residual
from ragself.config import GateConfig
from ragself.evaluation import selection as module
from ragself.evaluation.selection import WEAKER, choose, confirm
from ragself.lexical.weights import Weights
from ragself.probes.dataset import Dataset
from ragself.schema import Probe
from tests.unit.datasets import by_hand

P = 80
Values = dict[str, np.ndarray]
CONFIG = GateConfig(min_probes=30)


@pytest.fixture
def dataset() -> Dataset:
    probes = tuple(Probe(str(n), "x", "x", "traffic", None, ("select", "confirm")[n % 2]) for n in range(P))
    return by_hand(probes, ("y",) * 8, np.ones((P, 8)), np.eye(8))


def size(ranking: Ranking) -> float:
    adapter = ranking.adapter
    if isinstance(adapter, Lora):
        return adapter.alpha
    return 0.0 if adapter is None else float(adapter.up.sum())


def judges(monkeypatch: pytest.MonkeyPatch, gain: dict[float, float], harm: dict[float, float]) -> list[Sequence[int]]:
    """Have rankings, known by their size, gain so much utility, and find known items so much worse."""
    asked = []

    def judge(dataset: Dataset, rows: np.ndarray, rankings: Sequence[Ranking], *_: object) -> list[Values]:
        asked.append(rows.tolist())
        return [one(rows, ranking) for ranking in rankings]

    def one(rows: np.ndarray, ranking: Ranking) -> Values:
        wobble = np.random.default_rng(0).normal(size=len(rows)) * 1e-3
        base = np.full(len(rows), 0.5)
        up, down = gain.get(size(ranking), 0.0), harm.get(size(ranking), 0.0)
        moved = base + up + (wobble if ranking.adapter is not None else 0)
        return {"utility": moved, "careful utility": moved, "ndcg": base - down}

    monkeypatch.setattr(module, "judge", judge)
    monkeypatch.setattr(module, "weights", lambda dataset, rows, config: np.ones(len(rows)))
    return asked


def sized(value: float) -> Ranking:
    return Ranking(Residual(np.ones((1, 1), np.float32), np.full((1, 1), value, np.float32)))


LIVE = Ranking()


def test_the_best_that_passes_is_chosen_and_none_weaker_is_looked_at(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges(monkeypatch, {1.0: 0.1, 2.0: 0.3, 4.0: 0.2}, {2.0: 0.2})
    found = choose(dataset, {"a": sized(1), "b": sized(2), "c": sized(4)}, LIVE, 3.0, CONFIG)
    assert (found.name, size(found.ranking)) == ("c", 4.0)
    assert [(row["name"], row["passes"]) for row in found.table] == [("a", True), ("b", False), ("c", True)]


def test_where_none_passes_weaker_ones_are_looked_at(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    judges(monkeypatch, {4.0: 0.3, 3.0: 0.25, 2.0: 0.2, 1.0: 0.1}, {4.0: 0.2, 3.0: 0.1})
    found = choose(dataset, {"a": sized(4)}, LIVE, 3.0, CONFIG)
    assert (found.name, size(found.ranking)) == ("a x 0.5", 2.0)
    assert [row["name"] for row in found.table] == ["a", *(f"a x {alpha:g}" for alpha in WEAKER)]
    assert [row["passes"] for row in found.table] == [False, False, True, True]


def test_choosing_sees_the_select_split_alone_and_the_gate_the_confirm_split(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judges(monkeypatch, {1.0: 0.1}, {})
    choose(dataset, {"a": sized(1)}, LIVE, 3.0, CONFIG)
    assert all(row % 2 == 0 for rows in asked for row in rows)
    asked.clear()
    assert confirm(dataset, sized(1), LIVE, 3.0, CONFIG, 0).promote
    assert all(row % 2 == 1 for rows in asked for row in rows)


def test_weaker_ones_lie_between_the_untrained_ranking_and_the_best_words_and_all(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges(monkeypatch, {4.0: 0.3, 3.0: 0.25, 2.0: 0.2, 1.0: 0.1}, {4.0: 0.2, 3.0: 0.1})
    best = Ranking(sized(4).adapter, Weights(0.21))
    found = choose(dataset, {"weak": sized(0.5), "a": best}, LIVE, 3.0, CONFIG)
    assert found.name == "a x 0.5"
    assert found.ranking.weights.language_model == pytest.approx(0.16)


def test_one_that_reads_all_documents_has_no_weaker_one(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    both, query = (Ranking(Lora({}, 4.0, 8, sides)) for sides in ("both", "query"))  # type: ignore[arg-type]
    judges(monkeypatch, {4.0: 0.3}, {4.0: 0.2})
    assert len(choose(dataset, {"lora": both}, LIVE, 3.0, CONFIG).table) == 1
    assert len(choose(dataset, {"lora": query}, LIVE, 3.0, CONFIG).table) == 1 + len(WEAKER)


def test_the_gate_is_told_how_many_were_seen_off(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    judges(monkeypatch, {1.0: 0.1}, {})
    told = []
    monkeypatch.setattr(module, "decide", lambda *given: told.append(given[-1]))
    confirm(dataset, sized(1), LIVE, 3.0, CONFIG, 7)
    assert told == [7]

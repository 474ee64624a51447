"""From several candidates to one, on the select split, and what the gate says of it, on the confirm split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragself.adapters.lora import reads
from ragself.adapters.ranking import Ranking
from ragself.config import GateConfig
from ragself.evaluation.gate import Decision, decide
from ragself.evaluation.judge import judge, weights
from ragself.probes.dataset import Dataset
from ragself.progress import Progress, silent

WEAKER = (0.75, 0.5, 0.25)  # of the way from the untrained ranking to a candidate, tried where none passes as it is


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate to put before the gate.

    Attributes:
        name: Its name, such as ``residual`` or ``residual x 0.5``.
        ranking: The candidate.
        table: Name, figures and reason of each that was looked at.
    """

    name: str
    ranking: Ranking
    table: list[dict[str, Any]]


def choose(
    dataset: Dataset,
    rankings: Mapping[str, Ranking],
    live: Ranking,
    weight: float,
    config: GateConfig,
    progress: Progress = silent,
) -> Choice:
    """The candidate that passes with the highest rise, of the select split; weaker ones where none passes.

    One candidate alone goes before the gate, so that many do not give chance many chances.

    Args:
        study: The probes.
        rankings: Candidates by name, at least one.
        live: What the live version ranks by.
        weight: The teacher's.
        config: Of the gate.
        progress: Told of rankings judged.
    """
    rows, depth = dataset.rows("select"), dataset.depth(config.k)
    counts, table, seen = weights(dataset, rows, config), list[dict[str, Any]](), dict(rankings)

    def look(some: Mapping[str, Ranking]) -> None:
        before, *after = judge(dataset, rows, [live, *some.values()], weight, config, progress)
        for name, values in zip(some, after, strict=True):
            found = decide(before, values, config, depth, counts)
            table.append({"name": name, "passes": found.promote, "reason": found.reason, "figures": found.figures})

    look(rankings)
    best = _best(table, depth, config.k)
    # Where none passes, one between the untrained ranking and the best may; but none that reads all documents.
    if not best["passes"] and not reads(seen[best["name"]].adapter, "document"):
        weaker = {f"{best['name']} x {alpha:g}": rankings[best["name"]].interpolated(alpha) for alpha in WEAKER}
        seen |= weaker
        look(weaker)
        best = _best(table, depth, config.k)
    return Choice(best["name"], seen[best["name"]], table)


def confirm(
    dataset: Dataset, ranking: Ranking, live: Ranking, weight: float, config: GateConfig, tries: int
) -> Decision:
    """What the gate says of a candidate on the confirm split.

    Args:
        study: The probes.
        ranking: The candidate.
        live: What the live version ranks by.
        weight: The teacher's.
        config: Of the gate.
        tries: Candidates that this live version has seen off before.
    """
    rows = dataset.rows("confirm")
    before, after = judge(dataset, rows, [live, ranking], weight, config)
    return decide(before, after, config, dataset.depth(config.k), weights(dataset, rows, config), tries)


def _best(table: list[dict[str, Any]], depth: int, k: int) -> dict[str, Any]:
    """The one with the largest sum of both changes, among those that pass if any does."""
    names = (f"utility@{depth}", f"ndcg@{k}")
    return max(table, key=lambda row: (row["passes"], sum(row["figures"].get(n, {}).get("change", 0.0) for n in names)))

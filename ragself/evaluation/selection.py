"""Selection of one candidate on the select split, and its evaluation by the gate on the confirm split."""

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

WEAKER = (0.75, 0.5, 0.25)  # interpolations between the untrained ranking and a candidate, tried if none passes


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate for the gate.

    Attributes:
        name: Its name, such as ``residual`` or ``residual x 0.5``.
        ranking: The candidate.
        table: Name, decision, reason and figures of each candidate that was evaluated.
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
    """Choose the candidate that passes with the highest rise on the select split; if none passes, try weaker ones.

    Only one candidate goes to the gate: more would make a success by chance more likely.

    Args:
        dataset: The probes.
        rankings: Candidates by name, at least one.
        live: Ranking of the live version.
        weight: The teacher's weight.
        config: Settings of the gate.
        progress: Called with the number of rankings evaluated and the total.
    """
    rows, depth = dataset.rows("select"), dataset.depth(config.k)
    counts, table, seen = weights(dataset, rows, config), list[dict[str, Any]](), dict(rankings)

    def evaluate(some: Mapping[str, Ranking]) -> None:
        before, *after = judge(dataset, rows, [live, *some.values()], weight, config, progress)
        for name, values in zip(some, after, strict=True):
            found = decide(before, values, config, depth, counts)
            table.append({"name": name, "passes": found.promote, "reason": found.reason, "figures": found.figures})

    evaluate(rankings)
    best = _best(table, depth, config.k)
    # If none passes, an interpolation of the best may; but not of one that encodes all documents again.
    if not best["passes"] and not reads(seen[best["name"]].adapter, "document"):
        weaker = {f"{best['name']} x {alpha:g}": rankings[best["name"]].interpolated(alpha) for alpha in WEAKER}
        seen |= weaker
        evaluate(weaker)
        best = _best(table, depth, config.k)
    return Choice(best["name"], seen[best["name"]], table)


def confirm(
    dataset: Dataset, ranking: Ranking, live: Ranking, weight: float, config: GateConfig, tries: int
) -> Decision:
    """The gate's decision on a candidate, on the confirm split.

    Args:
        dataset: The probes.
        ranking: The candidate.
        live: Ranking of the live version.
        weight: The teacher's weight.
        config: Settings of the gate.
        tries: Number of candidates that were rejected against this live version before.
    """
    rows = dataset.rows("confirm")
    before, after = judge(dataset, rows, [live, ranking], weight, config)
    return decide(before, after, config, dataset.depth(config.k), weights(dataset, rows, config), tries)


def _best(table: list[dict[str, Any]], depth: int, k: int) -> dict[str, Any]:
    """The row with the largest sum of both changes, among those that pass if any does."""
    names = (f"utility@{depth}", f"ndcg@{k}")
    return max(table, key=lambda row: (row["passes"], sum(row["figures"].get(n, {}).get("change", 0.0) for n in names)))

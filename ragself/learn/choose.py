"""From several candidates to one, on the select split, and what the gate says of it, on the confirm split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragself.config import GateConfig
from ragself.learn.gate import Decision, decide
from ragself.learn.judge import judge, weights
from ragself.learn.metrics import Values, bootstrap
from ragself.learn.study import Study
from ragself.models.adapter import Adapter
from ragself.models.lora import reads
from ragself.progress import Progress, silent

FADES = (0.75, 0.5, 0.25)  # of the way from the base model to a candidate, tried where no candidate passes as it is


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate to put before the gate.

    Attributes:
        name: Its name, such as ``hybrid`` or ``hybrid x 0.5``.
        adapter: The candidate.
        table: Name, figures and reason of each that was looked at.
    """

    name: str
    adapter: Adapter
    table: list[dict[str, Any]]


def choose(
    study: Study,
    adapters: Mapping[str, Adapter],
    live: Adapter | None,
    weight: float,
    config: GateConfig,
    progress: Progress = silent,
    plain: str | None = None,
) -> Choice:
    """The candidate that passes with the highest utility, of the select split; weaker ones where none passes.

    One candidate alone goes before the gate, so that many do not give chance many chances. One that learned nothing
    must be better beyond doubt than the best of those that did, and find known items as well: where judges differ,
    what was learned helped more often than not on the collections measured.

    Args:
        study: The probes.
        adapters: Candidates by name, at least one.
        live: Adapter of the live version; None for the base model.
        weight: The teacher's.
        config: Of the gate.
        progress: Told of documents that they rank.
        plain: Name of the candidate that learned nothing; None where there is none.
    """
    rows, depth = study.rows("select"), study.depth(config.k)
    counts, table, seen = weights(study, rows, config), list[dict[str, Any]](), dict(adapters)
    utilities: dict[str, Values] = {}

    def look(some: Mapping[str, Adapter]) -> None:
        before, *after = judge(study, rows, [live, *some.values()], weight, config, progress)
        for name, values in zip(some, after, strict=True):
            found, utilities[name] = decide(before, values, config, depth, counts), values["utility"]
            table.append({"name": name, "passes": found.promote, "reason": found.reason, "figures": found.figures})

    look(adapters)
    best = _best(table, depth)
    learned = [row for row in table if row["passes"] and row["name"] != plain]
    if best["name"] == plain and learned:
        second, item = _best(learned, depth), f"ndcg@{config.k}"
        ahead = bootstrap(utilities[best["name"]] - utilities[second["name"]], config.confidence, weights=counts)
        found = best["figures"][item]["after"] >= second["figures"][item]["after"]
        best = best if ahead.low > 0 and found else second
    # Where none passes, one between the base model and the best may do no harm; but none that reads all documents.
    if not best["passes"] and not reads(seen[best["name"]], "document"):
        weaker = {f"{best['name']} x {alpha:g}": adapters[best["name"]].faded(alpha) for alpha in FADES}
        seen |= weaker
        look(weaker)
        best = _best(table, depth)
    return Choice(best["name"], seen[best["name"]], table)


def confirm(
    study: Study, adapter: Adapter, live: Adapter | None, weight: float, config: GateConfig, tries: int
) -> Decision:
    """What the gate says of a candidate on the confirm split.

    Args:
        study: The probes.
        adapter: The candidate.
        live: Adapter of the live version; None for the base model.
        weight: The teacher's.
        config: Of the gate.
        tries: Candidates that this live version has seen off before.
    """
    rows = study.rows("confirm")
    before, after = judge(study, rows, [live, adapter], weight, config)
    return decide(before, after, config, study.depth(config.k), weights(study, rows, config), tries)


def _best(table: list[dict[str, Any]], depth: int) -> dict[str, Any]:
    return max(table, key=lambda row: (row["passes"], row["figures"].get(f"utility@{depth}", {}).get("change", 0.0)))

"""The gate: a candidate replaces the live version only when held-out probes prove it. The default answer is no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragself.config import GateConfig
from ragself.learn.metrics import Values, bootstrap

UTILITIES = ("utility", "careful utility")


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says, and all that it saw.

    Attributes:
        promote: Whether the candidate may replace the live version.
        reason: Why, in a sentence.
        figures: For each metric the mean before and after, the paired difference with its interval, and n.
    """

    promote: bool
    reason: str
    figures: Mapping[str, Mapping[str, Any]]


def compare(
    before: Mapping[str, Values],
    after: Mapping[str, Values],
    config: GateConfig,
    depth: int | None = None,
    weights: Values | None = None,
    tries: int = 0,
) -> dict[str, dict[str, Any]]:
    """Mean before and after, and the paired bootstrap interval of the difference, of every metric with values.

    Args:
        before, after: Values, one a probe, by metric.
        config: Depth and confidence.
        depth: Of the utility; None is that of the others.
        weights: Of the utility's probes; None counts all alike.
        tries: Candidates that were compared with the same live version before.
    """
    figures = {}
    for name in before:
        if not len(before[name]):
            continue
        own = weights if name in UTILITIES else None
        # Who tries often enough succeeds by chance: the doubt that is allowed is shared, the first try getting most.
        confidence = 1.0 - (1.0 - config.confidence) / (1 + tries) ** 2 if name == "utility" else config.confidence
        change = bootstrap(after[name] - before[name], confidence, weights=own)
        figures[f"{name}@{depth if name in UTILITIES and depth else config.k}"] = {
            "before": float(np.average(before[name], weights=own)),
            "after": float(np.average(after[name], weights=own)),
            "change": change.mean,
            "low": change.low,
            "high": change.high,
            "probes": len(before[name]),
        }
    return figures


def decide(
    before: Mapping[str, Values],
    after: Mapping[str, Values],
    config: GateConfig,
    depth: int | None = None,
    weights: Values | None = None,
    tries: int = 0,
) -> Decision:
    """Compare a candidate with the live version on the confirm split.

    Three judges must agree, for one that only repeats the teacher is fooled by a teacher weighed too heavily:
    the LM utility of what is retrieved must rise, its whole interval above 0; it must not fall by a teacher that is
    weighed carefully; and the documents that held-out titles were taken from must still be found. The intervals of the
    last two must not lie below -tolerance.

    Args:
        before: Values of the live version, one a probe, by metric.
        after: Values of the candidate for the same probes.
        config: Depth, confidence and tolerance.
        depth: Of the utility; None is that of the others.
        weights: Of the utility's probes; None counts all alike.
        tries: Candidates that the same live version has seen off before.
    """
    figures = compare(before, after, config, depth, weights, tries)
    k, need, depth = config.k, config.min_probes, depth or config.k
    utility, item = figures.get(f"utility@{depth}"), figures.get(f"ndcg@{k}")
    if utility is None or utility["probes"] < need:
        count = utility["probes"] if utility else 0
        return Decision(False, f"only {count} held-out probes, at least {need} are needed to prove a gain", figures)
    if utility["low"] <= 0:
        return Decision(False, f"LM utility@{depth} did not rise beyond doubt ({_change(utility)})", figures)
    careful = figures.get(f"careful utility@{depth}", utility)
    if careful["low"] < -config.tolerance:
        reason = f"LM utility@{depth} by a careful teacher may have fallen by more than {config.tolerance:g}"
        return Decision(False, f"{reason} ({_change(careful)})", figures)
    if item is None or item["probes"] < need:
        count = item["probes"] if item else 0
        reason = f"only {count} known items (held-out titles) to guard against harm, at least {need} are needed"
        return Decision(False, reason, figures)
    if item["low"] < -config.tolerance:
        reason = f"known-item nDCG@{k} may have fallen by more than {config.tolerance:g} ({_change(item)})"
        return Decision(False, reason, figures)
    return Decision(
        True, f"LM utility@{depth} rose ({_change(utility)}) and known-item nDCG@{k} held ({_change(item)})", figures
    )


def _change(figure: Mapping[str, Any]) -> str:
    return f"{figure['change']:+.3f}, interval {figure['low']:+.3f} to {figure['high']:+.3f}, {figure['probes']} probes"

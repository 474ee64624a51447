"""The gate: a candidate replaces the live version only when held-out probes prove it. The default answer is no."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragself.config import GateConfig
from ragself.evaluation.metrics import Values, bootstrap

UTILITIES = ("utility", "careful utility")
_DOUBT = 1.645  # standard errors: a version that is worse by what can be seen passes one time in twenty
_POWER = 0.842  # and these more: a version that is as good passes four times in five
_SMALL = 0.25  # of the margin: a smaller loss in one metric is outweighed by the proven rise of the other


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says, and all that it saw.

    Attributes:
        promote: Whether the candidate may replace the live version.
        reason: Why, in a sentence.
        figures: For each metric the mean before and after, the paired difference with its interval and standard
            error, and n.
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
    # A candidate may win by either of two metrics, and whoever tries often succeeds by chance: the error that is
    # allowed is shared between both metrics and between tries, the first try getting most.
    confidence = 1.0 - (1.0 - config.confidence) / 2 / (1 + tries) ** 2
    figures = {}
    for name in before:
        if not len(before[name]):
            continue
        own = weights if name in UTILITIES else None
        difference = after[name] - before[name]
        change = bootstrap(difference, confidence, weights=own)
        share = np.ones(len(difference)) if own is None else own
        figures[f"{name}@{depth if name in UTILITIES and depth else config.k}"] = {
            "before": float(np.average(before[name], weights=own)),
            "after": float(np.average(after[name], weights=own)),
            "change": change.mean,
            "low": change.low,
            "high": change.high,
            "error": float(np.sqrt(np.sum((share * (difference - change.mean)) ** 2)) / share.sum()),
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

    The LM utility of what is retrieved or the nDCG of known items must rise by ``gate.gain``, its whole interval above
    0. The others must not fall: the utility, the known items, and the utility by a teacher weighed carefully, as
    a candidate that only repeats the teacher is fooled by a teacher weighed too heavily. Whether one fell is a test of
    non-inferiority whose margin is what so many probes can tell: a candidate that is worse by the margin passes with
    5 %, one that changes nothing passes with 80 %. The margin is a quarter of ``gate.margin`` at least. Where it would
    be above ``gate.margin``, the answer is that it cannot be told, and how many probes would do.

    Args:
        before: Values of the live version, one a probe, by metric.
        after: Values of the candidate for the same probes.
        config: Depth, confidence and margin.
        depth: Of the utility; None is that of the others.
        weights: Of the utility's probes; None counts all alike.
        tries: Candidates that the same live version has seen off before.
    """
    figures = compare(before, after, config, depth, weights, tries)
    k, need, depth = config.k, config.min_probes, depth or config.k
    names = {"LM utility": f"utility@{depth}", "known-item nDCG": f"ndcg@{k}"}
    for label, name in names.items():
        count = figures[name]["probes"] if name in figures else 0
        if count < need:
            return Decision(False, f"only {count} held-out probes tell {label}, {need} are needed to decide", figures)
    sure = [label for label, name in names.items() if figures[name]["low"] > 0]
    risen = [label for label in sure if figures[names[label]]["change"] >= config.gain]
    if sure and not risen:
        small = f"{sure[0]} rose by less than {config.gain:g} ({_change(figures[names[sure[0]]])})"
        return Decision(False, f"{small}: no reason to switch", figures)
    if not risen:
        seen = "; ".join(f"{label} {_change(figures[name])}" for label, name in names.items())
        return Decision(False, f"nothing rose beyond doubt ({seen})", figures)
    names["LM utility by a careful teacher"] = f"careful utility@{depth}"
    for label, name in names.items():
        fault = None if label in risen or name not in figures else fallen(figures[name], config.margin)
        if fault is not None:
            return Decision(False, f"{risen[0]} rose, but {label} {fault}", figures)
    held = [label for label in names if label not in risen and names[label] in figures]
    told = " and ".join(f"{label} rose ({_change(figures[names[label]])})" for label in risen)
    kept = ", ".join(f"{label} held ({_change(figures[names[label]])})" for label in held)
    return Decision(True, told + (f"; {kept}" if kept else ""), figures)


def fallen(figure: Mapping[str, Any], margin: float) -> str | None:
    """Reason why a metric cannot be said to have held, or None.

    Args:
        figure: ``change``, ``low``, ``error`` and ``probes``, as of `compare`.
        margin: ``gate.margin``.
    """
    if figure["low"] > 0:
        return None
    seen = (_DOUBT + _POWER) * figure["error"]
    if seen > margin:
        need = math.ceil(figure["probes"] * (seen / margin) ** 2)
        return f"cannot be told within {margin:g} with {figure['probes']} probes, {need} are needed ({_change(figure)})"
    allowed = max(seen, _SMALL * margin)
    if figure["change"] - _DOUBT * figure["error"] < -allowed:
        return f"may have fallen by more than {allowed:.3f} ({_change(figure)})"
    return None


def _change(figure: Mapping[str, Any]) -> str:
    return f"{figure['change']:+.3f}, interval {figure['low']:+.3f} to {figure['high']:+.3f}, {figure['probes']} probes"

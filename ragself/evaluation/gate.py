"""The gate: promotes a candidate only if held-out probes prove that it is better. The default decision is no."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragself.config import GateConfig
from ragself.evaluation.metrics import Values, bootstrap

UTILITIES = ("utility", "careful utility")
_DOUBT = 1.645  # standard errors: a version that is worse by the detectable difference passes with 5 %
_POWER = 0.842  # additional standard errors: a version that is equally good passes with 80 %
_SMALL = 0.25  # share of the margin: the proven rise of one metric outweighs a smaller loss of the other


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision of the gate and the figures behind it.

    Attributes:
        promote: Whether the candidate may replace the live version.
        reason: Reason for the decision, in a sentence.
        figures: For each metric the mean before and after, the paired difference with its interval and standard
            error, and the number of probes.
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
    """Mean before and after, and paired bootstrap interval of the difference, for every metric that has values.

    Args:
        before, after: Values by metric, one per probe.
        config: Depth and confidence.
        depth: Depth of the utility; None uses that of the other metrics.
        weights: Weights of the utility's probes; None weighs all equally.
        tries: Number of candidates compared with the same live version before.
    """
    # Corrects for testing two metrics, and for repeated testing (alpha spending): the allowed error is divided between
    # the metrics and between the tries, and the first try gets the most.
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

    The LM utility of the retrieved documents or the nDCG of known items must rise by ``gate.gain``, with its whole
    interval above 0. The other metrics must not fall: the LM utility, the nDCG of known items, and the LM utility by a
    teacher with a careful weight. The last one detects candidates that only repeat a teacher with too high a weight.

    The test for a fall is a non-inferiority test. Its margin is the difference that the number of probes can detect: a
    candidate that is worse by the margin passes with 5 %, one that changes nothing passes with 80 %. The margin is at
    least a quarter of ``gate.margin``. If it would exceed ``gate.margin``, the candidate is rejected, and the reason
    gives the number of probes that are needed.

    Args:
        before: Values of the live version by metric, one per probe.
        after: Values of the candidate for the same probes.
        config: Depth, confidence and margin.
        depth: Depth of the utility; None uses that of the other metrics.
        weights: Weights of the utility's probes; None weighs all equally.
        tries: Number of candidates that were rejected against the same live version before.
    """
    figures = compare(before, after, config, depth, weights, tries)
    k, need, depth = config.k, config.min_probes, depth or config.k
    names = {"LM utility": f"utility@{depth}", "known-item nDCG": f"ndcg@{k}"}
    for label, name in names.items():
        count = figures[name]["probes"] if name in figures else 0
        if count < need:
            return Decision(False, f"only {count} held-out probes measure {label}, {need} are needed", figures)
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
    gained = " and ".join(f"{label} rose ({_change(figures[names[label]])})" for label in risen)
    kept = ", ".join(f"{label} held ({_change(figures[names[label]])})" for label in held)
    return Decision(True, gained + (f"; {kept}" if kept else ""), figures)


def fallen(figure: Mapping[str, Any], margin: float) -> str | None:
    """Reason why a metric is not proven to have held, or None.

    Args:
        figure: ``change``, ``low``, ``error`` and ``probes``, as returned by `compare`.
        margin: ``gate.margin``.
    """
    if figure["low"] > 0:
        return None
    seen = (_DOUBT + _POWER) * figure["error"]
    if seen > margin:
        need = math.ceil(figure["probes"] * (seen / margin) ** 2)
        return (
            f"cannot be measured within {margin:g} with {figure['probes']} probes, {need} are needed "
            f"({_change(figure)})"
        )
    allowed = max(seen, _SMALL * margin)
    if figure["change"] - _DOUBT * figure["error"] < -allowed:
        return f"may have fallen by more than {allowed:.3f} ({_change(figure)})"
    return None


def _change(figure: Mapping[str, Any]) -> str:
    return f"{figure['change']:+.3f}, interval {figure['low']:+.3f} to {figure['high']:+.3f}, {figure['probes']} probes"

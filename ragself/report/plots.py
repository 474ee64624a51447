"""Plots of the report as SVG, and its headline as PNG. matplotlib draws them without a display."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ragself.report.report_data import ReportData

GAIN, KEPT, LOSS, INK, FAINT = "#0f766e", "#94a3b8", "#b91c1c", "#1e293b", "#cbd5e1"
_STAGES = ("#0f766e", "#0ea5e9", "#6366f1", "#a855f7", "#f59e0b", "#64748b", "#334155")
_SHOWN = 40  # passes to show
_LETTERS, _LINES = 95, 4  # per line and in total, below the headline
_FEWEST = 8  # passes that the axis has room for, at least

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "text.parse_math": False,
}


def quality(story: ReportData, metric: str) -> str:
    """Plot of the change of a metric in each pass, with its interval."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.6))
        _changes(figure.add_axes((0.13, 0.13, 0.86, 0.85)), story, metric)  # a pass has the same x in all plots
        return _svg(figure, f"quality {metric}")


def verdict(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Plot of the change of every metric that the gate judged, with its interval."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 0.5 * len(figures) + 0.9), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=FAINT, linewidth=1)
        for row, figures_of in enumerate(list(figures.values())[::-1]):
            colour = _colour(figures_of)
            axes.plot([figures_of["low"], figures_of["high"]], [row, row], color=colour, linewidth=3)
            axes.plot(figures_of["change"], row, "o", color=colour, markersize=8)
        axes.set_yticks(range(len(figures)), list(figures)[::-1])
        axes.set_ylim(-0.6, len(figures) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("change from the previous version, with its interval")
        return _svg(figure, "verdict")


def cost(story: ReportData) -> str:
    """Plot of the seconds of each stage of each pass."""
    passes = story.passes[-_SHOWN:]
    stages = list(dict.fromkeys(stage for event in passes for stage in event["report"]["seconds"]))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.4), layout="constrained")
        axes = figure.subplots()
        bottom = [0.0] * len(passes)
        for number, stage in enumerate(stages):
            heights = [float(event["report"]["seconds"].get(stage, 0.0)) for event in passes]
            axes.bar(range(len(passes)), heights, 0.7, bottom, color=_STAGES[number % len(_STAGES)], label=stage)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        axes.set_ylabel("seconds")
        _dates(axes, passes)
        figure.legend(loc="outside upper left", ncols=len(stages), frameon=False, fontsize=9, handlelength=1)
        return _svg(figure, "cost")


def evidence(weight: Mapping[str, Any]) -> str:
    """Plot of the retrieval of hard known items (MRR) at each weight of the teacher."""
    found = {float(key): float(value) for key, value in weight["evidence"].items()}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 2.2), layout="constrained")
        axes = figure.subplots()
        names = [f"{key:g}" for key in sorted(found)]
        colours = [GAIN if float(name) == float(weight["weight"]) else KEPT for name in names]
        axes.bar(names, [found[key] for key in sorted(found)], 0.6, color=colours)
        axes.set_xlabel("weight of the likelihood (0: the base model alone)")
        axes.set_ylabel("MRR, hard known items")
        return _svg(figure, "evidence", "narrow")


def headline(story: ReportData, title: str, lines: Sequence[str]) -> bytes:
    """The result as one PNG picture, for a terminal or a chat."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 4.2), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.05, 0.87, title, fontsize=19, fontweight="bold", color=INK, parse_math=False)
        lines = [part for line in lines for part in textwrap.wrap(line, _LETTERS)][:_LINES]
        for number, line in enumerate(lines):
            figure.text(0.05, 0.79 - 0.065 * number, line, fontsize=11.5, color="#475569", parse_math=False)
        axes = figure.add_axes((0.09, 0.13, 0.87, 0.68 - 0.065 * (len(lines) + 1)))
        metric = main_metric(story)
        if metric:
            _changes(axes, story, metric)
        else:
            axes.set_axis_off()
        out = io.BytesIO()
        figure.savefig(out, format="png")
        return out.getvalue()


def main_metric(story: ReportData) -> str | None:
    """Name of the utility in the last pass that has figures; None if there is none."""
    for event in reversed(story.passes):
        for name in event["report"]["figures"]:
            if name.startswith("utility"):
                return str(name)
    return None


def _changes(axes: Axes, story: ReportData, metric: str) -> None:
    passes = story.passes[-_SHOWN:]
    back = {event["before"] for event in story.events if event["event"] == "rollback"} - {story.status.live.number}
    axes.axhline(0, color=FAINT, linewidth=1)
    names = set[str]()
    for row, event in enumerate(passes):
        name, figures = next(
            ((k, v) for k, v in event["report"]["figures"].items() if _same(k, metric)), (metric, None)
        )
        names.add(name)
        if figures is None:
            axes.plot(row, 0, "x", color=FAINT, markersize=6)
            continue
        promoted = event["event"] == "promote"
        colour = GAIN if promoted else KEPT
        axes.plot([row, row], [figures["low"], figures["high"]], color=colour, linewidth=2.5)
        axes.plot(row, figures["change"], "o", color=colour if promoted else "white", mec=colour, markersize=8, mew=2)
        if promoted:
            label = ("↩\n" if event["version"] in back else "") + f"v{event['version']}"  # fits the width of a pass
            axes.annotate(label, (row, figures["high"]), (0, 4), textcoords="offset points", ha="center", fontsize=9)
    axes.set_ylabel(f"change of {metric if len(names) == 1 else metric.partition('@')[0]}")  # depths differ
    axes.margins(y=0.25)
    _dates(axes, passes)


def _same(one: str, other: str) -> bool:
    """Whether two metrics are the same, apart from their depth."""
    return one.partition("@")[0] == other.partition("@")[0]


def _dates(axes: Axes, passes: Sequence[Mapping[str, Any]]) -> None:
    step = max(len(passes) // 8, 1)
    rows = list(range(0, len(passes), step))
    days = [datetime.fromisoformat(str(passes[row]["at"])) for row in rows]
    one_day = len({day.date() for day in days}) == 1
    names = [f"{day:%H:%M}" if one_day else f"{day:%d %b}" for day in days]
    axes.set_xticks(rows, [name if name != before else "" for before, name in zip(["", *names], names, strict=False)])
    axes.set_xlim(-0.7, max(len(passes), _FEWEST) - 0.3)


def _colour(figures: Mapping[str, float]) -> str:
    return GAIN if figures["low"] > 0 else LOSS if figures["high"] < 0 else KEPT


def _svg(figure: Figure, name: str, kind: str = "wide") -> str:
    """The figure as SVG, with ids that no other figure of the page has."""
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = re.sub(r'<g id="[^"]*">', "<g>", out.getvalue())  # all other ids are hashed with the salt
    return text[text.index("<svg") :].replace("<svg ", f'<svg class="{kind}" role="img" aria-label="{name}" ', 1)

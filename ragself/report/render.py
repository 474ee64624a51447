"""Self-contained HTML page of the report: no scripts, no requests, all text escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ragself.console import duration, size
from ragself.errors import StoreError
from ragself.report import plots
from ragself.report.report_data import ReportData

_FOLDERS = re.compile(r"(?<![\w./])/(?!/)(?:[^\s/'\"]+/)+")
_EVENTS = 30  # events of the history to show


def write_page(story: ReportData, path: Path) -> None:
    """Write the page; only its owner may read a new file. Raises StoreError if that is impossible."""
    _write(path, html(story).encode("utf-8", "replace"))


def write_picture(story: ReportData, path: Path) -> None:
    """Write the headline as a PNG picture. Raises StoreError if that is impossible."""
    title, lines = headline(story)
    _write(path, plots.headline(story, title, lines))


def html(story: ReportData) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("ragself.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(
        duration=duration,
        size=size,
        day=_day,
        counted=counted,
        percent=lambda share: f"{share:.0%}",
        local=without_folders,
    )
    title, lines = headline(story)
    last = next((event["report"] for event in reversed(story.passes) if event["report"]["figures"]), None)
    metric = plots.main_metric(story)
    return environment.get_template(
        "template.html"
    ).render(
        story=story,
        title=title,
        lines=lines,
        last=last,
        verdict=last and Markup(plots.verdict(last["figures"])),  # noqa: S704  drawn here from numbers and own names
        quality=[Markup(plots.quality(story, name)) for name in (metric, "ndcg@10") if name] if last else [],  # noqa: S704
        cost=Markup(plots.cost(story)) if story.passes else None,  # noqa: S704
        evidence=_evidence(last),
        latest=story.passes[-1]["report"] if story.passes else None,
        tokens=sum(_tokens(event["report"]) for event in story.passes),
        cpu=sum(event["report"].get("cpu", 0.0) for event in story.passes),
        events=list(reversed(story.events))[:_EVENTS],
        more=max(len(story.events) - _EVENTS, 0),
        size=sum(story.status.bytes.values()),
    )


def headline(story: ReportData) -> tuple[str, list[str]]:
    """Title and a few lines that sum up the results."""
    live, status = story.status.live, story.status
    promoted = [event for event in story.passes if event["event"] == "promote"]
    switches = [event for event in story.events if event["event"] in ("promote", "rollback")]
    back = switches[-1] if switches and switches[-1]["event"] == "rollback" else None
    if live.figures:
        name, change = next(iter(live.figures.items()))
        title = f"Version {live.number} is live: {name} from {change['before']:.3f} to {change['after']:.3f}"
        first = (
            f"{change['change']:+.3f}, interval {change['low']:+.3f} to {change['high']:+.3f}, on {change['probes']} "
            "held-out probes, compared with the previous version"
        )
    elif back is not None:
        title, first = f"The base model is live: version {back['before']} was rolled back", str(back["reason"])
    elif story.passes:
        title, first = (
            "The base model is live: no pass found a better version",
            str(story.passes[-1]["report"]["reason"]),
        )
    else:
        title, first = "The base model is live: nothing was trained yet", "no pass has run; ragself adapt runs one"
    second = (
        f"{counted(status.chunks, 'chunk')} of {counted(status.documents, 'document')}; "
        f"{counted(len(story.passes), 'pass')}, {len(promoted)} promoted; {_utc(story.at):%d %B %Y %H:%M} UTC"
    )
    return title, [without_folders(first), second]


def without_folders(text: str) -> str:
    """Remove the folders from all paths in a text, as the page may be sent to others.

    >>> without_folders("Cannot write /srv/me/kb/live.json: see http://127.0.0.1:8000/v1")
    'Cannot write …/live.json: see http://127.0.0.1:8000/v1'
    """
    return _FOLDERS.sub("…/", text)


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "pass"), counted(1200, "pass")
    ('1 pass', '1,200 passes')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def _tokens(report: Mapping[str, Any]) -> int:
    """Tokens that a language model read in a pass, for scoring and for training."""
    seen = report.get("objective", {}).get("seen", {})
    return int(report["likelihood"].get("tokens", 0) + sum(facts.get("tokens", 0) for facts in seen.values()))


def _evidence(last: Mapping[str, Any] | None) -> Markup | None:
    weight: Mapping[str, Any] = (last or {}).get("weight") or {}
    if len(weight.get("evidence") or ()) < 2:
        return None
    return Markup(plots.evidence(weight))  # noqa: S704


def _day(text: object) -> str:
    return f"{datetime.fromisoformat(str(text)):%d %b %Y %H:%M}"


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)  # it holds queries and documents
        path.write_bytes(content)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error}. Free some space or correct the permissions.") from error

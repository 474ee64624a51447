"""Human-readable results: one function per command."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ragself.console import duration, out, size, table
from ragself.schema import Added, Forecast, Hit, Report, Status

if TYPE_CHECKING:
    from ragself.background.runner import BackgroundStatus

_SHOWN = 10


def added(result: Added, chunks: int, kb: Path) -> None:
    """Print what `add` did, and what it skipped."""
    out.print(
        f"{result.added} chunks added or changed, {result.unchanged} unchanged, {result.removed} removed; "
        f"{chunks} in {escape(str(kb))}."
    )
    if result.truncated:
        out.print(
            f"[yellow]{len(result.truncated)} chunks are longer than the encoder reads; their end is stored "
            "but not searched.[/yellow]"
        )
    if result.skipped:
        rows = [(escape(item.name), escape(item.reason)) for item in result.skipped[:_SHOWN]]
        table(f"{len(result.skipped)} skipped", "name", "reason", rows=rows)
        if len(result.skipped) > _SHOWN:
            out.print(f"... and {len(result.skipped) - _SHOWN} more; --json lists all.")


def hits(query: str, found: Sequence[Hit]) -> None:
    """Print search results, best first."""
    if not found:
        out.print("Nothing found: the knowledge base is empty, or the filter matches nothing.")
    for rank, hit in enumerate(found, 1):
        where = escape(str(hit.metadata.get("source", hit.id)))
        title = escape(str(hit.metadata.get("title", "")))
        parts = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in hit.parts.items())
        shown = f"  [dim]({parts})[/dim]" if len(hit.parts) > 1 else ""
        out.print(f"[bold]{rank}[/bold]  {hit.score:.3f}{shown}  [cyan]{where}[/cyan]  {title}".rstrip())
        out.print("   " + escape(" ".join(hit.text.split())[:240]))


def report(result: Report) -> None:
    """Print what a pass did and decided."""
    verdict = (
        f"[green]promoted version {result.version}[/green]"
        if result.decision == "promote"
        else f"[yellow]kept version {result.version}[/yellow]"
    )
    out.print(f"{verdict}: {escape(result.reason)}.")
    _probes(result.probes)
    if result.dropped:
        table("dropped probes", "reason", "count", rows=[(reason, str(n)) for reason, n in result.dropped.items()])
    _likelihood(result.likelihood)
    if result.weight:
        out.print(f"Teacher weight {result.weight['weight']:g}: {escape(str(result.weight['reason']))}.")
    _objective(result.objective)
    if result.candidates:
        names = list(result.candidates[0]["figures"])[:2]
        rows = [
            (
                f"{row['name']} (chosen)" if row["name"] == result.candidate else str(row["name"]),
                *(_change(row["figures"][name]) for name in names),
            )
            for row in result.candidates
        ]
        table("candidates on the select split, change with interval", "candidate", *names, rows=rows)
    if result.figures:
        _figures(f"{result.candidate} against the live version, on the confirm split", result.figures)
    if result.reembedding.get("documents"):
        count, took = int(result.reembedding["documents"]), duration(result.reembedding["seconds"])
        out.print(f"lora re-encoded all documents: {count:,} texts, about {took} of the judging time.")
    _seconds(result.seconds)


def _objective(objective: Mapping[str, Any]) -> None:
    if not objective:
        return
    rows = [
        (kind, f"{facts['gap']:.3f} ± {facts['gap_error']:.3f}", f"{facts['loss'][0]:.3f} to {facts['loss'][1]:.3f}",
         f"{facts['steps']}", f"{facts['tokens']:,}", f"{facts['heads']}" if "heads" in facts else "-")
        for kind, facts in objective["seen"].items()
    ]  # fmt: skip
    columns = ("adapter", "gain of the right document", "held-out loss", "steps", "tokens read", "heads")
    table(f"{objective['name']}: the language model's own loss, nats per token", *columns, rows=rows)


def forecast(cost: Forecast) -> None:
    """Print the estimated cost of a pass."""
    out.print(
        f"A pass over {cost.documents} chunks, scored by {escape(cost.scorer)}. Nothing is trained or changed yet."
    )
    if cost.blocked_reason:
        out.print(f"[yellow]It would train nothing[/yellow]: {escape(cost.blocked_reason)}.")
        return
    _probes(cost.probes)
    rows = [("texts to encode first", f"{cost.encode:,}", _rate(cost.rates.get("encode"), "a second"))]
    if cost.reembedding is not None:
        rows += [("documents that lora re-encodes", f"{cost.reembedding.documents:,}", "for judging and serving")]
    if cost.prompts:
        rows += [
            ("questions to write", f"{cost.questions:,}", ""),
            (
                "prompts to score, at most",
                f"{cost.prompts:,}",
                f"{cost.stored:,} scores are stored; a stored score costs nothing",
            ),
            ("tokens, about", f"{cost.tokens:,}", _rate(cost.rates.get("tokens"), "a second")),
        ]
    if cost.inside:
        rows += [("training tokens, about", f"{cost.inside:,}", "fewer if training stops early")]
    rows += [(f"time to {stage}", duration(seconds), _basis(stage, cost)) for stage, seconds in cost.seconds.items()]
    rows += [(f"disk, {part}", size(count), "at most") for part, count in cost.bytes.items()]
    table("cost", "item", "amount", "", rows=rows)


def status(found: Status) -> None:
    """Print the contents of a knowledge base."""
    rows = [
        ("encoder", found.encoder),
        ("documents", str(found.documents)),
        ("chunks", str(found.chunks)),
        (
            "live version",
            f"{found.live.number} ({found.live.kind}, {found.live.dimension} dimensions)" + ", pinned" * found.pinned,
        ),
        ("versions", ", ".join(f"{version.number} {version.kind}" for version in found.versions)),
        ("last", f"{found.last.get('event')} at {found.last.get('at')}: {found.last.get('reason')}"),
        ("writer", found.writer or "none"),
        ("training", _learning(found.learning)),
        ("vectors", f"on the Chroma server {found.server}" if found.server else "in the folder"),
        ("on disk", ", ".join(f"{name} {size(count)}" for name, count in found.bytes.items())),
    ]
    for name, value in rows:
        out.print(f"[bold]{name:<18}[/bold]{escape(value)}")


def _learning(pass_: Mapping[str, Any] | None) -> str:
    if pass_ is None:
        return "none"
    stage = ""
    if "stage" in pass_:
        done, total, took = pass_["done"], pass_["total"], time.time() - pass_["stage since"]
        left = f", about {duration(took / done * (total - done))} left" if 0 < done < total else ""
        stage = f"{pass_['stage']} {done}/{total}{left}; "
    return f"{stage}for {duration(max(time.time() - pass_['since'], 0.0))}, started by {pass_['started']}"


def watched(found: BackgroundStatus) -> None:
    """Print what `ragself watch` did, when it ends."""
    if found.error is not None:
        out.print(f"[red]{escape(str(found.error))}[/red]")
    if found.report is not None:
        report(found.report)
    elif found.waiting:
        out.print(f"Nothing was trained: {escape(found.waiting)}.")


def history(events: Sequence[Mapping[str, Any]]) -> None:
    """Print every decision, oldest first."""
    rows = [
        (
            str(e.get("at"))[:16].replace("T", " "),
            f"{e.get('event')} {e.get('version')}",
            escape(": ".join(dict.fromkeys(str(e[key]) for key in ("by", "started") if e.get(key)))),
            escape(str(e.get("reason"))),
        )
        for e in events
    ]
    table("history, times in UTC", "when", "event", "by", "reason", rows=rows, left=True)


def demo(result: Mapping[str, Any]) -> None:
    """Print the results of the demo, and the next commands."""
    report(result["report"])
    held = result["measured"]
    out.print(f"\nFinding a body by its summary line, for {held} docstrings whose summary lines were held out:")
    rows = [
        (
            name,
            *(f"{result[when][name]['mean']:.3f}" for when in ("base", "untrained", "trained")),
            *(_interval(result[what][name], "+") for what in ("floor", "training")),
        )
        for name in result["base"]
    ]
    table(
        f"{result['documents']} docstrings of {result['modules']} modules",
        "", "base (vectors)", "hybrid, untrained", "trained", "hybrid search adds", "training adds",
        rows=rows,
    )  # fmt: skip
    for example in result["examples"]:
        out.print(
            f"\n[bold]{escape(str(example['query']))}[/bold]  (expected: [cyan]{escape(example['expected'])}[/cyan])\n"
            f"   base: rank {_rank(example['rank before'])}, first was {escape(example['first before'])}\n"
            f"   now:  rank {_rank(example['rank after'])}, first is  {escape(example['first after'])}"
        )
    out.print()
    _seconds(result["seconds"])
    kb = escape(str(result["kb"]))
    out.print(f"\nThe knowledge base is in [bold]{kb}[/bold]. Next:")
    out.print(f'  ragself search --kb {kb} "read a file line by line"')
    out.print(f"  ragself history --kb {kb}")
    out.print("  ragself add YOUR-DOCUMENTS && ragself adapt --queries YOUR-QUERIES.txt")


def bench(result: Mapping[str, Any]) -> None:
    """Print the results of all rankers on a labelled collection."""
    rows = [
        (name, *(_measured(result[name], metric) for metric in ("ndcg@10", "recall@100")))
        for name in ("bm25", "base", "rrf", "linear", "untrained", "trained", "teacher")
    ]
    title = (
        f"{result['dataset']} {result['split']}: {result['documents']} documents, {result['queries']} queries, "
        f"{result['traffic']} unlabelled queries as traffic"
    )
    table(title, "ranker", "nDCG@10", "recall@100", rows=rows)
    if result["gain"] is not None:
        out.print(f"Training adds {_interval(result['gain'], '+')} to nDCG@10 of the untrained ranking.")
    out.print(f"decision: {result['decision']} ({escape(result['reason'])})")
    _seconds({**result["report"].seconds, "total": result["seconds"]})


def _probes(probes: Mapping[str, Mapping[str, int]]) -> None:
    splits = ("train", "select", "confirm")
    rows = [(kind, *(str(count.get(split, 0)) for split in splits)) for kind, count in probes.items()]
    if rows:
        table("probes", "kind", *splits, rows=rows)


def _likelihood(cost: Mapping[str, Any]) -> None:
    if not cost.get("pairs"):
        return
    pace = (
        f" in {duration(cost['seconds'])} ({cost['tokens'] / cost['seconds']:,.0f} a second)" if cost["seconds"] else ""
    )
    out.print(
        f"Scored by {escape(cost['scorer'])}: {cost['pairs']:,} pairs, {cost['asked']:,} of them not stored before, "
        f"{cost['tokens']:,} tokens{pace}; noise {cost['floor']:.1g} nats per token."
    )


def _rate(rate: float | None, unit: str) -> str:
    return f"{rate:,.0f} {unit}" if rate else ""


def _basis(stage: str, cost: Forecast) -> str:
    timed = stage in ("score", "encode", "encode by lora") or (stage == "train" and cost.inside)
    return "about" if timed else "in the last pass"


def _figures(title: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        (name, f"{figure['before']:.3f}", f"{figure['after']:.3f}", _change(figure), str(figure["probes"]))
        for name, figure in figures.items()
    ]
    table(title, "metric", "before", "after", "change", "probes", rows=rows)


def _change(figure: Mapping[str, Any]) -> str:
    return f"{figure['change']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"


def _interval(interval: Mapping[str, float], sign: str = "") -> str:
    form = f"{sign}.3f"
    return f"{interval['mean']:{form}} ({interval['low']:{form}} to {interval['high']:{form}})"


def _measured(result: Mapping[str, Any], metric: str) -> str:
    if result[metric] is None:
        return "-"
    low, high = result[f"{metric}_interval"]
    return f"{result[metric]:.4f} ({low:.4f} to {high:.4f})"


def _rank(rank: int) -> str:
    return str(rank) if rank <= 100 else "beyond 100"


def _seconds(seconds: Mapping[str, float]) -> None:
    out.print("seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))

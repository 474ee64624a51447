"""Commands for operating a knowledge base: status, history, report, versions, clean-up and background training."""

from __future__ import annotations

import logging
import shlex
import shutil
import signal
import sys
import threading
import time
import webbrowser
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from ragself import console
from ragself.cli import show
from ragself.cli.options import HERE, Json, Kb, LanguageModel, Queries, Quiet, open_kb
from ragself.errors import InputError
from ragself.extras import require

_COMMAND = "ragself"

Reason = Annotated[str, typer.Option(help="Reason to record in the history.")]


def status(
    kb: Kb = HERE,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh the output until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Show the contents of a knowledge base, its live version, and the progress of a running pass."""
    from ragself.engine.status import read_status

    if not watch:
        found = read_status(kb)
        console.emit(found) if json else show.status(found)
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it interrupts no pass
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = None
    with console.screen() as screen:
        while True:
            found = read_status(kb)
            if json:
                if found != before:
                    console.emit(found, lines=True)
                before = found
            else:
                screen(lambda found=found: show.status(found))  # type: ignore[misc]
            time.sleep(1.0)


def history(kb: Kb = HERE, json: Json = False) -> None:
    """Show every decision: what was promoted, kept or rolled back, when, why and by whom."""
    from ragself.versions.registry import Registry

    registry = Registry(kb)
    registry.manifest()
    events = registry.history()
    console.emit(events) if json else show.history(events)


def rollback(
    kb: Kb = HERE,
    to: Annotated[int | None, typer.Option(help="Version to roll back to; default: the previous live version.")] = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Make an earlier version live again. Other processes may search and write meanwhile.

    Version 0 is the plain base model and always available.
    """
    with open_kb(kb) as base:
        before = base.status().live.number
        version = base.rollback(to, started="ragself rollback", reason=reason)
        then = "It stays pinned." if base.pinned else "Passes may replace it; `ragself pin` keeps it."
    if json:
        console.emit(version)
    else:
        console.out.print(f"Version {version.number} ({version.kind}) is live instead of version {before}. {then}")


def pin(
    kb: Kb = HERE,
    version: Annotated[int | None, typer.Option(help="Version to make live and keep; default: the live one.")] = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Keep a version live, whatever the results of later passes are."""
    with open_kb(kb) as base:
        pinned = base.pin(version, started="ragself pin", reason=reason)
    console.emit(pinned) if json else console.out.print(f"Version {pinned.number} ({pinned.kind}) stays live.")


def unpin(kb: Kb = HERE, reason: Reason = "", json: Json = False) -> None:
    """Allow passes to replace the live version again."""
    with open_kb(kb) as base:
        pinned = base.pinned
        version = base.unpin(started="ragself unpin", reason=reason)
    then = "may be replaced" if pinned else "was not pinned; passes may replace it"
    console.emit(version) if json else console.out.print(f"Version {version.number} ({version.kind}) {then}.")


def gc(kb: Kb = HERE, json: Json = False, quiet: Quiet = False) -> None:
    """Remove old versions, unfinished builds and other unused data; rebuild missing collections."""
    with open_kb(kb) as base, console.progress(quiet) as progress:
        done = base.gc(progress, started="ragself gc")
    if json:
        console.emit(done)
    else:
        console.out.print("\n".join(done) if done else "Nothing to remove.")


def report(
    path: Annotated[Path, typer.Argument(help="HTML file to write.")] = Path("ragself-report.html"),
    kb: Kb = HERE,
    png: Annotated[Path | None, typer.Option(help="Also write the headline as a PNG picture, to this file.")] = None,
    open: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write an HTML page about the results of training: quality, decision of the gate, changed results, cost.

    The page contains queries and documents. It loads nothing from the network.
    """
    require("report", "The report")
    from ragself.report import render as page
    from ragself.report import report_data as whole

    with open_kb(kb) as base, console.progress(quiet) as progress:
        story = whole.gather(base, progress)
    page.write_page(story, path)
    if png is not None:
        page.write_picture(story, png)
    title, _ = page.headline(story)
    files = [file for file in (path, png) if file is not None]
    console.emit({"title": title, "files": files}) if json else console.out.print(title, *files, sep="\n", markup=False)
    if open:
        webbrowser.open(path.absolute().as_uri())


def forget(
    kb: Kb = HERE,
    matching: Annotated[str | None, typer.Option(help="Queries that contain this text, ignoring case.")] = None,
    before: Annotated[
        datetime | None, typer.Option(help="Queries last searched for before this day.", formats=["%Y-%m-%d"])
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All queries.")] = False,
    json: Json = False,
) -> None:
    """Delete recorded queries (setting `queries.log`). Nothing of them is left on disk.

    Versions that were trained on them do not change.
    """
    if all == (matching is not None or before is not None):
        raise InputError("Say which queries: --matching TEXT, --before DAY or both; or --all.")
    with open_kb(kb) as base:
        count = base.forget(matching=matching, before=before.timestamp() if before else None)
    console.emit({"forgotten": count}) if json else console.out.print(f"{count} queries forgotten.")


def watch(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders of documents; changes there are applied.")
    ] = None,
    kb: Kb = HERE,
    queries: Queries = None,
    generator: LanguageModel = None,
    once: Annotated[
        bool, typer.Option("--once", help="Check once, train if anything is new, and exit: for cron.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train automatically: after enough new documents or queries, or daily if anything is new.

    The settings under `watch` define what is enough, and limit the cost.
    Each pass runs in a separate process, at low priority and with limits on memory and time.
    The live version is replaced only by a version that has proved to be better.
    Ctrl-C and SIGTERM end the command cleanly.

        ragself watch docs/ --queries queries.txt
    """
    from ragself.background.runner import BackgroundAdaptation
    from ragself.corpus.files import find
    from ragself.corpus.query_file import read_queries
    from ragself.knowledge_base import KnowledgeBase

    find(folders or ())  # fail before a knowledge base is created
    if queries is not None:
        read_queries(queries, or_none=True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("ragself")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with KnowledgeBase(kb, create=bool(folders)) as base, console.progress(quiet) as progress:
        background = BackgroundAdaptation(
            base, queries or (), generator=generator, folders=folders or (), name="ragself watch", progress=progress
        )
        if once:
            found = background.once(stop)
        else:
            background.start()
            while background.active and not stop.wait(1.0):
                pass
            background.stop()
            found = background.status()
    console.emit(found) if json else show.watched(found)
    if (once and found.error is not None) or not (once or stop.is_set()):
        raise typer.Exit(1)


def service(
    folders: Annotated[list[Path] | None, typer.Argument(help="As for `ragself watch`.")] = None,
    kb: Kb = HERE,
    queries: Queries = None,
    generator: LanguageModel = None,
    kind: Annotated[Literal["systemd", "cron"], typer.Option(help="Format to print.")] = "systemd",
) -> None:
    """Print a systemd unit or a crontab line that runs `ragself watch` automatically.

    ragself service docs/ > ~/.config/systemd/user/ragself.service && systemctl --user enable --now ragself
    loginctl enable-linger    # run it also while no user is logged in
    (crontab -l; ragself service docs/ --kind cron) | crontab -
    """
    from ragself.config import load

    program = shutil.which(_COMMAND)
    words = [program] if program else [sys.executable, "-m", "ragself"]
    words += ["watch", *(str(path.absolute()) for path in folders or ()), "--kb", str(kb.absolute())]
    words += ["--queries", str(queries.absolute())] if queries else []
    words += [word for place in generator or () for word in ("--generator", place)]
    if kind == "cron":
        line = shlex.join([*words, "--once", "--quiet"]).replace("%", r"\%")  # for cron a plain % ends the line
        sys.stdout.write(f"# m h dom mon dow command\n17 2 * * * {line}\n")
        return
    memory = load(kb).watch.memory
    command, folder = " ".join(_quoted(word) for word in words), str(Path.cwd()).replace("%", "%%")
    sys.stdout.write(_UNIT.format(command=command, folder=folder, memory=round(memory * 1024 * 1.5)))


_UNIT = """[Unit]
Description=ragself trains on the documents and queries of a knowledge base

[Service]
WorkingDirectory={folder}
ExecStart={command}
Restart=on-failure
RestartSec=60
KillSignal=SIGTERM
TimeoutStopSec=90
Nice=5
MemoryMax={memory}M

[Install]
WantedBy=default.target
"""


def _quoted(word: str) -> str:
    """Quote a word for systemd (systemd.service, "Command lines")."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or any(letter in word for letter in " \t'") else word


COMMANDS = (status, history, report, rollback, pin, unpin, gc, forget, watch, service)

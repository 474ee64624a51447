"""Commands of who keeps a knowledge base running: look, decide, clean up, and have it learn by itself."""

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
from ragself.cli.options import HERE, Generator, Json, Kb, Queries, Quiet, open_kb
from ragself.errors import InputError

_COMMAND = "ragself"

Reason = Annotated[str, typer.Option(help="Why, for the history.")]


def status(
    kb: Kb = HERE,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Show what a knowledge base holds, which version is live, and how far a pass is that is running."""
    from ragself.engine.status import read_status

    if not watch:
        found = read_status(kb)
        console.emit(found) if json else show.status(found)
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nothing is interrupted by it
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
    to: Annotated[int | None, typer.Option(help="Version to go back to; default: the one live before.")] = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Make an earlier version live again, also while others search and write.

    Version 0 is the plain base model and always there.
    """
    with open_kb(kb) as base:
        before = base.status().live.number
        version = base.rollback(to, started="ragself rollback", reason=reason)
        then = "It stays pinned." if base.pinned else "Passes may replace it; `ragself pin` keeps it."
    if json:
        console.emit(version)
    else:
        console.out.print(f"Version {version.number} ({version.kind}) is live in the place of version {before}. {then}")


def pin(
    kb: Kb = HERE,
    version: Annotated[int | None, typer.Option(help="Version to make live and keep; default: the live one.")] = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Keep a version live whatever later passes find."""
    with open_kb(kb) as base:
        pinned = base.pin(version, started="ragself pin", reason=reason)
    console.emit(pinned) if json else console.out.print(f"Version {pinned.number} ({pinned.kind}) stays live.")


def unpin(kb: Kb = HERE, reason: Reason = "", json: Json = False) -> None:
    """Let passes replace the live version again."""
    with open_kb(kb) as base:
        pinned = base.pinned
        version = base.unpin(started="ragself unpin", reason=reason)
    then = "may be replaced" if pinned else "was not pinned; passes may replace it"
    console.emit(version) if json else console.out.print(f"Version {version.number} ({version.kind}) {then}.")


def gc(kb: Kb = HERE, json: Json = False, quiet: Quiet = False) -> None:
    """Remove old versions, unfinished builds and what nothing needs any more; build again what is missing."""
    with open_kb(kb) as base, console.progress(quiet) as progress:
        done = base.gc(progress, started="ragself gc")
    if json:
        console.emit(done)
    else:
        console.out.print("\n".join(done) if done else "Nothing to remove.")


def report(
    path: Annotated[Path, typer.Argument(help="The page to write.")] = Path("ragself-report.html"),
    kb: Kb = HERE,
    png: Annotated[Path | None, typer.Option(help="Write the headline as a picture, too.")] = None,
    open: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what has come of learning as one HTML page: quality, what the gate saw, results that changed, cost.

    The page holds queries and documents, and asks for nothing from anywhere.
    """
    from ragself.report import page
    from ragself.report import story as whole

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
    matching: Annotated[str | None, typer.Option(help="Queries that contain this text, whatever its case.")] = None,
    before: Annotated[
        datetime | None, typer.Option(help="Queries last asked before this day.", formats=["%Y-%m-%d"])
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All queries.")] = False,
    json: Json = False,
) -> None:
    """Forget queries that `queries.log` has remembered. Nothing of them is left on disk.

    What was learned from them stays in the versions that were trained on them.
    """
    if all == (matching is not None or before is not None):
        raise InputError("Say which queries: --matching TEXT, --before DAY or both; or --all.")
    with open_kb(kb) as base:
        count = base.forget(matching=matching, before=before.timestamp() if before else None)
    console.emit({"forgotten": count}) if json else console.out.print(f"{count} queries forgotten.")


def watch(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders of the documents: what changes there is taken over.")
    ] = None,
    kb: Kb = HERE,
    queries: Queries = None,
    generator: Generator = None,
    once: Annotated[
        bool, typer.Option("--once", help="Look once, learn where anything is new, and end: for cron.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn whenever that can pay: after enough new documents or queries, or a day, within what `watch` allows.

    A pass runs in a process of its own, at low priority and with bounds for memory and time; what is live is never
    touched before its successor has proved to be better. Ends cleanly on Ctrl-C and SIGTERM.

        ragself watch docs/ --queries asked.txt
    """
    from ragself.background.runner import BackgroundAdaptation
    from ragself.corpus.files import find
    from ragself.corpus.query_file import read_queries
    from ragself.knowledge_base import KnowledgeBase

    find(folders or ())  # before a knowledge base is made for what is not there
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
            base, queries or (), generator=generator, folders=folders or (), name="ragself watch", told=progress
        )
        if once:
            found = background.once(stop)
        else:
            background.start()
            while background.goes_on and not stop.wait(1.0):
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
    generator: Generator = None,
    kind: Annotated[Literal["systemd", "cron"], typer.Option(help="What to print.")] = "systemd",
) -> None:
    """Print what starts `ragself watch` with the machine: a systemd unit, or a line of a crontab.

    ragself service docs/ > ~/.config/systemd/user/ragself.service && systemctl --user enable --now ragself
    loginctl enable-linger    # it runs also while nobody is logged in
    (crontab -l; ragself service docs/ --kind cron) | crontab -
    """
    from ragself.config import load

    program = shutil.which(_COMMAND)
    words = [program] if program else [sys.executable, "-m", "ragself"]
    words += ["watch", *(str(path.absolute()) for path in folders or ()), "--kb", str(kb.absolute())]
    words += ["--queries", str(queries.absolute())] if queries else []
    words += [word for place in generator or () for word in ("--generator", place)]
    if kind == "cron":
        line = shlex.join([*words, "--once", "--quiet"]).replace("%", r"\%")  # which cron takes for a line's end
        sys.stdout.write(f"# m h dom mon dow command\n17 2 * * * {line}\n")
        return
    memory = load(kb).watch.memory
    command, folder = " ".join(_quoted(word) for word in words), str(Path.cwd()).replace("%", "%%")
    sys.stdout.write(_UNIT.format(command=command, folder=folder, memory=round(memory * 1024 * 1.5)))


_UNIT = """[Unit]
Description=ragself learns from the documents and queries of a knowledge base

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
    """A word as systemd reads it (systemd.service, "Command lines")."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or any(letter in word for letter in " \t'") else word


COMMANDS = (status, history, report, rollback, pin, unpin, gc, forget, watch, service)

"""The command `ragself`: one function per command, which calls the library and prints the result."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ragself import console
from ragself.cli import operate, show
from ragself.cli.options import HERE, Json, Kb, LanguageModel, Queries, Quiet, open_kb
from ragself.config import ObjectiveName
from ragself.corpus.query_file import read_queries
from ragself.errors import InputError, RagselfError, StoreLocked

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A retriever that trains itself on your own documents.",
    epilog="Exit codes: 0 success, 1 an error with its reason, 2 wrong usage, 4 another process is writing, "
    "10 nothing promoted (only with `adapt --exit-code`), 130 interrupted (repeat the command to resume).",
)


@app.command()
def demo(
    kb: Annotated[Path, typer.Option("--kb", help="Folder for its knowledge base.")] = Path("ragself-demo"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole workflow offline on the documentation of Python's standard library.

    Indexes the docstrings on this machine and trains on the summary lines of some modules.
    Re-embeds and switches over if retrieval improves on held-out modules.
    Takes a few minutes on two cores.
    """
    from ragself.cli import demo as whole

    with console.progress(quiet) as progress:
        result = whole.run(kb, progress)
    console.emit(result) if json else show.demo(result)


@app.command()
def add(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders: text, Markdown, reST, HTML, source code.")],
    kb: Kb = HERE,
    encoder: Annotated[
        str | None,
        typer.Option(help="Model of a new knowledge base: any sentence-transformers model, by name or path."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    r"""Add files to a knowledge base. Creates the knowledge base if it does not exist.

    Adding the same files again changes nothing; a changed file replaces its earlier chunks.
    Files that cannot be read are skipped, listed and counted.
    PDF and Office files need `pip install "ragself\[documents]"`.

        ragself add docs/ notes.md
    """
    from ragself.config import load
    from ragself.knowledge_base import KnowledgeBase

    config = load(kb, encoder={"model": encoder}) if encoder else None
    with KnowledgeBase(kb, config=config) as base, console.progress(quiet) as progress:
        added = base.add_files(paths, progress)
        chunks = base.status().chunks
    console.emit({"kb": kb, "chunks": chunks, "result": added}) if json else show.added(added, chunks, kb)


@app.command()
def adopt(
    collection: Annotated[str, typer.Argument(help="Name of a Chroma collection that was built without ragself.")],
    chroma: Annotated[str, typer.Option(help="Folder of the Chroma database, or URL of the Chroma server.")],
    kb: Kb = HERE,
    encoder: Annotated[
        str | None,
        typer.Option(help="Model that the collection was built with, by name or path. Default: all-MiniLM-L6-v2."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Adopt a Chroma collection that LlamaIndex, LangChain or chromadb filled. Never writes to it.

    ragself adopt docs --chroma path/to/chroma
    ragself adopt docs --chroma http://127.0.0.1:8000
    """
    from ragself.config import load
    from ragself.knowledge_base import KnowledgeBase

    config = load(kb, encoder={"model": encoder}) if encoder else None
    with (
        console.progress(quiet) as progress,
        KnowledgeBase.adopt(kb, collection, chroma=chroma, config=config, progress=progress) as base,
    ):
        chunks, found = base.status().chunks, base.engine.adopted.last
    console.emit({"kb": kb, "chunks": chunks, "result": found}) if json else show.added(found, chunks, kb)


@app.command()
def sync(kb: Kb = HERE, json: Json = False, quiet: Quiet = False) -> None:
    """Apply the changes of the adopted collection."""
    with open_kb(kb) as base, console.progress(quiet) as progress:
        found = base.sync(progress=progress)
        chunks = base.status().chunks
    console.emit({"kb": kb, "chunks": chunks, "result": found}) if json else show.added(found, chunks, kb)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Text to search for.")],
    kb: Kb = HERE,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of hits.")] = 5,
    where: Annotated[str | None, typer.Option(help="Chroma metadata filter, as JSON.")] = None,
    mode: Annotated[
        Literal["hybrid", "vector"],
        typer.Option(help="hybrid: rank by vector and by words. vector: rank by vector only."),
    ] = "hybrid",
    json: Json = False,
) -> None:
    """Search the live version.

    ragself search "how are retries configured" -k 3 --where '{"source": "/docs/http.md"}'
    """
    filter = _json_object(where)
    with open_kb(kb, light=True) as base:
        hits = base.search(query, k, filter, mode=mode)
    console.emit(hits) if json else show.hits(query, hits)


@app.command()
def adapt(
    kb: Kb = HERE,
    queries: Queries = None,
    generator: LanguageModel = None,
    objective: Annotated[
        ObjectiveName | None,
        typer.Option(
            help="Training objective. distill: match the teacher's likelihoods. dream, revela: lower the loss of the "
            "language model itself, which is loaded in this process. Default: the settings."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only estimate the prompts, tokens, time and disk space of a pass."),
    ] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 10 if nothing is promoted.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train on the documents, and switch over if retrieval improves on held-out probes.

    Meanwhile the live version answers searches. It stays live if there is no proof of improvement.
    Run the same command again to resume a pass that was killed.

        ragself adapt --queries queries.txt --generator http://127.0.0.1:8000
    """
    texts = read_queries(queries) if queries else []
    with open_kb(kb) as base, console.progress(quiet) as progress:
        if dry_run:
            cost = base.forecast(texts, progress, generator=generator, objective=objective)
        else:
            report = base.adapt(texts, progress, generator=generator, objective=objective, started="ragself adapt")
    if dry_run:
        console.emit(cost) if json else show.forecast(cost)
        return
    console.emit(report) if json else show.report(report)
    if exit_code and report.decision != "promote":
        raise typer.Exit(10)


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(help="Folder to write to; must be new or empty.")],
    kb: Kb = HERE,
    format: Annotated[
        Literal["adapter", "sentence-transformers"],
        typer.Option(help="The adapter alone, or merged with its encoder into one model that needs no ragself."),
    ] = "adapter",
    json: Json = False,
) -> None:
    """Write the live version's adapter and word weights, with a model card and instructions for loading.

    Writes no document text, no query and no local path.
    Words with a weight are written as hashes. A reader who guesses a word can check whether your documents contain it.
    """
    with open_kb(kb) as base:
        files = base.export(directory, merged=format == "sentence-transformers")
    console.emit(files) if json else console.out.print("\n".join(str(file) for file in files))


@app.command()
def bench(
    directory: Annotated[Path, typer.Argument(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.")],
    split: Annotated[str, typer.Option(help="Split to evaluate on.")] = "test",
    traffic: Annotated[
        str | None,
        typer.Option(help="Split whose query texts (never its labels) are the traffic, or a file of queries."),
    ] = None,
    kb: Annotated[
        Path | None, typer.Option("--kb", help="Folder for its knowledge base; default: a temporary folder.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the gain of self-training on a labelled collection. Labels are used for evaluation only.

    ragself bench scifact --traffic train
    """
    from ragself.cli import bench as whole

    with console.progress(quiet) as progress:
        result = whole.run(directory, split, traffic, kb, progress)
    console.emit(result) if json else show.bench(result)


for command in operate.COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line. Print each expected error as one line, and exit with its code."""
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        app()
    except StoreLocked as error:
        _fail(error, 4)
    except RagselfError as error:
        _fail(error, 1)


def _interrupted(number: int, frame: object) -> None:
    """Explain the interruption; typer turns it into exit code 130."""
    console.err.print("\nInterrupted. The live version was not touched; run the same command again to resume.")
    raise KeyboardInterrupt


def _fail(error: RagselfError, code: int) -> None:
    console.err.print("[red]error:[/red]", end=" ")
    console.err.print(str(error), markup=False)
    sys.exit(code)


def _json_object(text: str | None) -> dict[str, object] | None:
    import json

    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f'--where is not valid JSON: {error}. Example: --where \'{{"source": "a.md"}}\'') from error
    if not isinstance(value, dict):
        raise InputError(f"--where is a JSON {type(value).__name__}, expected an object.")
    return value

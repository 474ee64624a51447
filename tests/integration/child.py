"""What runs in another process; `spawn` in conftest.py starts it with a JOB. No test is in here."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

JOB: dict[str, Any] = globals().get("JOB", {})
FOLDER = Path(JOB.get("folder", "."))


def say(value: object) -> None:
    """Tell the test at once."""
    with (FOLDER / "lines.jsonl").open("a") as file:
        file.write(json.dumps(value) + "\n")


def wait(name: str) -> None:
    """Until the test says so."""
    while not (FOLDER / name).exists():
        time.sleep(0.01)


def settings() -> Any:
    from ragself.config import load

    return load(None, encoder={"model": JOB["model"]})


def opened(kb: str) -> Any:
    from ragself import KnowledgeBase

    return KnowledgeBase(kb, create=False, config=settings())


# the functions ------------------------------------------------------------------------------------


def cli(argv: list[str]) -> None:
    from ragself.cli.app import main

    os.environ["RAGSELF_ENCODER__MODEL"] = JOB["model"]
    sys.argv = ["ragself", *argv]
    main()


def adapt(kb: str, asked: str, die_at: str = "", after: bool = False, slowly: bool = False) -> dict[str, Any]:
    """One pass. Every text that reaches the model is counted, and where it is, is said; also what is switched to."""
    from sentence_transformers import SentenceTransformer

    from ragself import cycle

    switch, told = cycle._switch, set[str]()

    def watched(store: Any, better: Any, index: Any, *others: Any) -> Any:
        point = store.registry.point

        def compared(*arguments: Any, **details: Any) -> None:
            found = index._collection.get(include=["documents"])
            there = {chunk.id: chunk.shown for chunk in store.journal.chunks()}
            say(["switch", int(dict(zip(found["ids"], found["documents"], strict=True)) == there), len(there)])
            point(*arguments, **details)

        store.registry.point = compared
        return switch(store, better, index, *others)

    def progress(stage: str, done: int, total: int) -> None:
        say([stage, done, total])
        if slowly and stage == "re-embed" and stage not in told:
            told.add(stage)
            time.sleep(1.0)

    cycle._switch = watched

    texts = 0
    encode = SentenceTransformer.encode

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal texts
        texts += len(arguments[1] if len(arguments) > 1 else next(iter(options.values())))
        return encode(*arguments, **options)

    SentenceTransformer.encode = counting
    if die_at:
        die_on(die_at, after)
    with opened(kb) as base:
        base.search("warm")  # the model is loaded and its canaries are encoded
        texts = 0
        say(["ready", 0, 0])
        report = base.adapt(json.loads(Path(asked).read_text()), progress)
        say(["done", 0, 0])
        return {"decision": report.decision, "reason": report.reason, "version": report.version, "encoded": texts}


def die_on(name: str, after: bool) -> None:
    """Kill this process as a file of this name is about to be written: renamed into place, or opened to append to.

    `after` lets that pass and kills at the next file opened, whatever it is.
    """
    seen = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if seen and event == "open":
            os.kill(os.getpid(), signal.SIGKILL)
        renamed = event == "os.rename" and Path(os.fsdecode(arguments[1])).name == name
        appended = event == "open" and arguments[1] == "a" and Path(os.fsdecode(arguments[0])).name == name
        if renamed or appended:
            seen = True
            if not after:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def look(kb: str, queries: list[str], k: int) -> dict[str, Any]:
    """Open, search by vector, and compute the same exactly: all vectors encoded again."""
    from ragself.adapters.embedder import Embedder

    with opened(kb) as base:
        hits = [base.search(query, k, mode="vector") for query in queries]
        store = base.engine.store
        version = store.registry.version(store.registry.live())
        embedder = Embedder(store.base.encoder, store.adapter(version))
        chunks = store.journal.chunks()
        scores = embedder.queries(queries) @ embedder.documents([chunk.text for chunk in chunks]).T
        return {
            "hits": [[[hit.id, hit.score, hit.version] for hit in found] for found in hits],
            "exact": [dict(zip([chunk.id for chunk in chunks], row.tolist(), strict=True)) for row in scores],
            "live": version.number,
            "texts": {chunk.id: chunk.text for chunk in chunks},
        }


def halt(kb: str, documents: dict[str, str], asked: str) -> None:
    """Add, or adapt where nothing is to be added; halt in the middle of writing to Chroma until the test says `on`."""
    from ragself import Chunk
    from ragself.index.collection import ChromaCollection

    upsert = ChromaCollection.upsert

    def halting(self: ChromaCollection, chunks: Any, vectors: Any) -> None:
        upsert(self, chunks, vectors)
        say("half")
        wait("on")

    with opened(kb) as base:
        ChromaCollection.upsert = halting  # type: ignore[method-assign]
        if documents:
            base.add([Chunk(id, text) for id, text in documents.items()])
        else:
            base.adapt(json.loads(Path(asked).read_text()))
        say("done")
        wait("leave")


def write(kb: str, documents: dict[str, str]) -> dict[str, Any]:
    """Add, and hold the writer's lock until the test says `leave`."""
    from ragself import Chunk

    with opened(kb) as base:
        added = base.add([Chunk(id, text) for id, text in documents.items()])
        say("added")
        wait("leave")
    return {"added": added.added}


def change(kb: str, documents: dict[str, str], ids: list[str]) -> None:
    """Add documents and delete others, one after the other, and stay the writer."""
    from ragself import Chunk

    with opened(kb) as base:
        base.add([Chunk(id, text) for id, text in documents.items()])
        say("added")
        wait("delete")
        base.delete(ids)
        say("deleted")
        wait("end")


def read(kb: str, query: str) -> None:
    """Search again and again and say when, by which version, and what was found, until the test says `leave`."""
    with opened(kb) as base:
        while not (FOLDER / "leave").exists():
            began = time.time()
            hits = base.search(query, 3)
            found = {"versions": sorted({hit.version for hit in hits}), "ids": [hit.id for hit in hits]}
            say({"began": began, "ended": time.time(), **found})
            time.sleep(0.02)


def starved(kb: str, asked: str, ballast: str, free: int, ask: bool) -> dict[str, Any]:
    """Adapt on a disk that is full but for a little; then look what is left, before and after there is room again."""
    from ragself.errors import RagselfError

    with opened(kb) as base:
        before = [hit.id for hit in base.search("warm", 10)]
        queries = json.loads(Path(asked).read_text())
        disk = os.statvfs(kb)
        Path(ballast).write_bytes(bytes((disk.f_bavail - free // disk.f_frsize) * disk.f_frsize))
        error = ""
        try:
            base.adapt(queries)
        except RagselfError as caught:
            error = f"{type(caught).__name__}: {caught}"
        same = []
        if ask:
            same.append([hit.id for hit in base.search("warm", 10)] == before)
        Path(ballast).unlink()
        if ask:
            same.append([hit.id for hit in base.search("warm", 10)] == before)
        return {"error": error, "same": same}


def gains(scores: str, work: str, url: str, go: str) -> dict[str, Any]:
    """Score what the test has written down, with a file of scores of which others may be writing too."""
    import numpy as np

    from ragself.config import GeneratorConfig
    from ragself.lm.cached_scorer import LanguageModelScorer
    from ragself.lm.score_cache import ScoreCache
    from ragself.lm.vllm.generator import Vllm
    from ragself.schema import Account, Probe

    given = json.loads(Path(work).read_text())
    texts, config, account = given["texts"], GeneratorConfig().at(url), Account()
    probes = [Probe(query, query, query, "traffic", None, "train") for query in given["asked"]]
    cache, generator = ScoreCache(Path(scores)), Vllm(config)
    scorer = LanguageModelScorer(texts, len(texts), generator, cache, config, account)
    say("ready")
    if go:
        wait(go)
    found = scorer.gains(probes, np.array(given["candidates"]), lambda *where: say(list(where)))
    model = cache.latest(generator.name)
    generator.close()
    return {"gains": found.tolist(), "asked": account.asked, "model": model.id if model else None}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (adapt, change, cli, gains, halt, look, read, starved, write)
}


def run() -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(FOLDER / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    for name in [name for name in os.environ if name.startswith("RAGSELF_")]:
        del os.environ[name]
    faulthandler.dump_traceback_later(45)  # where a child hangs is told before `join` gives up
    os.setpgid(0, 0)  # Ctrl-C for the tests is not for this
    result = FUNCTIONS[JOB["function"]](**JOB["arguments"])
    (FOLDER / "result.json").write_text(json.dumps(result))


if __name__ == "__main__" and JOB:
    run()

"""What dies at random moments, and what is left: 200 faults over a workload of adds, deletes, searches and passes.

    python tests/benchmarks/faults.py [--moments 200] [--seed 0]

An application adds, replaces, deletes, searches, rolls back and cleans up; another process learns again and again. At a
random moment one of them, or the Chroma server, or the language model's server is killed with SIGKILL; or the disk is
full or read-only for a while; or the clock goes back a day. Then everything is started again and audited: every
document that was acknowledged is there, none that was deleted is, there is one live version, every one of its vectors
is what its encoder and adapter make, and the index of words counts what is there. Half of the moments have the vectors
in a folder, half on a Chroma server. Needs root, for a disk of its own; libfaketime for the clock; and a vLLM (see
CONTRIBUTING.md) for the language model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.integration.vllm_server import VllmServer, interpreter

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
PRELOADED = ["chromadb", "ragself.knowledge_base", "ragself.training.train_vectors", "sentence_transformers", "torch"]
FAULTS = {
    "folder": ("application killed", "learner killed", "disk full", "disk read-only", "clock set back", "both killed"),
    "server": ("application killed", "learner killed", "Chroma server killed", "everything killed", "clock set back"),
}
GENERATOR = "language model killed"
DISK = {"folder": "120m", "server": "2g"}  # a Chroma server keeps the files of what was deleted
RESET = 25  # moments after which a new knowledge base is begun

JOB: dict[str, Any] = globals().get("JOB", {})


# what runs in other processes ---------------------------------------------------------------------


def note(**line: object) -> None:
    """Written and synced to another disk before it goes on: what the audit trusts."""
    with open(JOB["log"], "a") as file:  # noqa: PTH123
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def opened(kind: str = "residual") -> Any:
    """The knowledge base. Passes promote nearly always: to a new collection, or, with kind weights, within one."""
    from ragself import KnowledgeBase
    from ragself.config import load
    from tests.benchmarks.versions import PROMOTING

    settings = {**PROMOTING, "train": {"adapters": [kind]}}
    return KnowledgeBase(
        JOB["kb"], config=load(None, encoder={"model": JOB["model"]}, chroma=JOB["chroma"], **settings)
    )


@contextmanager
def tried(who: str) -> Iterator[None]:
    """Errors of ragself's own may be; all others are violations. Either way it is tried again a little later."""
    from ragself.errors import RagselfError

    try:
        yield
        return
    except RagselfError as error:
        note(error=f"{who}: {type(error).__name__}: {error}"[:200])
    except Exception as error:
        note(violation=f"{who}: {type(error).__name__}: {error}"[:300])
    time.sleep(0.1)


class Application:
    """Changes and searches at random until it is killed; what fails with an error of ragself's own is tried again."""

    def __init__(self) -> None:
        self.draw = random.Random(JOB["seed"])
        self.there: dict[str, str] = dict(JOB["there"])
        self.unsure: set[str] = set()  # an earlier one died while it was at them
        for line in map(json.loads, whole(Path(JOB["log"]))):
            documents = line.get("documents", {})
            self.unsure |= documents.keys() if "does" in line else set()
            self.unsure -= documents.keys() if "did" in line else set()
            if "did" in line:
                self.know(documents)
        self.count = 0
        self.kb: Any = None

    def know(self, documents: dict[str, str | None]) -> None:
        for id, words in documents.items():
            self.there.pop(id, None)
            if words is not None:
                self.there[id] = words

    def run(self) -> None:
        choices = [self.add] * 4 + [self.search] * 3 + [self.replace, self.delete, self.roll_back, self.clean]
        while True:
            self.count += 1
            with tried("application"):
                self.kb = self.kb or opened()
                self.draw.choice(choices)()

    def change(self, what: str, documents: dict[str, str | None], do: Callable[[], object]) -> None:
        note(does=what, documents=documents)
        self.unsure |= documents.keys()
        do()
        note(did=what, documents=documents)
        self.unsure -= documents.keys()
        self.know(documents)

    def put(self, what: str, documents: dict[str, str]) -> None:
        from ragself import Chunk

        chunks = [Chunk(id, words, {"title": " ".join(words.split()[:4])}) for id, words in documents.items()]
        self.change(what, dict(documents), lambda: self.kb.add(chunks))

    def add(self) -> None:
        rows = range(self.draw.choice([1, 3, 40]))
        self.put("add", {f"{JOB['seed']}-{self.count}-{row}": text(self.draw) for row in rows})

    def replace(self) -> None:
        some = self.draw.sample(sorted(self.there), min(3, len(self.there)))
        self.put("replace", {id: text(self.draw) for id in some})

    def delete(self) -> None:
        if len(self.there) > 150:
            gone = self.draw.sample(sorted(self.there), 3)
            self.change("delete", dict.fromkeys(gone), lambda: self.kb.delete(gone))

    def search(self) -> None:
        known = sorted(self.there.keys() - self.unsure)
        if not known:
            return
        id = self.draw.choice(known)
        hits = self.kb.search(self.there[id], 10)
        wrong = [hit.id for hit in hits if hit.id not in self.there and hit.id not in self.unsure]
        if len({hit.version for hit in hits}) > 1 or wrong:
            note(violation=f"search: versions {[hit.version for hit in hits]}, not there: {wrong}")
        note(**{"searched" if id in {hit.id for hit in hits} else "missed": id})  # HNSW may pass over one; counted

    def roll_back(self) -> None:
        from ragself.errors import InputError

        with suppress(InputError):  # it is live, or gone meanwhile
            self.kb.rollback(self.draw.choice([version.number for version in self.kb.status().versions]))
            note(did="rollback")

    def clean(self) -> None:
        if self.draw.random() < 0.3:
            self.kb.gc()
            note(did="gc")


def learner() -> None:
    """Learn again and again."""
    from tests.conftest import queries

    while True:
        draw = random.Random()
        with tried("learner"), opened(draw.choice(["weights", "residual"])) as kb:
            report = kb.adapt(draw.sample(queries(), 400), generator=JOB["generator"])
            note(learned=report.decision, version=report.version)


def audit() -> None:
    """What there is, compared with what should be by the log alone."""
    import numpy as np

    from ragself.adapters.embedder import Embedder
    from ragself.corpus.words import words
    from ragself.engine.version_store import carried
    from ragself.lexical.view import View

    with opened() as kb:
        kb.search("warm")
        kb.add([])  # whatever is to be mended is
        store = kb.engine.store
        version = store.registry.version(store.registry.live())
        chunks = {chunk.id: chunk.text for chunk in store.journal.chunks()}
        with kb._live.borrowed(newest=True) as snapshot:
            found = snapshot.index._collection.get(include=["documents", "embeddings"])
            embedder = Embedder(store.base.encoder, store.adapter(version))
            texts = [str(words) for words in found["documents"]]
            fresh = embedder.documents(texts)
            stored = np.asarray(found["embeddings"], dtype=np.float32) if texts else fresh
            cosine = float((fresh * stored).sum(axis=1).min()) if len(texts) else 1.0
            sample = random.Random(0).sample(sorted(chunks), min(100, len(chunks)))
            view, fresh_view = store.lexical.view(), View.of(list(chunks.values()))
            terms = sorted({term for id in sample for term in words(chunks[id])})
            counted, right = view.statistics(terms), fresh_view.statistics(terms)
            whole = (
                view.documents == len(chunks)
                and bool((view.rows(list(chunks)) >= 0).all())
                and bool((counted.frequency == right.frequency).all())
                and bool((counted.occurrences == right.occurrences).all())
            )
            seen = [id in {hit.id for hit in kb.search(chunks[id], 10)} for id in sample]
        result = {
            "journal": chunks,
            "index": dict(zip(found["ids"], texts, strict=True)),
            "cosine": cosine,
            "shape": [list(fresh.shape), list(stored.shape)],
            "version": version.number,
            "fingerprint": snapshot.index._collection.metadata["ragself:fingerprint"] == carried(version),
            "words": whole,
            "found": sum(seen) / len(seen) if seen else 1.0,  # nothing was added yet
            "versions": [v.number for v in kb.status().versions],
        }
    Path(JOB["result"]).write_text(json.dumps(result))


def text(draw: random.Random) -> str:
    from tests.conftest import corpus_words

    words = draw.choice(corpus_words()).split()
    return " ".join(draw.choices(draw.sample(words, 12), k=40)) + f" {draw.randrange(10**6)}"


# the harness --------------------------------------------------------------------------------------


class Run:
    """One knowledge base, what should be in it, and the processes that use it."""

    def __init__(self, place: str, folder: Path, model: Path) -> None:
        self.place, self.folder, self.model = place, folder, model
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK[place]}", "tmpfs", str(self.disk)], check=True)
        self.there: dict[str, str] = {}
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.processes: dict[str, ForkServerProcess | subprocess.Popen[bytes]] = {}
        self.server: subprocess.Popen[bytes] | None = None
        self.vllm: VllmServer | None = None
        self.audited = True
        self.port = 18000 + os.getpid() % 1000
        self.logs = 0
        if place == "server":
            self.serve()

    def serve(self) -> None:
        program = str(Path(sys.executable).with_name("chroma"))
        command = [program, "run", "--path", str(self.disk / "chroma"), "--port", str(self.port)]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        import chromadb

        for _ in range(300):
            with suppress(Exception):
                client = chromadb.HttpClient("127.0.0.1", self.port)
                client.close()
                return
            time.sleep(0.1)
        raise AssertionError("the Chroma server does not answer")

    def start(self, name: str, seed: int, log: Path, *, back: bool = False) -> None:
        job = {
            "do": name,
            "kb": str(self.disk / "kb"),
            "model": str(self.model),
            "chroma": f"http://127.0.0.1:{self.port}" if self.place == "server" else None,
            "generator": self.vllm.url if self.vllm else None,
            "seed": seed,
            "log": str(log),
            "there": self.there,
            "result": str(self.folder / "result.json"),
            "said": str(self.folder / f"{name}.err"),
        }
        if back:  # the clock can only be set back for a process that is started anew
            environment = {**os.environ, "LD_PRELOAD": str(FAKETIME), "FAKETIME": "-1d"}
            (self.folder / f"{name}.job").write_text(json.dumps(job))
            command = [sys.executable, __file__, "--job", str(self.folder / f"{name}.job")]
            self.processes[name] = subprocess.Popen(command, env=environment)
            return
        process = self.context.Process(target=runpy.run_path, args=(__file__, {"JOB": job}, "__main__"))
        process.start()
        self.processes[name] = process

    def kill(self, *names: str) -> None:
        for name in names:
            process = self.processes.pop(name)
            process.kill()
            process.join() if isinstance(process, ForkServerProcess) else process.wait()

    def moment(self, fault: str, seed: int) -> tuple[list[str], Counter[str]]:
        """Work, have one thing go wrong, stop, and compare. Returns what is wrong, and what happened."""
        draw = random.Random(seed)
        self.logs += 1
        log, learned = self.folder / f"log-{self.logs}", self.folder / f"learned-{self.logs}"
        if fault == GENERATOR:
            self.vllm = VllmServer(llama(self.folder), self.folder / "vllm.log")
            self.vllm.start()
        self.start("application", seed, log)
        self.start("learner", seed, learned)
        time.sleep(draw.uniform(0.5, 12.0) + (10.0 if self.vllm else 0.0))
        self.happen(fault, draw, log, learned)
        self.kill(*list(self.processes))
        lines = [json.loads(line) for file in (log, learned) if file.exists() for line in whole(file)]
        if self.place == "server" and self.server is not None and self.server.poll() is not None:
            self.serve()
        Path(self.folder / "result.json").unlink(missing_ok=True)
        self.start("audit", seed, log)
        self.processes["audit"].join(120)  # type: ignore[union-attr,call-arg]
        wrong = [line["violation"] for line in lines if "violation" in line]
        if not (self.folder / "result.json").exists():
            self.kill("audit")
            self.audited = False  # what is there is not known: another one is begun
            said = (self.folder / "audit.err").read_text()[-600:]
            return [*wrong, f"the audit itself failed: {said}"], Counter()
        self.processes.pop("audit")
        result = json.loads((self.folder / "result.json").read_text())
        wrong += self.compare(lines, result)
        happened = Counter(
            f"error: {line['error'][:60]}" if "error" in line else next(iter(line.items()))[0] for line in lines
        )
        return wrong, happened

    def happen(self, fault: str, draw: random.Random, log: Path, learned: Path) -> None:
        if fault in ("application killed", "learner killed"):
            name = fault.split()[0]
            self.kill(name)
            time.sleep(draw.uniform(0.0, 1.0))
            self.start(name, draw.randrange(10**6) + 10**6, log if name == "application" else learned)
            time.sleep(draw.uniform(0.0, 2.0))
        elif fault == "both killed":
            self.kill("learner", "application")
        elif fault == GENERATOR:
            assert self.vllm is not None
            self.vllm.stop()
            time.sleep(draw.uniform(1.0, 5.0))
            self.vllm = None
        elif fault in ("Chroma server killed", "everything killed"):
            assert self.server is not None
            if fault == "everything killed":
                self.kill("learner", "application")
            self.server.kill()
            self.server.wait()
            if fault == "Chroma server killed":
                time.sleep(draw.uniform(0.0, 1.0))
                self.serve()
                time.sleep(draw.uniform(0.0, 2.0))
        elif fault == "disk full":
            disk, ballast = os.statvfs(self.disk), self.disk / "ballast"
            with suppress(OSError):
                ballast.write_bytes(bytes(max(disk.f_bavail - draw.choice([0, 1, 20, 200]), 0) * disk.f_frsize))
            time.sleep(draw.uniform(0.2, 2.0))
            ballast.unlink(missing_ok=True)
            time.sleep(draw.uniform(0.0, 1.0))
        elif fault == "disk read-only":
            self.kill("learner", "application")
            subprocess.run(["mount", "-o", "remount,ro", str(self.disk)], check=True)
            self.start("application", draw.randrange(10**6) + 10**6, log)
            time.sleep(draw.uniform(0.5, 2.0))
            self.kill("application")
            subprocess.run(["mount", "-o", "remount,rw", str(self.disk)], check=True)
            self.start("application", draw.randrange(10**6) + 10**6, log)
            time.sleep(draw.uniform(0.5, 1.5))
        elif fault == "clock set back":
            self.kill("learner", "application")
            self.start("application", draw.randrange(10**6) + 10**6, log, back=True)
            self.start("learner", draw.randrange(10**6), learned, back=True)
            time.sleep(draw.uniform(8.0, 12.0))

    def possible(self, lines: list[dict[str, Any]]) -> dict[str, set[str | None]]:
        """What each document may be, None where it may be gone: acknowledged, or tried and not acknowledged."""
        may: dict[str, set[str | None]] = {id: {words} for id, words in self.there.items()}
        for line in lines:
            for id, words in line.get("documents", {}).items():
                may[id] = {words} if "did" in line else may.get(id, {None}) | {words}
        return may

    def compare(self, lines: list[dict[str, Any]], result: dict[str, Any]) -> list[str]:
        may, journal, index = self.possible(lines), result["journal"], result["index"]
        self.there = journal
        faults = {
            f"document {id}: {str(journal.get(id))[:40]!r} is none of what is possible": id
            for id in may.keys() | journal.keys()
            if journal.get(id) not in may.get(id, {None})
        }
        checks = {
            f"the index has {len(index)} documents, the journal {len(journal)}": journal == index,
            f"vectors are not of version {result['version']}: {result['cosine']}, {result['shape']}": (
                result["cosine"] > 0.999 and result["shape"][0] == result["shape"][1] and result["fingerprint"]
            ),
            "the index of words is not that of the documents": result["words"],
            f"only {result['found']:.0%} of the documents are found by their own text": result["found"] >= 0.97,
            f"the live version {result['version']} is none of {result['versions']}": (
                result["version"] in result["versions"]
            ),
        }
        return [*faults, *(said for said, right in checks.items() if not right)]

    def end(self) -> None:
        self.kill(*list(self.processes))
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        subprocess.run(["umount", "--lazy", str(self.disk)], check=False)


def whole(file: Path) -> list[str]:
    """The lines that were written to their end."""
    return file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []


def llama(folder: Path) -> Path:
    """A causal language model with random weights."""
    from tests.conftest import documents
    from tests.language_models import random_model, tokenizer

    return random_model(folder / "llama", "llama", tokenizer([text for _, _, text in documents()], 1000))


def tiny_model(folder: Path) -> Path:
    """The tests' own model."""
    import tests.conftest

    class Factory:
        def mktemp(self, name: str) -> Path:
            (folder / name).mkdir(parents=True, exist_ok=True)
            return folder / name

    return Path(tests.conftest.tiny_model.__wrapped__(Factory()))  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="of the moments, to look at some again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", choices=[*FAULTS, "both"], default="both")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        JOB.update(json.loads(arguments.job.read_text()))
        work()
        return
    faults: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    violations: list[dict[str, Any]] = []
    began = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        model = tiny_model(Path(scratch))
        run: Run | None = None
        for number in range(arguments.first, arguments.moments):
            place = ("folder", "server")[number // RESET % 2] if arguments.place == "both" else arguments.place
            if run is None or number % RESET == 0 or not run.audited:
                if run is not None:
                    run.end()
                run = Run(place, Path(scratch) / f"run-{number}", model)
            assert run is not None
            seed = arguments.seed * 10_000 + number
            choices = [f for f in FAULTS[place] if FAKETIME or f != "clock set back"]
            fault = choices[number % len(choices)] if number % 20 or interpreter() is None else GENERATOR
            wrong, seen = run.moment(fault, seed)
            faults[f"{place}: {fault}"] += 1
            happened += seen
            if wrong:
                violations.append({"moment": number, "fault": fault, "place": place, "wrong": wrong[:5]})
            print(f"{number + 1}/{arguments.moments} {place} {fault}: {len(wrong)} wrong; {wrong[:3]}", file=sys.stderr)
        if run is not None:
            run.end()
    print(
        json.dumps(
            {
                "moments": arguments.moments - arguments.first,
                "seed": arguments.seed,
                "violations": len(violations),
                "faults": faults,
                "happened": happened,
                "left out": [
                    name for name, there in {"clock set back": FAKETIME, GENERATOR: interpreter()}.items() if not there
                ],
                "seconds": round(time.time() - began),
                "what": violations,
            },
            indent=2,
        )
    )
    sys.exit(bool(violations))


def work() -> None:
    """Do the job of a child process."""
    os.dup2(os.open(JOB["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    {"application": lambda: Application().run(), "learner": learner, "audit": audit}[JOB["do"]]()


if __name__ == "__main__":
    work() if JOB else main()

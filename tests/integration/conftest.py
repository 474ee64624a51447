"""What the integration tests share: filled knowledge bases, made once and copied, and processes that start fast."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from ragself import Chunk, Config, KnowledgeBase, Report
from ragself.config import load
from tests.conftest import documents, queries
from tests.integration.chroma_server import a_client, a_server  # noqa: F401
from tests.integration.vllm_server import VllmServer, interpreter

CHILD = Path(__file__).with_name("child.py")
PRELOADED = [
    "chromadb",
    "ragself.cli.app",
    "ragself.cli.show",
    "ragself.knowledge_base",
    "ragself.training.train_vectors",
    "sentence_transformers",
    "torch",
    "transformers.models.bert.modeling_bert",
]


@pytest.fixture(scope="session")
def settings(tiny_model: Path) -> Config:
    return load(None, encoder={"model": str(tiny_model)})


@pytest.fixture(scope="session")
def chunks() -> list[Chunk]:
    return [Chunk(id, text, {"title": title, "topic": id.split("-")[0]}) for id, title, text in documents()]


@pytest.fixture(scope="session")
def asked() -> list[str]:
    return queries()


@pytest.fixture(scope="session")
def filled_template(settings: Config, chunks: list[Chunk], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "kb"
    with KnowledgeBase(folder, config=settings) as kb:
        kb.add(chunks)
    return folder


@pytest.fixture(scope="session")
def promoted_template(
    filled_template: Path, settings: Config, asked: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report]:
    folder = shutil.copytree(filled_template, tmp_path_factory.mktemp("promoted") / "kb")
    with KnowledgeBase(folder, config=settings) as kb:
        report = kb.adapt(asked)
    assert report.decision == "promote", report.reason
    return folder, report


@pytest.fixture
def filled(filled_template: Path, tmp_path: Path) -> Path:
    """A knowledge base of the learnable corpus, of this test's own."""
    return Path(shutil.copytree(filled_template, tmp_path / "filled"))


@pytest.fixture
def promoted(promoted_template: tuple[Path, Report], tmp_path: Path) -> Path:
    """The same after one pass that promoted version 1."""
    return Path(shutil.copytree(promoted_template[0], tmp_path / "promoted"))


@pytest.fixture
def kb(tmp_path: Path, settings: Config) -> Iterator[KnowledgeBase]:
    """An empty knowledge base."""
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        yield kb


@dataclass
class Child:
    """A process that runs one function of child.py, and the files that it talks through."""

    process: ForkServerProcess
    folder: Path

    def join(self, timeout: float = 60) -> int:
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s:\n{self.said()}"
        return self.process.exitcode

    def kill(self) -> int:
        self.process.kill()
        return self.join()

    def result(self) -> Any:
        """What the function returned; a failure of it fails the test."""
        code = self.join()
        assert code == 0, f"exit code {code}:\n{self.said()}"
        return json.loads((self.folder / "result.json").read_text())

    def lines(self) -> list[Any]:
        """What it has reported up to now."""
        path = self.folder / "lines.jsonl"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def go(self, name: str) -> None:
        """Let the child's `wait(name)` return."""
        (self.folder / name).touch()

    def said(self) -> str:
        return (self.folder / "out").read_text() + (self.folder / "err").read_text()


@pytest.fixture(scope="session")
def _forkserver() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@pytest.fixture
def spawn(_forkserver: Any, tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., Child]]:
    """Start ``spawn(function, **arguments)`` in a new process, where nothing is open; it has only imported."""
    started: list[Child] = []

    def start(function: str, **arguments: Any) -> Child:
        folder = tmp_path / f"child-{len(started)}"
        folder.mkdir()
        arguments = {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()}
        job = {"function": function, "arguments": arguments, "folder": str(folder), "model": str(tiny_model)}
        process = _forkserver.Process(target=runpy.run_path, args=(str(CHILD), {"JOB": job}, "__main__"))
        process.start()
        started.append(Child(process, folder))
        return started[-1]

    yield start
    for child in started:
        child.process.kill()
        child.process.join()


@pytest.fixture(scope="session")
def random_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama with random weights, without a chat template."""
    from tests.language_models import random_model, tokenizer

    texts = [text for _, _, text in documents()]
    return random_model(tmp_path_factory.mktemp("generators") / "llama", "llama", tokenizer(texts, 1000))


@pytest.fixture(scope="session")
def _vllm() -> None:
    """What is needed to start a vLLM server; a test without it is skipped, but fails where CI is set."""
    if interpreter() is None:
        reason = (
            "no vLLM: run `poe vllm` (makes .venv-vllm), or set VLLM_PYTHON to the python of an environment with vLLM"
        )
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def vllm_server(make_vllm: Callable[..., VllmServer], random_llama: Path) -> VllmServer:
    """A server of the random Llama for all tests: leave it as it is."""
    server = make_vllm(random_llama)
    server.start()
    return server


@pytest.fixture(scope="session")
def make_vllm(_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., VllmServer]]:
    """Make ``make_vllm(model, *arguments, environment=...)``, a server to do harm to; it is not started yet."""
    made: list[VllmServer] = []

    def make(model: Path, *arguments: str, environment: dict[str, str] | None = None) -> VllmServer:
        log = tmp_path_factory.mktemp("vllm") / "log"
        made.append(VllmServer(model, log, *arguments, environment=environment))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def pytest_configure() -> None:
    os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")

"""Five servers for all tests of this folder, and one of them once more. That they take twenty seconds each to start
is no part of any fault, so a `Front` also stands for an address at which another server is started after the first."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ragself import Config, KnowledgeBase, Report
from ragself.lm.cached_scorer import NOISE_PAIRS
from ragself.lm.score_cache import ScoreCache
from ragself.progress import Progress
from ragself.schema import Account
from tests.integration.conftest import Child
from tests.integration.faults.front import Front
from tests.integration.faults.spoilt import Spoilt, make_spoilt
from tests.integration.faults.work import CANARIES, KEY, REACHED, WORK, few, listening, prompts, reach, score
from tests.integration.vllm_server import VllmServer

Spawn = Callable[..., Child]

Make = Callable[..., VllmServer]


@dataclass
class Servers:
    """All of one name.

    Attributes:
        steady: Nothing lasting happens to it. It has no chat template.
        fragile: Serves the same; it wants an API key, and is killed and started again.
        spoilt: Serves other weights, with a chat template; one token makes everything after it NaN.
        small: Takes 20 tokens.
        pooling: An embedding model; of another name.
    """

    steady: VllmServer
    fragile: VllmServer
    spoilt: VllmServer
    small: VllmServer
    pooling: VllmServer


@pytest.fixture(scope="session")
def servers(make_vllm: Make, random_llama: Path, spoilt_llama: Spoilt) -> Servers:
    def make(folder: Path, *arguments: str) -> VllmServer:
        server = make_vllm(Path("llama"), *arguments)  # by a name, as from a hub: what is behind it may change
        (server.log.parent / "llama").symlink_to(folder)
        return server

    made = Servers(
        make(random_llama),
        make(random_llama, "--api-key", KEY),
        make(spoilt_llama.folder),
        make(random_llama, "--max-model-len", "20"),
        make_vllm(random_llama, "--runner", "pooling"),
    )
    made.steady.launch()
    made.fragile.launch()
    made.steady.wait()
    made.fragile.wait()
    made.spoilt.launch()  # others wait for them later
    made.small.launch()
    made.pooling.launch()
    return made


@pytest.fixture(scope="session")
def spoilt_llama(tmp_path_factory: pytest.TempPathFactory) -> Spoilt:
    return make_spoilt(tmp_path_factory.mktemp("spoilt") / "llama")


@pytest.fixture
def steady(servers: Servers) -> VllmServer:
    return servers.steady


@pytest.fixture
def spoilt(servers: Servers) -> VllmServer:
    servers.spoilt.wait()
    return servers.spoilt


@pytest.fixture
def small(servers: Servers) -> VllmServer:
    servers.small.wait()
    return servers.small


@pytest.fixture
def pooling(servers: Servers) -> VllmServer:
    servers.pooling.wait()
    return servers.pooling


@pytest.fixture
def front() -> Iterator[Callable[..., Front]]:
    made: list[Front] = []

    def make(*arguments: Any) -> Front:
        made.append(Front(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ScoreCache]:
    with closing(ScoreCache(tmp_path / "scores.db")) as cache:
        yield cache


@pytest.fixture(scope="session")
def undisturbed(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """The right gains, and that they tell something."""
    with closing(ScoreCache(tmp_path_factory.mktemp("undisturbed") / "scores.db")) as cache:
        with closing(reach(servers.steady)) as generator:
            before, account = prompts(servers.steady), Account()
            gains = score(generator, cache, account=account)
            assert prompts(servers.steady) - before == WORK.pairs + NOISE_PAIRS + CANARIES
        assert account.asked == len(cache) == WORK.pairs >= 1500
    assert np.std(gains) > 0.1
    return gains


class Client(threading.Thread):
    """Someone who asks, in a thread of its own, and meets the others when a quarter of the work is done."""

    def __init__(self, work: Callable[[Progress], Any], meeting: threading.Barrier) -> None:
        super().__init__()
        self._work, self._meeting = work, meeting
        self._met = False
        self.result: Any = None
        self.error: Exception | None = None
        self.start()

    def _told(self, stage: str, done: int, total: int) -> None:
        if stage == "score" and done >= REACHED * total and not self._met:
            self._met = True
            self._meeting.wait(60)

    def run(self) -> None:
        try:
            self.result = self._work(self._told)
        except Exception as error:
            self.error = error


@dataclass
class Accident:
    """What three clients of a server saw when it was killed amid their work, and started again much later.

    Attributes:
        said: What was logged.
        warned: What was logged as a warning.
        url: Of the server, before and after.
    """

    said: list[str]
    warned: list[str]
    url: str
    # one with patience
    gains: NDArray[np.float32]
    account: Account
    kept: int
    stored: int
    prompts: int
    # one that has a second server
    shared: NDArray[np.float32]
    shared_stored: int
    shared_prompts: tuple[int, int]
    # a knowledge base, without patience
    kb: Path
    kb_kept: int
    kb_error: Exception | None
    kb_seconds: float
    config: Config


@pytest.fixture(scope="session")
def accident(
    servers: Servers,
    filled_template: Path,
    settings: Config,
    asked: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Accident]:
    folder = tmp_path_factory.mktemp("accident")
    server, steady = servers.fragile, servers.steady
    meeting = threading.Barrier(4)
    account = Account()
    config = few(settings)
    knowledge = Path(shutil.copytree(filled_template, folder / "kb"))

    def adapt(told: Progress) -> Report:
        with KnowledgeBase(knowledge, create=False, config=config) as kb:
            return kb.adapt(asked, told, generator=server.url)

    with (
        listening() as heard,
        closing(ScoreCache(folder / "patient.db")) as cache,
        closing(ScoreCache(folder / "shared.db")) as shared,
        closing(reach(server)) as patient,
        closing(reach(server, steady, patience=0.5)) as both,  # less than the work that is left takes
    ):
        before = prompts(steady)
        clients = [
            Client(lambda told: score(patient, cache, WORK, account, told), meeting),
            Client(lambda told: score(both, shared, WORK, None, told), meeting),
            Client(adapt, meeting),
        ]
        meeting.wait(60)
        time.sleep(0.05)
        worked = int(steady.metrics()["vllm:request_success_total"]) - before
        kept = len(cache)
        killed = time.monotonic()
        server.kill()
        clients[2].join(60)
        seconds = time.monotonic() - killed
        with closing(ScoreCache(knowledge / "scores.db")) as scores:
            kb_kept = len(scores)
        clients[1].join(60)
        server.start()
        clients[0].join(60)
        for client in clients[:2]:
            if client.error:
                raise client.error
        yield Accident(
            heard.said(),
            heard.said(logging.WARNING),
            server.url,
            clients[0].result,
            account,
            kept,
            len(cache),
            prompts(server),
            clients[1].result,
            len(shared),
            (worked, prompts(steady) - before),
            knowledge,
            kb_kept,
            clients[2].error,
            seconds,
            config,
        )

"""A causal language model behind one or more vLLM servers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from ragself.config import GeneratorConfig
from ragself.errors import GeneratorError
from ragself.lm.language_model import CANARY, Likelihoods, Pair
from ragself.lm.prompts import Writing
from ragself.lm.score_cache import same_model
from ragself.lm.vllm.client import START, TOKENIZING, Away, Endpoint, Refused, Served, Slow
from ragself.lm.vllm.pool import WARM_UP, Fleet, Server, explain
from ragself.lm.vllm.threads import Threads
from ragself.lm.vllm.tokenizer import local_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

_ARRIVE = 10.0  # seconds to wait for a server that does not answer at the start


class Vllm:
    """One model on one or more vLLM servers; see `LanguageModel`."""

    def __init__(self, config: GeneratorConfig) -> None:
        """Connect to the servers. If there are several, one that does not answer is left out with a warning.

        Raises:
            GeneratorError: No server answers, one is not a vLLM server, or they serve different models.
        """
        self._wanted = config.model
        self._patience = config.patience
        self._fleet = Fleet(self._find(config), config.patience)
        self._served = first = self._fleet.servers[0].served
        self.name = f"vllm:{first.root}" + (f":{first.model}" if first.model != first.root else "")
        self.limit = min(server.served.limit for server in self._fleet.servers) - 1  # one token is always generated
        self._begin: list[int] | None = None
        self._local: Tokenizer | None = None
        self._threads: Threads | None = None  # for tokenizing
        self._looked = False
        self._canary: tuple[Pair, Likelihoods] | None = None

    @property
    def begin(self) -> list[int]:
        """Ids that the tokenizer puts before every text."""
        if self._begin is None:
            plain, special = self._tokenize("a", special=False), self._tokenize("a", special=True)
            start = next((at for at in range(len(special)) if special[at : at + len(plain)] == plain), 0)
            self._begin = special[:start]
        return self._begin

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text by the server's tokenizer. Raises GeneratorError if no server can tokenize."""
        ask = partial(self._tokenize, special=False)
        if not self._looked:
            self._local, self._looked = local_tokenizer(self._served.root, ask), True
        if self._local is not None:
            return [encoding.ids for encoding in self._local.encode_batch(list(texts), add_special_tokens=False)]
        if len(texts) == 1:
            return [ask(texts[0])]
        if self._threads is None:  # a busy server takes long for each text
            self._threads = Threads(TOKENIZING, f"ragself tokenizes with {self.name}")
        return self._threads.map(ask, texts)

    def score(self, pairs: Iterable[Pair]) -> Iterator[list[tuple[int, Likelihoods | None]]]:
        """Score pairs; see `LanguageModel.score`. Each server first scores the canary, which warms it up."""
        if self._canary is None:
            self._canary = self._warm_up()
        return self._fleet.share(_score, pairs, self._check)

    def write(self, documents: Sequence[str], writing: Writing) -> Iterator[list[tuple[int, str | None]]]:
        """Write a question about each document; see `LanguageModel.write`."""
        return self._fleet.share(
            lambda server, batch, seconds: server.endpoint.write(server.served.model, batch, writing, seconds),
            documents,
            self._check,
        )

    def close(self) -> None:
        """Close all connections as soon as no request is in flight, without waiting."""
        if self._threads is None:
            self._fleet.close()
        else:
            self._threads.close(self._fleet.close)

    def _find(self, config: GeneratorConfig) -> list[Server]:
        """The servers that answer, at least one, all with the same model. On an error all connections are closed."""
        found: list[tuple[Endpoint, Served]] = []
        missing: list[str] = []
        with ExitStack() as opened:
            for url in config.url:
                endpoint = Endpoint(url, config)
                opened.callback(endpoint.close)
                try:
                    served = self._arrive(endpoint, wait=len(config.url) == 1)
                except (Away, Slow, Refused) as reason:
                    logger.warning("%s does not answer: %s", endpoint.url, reason)
                    missing.append(f"{endpoint.url} ({reason})")
                    endpoint.close()
                    continue
                found.append((endpoint, served))
                first, known = found[0]
                if served.root != known.root:
                    raise GeneratorError(
                        f"{first.url} serves {known.root} but {endpoint.url} serves {served.root}. "
                        "Give servers of one model."
                    )
            if not found:
                raise GeneratorError(
                    f"No vLLM server answers at {', '.join(missing)}. Start one, in an environment of its own: "
                    f"pip install vllm && {START}"
                )
            opened.pop_all()
        return [Server(endpoint, served, config.connections) for endpoint, served in found]

    def _arrive(self, endpoint: Endpoint, *, wait: bool) -> Served:
        """The model of a server; waits for a server that is starting if `wait`. Raises the errors of `Endpoint`."""
        end = time.monotonic() + (min(_ARRIVE, self._patience) if wait else 0.0)
        while True:
            try:
                return endpoint.served(self._wanted)
            except (Away, Slow, Refused):
                if time.monotonic() >= end:
                    raise
            time.sleep(1.0)

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        began = time.monotonic()
        while True:
            reason = "no server is left"
            for server in [server for server in self._fleet.servers if not server.dropped]:
                try:
                    ids = server.endpoint.tokenize(server.served.model, text, special=special)
                except (Away, Slow) as error:
                    reason = str(error)
                    server.left(reason)
                except Refused as error:
                    raise GeneratorError(f"{server.endpoint.url} cannot tokenize a text: {error}.") from error
                else:
                    server.returned()
                    return ids
            waited = time.monotonic() - began
            if waited > self._patience:
                raise self._fleet.lost(f"unreachable for {waited:.0f} s ({reason})")
            time.sleep(1.0)

    def _warm_up(self) -> tuple[Pair, Likelihoods]:
        """Let one server score the canary; all other servers and later scores are compared with it."""
        ids = self._tokenize(CANARY, special=False)
        half = self.limit // 2
        pair = ([*self.begin, *ids][:half], ids[:half])
        answers = self._fleet.share(lambda server, _, __: [_speak(server, pair)], [pair], lambda server: None)
        answer = next(answer for batch in answers for _, answer in batch if answer is not None)
        for server in self._fleet.servers:
            server.checked = False
        return pair, answer

    def _check(self, server: Server) -> None:
        """Check that a server serves the same model as the others and as before it was unreachable."""
        served = server.endpoint.served(self._wanted)
        if served.root != self._served.root or served.limit <= self.limit:
            raise GeneratorError(
                f"{server.endpoint.url} now serves {served.root} with {served.limit} tokens, expected "
                f"{self._served.root} with {self.limit + 1}. Scores so far are kept; run the same command again."
            )
        if self._canary is None:  # only questions are written; nothing is scored yet
            return
        pair, known = self._canary
        if not same_model(_speak(server, pair), known):
            raise GeneratorError(
                f"{server.endpoint.url} serves other weights under the name {served.root} than before, or than the "
                "other servers do. Serve one model; run the same command again."
            )


def _score(server: Server, batch: list[Pair], seconds: float) -> list[Likelihoods | None]:
    return server.endpoint.score(server.served.model, batch, seconds)


def _speak(server: Server, canary: Pair) -> Likelihoods:
    """Let a server score the canary, which every language model can do."""
    try:
        (answer,) = server.endpoint.score(server.served.model, [canary], WARM_UP)
        reason = "it has no likelihood for plain English"
    except Refused as error:
        answer, reason = None, explain(str(error))
    if answer is None:
        raise GeneratorError(f"{server.endpoint.url} cannot score texts: {reason}.")
    return answer

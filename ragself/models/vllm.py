"""A causal language model behind one or more vLLM servers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ragself.config import GeneratorConfig
from ragself.errors import GeneratorError
from ragself.models.endpoint import START, TOKENIZING, Away, Endpoint, Refused, Slow
from ragself.models.fleet import WARM_UP, Fleet, Server, explain
from ragself.models.generator import CANARY, Likelihoods, Pair
from ragself.models.prompt import Writing
from ragself.models.tokens import local_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

_ARRIVE = 10.0  # seconds to wait for a server that does not answer at the very beginning
_DIFFERENT = 0.05  # nats per token of the canary from which two servers do not serve the same model


class Vllm:
    """One model on one or more vLLM servers; see `Generator`."""

    def __init__(self, config: GeneratorConfig) -> None:
        """Find the servers. One of several that does not answer is left out with a warning.

        Raises:
            GeneratorError: None answers, one is no vLLM server, or they serve different models.
        """
        self._wanted = config.model
        self._patience = config.patience
        found = [server for url in config.url if (server := self._find(url, config)) is not None]
        if not found:
            raise GeneratorError(
                f"No vLLM server answers at {', '.join(config.url)}. Start one, in an environment of its own: "
                f"pip install vllm && {START}"
            )
        self._fleet = Fleet(found, config.patience)
        self._served = first = found[0].served
        for server in found[1:]:
            if server.served.root != first.root:
                raise GeneratorError(
                    f"{found[0].endpoint.url} serves {first.root} but {server.endpoint.url} serves "
                    f"{server.served.root}. Give servers of one model."
                )
        self.name = f"vllm:{first.root}" + (f":{first.model}" if first.model != first.root else "")
        self.limit = min(server.served.limit for server in found) - 1  # one token is always generated
        self._begin: list[int] | None = None
        self._local: Tokenizer | None = None
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
        """Token ids of each text, by the server's own tokenizer. Raises GeneratorError where none can be had."""
        ask = partial(self._tokenize, special=False)
        if not self._looked:
            self._local, self._looked = local_tokenizer(self._served.root, ask), True
        if self._local is not None:
            return [encoding.ids for encoding in self._local.encode_batch(list(texts), add_special_tokens=False)]
        if len(texts) == 1:
            return [ask(texts[0])]
        with ThreadPoolExecutor(TOKENIZING) as threads:  # a busy server takes its time for each
            return list(threads.map(ask, texts))

    def score(self, pairs: Iterable[Pair]) -> Iterator[list[tuple[int, Likelihoods | None]]]:
        """Score pairs; see `Generator.score`. Each server first answers the canary, which warms it up."""
        if self._canary is None:
            self._canary = self._warm_up()
        return self._fleet.share(_score, pairs, self._check)

    def write(self, documents: Sequence[str], writing: Writing) -> Iterator[list[tuple[int, str | None]]]:
        """Write a question about each document; see `Generator.write`."""
        return self._fleet.share(
            lambda server, batch, seconds: server.endpoint.write(server.served.model, batch, writing, seconds),
            documents,
            self._check,
        )

    def close(self) -> None:
        """Close all connections; requests in flight are abandoned."""
        self._fleet.close()

    def _find(self, url: str, config: GeneratorConfig) -> Server | None:
        endpoint = Endpoint(url, config)
        began = time.monotonic()
        while True:
            try:
                return Server(endpoint, endpoint.served(config.model), config.connections)
            except (Away, Slow, Refused) as reason:
                if len(config.url) > 1 or time.monotonic() - began > min(_ARRIVE, config.patience):
                    logger.warning("%s does not answer: %s", endpoint.url, reason)
                    endpoint.close()
                    return None
            time.sleep(1.0)

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        began = time.monotonic()
        while True:
            reason = "no server is left"
            for server in [server for server in self._fleet.servers if not server.dropped]:
                try:
                    return server.endpoint.tokenize(server.served.model, text, special=special)
                except (Away, Slow) as error:
                    reason = str(error)
                except Refused as error:
                    raise GeneratorError(f"{server.endpoint.url} cannot tokenize a text: {error}.") from error
            if time.monotonic() - began > self._patience:
                raise self._fleet.lost(reason)
            time.sleep(1.0)

    def _warm_up(self) -> tuple[Pair, Likelihoods]:
        """Let one server answer the canary, to which all others and all later answers are compared."""
        ids = self._tokenize(CANARY, special=False)
        half = self.limit // 2
        pair = ([*self.begin, *ids][:half], ids[:half])
        ((_, answer),) = next(self._fleet.share(_score, [pair], lambda server: None))
        for server in self._fleet.servers:
            server.checked = False
        if answer is None:
            why = explain(self._fleet.refusal) or "it has no likelihood for plain English"
            raise GeneratorError(f"{self.name} cannot score texts: {why}.")
        return pair, answer

    def _check(self, server: Server) -> None:
        """Make sure that a server serves the model that the others do, and did before it was away."""
        served = server.endpoint.served(self._wanted)
        if served.root != self._served.root or served.limit <= self.limit:
            raise GeneratorError(
                f"{server.endpoint.url} now serves {served.root} with {served.limit} tokens, expected "
                f"{self._served.root} with {self.limit + 1}. Scores so far are kept; run the same command again."
            )
        if self._canary is None:  # texts are written, nothing is scored yet
            return
        pair, known = self._canary
        (answer,) = server.endpoint.score(served.model, [pair], WARM_UP)
        if answer is None or float(np.abs(answer - known).mean()) > _DIFFERENT:
            raise GeneratorError(
                f"{server.endpoint.url} serves other weights under the name {served.root} than before, or than the "
                "other servers do. Serve one model; run the same command again."
            )


def _score(server: Server, batch: list[Pair], seconds: float) -> list[Likelihoods | None]:
    return server.endpoint.score(server.served.model, batch, seconds)

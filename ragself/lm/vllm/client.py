"""HTTP client for one vLLM server: requests, responses and errors. The only file that uses httpx.

Text goes only to the configured URL: proxies from the environment and redirects are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import orjson

from ragself.config import GeneratorConfig
from ragself.errors import GeneratorError
from ragself.lm.language_model import Likelihoods, Pair
from ragself.lm.prompts import QUESTION_TOKENS, Writing

START = "vllm serve MODEL --max-model-len 4096 --max-num-batched-tokens 2048 --gpu-memory-utilization 0.7"
TOKENIZING = 8  # texts tokenized concurrently
_CONNECT = 10.0  # seconds


class Away(Exception):  # noqa: N818
    """The server is unreachable, overloaded or terminating; the request may succeed later or on another server."""


class Slow(Exception):  # noqa: N818
    """The server did not answer within the timeout."""


class Refused(Exception):  # noqa: N818
    """The server accepts other requests but rejects this one."""


@dataclass(frozen=True, slots=True)
class Served:
    """A served model.

    Attributes:
        model: Model name to use in requests.
        root: Name or path of the weights.
        limit: Maximum number of tokens of prompt and answer together.
    """

    model: str
    root: str
    limit: int


class Endpoint:
    """A vLLM server. Safe to use from several threads."""

    def __init__(self, url: str, config: GeneratorConfig) -> None:
        """Prepare a client for the server at `url`; nothing is sent yet.

        Raises:
            GeneratorError: `url` is not a URL.
        """
        key = config.api_key
        try:
            address = httpx.URL(url)
            self._client = httpx.Client(
                base_url=address.copy_with(userinfo=b""),  # httpx logs the URL
                auth=(address.username, address.password) if address.userinfo else None,
                headers={
                    "Content-Type": "application/json",
                    **({"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
                },
                limits=httpx.Limits(max_connections=config.connections + TOKENIZING + 1),
                trust_env=False,
            )
        except (httpx.InvalidURL, ValueError) as error:
            scheme, _, place = url.partition("//")  # URL and error may contain a password
            shown = f"{scheme}//{place.rpartition('@')[2]}"
            raise GeneratorError(
                f"{shown!r} is not a URL ({type(error).__name__}). Expected one such as http://127.0.0.1:8000"
            ) from None
        self.url = str(self._client.base_url).rstrip("/")  # for messages, without a password
        self._chats: bool | None = None  # whether the model has a chat template; None if not yet known

    def served(self, wanted: str | None) -> Served:
        """The served model.

        Args:
            wanted: Name of one of the server's models; None uses the first.

        Raises:
            Away: The server is unreachable.
            GeneratorError: It serves another model, or is not a vLLM server.
        """
        answer = self._ask("GET", "/v1/models", None, _CONNECT)
        try:
            models = {str(model["id"]): model for model in answer["data"]}
            chosen = models[wanted] if wanted else next(iter(models.values()))
            limit = chosen["max_model_len"]
            root = chosen.get("root") or chosen["id"]
        except KeyError as error:
            if error.args == (wanted,):
                raise GeneratorError(
                    f"{self.url} serves {', '.join(models)}, not {wanted!r}. Set generator.model to one of these."
                ) from error
            raise self._no_vllm(f"/v1/models has no {error}") from error
        except (TypeError, AttributeError, StopIteration) as error:
            raise self._no_vllm("/v1/models lists no model") from error
        if not isinstance(limit, int):
            raise self._no_vllm("/v1/models gives no length limit of the model")
        return Served(str(chosen["id"]), str(root), limit)

    def tokenize(self, model: str, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text. Raises the errors of `score`."""
        if not text:
            return []
        body = {"model": model, "prompt": text, "add_special_tokens": special}
        answer = self._ask("POST", "/tokenize", body, 60.0)
        tokens = answer.get("tokens")
        if not isinstance(tokens, list):
            raise self._no_vllm("/tokenize gives no tokens")
        return tokens

    def score(self, model: str, pairs: Sequence[Pair], seconds: float) -> list[Likelihoods | None]:
        """Log p of each target token of each pair; None where the server has none.

        Args:
            model: Name of the model.
            pairs: Contexts and targets within the token limit.
            seconds: Timeout of the request.

        Raises:
            Away, Slow, Refused: See the classes.
            GeneratorError: The server cannot answer such requests at all.
        """
        body = {
            "model": model,
            "prompt": [[*context, *target] for context, target in pairs],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        answer = self._ask("POST", "/v1/completions", body, seconds)
        choices = self._choices(answer, len(pairs))
        return [self._read(choice, target) for choice, (_, target) in zip(choices, pairs, strict=True)]

    def write(self, model: str, documents: Sequence[str], writing: Writing, seconds: float) -> list[str | None]:
        """Write a question about each document, by chat if the model has a chat template, else by continuation.

        Args:
            model: Name of the model.
            documents: Texts within the token limit.
            writing: Prompts for the question.
            seconds: Timeout of each request.
        """
        # No sampling with a seed: on a CPU it crashes vLLM's engine ("CPU Generator does not use offset", 0.32).
        options: dict[str, Any] = {"model": model, "max_tokens": QUESTION_TOKENS, "temperature": 0}
        if self._chats is not False:
            try:
                written = [
                    self._chat(writing.chat.format(document=document), options, seconds) for document in documents
                ]
            except Refused as reason:
                if "chat template" not in str(reason):
                    raise
                self._chats = False  # a base model
            else:
                self._chats = True
                return written
        body = {
            **options,
            "prompt": [writing.plain.format(document=document) for document in documents],
            "stop": ["\n"],
        }
        choices = self._choices(self._ask("POST", "/v1/completions", body, seconds), len(documents))
        return [choice.get("text") for choice in choices]

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _chat(self, text: str, options: dict[str, Any], seconds: float) -> str | None:
        messages = [{"role": "user", "content": text}]
        # A reasoning model would use up its tokens on reasoning; templates without this option ignore it.
        body = {**options, "messages": messages, "chat_template_kwargs": {"enable_thinking": False}}
        answer = self._ask("POST", "/v1/chat/completions", body, seconds)
        content = self._choices(answer, 1)[0].get("message", {}).get("content")
        return content if isinstance(content, str) else None

    def _choices(self, answer: Any, count: int) -> list[dict[str, Any]]:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) != count:
            found = len(choices) if isinstance(choices, list) else "no"
            raise self._no_vllm(f"{count} prompts got {found} answers")
        return sorted(choices, key=lambda choice: int(choice.get("index", 0)))

    def _read(self, choice: dict[str, Any], target: list[int]) -> Likelihoods | None:
        entries = choice.get("prompt_logprobs")
        if entries is None:
            raise GeneratorError(
                f"{self.url} answers without prompt_logprobs, the likelihoods that ragself trains on. vLLM returns "
                f"them; many servers with the same protocol do not. Start a vLLM server: {START}"
            )
        values = np.empty(len(target), dtype=np.float32)
        for at, (entry, token) in enumerate(zip(entries[-len(target) :], target, strict=True)):
            found = (entry or {}).get(str(token))
            value = found.get("logprob") if isinstance(found, dict) else None
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= -9999.0:  # vLLM's -inf
                return None
            values[at] = value
        return values

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> Any:
        try:
            response = self._client.request(
                method,
                path,
                content=orjson.dumps(body) if body else None,
                timeout=httpx.Timeout(seconds, connect=_CONNECT, pool=None),
            )
        except httpx.ConnectTimeout as error:
            raise Away(f"no connection within {_CONNECT:.0f} s") from error
        except httpx.TimeoutException as error:
            if not self._alive():
                raise Away(f"no answer within {seconds:.0f} s, nor to /health") from error
            raise Slow(f"no answer within {seconds:.0f} s") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise GeneratorError(
                f"Cannot send requests to {self.url}: {error}. Expected a URL such as http://127.0.0.1:8000"
            ) from error
        except httpx.LocalProtocolError:  # its message may quote the API key
            raise GeneratorError(
                f"Cannot send requests to {self.url}: they would not be valid HTTP. Check URL and API key."
            ) from None
        except httpx.TransportError as error:
            raise Away(str(error) or type(error).__name__) from error
        self._complain(response, path)
        try:
            return orjson.loads(response.content)
        except ValueError as error:
            kind = response.headers.get("content-type", "no content type")
            raise self._no_vllm(f"{path} answers {kind}, not JSON") from error

    def _complain(self, response: httpx.Response, path: str) -> None:
        """Raise the error for a status other than 200."""
        status = response.status_code
        if status == 200:
            return
        reason = _reason(response)
        if status in (401, 403):
            raise GeneratorError(
                f"{self.url} answers {status}: it needs the API key that it was started with (vllm serve --api-key). "
                "Set RAGSELF_GENERATOR__API_KEY to it."
            )
        if status == 404 and path != "/v1/models" and "does not exist" in reason:
            raise GeneratorError(f"{self.url} no longer serves the model: {reason}. Start it again: {START}")
        if status in (404, 405, 501):
            if path == "/v1/completions" and self._alive():
                raise GeneratorError(
                    f"{self.url} has no {path}: the served model is not a generator (an embedding model?). "
                    f"Serve a causal language model: {START}"
                )
            raise self._no_vllm(f"{path} answers {status}")
        if status in (408, 425, 429, 502, 503, 504) or (status >= 500 and not self._alive()):
            raise Away(f"status {status}: {reason}")
        if status >= 400:
            raise Refused(reason)
        raise self._no_vllm(f"{path} answers {status}")

    def _alive(self) -> bool:
        try:
            return self._client.get("/health", timeout=_CONNECT).status_code == 200
        except httpx.HTTPError:
            return False

    def _no_vllm(self, found: str) -> GeneratorError:
        return GeneratorError(
            f"{self.url} is not a vLLM server: {found}. Expected the base URL of one, such as http://127.0.0.1:8000; "
            f"start it with: {START}"
        )


def _reason(response: httpx.Response) -> str:
    """The message of an error response, in one short line. vLLM's messages never quote the prompt."""
    try:
        body = response.json()
        error = body.get("error", body)
        message = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        message = response.text
    lines = str(message).strip().splitlines() or [response.reason_phrase]
    return lines[0][:300].rstrip(".")

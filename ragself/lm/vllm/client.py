"""One vLLM server over HTTP: requests, answers, and what each failure means. The only file that knows httpx.

Text goes to the URL that was configured and nowhere else: no proxy of the environment, no redirect.
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
from ragself.lm.generator import Likelihoods, Pair
from ragself.lm.prompts import QUESTION_TOKENS, Writing

START = "vllm serve MODEL --max-model-len 4096 --max-num-batched-tokens 2048 --gpu-memory-utilization 0.7"
TOKENIZING = 8  # texts that are tokenized at once
_CONNECT = 10.0  # seconds


class Away(Exception):  # noqa: N818
    """The server cannot be reached, is overloaded or is dying; the same request may succeed later or elsewhere."""


class Slow(Exception):  # noqa: N818
    """There was no answer in time."""


class Refused(Exception):  # noqa: N818
    """The server takes other requests but not this one."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server serves.

    Attributes:
        model: Name to ask for.
        root: Name or path of the weights.
        limit: Tokens of prompt and answer together, at most.
    """

    model: str
    root: str
    limit: int


class Endpoint:
    """A vLLM server. Safe to use from several threads."""

    def __init__(self, url: str, config: GeneratorConfig) -> None:
        """Prepare to talk to the server at `url`; nothing is sent yet.

        Raises:
            GeneratorError: It is no URL.
        """
        key = config.api_key
        try:
            address = httpx.URL(url)
            self._client = httpx.Client(
                base_url=address.copy_with(userinfo=b""),  # httpx logs it
                auth=(address.username, address.password) if address.userinfo else None,
                headers={
                    "Content-Type": "application/json",
                    **({"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
                },
                limits=httpx.Limits(max_connections=config.connections + TOKENIZING + 1),
                trust_env=False,
            )
        except (httpx.InvalidURL, ValueError) as error:
            scheme, _, place = url.partition("//")  # a password may be in it, and in the error, too
            shown = f"{scheme}//{place.rpartition('@')[2]}"
            raise GeneratorError(
                f"{shown!r} is no URL ({type(error).__name__}). Expected one such as http://127.0.0.1:8000"
            ) from None
        self.url = str(self._client.base_url).rstrip("/")  # to show: without a password
        self._chats: bool | None = None  # whether the model has a chat template; None until it was asked

    def served(self, wanted: str | None) -> Served:
        """What it serves.

        Args:
            wanted: Name of one of its models; None takes the first.

        Raises:
            Away: It cannot be reached.
            GeneratorError: It serves something else, or is no vLLM server.
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
            raise self._no_vllm(f"/v1/models says nothing of {error}") from error
        except (TypeError, AttributeError, StopIteration) as error:
            raise self._no_vllm("/v1/models lists no model") from error
        if not isinstance(limit, int):
            raise self._no_vllm("the length limit of the model is not told")
        return Served(str(chosen["id"]), str(root), limit)

    def tokenize(self, model: str, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text. Raises as `score` does."""
        if not text:
            return []
        body = {"model": model, "prompt": text, "add_special_tokens": special}
        answer = self._ask("POST", "/tokenize", body, 60.0)
        tokens = answer.get("tokens")
        if not isinstance(tokens, list):
            raise self._no_vllm("/tokenize gives no tokens")
        return tokens

    def score(self, model: str, pairs: Sequence[Pair], seconds: float) -> list[Likelihoods | None]:
        """Log p of each target token of each pair; None where the server has none to give.

        Args:
            model: Name of the model.
            pairs: Contexts and targets that fit.
            seconds: To wait for an answer.

        Raises:
            Away, Slow, Refused: See there.
            GeneratorError: It will never answer such a request.
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
        """A question about each document: chatting with a model that has a chat template, else by continuation.

        Args:
            model: Name of the model.
            documents: Texts that fit.
            writing: How it is asked for.
            seconds: To wait for an answer to each request.
        """
        # No sampling with a seed: on a CPU that ends vLLM's engine ("CPU Generator does not use offset", 0.32).
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
        said = [{"role": "user", "content": text}]
        # A model that thinks first would spend its tokens on that; templates that know no such switch ignore it.
        body = {**options, "messages": said, "chat_template_kwargs": {"enable_thinking": False}}
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
                f"{self.url} answers without prompt_logprobs, the likelihoods that ragself learns from. vLLM gives "
                f"them; many servers that speak the same protocol do not. Start one: {START}"
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
                f"Cannot ask {self.url}: {error}. Expected a URL such as http://127.0.0.1:8000"
            ) from error
        except httpx.LocalProtocolError:  # its text may quote the API key
            raise GeneratorError(f"Cannot ask {self.url}: the request is no HTTP. Check URL and API key.") from None
        except httpx.TransportError as error:
            raise Away(str(error) or type(error).__name__) from error
        self._complain(response, path)
        try:
            return orjson.loads(response.content)
        except ValueError as error:
            kind = response.headers.get("content-type", "no content type")
            raise self._no_vllm(f"{path} answers {kind}, not JSON") from error

    def _complain(self, response: httpx.Response, path: str) -> None:
        """Raise what a status means; nothing for 200."""
        status = response.status_code
        if status == 200:
            return
        reason = _reason(response)
        if status in (401, 403):
            raise GeneratorError(
                f"{self.url} answers {status}: it wants the API key that it was started with (vllm serve --api-key). "
                "Set RAGSELF_GENERATOR__API_KEY to it."
            )
        if status == 404 and path != "/v1/models" and "does not exist" in reason:
            raise GeneratorError(f"{self.url} no longer serves the model: {reason}. Start it again: {START}")
        if status in (404, 405, 501):
            if path == "/v1/completions" and self._alive():
                raise GeneratorError(
                    f"{self.url} has no {path}: what it serves is no generator (an embedding model?). "
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
            f"{self.url} is no vLLM server: {found}. Expected the base URL of one, such as http://127.0.0.1:8000; "
            f"start it with: {START}"
        )


def _reason(response: httpx.Response) -> str:
    """What an error says, one short line. vLLM's never quotes the prompt."""
    try:
        body = response.json()
        error = body.get("error", body)
        message = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        message = response.text
    lines = str(message).strip().splitlines() or [response.reason_phrase]
    return lines[0][:300].rstrip(".")

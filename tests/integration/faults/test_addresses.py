"""Addresses at which there is no vLLM server, or not the right one, or not for everybody."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import httpx
import pytest

from ragself.errors import GeneratorError
from tests.integration.faults.conftest import Accident
from tests.integration.faults.front import Front, Page, as_json
from tests.integration.faults.work import KEY, answers, listening, reach, some_pairs
from tests.integration.vllm_server import MODEL, VllmServer

pytestmark = pytest.mark.vllm

PASSWORD = "hunter-2a9d4b"
HTML = {"Content-Type": "text/html"}


def page(status: int, headers: dict[str, str] = HTML, body: bytes = b"<html>Hello</html>") -> Callable[..., Page]:
    return lambda path, asked: (status, headers, body)


NO_VLLM = {
    "a web page": (page(200), "/v1/models answers text/html, not JSON"),
    "nothing at this path": (page(404), "/v1/models answers 404"),
    "a redirect": (page(302, {"Location": "/elsewhere"}), "/v1/models answers 302"),
    "JSON of something else": (lambda path, body: as_json({"ok": True}), "/v1/models has no 'data'"),
    "JSON that is a list": (lambda path, body: as_json([]), "/v1/models lists no model"),
    "no models": (lambda path, body: as_json({"data": []}), "/v1/models lists no model"),
    "a protocol without a limit": (
        lambda path, body: as_json({"data": [{"id": "gpt"}]}),
        "/v1/models has no 'max_model_len'",
    ),
}


@pytest.mark.parametrize("kind", NO_VLLM)
def test_what_is_no_vllm_server_is_told_and_nothing_else_is_asked(kind: str, front: Callable[..., Front]) -> None:
    answer, found = NO_VLLM[kind]
    place = front("", answer)
    with pytest.raises(GeneratorError) as caught:
        reach(place)
    assert f"{place.url} is not a vLLM server: {found}. Expected the base URL of one" in str(caught.value)
    assert place.asked == ["/v1/models"]


def test_a_redirect_is_not_followed_elsewhere(steady: VllmServer, front: Callable[..., Front]) -> None:
    elsewhere = front(steady.url)
    for status in (301, 302, 307, 308):
        place = front("", page(status, {"Location": f"{elsewhere.url}/v1/models"}))
        with pytest.raises(GeneratorError, match=f"is not a vLLM server: /v1/models answers {status}"):
            reach(place)
    later = front(
        steady.url,
        lambda path, body: (307, {"Location": elsewhere.url + path}, b"") if path == "/v1/completions" else None,
    )
    with (
        closing(reach(later)) as generator,
        pytest.raises(GeneratorError, match="is not a vLLM server: /v1/completions answers 307"),
    ):
        answers(generator, some_pairs(3))
    assert elsewhere.asked == []


def test_nothing_at_the_address_is_told_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    with pytest.raises(GeneratorError) as caught:
        reach("http://127.0.0.1:1", patience=0.5)
    assert time.monotonic() - began < 30
    said = str(caught.value)
    assert said.startswith("No vLLM server answers at http://127.0.0.1:1 (")
    assert "refused" in said
    assert "vllm serve MODEL" in said


def test_https_at_a_port_that_speaks_http_is_told(steady: VllmServer) -> None:
    place = steady.url.replace("http:", "https:")
    with pytest.raises(GeneratorError, match=rf"No vLLM server answers at {place} \(.*(SSL|TLS)"):
        reach(place, patience=0.5)


def test_one_of_two_servers_that_is_not_there_is_left_out(steady: VllmServer, caplog: pytest.LogCaptureFixture) -> None:
    with closing(reach("http://127.0.0.1:1", steady)) as generator:
        assert all(answer is not None for answer in answers(generator, some_pairs(20)))
    assert [line for line in caplog.messages if line.startswith("http://127.0.0.1:1 does not answer: ")]


def test_a_model_that_is_not_served_is_named_with_those_that_are(steady: VllmServer) -> None:
    with pytest.raises(GeneratorError) as caught:
        reach(steady, model="Qwen/Qwen3", url=(steady.url,))
    assert str(caught.value) == f"{steady.url} serves {MODEL}, not 'Qwen/Qwen3'. Set generator.model to one of these."
    with closing(reach(steady, model=MODEL, url=(steady.url,))) as generator:
        assert generator.name == "vllm:llama:gen"


@pytest.mark.parametrize("key", ["", "wrong-5b8d0c"], ids=["no key", "a wrong key"])
def test_a_key_that_is_wrong_or_missing_is_told_and_never_shown(accident: Accident, key: str) -> None:
    with listening() as heard, pytest.raises(GeneratorError) as caught:
        reach(accident.url, key=key)
    assert str(caught.value) == (
        f"{accident.url} answers 401: it needs the API key that it was started with (vllm serve --api-key). "
        "Set RAGSELF_GENERATOR__API_KEY to it."
    )
    assert len(heard.said()) > 1
    assert not [line for line in heard.said() if KEY in line or (key and key in line)]
    with closing(reach(accident.url)) as generator:
        assert all(answer is not None for answer in answers(generator, some_pairs(3)))


def test_a_password_in_the_address_is_used_and_never_shown(
    steady: VllmServer, front: Callable[..., Front], caplog: pytest.LogCaptureFixture
) -> None:
    def secret(url: str) -> str:
        return url.replace("http://", f"http://user:{PASSWORD}@")

    with listening() as heard:
        with closing(reach(secret(steady.url), key="")) as generator:
            assert all(answer is not None for answer in answers(generator, some_pairs(3)))
        said = []
        for place in ("http://127.0.0.1:1", front("", page(404)).url, "http://127.0.0.1:99999999"):
            with pytest.raises(GeneratorError) as caught:
                reach(secret(place), key="", patience=0.1)
            said.append(str(caught.value))
            assert place in said[-1]
    assert len(heard.said()) > 10
    assert not [line for line in [*said, *heard.said(), *caplog.messages] if PASSWORD in line]


def test_a_proxy_of_the_environment_is_not_used(
    steady: VllmServer, front: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = front("", page(502))
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv(name.lower(), proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert httpx.get(f"{steady.url}/health").status_code == 502  # others use it
    asked = len(proxy.asked)
    with closing(reach(steady)) as generator:
        assert all(answer is not None for answer in answers(generator, some_pairs(3)))
    assert len(proxy.asked) == asked == 1


def test_an_embedding_model_is_refused(pooling: VllmServer) -> None:
    with (
        closing(reach(pooling)) as generator,
        pytest.raises(GeneratorError, match=rf"{pooling.url} has no /v1/completions: .*an embedding model"),
    ):
        answers(generator, some_pairs(3))

"""Questions that a server writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from ragself.config import GeneratorConfig
from ragself.lm.causal import CausalLM
from ragself.lm.language_model import LanguageModel
from ragself.lm.prompts import WRITINGS
from ragself.schema import Chunk
from tests.integration.faults.front import Front, at_times
from tests.integration.faults.spoilt import Spoilt
from tests.integration.faults.work import reach
from tests.integration.vllm_server import VllmServer

pytestmark = pytest.mark.vllm


def written(generator: LanguageModel, texts: Sequence[str], number: int) -> list[str]:
    found = dict(item for batch in generator.write(texts, WRITINGS[number]) for item in batch)
    assert sorted(found) == list(range(len(texts)))
    # A character that was cut in two at the end is left out by the server, and shown as a mark in this process.
    return [f"{found[row] or ''}".split("\n")[0].rstrip("\ufffd").strip() for row in range(len(texts))]


def test_questions_are_asked_for_by_chat_where_there_is_a_template_and_else_by_continuation(
    steady: VllmServer,
    spoilt: VllmServer,
    spoilt_llama: Spoilt,
    random_llama: Path,
    front: Callable[..., Front],
    chunks: list[Chunk],
) -> None:
    texts = [chunk.text for chunk in chunks if spoilt_llama.text.strip() not in chunk.text][:12]
    for server, folder, chats in ((spoilt, spoilt_llama.folder, True), (steady, random_llama, False)):
        place = front(server.url)
        local = CausalLM(GeneratorConfig(model=str(folder)))
        with closing(reach(place)) as generator:
            for number in (0, 1):
                found = written(generator, texts, number)
                assert len(set(found)) > 6
                assert found == written(local, texts, number)
        paths = Counter(place.asked)
        if chats:
            assert (paths["/v1/chat/completions"], paths["/v1/completions"]) == (2 * len(texts), 0)
        else:  # found out once for each connection at most
            assert 1 <= paths["/v1/chat/completions"] <= 4
            assert paths["/v1/completions"] >= 2


def test_a_server_that_goes_away_amid_questions_is_waited_for(
    steady: VllmServer, front: Callable[..., Front], chunks: list[Chunk]
) -> None:
    texts = [chunk.text for chunk in chunks[:40]]
    place = front(steady.url, at_times("hang up"))
    with closing(reach(steady)) as generator, closing(reach(place)) as disturbed:
        assert written(disturbed, texts, 0) == written(generator, texts, 0)

"""Learning inside an application: it starts, tells how far it is, switches, and stops."""

from __future__ import annotations

import asyncio
import time

from llama_index.retrievers.ragself import RagselfRetriever

from ragself import KnowledgeBase


async def until(true: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def test_it_learns_while_it_serves_and_the_loop_goes_on(filled: KnowledgeBase, asked: list[str]) -> None:
    retriever = RagselfRetriever(filled, 3)
    assert not retriever.adapting().running
    retriever.start_adapting(lambda: asked, every=3600)
    retriever.start_adapting(asked)  # there is one
    gaps, versions = [0.0], set()

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    ticking, began = asyncio.create_task(tick()), time.monotonic()
    while retriever.adapting().passes == 0:
        versions |= {hit.version for hit in await asyncio.to_thread(filled.search, asked[0], 3)}
        await retriever.aretrieve(asked[0])
    took = time.monotonic() - began
    ticking.cancel()
    seen = retriever.adapting()
    assert seen.running
    assert seen.stage is None
    assert seen.error is None
    assert seen.report is not None
    assert seen.report.decision == "promote"
    assert seen.waiting is None or "is new" in seen.waiting
    assert filled.search(asked[0], 1)[0].version == 1
    assert versions == {0} or versions == {0, 1}
    assert max(gaps) < took / 2
    assert await retriever.astop_adapting(10)
    assert not retriever.adapting().running


async def test_it_stops_amid_a_pass(filled: KnowledgeBase, asked: list[str]) -> None:
    retriever = RagselfRetriever(filled)
    retriever.start_adapting(asked)
    await until(lambda: retriever.adapting().stage is not None)
    assert await retriever.astop_adapting(30)
    assert filled.status().live.number == 0
    assert retriever.adapting().passes == 0
    retriever.start_adapting(asked)
    await until(lambda: retriever.adapting().passes == 1)
    assert filled.status().live.number == 1
    retriever.close()


async def test_an_error_is_told_and_it_tries_again(filled: KnowledgeBase) -> None:
    asked: list[float] = []

    def broken() -> list[str]:
        asked.append(time.monotonic())
        raise OSError("the log is gone")

    retriever = RagselfRetriever(filled)
    retriever.start_adapting(broken, every=0.2)
    await until(lambda: len(asked) > 2)
    assert isinstance(retriever.adapting().error, OSError)
    retriever.close()

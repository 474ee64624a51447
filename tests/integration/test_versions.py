"""Versions that share a collection, and versions of an earlier ragself that are retired."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragself import Chunk, Config, KnowledgeBase
from ragself.adapters.ranking import Ranking
from ragself.adapters.residual import Residual
from ragself.corpus.journal import LEXICAL
from ragself.errors import InputError, StoreError
from ragself.index.collection import ChromaCollection
from ragself.lexical.weights import Weights
from tests.integration.helpers import by_law, promote

DRAW = np.random.default_rng(0)


def residual() -> Residual:
    return Residual(*(DRAW.normal(size=shape).astype(np.float32) / 4 for shape in ((32, 4), (4, 32))))


def weights(a: float) -> Ranking:
    return Ranking(None, Weights(language_model=a))


@pytest.fixture
def kb(filled: Path, settings: Config) -> Iterator[KnowledgeBase]:
    with KnowledgeBase(filled, config=settings) as kb:
        yield kb


def right(kb: KnowledgeBase, query: str) -> None:
    """Search finds what the law says, in the live version."""
    scores = {id: sum(parts.values()) for id, parts in by_law(kb)([query]).items()}
    hits = kb.search(query, 10)
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores.values(), reverse=True)[:10], abs=1e-4)
    assert {hit.version for hit in hits} == {kb.status().live.number}


@pytest.fixture
def no_writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to Chroma."""
    written: list[str] = []
    original = ChromaCollection.upsert
    monkeypatch.setattr(ChromaCollection, "upsert", lambda *given: written.append("upsert") or original(*given))
    return written


def test_word_weights_share_the_collection_and_switching_writes_nothing(
    kb: KnowledgeBase, asked: list[str], no_writes: list[str]
) -> None:
    first, second = promote(kb, weights(0.3)), promote(kb, weights(0.0))
    assert first.index == second.index == 0
    assert first.collection == second.collection == kb.base.collection
    for number in (1, 0, 2, 1):
        kb.rollback(number)
        right(kb, asked[0])
    assert not no_writes
    kb.add([Chunk("new", "zebra")])
    kb.rollback(0)
    assert kb.search("zebra", 1)[0].id == "new"
    assert no_writes == ["upsert"]
    assert not (kb.path / "versions" / "0001" / "chroma").exists()


def test_a_collection_stays_as_long_as_one_of_its_versions(filled: Path, settings: Config, asked: list[str]) -> None:
    config = settings.model_copy(update={"keep_versions": 1})
    shared = residual()
    with KnowledgeBase(filled, config=config) as kb:
        promote(kb, Ranking(shared))
        for a in (0.1, 0.2, 0.3):
            assert promote(kb, Ranking(shared, Weights(language_model=a))).index == 1
        done = kb.gc()
        assert any("removed version 1" in line for line in done)
        assert [version.number for version in kb.status().versions] == [0, 3, 4]
        assert (kb.path / "versions" / "0001" / "chroma").exists()
        assert not (kb.path / "versions" / "0001" / "adapter.safetensors").exists()
        right(kb, asked[0])
        assert kb.gc() == []  # its folder is not taken for an unfinished build
        kb.rollback(3)
        right(kb, asked[0])
        kb.add([Chunk("new", "zebra")])
        assert kb.search("zebra", 1)[0].id == "new"
    with KnowledgeBase(filled, config=config) as kb:
        assert kb.search("zebra", 1)[0].id == "new"
        kb.rollback(0)
        for a in (0.4, 0.5, 0.6):
            promote(kb, weights(a))
        kb.gc()
        assert [version.number for version in kb.status().versions] == [0, 6, 7]
        assert not (kb.path / "versions" / "0001").exists()
        right(kb, asked[0])


def test_a_missing_collection_that_is_shared_is_built_once(kb: KnowledgeBase, asked: list[str]) -> None:
    shared = residual()
    promote(kb, Ranking(shared))
    promote(kb, Ranking(shared, Weights(bm25=0.1)))
    kb.rollback(0)
    shutil.rmtree(kb.path / "versions" / "0001" / "chroma")
    done = kb.gc()
    assert [line.split(" from ")[0] for line in done] == ["built the index of version 1 again"]
    kb.rollback(2)
    right(kb, asked[0])


def test_an_unfinished_build_that_shares_is_removed_without_the_collection(kb: KnowledgeBase, asked: list[str]) -> None:
    store = kb.engine.store
    store.registry.folder(1).mkdir()
    store.save(weights(0.3), store.registry.adapter_path(1))
    assert kb.gc() == ["removed unfinished 0001"]
    right(kb, asked[0])


def test_pinning_a_version_that_shares(kb: KnowledgeBase, asked: list[str], no_writes: list[str]) -> None:
    promote(kb, weights(0.3))
    kb.pin(0)
    right(kb, asked[0])
    assert kb.pinned
    kb.unpin()
    kb.pin(1)
    right(kb, asked[0])
    assert not no_writes


def test_other_weights_than_the_version_was_built_with_are_refused(kb: KnowledgeBase) -> None:
    version = promote(kb, weights(0.3))
    kb.rollback(0)
    kb.engine.store.save(weights(0.4), kb.engine.store.registry.adapter_path(version.number))
    with pytest.raises(StoreError, match="weights"):
        kb.rollback(1)
    assert kb.search("notulu", 1)[0].version == 0


# retirement -----------------------------------------------------------------------------------------


def old(folder: Path, kind: str, dimension: int) -> None:
    """Make a store look as if an earlier ragself had promoted a version that knows words."""
    version = {
        "number": 1, "kind": kind, "collection": "ragself-v0001", "fingerprint": "f", "dimension": dimension,
        "created": "2026-01-01T00:00:00+00:00", "figures": {}, "space": "ip",
    }  # fmt: skip
    (folder / "versions" / "0001" / "chroma").mkdir(parents=True)
    (folder / "versions" / "0001" / "version.json").write_text(json.dumps(version))
    pointer = json.loads((folder / "live.json").read_text())
    (folder / "live.json").write_text(json.dumps({**pointer, "version": 1, "before": 0}))


@pytest.mark.parametrize(("kind", "dimension"), [("hybrid", 160), ("lora", 160), ("hybrid", 32)])
def test_an_older_store_with_a_live_version_that_is_not_served_any_more(
    filled: Path, settings: Config, asked: list[str], caplog: Any, kind: str, dimension: int
) -> None:
    from ragself.engine.status import read_status

    old(filled, kind, dimension)
    assert read_status(filled, settings).live.number == 1
    with caplog.at_level(logging.WARNING), KnowledgeBase(filled, config=settings) as kb:
        assert "does not serve any more" in caplog.text
        assert kb.status().live.number == 0
        assert [version.number for version in kb.status().versions] == [0]
        event = kb.history()[-1]
        assert (event["event"], event["version"], event["before"]) == ("rollback", 0, 1)
        assert event["reason"].startswith("version 1 is of a kind that this ragself does not serve any more")
        right(kb, asked[0])
        with pytest.raises(InputError, match="This ragself cannot serve"):
            kb.rollback(1)
        with pytest.raises(InputError, match="nothing before it"):
            kb.rollback()
        assert f"removed version 1 ({kind})" in kb.gc()
        assert not (filled / "versions" / "0001").exists()
        right(kb, asked[0])
    caplog.clear()
    KnowledgeBase(filled, config=settings).close()
    assert "serve any more" not in caplog.text


def test_the_base_catches_up_when_it_takes_over(filled: Path, settings: Config) -> None:
    old(filled, "hybrid", 160)
    from ragself.corpus.journal import Journal

    journal = Journal(filled / "corpus.db")
    journal.put([Chunk("late", "zebra quagga")])
    journal.close()
    with KnowledgeBase(filled, config=settings) as kb:
        assert kb.search("zebra", 1, mode="vector")[0].version == 0
        assert "late" in {hit.id for hit in kb.search("zebra", 1000, mode="vector")}
        assert kb.search("zebra", 1)[0].id == "late"


# the index of words ---------------------------------------------------------------------------------


def test_an_older_store_gets_its_index_of_words_once(
    filled: Path, settings: Config, asked: list[str], caplog: Any
) -> None:
    from ragself.corpus.journal import Journal

    shutil.rmtree(filled / "lexical", ignore_errors=True)
    journal = Journal(filled / "corpus.db")
    with journal._db.write() as db:
        db.execute("DELETE FROM applied WHERE collection = ?", (LEXICAL,))
    journal.close()
    for _ in range(2):
        with caplog.at_level(logging.INFO), KnowledgeBase(filled, config=settings) as kb:
            right(kb, asked[0])
            assert kb.status().bytes["lexical"] > 0
            assert kb.engine.store.journal.applied(LEXICAL) == kb.engine.store.journal.head
    assert caplog.text.count("indexing the words of 384 chunks") == 1


def test_what_is_damaged_of_the_index_is_built_again(
    filled: Path, settings: Config, asked: list[str], caplog: Any
) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        kb.gc()
    (filled / "lexical" / "manifest.json").write_text("{")
    with KnowledgeBase(filled, config=settings) as kb:
        right(kb, asked[0])
        assert "built again" in caplog.text


def test_tombstones_stay_until_the_index_has_published_them(kb: KnowledgeBase) -> None:
    journal = kb.engine.store.journal
    kb.gc()
    kb.delete([chunk.id for chunk in journal.chunks()[:5]])
    journal.forget("nothing")
    assert journal.pending(journal.applied(LEXICAL)) == 5
    kb.gc()
    journal.forget("nothing")
    assert journal.pending(0) == len(journal)


def test_closing_publishes_what_the_next_process_would_have_to_read(tmp_path: Path, settings: Config) -> None:
    for count in (100, 200):
        with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
            kb.add([Chunk(f"{n}", f"word{n} zebra") for n in range(count)])
        assert (tmp_path / "kb" / "lexical").exists() == (count == 200)
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        assert kb.engine.store.lexical.seq == kb.engine.store.journal.applied(LEXICAL) == kb.engine.store.journal.head

"""A knowledge base that something happened to: what is refused, what the message says, and the way back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ragself import Chunk, Config, KnowledgeBase, Report
from ragself.config import load
from ragself.errors import AdapterError, EncoderError, StoreError, StoreTooNew, VerificationError
from tests.integration.conftest import Child
from tests.integration.helpers import assert_right, exact, segments

QUERY = "papaba mesori pameri notulu"  # words of the first topic


def rewrite(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def own_model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "own-model"))


def change_weights(model: Path) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith("word_embeddings.weight"))
    save_file({**tensors, name: tensors[name] + np.float32(0.01)}, file, metadata={"format": "pt"})


def test_settings_that_name_another_encoder(filled: Path, own_model: Path) -> None:
    with pytest.raises(EncoderError, match=r"was made with the encoder .*but the settings name .*Remove that setting"):
        KnowledgeBase(filled, config=load(None, encoder={"model": str(own_model)}))


def test_a_model_that_changed_at_its_path(tmp_path: Path, own_model: Path) -> None:
    settings = load(None, encoder={"model": str(own_model)})
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add([Chunk("a", "notulu")])
    change_weights(own_model)
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        for use in (lambda: kb.search("notulu"), lambda: kb.add([Chunk("b", "zonodo")])):
            with pytest.raises(EncoderError, match=r"the model has changed\. Put the old model back"):
                use()
        assert kb.status().chunks == 1


def test_a_model_that_is_gone(tmp_path: Path, own_model: Path) -> None:
    settings = load(None, encoder={"model": str(own_model)})
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        kb.add([Chunk("a", "notulu")])
    shutil.rmtree(own_model)
    with KnowledgeBase(tmp_path / "kb", config=settings) as kb:
        with pytest.raises(EncoderError, match="Cannot load the embedding model"):
            kb.search("notulu")
        assert kb.status().chunks == 1  # what needs no model works


def test_a_newer_format(filled: Path, settings: Config) -> None:
    rewrite(filled / "store.json", format=99, unheard_of=True)
    with pytest.raises(StoreTooNew, match=r"has format 99.*pip install -U ragself"):
        KnowledgeBase(filled, config=settings)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 2}', "null"])
def test_a_damaged_manifest(filled: Path, settings: Config, content: str) -> None:
    (filled / "store.json").write_text(content)
    with pytest.raises(StoreError, match=r"store\.json"):
        KnowledgeBase(filled, config=settings)


@pytest.mark.parametrize("name", ["corpus.db", "cache.db"])
def test_a_database_that_is_none(filled: Path, settings: Config, name: str) -> None:
    (filled / name).write_bytes(b"not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(StoreError, match=rf"Cannot open .*{name}"):
        KnowledgeBase(filled, config=settings)


def test_a_lost_pointer(filled: Path, settings: Config) -> None:
    (filled / "live.json").unlink()
    with KnowledgeBase(filled, config=settings) as kb, pytest.raises(StoreError, match=r"live\.json"):
        kb.search("notulu")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def nothing(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, cut, nothing, Path.unlink])
def test_a_corrupted_adapter_is_refused_and_version_0_still_works(
    promoted: Path, settings: Config, damage: Callable[[Path], None]
) -> None:
    damage(promoted / "versions" / "0001" / "adapter.safetensors")
    with KnowledgeBase(promoted, config=settings) as kb:
        with pytest.raises(AdapterError, match=r"adapter\.safetensors"):
            kb.search("notulu")
        assert kb.rollback(0).number == 0
        assert_right(kb.search("notulu", 10, mode="vector"), exact(kb)("notulu"), 10)
        with pytest.raises(AdapterError):
            kb.rollback(1)
        assert kb.status().live.number == 0


def test_an_adapter_of_another_version(promoted: Path, settings: Config) -> None:
    version = promoted / "versions" / "0001"
    shutil.copy(next((promoted / "pass").glob("weights.safetensors")), version / "adapter.safetensors")
    with (
        KnowledgeBase(promoted, config=settings) as kb,
        pytest.raises(StoreError, match=r"built with fingerprint .* now make .*rollback"),
    ):
        kb.search("notulu")


def test_a_collection_with_another_fingerprint(filled: Path, settings: Config) -> None:
    import chromadb

    with KnowledgeBase(filled, config=settings) as kb:
        name = kb.status().live.collection
    place = str(filled / "versions" / "0000" / "chroma")
    client = chromadb.PersistentClient(place, chromadb.Settings(anonymized_telemetry=False))
    client.get_collection(name, embedding_function=None).modify(metadata={"ragself:fingerprint": "another"})
    client.close()
    with KnowledgeBase(filled, config=settings) as kb:
        for use in (lambda: kb.search("notulu"), lambda: kb.add([Chunk("new", "notulu")])):
            with pytest.raises(StoreError, match=r"carries the fingerprint another, expected"):
                use()


def test_a_lost_chroma_folder_is_built_again(
    promoted: Path, settings: Config, promoted_template: tuple[Path, Report]
) -> None:
    for folder in promoted.glob("versions/*/chroma"):
        shutil.rmtree(folder)
    with KnowledgeBase(promoted, config=settings) as kb:
        with pytest.raises(StoreError, match=r"is missing from .*ragself gc"):
            kb.search("notulu")
        stages: list[str] = []
        done = kb.gc(lambda stage, *_: stages.append(stage))
        assert [line for line in done if "again from 384 chunks" in line] == done
        assert len(done) == 2  # version 0 and version 1
        assert set(stages) == {"rebuild"}  # the vectors were in the cache
        for number in (1, 0):
            assert_right(kb.search(QUERY, 10, mode="vector"), exact(kb)(QUERY), 10)
            assert kb.search(QUERY)[0].version == number
            if number:
                kb.rollback()
        assert kb.gc() == []
    assert len(segments(promoted)) == 2


def test_a_lost_cache_costs_time_only(promoted: Path, settings: Config, asked: list[str]) -> None:
    for file in promoted.glob("cache.db*"):
        file.unlink()
    with KnowledgeBase(promoted, config=settings) as kb:
        assert_right(kb.search(QUERY, 10, mode="vector"), exact(kb)(QUERY), 10)
        assert kb.add([Chunk("new", "notulu")]).added == 1
        assert len(kb.adapt(asked).figures) > 0


@pytest.fixture
def half_built(filled: Path, asked: list[str], spawn: Callable[..., Child], tmp_path: Path) -> Path:
    """Killed in a pass when the new index was built, and before it was registered."""
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    child = spawn("adapt", kb=filled, asked=tmp_path / "asked.json", die_at="version.json")
    assert child.join() == -9, child.said()
    return filled


def lose_one(folder: Path) -> None:
    import chromadb

    place = str(folder / "versions" / "0001" / "chroma")
    client = chromadb.PersistentClient(place, chromadb.Settings(anonymized_telemetry=False))
    client.list_collections()[0].delete(ids=["t0-0"])
    client.close()


def test_a_lost_chroma_folder_while_a_build_was_half_done(half_built: Path, settings: Config, asked: list[str]) -> None:
    for folder in half_built.glob("versions/*/chroma"):
        shutil.rmtree(folder)
    with KnowledgeBase(half_built, config=settings) as kb:
        assert any("version 0 again" in line for line in kb.gc())
        assert kb.adapt(asked).decision == "promote"
        assert_right(kb.search(QUERY, 10, mode="vector"), exact(kb)(QUERY), 10)


def test_a_half_built_index_that_was_damaged_is_not_switched_to(
    half_built: Path, settings: Config, asked: list[str]
) -> None:
    lose_one(half_built)
    with KnowledgeBase(half_built, config=settings) as kb:
        with pytest.raises(VerificationError, match=r"holds 383 chunks, expected 384 .*Nothing was switched"):
            kb.adapt(asked)
        assert kb.status().live.number == 0
        assert_right(kb.search(QUERY, 10, mode="vector"), exact(kb)(QUERY), 10)


def test_running_again_builds_a_damaged_index_anew(half_built: Path, settings: Config, asked: list[str]) -> None:
    lose_one(half_built)
    with KnowledgeBase(half_built, config=settings) as kb:
        with pytest.raises(VerificationError, match="run it again"):
            kb.adapt(asked)
        assert kb.adapt(asked).decision == "promote"

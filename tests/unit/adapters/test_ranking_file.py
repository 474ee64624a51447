import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from ragself.adapters import ranking_file as saved
from ragself.adapters.protocol import normalise
from ragself.adapters.ranking import Ranking
from ragself.adapters.ranking_file import fingerprint, identity, load, public_name, save
from ragself.adapters.residual import Residual
from ragself.errors import AdapterError, StoreError
from ragself.lexical.terms import term_keys
from ragself.lexical.weights import Weights

DRAW = np.random.default_rng(0)
RESIDUAL = Residual(DRAW.normal(size=(8, 2)).astype(np.float32), DRAW.normal(size=(2, 8)).astype(np.float32))
WORDS = Weights(0.2, 0.01, np.sort(term_keys(["red", "blue"])), np.array([0.5, -0.5], np.float32))
BOTH = Ranking(RESIDUAL, WORDS)
VECTORS = normalise(DRAW.normal(size=(2, 8)).astype(np.float32))
TEXTS = ["red", "purple"]


def write(ranking: Ranking, folder: Path) -> Path:
    path = folder / "adapter.safetensors"
    save(ranking, path, "encoder-1", "org/model", "abc")
    return path


@pytest.mark.parametrize("ranking", [Ranking(RESIDUAL), BOTH], ids=["residual", "both"])
def test_what_is_read_maps_vectors_to_the_bit_as_what_was_written(ranking: Ranking, tmp_path: Path) -> None:
    again = load(write(ranking, tmp_path), "encoder-1")
    assert type(again.adapter) is type(ranking.adapter)
    assert again.kind == "residual"
    np.testing.assert_array_equal(again.adapter.documents(VECTORS, TEXTS), RESIDUAL.documents(VECTORS, TEXTS))
    np.testing.assert_array_equal(again.adapter.queries(VECTORS, TEXTS), RESIDUAL.queries(VECTORS, TEXTS))
    assert identity("encoder-1", again) == identity("encoder-1", ranking)


def test_word_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    again = load(write(Ranking(None, WORDS), tmp_path), "encoder-1")
    assert (again.adapter, again.kind) == (None, "weights")
    assert again.weights.digest == WORDS.digest
    np.testing.assert_array_equal(again.weights.of(["red", "green", "blue"]), WORDS.of(["red", "green", "blue"]))


def test_a_file_of_an_earlier_release_has_untrained_word_weights(tmp_path: Path) -> None:
    path = write(BOTH, tmp_path)
    rewrite(path, "residual", RESIDUAL.tensors())
    assert load(path, "encoder-1").weights.digest == ""


def test_an_identity_is_that_of_the_adapter_and_the_weights() -> None:
    found = {identity("encoder-1", ranking) for ranking in (Ranking(), Ranking(RESIDUAL), Ranking(None, WORDS), BOTH)}
    assert len(found) == 4
    assert identity("encoder-1", Ranking(RESIDUAL)) == fingerprint("encoder-1", RESIDUAL)


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write(Ranking(RESIDUAL), tmp_path)
    path = write(BOTH, tmp_path)
    assert load(path, "encoder-1").weights.digest == WORDS.digest
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Cannot write"):
        save(Ranking(RESIDUAL), tmp_path / "nowhere" / "a.safetensors", "encoder-1", "m", None)


def test_no_flipped_byte_goes_unnoticed_or_makes_another_adapter(tmp_path: Path) -> None:
    path = write(BOTH, tmp_path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    step = [*range(0, header), *range(header, len(content), 7)]
    harmless = 0
    for position in step:
        for mask in (0x01, 0x80):
            broken = bytearray(content)
            broken[position] ^= mask
            path.write_bytes(broken)
            try:
                found = load(path, "encoder-1")
            except AdapterError:
                continue
            harmless += 1  # in the base model's name, say, or in white space: what serves is untouched
            assert position < header
            assert identity("encoder-1", found) == identity("encoder-1", BOTH)
    assert harmless < 0.2 * len(step)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 50, 0.5, -1])
def test_a_file_that_was_cut_off_is_refused(keep: float, tmp_path: Path) -> None:
    path = write(BOTH, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(AdapterError, match=r"adapter\.safetensors"):
        load(path, "encoder-1")


def test_a_file_that_is_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    path = write(Ranking(RESIDUAL), tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(AdapterError):
        load(path, "encoder-1")


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write_it", [lambda value: pickle.dumps(value), lambda value: pickle.dumps(value, 0)])
def test_a_pickle_is_refused_and_never_run(write_it, tmp_path: Path) -> None:
    path, trace = tmp_path / "adapter.safetensors", tmp_path / "trace"
    path.write_bytes(write_it(Bomb(trace)))
    with pytest.raises(AdapterError):
        load(path, "encoder-1")
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # the bomb does work


def test_a_missing_file_and_a_folder_are_adapter_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(AdapterError, match="Cannot read"):
            load(path, "encoder-1")


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(RESIDUAL.tensors(), path)
    with pytest.raises(AdapterError, match="not an adapter of this version of ragself"):
        load(path, "encoder-1")
    save_file(RESIDUAL.tensors(), path, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match="format 'pt', expected '1'"):
        load(path, "encoder-1")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_file_of_another_program_with_types_that_numpy_lacks_is_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    save_torch({"weight": torch.ones(3, dtype=dtype)}, tmp_path / "foreign.safetensors")
    with pytest.raises(AdapterError):
        load(tmp_path / "foreign.safetensors", "encoder-1")


def test_an_adapter_of_another_encoder_is_refused_and_both_are_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"encoder-1.*org/model.*encoder-2"):
        load(write(Ranking(RESIDUAL), tmp_path), "encoder-2")


def rewrite(path: Path, kind: str, tensors: dict) -> None:
    """What an adapter of `kind` would look like, hash included."""
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads(file.metadata()[saved.KEY])
    metadata.update(kind=kind, hash=saved._content_hash(kind, tensors))
    save_file(tensors, path, metadata={saved.KEY: json.dumps(metadata)})


def test_an_adapter_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = write(Ranking(RESIDUAL), tmp_path)
    rewrite(path, "future", RESIDUAL.tensors())
    with pytest.raises(AdapterError, match="unknown kind 'future'; known: weights, residual, lora"):
        load(path, "encoder-1")


def test_the_kind_is_part_of_what_is_hashed(tmp_path: Path) -> None:
    path = write(BOTH, tmp_path)
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads(file.metadata()[saved.KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={saved.KEY: json.dumps({**metadata, "kind": "weights"})})
    with pytest.raises(AdapterError, match="corrupted"):
        load(path, "encoder-1")


@pytest.mark.parametrize(("kind", "lacks"), [("residual", "down"), ("lora", "alpha")])
def test_an_adapter_without_the_tensors_of_its_kind_is_refused(kind: str, lacks: str, tmp_path: Path) -> None:
    path = write(BOTH, tmp_path)
    rewrite(path, kind, {"up": RESIDUAL.up})
    with pytest.raises(AdapterError, match=rf"lacks the tensor '{lacks}' of a {kind} adapter.*rollback --to 0"):
        load(path, "encoder-1")


def test_fingerprints_tell_encoders_kinds_shapes_and_single_bits_apart() -> None:
    down = RESIDUAL.down.copy()
    down.view(np.uint32)[0, 0] ^= 1
    adapters = [
        None,
        RESIDUAL,
        Residual(down, RESIDUAL.up),
        Residual(RESIDUAL.down.reshape(2, 8), RESIDUAL.up.reshape(8, 2)),
    ]
    prints = {fingerprint(encoder, adapter) for encoder in ("e1", "e2") for adapter in adapters}
    assert len(prints) == 8
    assert fingerprint("e1", Residual(np.asfortranarray(RESIDUAL.down), RESIDUAL.up)) == fingerprint("e1", RESIDUAL)


def test_no_path_of_this_machine_is_written(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save(Ranking(RESIDUAL), path, "encoder-1", str(tmp_path / "secret" / "model-x"), None)
    assert b"model-x" in path.read_bytes()
    assert b"secret" not in path.read_bytes()
    assert [public_name(name) for name in ("org/model", "./a/b", "../b", "~/c", "/d/e")] == [
        "org/model", "b", "b", "c", "e",
    ]  # fmt: skip


def test_no_word_is_written(tmp_path: Path) -> None:
    content = write(BOTH, tmp_path).read_bytes()
    assert not any(word in content for word in (b"red", b"green", b"blue"))

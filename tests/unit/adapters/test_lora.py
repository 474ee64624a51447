"""LoRA as an adapter: what it makes of texts, what it leaves alone, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragself.adapters.embedder import Embedder
from ragself.adapters.lora import Lora, afresh, bound
from ragself.adapters.merged import check_linear
from ragself.adapters.protocol import Adapter, normalise
from ragself.adapters.ranking import Ranking
from ragself.adapters.ranking_file import fingerprint, load, save
from ragself.adapters.residual import Residual
from ragself.config import EncoderConfig
from ragself.encoders.cache import VectorCache
from ragself.encoders.encoder import Encoder
from ragself.encoders.vectors import BaseVectors
from ragself.errors import AdapterError, InputError
from tests.conftest import documents, queries

TEXTS = [text for _, _, text in documents()[:6]]
ASKED = queries()[:120:24]
WIDTH = 32


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder(EncoderConfig(model=str(tiny_model)))


def names(encoder: Encoder) -> dict[str, tuple[int, int]]:
    found = {name: part for name, part in encoder._model.named_modules() if hasattr(part, "out_features")}
    return {name: (p.out_features, p.in_features) for name, p in found.items() if name.endswith(("query", "value"))}


def lora(encoder: Encoder, size: float = 1.0, **changed: Any) -> Lora:
    draw = np.random.default_rng(0)
    layers = {
        name: (
            draw.normal(size=(4, into)).astype(np.float32),
            (size * draw.normal(size=(out, 4))).astype(np.float32),
        )
        for name, (out, into) in names(encoder).items()
    }
    assert len(layers) == 4  # two in each of two layers
    return replace(Lora(layers, 8.0, WIDTH, "query"), **changed)


def residual() -> Residual:
    draw = np.random.default_rng(1)
    return Residual(draw.normal(size=(WIDTH, 3)).astype(np.float32), draw.normal(size=(3, WIDTH)).astype(np.float32))


INNER: list[Callable[[], Adapter | None]] = [lambda: None, residual]


def cached(encoder: Encoder, folder: Path) -> BaseVectors:
    return BaseVectors(lambda: encoder, encoder.fingerprint, encoder.dimension, VectorCache(folder / "cache.db"))


def counted(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that any encoder of the class reads from now on."""
    read: list[str] = []
    before = Encoder._encode

    def encode(self: Encoder, how: Any, texts: Any) -> Any:
        read.extend(texts)
        return before(self, how, texts)

    monkeypatch.setattr(Encoder, "_encode", encode)
    return read


# what it makes of texts ---------------------------------------------------------------------------


def test_weights_of_zero_are_the_base_to_the_bit(encoder: Encoder) -> None:
    nothing = lora(encoder, 0.0, sides="both").bound(encoder)
    base = encoder.queries(ASKED), encoder.documents(TEXTS)
    np.testing.assert_array_equal(nothing.queries(base[0], ASKED), base[0])
    np.testing.assert_array_equal(nothing.documents(base[1], TEXTS), base[1])
    assert np.abs(lora(encoder).bound(encoder).queries(base[0], ASKED) - base[0]).max() > 0.01


def test_weights_are_merged_as_peft_merges_them(encoder: Encoder) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    made = lora(encoder)
    model = get_peft_model(
        copy.deepcopy(encoder._model), LoraConfig(r=4, lora_alpha=8, target_modules=list(made.layers))
    )
    parts = dict(model.base_model.model.named_modules())
    with torch.no_grad():
        for name, (down, up) in made.layers.items():
            parts[name].lora_A["default"].weight.copy_(torch.from_numpy(down))
            parts[name].lora_B["default"].weight.copy_(torch.from_numpy(up))
    merged = model.merge_and_unload()
    theirs = merged.encode(ASKED, normalize_embeddings=True)
    np.testing.assert_allclose(made.bound(encoder).queries(np.empty((5, 0)), ASKED), theirs, atol=1e-6)


@pytest.mark.parametrize("inner", INNER)
def test_the_inner_adapter_is_put_around_what_the_encoder_now_makes(
    inner: Callable[[], Adapter | None], encoder: Encoder
) -> None:
    around = inner()
    alone, base = lora(encoder, sides="both").bound(encoder), encoder.documents(TEXTS)
    both, asked = (replace(alone, inner=around, sides=sides) for sides in ("both", "query"))
    dense, moved = alone.queries(base, ASKED), alone.documents(base, TEXTS)
    for made, expected in (
        (both.queries(base, ASKED), dense if around is None else around.queries(dense, ASKED)),
        (both.documents(base, TEXTS), moved if around is None else around.documents(moved, TEXTS)),
        (asked.queries(base, ASKED), dense if around is None else around.queries(dense, ASKED)),
        (asked.documents(base, TEXTS), base if around is None else around.documents(base, TEXTS)),
    ):
        np.testing.assert_array_equal(made, expected)
        assert made.shape[1] == both.dimension
    assert np.abs(moved - base).max() > 0.01


def test_documents_are_encoded_once_and_queries_are_never_kept(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = cached(encoder, tmp_path)
    vectors = base.documents(TEXTS)
    read = counted(encoder, monkeypatch)
    first = lora(encoder, sides="both").bound(base).documents(vectors, TEXTS)
    assert sorted(read) == sorted(TEXTS)
    second = bound(lora(encoder, sides="both", inner=residual()), base)
    assert second is not None
    np.testing.assert_array_equal(second.documents(vectors, TEXTS), residual().documents(first, TEXTS))
    assert len(read) == len(TEXTS)  # whatever is around it
    lora(encoder, 0.5, sides="both").bound(base).documents(vectors, TEXTS)
    assert len(read) == 2 * len(TEXTS)  # other weights are another space
    np.testing.assert_array_equal(base.documents(TEXTS), vectors)
    for _ in range(2):
        second.queries(vectors, ASKED)
    assert len(read) == 2 * len(TEXTS) + 2 * len(ASKED)
    again = afresh(second)
    assert again is not None
    again.documents(vectors, TEXTS[:2])
    assert read[-2:] == TEXTS[:2]  # a check of the cache takes nothing from it


def test_pruning_keeps_the_vectors_of_the_spaces_that_are_named(encoder: Encoder, tmp_path: Path) -> None:
    base = cached(encoder, tmp_path)
    made = lora(encoder, sides="both").bound(base)
    made.documents(base.documents(TEXTS), TEXTS)
    for _ in range(3):
        base._cache.begin_pass()
    assert made.tuned is not None
    assert base.prune(TEXTS, [], [made.tuned.space]) == 0
    assert base.prune(TEXTS, []) == len(TEXTS)


def test_an_embedder_encodes_no_query_twice(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = lora(encoder).bound(encoder)
    embedder = Embedder(encoder, adapter)
    read = counted(encoder, monkeypatch)
    embedder.warm()
    assert adapter.tuned is not None
    assert adapter.tuned._encoder is not None  # merged before the first query
    embedder.queries(ASKED)
    assert read == ASKED
    embedder.documents(TEXTS)
    assert read == [*ASKED, *TEXTS]


# what it leaves alone -----------------------------------------------------------------------------


def test_the_base_encoder_is_untouched_and_its_weights_are_shared(encoder: Encoder) -> None:
    before, digest = encoder.queries(ASKED), encoder.fingerprint
    made = lora(encoder).bound(encoder)
    made.queries(before, ASKED)
    assert made.tuned is not None
    tuned = made.tuned.encoder
    np.testing.assert_array_equal(encoder.queries(ASKED), before)
    own, others = dict(encoder._model.named_parameters()), dict(tuned._model.named_parameters())
    changed = {name for name in own if own[name].data_ptr() != others[name].data_ptr()}
    assert changed == {f"{name}.weight" for name in names(encoder)}
    assert (encoder.fingerprint, tuned.fingerprint == digest) == (digest, False)
    assert tuned._busy is not encoder._busy
    assert all(own[name].requires_grad for name in own)


def test_equal_adapters_share_one_encoder_that_goes_with_the_last(encoder: Encoder, tmp_path: Path) -> None:
    base = cached(encoder, tmp_path)
    first, second = (lora(encoder).bound(base).tuned for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.encoder is second.encoder
    assert lora(encoder, 0.5).bound(base).tuned.encoder is not first.encoder  # type: ignore[union-attr]
    assert len(base._copies._made) == 1
    del first, second
    assert len(base._copies._made) == 0


def test_binding_and_opening_load_no_encoder(encoder: Encoder, tmp_path: Path) -> None:
    def refuse() -> Encoder:
        raise AssertionError("the encoder was loaded")

    save(Ranking(lora(encoder, inner=residual())), tmp_path / "a.safetensors", "e", "m", None)
    base = BaseVectors(refuse, "e", WIDTH, VectorCache(tmp_path / "cache.db"))
    made = load(tmp_path / "a.safetensors", "e").bound(base).adapter
    assert made is not None
    assert made.dimension == WIDTH
    made.documents(normalise(np.ones((1, WIDTH), np.float32)), ["red"])  # of which only queries are read anew
    with pytest.raises(AssertionError, match="was loaded"):
        made.queries(np.empty((1, 0), np.float32), ["red"])


@pytest.mark.parametrize("inner", INNER)
def test_interpolated_it_lies_between_the_base_and_itself(
    inner: Callable[[], Adapter | None], encoder: Encoder
) -> None:
    made, base = lora(encoder, inner=inner()).bound(encoder), encoder.queries(ASKED)
    np.testing.assert_allclose(made.interpolated(1.0).queries(base, ASKED), made.queries(base, ASKED), atol=1e-5)
    np.testing.assert_allclose(made.interpolated(0.0).queries(base, ASKED), base, atol=1e-5)
    half = np.linalg.norm(made.interpolated(0.5).queries(base, ASKED) - base, axis=1)
    assert (half < np.linalg.norm(made.queries(base, ASKED) - base, axis=1)).all()
    assert lora(encoder, inner=inner()).interpolated(0.5).tuned is None  # bound to nothing, as it was


# on disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", ["query", "both"])
@pytest.mark.parametrize("inner", INNER)
def test_what_is_read_maps_texts_as_what_was_written(
    inner: Callable[[], Adapter | None], sides: Any, encoder: Encoder, tmp_path: Path
) -> None:
    made = lora(encoder, inner=inner(), sides=sides)
    save(Ranking(made), tmp_path / "a.safetensors", "e", "m", None)
    again = load(tmp_path / "a.safetensors", "e").adapter
    assert isinstance(again, Lora)
    assert (again.alpha, again.width, again.sides, again.kind) == (8.0, WIDTH, sides, "lora")
    assert type(again.inner) is type(made.inner)
    assert fingerprint("e", again) == fingerprint("e", made)
    assert again.digest == made.digest
    base = encoder.documents(TEXTS)
    first, second = made.bound(encoder), again.bound(encoder)
    # Products with what lies elsewhere in memory may differ in the last bit.
    np.testing.assert_allclose(first.queries(base, ASKED), second.queries(base, ASKED), atol=1e-6)
    np.testing.assert_allclose(first.documents(base, TEXTS), second.documents(base, TEXTS), atol=1e-6)


def test_marks_and_fingerprints_tell_weights_scales_sides_and_inner_adapters_apart(encoder: Encoder) -> None:
    made = lora(encoder)
    variants = [made, replace(made, sides="both"), replace(made, inner=residual())]
    assert len({each.digest for each in variants}) == 1  # the encoder's vectors are the same
    variants += [replace(made, alpha=4.0), lora(encoder, 0.5)]
    assert len({each.digest for each in variants}) == 3
    assert len({fingerprint("e", each) for each in variants}) == 5


# what is refused ----------------------------------------------------------------------------------


def test_one_that_is_not_bound_says_how_to_bind_it(encoder: Encoder) -> None:
    for use in (lora(encoder).queries, lora(encoder, sides="both").documents):
        with pytest.raises(AdapterError, match=r"bound to no encoder.*bound\(adapter, encoder\)"):
            use(np.empty((1, 0), np.float32), ["red"])


def test_weights_that_do_not_go_together_are_refused(encoder: Encoder) -> None:
    down, up = np.zeros((4, WIDTH), np.float32), np.zeros((WIDTH, 3), np.float32)
    with pytest.raises(AdapterError, match=r"'a' have shapes \(4, 32\) and \(32, 3\), expected \(rank, in\)"):
        Lora({"a": (down, up)}, 8.0, WIDTH, "query")


def test_weights_of_another_encoder_are_refused(encoder: Encoder) -> None:
    name = next(iter(names(encoder)))
    small = np.zeros((4, 16), np.float32), np.zeros((16, 4), np.float32)
    with pytest.raises(AdapterError, match=r"has shape \(16, 16\), expected \(32, 32\)"):
        Lora({name: small}, 8.0, WIDTH, "query").bound(encoder).queries(np.empty((1, 0)), ["red"])
    with pytest.raises(AdapterError, match=r"module 'nowhere', which .* does not have; expected one of"):
        Lora({"nowhere": small}, 8.0, WIDTH, "query").bound(encoder).queries(np.empty((1, 0)), ["red"])


@pytest.mark.parametrize(("tensor", "said"), [("inner_kind", "unknown kind 'future'"), ("sides", "sides 'future'")])
def test_settings_of_a_later_release_are_refused(tensor: str, said: str, encoder: Encoder) -> None:
    tensors = lora(encoder).tensors() | {tensor: np.frombuffer(b"future", dtype=np.uint8)}
    with pytest.raises(AdapterError, match=said):
        Lora.from_tensors(tensors)


def test_a_file_that_lacks_weights_is_refused(encoder: Encoder) -> None:
    tensors = lora(encoder).tensors()
    del tensors[next(name for name in tensors if name.endswith(".up"))]
    with pytest.raises(KeyError):
        Lora.from_tensors(tensors)


def test_it_is_not_merged_into_one_model(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"changes the encoder itself.*leave --format out"):
        check_linear(lora(encoder))

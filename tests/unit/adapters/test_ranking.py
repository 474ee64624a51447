"""What a version ranks by: its kind, what documents depend on, and what lies between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ragself.adapters.lora import Lora
from ragself.adapters.ranking import Ranking
from ragself.adapters.ranking_file import fingerprint, identity, load, save
from ragself.adapters.residual import Residual
from ragself.config import EncoderConfig
from ragself.encoders.encoder import Encoder
from ragself.lexical.terms import term_keys
from ragself.lexical.weights import BM25, LANGUAGE_MODEL, Weights

WIDTH = 32
WORDS = Weights(0.2, 0.03, np.sort(term_keys(["red", "green"])), np.array([0.5, -1.0], np.float32))


def residual() -> Residual:
    draw = np.random.default_rng(0)
    return Residual(draw.normal(size=(WIDTH, 3)).astype(np.float32), draw.normal(size=(3, WIDTH)).astype(np.float32))


def lora(sides: str, inner: Residual | None = None) -> Lora:
    draw = np.random.default_rng(1)
    layers = {
        f"0.auto_model.encoder.layer.{layer}.attention.self.{part}": (
            draw.normal(size=(2, WIDTH)).astype(np.float32), draw.normal(size=(WIDTH, 2)).astype(np.float32),
        )
        for layer in (0, 1) for part in ("query", "value")
    }  # fmt: skip
    return Lora(layers, 4.0, WIDTH, sides, inner)  # type: ignore[arg-type]


def test_the_kind_is_that_of_the_adapter_and_without_one_of_the_weights() -> None:
    kinds = [
        Ranking(), Ranking(None, Weights()), Ranking(None, WORDS), Ranking(None, Weights(0.3)),
        Ranking(residual(), WORDS), Ranking(residual()), Ranking(lora("query"), WORDS),
    ]  # fmt: skip
    found = [each.kind for each in kinds]
    assert found == ["base", "base", "weights", "weights", "residual", "residual", "lora"]


def test_documents_depend_on_what_encodes_them_alone() -> None:
    inner = residual()
    assert Ranking(None, WORDS).documents is None
    assert Ranking(inner, WORDS).documents is inner
    assert Ranking(lora("query")).documents is None
    assert Ranking(lora("query", inner)).documents is inner
    both = lora("both", inner)
    assert Ranking(both).documents is both


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_interpolated_lies_between_the_untrained_ranking_and_this_one(alpha: float) -> None:
    found = Ranking(residual(), WORDS).interpolated(alpha)
    assert isinstance(found.adapter, Residual)
    np.testing.assert_allclose(found.adapter.up, alpha * residual().up, rtol=1e-6)
    assert found.weights.language_model == pytest.approx(LANGUAGE_MODEL + alpha * (0.2 - LANGUAGE_MODEL))
    assert found.weights.bm25 == pytest.approx(BM25 + alpha * (0.03 - BM25))
    np.testing.assert_allclose(found.weights.log_weight, alpha * WORDS.log_weight)
    assert Ranking(None, WORDS).interpolated(alpha).adapter is None


def test_a_ranking_is_bound_with_its_adapter_and_keeps_its_weights(tiny_model: Path) -> None:
    encoder = Encoder(EncoderConfig(model=str(tiny_model)))
    found = Ranking(lora("query"), WORDS).bound(encoder)
    assert found.weights is WORDS
    assert isinstance(found.adapter, Lora)
    assert found.adapter.tuned is not None
    assert Ranking(None, WORDS).bound(encoder).adapter is None


def test_what_was_learned_tells_rankings_apart_and_documents_only_by_the_adapter(tmp_path: Path) -> None:
    some = [Ranking(), Ranking(None, WORDS), Ranking(residual()), Ranking(residual(), WORDS), Ranking(lora("query"))]
    assert len({identity("e", each) for each in some}) == len(some)
    assert len({fingerprint("e", each.adapter) for each in some}) == 3
    for number, each in enumerate(some):
        path = tmp_path / f"{number}.safetensors"
        save(each, path, "e", "m", None)
        again = load(path, "e")
        assert identity("e", again) == identity("e", each)
        assert again.kind == each.kind

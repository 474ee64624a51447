"""Training LoRA: what moves and what does not, that it learns, and that a killed run goes on with the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ragself.adapters.protocol import Adapter
from ragself.adapters.residual import Residual
from ragself.config import EncoderConfig
from ragself.encoders.encoder import Encoder
from ragself.errors import EncoderError, StoreError
from ragself.probes.targets import target_distribution
from ragself.training import checkpoint as kept
from ragself.training.lora_student import LoraData, LoraSettings, LoraStudent, Probed
from ragself.training.optimizer import batch_rows
from ragself.training.token_reader import BUDGET, Reader, _targets, batches
from ragself.training.train_lora import TrainedLora, train_lora
from tests.conftest import documents, queries

TEXTS = [text for _, _, text in documents()[::8]]
ASKED = [*queries()[::8], documents()[0][2]]  # one that is much longer than the others
WIDTH, K = 32, 12
SHORT = LoraSettings(steps=8, rank=4, batch=16, candidates=4, rate=1e-2, anchor=0.1, every=4)


@pytest.fixture(autouse=True)
def _thread_count_stays() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder(EncoderConfig(model=str(tiny_model)))


@pytest.fixture(scope="module")
def data(encoder: Encoder) -> LoraData:
    """A teacher that wants documents of the query's own topic first: 16 documents, and 20 queries, of each topic."""
    vectors, asked = encoder.documents(TEXTS), encoder.queries(ASKED)
    draw = np.random.default_rng(0)
    candidates = np.stack([draw.permutation(len(TEXTS))[:K] for _ in ASKED])
    topics = np.array([row // 2 for row in range(len(TEXTS))])
    own = np.array([min(row * 8 // 20, 23) for row in range(len(ASKED))])
    candidates[:, 0] = own * 2  # there is always one
    gains = np.where(topics[candidates] == own[:, None], 3.0, 0.0).astype(np.float32)
    gains[::5, 3] = -np.inf
    lexical = (0.05 * draw.random(candidates.shape)).astype(np.float32)
    base = np.take_along_axis(asked @ vectors.T, candidates, axis=1) + lexical
    target = target_distribution(gains, base.astype(np.float32), 2.5)
    weights = np.linspace(1, 2, len(ASKED), dtype="f")
    probed = Probed(ASKED, asked, candidates, target, np.isneginf(gains), weights, lexical)
    return LoraData(probed, probed, TEXTS, vectors)


def residual() -> Residual:
    draw = np.random.default_rng(1)
    down, up = (0.2 * draw.normal(size=shape).astype(np.float32) for shape in ((WIDTH, 3), (3, WIDTH)))
    return Residual(down, up)


INNER: dict[str, Callable[[], Adapter | None]] = {"none": lambda: None, "residual": residual}


def bits(learned: TrainedLora) -> tuple[Any, ...]:
    layers = sorted((name, down.tobytes(), up.tobytes()) for name, (down, up) in learned.lora.layers.items())
    return layers, learned.loss, learned.held


# reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_batches_hold_every_text_once_within_the_budget_and_with_little_padding(seed: int) -> None:
    draw = np.random.default_rng(seed)
    array = draw.integers(1, 301, size=seed)
    made = list(batches(array, budget=1000))
    assert sorted(np.concatenate([*made, np.empty(0, int)]).tolist()) == list(range(len(array)))
    assert len(made) < len(array) or seed < 5
    for batch in made:
        padded = int(array[batch].max()) * len(batch)
        assert len(batch) == 1 or (padded <= 1000 and padded <= 1.1 * array[batch].sum())


def test_before_training_it_reads_as_the_encoder_does_in_any_order(encoder: Encoder) -> None:
    reader = Reader(encoder, 4, 8.0, 0)
    rows = np.random.default_rng(0).permutation(len(ASKED))
    with torch.no_grad():
        found = reader.read(reader.tokens(ASKED, "query"), rows).numpy()
    np.testing.assert_allclose(found, encoder.queries(ASKED)[rows], atol=1e-6)


def test_prompts_of_the_side_are_read(tiny_model: Path) -> None:
    asking = Encoder(EncoderConfig(model=str(tiny_model), prompts={"query": "ba do: "}))
    reader = Reader(asking, 4, 8.0, 0)
    with torch.no_grad():
        for side, expected in (("query", asking.queries), ("document", asking.documents)):
            found = reader.read(reader.tokens(ASKED[:3], side), np.arange(3)).numpy()  # type: ignore[arg-type]
            np.testing.assert_allclose(found, expected(ASKED[:3]), atol=1e-6)
    assert np.abs(asking.queries(ASKED[:3]) - asking.documents(ASKED[:3])).max() > 0.01


def test_what_is_trained_is_what_the_adapter_makes(encoder: Encoder) -> None:
    reader = Reader(encoder, 4, 8.0, 0)
    with torch.no_grad():
        for weight in reader.weights.values():
            weight += 0.1
        found = reader.read(reader.tokens(ASKED, "query"), np.arange(len(ASKED))).numpy()
    made = reader.lora("query").bound(encoder).queries(np.empty((len(ASKED), 0)), ASKED)
    np.testing.assert_allclose(made, found, atol=1e-5)
    assert np.abs(made - encoder.queries(ASKED)).max() > 0.01


def test_an_encoder_without_a_known_module_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"m has no module that LoRA could change.* called 0, expected one of Wi,"):
        _targets(torch.nn.Sequential(torch.nn.Linear(2, 2)), "m")
    pooled = torch.nn.ModuleDict({"pooler": torch.nn.ModuleDict({"dense": torch.nn.Linear(2, 2)})})
    with pytest.raises(EncoderError, match="called dense"):
        _targets(pooled, "m")


# the loss -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", ["query", "both"])
@pytest.mark.parametrize("inner", INNER)
def test_the_loss_is_the_divergence_from_what_would_be_served(
    inner: str, sides: Any, data: LoraData, encoder: Encoder
) -> None:
    adapter, probed = INNER[inner](), data.train
    student = LoraStudent(data, encoder, adapter, replace(SHORT, sides=sides, candidates=K))
    rows, columns = np.arange(len(ASKED)), np.tile(np.arange(K), (len(ASKED), 1))
    with torch.no_grad():
        divergence, moved = student.loss(probed, rows, columns)
    queries, documents = probed.queries, data.documents
    if adapter is not None:
        queries, documents = adapter.queries(queries, probed.texts), adapter.documents(documents, data.texts)
    scores = np.take_along_axis(queries @ documents.T, probed.candidates, axis=1) + probed.lexical
    logits = np.where(probed.leaks, -1e4, scores / student.log_tau.exp().item())
    logs = logits - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
    logs -= logits.max(axis=1, keepdims=True)
    expected = (probed.target * (np.log(probed.target + 1e-12) - logs)).sum(axis=1)
    np.testing.assert_allclose(divergence.numpy(), expected, rtol=1e-2, atol=1e-4)
    assert moved.item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("sides", ["query", "both"])
def test_the_gradient_reaches_lora_and_the_temperature_and_nothing_else(
    sides: Any, data: LoraData, encoder: Encoder
) -> None:
    student = LoraStudent(data, encoder, residual(), replace(SHORT, sides=sides))
    with torch.no_grad():
        for weight in student.reader.weights.values():
            weight += 0.1
    rows = np.arange(8)
    columns = student.columns(data.train, rows, np.random.default_rng(0))
    divergence, moved = student.loss(data.train, rows, columns)
    (divergence.sum() + moved).backward()
    trained = {id(weight) for weight in student.weights.values()}
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.weights.values())
    others = [weight for weight in student.reader._model.parameters() if id(weight) not in trained]
    assert len(others) > len(trained)
    assert all(weight.grad is None and not weight.requires_grad for weight in others)
    assert all(weight.grad is None and weight.requires_grad for weight in encoder._model.parameters())  # as it was


@pytest.mark.parametrize("inner", INNER)
def test_the_temperature_begins_where_it_is_closest_to_the_teacher(
    inner: str, data: LoraData, encoder: Encoder
) -> None:
    student = LoraStudent(data, encoder, INNER[inner](), SHORT)
    found = []
    for shift in (0.0, -0.35, 0.35):  # by about two steps of what is tried
        with torch.no_grad():
            student.log_tau += shift
            found.append(student.divergence())
            student.log_tau -= shift
    assert found[0] < found[1]
    assert found[0] < found[2]


def test_what_leaks_has_no_influence_and_all_else_has(data: LoraData, encoder: Encoder) -> None:
    split = replace(data.train, lexical=data.train.lexical.copy())
    student = LoraStudent(replace(data, train=split), encoder, None, SHORT)
    rows, columns = np.arange(len(ASKED)), np.tile(np.arange(K), (len(ASKED), 1))
    with torch.no_grad():
        before, _ = student.loss(split, rows, columns)
        split.lexical[split.leaks] += 0.5
        after, _ = student.loss(split, rows, columns)
        split.lexical[:, 0] += 0.5
        other, _ = student.loss(split, rows, columns)
    torch.testing.assert_close(before, after)
    assert not torch.allclose(before, other)


def test_with_both_sides_the_teachers_best_and_no_leak_are_read(data: LoraData, encoder: Encoder) -> None:
    student = LoraStudent(data, encoder, None, replace(SHORT, sides="both"))
    rows, split = np.arange(len(ASKED)), data.train
    drawn = [student.columns(split, rows, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert drawn[0].shape == (len(rows), 4)
    assert not np.take_along_axis(split.leaks, drawn[0], axis=1).any()
    best = np.argsort(-split.target, axis=1, kind="stable")[:, :2]
    assert all(set(best[row]) <= set(drawn[0][row]) for row in rows)
    for_nothing = LoraStudent(data, encoder, None, SHORT)
    assert for_nothing.columns(split, rows, np.random.default_rng(0))[0].tolist() == list(range(K))


@pytest.mark.parametrize("sides", ["query", "both"])
def test_groups_hold_every_probe_once_within_the_budget(sides: Any, data: LoraData, encoder: Encoder) -> None:
    student, rows = LoraStudent(data, encoder, None, replace(SHORT, sides=sides)), np.arange(len(ASKED))
    columns = student.columns(data.train, rows, np.random.default_rng(0))
    groups = list(student.groups(data.train, rows, columns))
    assert sorted(np.concatenate(groups).tolist()) == rows.tolist()
    assert len(groups) == 1 if sides == "query" else len(groups) > 1
    for group in groups if sides == "both" else ():
        assert student.searched is not None
        read = data.train.candidates[group[:, None], columns[group]]
        assert student.searched.lengths[read].sum() <= BUDGET


def test_every_probe_is_seen_once_before_any_is_seen_again() -> None:
    seen = [batch_rows(np.arange(10), 4, 0, step).tolist() for step in range(6)]
    assert [len(each) for each in seen] == [4, 4, 2] * 2
    assert sorted(chain(*seen[:3])) == sorted(chain(*seen[3:])) == list(range(10))
    assert seen[:3] != seen[3:]


# learning -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", ["query", "both"])
@pytest.mark.parametrize("inner", INNER)
def test_training_comes_closer_to_the_teacher(inner: str, sides: Any, data: LoraData, encoder: Encoder) -> None:
    adapter: Adapter | None = INNER[inner]()
    learned = train_lora(data, encoder, adapter, replace(SHORT, steps=16, sides=sides, rate=3e-2, rate_tau=0.0))
    assert min(learned.held) < 0.95 * learned.held[0]
    assert learned.lora.inner is adapter
    assert learned.lora.sides == sides
    student = LoraStudent(data, encoder, adapter, replace(SHORT, sides=sides))
    assert student.divergence() == pytest.approx(learned.held[0])  # the encoder itself has not moved


def test_the_best_look_is_kept_and_training_stops_when_it_gets_no_better(
    data: LoraData, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, seen = iter([3.0, 2.0, 1.0, 1.5, 1.0, 0.0]), []

    def divergence(self: LoraStudent) -> float:
        seen.append(self.reader.lora("query").layers)
        return next(looks)

    monkeypatch.setattr(LoraStudent, "divergence", divergence)
    learned = train_lora(data, encoder, None, replace(SHORT, steps=40, every=1, patience=2))
    assert learned.held == (3.0, 2.0, 1.0, 1.5, 1.0)
    assert len(learned.loss) == 4
    for name, (down, up) in learned.lora.layers.items():
        np.testing.assert_array_equal(down, seen[2][name][0])
        np.testing.assert_array_equal(up, seen[2][name][1])
        assert (up != seen[3][name][1]).any()


def _none(data: LoraData) -> Probed:
    held, keep = data.held, slice(0, 0)
    arrays = (held.queries, held.candidates, held.target, held.leaks, held.weights, held.lexical)
    return Probed([], *(array[keep] for array in arrays))  # type: ignore[arg-type]


def test_without_held_out_probes_it_trains_to_the_end(data: LoraData, encoder: Encoder) -> None:
    learned = train_lora(replace(data, held=_none(data)), encoder, None, replace(SHORT, steps=6))
    assert len(learned.loss) == 6
    assert all(np.abs(up).max() > 0 for _, up in learned.lora.layers.values())


def test_training_is_the_same_to_the_bit_every_time_and_on_any_number_of_threads(
    data: LoraData, encoder: Encoder
) -> None:
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.rand(threads)  # nor does it depend on the global generator
        found.append(bits(train_lora(data, encoder, None, SHORT)))
        assert torch.get_num_threads() == threads
    assert found[0] == found[1]
    assert bits(train_lora(data, encoder, None, replace(SHORT, seed=1))) != found[0]


# going on -----------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def killed_at(step: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        assert (stage, total) == ("train lora", 12)
        if done == step:
            raise Killed

    return progress


@pytest.mark.parametrize("sides", ["query", "both"])
def test_a_killed_run_goes_on_with_the_same_bits(sides: Any, data: LoraData, encoder: Encoder, tmp_path: Path) -> None:
    settings, state = replace(SHORT, steps=12, sides=sides), tmp_path / "state.safetensors"
    whole = bits(train_lora(data, encoder, None, settings))
    for kill in (3, 6, 12):  # the first before anything is written
        with pytest.raises(Killed):
            train_lora(data, encoder, None, settings, state, killed_at(kill))
        assert state.exists() == (kill > 3)
    seen: list[int] = []
    assert bits(train_lora(data, encoder, None, settings, state, lambda *told: seen.append(told[1]))) == whole
    assert seen == [12]  # all of it was done
    assert [path.name for path in tmp_path.iterdir()] == [state.name]


def test_what_is_done_is_not_done_again(data: LoraData, encoder: Encoder, tmp_path: Path) -> None:
    settings, state = replace(SHORT, steps=12), tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train_lora(data, encoder, None, settings, state, killed_at(6))
    seen: list[int] = []
    train_lora(data, encoder, None, settings, state, lambda *told: seen.append(told[1]))
    assert seen[0] == 5


@pytest.mark.parametrize("spoil", ["damaged", "seed", "inner", "target", "lexical"])
def test_a_state_of_another_run_or_a_damaged_one_begins_anew(
    spoil: str, data: LoraData, encoder: Encoder, tmp_path: Path
) -> None:
    settings, state = replace(SHORT, steps=12), tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train_lora(data, encoder, None, settings, state, killed_at(4))
    inner: Adapter | None = None
    if spoil == "damaged":
        state.write_bytes(state.read_bytes()[:-100])
    if spoil == "seed":
        settings = replace(settings, seed=1)
    if spoil == "inner":
        inner = residual()
    if spoil == "target":
        data = replace(data, train=replace(data.train, target=np.roll(data.train.target, 1, axis=1)))
    if spoil == "lexical":
        data = replace(data, train=replace(data.train, lexical=2 * data.train.lexical))
    seen: list[int] = []
    found = train_lora(data, encoder, inner, settings, state, lambda *told: seen.append(told[1]))
    assert seen[0] == 1
    assert bits(found) == bits(train_lora(data, encoder, inner, settings))


def test_a_state_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Cannot write"):
        kept.write(tmp_path / "nowhere" / "s", "key", {"a": torch.zeros(1)})

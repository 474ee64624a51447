"""DREAM and Revela as objectives: what a language model that copies teaches, and what of it is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ragself.adapters.protocol import normalise
from ragself.adapters.residual import Residual
from ragself.config import DreamConfig, EncoderConfig, GeneratorConfig, TrainConfig
from ragself.encoders.encoder import Encoder
from ragself.errors import GeneratorError, InputError
from ragself.lexical.hybrid_score import Query
from ragself.lexical.terms import term_keys
from ragself.lexical.view import View
from ragself.lexical.weights import Weights
from ragself.lm.attention_injection import NOWHERE, Injection
from ragself.lm.causal import CausalLM
from ragself.probes.lexical_features import LexicalFeatures
from ragself.progress import silent
from ragself.schema import Probe
from ragself.training.dream import dream
from ragself.training.dream.contexts import Contexts
from ragself.training.dream.heads import Heads, find
from ragself.training.dream.objective import DreamObjective
from ragself.training.gap import Gap
from ragself.training.optimizer import EarlyStopping, batch_rows, minimize
from ragself.training.revela import revela
from ragself.training.revela.pools import distinct, plan
from ragself.training.student import SHARPER, Pace, Student, TextStudent, VectorStudent, sharpen
from tests.benchmarks.planted import corpus
from tests.language_models import copying_model
from tests.unit.datasets import by_hand

CHUNKS, PROBES, ANSWERS = corpus(60, 40, 0)
TEXTS = [chunk.text for chunk in CHUNKS]
RIGHT = np.array([int(answer[1:]) for answer in ANSWERS])
K, P = 4, len(PROBES)
BASE = 24


@pytest.fixture(scope="module")
def copier(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    """Its second layer has two heads that copy, wired and not trained: heads 0 and 1."""
    folder = copying_model(tmp_path_factory.mktemp("copier"), steps=0)
    return CausalLM(GeneratorConfig(model=str(folder)))


@pytest.fixture(scope="module")
def contexts(copier: CausalLM) -> Contexts:
    return Contexts(copier.white_box(), copier.encode, copier.begin, TEXTS, 100)


HEADS = Heads(((1, 0), (1, 1)), (1.0, 1.0), 0.5, 20)


def data(**change: Any) -> dream.DreamData:
    draw = np.random.default_rng(0)
    candidates = np.array([draw.permutation(len(TEXTS))[:12] for _ in PROBES])
    missing = ~(candidates == RIGHT[:, None]).any(axis=1)
    candidates[missing, 5] = RIGHT[missing]
    fit = np.ones(candidates.shape, dtype=np.bool_)
    weights = np.linspace(1, 2, P, dtype=np.float32)
    made = dream.DreamData(PROBES, candidates, fit, RIGHT, weights, np.arange(24), np.arange(24, 40))
    return replace(made, **change)


def vectors(count: int, seed: int) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=(count, BASE)).astype(np.float32))


def words(asked: list[str], texts: list[str]) -> LexicalFeatures:
    corpus = View.of(texts)
    return LexicalFeatures([Query.of(text, corpus) for text in asked], corpus, 1.0)


def student() -> VectorStudent:
    """Vectors that know nothing, and words, of which little is made yet, that know all."""
    pace = Pace(rank=4, anchor=0.01, anchor_words=0.0, rate_words=0.3, rate_scale=0.3)
    made = words([probe.text for probe in PROBES], TEXTS)
    return VectorStudent(vectors(P, 1), vectors(len(TEXTS), 2), made, 0.5, pace, Weights(0.1, 0.01))


# contexts -----------------------------------------------------------------------------------------


def test_tokens_belong_to_the_document_that_they_are_of(contexts: Contexts, copier: CausalLM) -> None:
    rows = np.array([[3, 1, 7], [0, 9, 2]])
    read, asked = contexts.read(PROBES[:2], rows)
    for row in range(2):
        for at, document in enumerate(rows[row]):
            expected = copier.encode([" " + TEXTS[document]])[0]
            assert (read.owner[row] == at).sum() == min(len(expected), 100)
        target = copier.encode([" " + PROBES[row].target])[0]
        assert asked.targets[row][asked.counted[row]].tolist() == target
    assert read.visible.sum(dim=1).tolist() == read.lengths.tolist()


def test_what_is_read_is_one_text(copier: CausalLM) -> None:
    """Token by token the same as a prompt with several passages, written by hand."""
    box = copier.white_box()
    seen: list[torch.Tensor] = []
    states = box.states
    box.states = lambda ids, *others: (seen.append(ids), states(ids, *others))[1]  # type: ignore[method-assign]
    contexts = Contexts(box, copier.encode, copier.begin, TEXTS, 100)
    read, asked = contexts.read(PROBES[:1], np.array([[3, 1]]))
    contexts.nll(asked, Injection(read, {}))
    whole = torch.cat([seen[0][0, : read.lengths[0]], asked.ids[0], asked.targets[0, -1:]]).tolist()
    text = f"Passage: {TEXTS[3]}\n\nPassage: {TEXTS[1]}\n\nQuestion: {PROBES[0].text}"
    assert copier._tokenizer.decode(whole) == f"<s>{text}"
    assert asked.positions[0].tolist() == list(range(int(read.lengths[0]), len(whole) - 1))


def test_documents_give_way_and_too_many_are_refused(copier: CausalLM) -> None:
    box = copier.white_box()
    box.limit = 400
    contexts = Contexts(box, copier.encode, copier.begin, TEXTS, 100)
    read, asked = contexts.read(PROBES[:1], np.array([[0, 1, 2, 3]]))
    assert int(read.lengths[0]) + asked.ids.shape[1] < 400
    assert len({int((read.owner == at).sum()) for at in range(4)}) == 1  # cut alike
    with pytest.raises(GeneratorError, match=r"400 tokens, too few for 20 documents.*train\.dream\.documents"):
        contexts.read(PROBES[:1], np.arange(20)[None])


def test_only_documents_that_are_a_candidate_are_read_and_each_is_the_same_as_before(copier: CausalLM) -> None:
    given, junk = data(), [f"Nobody asks for number {number}." for number in range(10)]
    texts, nothing = (*junk, *TEXTS), np.zeros(P, np.float32)
    asked = tuple(replace(probe, kind="question") for probe in PROBES)
    dataset = by_hand(
        asked, texts, vectors(P, 1), vectors(len(texts), 2), given.candidates + 10, positive=RIGHT + 10,
        source=RIGHT + 10, overlap=nothing, lengths=nothing.astype(int),
    )  # fmt: skip
    config = TrainConfig(dream=DreamConfig(documents=K))
    made = DreamObjective(copier, copier.white_box(), dataset, np.arange(24), config, silent).objective(
        student(), "key"
    )
    read = np.array(made.contexts.texts)
    assert set(read) == set(TEXTS)
    assert (read[made.data.candidates] == np.array(texts)[dataset.candidates]).all()
    assert (read[made.data.right] == np.array(texts)[dataset.positive]).all()


# heads --------------------------------------------------------------------------------------------


def known(count: int = 20) -> tuple[list[Probe], np.ndarray, np.ndarray]:
    rows = np.arange(count)
    documents = dream.arranged(data(), rows, K, np.random.default_rng(0))
    return PROBES[:count], documents, (documents == RIGHT[rows][:, None]).argmax(axis=1)


def test_heads_that_copy_are_found_and_no_others(contexts: Contexts) -> None:
    found = find(contexts, *known(), 16)
    assert set(found.chosen) == {(1, 0), (1, 1)}
    assert found.by_layer == {1: [0, 1]}
    assert min(found.quality) > 0.9
    assert found.chance == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert find(contexts, *known(), 1).chosen == found.chosen[:1]


def test_attention_that_a_document_has_whatever_is_asked_does_not_count(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes, documents, right = known()
    places = np.stack([documents == documents.max(axis=1, keepdims=True)] * 8, axis=1).reshape(-1, 2, 4, K) * 1.0
    signal = (np.arange(K) == right[:, None])[:, None, None] * 0.1 * (np.arange(4) == 2)[None, None, :, None]
    made = iter([places + signal * (np.arange(2) == 1)[None, :, None, None], places])
    monkeypatch.setattr(Contexts, "groups", lambda self, documents: iter([np.arange(len(documents))]))
    monkeypatch.setattr("ragself.training.dream.heads._given", lambda *given: next(made))
    assert find(contexts, probes, documents, right, 16).chosen == ((1, 2),)


def test_where_no_head_beats_chance_it_is_told(contexts: Contexts) -> None:
    probes, documents, right = known()
    wrong = (right + 1 + np.arange(len(right)) % (K - 1)) % K  # nothing says that it should be this one
    with pytest.raises(
        GeneratorError, match=r"No attention head .* best of 8 has a mean reciprocal rank of 0\.\d\d ov"
    ):
        find(contexts, probes, documents, wrong, 16)


def test_heads_are_the_same_however_many_are_read_at_once(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find(contexts, *known(), 16)
    monkeypatch.setattr("ragself.training.dream.contexts._TOKENS", {"cpu": 1})
    assert find(contexts, *known(), 16) == first


# DREAM --------------------------------------------------------------------------------------------


def test_the_right_document_lowers_the_loss_below_all_alike_and_a_wrong_one_does_not(contexts: Contexts) -> None:
    probes, documents, right = known()
    columns = {"right": right, "wrong": (right + 1) % K}
    found = {"uniform": torch.zeros(len(probes), K)}
    for name, column in columns.items():
        found[name] = torch.full((len(probes), K), NOWHERE)
        found[name][torch.arange(len(probes)), torch.from_numpy(column)] = 0.0
    loss = {
        name: float(dream.nll(contexts, HEADS, probes, documents, shares.log_softmax(dim=1)).mean())
        for name, shares in found.items()
    }
    assert loss["right"] < loss["uniform"] - 0.3
    assert loss["uniform"] < loss["wrong"]
    gaps = dream.gap(contexts, HEADS, data(), np.arange(20), dream.DreamSettings(K), [1 / K, 0.6, 1.0]).mean(axis=1)
    assert gaps[0] == pytest.approx(0.0, abs=1e-6)
    assert gaps[1] > 0.3
    assert gaps[2] == pytest.approx(loss["uniform"] - loss["right"], abs=1e-4)


def test_each_probe_is_read_as_if_alone(contexts: Contexts) -> None:
    probes, documents, _ = known(6)
    shares = torch.randn(6, K, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    together = dream.nll(contexts, HEADS, probes, documents, shares)
    alone = [
        dream.nll(contexts, HEADS, probes[row : row + 1], documents[row : row + 1], shares[row : row + 1])
        for row in range(6)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_out_of_memory_halves_what_is_read_and_tells_when_one_is_too_much(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes, documents, _ = known(6)
    shares = torch.randn(2, 6, K, generator=torch.Generator().manual_seed(0)).log_softmax(dim=2)
    expected = dream.nll(contexts, HEADS, probes, documents, shares)
    most, read = 2, Contexts.read

    def small(self: Contexts, some: Any, rows: Any) -> Any:
        if len(some) > most:
            raise torch.OutOfMemoryError("no")
        return read(self, some, rows)

    monkeypatch.setattr(Contexts, "read", small)
    torch.testing.assert_close(dream.nll(contexts, HEADS, probes, documents, shares), expected, atol=1e-5, rtol=0)
    most = 0
    with pytest.raises(GeneratorError, match=r"cpu has no memory for 4 documents at once. Set train.dream.documents"):
        dream.nll(contexts, HEADS, probes, documents, shares)


def test_contexts_hold_the_right_document_nothing_that_leaks_and_no_order(contexts: Contexts) -> None:
    made = data()
    made.fit[:, 3] = False
    made = replace(made, right=np.where(np.arange(P) % 2, RIGHT, -1))
    rows, places = np.arange(P), Counter[int]()
    for seed in range(40):
        found = dream.arranged(made, rows, K, np.random.default_rng(seed))
        assert all(len(set(each)) == K for each in found.tolist())
        leaks = (found == made.candidates[:, 3:4]) & (made.candidates[:, 3] != made.right)[:, None]
        assert not leaks.any()
        own = found[1::2] == RIGHT[1::2][:, None]
        assert own.any(axis=1).all()
        places.update(own.argmax(axis=1).tolist())
    assert set(places) == set(range(K))
    assert max(places.values()) < 1.3 * min(places.values())


def test_every_probe_is_seen_once_before_any_is_seen_again() -> None:
    rows = np.arange(10, 20)
    seen = [batch_rows(rows, 4, 0, step).tolist() for step in range(6)]
    assert [len(each) for each in seen] == [4, 4, 2] * 2
    assert sorted(chain(*seen[:3])) == sorted(chain(*seen[3:])) == rows.tolist()
    assert seen[:3] != seen[3:]


def stopping(steps: int = 8) -> EarlyStopping:
    return EarlyStopping(steps, 4, 9)


def by_dream(contexts: Contexts, made: Student | None = None, *, seed: int = 0) -> dream.DreamLoss:
    settings = dream.DreamSettings(K, batch=6, seed=seed)
    return dream.DreamLoss(data(), contexts, HEADS, made or student(), settings, f"key {seed}")


def first_ranks(made: VectorStudent) -> float:
    with torch.no_grad():
        logits, _ = made.logits(np.arange(24, 40), np.arange(len(TEXTS)))
    return float((logits.argmax(dim=1).numpy() == RIGHT[24:40]).mean())


def test_dream_teaches_a_student_what_the_model_copies(contexts: Contexts) -> None:
    made = student()
    objective = by_dream(contexts, made)
    before = first_ranks(made)
    loss, held = minimize(objective, stopping(16), None)
    assert min(held) < held[0] - 0.1
    assert len(loss) == 16
    assert first_ranks(made) > before + 0.3
    assert all(weight.grad is None for weight in contexts.box.model.parameters())


def test_the_sharpest_temperature_is_tried_not_guessed(contexts: Contexts) -> None:
    objective = by_dream(contexts)
    objective.student.sharpen(1 / 16)  # all alike
    tried = objective.tried(SHARPER)
    assert objective.evaluate() == pytest.approx(tried[SHARPER.index(1.0)], abs=1e-5)
    assert sharpen(objective.student, tried, SHARPER) == SHARPER[-1]
    assert objective.evaluate() == pytest.approx(min(tried), abs=1e-5)
    assert min(tried) < tried[SHARPER.index(1.0)]


def test_without_held_out_probes_there_is_no_look(contexts: Contexts) -> None:
    objective = by_dream(contexts)
    objective.data = data(held=np.empty(0, dtype=np.int64))
    assert objective.evaluate() is None
    assert sharpen(objective.student, objective.tried(SHARPER), SHARPER) == 1.0


class Killed(BaseException):
    pass


def killed_at(step: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        if done == step:
            raise Killed

    return progress


def bits(made: VectorStudent) -> tuple[bytes, ...]:
    return tuple(weight.detach().numpy().tobytes() for weight in made.weights.values())


@pytest.mark.parametrize("objective", ["dream", "revela"])
def test_a_killed_run_goes_on_with_the_same_bits(
    objective: str, contexts: Contexts, copier: CausalLM, tmp_path: Path
) -> None:
    def fresh(seed: int = 0) -> Any:
        return by_dream(contexts, seed=seed) if objective == "dream" else by_revela(copier, seed=seed)

    whole = fresh()
    told = minimize(whole, stopping(), None)
    state = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        minimize(fresh(), stopping(), state, killed_at(6))
    seen: list[int] = []
    again = fresh()
    torch.rand(3)  # nor does it depend on the global generator
    assert minimize(again, stopping(), state, lambda *args: seen.append(args[1])) == told
    assert seen[0] == 5
    assert bits(again.student) == bits(whole.student)
    other = fresh(1)
    minimize(other, stopping(), None)
    assert bits(other.student) != bits(whole.student)


# Revela -------------------------------------------------------------------------------------------


def twins() -> list[str]:
    """Each text comes twice, its words in another order."""
    draw = np.random.default_rng(0)
    return [*TEXTS[:16], *(" ".join(draw.permutation(text.split())) for text in TEXTS[:16])]


def by_revela(copier: CausalLM, *, seed: int = 0, learns: bool = False) -> revela.RevelaLoss:
    texts = twins()
    pace = Pace(rank=4, anchor=0.01, rate_scale=0.3, seed=seed)
    found = words(revela.halves(texts), texts)
    made = VectorStudent(vectors(32, 1), vectors(32, 2), found, 0.5, pace, Weights(0.3, 0.03))
    tokens = [[*copier.begin, *ids][:48] for ids in copier.encode(texts)]
    draw = np.random.default_rng(seed)
    pools = np.stack([np.concatenate([own, own + 16]) for own in (draw.permutation(16)[:4] for _ in range(18))])
    box, weights = copier.white_box().learning(4, 0) if learns else (copier.white_box(), {})
    settings = revela.RevelaSettings(even=False, seed=seed)
    return revela.RevelaLoss(revela.RevelaData(tokens, pools[2:], pools[:2]), box, made, settings, f"{seed}", weights)


def test_a_planted_near_duplicate_lowers_the_loss_and_gains_weight(copier: CausalLM) -> None:
    objective = by_revela(copier)
    rows, box = objective.data.held[0], objective.box
    chunks = [objective.data.tokens[row] for row in rows]
    twin = torch.eye(8).roll(4, dims=1)
    with torch.no_grad():
        loss = {
            name: float(revela.nll(box, chunks, weights, even=False).mean())
            for name, weights in (("twin", twin), ("alike", revela.looks(torch.zeros(8, 8))), ("alone", 0 * twin))
        }
    assert loss["twin"] < loss["alike"] - 0.2
    assert loss["alike"] < loss["alone"]

    def weight() -> float:
        with torch.no_grad():
            return float((revela.looks(objective.student.logits(rows, rows)[0]) * twin).sum() / 8)

    tried, single = objective.tried((0.5, 4.0)), objective.evaluate()
    assert sharpen(objective.student, tried, (0.5, 4.0)) == 4.0
    assert objective.evaluate() == pytest.approx(tried[1], abs=1e-5)
    objective.student.sharpen(1 / 4)
    assert objective.evaluate() == pytest.approx(single, abs=1e-5)

    before = weight()
    _, held = minimize(objective, stopping(16), None)
    assert weight() > before + 0.1
    assert min(held) < held[0] - 0.02


def test_the_gap_is_that_of_the_best_other_and_none_where_nothing_is_shared(copier: CausalLM) -> None:
    objective = by_revela(copier)
    chunks = [objective.data.tokens[row] for row in objective.data.held[0]]
    found = revela.gap(objective.box, chunks, even=False)
    assert found.shape == (8,)
    assert found.mean() > 0.2
    strange = [[*copier.begin, *copier.encode([text])[0]] for text in ("aa bb cc dd", "ee ff gg hh", "ii jj kk ll")]
    assert abs(revela.gap(objective.box, strange, even=False).mean()) < found.mean() / 2


def test_the_language_model_may_learn_along(copier: CausalLM) -> None:
    objective = by_revela(copier, learns=True)
    before = {name: weight.detach().clone() for name, weight in objective.weights.items()}
    _, held = minimize(objective, stopping(4), None)
    moved = {name for name, weight in objective.weights.items() if not torch.equal(weight, before[name])}
    assert any(name.startswith("model.") for name in moved)
    assert "up" in moved
    assert held


def test_out_of_memory_is_told(copier: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = by_revela(copier)

    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr("ragself.training.revela.revela.read", full)
    with pytest.raises(GeneratorError, match=r"no memory for 8 chunks of \d+ tokens. Set train.revela.chunks or train"):
        objective.accumulate_gradient(0)


def test_the_first_half_asks() -> None:
    assert revela.halves(["a b c d", "a b c", "a", ""]) == ["a b", "a b", "a", ""]


# batches of chunks --------------------------------------------------------------------------------


def test_copies_are_out() -> None:
    texts = ["One two.", "three", "one, TWO", "", "...", "three four"]
    assert distinct(texts).tolist() == [0, 1, 5]


def test_batches_hold_chunks_with_those_near_them() -> None:
    texts = [*twins(), *TEXTS[:4]]  # copies, too
    given = np.vstack([vectors(16, 1), vectors(16, 1), vectors(4, 9)])
    pools = plan(texts, given, 8, 40, 0)
    assert pools.shape == (40, 8)
    assert all(len(set(pool)) == 8 for pool in pools.tolist())
    assert pools.max() < 32
    together = np.mean([len({row % 16 for row in pool}) for pool in pools.tolist()])
    alone = np.mean([len({row % 16 for row in np.random.default_rng(s).permutation(32)[:8]}) for s in range(400)])
    assert together < alone - 0.5
    np.testing.assert_array_equal(plan(texts, given, 8, 40, 0), pools)
    assert (plan(texts, given, 8, 40, 1) != pools).any()
    assert plan(texts[:3], given[:3], 8, 2, 0).shape == (2, 3)


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="found 1 that differ, expected at least 2"):
        plan(["one", "One!"], vectors(2, 0), 8, 4, 0)


def test_where_there_is_nothing_to_learn_it_is_told() -> None:
    found = Gap.of(np.array([0.5, 0.6, 0.4]))
    found.check("dream")
    assert found.unit == found.mean == 0.5
    assert Gap.of(np.array([1e-3])).unit == 0.02  # the loss is never blown up beyond reason
    with pytest.raises(GeneratorError, match=r"nothing to learn by revela.* over 3 texts .* by 0.000 nats"):
        Gap.of(np.array([-0.5, 0.5, 0.0])).check("revela")


# students -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", ["query", "both"])
@pytest.mark.parametrize("inner", ["none", "residual"])
def test_a_student_that_reads_begins_with_the_scores_that_its_ranking_would_serve(
    inner: str, sides: Any, tiny_model: Path
) -> None:
    encoder = Encoder(EncoderConfig(model=str(tiny_model)))
    asked = [probe.text for probe in PROBES]
    queries, documents = encoder.queries(asked), encoder.documents(TEXTS)
    draw = np.random.default_rng(0)
    residual = Residual(*(0.2 * draw.normal(size=shape).astype(np.float32) for shape in ((32, 3), (3, 32))))
    adapter = {"none": None, "residual": residual}[inner]
    keys = np.sort(term_keys(set(" ".join(asked).lower().split())))
    weights, held = Weights(0.2, 0.05, keys, draw.normal(size=len(keys)).astype(np.float32)), words(asked, TEXTS)
    made = TextStudent(encoder, adapter, sides, (asked, queries), (TEXTS, documents), held, weights, 0.1, Pace(4))
    rows, used = np.array([3, 0, 7]), np.array([5, 9, 2, 1])
    logits, penalty = made.logits(rows, used)
    left, right = queries[rows], documents[used]
    if adapter is not None:
        left = adapter.queries(left, [asked[row] for row in rows])
        right = adapter.documents(right, [TEXTS[row] for row in used])
    lexical = held.crossed(rows, used).scores(weights, held.log_weight(weights))
    assert np.abs(lexical).max() > 0.01
    np.testing.assert_allclose(logits.detach().numpy() * 0.1, left @ right.T + lexical, atol=1e-5)
    assert penalty.item() == pytest.approx(0.0, abs=1e-9)
    made.sharpen(2.0)
    torch.testing.assert_close(made.logits(rows, used)[0], 2 * logits, rtol=1e-4, atol=1e-4)
    logits.square().sum().backward()
    assert {name for name, weight in made.weights.items() if weight.grad is not None} == set(made.weights)


def test_a_sharper_student_is_the_same_but_sharper() -> None:
    made = student()
    logits, _ = made.logits(np.arange(4), np.arange(9))
    made.sharpen(3.0)
    torch.testing.assert_close(made.logits(np.arange(4), np.arange(9))[0], 3 * logits, rtol=1e-4, atol=1e-4)

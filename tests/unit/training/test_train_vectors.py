from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from ragself.adapters.protocol import normalise
from ragself.adapters.residual import Residual
from ragself.lexical.hybrid_score import Query
from ragself.lexical.terms import term_keys
from ragself.lexical.view import View
from ragself.lexical.weights import BM25, LANGUAGE_MODEL, Weights
from ragself.probes.lexical_features import LexicalFeatures
from ragself.probes.targets import TAU, target_distribution
from ragself.training.train_vectors import TrainedVectors, VectorData, VectorSettings, _Student, train

P, N, K, BASE, V = 90, 120, 12, 16, 60


@pytest.fixture(autouse=True)
def _thread_count_stays() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def data(*, leaks: bool = False, weights: Weights | None = None) -> VectorData:
    """Gains that a linear map of the vectors and a reweighting of the words explain: there is something to learn."""
    draw = np.random.default_rng(0)
    queries = normalise(draw.normal(size=(P, BASE)).astype(np.float32))
    documents = normalise(draw.normal(size=(N, BASE)).astype(np.float32))
    candidates = np.stack([draw.permutation(N)[:K] for _ in range(P)])
    batch_rows = draw.normal(size=(BASE, BASE)) / 2
    gains = np.take_along_axis(queries @ batch_rows @ documents.T, candidates, axis=1)
    texts = [" ".join(f"w{word}" for word in draw.integers(V, size=15)) for _ in range(N)]
    asked = ["unheardof", *(" ".join(f"w{word}" for word in draw.integers(V, size=4)) for _ in range(P - 1))]
    corpus = View.of(texts)
    words = LexicalFeatures([Query.of(text, corpus) for text in asked], corpus, 1.0)
    out = np.zeros(candidates.shape, np.bool_)
    if leaks:
        out[::3, 4] = True
    matches = words.listed(candidates, out)
    liked = draw.normal(size=len(words.terms)).astype(np.float32)
    gains = gains + 20 * matches.scores(Weights(), liked)
    start = weights or Weights()
    cosines = np.take_along_axis(queries @ documents.T, candidates, axis=1)
    floor = cosines + matches.scores(start, words.log_weight(start))
    target = target_distribution(np.where(out, -np.inf, gains).astype(np.float32), floor, 2.5)
    return VectorData(queries, documents, candidates, target, out, np.ones(P, np.float32), words, matches, start=start)


SHORT = VectorSettings(steps=20, batch=32, rank=4)
WORDS = replace(SHORT, rank=0)
PACES = pytest.mark.parametrize("pace", [SHORT, WORDS], ids=["residual", "weights"])


def bits(learned: TrainedVectors) -> tuple:
    adapter, weights = learned.ranking.adapter, learned.ranking.weights
    vectors = (adapter.down.tobytes(), adapter.up.tobytes()) if isinstance(adapter, Residual) else ()
    return *vectors, weights.digest, learned.loss


def residual(learned: TrainedVectors) -> Residual:
    assert isinstance(learned.ranking.adapter, Residual)
    return learned.ranking.adapter


@PACES
def test_training_is_the_same_to_the_bit_every_time_and_on_any_number_of_threads(pace: VectorSettings) -> None:
    found = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        torch.rand(threads)  # nor does it depend on the global generator
        found.append(bits(train(data(leaks=True), pace)))
        assert torch.get_num_threads() == threads
    assert found[0] == found[1] == found[2]
    assert bits(train(data(leaks=True), replace(pace, seed=1))) != found[0]


def test_the_thread_count_is_restored_when_training_fails() -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    torch.set_num_threads(2)
    with pytest.raises(KeyboardInterrupt):
        train(data(), SHORT, stop)
    assert torch.get_num_threads() == 2


def test_training_runs_on_one_thread() -> None:
    torch.set_num_threads(2)
    seen = set()
    train(data(), SHORT, lambda *_: seen.add(torch.get_num_threads()))
    assert seen == {1}


@PACES
def test_the_loss_falls(pace: VectorSettings) -> None:
    free = replace(pace, steps=120, rank=4 * pace.rank, anchor=0.0, anchor_words=0.0)
    learned = train(data(), free)
    assert len(learned.loss) == 120
    assert np.isfinite(learned.loss).all()
    assert np.mean(learned.loss[-10:]) < (0.6 if pace.rank else 0.9) * np.mean(learned.loss[:5])


STARTS = pytest.mark.parametrize(
    "start", [None, Weights(0.3, 0.05, np.sort(term_keys(["w3", "w4"])), np.array([1, -1], np.float32))]
)


@STARTS
@PACES
def test_the_first_step_begins_at_the_ranking_that_is_given(pace: VectorSettings, start: Weights | None) -> None:
    given = data(weights=start)
    student = _Student(given, pace)
    divergence, penalty = student.loss(np.arange(P))
    held = float((given.words.log_weight(given.start) ** 2).mean()) * pace.anchor_words
    assert penalty.item() == pytest.approx(held, abs=1e-9)
    scores = np.take_along_axis(given.queries @ given.documents.T, given.candidates, axis=1)
    scores = (scores + given.matches.scores(given.start, given.words.log_weight(given.start))) / TAU
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    target = given.target.astype(np.float64)
    expected = (target * (np.log(target + 1e-12) - logs)).sum(axis=1).mean()
    assert divergence.item() == pytest.approx(expected, rel=1e-3)


@STARTS
def test_a_teacher_that_agrees_with_the_start_teaches_nothing(start: Weights | None) -> None:
    given = data(weights=start)
    floor = np.take_along_axis(given.queries @ given.documents.T, given.candidates, axis=1)
    floor = floor + given.matches.scores(given.start, given.words.log_weight(given.start))
    given = replace(given, target=target_distribution(np.zeros((P, K), np.float32), floor, 2.5))
    learned = train(given, replace(SHORT, anchor_words=0.0))
    assert abs(learned.loss[0]) < 1e-6
    assert max(learned.loss) < 1e-3
    moved = residual(learned).documents(given.documents, [])
    assert (moved * given.documents).sum(axis=1).min() > 0.999
    weights = learned.ranking.weights
    assert weights.language_model == pytest.approx(given.start.language_model, rel=0.05)
    assert weights.bm25 == pytest.approx(given.start.bm25, rel=0.05)
    np.testing.assert_allclose(weights.of(given.words.terms), given.start.of(given.words.terms), rtol=0.1)


@PACES
def test_a_candidate_that_is_out_neither_pulls_nor_pushes(pace: VectorSettings) -> None:
    free = replace(pace, anchor=0.0, anchor_words=0.0)
    given = data()
    candidates, out = given.candidates.copy(), given.out.copy()
    for columns in (slice(0, 4), slice(5, K)):
        candidates[:, columns][candidates[:, columns] == N - 1] = 0
    candidates[:, 4] = N - 1  # a document that is a candidate only where it is out
    out[:, 4] = True
    gains = np.log(given.target + 1e-6)

    def teacher_logits(out: np.ndarray, turned: bool) -> tuple:
        documents = given.documents.copy()
        documents[N - 1] *= -1 if turned else 1
        matches = given.words.listed(candidates, out)
        if turned:
            matches.language_model[:, 4] += 1.0
            matches.bm25[:, 4] += 1.0
        target = target_distribution(
            np.where(out, -np.inf, gains).astype(np.float32), np.zeros((P, K), np.float32), 1.0
        )
        return bits(train(replace(given, documents=documents, candidates=candidates, out=out, target=target,
                                  matches=matches), free))  # fmt: skip

    assert teacher_logits(out, turned=True) == teacher_logits(out, turned=False)
    assert teacher_logits(given.out, turned=True) != teacher_logits(given.out, turned=False)


def test_a_candidate_that_is_out_counts_as_if_it_were_not_there() -> None:
    given = data(leaks=True)
    out = np.zeros_like(given.out)
    out[:, 4] = True
    target = target_distribution(
        np.where(out, -np.inf, np.log(given.target + 1e-9)).astype(np.float32), np.zeros((P, K), "f"), 1.0
    )
    some = [column for column in range(K) if column != 4]
    less = given.candidates[:, some]
    one = replace(given, out=out, target=target, matches=given.words.listed(given.candidates, out))
    two = replace(given, out=out[:, some], target=target[:, some], candidates=less, matches=given.words.listed(less))
    free = replace(SHORT, anchor=0.0)
    np.testing.assert_allclose(train(one, free).loss, train(two, free).loss, rtol=1e-3, atol=1e-5)


def distance(given: VectorData, learned: TrainedVectors) -> float:
    moved = residual(learned).documents(given.documents, [])
    return float(((moved - given.documents) ** 2).sum(axis=1).mean())


def test_the_anchor_holds_the_vectors() -> None:
    given = data()
    distances = [distance(given, train(given, replace(SHORT, steps=60, anchor=a))) for a in (0.0, 3.0, 1000.0)]
    assert distances[0] > 1.5 * distances[1] > 1.5 * distances[2]
    assert distances[2] < 1e-3


def test_the_anchor_holds_the_words() -> None:
    given = data()
    moves = []
    for anchor in (0.0, 10.0, 10_000.0):
        learned = train(given, replace(WORDS, steps=60, anchor_words=anchor))
        moves.append(np.abs(learned.ranking.weights.log_weight).sum())
    assert moves[0] > moves[1] > moves[2]


@PACES
def test_gradients_are_those_of_finite_differences(pace: VectorSettings) -> None:
    student = _Student(data(leaks=True), pace)
    rows = np.arange(0, P, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        student.up.normal_(std=0.1)
        student.log_weight.normal_(std=0.3)

    def loss() -> torch.Tensor:
        divergence, penalty = student.loss(rows)
        return divergence + penalty

    loss().backward()
    for name, parameter in student.named_parameters():
        if not parameter.numel() or parameter.grad is None:
            assert name in ("down", "up")  # where there is no residual
            assert not pace.rank
            continue
        assert float(parameter.grad.abs().max()) > 0
        direction = parameter.grad / parameter.grad.norm()
        values, step = [], 3e-3
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                values.append(loss().item())
                parameter -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(parameter.grad.norm()), rel=0.03), name


@STARTS
@PACES
def test_what_is_learned_ranks_as_the_student_did(pace: VectorSettings, start: Weights | None) -> None:
    given = data(weights=start)
    student = _Student(given, pace)
    torch.manual_seed(0)
    with torch.no_grad():
        student.up.normal_(std=0.1)
        student.log_weight.normal_(std=0.3)
        student.log_a.add_(0.3)
        student.log_b.sub_(0.3)
    adapter, weights = student.learned()
    assert (adapter is None) is (pace.rank == 0)
    queries, documents = given.queries, given.documents
    if adapter is not None:
        queries, documents = adapter.queries(queries, []), adapter.documents(documents, [])
    rows, used = np.array([4, 0, 7, 4]), np.array([3, 99, 4, 50, 2])
    block = given.words.crossed(rows, used)
    scores = queries[rows] @ documents[used].T + block.scores(weights, given.words.log_weight(weights))
    logits = student.logits(rows, used)[0].detach().numpy()
    np.testing.assert_allclose(logits * TAU, scores, rtol=1e-3, atol=1e-5)


def test_without_a_rank_no_vectors_are_learned_and_words_are() -> None:
    learned = train(data(), WORDS)
    assert learned.ranking.adapter is None
    assert learned.ranking.kind == "weights"
    weights = learned.ranking.weights
    assert weights.log_weight.dtype == np.float32
    assert weights.keys.tolist() == sorted(weights.keys.tolist())
    assert 0.01 < weights.language_model != LANGUAGE_MODEL
    assert 0.001 < weights.bm25 != BM25


def test_with_a_rank_both_are_learned() -> None:
    learned = train(data(), SHORT)
    found = residual(learned)
    assert (found.down.shape, found.up.shape) == ((BASE, 4), (4, BASE))
    assert found.down.dtype == found.up.dtype == np.float32
    assert learned.ranking.weights.digest


def test_words_that_no_candidate_shares_with_a_query_are_left_alone() -> None:
    given = data()
    row = given.words.terms.index("w7")
    gone = given.matches.term == row
    given.matches.gain[gone] = 0.0
    weights = train(given, WORDS).ranking.weights
    assert weights.of(["w7", "w8"])[0] == 1.0 != weights.of(["w8"])[0]
    assert len(weights.keys) == len(given.words.terms) - 1


@pytest.mark.parametrize("zero", [Weights(0.0, 0.02), Weights(0.11, 0.0), Weights(0.0, 0.0)])
def test_weights_of_nothing_can_be_learned_from(zero: Weights) -> None:
    learned = train(data(weights=zero), WORDS)
    assert np.isfinite(learned.loss).all()
    assert min(learned.ranking.weights.language_model, learned.ranking.weights.bm25) >= 0


@pytest.mark.parametrize(("probes", "steps", "batch"), [(1, 3, 64), (5, 1, 64), (7, 10, 3)])
def test_few_probes_and_steps_are_no_error(probes: int, steps: int, batch: int) -> None:
    given, rows = data(), np.arange(probes)
    few = replace(
        given,
        queries=given.queries[rows],
        candidates=given.candidates[rows],
        target=given.target[rows],
        out=given.out[rows],
        weights=given.weights[rows],
        matches=given.matches.take(rows),
    )
    for pace in (SHORT, WORDS):
        learned = train(few, replace(pace, steps=steps, batch=batch))
        assert len(learned.loss) == steps
        assert np.isfinite(learned.loss).all()


def test_what_is_asked_often_pulls_more() -> None:
    given = data()
    heavy = replace(given, weights=np.where(np.arange(P) < 20, 50.0, 1.0).astype(np.float32))
    whole = replace(SHORT, steps=60, batch=P, anchor=0.0, rank=16)

    def of_those(made: VectorData) -> float:
        student = _Student(made, whole)
        learned = train(made, whole)
        with torch.no_grad():
            student.down.copy_(torch.from_numpy(residual(learned).down))
            student.up.copy_(torch.from_numpy(residual(learned).up))
            return student.loss(np.arange(20))[0].item()

    assert of_those(heavy) < of_those(given)


def test_every_step_is_told_and_the_last_ends_the_stage() -> None:
    told: list[tuple[str, int, int]] = []
    train(data(), SHORT, lambda *what: told.append(what), "train residual")
    assert told == [("train residual", step, 20) for step in range(1, 21)]

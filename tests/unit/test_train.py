from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, vstack
from scipy.sparse import random as random_sparse

from ragself.learn.student import Words
from ragself.learn.train import Learned, Lesson, Schedule, _Student, train
from ragself.models.adapter import normalise

P, N, K, BASE, V = 90, 120, 12, 16, 60


@pytest.fixture(autouse=True)
def _thread_count_stays() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def word_weights(rows: int, seed: int) -> csr_matrix:
    dense = random_sparse(rows, V, density=0.2, random_state=seed, dtype=np.float32).toarray()
    dense[0] = 0.0  # a text without a known word
    return csr_matrix(normalise(dense))


def lesson(*, sketch: bool, leaks: bool = False) -> Lesson:
    """Gains that a linear map of the vectors and a reweighting of the words explain: there is something to learn."""
    draw = np.random.default_rng(0)
    queries = normalise(draw.normal(size=(P, BASE)).astype(np.float32))
    documents = normalise(draw.normal(size=(N, BASE)).astype(np.float32))
    candidates = np.stack([draw.permutation(N)[:K] for _ in range(P)])
    turn = draw.normal(size=(BASE, BASE)) / 2
    gains = np.take_along_axis(queries @ turn @ documents.T, candidates, axis=1)
    words = None
    if sketch:
        levels = [draw.uniform(0, 0.1, size=count).astype(np.float32) for count in (P, N)]
        words = Words(word_weights(P, 1), word_weights(N, 2), *levels, draw.uniform(0.5, 2, V).astype(np.float32))
        lexical = (words.queries.multiply(draw.uniform(0, 3, V)) @ words.documents.T).toarray()
        gains = gains + np.take_along_axis(lexical, candidates, axis=1)
    if leaks:
        gains[::3, 4] = -np.inf
    ones = np.ones(P, np.float32)
    return Lesson(queries, documents, candidates, gains.astype(np.float32), ones, 2.5 * ones, words=words)


SHORT = Schedule(steps=20, batch=32, rank=4)


def bits(learned: Learned) -> tuple:
    words = b"" if learned.log_weight is None else learned.log_weight.tobytes()
    return learned.down.tobytes(), learned.up.tobytes(), words, learned.strength, learned.loss


@pytest.mark.parametrize("sketch", [False, True])
def test_training_is_the_same_to_the_bit_every_time_and_on_any_number_of_threads(sketch: bool) -> None:
    found = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        torch.rand(threads)  # nor does it depend on the global generator
        found.append(bits(train(lesson(sketch=sketch, leaks=True), SHORT)))
        assert torch.get_num_threads() == threads
    assert found[0] == found[1] == found[2]
    assert bits(train(lesson(sketch=sketch, leaks=True), replace(SHORT, seed=1))) != found[0]


def test_the_thread_count_is_restored_when_training_fails() -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    torch.set_num_threads(2)
    with pytest.raises(KeyboardInterrupt):
        train(lesson(sketch=False), SHORT, stop)
    assert torch.get_num_threads() == 2


def test_training_runs_on_one_thread() -> None:
    torch.set_num_threads(2)
    seen = set()
    train(lesson(sketch=False), SHORT, lambda *_: seen.add(torch.get_num_threads()))
    assert seen == {1}


@pytest.mark.parametrize("sketch", [False, True])
def test_the_loss_falls(sketch: bool) -> None:
    learned = train(lesson(sketch=sketch), replace(SHORT, steps=120, rank=16, anchor=0.0, anchor_words=0.0))
    assert len(learned.loss) == 120
    assert np.isfinite(learned.loss).all()
    assert np.mean(learned.loss[-10:]) < 0.6 * np.mean(learned.loss[:5])


def test_the_first_step_begins_at_the_base_vectors() -> None:
    course = lesson(sketch=False)
    student = _Student(course, SHORT)
    rows = np.arange(P)
    divergence, penalty = student.loss(rows)
    assert penalty.item() == pytest.approx(0.0, abs=1e-10)
    cosines = np.take_along_axis(course.queries @ course.documents.T, course.candidates, axis=1) / 0.05
    logs = cosines - np.log(np.exp(cosines).sum(axis=1, keepdims=True))
    logits = cosines + course.trust[:, None] * course.gains
    target = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = (target * (np.log(target) - logs)).sum(axis=1).mean()
    assert divergence.item() == pytest.approx(expected, rel=1e-4)


def test_a_teacher_that_agrees_with_the_base_teaches_the_vectors_nothing() -> None:
    course = replace(lesson(sketch=False), gains=np.zeros((P, K), np.float32))
    learned = train(course, SHORT)
    assert learned.loss[0] == pytest.approx(0.0, abs=1e-5)
    moved = normalise(course.documents + course.documents @ learned.down @ learned.up)
    assert (moved * course.documents).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("sketch", [False, True])
def test_a_candidate_that_leaks_neither_pulls_nor_pushes(sketch: bool) -> None:
    free = replace(SHORT, anchor=0.0, anchor_words=0.0)
    course = lesson(sketch=sketch)
    course.candidates[:, 4] = N - 1  # a document that is a candidate only where it leaks
    course.candidates[:, :4][course.candidates[:, :4] == N - 1] = 0
    course.candidates[:, 5:][course.candidates[:, 5:] == N - 1] = 0
    course.gains[:, 4] = -np.inf
    first = train(course, free)
    course.documents[N - 1] = -course.documents[N - 1]
    if course.words is not None:
        others = vstack([course.words.documents[:-1], course.words.documents[1]]).tocsr()
        course = replace(course, words=replace(course.words, documents=others))
    assert bits(train(course, free)) == bits(first)
    course.gains[:, 4] = 0.0
    assert bits(train(course, free)) != bits(first)


def test_a_candidate_that_leaks_counts_as_if_it_were_not_there() -> None:
    course = lesson(sketch=False)
    course.gains[:, 4] = -np.inf
    out = replace(
        course, candidates=np.delete(course.candidates, 4, axis=1), gains=np.delete(course.gains, 4, axis=1)
    )  # fmt: skip
    free = replace(SHORT, anchor=0.0)
    np.testing.assert_allclose(train(course, free).loss, train(out, free).loss, rtol=1e-3, atol=1e-5)


def distance(course: Lesson, learned: Learned) -> float:
    moved = normalise(course.documents + course.documents @ learned.down @ learned.up)
    return float(((moved - course.documents) ** 2).sum(axis=1).mean())


def test_the_anchor_holds_the_vectors() -> None:
    course = lesson(sketch=False)
    distances = [distance(course, train(course, replace(SHORT, steps=60, anchor=a))) for a in (0.0, 3.0, 1000.0)]
    assert distances[0] > 1.5 * distances[1] > 1.5 * distances[2]
    assert distances[2] < 1e-3


def test_the_anchor_holds_the_words() -> None:
    course = lesson(sketch=True)
    moves = []
    for anchor in (0.0, 10.0, 10_000.0):
        learned = train(course, replace(SHORT, steps=60, anchor_words=anchor))
        assert learned.log_weight is not None
        moves.append(np.abs(learned.log_weight - learned.log_weight.mean()).mean())
    assert moves[0] > moves[1] > moves[2]


@pytest.mark.parametrize("sketch", [False, True])
def test_gradients_are_those_of_finite_differences(sketch: bool) -> None:
    student = _Student(lesson(sketch=sketch, leaks=True), SHORT)
    rows = np.arange(0, P, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        student.up.normal_(std=0.1)
        student.log_weight.normal_(std=0.3)

    def loss() -> torch.Tensor:
        student.random.manual_seed(0)  # the same noise
        divergence, penalty = student.loss(rows)
        return divergence + penalty

    loss().backward()
    for name, parameter in student.named_parameters():
        if not parameter.numel() or parameter.grad is None:
            assert name in ("log_weight", "log_strength")  # where there is no sketch
            assert not sketch
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


def test_without_words_nothing_is_learned_of_words() -> None:
    learned = train(lesson(sketch=False), SHORT)
    assert (learned.log_weight, learned.strength) == (None, 0.0)
    assert (learned.down.shape, learned.up.shape) == ((BASE, 4), (4, BASE))
    assert learned.down.dtype == learned.up.dtype == np.float32


def test_with_words_their_weights_and_a_strength_are_learned() -> None:
    learned = train(lesson(sketch=True), SHORT)
    assert learned.log_weight is not None
    assert learned.log_weight.shape == (V,)
    assert learned.log_weight.dtype == np.float32
    assert 0.01 < learned.strength < 1.0
    assert learned.strength != pytest.approx(0.05 * 2.5)  # where it began


def test_words_that_no_candidate_shares_with_a_query_are_left_alone() -> None:
    course = lesson(sketch=True)
    assert course.words is not None
    for words in (course.words.queries, course.words.documents):
        words.data[words.indices == 7] = 0.0
        words.eliminate_zeros()
    learned = train(course, SHORT)
    assert learned.log_weight is not None
    assert learned.log_weight[7] == 0.0
    assert np.count_nonzero(learned.log_weight) == V - 1


@pytest.mark.parametrize(("probes", "steps", "batch"), [(1, 3, 64), (5, 1, 64), (7, 10, 3)])
def test_few_probes_and_steps_are_no_error(probes: int, steps: int, batch: int) -> None:
    course = lesson(sketch=True)
    assert course.words is not None
    few = replace(
        course,
        queries=course.queries[:probes],
        candidates=course.candidates[:probes],
        gains=course.gains[:probes],
        words=replace(course.words, queries=course.words.queries[:probes]),
    )
    learned = train(few, replace(SHORT, steps=steps, batch=batch))
    assert len(learned.loss) == steps
    assert np.isfinite(learned.loss).all()


def test_every_step_is_told_and_the_last_ends_the_stage() -> None:
    told: list[tuple[str, int, int]] = []
    train(lesson(sketch=False), SHORT, lambda *what: told.append(what), "train residual")
    assert told == [("train residual", step, 20) for step in range(1, 21)]

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG

from ragself.evaluation.metrics import bootstrap, known_item, ndcg, recall, relevance_of, utility

K = 10


def random_judgements(
    seed: int, queries: int = 60, documents: int = 40
) -> tuple[list[list[str]], list[dict[str, int]]]:
    """Rankings, some short, and graded judgements of some documents, some of them never ranked or not relevant."""
    draw = np.random.default_rng(seed)
    names = [f"d{number}" for number in range(documents)]
    ranking = [list(draw.permutation(names)[: draw.integers(0, 30)]) for _ in range(queries)]
    qrels = [
        {str(name): int(draw.integers(-1, 4)) for name in draw.choice(names, draw.integers(1, 20), replace=False)}
        for _ in range(queries)
    ]
    return ranking, qrels


def oracle(measure: object, ranking: list[list[str]], qrels: list[dict[str, int]]) -> list[float]:
    """What trec_eval says, query by query; 0 where it has nothing relevant to look for."""
    run = {f"{q}": {name: -float(rank) for rank, name in enumerate(ids)} for q, ids in enumerate(ranking)}
    judged = {f"{q}": each for q, each in enumerate(qrels)}
    found = {row.query_id: row.value for row in ir_measures.iter_calc([measure], judged, run)}
    return [found.get(f"{q}", 0.0) for q in range(len(ranking))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 5, 10, 100])
def test_ndcg_and_recall_are_those_of_trec_eval(seed: int, k: int) -> None:
    ranking, qrels = random_judgements(seed)
    relevance, ideal, total = relevance_of(ranking, qrels, depth=100)
    np.testing.assert_allclose(ndcg(relevance, ideal, k), oracle(nDCG @ k, ranking, qrels), atol=1e-9)
    np.testing.assert_allclose(recall(relevance, total, k), oracle(R @ k, ranking, qrels), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_known_item_metrics_are_those_of_trec_eval_with_one_relevant_document(seed: int) -> None:
    draw = np.random.default_rng(seed)
    names = [f"d{number}" for number in range(30)]
    ranking = [list(draw.permutation(names)) for _ in range(40)]
    wanted = [str(draw.choice(names)) for _ in ranking]
    qrels = [{name: 1} for name in wanted]
    ranks = np.array([ids.index(name) + 1 for ids, name in zip(ranking, wanted, strict=True)])
    found = known_item(ranks, K)
    np.testing.assert_allclose(found["ndcg"], oracle(nDCG @ K, ranking, qrels), atol=1e-9)
    np.testing.assert_allclose(found["mrr"], oracle(RR @ K, ranking, qrels), atol=1e-9)
    np.testing.assert_allclose(found["recall"], oracle(R @ K, ranking, qrels), atol=1e-9)


def test_queries_with_nothing_relevant_or_nothing_found_are_zero() -> None:
    relevance, ideal, total = relevance_of([["a"], [], ["a"]], [{}, {"a": 1}, {"a": 0, "b": -1}], depth=5)
    assert ndcg(relevance, ideal, K).tolist() == [0.0, 0.0, 0.0]
    assert recall(relevance, total, K).tolist() == [0.0, 0.0, 0.0]
    relevance, ideal, total = relevance_of([["a"]], [{}], depth=5)
    assert ndcg(relevance, ideal, K).tolist() == [0.0]
    assert relevance_of([], [], depth=5)[0].shape == (0, 5)


def test_the_depth_cuts_the_ranking_and_not_the_ideal() -> None:
    relevance, ideal, total = relevance_of([["x", "y", "a"]], [{"a": 2, "b": 1}], depth=2)
    assert relevance.tolist() == [[0.0, 0.0]]
    assert ideal.tolist() == [[2.0, 1.0]]
    assert total.tolist() == [2]


def test_utility_is_the_mass_in_the_top_k_of_the_student() -> None:
    draw = np.random.default_rng(0)
    mass = draw.dirichlet(np.ones(12), size=20).astype(np.float32)
    scores = draw.normal(size=(20, 12)).astype(np.float32)
    for k in (1, 3, 11):
        expected = [row[np.argsort(-each)[:k]].sum() for row, each in zip(mass, scores, strict=True)]
        np.testing.assert_allclose(utility(mass, scores, k), expected, rtol=1e-5)
    for k in (12, 50):
        np.testing.assert_allclose(utility(mass, scores, k), 1.0, rtol=1e-5)


def test_candidates_that_are_out_are_last() -> None:
    mass = np.array([[0.0, 0.7, 0.3]], np.float32)
    scores = np.array([[-np.inf, -5.0, -6.0]], np.float32)
    assert utility(mass, scores, 2).tolist() == pytest.approx([1.0])


def test_a_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(7)
    trials = 400
    for confidence in (0.8, 0.95):
        hits = 0
        for trial in range(trials):
            interval = bootstrap(draw.exponential(1.0, size=80) - 1.0, confidence, seed=trial, samples=1000)
            hits += interval.low <= 0.0 <= interval.high
        # Skew and 80 values cost a percentile interval a little; three standard errors beside that.
        assert confidence - 0.03 - 0.06 < hits / trials < confidence + 0.06


def test_a_bootstrap_is_reproducible_and_its_mean_is_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap(values, 0.95) == bootstrap(values, 0.95)
    assert bootstrap(values, 0.95) != bootstrap(values, 0.95, seed=1)
    interval = bootstrap(values, 0.95)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low < interval.mean < interval.high


def test_a_bootstrap_is_as_wide_as_the_normal_interval_of_many_values() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    interval, half = bootstrap(values, 0.95), 1.96 * values.std() / np.sqrt(2000)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    wider = bootstrap(values, 0.99)
    assert wider.low < interval.low
    assert wider.high > interval.high


@pytest.mark.parametrize("samples", [1, 999, 1000, 1500])
def test_a_bootstrap_of_equal_values_has_no_width(samples: int) -> None:
    for values in ([2.5], [2.5] * 40):
        interval = bootstrap(np.array(values), 0.95, samples=samples)
        assert (interval.mean, interval.low, interval.high) == (2.5, 2.5, 2.5)


def test_weights_count_as_repetitions_do() -> None:
    draw = np.random.default_rng(3)
    values, times = draw.normal(size=60), draw.integers(1, 5, size=60)
    weighted = bootstrap(values, 0.95, weights=times.astype(np.float64))
    assert weighted.mean == pytest.approx(np.repeat(values, times).mean())
    assert weighted.low < weighted.mean < weighted.high
    plain = bootstrap(np.repeat(values, times), 0.95)  # repetitions feign independence: their interval is too narrow
    assert weighted.high - weighted.low > plain.high - plain.low
    assert bootstrap(values, 0.95, weights=np.ones(60)) == bootstrap(values, 0.95)

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragself.adapters.ranking import Ranking
from ragself.cli.bench import Law, linear
from ragself.corpus.words import words
from ragself.lexical import hybrid_score as law
from ragself.schema import Chunk
from tests.benchmarks import lines
from tests.benchmarks.corpora import around
from tests.benchmarks.languages import nonenglish
from tests.benchmarks.law import AS_IT_IS, CHANGES, codes
from tests.benchmarks.pairs import cloze, crops, damaged, holds, known_items, sentences, stream
from tests.benchmarks.rows import Rows

REST = "What follows it says eight different words at the least, or more."
TEXT = st.lists(st.sampled_from(["Alpha beta.", "Gamma delta epsilon!", "Zeta\n", "eta theta", ". ", "Iota?"])).map(
    " ".join
)


def titled(number: int) -> Chunk:
    title = f"Title number{number} of all"
    return Chunk(f"t{number}", f"{title} Here sentence{number} begins the text. {title}. {REST}", {"title": title})


def untitled(number: int) -> Chunk:
    return Chunk(f"u{number}", f"The first sentence is sentence{number} here. {REST}")


@pytest.mark.parametrize("make", [titled, untitled])
def test_no_positive_holds_its_query(make) -> None:
    chunks = [make(number) for number in range(100)]
    pairs = known_items(chunks, 1000, seed=0)
    assert len({pair.source for pair in pairs}) == len(pairs) == 100
    assert not any(holds(pair.positive, pair.query) for pair in pairs)
    assert all("eight different words" in pair.positive for pair in pairs)


def test_a_query_that_cannot_be_taken_out_makes_no_pair() -> None:
    again = "The first sentence is written twice here."
    chunks = [Chunk(f"{number}", f"{again} {REST} {again.upper()} {REST.upper()}") for number in range(100)]
    assert known_items(chunks, 1000, seed=0) == []


def test_known_items_are_thinned_out_in_an_order_of_the_seed() -> None:
    chunks = [titled(number) for number in range(100)]
    assert len(known_items(chunks, 10, seed=0)) == 10
    assert known_items(chunks, 10, seed=0) == known_items(chunks, 10, seed=0) != known_items(chunks, 10, seed=1)


def test_holds_compares_whole_words() -> None:
    assert holds("Rates, of change", "rates of")
    assert not holds("crates of", "rates of")


@given(st.text(alphabet="ab c", max_size=200), st.integers(0, 100))
def test_crops_are_runs_of_the_document(text: str, seed: int) -> None:
    pair = crops(text, np.random.default_rng(seed))
    parts = text.split()
    assert (pair is None) == (len(parts) < 8)
    for crop in pair or ():
        assert f" {crop} " in f" {' '.join(parts)} "
        assert 1 <= len(crop.split()) <= len(parts) // 2


@given(TEXT, st.integers(0, 100))
def test_the_rest_of_a_document_does_not_hold_the_sentence(text: str, seed: int) -> None:
    pair = cloze(text, np.random.default_rng(seed))
    if pair is not None:
        asked, rest = pair
        assert asked in sentences(text)
        assert words(rest)
        assert not holds(rest, asked)


@given(st.text(alphabet="ab c\n", max_size=100), st.integers(0, 100))
def test_noise_leaves_some_words_in_their_order(text: str, seed: int) -> None:
    pair = damaged(text, np.random.default_rng(seed))
    if not text.split():
        assert pair is None
        return
    assert pair is not None
    noisy, whole = pair
    left = iter(whole.split())
    assert whole == text
    assert noisy
    assert all(word in left for word in noisy.split())  # a subsequence


def test_noise_deletes_three_fifths() -> None:
    noisy, _ = damaged("word " * 10_000, np.random.default_rng(0)) or ("", "")
    assert len(noisy.split()) == pytest.approx(4000, rel=0.05)


def test_a_stream_shows_every_text_once_before_any_again() -> None:
    texts = [f"document{number} " * 10 for number in range(20)]
    first = [one.split()[0] for one, _ in islice(stream(texts, crops, 0), 40)]
    assert sorted(first[:20]) == sorted(first[20:]) == sorted(text.split()[0] for text in texts)
    assert first[:20] != first[20:]


def test_a_stream_of_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="None of 1 texts is long enough"):
        next(stream(["short"], crops, 0))


def test_xquad_in_another_language(tmp_path) -> None:
    xquad = tmp_path / "xquad"
    (xquad / "lang" / "de").mkdir(parents=True)
    (xquad / "qrels").mkdir()
    (xquad / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp\t1\n")
    for name in ("corpus", "queries"):
        (xquad / "lang" / "de" / f"{name}.jsonl").write_text(f"{name} in German\n")
    folder = nonenglish(xquad, "de", tmp_path / "made")
    assert (folder / "corpus.jsonl").read_text() == "corpus in German\n"
    assert (folder / "qrels" / "test.tsv").read_text().endswith("q\tp\t1\n")
    with pytest.raises(FileNotFoundError, match="Languages here: de"):
        nonenglish(xquad, "tlh", tmp_path / "made")


def test_linear_fusion_scales_each_list_and_leaves_out_what_is_not_listed() -> None:
    lexical = np.array([[4.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    dense = np.array([[0.1, 0.9, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2]], dtype=np.float32)
    expected = [[0.5, 0.5, 0.25, 0.25], [0.5, 0.5, 0.5, 0.5]]  # all alike: all are the best of their list
    assert linear(lexical, dense) == pytest.approx(np.array(expected))


@pytest.mark.parametrize("variant", CHANGES)
def test_every_variant_of_the_law_ranks_and_leaves_the_law_as_it_was(variant: str) -> None:
    collection = codes(60, 20)
    texts, asked = [chunk.text for chunk in collection.chunks], list(collection.queries.values())
    cosines = np.zeros((len(asked), len(texts)), dtype=np.float32)
    scores = lambda: Law(texts, asked, 1.0).scores(cosines, Ranking())
    before = {name: getattr(law, name) for name in dir(law) if name.isupper()}
    plain = scores()
    with CHANGES[variant]():
        changed = scores()
    assert np.isfinite(changed).all()
    if variant in (AS_IT_IS, "s: always 1"):
        assert (changed.argmax(axis=1) == np.arange(20)).all()  # words alone find the code
    assert {name: getattr(law, name) for name in dir(law) if name.isupper()} == before
    assert np.array_equal(scores(), plain)


def test_made_up_vectors_lie_around_real_ones() -> None:
    real = np.eye(4, 64, dtype=np.float32)
    made = around(real, 50)
    assert made.shape == (50, 64)
    assert np.linalg.norm(made, axis=1) == pytest.approx(np.ones(50), abs=1e-5)
    assert (made @ real.T).max(axis=1).min() > 0.6


def test_results_are_one_row_a_line_and_renewed_by_their_keys(tmp_path) -> None:
    path = tmp_path / "results" / "some.json"
    lines.renew(path, [{"part": "a", "way": "x", "ms": 1}, {"part": "b", "way": "x", "ms": 2}], ("part", "way"))
    lines.renew(path, [{"part": "a", "way": "x", "ms": 3}], ("part", "way"))
    assert lines.read(path) == [{"part": "b", "way": "x", "ms": 2}, {"part": "a", "way": "x", "ms": 3}]
    assert len(path.read_text().splitlines()) == 4
    path.write_text("{}")
    with pytest.raises(ValueError, match="expected a list of rows"):
        lines.read(path)


def test_rows_are_kept_and_not_measured_twice(tmp_path) -> None:
    path = tmp_path / "results" / "quality.json"
    rows = Rows(path, "python", ["A note."])
    for seed, value in enumerate([0.5, 0.7]):
        rows.add(row("crop", seed, 60.0, value))
    rows.add(row("bm25", 0, None, 0.25))
    again = Rows(path, "python", ["A note."])
    assert again.has("med", "crop", 1, 60.0)
    assert again.has("med", "bm25", 0, None)
    assert not again.has("med", "crop", 1, 600.0)
    assert not again.has("med", "crop", 2, 60.0)
    table = path.with_suffix(".md").read_text()
    assert "| crop, 60 s | 0.6000 ± 0.1000 (2) |" in table
    assert "| bm25 | - / - / - |" in table
    assert table.index("| bm25") < table.index("| crop")  # in the order of the methods, not of measuring


def test_a_row_that_is_measured_again_takes_the_place_of_the_old_one(tmp_path) -> None:
    rows = Rows(tmp_path / "quality.json", "python", [])
    for value, decision in ((0.5, "keep"), (0.7, "promote")):
        gain = {"mean": value - 0.5, "low": 0.0, "high": 0.3}
        rows.add({**row("cold", 0, None, value), "decision": decision, "candidate": "weights", "gain": gain})
    assert [kept["ndcg@10"] for kept in rows.rows] == [0.7]
    assert "| cold | 1 of 1: weights |" in rows.table()
    assert "| cold | +0.2000, interval +0.0000 to +0.3000 |" in rows.table()


def row(method: str, seed: int, budget: float | None, value: float) -> dict[str, object]:
    costs = dict.fromkeys(("steps", "train_seconds", "encode_seconds"), None if budget is None else 3)
    return {
        "collection": "med", "method": method, "seed": seed, "budget": budget, "ndcg@10": value, "recall@100": value,
        "date": "2026-11-28", **costs,
    }  # fmt: skip

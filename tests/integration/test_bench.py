"""`ragself bench` on a tiny collection in BEIR's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ragself import Chunk, KnowledgeBase
from ragself.cli.bench import RANKERS
from tests.integration.test_cli import Ragself, ragself

__all__ = ["ragself"]


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory, chunks: list[Chunk], asked: list[str]) -> Path:
    """Documents of 24 topics; a query of a topic is answered by the documents of it that hold all of its words."""
    folder = tmp_path_factory.mktemp("beir") / "tiny"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": chunk.id, "title": chunk.title, "text": chunk.text} for chunk in chunks]
    corpus.append({"_id": "empty", "title": "", "text": ""})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    lines = [json.dumps({"_id": f"q{number}", "text": query}) for number, query in enumerate(asked)]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    for split, numbers in {"train": range(0, 480, 2), "test": range(1, 480, 10)}.items():
        rows = ["query-id\tcorpus-id\tscore"]
        for number in numbers:
            words = set(asked[number].split())
            best = max(chunks, key=lambda chunk: (len(words & set(chunk.text.split())), chunk.id))
            rows += [f"q{number}\t{best.id}\t1", f"q{number}\tt0-0\t0"]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows))
    return folder


def test_every_ranker_is_measured(ragself: Ragself, beir: Path, tmp_path: Path) -> None:
    done = ragself("bench", beir, "--traffic", "train", "--kb", tmp_path / "kb", "--json")
    result = done.json
    assert set(result) >= {"dataset", "documents", "queries", "traffic", "decision", "seconds", *RANKERS}
    assert (result["dataset"], result["documents"], result["queries"], result["traffic"]) == ("tiny", 384, 48, 240)
    for ranker in RANKERS:
        assert 0 < result[ranker]["ndcg@10"] <= 1, ranker
        assert 0 < result[ranker]["recall@100"] <= 1, ranker
    assert result["decision"] == "promote"
    figures = {ranker: result[ranker]["ndcg@10"] for ranker in RANKERS}
    assert figures["bm25"] > 0.8  # the labels are about words
    assert figures["untrained"] > figures["base"] + 0.2
    assert figures["trained"] > figures["base"] + 0.2
    assert result["gain"]["mean"] == pytest.approx(figures["trained"] - figures["untrained"], abs=2e-4)
    assert result["gain"]["low"] <= result["gain"]["mean"] <= result["gain"]["high"]
    assert len({*figures.values()}) > 4  # they are not one and the same


def test_the_untrained_ranker_is_what_search_finds(ragself: Ragself, beir: Path, tmp_path: Path) -> None:
    from ragself.cli import bench
    from ragself.evaluation.metrics import ndcg, relevance_of

    result = ragself("bench", beir, "--kb", tmp_path / "kb", "--json").json
    collection = bench.read(beir, "test")
    with KnowledgeBase(tmp_path / "kb") as kb:
        if kb.status().live.number:
            kb.rollback(0)
        found = [[hit.id for hit in kb.search(text, 100)] for text in collection.queries.values()]
    measured = ndcg(*relevance_of(found, list(collection.qrels.values()), 100)[:2], 10)
    assert result["untrained"]["ndcg@10"] == pytest.approx(measured.mean(), abs=2e-3)


def test_without_traffic_and_for_people(ragself: Ragself, beir: Path) -> None:
    done = ragself("bench", beir, "--quiet")
    assert (done.code, done.err) == (0, "")
    assert all(ranker in done.out for ranker in RANKERS)
    assert "0 unlabelled queries" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "dev"], "Splits of this collection: test, train."),
        (["--traffic", "dev"], "neither a split of"),
    ],
)
def test_a_split_that_is_not_there(ragself: Ragself, beir: Path, arguments: list[str], said: str) -> None:
    done = ragself("bench", beir, *arguments)
    assert (done.code, done.out) == (1, "")
    assert said in " ".join(done.err.split())
    assert "test, train" in done.err


@pytest.mark.parametrize("row", ["{", "[]", '{"text": "no id"}'])
def test_a_folder_that_is_no_collection(ragself: Ragself, tmp_path: Path, row: str) -> None:
    assert ragself("bench", tmp_path / "nowhere").code == 1
    (tmp_path / "corpus.jsonl").write_text(row)
    done = ragself("bench", tmp_path)
    assert done.code == 1
    assert "corpus.jsonl" in done.err

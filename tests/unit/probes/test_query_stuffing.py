import numpy as np

from ragself.probes.query_stuffing import SEVERAL, stuffed
from ragself.schema import Probe

QUERIES = [f"how do i change the colour of part {n}" for n in range(6)]


def probes(texts: list[str], kind: str = "traffic") -> list[Probe]:
    return [Probe(str(n), text, text, kind, None, "train") for n, text in enumerate(texts)]


def found(texts: list[str], asked: list[Probe]) -> list[int]:
    return stuffed(asked, texts, np.tile(np.arange(len(texts)), (len(asked), 1))).tolist()


def test_a_document_that_repeats_several_queries_is_found_whatever_stands_between_them() -> None:
    echo = "Buy now! ".join(query.upper() + "?\n" for query in QUERIES[:SEVERAL])
    assert found(["a page about colours", echo], probes(QUERIES)) == [1]


def test_one_that_answers_fewer_or_has_their_words_in_another_order_is_not() -> None:
    few = " Then: ".join(QUERIES[: SEVERAL - 1])
    turned = " ".join(" ".join(reversed(query.split())) for query in QUERIES)
    assert found([few, turned, "how do i change the colour of parts"], probes(QUERIES)) == []


def test_short_queries_and_probes_that_nobody_asked_do_not_count() -> None:
    short = [f"part {n} colour" for n in range(6)]
    assert found([" ".join(short)], probes(short)) == []
    assert found([" ".join(QUERIES)], probes(QUERIES, "title")) == []


def test_it_is_looked_for_among_the_candidates_alone() -> None:
    asked = probes(QUERIES)
    rows = np.zeros((len(asked), 1), np.int64)
    assert stuffed(asked, ["nothing", " ".join(QUERIES)], rows).tolist() == []
    assert stuffed(asked, ["nothing", " ".join(QUERIES)], rows + 1).tolist() == [1]

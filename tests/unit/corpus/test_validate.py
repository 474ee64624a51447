import pytest

from ragself.corpus.validate import check, count_queries
from ragself.errors import InputError
from ragself.schema import Chunk


def test_good_chunks_come_back_as_they_are() -> None:
    chunks = [
        Chunk("a", "text"),
        Chunk("b", "text", {"s": "x", "i": -(2**63), "j": 2**63 - 1, "f": 1.5, "b": True, "empty": ""}),
        Chunk("c\0d", "nul \0 and 🙂", {"a b": "ä", ".": 1}),
    ]
    assert check(chunks) == chunks
    assert check([]) == []


@pytest.mark.parametrize(
    ("chunk", "fault"),
    [
        (Chunk("", "text"), "the id must be a non-empty string"),
        (Chunk(7, "text"), "the id must be a non-empty string"),  # type: ignore[arg-type]
        (Chunk("a", ""), "the text is empty"),
        (Chunk("a", " \n\t"), "the text is empty"),
        (Chunk("a", None), "the text is empty"),  # type: ignore[arg-type]
        (Chunk("a", "x\ud800"), "lone surrogates"),
        (Chunk("a\udfff", "x"), "lone surrogates"),
        (Chunk("a", "x", {"": 1}), "metadata key ''"),
        (Chunk("a", "x", {3: 1}), "metadata key 3"),  # type: ignore[dict-item]
        (Chunk("a", "x", {"chroma:document": "y"}), "metadata key 'chroma:document'"),
        (Chunk("a", "x", {"tags": []}), "metadata 'tags' is the list []"),
        (Chunk("a", "x", {"tags": ["y", 1]}), "metadata 'tags' is the list ['y', 1]"),
        (Chunk("a", "x", {"tags": [["y"]]}), "metadata 'tags' is the list [['y']]"),  # type: ignore[list-item]
        (Chunk("a", "x", {"tags": ["y", "\ud800"]}), "metadata 'tags' holds lone surrogates"),
        (Chunk("a", "x", {"tags": {"y": 1}}), "metadata 'tags' is a dict"),  # type: ignore[dict-item]
        (Chunk("a", "x", {}, "\ud800"), "lone surrogates"),
        (Chunk("a", "x", {"none": None}), "metadata 'none' is a NoneType"),  # type: ignore[dict-item]
        (Chunk("a", "x", {"big": 2**63}), "metadata 'big' does not fit 64 bits"),
        (Chunk("a", "x", {"small": -(2**63) - 1}), "metadata 'small' does not fit 64 bits"),
        (Chunk("a", "x", {"s": "\ud800"}), "metadata 's' holds lone surrogates"),
    ],
)
def test_a_chunk_that_cannot_be_stored_is_refused_and_the_reason_named(chunk: Chunk, fault: str) -> None:
    with pytest.raises(InputError, match="nothing was written") as caught:
        check([Chunk("good", "good"), chunk])
    assert fault in str(caught.value)
    assert "1 of 2 chunks" in str(caught.value)


def test_ids_that_occur_twice_are_refused_with_their_count() -> None:
    with pytest.raises(InputError, match=r"id 'a' occurs 3 times"):
        check([Chunk("a", "x"), Chunk("a", "y"), Chunk("a", "x"), Chunk("b", "x")])


def test_only_the_first_few_faults_are_listed_and_the_rest_counted() -> None:
    with pytest.raises(InputError) as caught:
        check([Chunk(f"c{number}", "") for number in range(12)])
    message = str(caught.value)
    assert message.startswith("12 of 12 chunks")
    assert "'c4'" in message
    assert "'c5'" not in message
    assert message.endswith("(and 7 more)")


@pytest.mark.parametrize("key", ["$k", "#k", "$", "#"])
def test_a_key_that_chroma_refuses_is_refused_before_it_is_written(key: str) -> None:
    with pytest.raises(InputError):
        check([Chunk("a", "x", {key: 1})])


def test_a_key_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InputError):
        check([Chunk("a", "x", {"k\ud800": 1})])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError):
        check([Chunk("a", "x", {"f": value})])


@pytest.mark.parametrize("chunk", [Chunk(["a"], "x"), Chunk("a", "x", None), Chunk("a", "x", [1])])  # type: ignore[arg-type]
def test_an_id_or_metadata_of_another_type_is_bad_input(chunk: Chunk) -> None:
    with pytest.raises(InputError):
        check([chunk])


@pytest.mark.parametrize("value", ["y", 1, 1.5, True, ["y"], [1, 2], [0.5], [True, False]])
def test_what_chroma_holds_is_taken(value: object) -> None:
    chunk = Chunk("a", "x", {"key": value})  # type: ignore[dict-item]
    assert check([chunk]) == [chunk]


def test_queries_are_counted() -> None:
    assert count_queries(["a", "b", "a"]) == count_queries({"a": 2, "b": 1}) == {"a": 2, "b": 1}
    assert count_queries(iter([])) == count_queries({}) == {}


@pytest.mark.parametrize(
    "queries", [{"a": 0}, {"a": -1}, {"a": 1.5}, {"a": True}, {"a": "2"}, {1: 1}, "a", b"a", [None]]
)
def test_counts_that_are_none_and_other_queries_are_refused(queries: object) -> None:
    with pytest.raises(InputError, match="quer"):
        count_queries(queries)  # type: ignore[arg-type]

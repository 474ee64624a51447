import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragself.corpus.words import Vocabulary, words

TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), max_size=8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t--__!!", []),
        ("Hello, World", ["hello", "world"]),
        ("snake_case kebab-case", ["snake", "case", "snake_case", "kebab", "case"]),
        ("camelCase PascalCase", ["camel", "case", "camelcase", "pascal", "case", "pascalcase"]),
        ("parseHTTPResponse2Json", ["parse", "http", "response2", "json", "parsehttpresponse2json"]),
        ("HTTP aB Ab a1B", ["http", "a", "b", "ab", "ab", "a1", "b", "a1b"]),
        (
            "İstanbul İSTANBULa ΣΑΣ",
            ["i̇stanbul", "i̇stanbu", "la", "i̇stanbula", "σας"],
        ),  # lower case may be longer, or depend on place
        ("v1.2.3", ["v1", "2", "3"]),
        ("__init__ _a b_ MAX_TOKENS", ["init", "a", "b", "max", "tokens", "max_tokens"]),
        ("北京仓库", ["北", "北京", "京", "京仓", "仓", "仓库", "库"]),
        ("水泵A4的 x", ["水", "水泵", "泵", "a4", "的", "x"]),
        ("ลาพัก", ["ล", "ลา", "า", "าพั", "พั", "พัก", "ก"]),  # a vowel sign stays with its letter
        ("カタ かな", ["カ", "カタ", "タ", "か", "かな", "な"]),
        ("Straße Ærø Здравствуй κόσμος", ["straße", "ærø", "здравствуй", "κόσμος"]),
        ("\ufb01ne \uff12\uff10", ["fine", "20"]),  # compatibility forms are the letters they stand for
    ],
)
def test_words_are_lower_cased_runs_of_letters_and_digits(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_composed_and_decomposed_letters_are_the_same_word() -> None:
    assert words(unicodedata.normalize("NFD", "café")) == words("café") == ["café"]


def test_a_word_of_a_script_with_vowel_signs_is_one_word() -> None:
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]


@given(st.text())
@settings(deadline=None)
def test_words_hold_nothing_but_letters_and_digits_and_are_never_empty(text: str) -> None:
    for word in words(text):
        assert word
        assert not any(character.isspace() for character in word)
        assert word == word.lower()
        assert word.strip("_") == word


@given(st.text(alphabet=st.characters(max_codepoint=127)))
@settings(deadline=None)
def test_ascii_is_read_like_any_other_text(text: str) -> None:
    assert words(text) == words(f"{text} \u00e9")[:-1]  # a letter beyond it takes the other path


def test_a_lone_surrogate_is_no_word_and_no_error() -> None:
    assert words("a \ud800 b") == ["a", "b"]


def test_vocabulary_counts_documents_and_occurrences() -> None:
    vocabulary = Vocabulary.build([["b", "a", "b"], ["b"], []])
    assert vocabulary.terms == ("b", "a")
    assert vocabulary.documents == 3
    assert vocabulary.frequency.tolist() == [2, 1]
    assert vocabulary.occurrences.tolist() == [3, 1]
    assert len(vocabulary) == 2


def test_terms_come_most_widespread_first_and_ties_in_alphabetical_order() -> None:
    assert Vocabulary.build([["c", "b", "a"], ["b"]]).terms == ("b", "a", "c")


def test_the_limit_keeps_the_words_in_most_documents_and_counts_all_documents() -> None:
    vocabulary = Vocabulary.build([["a", "b"], ["a", "b"], ["a", "c"]], limit=2)
    assert vocabulary.terms == ("a", "b")
    assert vocabulary.documents == 3


def test_vocabulary_takes_an_iterator() -> None:
    assert Vocabulary.build(iter([["a"], ["a"]])).frequency.tolist() == [2]


@given(TEXTS, st.integers(0, 8))
@settings(deadline=None)
def test_counts_are_those_of_a_loop(tokenised: list[list[str]], limit: int) -> None:
    vocabulary = Vocabulary.build(tokenised, limit)
    matrix = vocabulary.counts(tokenised)
    expected = [[tokens.count(term) for term in vocabulary.terms] for tokens in tokenised]
    assert matrix.shape == (len(tokenised), len(vocabulary))
    assert matrix.dtype == np.float32
    assert matrix.toarray().tolist() == expected
    assert matrix.has_sorted_indices


def test_counts_leave_out_words_that_are_not_in_the_vocabulary() -> None:
    assert Vocabulary.build([["a"]]).counts([["z", "a", "z"], ["z"]]).toarray().tolist() == [[1.0], [0.0]]

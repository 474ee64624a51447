"""Words and how often they occur: what BM25, the document language model and the sketch count."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import regex
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

_WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")  # with marks: a vowel sign is part of its word
_ASCII = re.compile(r"[A-Za-z0-9]+")  # the same of most English texts, with the next in a third of the time
_ASCII_HUMP = re.compile(r"[a-z0-9](?=[A-Z])|[A-Z](?=[A-Z][a-z])")
_HUMP = regex.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits in any script, identifiers split where their humps are.

    >>> words("Rate-limit of getHTTPResponse: 5 req/s")
    ['rate', 'limit', 'of', 'get', 'http', 'response', '5', 'req', 's']
    """
    if text.isascii():
        return _ASCII.findall(_ASCII_HUMP.sub(r"\g<0> ", text).lower())
    found: list[str] = []
    for run in _WORD.findall(unicodedata.normalize("NFKC", text)):
        lower = run.lower()
        if lower[1:] == run[1:]:  # as most are: no hump
            found.append(lower)
        else:
            found += [word.lower() for word in _HUMP.sub(" ", run).split(" ")]
    return found


@dataclass(frozen=True)
class Vocabulary:
    """The words of a corpus, most widespread first.

    Attributes:
        terms: V distinct words.
        documents: Number of documents counted.
        frequency: (V,) int64, documents that hold the word.
        occurrences: (V,) int64, times that the word occurs.
    """

    terms: tuple[str, ...]
    documents: int
    frequency: NDArray[np.int64]
    occurrences: NDArray[np.int64]

    @classmethod
    def build(cls, tokenised: Iterable[Sequence[str]], limit: int | None = None) -> Vocabulary:
        """Count the words of documents.

        Args:
            tokenised: One list of words a document.
            limit: Keep only this many, those in most documents; None keeps all.
        """
        counts: Counter[str] = Counter()
        totals: Counter[str] = Counter()
        documents = 0
        for tokens in tokenised:
            totals.update(tokens)
            counts.update(set(tokens))
            documents += 1
        terms = sorted(counts, key=lambda term: (-counts[term], term))[:limit]
        frequency = np.array([counts[term] for term in terms], dtype=np.int64)
        occurrences = np.array([totals[term] for term in terms], dtype=np.int64)
        return cls(tuple(terms), documents, frequency, occurrences)

    def __len__(self) -> int:
        """V."""
        return len(self.terms)

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each term."""
        return {term: row for row, term in enumerate(self.terms)}

    def counts(self, tokenised: Sequence[Sequence[str]]) -> csr_matrix:
        """How often each word occurs in each text, words not in the vocabulary left out.

        Returns:
            (len(tokenised), V) float32 CSR.
        """
        indptr = [0]
        indices: list[int] = []
        data: list[int] = []
        for tokens in tokenised:
            row = Counter(self.index[token] for token in tokens if token in self.index)
            indices.extend(row.keys())
            data.extend(row.values())
            indptr.append(len(indices))
        shape = (len(tokenised), len(self))
        matrix = csr_matrix(
            (np.array(data, np.float32), np.array(indices, np.int32), np.array(indptr, np.int64)), shape
        )
        matrix.sort_indices()
        return matrix

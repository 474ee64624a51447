"""Tokenisation into words, the unit of BM25, the document language model and the inverted index."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import regex
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"  # scripts without word spaces
_RUN = regex.compile(r"[\p{L}\p{N}\p{M}_]+")  # with marks, as a vowel sign is part of its word
_PIECE = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|(?:(?![{_UNSPACED}])[\p{{L}}\p{{N}}\p{{M}}_])+")
_HAS_UNSPACED = regex.compile(rf"[{_UNSPACED}]")
_HUMP = regex.compile(r"(?<=[\p{Ll}\p{N}])(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll})")
_ASCII_RUN = re.compile(r"[A-Za-z0-9_]+")  # same result for most English texts, in a third of the time
_ASCII_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_ASCII_COMPOUND = re.compile(r"_|[a-z0-9][A-Z]|[A-Z][A-Z][a-z]")  # occurs only in identifiers of several parts


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits in any script.

    An identifier yields its parts, split at camel-case boundaries and underscores, and then the whole identifier. Text
    in a script without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) yields single characters and
    all pairs of neighbouring characters, as in Lucene's CJK analyzer.

    >>> words("Rate-limit of getHTTPResponse: 5 req/s")
    ['rate', 'limit', 'of', 'get', 'http', 'response', 'gethttpresponse', '5', 'req', 's']
    >>> words("max_tokens 水泵A4")
    ['max', 'tokens', 'max_tokens', '水', '水泵', '泵', 'a4']
    """
    if text.isascii():
        if not _ASCII_COMPOUND.search(text):
            return _ASCII_RUN.findall(text.lower())
        runs, hump = _ASCII_RUN.findall(text), _ASCII_HUMP
    else:
        runs, hump = _RUN.findall(unicodedata.normalize("NFKC", text)), _HUMP
    found: list[str] = []
    for run in runs:
        lower = run.lower()
        if lower[1:] == run[1:] and "_" not in run and (run.isascii() or not _HAS_UNSPACED.search(run)):
            found.append(lower)  # the most frequent case
        elif run.isascii() or not _HAS_UNSPACED.search(run):
            found += _identifier(run, hump)
        else:
            found += _unspaced(run)
    return found


def _identifier(run: str, hump: re.Pattern[str]) -> list[str]:
    """Parts of an identifier, followed by the whole identifier if it has several parts."""
    parts = hump.sub(" ", run).replace("_", " ").lower().split()
    return [*parts, run.strip("_").lower()] if len(parts) > 1 else parts


def _unspaced(run: str) -> list[str]:
    """Characters and pairs of characters. Runs of other scripts between them are split as identifiers."""
    found: list[str] = []
    before = ""
    for piece in _PIECE.findall(run):
        if _HAS_UNSPACED.match(piece):
            if before:
                found.append(before + piece)
            found.append(piece)
            before = piece
        else:
            found += _identifier(piece, _HUMP)
            before = ""
    return found


@dataclass(frozen=True)
class Vocabulary:
    """Words of a corpus, in descending order of document frequency.

    Attributes:
        terms: V distinct words.
        documents: Number of documents counted.
        frequency: (V,) int64, number of documents that contain the word.
        occurrences: (V,) int64, number of occurrences of the word.
    """

    terms: tuple[str, ...]
    documents: int
    frequency: NDArray[np.int64]
    occurrences: NDArray[np.int64]

    @classmethod
    def build(cls, tokenised: Iterable[Sequence[str]], limit: int | None = None) -> Vocabulary:
        """Count the words of documents.

        Args:
            tokenised: One list of words per document.
            limit: Maximum number of words; the most frequent ones (by document) are kept. None keeps all.
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
        """Number of words, V."""
        return len(self.terms)

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each term."""
        return {term: row for row, term in enumerate(self.terms)}

    def counts(self, tokenised: Sequence[Sequence[str]]) -> csr_matrix:
        """Count the words of each text. Words outside the vocabulary are ignored.

        Returns:
            (len(tokenised), V) float32 CSR.
        """
        from scipy.sparse import csr_matrix  # the import takes 0.3 s, and search does not need it

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

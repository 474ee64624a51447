"""The exact score that a sketch only approximates, with pairs of neighbouring words: for the few texts worth the time.

The dense cosine plus strength times the lexical score, as the vectors of a hybrid have it, but without the noise of
random projections. What the vectors cannot hold is added: how likely each word is after the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.words import words
from ragself.models.lexicon import MU, WORDS, Lexicon

Counted: TypeAlias = NDArray[np.int64]
NU = 100.0  # as in the document language model


def count(text: str) -> Counted:
    """The words of a text in their order, each as a number that is its own as long as this process lives."""
    return np.fromiter(map(hash, words(text)), np.int64)


def fuse(
    lexicon: Lexicon, queries: Sequence[str], texts: Sequence[Counted], dense: NDArray[np.float32], strength: float
) -> NDArray[np.float32]:
    """Dense + strength * the mean of the lexical scores of the queries, (len(texts),) float32.

    Args:
        lexicon: What words weigh.
        queries: What is asked, in as many wordings as there are; at least one.
        texts: What is ranked.
        dense: (len(texts),) their cosines.
        strength: Of the lexical score, in cosine per nat.
    """
    lexical = np.mean([lexical_scores(lexicon, query, texts) for query in queries], axis=0)
    return np.asarray(dense + strength * lexical, dtype=np.float32)


def lexical_scores(
    lexicon: Lexicon, query: str, texts: Sequence[Counted], *, pairs: bool = True
) -> NDArray[np.float64]:
    """The score of the lexicon for each text, (len(texts),) float64; 0 for a query without a word.

    With pairs of words it is that of the bigram model (MacKay and Peto 1995): for each word t that is asked after s,

        1 / sqrt(10 n) * (log(1 + c(s t, d) / (nu p(t | d))) + log(nu / (c(s, d) + nu)))

    is added, where p(t | d) = (c(t, d) + mu p(t)) / (|d| + mu) and n is the number of words asked.
    """
    asked = words(query)
    if not asked or not texts:
        return np.zeros(len(texts))
    terms = list(dict.fromkeys(asked))
    column = {term: number for number, term in enumerate(terms)}
    order = np.array([column[term] for term in asked])
    share, weight = lexicon.known(terms)
    lengths = np.array([len(text) for text in texts])
    owner, found = np.repeat(np.arange(len(texts)), lengths), _find(terms, np.concatenate(texts))
    counts = _tally(owner[found >= 0], found[found >= 0], (len(texts), len(terms)))
    times = np.bincount(order)
    total = np.log1p(counts / (MU * share)) @ (times * weight)
    if pairs and len(asked) > 1:
        next_to = (found[:-1] >= 0) & (found[1:] >= 0) & (owner[:-1] == owner[1:])
        total += _pairs(order, counts, lengths, share, owner[:-1][next_to], (found[:-1][next_to], found[1:][next_to]))
    level = np.log(MU / (lengths + MU))
    return np.asarray(total / np.sqrt(WORDS * len(asked)) + np.sqrt(len(asked) / WORDS) * level)


def _pairs(
    order: NDArray[np.int64],
    counts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    share: NDArray[np.float64],
    owner: NDArray[np.int64],
    held: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.float64]:
    """What the pairs of words say, (texts,): asked follow each other in `order`, held are (first, second)."""
    size = counts.shape[1]
    asked, times = np.unique(order[:-1] * size + order[1:], return_counts=True)
    first, second = np.divmod(asked, size)
    codes = held[0] * size + held[1]
    row = np.searchsorted(asked, codes).clip(max=len(asked) - 1)
    here = asked[row] == codes
    together = _tally(owner[here], row[here], (len(counts), len(asked)))
    smooth = (counts[:, second] + MU * share[second]) / (lengths[:, None] + MU)
    return np.asarray((np.log1p(together / (NU * smooth)) + np.log(NU / (counts[:, first] + NU))) @ times)


def _find(terms: Sequence[str], held: Counted) -> NDArray[np.int64]:
    """Which of the terms each word is, -1 for none of them."""
    numbers = np.array([hash(term) for term in terms])
    order = np.argsort(numbers)
    row = order[np.searchsorted(numbers[order], held).clip(max=len(terms) - 1)]
    return np.where(numbers[row] == held, row, -1)


def _tally(rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)

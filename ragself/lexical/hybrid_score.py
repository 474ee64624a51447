"""The ranking law: the score of a chunk for a query. It is exact, and the same in search, in training and in the gate.

    score(q, d) = cosine(q, d) + u * s(q) * (a * L(q, d) + b * B(q, d))

**L**, the document language model, in nats: the log-likelihood ratio of the query given the document against the query
given the corpus, smoothed with Dirichlet priors (Zhai and Lafferty 2004), of words and of pairs of neighbouring words
(MacKay and Peto 1995). For a query of n informative words, with c(t, d) the count of t in d and p(t) the share of t
among all words of the corpus,

    p(t | d) = (c(t, d) + mu p(t)) / (|d| + mu)

    L = 1 / sqrt(10 n) * sum over the words t of q of w(t) log(1 + c(t, d) / (mu p(t)))
      + 1 / sqrt(10 n) * sum over pairs s t of q of log(1 + c(s t, d) / (nu p(t | d))) + log(nu / (c(s, d) + nu))
      + 3/4 sqrt(n / 10) log(mu / (|d| + mu))

The factor 3/4 of the last term, instead of 1, suits corpora whose documents differ much in length.

**B**, BM25 (Robertson and others 1994; Lucene's variant, k1 = 1.5, b = .75) divided by the square root of n. Words in
more than a fifth of the documents are stop words: n does not count them, and B ignores them.

**s(q)**, a measure of how well the words of the query separate documents. With g the gap between the best and the
tenth best score B, and B1 the best score,

    s = (g / 1.6) ** .35 * (g / (B1 / 2)) ** .5    at least .8, at most 3; 1 for a query of one informative word

If ten documents match the words of a query equally well, words are of little use. If only one document contains a rare
word, such as a part number, they decide. Form and constants were chosen on the development collections; see
``tests/benchmarks/law.py``.

**u**, the unit: the spread of the encoder's cosines, relative to all-MiniLM-L6-v2 (`ragself.encoders.spread`).

**a, b, w(t)**: `Weights`, which a version may train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.words import words
from ragself.lexical.view import View
from ragself.lexical.weights import Weights

MU = 200.0  # Dirichlet prior, in words of the corpus added to every document
NU = 100.0  # Dirichlet prior of pairs, in words of the document
K1, SLOPE = 1.5, 0.75
COMMON = 0.2  # share of the documents above which a word is a stop word
SMALL = 50  # that share is taken of at least this many documents

_WORDS = 10.0  # query length at which L is a mean gain per word; longer queries count more
_LENGTH = 0.75  # factor of the length term
_LEVELS = 256  # number of distinct counts of a word in a document, for candidates
_GAP, _RELATIVE = 1.6, 0.5  # absolute gap, and gap relative to the best, at which s(q) is 1
_GAP_POWER, _RELATIVE_POWER = 0.35, 0.5
_LEAST, _MOST = 0.8, 3.0
_DECIDING = 128  # number of rarest words of a long query that select its candidates


@dataclass(frozen=True, eq=False)
class Query:
    """A query analysed for the lexical scores, with corpus statistics of its words.

    Attributes:
        terms: t distinct words that the corpus contains, in the order of the query.
        order: (m,) int64, index into `terms` of each word of the query, in order; -1 for an unknown word.
        times: (t,) int64, count of each term in the query.
        share: (t,) float64, p(t).
        idf: (t,) float64, Lucene's inverse document frequency; 0 for stop words.
        informative: n, at least 1.
        mean_length: Mean number of words of the documents.
    """

    terms: tuple[str, ...]
    order: NDArray[np.int64]
    times: NDArray[np.int64]
    share: NDArray[np.float64]
    idf: NDArray[np.float64]
    informative: float
    mean_length: float

    @classmethod
    def of(cls, text: str, corpus: View) -> Query:
        """Analyse a text against a corpus."""
        found = words(text)
        distinct = list(dict.fromkeys(found))
        statistics = corpus.statistics(distinct)
        held = statistics.frequency > 0
        terms = tuple(term for term, known in zip(distinct, held.tolist(), strict=True) if known)
        column = {term: number for number, term in enumerate(terms)}
        order = np.array([column.get(word, -1) for word in found], dtype=np.int64)
        times = np.bincount(order[order >= 0], minlength=len(terms))
        frequency, occurrences = statistics.frequency[held], statistics.occurrences[held]
        count, total = corpus.documents, max(corpus.words, 1)
        common = frequency > COMMON * max(count, SMALL)
        idf = np.where(common, 0.0, np.log1p((count - frequency + 0.5) / (frequency + 0.5)))
        informative = max(float(times[~common].sum()), 1.0)
        return cls(terms, order, times, occurrences / total, idf, informative, max(total / max(count, 1), 1.0))

    def candidates(
        self, corpus: View, weights: Weights, k: int, allowed: Sequence[str] | None = None
    ) -> NDArray[np.int64]:
        """Rows of the `k` best documents by L without pairs and without stop words, best first.

        Documents without a counting word are excluded. Stop words count only if the query has no other words, as they
        cost most of the time and carry almost no information.

        Args:
            corpus: The documents.
            weights: Weights of single words.
            k: Maximum number of rows.
            allowed: Ids of documents that may be found; None allows all.
        """
        order = np.argsort(self.share, kind="stable")
        telling = order[self.idf[order] > 0]
        terms = np.sort((telling if len(telling) else order)[:_DECIDING])
        counts = np.arange(_LEVELS, dtype=np.float64)
        scale = self.times[terms] * weights.of(self.terms)[terms] / np.sqrt(_WORDS * self.informative)
        impact = scale[:, None] * np.log1p(counts[None, :] / (MU * self.share[terms][:, None]))
        chosen = [self.terms[term] for term in terms.tolist()]
        level = _LENGTH * float(np.sqrt(self.informative / _WORDS))
        return corpus.top(chosen, impact.astype(np.float32), level, k, allowed, MU)[0]


@dataclass(frozen=True, eq=False)
class Match:
    """Lexical scores of n documents for one query.

    Attributes:
        language_model: (n,) float64, L with all word weights 1.
        bm25: (n,) float64, B.
        gain: (n, t) float32, contribution of each term to L at weight 1, summed over its occurrences in the query.
    """

    language_model: NDArray[np.float64]
    bm25: NDArray[np.float64]
    gain: NDArray[np.float32]

    def parts(
        self, query: Query, weights: Weights, standing_out: float | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """s(q) a L and s(q) b B, (n,) each, in cosines of all-MiniLM-L6-v2.

        Args:
            query: The query.
            weights: a, b and the weights of words.
            standing_out: s(q); None computes it from these documents.
        """
        scale = stands_out(query, self.bm25) if standing_out is None else standing_out
        learned = self.language_model
        if len(weights.keys):
            learned = learned + self.gain @ (weights.of(query.terms) - 1.0)
        return scale * weights.language_model * learned, scale * weights.bm25 * self.bm25


def match(query: Query, corpus: View, rows: NDArray[np.int64]) -> Match:
    """Lexical scores of documents; 0 if the corpus contains no word of the query.

    Args:
        query: Query analysed against the same corpus, or against the corpus whose statistics apply.
        corpus: View with the documents.
        rows: (n,) int64, rows of the documents.
    """
    size = len(query.terms)
    if not size or not len(rows):
        nothing = np.zeros(len(rows))
        return Match(nothing, nothing, np.zeros((len(rows), size), np.float32))
    place, found, owner, lengths = corpus.held(query.terms, rows)
    counts = _tally(owner, found, (len(rows), size))
    norm = 1.0 / np.sqrt(_WORDS * query.informative)
    gain = norm * query.times * np.log1p(counts / (MU * query.share))
    level = _LENGTH * np.sqrt(query.informative / _WORDS) * np.log(MU / (lengths + MU))
    total = gain.sum(axis=1) + level
    known = (query.order[:-1] >= 0) & (query.order[1:] >= 0)
    if known.any():
        together = (place[1:] == place[:-1] + 1) & (owner[:-1] == owner[1:])
        held = found[:-1][together] * size + found[1:][together]
        pairs = query.order[:-1][known] * size + query.order[1:][known]
        total = total + norm * _pairs(pairs, counts, lengths, query.share, owner[:-1][together], held)
    longer = K1 * (1.0 - SLOPE + SLOPE * lengths / query.mean_length)
    bm25 = (counts / (counts + longer[:, None])) @ (query.times * query.idf) / np.sqrt(query.informative)
    return Match(total, bm25, gain.astype(np.float32))


def stands_out(query: Query, bm25: NDArray[np.float64]) -> float:
    """s(q), from the BM25 scores of the candidates of a query, (n,) in any order."""
    best = np.sort(bm25)[::-1]
    if query.informative <= 1.0 or not len(best) or best[0] <= 0.0:
        return 1.0
    gap = float(best[0] - (best[9] if len(best) > 9 else 0.0))
    relative = gap / float(best[0])
    return float(np.clip((gap / _GAP) ** _GAP_POWER * (relative / _RELATIVE) ** _RELATIVE_POWER, _LEAST, _MOST))


def _pairs(
    pairs: NDArray[np.int64],
    counts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    share: NDArray[np.float64],
    owner: NDArray[np.int64],
    held: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Sum over pairs of words, (n,). `pairs` are codes of the query's pairs, `held` those in the documents `owner`."""
    size = counts.shape[1]
    distinct, times = np.unique(pairs, return_counts=True)
    first, second = np.divmod(distinct, size)
    row = np.searchsorted(distinct, held).clip(max=len(distinct) - 1)
    here = distinct[row] == held
    together = _tally(owner[here], row[here], (len(counts), len(distinct)))
    smooth = (counts[:, second] + MU * share[second]) / (lengths[:, None] + MU)
    return np.asarray((np.log1p(together / (NU * smooth)) + np.log(NU / (counts[:, first] + NU))) @ times)


def _tally(rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)

"""The ranking law: what a chunk scores for a query. Exact, and the same in search, in training and in the gate.

    score(q, d) = cosine(q, d) + u * s(q) * (a * L(q, d) + b * B(q, d))

**L**, the document language model, in nats: the log-likelihood ratio of the query given the document against the query
given the corpus, smoothed with Dirichlet priors (Zhai and Lafferty 2004), of words and of pairs of neighbouring words
(MacKay and Peto 1995). For a query of n informative words, with c(t, d) how often d holds t and p(t) the share of t
among all words of the corpus,

    p(t | d) = (c(t, d) + mu p(t)) / (|d| + mu)

    L = 1 / sqrt(10 n) * sum over the words t of q of w(t) log(1 + c(t, d) / (mu p(t)))
      + 1 / sqrt(10 n) * sum over pairs s t of q of log(1 + c(s t, d) / (nu p(t | d))) + log(nu / (c(s, d) + nu))
      + 3/4 sqrt(n / 10) log(mu / (|d| + mu))

Three quarters of the last term, and not all of it, suit corpora whose documents differ much in length.

**B**, BM25 (Robertson and others 1994; Lucene's variant, k1 = 1.5, b = .75) over the square root of n. Words that are
in over a fifth of the documents are stop words: they are not among the n, and B leaves them out.

**s(q)**, how far the words of the query single documents out. With g the gap between the best and the tenth best
document by B, and B1 the best,

    s = (g / 1.6) ** .35 * (g / (B1 / 2)) ** .5    at least .8, at most 3; 1 for a query of one informative word

Where ten documents hold the words of a query alike, words tell little; where one alone holds a rare word, such as the
number of a part, they tell all. Form and constants were chosen on the development collections; see
``tests/benchmarks/law.py``.

**u**, the unit: how widely the encoder spreads its cosines, compared with all-MiniLM-L6-v2 (`ragself.encoders.spread`).

**a, b, w(t)**: `Weights`, what a version may learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.words import words
from ragself.lexical.view import View
from ragself.lexical.weights import Weights

MU = 200.0  # words of the corpus that every document is smoothed with
NU = 100.0  # words of a document that its pairs are smoothed with
K1, SLOPE = 1.5, 0.75
COMMON = 0.2  # share of the documents from which a word is a stop word
SMALL = 50  # documents below which that share is taken of so many

_WORDS = 10.0  # a query of so many words counts by its mean gain, longer ones by more
_LENGTH = 0.75  # of the length term
_LEVELS = 256  # counts of a word in a document that candidates are told apart by
_GAP, _RELATIVE = 1.6, 0.5  # gaps, absolute and relative to the best, of a query whose words count as they are
_GAP_POWER, _RELATIVE_POWER = 0.35, 0.5
_LEAST, _MOST = 0.8, 3.0
_DECIDING = 128  # the rarest words of a long query, which choose its candidates


@dataclass(frozen=True, eq=False)
class Query:
    """A query as the lexical scores see it, with what the corpus says of its words.

    Attributes:
        terms: t distinct words that the corpus holds, in the order of the query.
        order: (m,) int64, each known word of the query as one of the terms, in their order; -1 for one that is unknown.
        times: (t,) int64, how often the query holds each.
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

        Only documents that hold a word that counts. Stop words count where the query has no other words: they are most
        of the work, and tell next to nothing.

        Args:
            corpus: The documents.
            weights: Of single words.
            k: At most so many.
            allowed: Ids of documents that may be found; None allows all.
        """
        order = np.argsort(self.share, kind="stable")
        telling = order[self.idf[order] > 0]
        terms = np.sort((telling if len(telling) else order)[:_DECIDING])
        counts = np.arange(_LEVELS, dtype=np.float64)
        scale = self.times[terms] * weights.of(self.terms)[terms] / np.sqrt(_WORDS * self.informative)
        impact = scale[:, None] * np.log1p(counts[None, :] / (MU * self.share[terms][:, None]))
        asked = [self.terms[term] for term in terms.tolist()]
        level = _LENGTH * float(np.sqrt(self.informative / _WORDS))
        return corpus.top(asked, impact.astype(np.float32), level, k, allowed, MU)[0]


@dataclass(frozen=True, eq=False)
class Match:
    """The lexical scores of n documents for one query.

    Attributes:
        language_model: (n,) float64, L with all word weights 1.
        bm25: (n,) float64, B.
        gain: (n, t) float32, what each term adds to L with a weight of 1, over all its occurrences in the query.
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
            standing_out: s(q); None takes it from these documents.
        """
        scale = stands_out(query, self.bm25) if standing_out is None else standing_out
        learned = self.language_model
        if len(weights.keys):
            learned = learned + self.gain @ (weights.of(query.terms) - 1.0)
        return scale * weights.language_model * learned, scale * weights.bm25 * self.bm25


def match(query: Query, corpus: View, rows: NDArray[np.int64]) -> Match:
    """The lexical scores of documents; 0 for a query of which the corpus holds no word.

    Args:
        query: Analysed against the same corpus, or against one whose statistics are to count.
        corpus: Holds the documents.
        rows: (n,) of them.
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
    asked = (query.order[:-1] >= 0) & (query.order[1:] >= 0)
    if asked.any():
        together = (place[1:] == place[:-1] + 1) & (owner[:-1] == owner[1:])
        held = found[:-1][together] * size + found[1:][together]
        pairs = query.order[:-1][asked] * size + query.order[1:][asked]
        total = total + norm * _pairs(pairs, counts, lengths, query.share, owner[:-1][together], held)
    longer = K1 * (1.0 - SLOPE + SLOPE * lengths / query.mean_length)
    bm25 = (counts / (counts + longer[:, None])) @ (query.times * query.idf) / np.sqrt(query.informative)
    return Match(total, bm25, gain.astype(np.float32))


def stands_out(query: Query, bm25: NDArray[np.float64]) -> float:
    """s(q), of the BM25 scores of a query's candidates, (n,) in any order."""
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
    """The sum over pairs of words, (n,): `pairs` are the query's, `held` those of the documents `owner`, as codes."""
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

"""Lexical features of the ranking law for probes and documents: fixed scores, and contributions of single words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ragself.lexical.hybrid_score import Match, Query, match, stands_out
from ragself.lexical.terms import term_keys
from ragself.lexical.view import View
from ragself.lexical.weights import Weights

Rows = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LexicalScores:
    """Lexical scores of n queries with m documents each, in units of the encoder's cosines.

    For the symbols u, s, L, B, a and b see `ragself.lexical.hybrid_score`.

    Attributes:
        language_model: (n, m) float32, u s L with all word weights 1.
        bm25: (n, m) float32, u s B.
        row, column, term: (e,) int64, entries to which a word contributes: query, document and row of the word.
        gain: (e,) float32, contribution of that word to u s L at weight 1.
    """

    language_model: FloatArray
    bm25: FloatArray
    row: Rows
    column: Rows
    term: Rows
    gain: FloatArray

    @classmethod
    def of(cls, matches: Sequence[Match], scales: FloatArray, terms: Sequence[Rows]) -> LexicalScores:
        """Build a block from the matches of n queries, each with the same number of documents.

        Args:
            matches: Matches of the n queries.
            scales: (n,) u s of each query.
            terms: Rows of each query's words.
        """
        rows, columns, words, gains = [], [], [], []
        for number, (found, own) in enumerate(zip(matches, terms, strict=True)):
            column, place = np.nonzero(found.gain)
            rows.append(np.full(len(column), number, dtype=np.int64))
            columns.append(column.astype(np.int64))
            words.append(own[place])
            gains.append(scales[number] * found.gain[column, place])
        scale = scales[:, None]
        return cls(
            (scale * np.stack([found.language_model for found in matches])).astype(np.float32),
            (scale * np.stack([found.bm25 for found in matches])).astype(np.float32),
            np.concatenate(rows),
            np.concatenate(columns),
            np.concatenate(words),
            np.concatenate(gains).astype(np.float32),
        )

    def take(self, rows: Rows) -> LexicalScores:
        """The block of some queries, in the order of `rows`."""
        bounds = np.searchsorted(self.row, np.arange(len(self.language_model) + 1))
        spans = [np.arange(bounds[row], bounds[row + 1]) for row in rows.tolist()]
        entries = np.concatenate([np.empty(0, np.int64), *spans])
        number = np.repeat(np.arange(len(rows)), [len(span) for span in spans])
        return LexicalScores(
            self.language_model[rows],
            self.bm25[rows],
            number,
            self.column[entries],
            self.term[entries],
            self.gain[entries],
        )

    def scores(self, weights: Weights, log_weight: FloatArray) -> FloatArray:
        """(n, m) float32 scores: u s (a L + b B).

        Args:
            weights: Lexical weights, of which a and b are used.
            log_weight: (V,) logarithms of the weights of the words.
        """
        learned = self.language_model
        if log_weight.any():
            learned = learned.copy()
            np.add.at(learned, (self.row, self.column), self.gain * np.expm1(log_weight[self.term]))
        return np.asarray(weights.language_model * learned + weights.bm25 * self.bm25, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class LexicalFeatures:
    """The words of P queries and N documents.

    Attributes:
        queries: P queries, analysed against the corpus.
        documents: N documents.
        unit: Unit u of the encoder.
    """

    queries: Sequence[Query]
    documents: View
    unit: float

    @cached_property
    def terms(self) -> list[str]:
        """V distinct words of the queries that the corpus holds, in ascending order of their keys."""
        distinct = list({term for query in self.queries for term in query.terms})
        return [distinct[row] for row in np.argsort(term_keys(distinct), kind="stable").tolist()]

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """(V,) uint64 keys of the terms."""
        return term_keys(self.terms)

    def log_weight(self, weights: Weights) -> FloatArray:
        """(V,) float32 logarithms of the weights of the terms."""
        return np.log(weights.of(self.terms))

    def listed(self, candidates: Rows, out: NDArray[np.bool_] | None = None) -> LexicalScores:
        """Match every query with its own candidates.

        Args:
            candidates: (P, K) rows of the documents.
            out: (P, K) True for candidates that s, how far a query singles documents out, ignores; None ignores none.
        """
        matches, scales = [], np.ones(len(self.queries), np.float32)
        for number, query in enumerate(self.queries):
            found = match(query, self.documents, candidates[number])
            counted = found.bm25 if out is None else found.bm25[~out[number]]
            scales[number] = self.unit * stands_out(query, counted)
            matches.append(found)
        return LexicalScores.of(matches, scales, [self._rows(query) for query in self.queries])

    def crossed(self, rows: Rows, used: Rows) -> LexicalScores:
        """Match some queries with the same documents each. s is unknown for them and therefore 1.

        Args:
            rows: Rows of n queries.
            used: Rows of m documents.
        """
        some = [self.queries[row] for row in rows.tolist()]
        scales = np.full(len(some), self.unit, np.float32)
        return LexicalScores.of(
            [match(query, self.documents, used) for query in some], scales, [self._rows(q) for q in some]
        )

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {term: row for row, term in enumerate(self.terms)}

    def _rows(self, query: Query) -> Rows:
        return np.array([self._row_of[term] for term in query.terms], dtype=np.int64)

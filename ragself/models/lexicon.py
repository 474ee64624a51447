"""What a word weighs, and its fixed random direction: the two halves of a lexical sketch.

A word is known by a hash, never by its letters, so that an adapter can be given away without the
words of the documents it was trained on. Its direction is made of the same hash: a word that no
training document held has one too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ragself.corpus.words import Vocabulary, words

Side: TypeAlias = Literal["document", "query"]

LIMIT = 200_000  # words that have weights of their own, those in most documents
MU = 200.0  # as in the document language model, whose form this is
WORDS = 10.0  # a query of so many words counts by its mean gain, longer ones by more
_ASKED = 0.8  # how far known queries, and not the corpus, say which words are asked


@dataclass(frozen=True)
class Lexicon:
    """Weights of words, learned from a corpus and then by training.

    The score of a document d for a query q of n words is the smoothed likelihood of q given d over that given
    the corpus (Zhai and Lafferty 2004), with learned weights w, times the square root of n / 10:

        1 / sqrt(10 n) * sum over t of c(t, q) w(t) log(1 + c(t, d) / (mu p(t)))  +  sqrt(n / 10) log(mu / (|d| + mu))

    Each side is a vector of words, so the score is an inner product, and a sketch of it one of few dimensions.

    Attributes:
        keys: (V,) uint64, hashes of the words, ascending.
        share: (V,) float32, p(t): occurrences divided by all words of the corpus.
        weight: (V,) float32, w(t): 1, times what was learned.
        balance: (V,) float32, by what a word is multiplied in queries and divided in documents before both are
            projected. No score changes, but the noise of a sketch is least where words that are rarely asked but
            differ much between documents carry their weight in the query: the fourth root of the quotient of
            their variance in documents and their mean square in queries.
        unseen: (2,) float32, share and balance of a word that is not among the keys; its weight is 1.
    """

    keys: NDArray[np.uint64]
    share: NDArray[np.float32]
    weight: NDArray[np.float32]
    balance: NDArray[np.float32]
    unseen: NDArray[np.float32]

    @classmethod
    def count(cls, texts: Iterable[str]) -> Lexicon:
        """Count a corpus, reading it once, for exact scores alone: sketches want the balance, which `fit` works out."""
        vocabulary = Vocabulary.build(map(words, texts), LIMIT)
        return cls._made(vocabulary, np.ones(len(vocabulary)), 1.0)

    @classmethod
    def fit(cls, texts: Sequence[str], queries: Sequence[str] = ()) -> Lexicon:
        """Count a corpus, and which words are asked in it.

        Args:
            texts: The corpus.
            queries: Such as are asked; without any, words are thought to be asked as often as they are written.
        """
        tokenised = [words(text) for text in texts]
        vocabulary = Vocabulary.build(tokenised, LIMIT)
        total = max(int(vocabulary.occurrences.sum()), 1)
        share = vocabulary.occurrences / total
        strength = _strength(vocabulary.counts(tokenised), share)
        count = max(len(texts), 1)
        once = np.log1p(total / MU) ** 2 / count  # the mean square of a word that was written once
        mean, square = (
            np.asarray(each.sum(axis=0)).ravel() / count for each in (strength, strength.multiply(strength))
        )
        spread = square - mean**2
        asked = _shares(vocabulary.counts([words(query) for query in queries]))
        squares = np.asarray(asked.multiply(asked).sum(axis=0)).ravel()
        known = _ASKED if squares.any() else 0.0
        asked_share = known * squares / max(squares.sum(), 1e-12) + (1 - known) * share
        balance = (np.maximum(spread, 1e-3 * once) / np.maximum(asked_share, 1e-12)) ** 0.25
        return cls._made(vocabulary, balance, (once * total) ** 0.25)

    @classmethod
    def _made(cls, vocabulary: Vocabulary, balance: NDArray[np.float64], unseen: float) -> Lexicon:
        """Of counted words, the balance of each, and that of a word that is not among them."""
        keys, _ = _hash(vocabulary.terms, 8)
        order = np.argsort(keys)
        total = max(int(vocabulary.occurrences.sum()), 1)
        share = (vocabulary.occurrences / total)[order].astype(np.float32)
        ones = np.ones(len(keys), np.float32)
        outside = np.array([1.0 / total, unseen], dtype=np.float32)
        return cls(keys[order], share, ones, balance[order].astype(np.float32), outside)

    def learned(self, log_weight: NDArray[np.float32]) -> Lexicon:
        """The same lexicon with each weight multiplied by exp(`log_weight`), (V,) float32, half of it on each side."""
        weight, balance = self.weight * np.exp(log_weight), self.balance * np.exp(-log_weight / 2)
        return replace(self, weight=weight.astype(np.float32), balance=balance.astype(np.float32))

    def weigh(self, texts: Sequence[str], side: Side) -> csr_matrix:
        """The factors of the score that are of one side, w left out, (len(texts), V) float32 CSR: what training sees.

        Words that are not among the keys are left out.
        """
        counts, terms, _ = _count(texts)
        rows, known = self._lookup(_hash(terms, 8)[0])
        factors = self._factors(counts, rows, known, side)
        factors.data[~known[factors.indices]] = 0.0
        matrix = csr_matrix((factors.data, rows[factors.indices], factors.indptr), (len(texts), len(self.keys)))
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return matrix

    def known(self, terms: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Share and weight of words, each (len(terms),) float64; of those that are not among the keys as well."""
        rows, known = self._lookup(_hash(terms, 8)[0])
        if not len(self.keys):
            return np.full(len(terms), self.unseen[0], np.float64), np.ones(len(terms))
        share, weight = np.where(known, self.share[rows], self.unseen[0]), np.where(known, self.weight[rows], 1.0)
        return share.astype(np.float64), weight.astype(np.float64)

    def levels(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        """The factor of the score's last term that is of one side, (len(texts),) float32."""
        return _level(np.array([len(words(text)) for text in texts], dtype=np.float64), side)

    def sketch(self, texts: Sequence[str], side: Side, dimensions: int) -> NDArray[np.float32]:
        """Project the factors of all words on their random directions, and append what depends on length alone.

        The inner product of two sketches is the score plus noise of variance 1 / dimensions, times the squared
        lengths of both (Johnson and Lindenstrauss 1984; signs: Achlioptas 2003).

        Args:
            texts: n texts.
            side: Whether they are searched or asked.
            dimensions: r, a multiple of 8.

        Returns:
            (n, r + 1) float32.
        """
        counts, terms, lengths = _counted(tuple(texts)) if side == "document" else _count(texts)
        keys, bits = _hash(terms, 8 + dimensions // 8)
        rows, known = self._lookup(keys)
        factors = self._factors(counts, rows, known, side)
        scale = np.where(known, self.balance[rows] if len(self.keys) else 1.0, self.unseen[1])
        weight = np.where(known, self.weight[rows] if len(self.keys) else 1.0, 1.0)
        scale = scale * weight if side == "query" else 1.0 / scale
        factors.data *= scale.astype(np.float32)[factors.indices]
        signs = (np.unpackbits(bits[:, 8:], axis=1).astype(np.float32) * 2.0 - 1.0) / np.float32(np.sqrt(dimensions))
        out = np.empty((len(texts), dimensions + 1), dtype=np.float32)
        out[:, :-1] = factors @ signs
        out[:, -1] = _level(lengths, side)
        return out

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The five arrays."""
        return {
            "keys": self.keys.view(np.int64),  # safetensors' numpy side is surest with signed integers
            "share": self.share,
            "weight": self.weight,
            "balance": self.balance,
            "unseen": self.unseen,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Lexicon:
        """Build from what `tensors` gave."""
        rest = (tensors[name] for name in ("share", "weight", "balance", "unseen"))
        return cls(tensors["keys"].view(np.uint64), *rest)

    def _lookup(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Row of each key, and whether it is there; the row of one that is not is arbitrary."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
        rows = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return rows, self.keys[rows] == keys

    def _factors(self, counts: csr_matrix, rows: NDArray[np.int64], known: NDArray[np.bool_], side: Side) -> csr_matrix:
        if side == "query":
            return _shares(counts)
        share = np.full(len(rows), self.unseen[0], np.float32)
        share[known] = self.share[rows[known]]
        return _strength(counts, share)


def _level(lengths: NDArray[np.float64], side: Side) -> NDArray[np.float32]:
    """What depends on the number of words alone, (n,) float32: log(mu / (|d| + mu)), and sqrt(n / 10)."""
    values = np.log(MU / (lengths + MU)) if side == "document" else np.sqrt(lengths / WORDS)
    return values.astype(np.float32)


def _strength(counts: csr_matrix, share: NDArray[Any]) -> csr_matrix:
    """log(1 + c(t, d) / (mu p(t))) of each count."""
    data = np.log1p(counts.data / (MU * share[counts.indices]))
    return csr_matrix((data.astype(np.float32), counts.indices, counts.indptr), counts.shape)


def _shares(counts: csr_matrix) -> csr_matrix:
    """c(t, q) / sqrt(10 n) of each count."""
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    data = counts.data / np.repeat(np.sqrt(WORDS * np.maximum(lengths, 1.0)), np.diff(counts.indptr))
    return csr_matrix((data.astype(np.float32), counts.indices, counts.indptr), counts.shape)


def _count(texts: Sequence[str]) -> tuple[csr_matrix, tuple[str, ...], NDArray[np.float64]]:
    tokenised = [words(text) for text in texts]
    vocabulary = Vocabulary.build(tokenised)
    lengths = np.array([len(tokens) for tokens in tokenised], dtype=np.float64)
    return vocabulary.counts(tokenised), vocabulary.terms, lengths


@lru_cache(maxsize=2)
def _counted(texts: tuple[str, ...]) -> tuple[csr_matrix, tuple[str, ...], NDArray[np.float64]]:
    """The same, remembered for the next adapter that is asked for these documents; nobody may change it."""
    return _count(texts)


def _hash(terms: Sequence[str], size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """The first 8 bytes of each term's hash as a number, and its first `size` bytes."""
    joined = b"".join(hashlib.shake_256(term.encode("utf-8", "surrogatepass")).digest(size) for term in terms)
    bits = np.frombuffer(joined, dtype=np.uint8).reshape(len(terms), size)
    return np.ascontiguousarray(bits[:, :8]).view("<u8").ravel().astype(np.uint64), bits

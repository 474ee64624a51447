"""The dataset of one pass: probes with their candidates, likelihood gains and source documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.ranking import Ranking
from ragself.config import TeacherConfig
from ragself.corpus.words import Vocabulary, words
from ragself.encoders.spread import unit
from ragself.encoders.vectors import BaseVectors
from ragself.lexical.hybrid_score import Query
from ragself.lexical.view import View
from ragself.lexical.weights import Weights
from ragself.lm.likelihood_scorer import LikelihoodScorer
from ragself.probes.candidate_documents import gather
from ragself.probes.duplicates import jaccard
from ragself.probes.filters import judge_probes
from ragself.probes.lexical_features import LexicalFeatures, LexicalScores
from ragself.probes.query_stuffing import stuffed
from ragself.probes.targets import TAU
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Probe

_RUN = 13  # length in words of a shared run that cannot be chance
_ALIKE = 1e-6  # scores that differ by no more are equal: the order of computation explains the difference
_NEAR = 0.8  # minimum word overlap at which a candidate counts as a copy of the probe's source


@dataclass(frozen=True)
class Dataset:
    """Probes and a corpus. Rows N and above of the documents are passages: source chunks without the probe's target.

    Attributes:
        probes: P probes.
        texts: N + M documents: the corpus, then the passages.
        size: N.
        documents: (N + M, base) float32 base vectors.
        queries: (P, base) float32 base vectors.
        words: Words of the probes and the documents.
        candidates: (P, K) int64 rows of `texts`: those that search would rank, and random ones.
        matches: Lexical scores of the candidates.
        leaks: (P, K) True where a candidate would leak the target: the source of the probe, or a copy of it.
        gains: (P, K) float32 likelihood gain, nats per token; -inf where the candidate leaks or the language model
            does not score it; nan for a probe that the language model does not score. A candidate with query stuffing
            has the probe's lowest gain.
        positive: (P,) int64 row of the document that a known-item probe should find: its source, or the
            passage that is its source without the target; -1 for traffic.
        source: (P,) int64 row of the chunk that a probe was made from; -1 for traffic.
        lengths: (P,) int64 number of words in the target.
        overlap: (P,) float32 share of a known-item probe's words, weighted by rarity, that its positive holds; nan for
            traffic.
        stuffed: (any,) int64 rows of the documents with query stuffing: they repeat several queries word for word.
    """

    probes: tuple[Probe, ...]
    texts: tuple[str, ...]
    size: int
    documents: NDArray[np.float32]
    queries: NDArray[np.float32]
    words: LexicalFeatures
    candidates: NDArray[np.int64]
    matches: LexicalScores
    leaks: NDArray[np.bool_]
    gains: NDArray[np.float32]
    positive: NDArray[np.int64]
    source: NDArray[np.int64]
    lengths: NDArray[np.int64]
    overlap: NDArray[np.float32]
    stuffed: NDArray[np.int64]

    @cached_property
    def judged(self) -> tuple[NDArray[np.bool_], Mapping[str, int]]:
        """(P,) True where the gains are usable; and the number of scored probes where they are not, by reason."""
        return judge_probes(self.gains)

    def rows(self, split: str, kinds: Sequence[str] | None = None) -> NDArray[np.int64]:
        """Rows of the probes of a split, of the given kinds; None means all kinds."""
        chosen = [row for row, p in enumerate(self.probes) if p.split == split and (kinds is None or p.kind in kinds)]
        return np.array(chosen, dtype=np.int64)

    def depth(self, k: int) -> int:
        """Depth at which the utility of a ranking is computed: k, but at most an eighth of the scored candidates.

        With few candidates, the top ten of any ranking hold nearly all of the teacher's mass.
        """
        scored = int(np.isfinite(self.gains).sum(axis=1).max(initial=0))
        return min(k, max(scored // 8, 1))

    @property
    def weights(self) -> NDArray[np.float32]:
        """(P,) float32 weight of each probe."""
        return np.array([probe.weight for probe in self.probes], dtype=np.float32)

    @property
    def tau(self) -> float:
        """Temperature of the scores."""
        return TAU * self.words.unit

    @cached_property
    def cosines(self) -> NDArray[np.float32]:
        """(P, K) float32 cosine of the base vectors of each probe and candidate."""
        return self._cosines(self.candidates, self.queries, self.documents)

    @cached_property
    def untrained(self) -> NDArray[np.float32]:
        """(P, K) float32 scores of the untrained ranking."""
        return self.cosines + self._lexical(Weights())

    def scores(self, rows: NDArray[np.int64], ranking: Ranking) -> NDArray[np.float32]:
        """(len(rows), K) float32 scores of the candidates of some probes in a ranking."""
        adapter, cosines = ranking.adapter, self.cosines[rows]
        if adapter is not None:
            used, place = np.unique(self.candidates[rows], return_inverse=True)
            queries = adapter.queries(self.queries[rows], [self.probes[row].text for row in rows])
            documents = adapter.documents(self.documents[used], [self.texts[row] for row in used])
            cosines = self._cosines(place.reshape(cosines.shape), queries, documents)
        return np.asarray(cosines + self._lexical(ranking.weights)[rows], dtype=np.float32)

    def ranks(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """(len(rows),) int64 rank of the document that each known-item probe should find; 1 is best.

        Args:
            rows: Rows of known-item probes.
            scores: (len(rows), K) scores of their candidates. Candidates that leak the target are ignored.
        """
        own = (self.candidates[rows] == self.positive[rows][:, None]).argmax(axis=1)
        wanted = np.take_along_axis(scores, own[:, None], axis=1)
        better = (scores > wanted + _ALIKE) & ~self.leaks[rows]
        return np.asarray(1 + better.sum(axis=1), dtype=np.int64)

    def _lexical(self, weights: Weights) -> NDArray[np.float32]:
        return self.matches.scores(weights, self.words.log_weight(weights))

    @staticmethod
    def _cosines(
        candidates: NDArray[np.int64], queries: NDArray[np.float32], documents: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        if not len(candidates):
            return np.empty(candidates.shape, np.float32)
        return np.stack([documents[near] @ query for query, near in zip(queries, candidates, strict=True)])


def build_dataset(
    probes: Sequence[Probe],
    chunks: Sequence[Chunk],
    base: BaseVectors,
    live: Ranking,
    scorer: Callable[[Sequence[str], int], LikelihoodScorer],
    config: TeacherConfig,
    seed: int,
    progress: Progress = silent,
    asked: TeacherConfig | None = None,
) -> Dataset:
    """Choose candidates for each probe and score them with the language model.

    Args:
        probes: Probes of the dataset.
        chunks: The corpus.
        base: Base vectors.
        live: Ranking of the live version, which chooses the candidates.
        scorer: Makes a scorer from documents and the number of those that belong to the corpus.
        config: Numbers of candidates.
        seed: Seed for the random candidates.
        progress: Called with each stage, the number done and the total.
        asked: Numbers of the candidates that the language model scores; None scores all of them.
    """
    texts = [chunk.text for chunk in chunks]
    row_of = {chunk.id: row for row, chunk in enumerate(chunks)}
    source = np.array([-1 if p.source is None else row_of[p.source] for p in probes], dtype=np.int64)
    positive = source.copy()
    passages: list[str] = []
    for probe, p in enumerate(probes):
        if positive[probe] >= 0:
            passage = without(texts[positive[probe]], p)
            if passage != texts[positive[probe]]:
                positive[probe] = len(texts) + len(passages)
                passages.append(passage)
    everything = [*texts, *passages]
    documents = base.documents(everything, progress)
    queries = base.queries([p.text for p in probes], progress)

    corpus = View.of(texts)
    analysed = [Query.of(p.text, corpus) for p in probes]
    vectors, near = queries, documents[: len(texts)]
    if live.adapter is not None:
        vectors = live.adapter.queries(queries, [p.text for p in probes])
        near = live.adapter.documents(near, texts)
    found = gather(vectors, analysed, near, corpus, live.weights, config, seed, progress)
    scored_width = found.shape[1]
    if asked is not None:
        first = gather(vectors, analysed, near, corpus, live.weights, asked, seed)
        scored_width = first.shape[1]
        found = _joined(first, found)
    _include(found, positive, scored_width - 1)

    leaks, overlap = _compare_words(probes, everything, len(texts), source, positive, found)
    scored = np.array([probe.scored for probe in probes], dtype=np.bool_)
    gains = np.full(found.shape, np.nan, dtype=np.float32)
    gains[scored] = -np.inf
    gains[scored, :scored_width] = scorer(everything, len(texts)).gains(
        [p for p in probes if p.scored], found[scored, :scored_width], progress
    )
    gains[leaks & scored[:, None]] = -np.inf
    stuffed_rows = stuffed(probes, everything, found)
    _humble(gains, np.isin(found, stuffed_rows))
    held = LexicalFeatures(analysed, View((*corpus.parts, *View.of(passages).parts)), unit(base))
    return Dataset(
        probes=tuple(probes),
        texts=tuple(everything),
        size=len(texts),
        documents=documents,
        queries=queries,
        words=held,
        candidates=found,
        matches=held.listed(found, leaks),
        leaks=leaks,
        gains=gains,
        positive=positive,
        source=source,
        lengths=np.array([len(words(p.target)) for p in probes], dtype=np.int64),
        overlap=overlap,
        stuffed=stuffed_rows,
    )


def _include(found: NDArray[np.int64], positive: NDArray[np.int64], place: int) -> None:
    """Make the positive of every known-item probe one of its candidates, at column `place` or before."""
    for row in np.flatnonzero((positive >= 0) & ~(found[:, : place + 1] == positive[:, None]).any(axis=1)).tolist():
        found[row, found[row] == positive[row]] = found[row, place]  # keeps the documents of a row distinct
        found[row, place] = positive[row]


def _joined(first: NDArray[np.int64], rest: NDArray[np.int64]) -> NDArray[np.int64]:
    """(P, K) candidates: those of `first`, (P, n), then those of `rest`, (P, K), that `first` does not hold."""
    out = rest.copy()
    for row, (some, more) in enumerate(zip(first.tolist(), rest.tolist(), strict=True)):
        out[row] = list(dict.fromkeys([*some, *more]))[: rest.shape[1]]
    return out


def _humble(gains: NDArray[np.float32], stuffing: NDArray[np.bool_]) -> None:
    """Give candidates with query stuffing the lowest gain of each probe, so that ranking them first is penalised."""
    least = np.where(np.isfinite(gains), gains, np.inf).min(axis=1, initial=np.inf)
    gains[stuffing & np.isfinite(gains)] = np.broadcast_to(least[:, None], gains.shape)[stuffing & np.isfinite(gains)]


def without(text: str, probe: Probe) -> str:
    """The source's text without the probe's text, so that the probe cannot be found by copying.

    Every occurrence is removed, with heading marks around it. The text is returned unchanged if the probe does not
    occur in it or is all of it.
    """
    pattern = re.compile(rf"^[#\s]*{re.escape(probe.text)}[#\s]*$\n?|{re.escape(probe.text)}", re.MULTILINE)
    rest = pattern.sub("", text).strip()
    return rest if words(rest) else text


def _compare_words(
    probes: Sequence[Probe],
    texts: Sequence[str],
    size: int,
    source: NDArray[np.int64],
    positive: NDArray[np.int64],
    found: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """`Dataset.leaks`, the candidates that are the source of a known-item probe or a copy of it; `Dataset.overlap`."""
    leaks = np.zeros(found.shape, dtype=np.bool_)
    overlap = np.full(len(probes), np.nan, dtype=np.float32)
    known = np.flatnonzero(source >= 0).tolist()
    if not known:
        return leaks, overlap
    tokenised = [words(text) for text in texts]
    vocabulary = Vocabulary.build(tokenised[:size])
    counts = vocabulary.counts(tokenised)
    rarity = np.log((size + 1) / (vocabulary.frequency + 1)).astype(np.float32)
    queries = [set(words(probes[row].text)) for row in known]
    query_counts = vocabulary.counts([sorted(query) for query in queries])
    strange = [sum(word not in vocabulary.index for word in query) * np.log(size + 1) for query in queries]
    for at, row in enumerate(known):
        query, near, held = query_counts[at], found[row], counts[positive[row]]
        if probes[row].kind != "question":  # a question uses words of its own: there is nothing to copy
            copies = jaccard(counts[source[row]], counts[near])[0] >= _NEAR
            if probes[row].kind == "title":
                copies &= np.array([probes[row].text in texts[document] for document in near])
            copies |= _quotes(words(probes[row].target), [tokenised[document] for document in near])
            leaks[row] = copies & (near < size)  # passages do not hold the target
        shared = np.isin(query.indices, held.indices)
        overlap[row] = rarity[query.indices[shared]].sum() / max(rarity[query.indices].sum() + strange[at], 1e-9)
    return leaks, overlap


def _quotes(target: Sequence[str], documents: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """(len(documents),) True for documents that share a run of `_RUN` words with a target: they copy it."""
    runs = [f" {' '.join(target[start : start + _RUN])} " for start in range(len(target) - _RUN + 1)]
    if not runs:
        return np.zeros(len(documents), dtype=np.bool_)
    return np.array([any(run in f" {' '.join(document)} " for run in runs) for document in documents])

"""What one pass knows of its probes: candidates, likelihood gains, and where their own source lies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ragself.config import TeacherConfig
from ragself.corpus.words import Vocabulary, words
from ragself.learn.candidates import Bm25, gather
from ragself.learn.duplicates import jaccard
from ragself.learn.echoes import echoes
from ragself.learn.filters import judge_probes
from ragself.learn.teacher import temperature
from ragself.models.adapter import Adapter
from ragself.models.scorer import LikelihoodScorer
from ragself.models.vectors import BaseVectors
from ragself.progress import Progress, silent
from ragself.schema import Chunk, Probe

_RUN = 13  # words in a row that nobody writes twice by chance
_NEAR = 0.8  # word overlap from which a candidate counts as a copy of the probe's source


@dataclass(frozen=True)
class Study:
    """Probes against a corpus. Rows N and above of the documents are passages: sources without the probe's target.

    Attributes:
        probes: P probes.
        texts: N + M documents: the corpus, then the passages.
        size: N.
        documents: (N + M, base) float32 base vectors.
        queries: (P, base) float32 base vectors.
        candidates: (P, K) int64 rows of `texts`.
        gains: (P, K) float32, nats per token; -inf where the candidate would leak the target, nan
            for a probe that the language model was not asked about. Of one that echoes what users ask, the least.
        positive: (P,) int64 row of the document that a known-item probe should find: its source, or the
            passage that is its source without the target; -1 for traffic.
        source: (P,) int64 row of the chunk that a probe was made from; -1 for traffic.
        lengths: (P,) int64 words of the target.
        overlap: (P,) float32 share of a known-item probe's words, by rarity, that its positive holds; nan for traffic.
        echoes: Rows of the documents that repeat several queries, word for word, (any,) int64.
    """

    probes: tuple[Probe, ...]
    texts: tuple[str, ...]
    size: int
    documents: NDArray[np.float32]
    queries: NDArray[np.float32]
    candidates: NDArray[np.int64]
    gains: NDArray[np.float32]
    positive: NDArray[np.int64]
    source: NDArray[np.int64]
    lengths: NDArray[np.int64]
    overlap: NDArray[np.float32]
    echoes: NDArray[np.int64]

    @cached_property
    def judged(self) -> tuple[NDArray[np.bool_], Mapping[str, int]]:
        """(P,) True where the teacher has something to say; and how many of the probes are not, by reason."""
        return judge_probes(self.gains)

    def rows(self, split: str, kinds: Sequence[str] | None = None) -> NDArray[np.int64]:
        """Rows of the probes of a split, of the given kinds; None means all kinds."""
        chosen = [row for row, p in enumerate(self.probes) if p.split == split and (kinds is None or p.kind in kinds)]
        return np.array(chosen, dtype=np.int64)

    def depth(self, k: int) -> int:
        """Ranks that the utility of a ranking counts: k, but an eighth of the candidates at most.

        Among few candidates nearly all of the teacher's mass is in the first ten, whoever ranks.
        """
        return min(k, max(int(self.candidates.shape[1]) // 8, 1))

    @property
    def weights(self) -> NDArray[np.float32]:
        """(P,) float32, how much each probe counts."""
        return np.array([probe.weight for probe in self.probes], dtype=np.float32)

    @cached_property
    def tau(self) -> float:
        """Temperature of the base cosines."""
        return temperature(self.base)

    @cached_property
    def base(self) -> NDArray[np.float32]:
        """(P, K) float32, cosine of base vectors of each probe and candidate."""
        if not len(self.queries):
            return np.empty((0, 0), np.float32)
        return np.stack([self.documents[row] @ query for query, row in zip(self.queries, self.candidates, strict=True)])


def study(
    probes: Sequence[Probe],
    chunks: Sequence[Chunk],
    base: BaseVectors,
    live: Adapter | None,
    scorer: Callable[[Sequence[str], int], LikelihoodScorer],
    config: TeacherConfig,
    seed: int,
    progress: Progress = silent,
) -> Study:
    """Choose candidates for each probe and ask the language model about them.

    Args:
        probes: To study.
        chunks: The corpus.
        base: Base vectors.
        live: Adapter of the live version, whose nearest documents are candidates; None for the base model.
        scorer: Makes a scorer of documents and the number of those that are the corpus.
        config: Numbers of candidates.
        seed: Of random candidates.
        progress: Told of each stage.
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

    asked = [p.text for p in probes]
    live_queries = queries if live is None else live.queries(queries, asked)
    live_documents = documents[: len(texts)] if live is None else live.documents(documents[: len(texts)], texts)
    found = gather(live_queries, asked, live_documents, Bm25(texts), config, seed, progress)
    # A known-item probe always meets its own passage, in place of the last random candidate.
    known = (positive >= 0) & ~(found == positive[:, None]).any(axis=1)
    found[known, -1] = positive[known]

    scored = np.array([probe.scored for probe in probes], dtype=np.bool_)
    gains = np.full(found.shape, np.nan, dtype=np.float32)
    gains[scored] = scorer(everything, len(texts)).gains([p for p in probes if p.scored], found[scored], progress)
    leaks, overlap = _compare_words(probes, everything, len(texts), source, positive, found)
    gains[leaks & scored[:, None]] = -np.inf
    echoed = echoes(probes, everything, found)
    _humble(gains, np.isin(found, echoed))
    lengths = np.array([len(words(p.target)) for p in probes], dtype=np.int64)
    return Study(
        tuple(probes),
        tuple(everything),
        len(texts),
        documents,
        queries,
        found,
        gains,
        positive,
        source,
        lengths,
        overlap,
        echoed,
    )


def _humble(gains: NDArray[np.float32], echoed: NDArray[np.bool_]) -> None:
    """Give candidates that echo the queries the least gain of each probe, so that whoever ranks them first loses."""
    least = np.where(np.isfinite(gains), gains, np.inf).min(axis=1, initial=np.inf)
    gains[echoed & np.isfinite(gains)] = np.broadcast_to(least[:, None], gains.shape)[echoed & np.isfinite(gains)]


def without(text: str, probe: Probe) -> str:
    """The source's text with the probe taken out: what can be asked of it without copying.

    It goes wherever it occurs, a title with the marks of a heading: what is still there need not be found. The text
    is returned as it is where the probe does not occur in it, or is all of it.
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
    """Which candidates (P, K) hold a known-item probe because they are its source or a copy; and `Study.overlap`."""
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
    asked = vocabulary.counts([sorted(query) for query in queries])
    strange = [sum(word not in vocabulary.index for word in query) * np.log(size + 1) for query in queries]
    for at, row in enumerate(known):
        query, near, held = asked[at], found[row], counts[positive[row]]
        if probes[row].kind != "question":  # whose words are not the document's: there is nothing to copy
            copies = jaccard(counts[source[row]], counts[near])[0] >= _NEAR
            if probes[row].kind == "title":
                copies &= np.array([probes[row].text in texts[document] for document in near])
            copies |= _quotes(words(probes[row].target), [tokenised[document] for document in near])
            leaks[row] = copies & (near < size)  # passages are made to be safe
        shared = np.isin(query.indices, held.indices)
        overlap[row] = rarity[query.indices[shared]].sum() / max(rarity[query.indices].sum() + strange[at], 1e-9)
    return leaks, overlap


def _quotes(target: Sequence[str], documents: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Which documents share a run of words with a target, so long that it is copied; (len(documents),)."""
    runs = [f" {' '.join(target[start : start + _RUN])} " for start in range(len(target) - _RUN + 1)]
    if not runs:
        return np.zeros(len(documents), dtype=np.bool_)
    return np.array([any(run in f" {' '.join(document)} " for run in runs) for document in documents])

"""Search in two steps: the vectors bring candidates, which are ranked again by the score that vectors only sketch."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.corpus.check import check_queries
from ragself.corpus.journal import Journal
from ragself.models.fusion import Counted, count, fuse
from ragself.models.hybrid import STRENGTH, Hybrid
from ragself.models.lexicon import Lexicon
from ragself.models.lora import lexical, reads
from ragself.models.vectors import BaseVectors
from ragself.schema import Embedding, Hit
from ragself.serve.index import Index
from ragself.serve.snapshot import Snapshot

DEPTH = 100  # candidates, or as many as are asked for
_CHANGED = 0.1  # changes, as a share of the chunks, after which the words of the corpus are counted anew
_KEPT = 4_000_000  # words of candidates that are kept as they were counted: 32 MB


class Fused:
    """Ranks what is near a query by dense cosine + strength * the exact lexical score. Safe from several threads.

    A hybrid brings its strength and what its words weigh. Versions that know no words take those of the corpus as they
    are: counted when this is asked for first, seconds for 100,000 chunks, and anew once a tenth of them has changed.
    """

    def __init__(self, journal: Journal, base: BaseVectors) -> None:
        """Name the documents, and what has their base vectors."""
        self._journal, self._base = journal, base
        self._texts = _Texts(_KEPT)
        self._lock = threading.Lock()
        self._lexicon: Lexicon | None = None
        self._chunks = self._head = 0  # as of when they were counted

    def search(
        self,
        snapshot: Snapshot,
        query: str | Sequence[str],
        k: int,
        where: Mapping[str, Any] | None = None,
        given: Embedding | None = None,
    ) -> list[Hit]:
        """The best `k` of the chunks that are nearest in a version. Arguments as of `Snapshot.search`."""
        queries = check_queries(query)
        vector = snapshot.vector(queries, given)
        hits = snapshot.index.query(vector, max(k, DEPTH), where, snapshot.version.number)
        if not hits:
            return []
        ids = [hit.id for hit in hits]
        embedded = self._journal.embedded(ids)
        texts = [embedded.get(hit.id, hit.text) for hit in hits]
        adapter = snapshot.embedder.adapter
        hybrid, read = lexical(adapter), reads(adapter, "document")
        if hybrid is not None:
            dense = self._dense(hybrid, snapshot.index, vector, ids, texts, stored=read)
            lexicon, strength = hybrid.lexicon, hybrid.strength
        else:
            dense = np.array([hit.score for hit in hits], dtype=np.float32)
            lexicon, strength = self._counted(), STRENGTH
        scores = fuse(lexicon, queries, self._texts.of(texts), dense, strength)
        best = np.argsort(-scores, kind="stable")[:k]
        return [replace(hits[row], score=float(scores[row])) for row in best]

    def _dense(
        self,
        adapter: Hybrid,
        index: Index,
        vector: NDArray[np.float32],
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        stored: bool,
    ) -> NDArray[np.float32]:
        """The dense part of the candidates' scores, (len(ids),) float32.

        Chroma holds it too, but hands out vectors number by number, which takes five times as long as mapping those
        of the base model anew; it is asked for what the cache lacks, or for all (`stored`).
        """
        asked = vector[: adapter.residual.dimension]
        if stored:
            return index.vectors(ids)[:, : len(asked)] @ asked
        vectors, known = self._base.kept(texts)
        dense = adapter.residual.documents(vectors, texts) @ asked
        if not known.all():
            lacking = index.vectors([ids[row] for row in np.flatnonzero(~known).tolist()])
            dense[~known] = lacking[:, : len(asked)] @ asked
        return dense

    def _counted(self) -> Lexicon:
        """The words of the corpus; while a thread counts them anew, the others have the old ones."""
        lexicon = self._lexicon
        if (lexicon is None or self._outdated()) and self._lock.acquire(blocking=lexicon is None):
            try:
                if self._lexicon is None or self._outdated():  # another thread may just have counted
                    self._head, self._chunks = self._journal.head, len(self._journal)
                    self._lexicon = Lexicon.count(self._corpus())
                lexicon = self._lexicon
            finally:
                self._lock.release()
        assert lexicon is not None
        return lexicon

    def _outdated(self) -> bool:
        return self._journal.head - self._head > _CHANGED * self._chunks

    def _corpus(self) -> Iterator[str]:
        for changes in self._journal.changes(0):
            yield from (change.chunk.text for change in changes if change.chunk is not None)


class _Texts:
    """Texts as they were counted, as many as there is room for, those first that were asked for last."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, Counted] = OrderedDict()
        self._size = 0

    def of(self, texts: Sequence[str]) -> list[Counted]:
        keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
            for key in known:
                self._kept.move_to_end(key)
        fresh = {key: count(text) for key, text in zip(keys, texts, strict=True) if key not in known}
        with self._lock:
            for key, counted in fresh.items():
                if key not in self._kept:
                    self._kept[key] = counted
                    self._size += len(counted)
            while self._size > self._room:
                self._size -= len(self._kept.popitem(last=False)[1])
        return [known[key] if key in known else fresh[key] for key in keys]

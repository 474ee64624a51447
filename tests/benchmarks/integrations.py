"""The retrievers for LlamaIndex and LangChain beside each framework's own Chroma retriever, in one run.

    python tests/benchmarks/integrations.py DATA [--work FOLDER] [--documents 10000] [--queries 500]

DATA holds BEIR folders; their documents fill a collection through each framework, with one and the same encoder. Told
is how long adopting takes, for how many queries the ten nearest are, in mode vector, the same as the framework's and as
those of exact search, a tenth of the queries with a filter, what a query costs in both modes beside the framework's,
and what 16 threads and 200 coroutines see while versions switch. Labels are not used. FOLDER keeps the encoded vectors
between runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import chromadb
import numpy as np
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_ragself import RagselfRetriever as OfLangChain
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from llama_index.retrievers.ragself import RagselfRetriever as OfLlamaIndex
from llama_index.vector_stores.chroma import ChromaVectorStore

from ragself import KnowledgeBase
from ragself.config import EncoderConfig, load
from ragself.encoders.cache import VectorCache
from ragself.encoders.encoder import Encoder
from ragself.encoders.vectors import BaseVectors
from tests.benchmarks.versions import PROMOTING

Ask = Callable[[str, dict[str, Any] | None], list[str]]

SETS = ("scifact", "nfcorpus", "cranfield")
THREADS, COROUTINES, SWITCHES = 16, 200, 20
SECONDS = 30.0  # under load, quiet and while versions switch


class ForLlamaIndex(BaseEmbedding):
    """The one encoder, queries only: vectors of documents come with the nodes."""

    _encoder: Any = None

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoder.queries([query])[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        raise NotImplementedError


class ForLangChain(Embeddings):
    """The same."""

    def __init__(self, base: BaseVectors) -> None:
        self._base = base

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._base.documents(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self._base.encoder.queries([text])[0].tolist()


def read(data: Path, documents: int, queries: int) -> tuple[list[Document], list[str]]:
    """Documents of all sets with something to filter on, and queries of all."""
    made: list[Document] = []
    asked: list[str] = []
    for name in SETS:
        for line in (data / name / "corpus.jsonl").read_text().splitlines():
            row = json.loads(line)
            text = f"{row.get('title') or ''} {row['text']}".strip()
            if text:
                metadata = {"set": name, "part": len(made) % 10}
                made.append(Document(text, id=f"{name}/{row['_id']}", metadata=metadata))
        asked += [json.loads(line)["text"] for line in (data / name / "queries.jsonl").read_text().splitlines()]
    draw = random.Random(0)
    return draw.sample(made, min(documents, len(made))), draw.sample(asked, queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=500)
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="ragself-integrations-"))
    work.mkdir(parents=True, exist_ok=True)
    for name in ("theirs", "of-llama-index", "of-langchain"):
        shutil.rmtree(work / name, ignore_errors=True)
    documents, asked = read(arguments.data, arguments.documents, arguments.queries)
    encoder = Encoder(EncoderConfig())
    base = BaseVectors(lambda: encoder, encoder.fingerprint, encoder.dimension, VectorCache(work / "cache.db"))
    vectors = base.documents([document.page_content for document in documents])
    client = chromadb.PersistentClient(str(work / "theirs"))

    results: dict[str, Any] = {"documents": len(documents), "queries": len(asked)}
    store = fill_llama_index(client, documents, vectors)
    began = time.perf_counter()
    of_llama_index = OfLlamaIndex.from_vector_store(store, work / "of-llama-index", similarity_top_k=10, mode="vector")
    results["LlamaIndex"] = {"seconds to adopt": round(time.perf_counter() - began, 1)}
    vectorstore = fill_langchain(client, documents, base)
    began = time.perf_counter()
    of_langchain = OfLangChain.from_vectorstore(
        vectorstore, work / "of-langchain", EncoderConfig().model, k=10, mode="vector"
    )
    results["LangChain"] = {"seconds to adopt": round(time.perf_counter() - began, 1)}

    exact = Exact(documents, vectors, encoder)
    ways = {
        "LlamaIndex": (ask_llama_index(store, encoder), ask_ours(of_llama_index), of_llama_index.knowledge_base),
        "LangChain": (ask_langchain(vectorstore), ask_ours_too(of_langchain), of_langchain.knowledge_base),
    }
    for name, (theirs, ours, kb) in ways.items():
        origin = client.get_collection("llama-index" if name == "LlamaIndex" else "langchain", embedding_function=None)
        results[name] |= same(asked, theirs, ours, exact, aside_from_the_graph(origin, kb, documents, encoder))
        retriever = of_llama_index if name == "LlamaIndex" else of_langchain
        for mode in ("vector", "hybrid"):
            retriever.mode = mode
            results[name][f"cost in mode {mode}"] = cost(asked, theirs, ours)
    of_llama_index.filters = None
    of_llama_index.mode = "hybrid"
    results["switching"] = switching(asked, of_llama_index)
    print(json.dumps(results, indent=1))


def fill_llama_index(client: Any, documents: list[Document], vectors: np.ndarray) -> ChromaVectorStore:
    """A collection as LlamaIndex fills it."""
    store = ChromaVectorStore(chroma_collection=client.create_collection("llama-index"))
    for start in range(0, len(documents), 5000):
        part = zip(documents[start : start + 5000], vectors[start : start + 5000], strict=True)
        store.add(
            [
                TextNode(
                    text=document.page_content, id_=document.id, metadata=document.metadata,
                    excluded_embed_metadata_keys=list(document.metadata), embedding=vector.tolist(),
                )
                for document, vector in part
            ]
        )  # fmt: skip
    return store


def fill_langchain(client: Any, documents: list[Document], base: BaseVectors) -> Chroma:
    """A collection as LangChain fills it."""
    store = Chroma("langchain", ForLangChain(base), client=client)
    for start in range(0, len(documents), 5000):
        store.add_documents(documents[start : start + 5000])
    return store


def filters(where: dict[str, Any] | None) -> MetadataFilters | None:
    """As LlamaIndex writes them."""
    return MetadataFilters(filters=[MetadataFilter(key=k, value=v) for k, v in where.items()]) if where else None


def ask_llama_index(store: ChromaVectorStore, encoder: Encoder) -> Ask:
    """By the framework's own retriever."""
    model = ForLlamaIndex()
    model._encoder = encoder
    index = VectorStoreIndex.from_vector_store(store, embed_model=model)
    return lambda query, where: [
        found.node_id for found in index.as_retriever(similarity_top_k=10, filters=filters(where)).retrieve(query)
    ]


def ask_ours(retriever: OfLlamaIndex) -> Ask:
    """By ours."""

    def ask(query: str, where: dict[str, Any] | None) -> list[str]:
        retriever.filters = filters(where)
        return [found.node_id for found in retriever.retrieve(query)]

    return ask


def ask_langchain(store: Chroma) -> Ask:
    """By the framework's own retriever."""
    retriever = store.as_retriever(search_kwargs={"k": 10})
    return lambda query, where: [str(found.id) for found in retriever.invoke(query, filter=where)]


def ask_ours_too(retriever: OfLangChain) -> Ask:
    """By ours."""
    return lambda query, where: [str(found.id) for found in retriever.invoke(query, filter=where)]


def aside_from_the_graph(
    origin: Any, kb: KnowledgeBase, documents: list[Document], encoder: Encoder
) -> tuple[Exact, Exact]:
    """Exact search over what the framework's collection stores, and over what version 0 stores."""
    ids = [str(document.id) for document in documents]
    stored = [origin.get(ids=ids[start : start + 5000], include=["embeddings"]) for start in range(0, len(ids), 5000)]
    by_id = {id: vector for page in stored for id, vector in zip(page["ids"], page["embeddings"], strict=True)}
    theirs = np.array([by_id[id] for id in ids], dtype=np.float32)
    index = kb.engine.store.snapshot(0).index
    ours = np.concatenate([index.vectors(ids[start : start + 5000])[0] for start in range(0, len(ids), 5000)])
    return Exact(documents, theirs, encoder), Exact(documents, ours, encoder)


class Exact:
    """Exact search."""

    def __init__(self, documents: list[Document], vectors: np.ndarray, encoder: Encoder) -> None:
        self._documents, self._vectors, self._encoder = documents, vectors, encoder

    def __call__(self, query: str, where: dict[str, Any] | None) -> list[str]:
        """The ten nearest."""
        scores = self._vectors @ self._encoder.queries([query])[0]
        if where:
            ((key, value),) = where.items()
            scores = np.where([document.metadata[key] == value for document in self._documents], scores, -2.0)
        return [str(self._documents[row].id) for row in np.argsort(-scores, kind="stable")[:10]]


def wheres(count: int) -> list[dict[str, Any] | None]:
    """A filter for every tenth query."""
    return [
        None if row % 10 else ({"part": row // 10 % 10} if row % 20 else {"set": SETS[row // 20 % 3]})
        for row in range(count)
    ]


def same(asked: list[str], theirs: Ask, ours: Ask, exact: Exact, aside: tuple[Exact, Exact]) -> dict[str, Any]:
    """Shares of the queries."""
    tasks = list(zip(asked, wheres(len(asked)), strict=True))
    found = [(theirs(q, w), ours(q, w), exact(q, w)) for q, w in tasks]
    return {
        "same ten as the framework, HNSW aside": sum(aside[0](q, w) == aside[1](q, w) for q, w in tasks) / len(tasks),
        "same ten as the framework": sum(t == o for t, o, _ in found) / len(found),
        "ours same as exact search": sum(o == e for _, o, e in found) / len(found),
        "the framework's same as exact search": sum(t == e for t, _, e in found) / len(found),
    }


def cost(asked: list[str], theirs: Ask, ours: Ask) -> dict[str, Any]:
    """Medians, the two taking turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for row, query in enumerate(asked[:300]):
        for which in ((0, 1), (1, 0))[row % 2]:
            began = time.perf_counter()
            (theirs, ours)[which](query, None)
            seconds[which].append(time.perf_counter() - began)
    medians = [float(np.median(values)) for values in seconds]
    return {
        "p50 ms, framework": round(1000 * medians[0], 2),
        "p50 ms, ours": round(1000 * medians[1], 2),
        "ratio": round(medians[1] / medians[0], 3),
    }


def switching(asked: list[str], of_llama_index: OfLlamaIndex) -> dict[str, Any]:
    """What threads and coroutines see while versions switch."""
    kb = of_llama_index.knowledge_base
    kb.config = load(None, **PROMOTING)
    report = kb.adapt(asked)
    if report.decision != "promote":
        return {"not measured": report.reason}
    of_langchain = OfLangChain(knowledge_base=kb, k=10)
    some = asked[:50]
    known: dict[str, list[list[str]]] = {query: [] for query in some}
    for version in (1, 0):
        if kb.status().live.number != version:
            kb.rollback(version)
        for query in some:
            known[query].append([hit.id for hit in kb.search(query, 10)])
    switches: list[float] = []

    def switch() -> None:
        for number in range(SWITCHES):
            began = time.perf_counter()
            kb.rollback((number + 1) % 2)
            switches.append(time.perf_counter() - began)
            time.sleep(max(SECONDS / SWITCHES - switches[-1], 0))

    quiet = Load(of_llama_index, of_langchain, known).run(lambda: time.sleep(SECONDS))
    busy = Load(of_llama_index, of_langchain, known).run(switch)
    return {
        "queries where versions differ": sum(one != other for one, other in known.values()),
        "quiet": quiet,
        f"{SWITCHES} switches": {**busy, "switch p50 ms": round(1000 * float(np.median(switches)), 1)},
        "p95 ratio": round(busy["p95 ms"] / quiet["p95 ms"], 3),
    }


class Load:
    """Threads that ask through LangChain, coroutines that ask through LlamaIndex, and what they see."""

    def __init__(self, llama: OfLlamaIndex, lang: OfLangChain, known: dict[str, list[list[str]]]) -> None:
        self._llama, self._lang, self._known = llama, lang, known
        self._over = threading.Event()
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self.errors: list[str] = []

    def _thread(self, number: int) -> None:
        draw = random.Random(number)
        while not self._over.is_set():
            query, began = draw.choice(list(self._known)), time.perf_counter()
            try:
                self._see(query, [str(found.id) for found in self._lang.invoke(query)], began)
            except Exception as error:
                self.errors.append(repr(error))

    async def _coroutine(self, number: int) -> None:
        draw = random.Random(1000 + number)
        while not self._over.is_set():
            query, began = draw.choice(list(self._known)), time.perf_counter()
            try:
                self._see(query, [found.node_id for found in await self._llama.aretrieve(query)], began)
            except Exception as error:
                self.errors.append(repr(error))

    def _see(self, query: str, ids: list[str], began: float) -> None:
        self.seconds.append(time.perf_counter() - began)
        if ids not in self._known[query]:
            self.wrong.append(query)

    async def _coroutines(self) -> None:
        await asyncio.gather(*(self._coroutine(number) for number in range(COROUTINES)))

    def run(self, meanwhile: Callable[[], None]) -> dict[str, Any]:
        """Keep asking while something else is done."""
        threads = [threading.Thread(target=self._thread, args=(number,)) for number in range(THREADS)]
        threads.append(threading.Thread(target=lambda: asyncio.run(self._coroutines())))
        for one in threads:
            one.start()
        meanwhile()
        self._over.set()
        for one in threads:
            one.join()
        return {
            "queries": len(self.seconds),
            "errors": len(self.errors),
            "neither version's ten": len(self.wrong),
            "p50 ms": round(1000 * float(np.median(self.seconds)), 1),
            "p95 ms": round(1000 * float(np.quantile(self.seconds, 0.95)), 1),
            **({"first error": self.errors[0]} if self.errors else {}),
        }


if __name__ == "__main__":
    main()

"""What `KnowledgeBase.search` adds to encoding the query and asking Chroma directly, in one run.

    python tests/benchmarks/search_overhead.py [--kb FOLDER] [--queries 300]

Takes a knowledge base such as the demo's. Directly means the plain base model and its own collection: what someone
without ragself has. The two ways alternate query by query, so that noise hits both.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np

from ragself import KnowledgeBase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kb", type=Path, default=Path("ragself-demo"))
    parser.add_argument("--queries", type=int, default=300)
    arguments = parser.parse_args()
    with KnowledgeBase(arguments.kb, create=False) as kb:
        store = kb.store()
        texts = [chunk.text for chunk in store.journal.chunks()]
        random.Random(0).shuffle(texts)
        queries = [" ".join(text.split()[:10]) for text in texts[: arguments.queries]]
        live = store.registry.live()
        base = store.snapshot(0)
        seconds: dict[str, list[float]] = {"encode and ask Chroma": [], f"search, version {live}": []}
        for query in queries:
            began = time.perf_counter()
            vector = store.base.encoder.queries([query])[0]
            base.index._collection.query(
                query_embeddings=[vector], n_results=10, include=["documents", "metadatas", "distances"]
            )
            middle = time.perf_counter()
            kb.search(query, 10)
            seconds[f"search, version {live}"].append(time.perf_counter() - middle)
            seconds["encode and ask Chroma"].append(middle - began)
        direct, ours = (float(np.median(values)) for values in seconds.values())
        results = {f"{name}, p50 ms": round(1000 * float(np.median(values)), 2) for name, values in seconds.items()}
        results["ratio"] = round(ours / direct, 3)
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

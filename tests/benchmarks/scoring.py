"""What scoring through ragself costs beside the leanest loop that sends the same requests, in one run.

    python tests/benchmarks/scoring.py URL [--pairs 2000] [--rounds 3] [--memory 100000]

URL is a vLLM server; any small model will do, and the smaller it is the more the client shows. The two ways alternate,
each with as many connections and prompts a request. ragself's way is the whole: tokens from the server, requests,
answers read, every batch committed to SQLite, gains. The lean loop posts bodies that were made before and throws the
answers away. Then the same pass again from the stored scores, and, with --memory, the client's memory over many pairs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil

from ragself.config import GeneratorConfig
from ragself.lm.cached_scorer import LanguageModelScorer
from ragself.lm.score_cache import ScoreCache
from ragself.lm.vllm.generator import Vllm
from ragself.schema import Account, Probe

SENTENCE = "rate limit of the server is five requests a second unless the key of a user allows more of them"
WORDS = SENTENCE.split()
BATCH = 64  # prompts a request that ragself settles on with a server this fast


def made_up(pairs: int, words: int, seed: int = 0) -> tuple[list[str], list[Probe], np.ndarray]:
    """Documents of so many words, probes, and 16 candidates each."""
    draw = random.Random(seed)
    documents = [" ".join(draw.choices(WORDS, k=words)) + f" {number}" for number in range(max(pairs // 40, 100))]
    texts = [" ".join(draw.choices(WORDS, k=6)) + f" {seed} {number}" for number in range(pairs // 18)]
    probes = [Probe(f"{seed}/{row}", text, text, "traffic", None, "train") for row, text in enumerate(texts)]
    choose = np.random.default_rng(seed)
    return documents, probes, np.stack([choose.permutation(len(documents))[:16] for _ in probes])


def ours(url: str, folder: Path, work: tuple[list[str], list[Probe], np.ndarray]) -> tuple[float, Account]:
    """Seconds for all gains, and what it cost; the connection is warm, as in the middle of a pass."""
    documents, probes, candidates = work
    config = GeneratorConfig().at(url)
    generator, cache, account = Vllm(config), ScoreCache(folder / "scores.db"), Account()
    scorer = LanguageModelScorer(documents, len(documents), generator, cache, config, account)
    next(generator.score([(generator.encode(["a b c"])[0], generator.encode(["d"])[0])]))
    model = cache.identify(generator.name, np.zeros(1, np.float32))
    cache.note(type(model)(model.id, model.name, 0.0, None))  # no pairs are asked for twice
    began = time.perf_counter()
    scorer.gains(probes, candidates)
    seconds = time.perf_counter() - began
    generator.close()
    cache.close()
    return seconds, account


def bodies(url: str, work: tuple[list[str], list[Probe], np.ndarray]) -> list[bytes]:
    """The same requests, as bytes."""
    documents, probes, candidates = work
    config = GeneratorConfig().at(url)
    generator = Vllm(config)
    with tempfile.TemporaryDirectory() as folder:
        cache = ScoreCache(Path(folder) / "none.db")
        scorer = LanguageModelScorer(documents, len(documents), generator, cache, config)
        rows = np.concatenate([candidates, scorer._irrelevant(probes, candidates)], axis=1)
        pairs = [scorer._pair(probe, documents[row]) for probe, own in zip(probes, rows, strict=True) for row in own]
        cache.close()
    generator.close()
    options = {"model": generator._served.model, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    prompts = [[*context, *target] for context, target in pairs]
    return [
        json.dumps({**options, "prompt": prompts[at : at + BATCH]}).encode() for at in range(0, len(prompts), BATCH)
    ]


def lean(url: str, requests: list[bytes], connections: int) -> float:
    """Seconds for posting all of it."""
    with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
        client.get("/health")

        def post(body: bytes) -> None:
            response = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
            response.raise_for_status()

        began = time.perf_counter()
        with ThreadPoolExecutor(connections) as threads:
            list(threads.map(post, requests))
        return time.perf_counter() - began


def memory(url: str, pairs: int, words: int = 12) -> dict[str, object]:
    """Resident memory of this process while so many pairs are scored, in MB."""
    documents, probes, candidates = made_up(pairs, words, seed=99)
    process = psutil.Process()
    seen: list[float] = []

    def watch(stage: str, done: int, total: int) -> None:
        if done >= len(seen) * total / 10:
            seen.append(round(process.memory_info().rss / 1e6, 1))

    config = GeneratorConfig().at(url)
    with tempfile.TemporaryDirectory() as folder:
        cache, generator = ScoreCache(Path(folder) / "scores.db"), Vllm(config)
        account = Account()
        scorer = LanguageModelScorer(documents, len(documents), generator, cache, config, account)
        scorer.gains(probes, candidates, watch)
        stored = (Path(folder) / "scores.db").stat().st_size
        generator.close()
        cache.close()
    return {"pairs": account.asked, "seconds": round(account.seconds), "MB at each tenth": seen, "scores.db": stored}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--words", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0)
    arguments = parser.parse_args()
    connections = GeneratorConfig().connections
    times: dict[str, list[float]] = {"ragself": [], "lean": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            work = made_up(arguments.pairs, arguments.words, number)
            times["lean"].append(lean(arguments.url, bodies(arguments.url, work), connections))
            seconds, account = ours(arguments.url, Path(folder), work)
            times["ragself"].append(seconds)
        again, cached = ours(arguments.url, Path(folder), work)
    results: dict[str, object] = {
        "pairs a round": account.asked,
        "tokens a round": account.tokens,
        "seconds": {name: [round(value, 2) for value in values] for name, values in times.items()},
        "ratio": round(statistics.median(a / b for a, b in zip(times["ragself"], times["lean"], strict=True)), 3),
        "tokens a second": round(account.tokens / statistics.median(times["ragself"])),
        "stored pairs a second": round(cached.pairs / again),
        "asked for in the stored pass": cached.asked,
    }
    if arguments.memory:
        results["memory"] = memory(arguments.url, arguments.memory)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

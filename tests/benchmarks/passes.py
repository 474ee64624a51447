"""Whole passes of ragself on a labelled collection: `ragself bench` in a process of its own, with the defaults.

Its JSON has, for each of the rankers bm25, base, rrf, linear, untrained, trained and teacher, ``ndcg@10`` and
``recall@100`` with their intervals; ``gain``, the paired difference in nDCG@10 of trained and untrained with its
interval; ``decision``, ``reason`` and ``report`` of the pass; ``seconds``; and what was measured: ``dataset``,
``split``, and the numbers of ``documents``, ``queries`` and queries of ``traffic``. A ranker that there is none of has
None for figures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.subject import Subject
from tests.language_models import copying_model, tokenizer

PASSES: dict[str, dict[str, str]] = {  # and settings other than the defaults
    "cold": {},
    "ragself": {},
    "lora": {"RAGSELF_TRAIN__ADAPTERS": '["weights", "residual", "lora"]'},
    "distill": {"RAGSELF_TRAIN__OBJECTIVE": "distill"},
    "dream": {"RAGSELF_TRAIN__OBJECTIVE": "dream"},
    "revela": {"RAGSELF_TRAIN__OBJECTIVE": "revela"},
}
CAUSAL = ("distill", "dream", "revela")  # supervised by a causal language model
TITLED = ("scifact", "nfcorpus")  # collections that one is made for
LM = {"size": 8192, "steps": 200}  # of its vocabulary, and of its training: some four minutes
TAUGHT = ("cold", "ragself")  # whose teacher has a row
NOTES = (
    "untrained: hybrid search as it is before anything is learned. ragself: with the queries of a split that is not "
    "measured, where there is one, and without labels; cold: with neither; lora: as ragself, with LoRA on queries as "
    "one more candidate. Each is hybrid search by the candidate, whatever the gate decided, and as untrained where "
    "there was none; gain is its paired difference from untrained. The teacher is what a candidate learns towards.",
    "distill, dream, revela: as ragself, but a causal language model scores and judges, and by the last two trains: a "
    "Llama of two layers that the benchmark trains for some minutes to copy, and on titles and texts of the "
    "collection. It knows little, and its judgement shows that. A pass that refuses to learn has no row.",
    "Seconds of ragself are those of a whole pass: learning, judging, building the new index, encoding what is held "
    "out and no earlier pass had encoded.",
)


def language_model(subject: Subject, folder: Path) -> Path:
    """A language model for a collection with titles: made in a folder, if it is not there."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        titles = [(str(c.metadata.get("title", "")), c.text) for c in subject.collection.chunks]
        titled = [(title, text.removeprefix(title).strip()) for title, text in titles if title]
        beside = copying_model(
            folder.with_suffix(".tmp"), tokenizer(subject.texts, LM["size"]), steps=LM["steps"], titled=titled
        )
        beside.rename(folder)
    return folder


def measure(
    folder: Path, traffic: str | None, seed: int, kb: Path, name: str, lm: Path | None = None
) -> list[dict[str, Any]]:
    """Rows of one pass: the candidate and the teacher.

    Args:
        folder: BEIR folder.
        traffic: Split whose queries are what users asked; None for none.
        seed: Of probes and training.
        kb: Folder of the knowledge base, made anew but for cache.db, its base vectors.
        name: Of the method, one of `PASSES`.
        lm: Folder of the language model of those in `CAUSAL`.

    Raises:
        subprocess.CalledProcessError: The pass failed; it has said why on stderr.
    """
    for path in kb.glob("*"):
        if not path.name.startswith("cache.db"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    command = [sys.executable, "-m", "ragself", "bench", str(folder), "--kb", str(kb), "--json", "--quiet"]
    command += ["--traffic", traffic] if traffic else []
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **PASSES[name], "RAGSELF_TRAIN__SEED": str(seed), "PYTHONPATH": path}
    if lm is not None:
        environment["RAGSELF_GENERATOR__MODEL"] = str(lm)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    result = json.loads(done.stdout)
    report = result["report"]
    weight = report["weight"]
    found = {
        "traffic": result["traffic"], "decision": result["decision"], "reason": result["reason"],
        "candidate": report["candidate"], "weight": weight["weight"] if weight else None,
        "train_seconds": round(report["cpu"], 1) if report["cpu"] else None,
        "steps": None, "encode_seconds": None, "stages": report["seconds"], "objective": report["objective"],
    }  # fmt: skip
    trained, gain = result["trained"], result["gain"]
    if trained["ndcg@10"] is None:  # nothing was trained, and what was before stays
        trained, gain = result["untrained"], {"mean": 0.0, "low": 0.0, "high": 0.0}
    rows = [{"method": name, **trained, "gain": gain, **found}]
    if result["teacher"]["ndcg@10"] is not None and name in TAUGHT:
        rows.append({"method": f"{name} teacher", **result["teacher"], "gain": None, **found})
    return rows

"""Exports a version: adapter, word weights, and a model card with loading code. It contains no texts or paths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.embedder import CANARIES, Embedder, check_canary
from ragself.adapters.merged import check_linear, save_merged
from ragself.adapters.ranking_file import public_name
from ragself.config import EncoderConfig
from ragself.encoders.encoder import Encoder
from ragself.engine.version_store import VersionStore
from ragself.errors import InputError, StoreError
from ragself.schema import Version

_OWN = """from ragself import Embedder

embedder = Embedder.load("this-folder")
documents = embedder.documents(["text of a document"])
queries = embedder.queries(["text of a query"])"""
_MERGED = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this-folder")
documents = model.encode_document(["text of a document"])
queries = model.encode_query(["text of a query"])"""

_WORDS = """ Word weights are in
`adapter.safetensors`, with words as hashes. A reader who guesses a word can check whether it has a weight and so
occurred in the corpus. Do not publish the weights if that matters."""


def export(store: VersionStore, version: Version, directory: Path, *, merged: bool = False) -> list[Path]:
    """Write a version's adapter and word weights, in one file, with a model card.

    Args:
        store: The knowledge base.
        version: The version to export.
        directory: A new or empty folder.
        merged: Write encoder and adapter as one sentence-transformers model, which loads without ragself.

    Returns:
        The files written.

    Raises:
        InputError: The folder is not empty, or the adapter cannot be merged. Nothing was written.
        StoreError: The folder cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} exists and is not an empty folder. Give a new one; nothing was written.")
    name = public_name(store.manifest.encoder)
    ranking = store.ranking(version)
    embedder = Embedder(store.base.encoder, ranking.adapter)
    if merged:
        check_linear(embedder.adapter)
    about = {
        "format": 1,
        "kind": version.kind,
        "base_model": name,
        "base_revision": store.manifest.revision,
        "prompts": store.manifest.prompts,
        "encoder_fingerprint": store.manifest.fingerprint,
        "fingerprint": version.fingerprint,
        "dimension": version.dimension,
        "canary": embedder.documents(CANARIES).round(6).tolist(),
    }
    words = len(ranking.weights.keys) > 0 and not merged
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if merged:
            save_merged(embedder.encoder, embedder.adapter, directory)
        else:
            if version.kind != "base":
                shutil.copyfile(store.registry.adapter_path(version.number), directory / "adapter.safetensors")
            (directory / "ragself.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
        (directory / "README.md").write_text(_card(version, store, name, words=words, merged=merged), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"Cannot write {directory}: {error}. Free some space or fix the permissions.") from error
    if merged:
        check_canary(_merged_canaries(directory), embedder.documents(CANARIES), f"the exported {name}")
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _merged_canaries(directory: Path) -> NDArray[np.float32]:
    """Canary vectors of the model just written, loaded from disk as users will load it."""
    return Encoder(EncoderConfig(model=str(directory))).documents(CANARIES)


def _card(version: Version, store: VersionStore, base: str, *, words: bool, merged: bool) -> str:
    if version.figures:
        title = f"Word weights for {base}" if version.kind == "weights" else f"A {version.kind} adapter for {base}"
        made = (
            f"Fitted by ragself to a private corpus of {len(store.journal)} chunks, and evaluated by the likelihood\n"
            "of a language model; no labels were used."
        )
        gate = (
            "This version passed ragself's gate: held-out probes of the corpus it was fitted to, paired bootstrap "
            "intervals of the change, no labels.\n\n" + _table(version.figures)
        )
    else:
        title, made = f"{base}, unchanged", "The plain base model, as ragself serves it before training."
        gate = "Nothing was trained, so there are no figures.\n"
    library, relation, load = ("sentence-transformers", "finetune", _MERGED) if merged else ("ragself", "adapter", _OWN)
    return f"""---
base_model: {base}
base_model_relation: {relation}
library_name: {library}
pipeline_tag: sentence-similarity
tags: [ragself, retrieval, self-training]
---

# {title}

{made} Vectors have {version.dimension} dimensions and are compared by cosine. The lexical
scores of hybrid search need the documents, which are not part of this export.

## Evaluation

{gate}
## Usage

```python
{load}
scores = queries @ documents.T
```

Index and queries must both use this version: vectors of other versions are not comparable.

## Privacy

No text, query or path of the corpus is in these files.{_WORDS if words else ""}
"""


def _table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| metric | before | after | change | interval | probes |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {name} | {f['before']:.4f} | {f['after']:.4f} | {f['change']:+.4f} | {f['low']:+.4f} to {f['high']:+.4f} "
        f"| {f['probes']} |"
        for name, f in figures.items()
    ]
    return "\n".join(lines) + "\n"

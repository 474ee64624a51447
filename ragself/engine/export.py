"""Writing a version so that others can use it: what it ranks by, a model card, how to load it. No text, no path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.embedder import CANARIES, Embedder, check_canary
from ragself.adapters.io import public_name
from ragself.adapters.merged import check_linear, save_merged
from ragself.config import EncoderConfig
from ragself.encoders.encoder import Encoder
from ragself.engine.engine import Store
from ragself.errors import InputError, StoreError
from ragself.schema import Version

_OWN = """from ragself import Embedder

embedder = Embedder.load("this-folder")
documents = embedder.documents(["a text that is searched"])
queries = embedder.queries(["what is asked"])"""
_MERGED = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this-folder")
documents = model.encode_document(["a text that is searched"])
queries = model.encode_query(["what is asked"])"""

_WORDS = """ Weights of words are in
`adapter.safetensors`, with words as hashes: someone who guesses a word can tell whether it has a weight, and so that it
occurred in the corpus. Do not publish them where that matters."""


def export(store: Store, version: Version, directory: Path, *, merged: bool = False) -> list[Path]:
    """Write a version's adapter and word weights, in one file, with a model card.

    Args:
        store: The knowledge base.
        version: Which version.
        directory: A new or empty folder.
        merged: Write encoder and adapter as one sentence-transformers model, to be loaded without ragself.

    Returns:
        The files written.

    Raises:
        InputError: The folder is not empty, or the adapter cannot be merged. Nothing was written.
        StoreError: It cannot be written.
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
        raise StoreError(f"Cannot write {directory}: {error}. Free some space or mend the permissions.") from error
    if merged:
        check_canary(_merged_canaries(directory), embedder.documents(CANARIES), f"the exported {name}")
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _merged_canaries(directory: Path) -> NDArray[np.float32]:
    """What the model makes of the canaries that was just written: what is on disk is what others will load."""
    return Encoder(EncoderConfig(model=str(directory))).documents(CANARIES)


def _card(version: Version, store: Store, base: str, *, words: bool, merged: bool) -> str:
    if version.figures:
        title = f"Word weights for {base}" if version.kind == "weights" else f"A {version.kind} adapter for {base}"
        made = (
            f"Fitted by ragself to a private corpus of {len(store.journal)} chunks, and judged by the likelihood of a\n"
            "language model; no labels were used."
        )
        gate = (
            "This version passed ragself's gate: on held-out probes of the corpus it was fitted to, paired bootstrap "
            "intervals of the change, no labels.\n\n" + _table(version.figures)
        )
    else:
        title, made = f"{base}, as it is", "The plain base model, as ragself serves it before anything is learned."
        gate = "Nothing was learned, so nothing is claimed.\n"
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
scores of hybrid search need the documents: they are no part of this export.

## How good it is

{gate}
## How to load it

```python
{load}
scores = queries @ documents.T
```

Index and queries must both use this version: vectors of other versions are not comparable.

## What it may reveal

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

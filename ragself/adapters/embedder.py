"""The embedder of a version: encoder and adapter together, usable outside a knowledge base, too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.lora import Lora, bound, reads
from ragself.adapters.protocol import Adapter
from ragself.adapters.ranking_file import load
from ragself.config import EncoderConfig
from ragself.encoders.encoder import Encoder
from ragself.errors import AdapterError, EncoderError

CANARIES = ("ragself", "The quick brown fox jumps over the lazy dog.", "def f(x): return x + 1")
AGREEMENT = 0.999  # minimum cosine to vectors computed in fp32 on another machine


@dataclass(frozen=True, slots=True)
class Embedder:
    """Encoder and adapter of a version. Documents and queries are encoded differently: never swap them."""

    encoder: Encoder
    adapter: Adapter | None

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return self.encoder.dimension if self.adapter is None else self.adapter.dimension

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dimension) float32 vectors of documents, normalised."""
        if self.adapter is None:
            return self.encoder.documents(texts)
        own = reads(self.adapter, "document")
        return self.adapter.documents(_nothing(texts) if own else self.encoder.documents(texts), texts)

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dimension) float32 vectors of queries, normalised."""
        if self.adapter is None:
            return self.encoder.queries(texts)
        own = reads(self.adapter, "query")
        return self.adapter.queries(_nothing(texts) if own else self.encoder.queries(texts), texts)

    def warm(self) -> None:
        """Merge the weights of a fine-tuned encoder now; otherwise the first text would wait for it."""
        if isinstance(self.adapter, Lora) and self.adapter.tuned is not None:
            _ = self.adapter.tuned.encoder

    @classmethod
    def load(cls, directory: str | Path, model: str | None = None) -> Embedder:
        """Load a version that `ragself export` wrote.

        Args:
            directory: The exported folder.
            model: Name or path of the base model on this machine; None takes the name in the export.

        Raises:
            AdapterError: The folder is damaged, or the adapter does not fit the base model.
            EncoderError: The base model cannot be loaded, or encodes differently than at the export.
        """
        folder = Path(directory)
        try:
            exported = json.loads((folder / "ragself.json").read_text(encoding="utf-8"))
            name, kind = model or str(exported["base_model"]), exported["kind"]
            canary = np.array(exported["canary"], dtype=np.float32)
            prompts = exported.get("prompts")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdapterError(
                f"{folder} is not an exported version ({error!r}). Expected a folder that `ragself export` wrote."
            ) from error
        encoder = Encoder(EncoderConfig(model=name, prompts=prompts))
        adapter = None if kind == "base" else load(folder / "adapter.safetensors", encoder.fingerprint).adapter
        embedder = cls(encoder, bound(adapter, encoder))
        check_canary(embedder.documents(CANARIES), canary, name)
        return embedder


def _nothing(texts: Sequence[str]) -> NDArray[np.float32]:
    """Empty base vectors for an adapter that encodes the texts itself; they avoid encoding the texts twice."""
    return np.empty((len(texts), 0), dtype=np.float32)


def agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Lowest cosine between vectors and their expected values, (n, dimension) each, n at least 1.

    It is computed from their distance. For normalised vectors that is equivalent, and it also detects a wrong length.
    Vectors of different shapes give -1.
    """
    if found.shape != expected.shape:
        return -1.0
    return 1 - float(((found - expected) ** 2).sum(axis=1).max()) / 2


def check_canary(found: NDArray[np.float32], expected: NDArray[np.float32], name: str) -> None:
    """Compare the vectors of the canary texts with the recorded ones.

    Raises:
        EncoderError: They differ: a library may have changed how it runs the model.
    """
    alike = agreement(found, expected)
    if not alike >= AGREEMENT:  # true for nan, too
        raise EncoderError(
            f"{name!r} encodes the canary texts differently than before (cosine {alike:.4f}, "
            f"expected {AGREEMENT}): a library may have changed its pooling, or an adapter was lost. "
            "Reinstall the library versions that were used before."
        )

"""Encoder and adapter as one: what turns texts into the vectors of a version, also outside a knowledge base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.adapter import Adapter
from ragself.adapters.io import load
from ragself.adapters.lora import Lora, bound, reads
from ragself.config import EncoderConfig
from ragself.encoders.encoder import Encoder
from ragself.errors import AdapterError, EncoderError

CANARIES = ("ragself", "The quick brown fox jumps over the lazy dog.", "def f(x): return x + 1")
AGREEMENT = 0.999  # cosine that fp32 on another machine must reach


@dataclass(frozen=True, slots=True)
class Embedder:
    """Vectors of a version. Documents and queries go through different sides: never swap them."""

    encoder: Encoder
    adapter: Adapter | None

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return self.encoder.dimension if self.adapter is None else self.adapter.dimension

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts that are searched, (len(texts), dimension) float32, normalised."""
        if self.adapter is None:
            return self.encoder.documents(texts)
        own = reads(self.adapter, "document")
        return self.adapter.documents(_nothing(texts) if own else self.encoder.documents(texts), texts)

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts that are asked, (len(texts), dimension) float32, normalised."""
        if self.adapter is None:
            return self.encoder.queries(texts)
        own = reads(self.adapter, "query")
        return self.adapter.queries(_nothing(texts) if own else self.encoder.queries(texts), texts)

    def warm(self) -> None:
        """Merge the weights of a tuned encoder, which is done for the first text."""
        if isinstance(self.adapter, Lora) and self.adapter.tuned is not None:
            _ = self.adapter.tuned.encoder

    @classmethod
    def load(cls, directory: str | Path, model: str | None = None) -> Embedder:
        """Read what `ragself export` wrote.

        Args:
            directory: The exported folder.
            model: Name or path of the base model on this machine; None takes the name in the export.

        Raises:
            AdapterError: The folder is damaged, or the adapter does not fit the base model found.
            EncoderError: The base model cannot be loaded, or makes other vectors than it did.
        """
        folder = Path(directory)
        try:
            exported = json.loads((folder / "ragself.json").read_text(encoding="utf-8"))
            name, kind = model or str(exported["base_model"]), exported["kind"]
            canary = np.array(exported["canary"], dtype=np.float32)
            prompts = exported.get("prompts")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdapterError(
                f"{folder} is no exported version ({error!r}). Expected what `ragself export` wrote."
            ) from error
        encoder = Encoder(EncoderConfig(model=name, prompts=prompts))
        adapter = None if kind == "base" else load(folder / "adapter.safetensors", encoder.fingerprint).adapter
        embedder = cls(encoder, bound(adapter, encoder))
        check_canary(embedder.documents(CANARIES), canary, name)
        return embedder


def _nothing(texts: Sequence[str]) -> NDArray[np.float32]:
    """Base vectors for an adapter that reads the texts itself: to encode them twice would be for nothing."""
    return np.empty((len(texts), 0), dtype=np.float32)


def agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Least cosine of vectors and what they should be, (n, dimension) each, n at least 1; -1 for other shapes.

    It is computed from their distance, which is the same for normalised vectors, and also sees another length.
    """
    if found.shape != expected.shape:
        return -1.0
    return 1 - float(((found - expected) ** 2).sum(axis=1).max()) / 2


def check_canary(found: NDArray[np.float32], expected: NDArray[np.float32], name: str) -> None:
    """Compare the vectors of the canary texts with the recorded ones.

    Raises:
        EncoderError: They differ: a library may have changed how the model is run.
    """
    alike = agreement(found, expected)
    if not alike >= AGREEMENT:  # nan is no agreement
        raise EncoderError(
            f"{name!r} encodes the canary texts differently than before (cosine {alike:.4f}, "
            f"expected {AGREEMENT}): a library may have changed its pooling, or an adapter was lost. "
            "Reinstall the versions that were used then."
        )

"""The LoRA adapter: low-rank changes of the encoder's weights, alone or below another adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.protocol import Adapter
from ragself.adapters.residual import Residual
from ragself.encoders.encoder import Encoder
from ragself.encoders.fine_tuned import FineTuned
from ragself.encoders.vectors import BaseVectors
from ragself.errors import AdapterError
from ragself.progress import Progress, silent
from ragself.schema import VersionKind

Matrix = NDArray[np.float32]
Sides: TypeAlias = Literal["query", "both"]

_INNER: dict[str, Any] = {"residual": Residual}
_SETTINGS = ("alpha", "width", "sides", "inner_kind")
_WEIGHTS, _OF_INNER = "lora.", "inner."


@dataclass(frozen=True, eq=False)
class Lora:
    """W' = W + (alpha / rank) up down in some linear modules of the encoder (LoRA, Hu et al. 2022).

    The weights are merged into a copy of the encoder, so encoding a text costs the same as without LoRA. Bind the
    adapter to the base encoder (`bound`) before use; nothing is loaded until a text is encoded.

    Attributes:
        layers: Weights by module name: down (rank, in) and up (out, rank), float32.
        alpha: Numerator of the scale alpha / rank.
        width: Dimension of the encoder's vectors.
        sides: ``query`` keeps the base vectors of documents, so no document is re-embedded; ``both`` encodes documents,
            too.
        inner: Adapter applied to the vectors of the changed encoder; None leaves them unchanged.
        tuned: The encoder with these weights; None if the adapter is not bound.
        base: The encoder or base vectors that the adapter is bound to; None if it is not bound.
    """

    layers: Mapping[str, tuple[Matrix, Matrix]]
    alpha: float
    width: int
    sides: Sides
    inner: Adapter | None = None
    tuned: FineTuned | None = field(default=None, repr=False)
    base: BaseVectors | Encoder | None = field(default=None, repr=False)
    kind: VersionKind = "lora"

    def __post_init__(self) -> None:
        """Raise AdapterError if the shapes of a module's weights do not match."""
        for name, (down, up) in self.layers.items():
            if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
                raise AdapterError(
                    f"The LoRA weights of {name!r} have shapes {down.shape} and {up.shape}, expected (rank, in) and "
                    "(out, rank). Roll back to another version, or train it again."
                )

    @property
    def dimension(self) -> int:
        """Dimension of the vectors: that of the inner adapter if there is one, else that of the encoder."""
        return self.width if self.inner is None else self.inner.dimension

    @property
    def digest(self) -> str:
        """Hash of the weights without the inner adapter. It identifies the vectors of the changed encoder."""
        digest = hashlib.blake2b(repr(float(self.alpha)).encode(), digest_size=16)
        for name, pair in sorted(self.layers.items()):
            for weight in pair:
                digest.update(f"{name} {weight.shape}".encode())
                digest.update(np.ascontiguousarray(weight, dtype=np.float32).data)
        return digest.hexdigest()

    def documents(self, vectors: Matrix, texts: Sequence[str]) -> Matrix:
        """Map base vectors of documents, (n, base) float32, to (n, dimension) float32; `both` uses the texts alone.

        Raises:
            AdapterError: The adapter is not bound, or its weights do not fit the encoder.
        """
        dense = self._bound.documents(texts, self.width) if self.encodes("document") else vectors
        return dense if self.inner is None else self.inner.documents(dense, texts)

    def queries(self, vectors: Matrix, texts: Sequence[str]) -> Matrix:
        """Encode the texts of queries to (n, dimension) float32; the base vectors are not used.

        Raises:
            AdapterError: The adapter is not bound, or its weights do not fit the encoder.
        """
        dense = self._bound.queries(texts)
        return dense if self.inner is None else self.inner.queries(dense, texts)

    def interpolated(self, alpha: float) -> Lora:
        """Interpolate between the base model, `alpha` 0, and this adapter, 1; keeps the binding to the encoder."""
        layers = {name: (down, (up * alpha).astype(np.float32)) for name, (down, up) in self.layers.items()}
        inner = None if self.inner is None else self.inner.interpolated(alpha)
        other = replace(self, layers=layers, inner=inner)
        return other if self.base is None else other.bound(self.base)

    def encodes(self, side: Literal["document", "query"]) -> bool:
        """True if the adapter encodes the texts of a side itself and does not use their base vectors."""
        return side == "query" or self.sides == "both"

    def changes(self) -> dict[str, Matrix]:
        """(out, in) float32 matrix to add to the weights of each module, by module name."""
        return {
            name: np.asarray(self.alpha / max(len(down), 1) * (up @ down), dtype=np.float32)
            for name, (down, up) in self.layers.items()
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The weights, the settings, and the tensors of the inner adapter."""
        out: dict[str, NDArray[Any]] = {
            "alpha": np.array([self.alpha], np.float64),
            "width": np.array([self.width], np.int64),
            "sides": _written(self.sides),
            "inner_kind": _written("" if self.inner is None else self.inner.kind),
        }
        for name, (down, up) in self.layers.items():
            out |= {f"{_WEIGHTS}{name}.down": down, f"{_WEIGHTS}{name}.up": up}
        inner = {} if self.inner is None else self.inner.tensors()
        return out | {f"{_OF_INNER}{name}": tensor for name, tensor in inner.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Lora:
        """Build an unbound adapter from the result of `tensors`.

        Raises:
            AdapterError: The inner adapter is of an unknown kind, the sides are unknown, or shapes do not match.
            KeyError: A tensor is missing.
        """
        alpha, width, sides, kind = (tensors[name] for name in _SETTINGS)
        if _read(sides) not in ("query", "both"):
            raise AdapterError(
                f"A lora adapter has the sides {_read(sides)!r}; known: query, both. Roll back to another version."
            )
        if _read(kind) not in ("", *_INNER):
            raise AdapterError(
                f"A lora adapter has an inner adapter of unknown kind {_read(kind)!r}; known: {', '.join(_INNER)}. "
                "Roll back to another version."
            )
        ends = (len(_WEIGHTS), -len(".down"))
        names = [key[slice(*ends)] for key in tensors if key.startswith(_WEIGHTS) and key.endswith(".down")]
        inner = {key[len(_OF_INNER) :]: value for key, value in tensors.items() if key.startswith(_OF_INNER)}
        return cls(
            {name: (tensors[f"{_WEIGHTS}{name}.down"], tensors[f"{_WEIGHTS}{name}.up"]) for name in names},
            float(alpha[0]),
            int(width[0]),
            cast(Sides, _read(sides)),
            _INNER[_read(kind)].from_tensors(inner) if _read(kind) else None,
        )

    def bound(self, base: BaseVectors | Encoder, progress: Progress = silent) -> Lora:
        """Bind the adapter to the encoder that it changes; with `BaseVectors`, their cache holds document vectors."""
        digest = self.digest
        if isinstance(base, BaseVectors):
            return replace(self, tuned=base.tuned(self.changes, digest, progress), base=base)
        return replace(
            self, base=base, tuned=FineTuned(lambda: base, self.changes, f"{base.fingerprint}/lora/{digest}")
        )

    @property
    def _bound(self) -> FineTuned:
        if self.tuned is None:
            raise AdapterError(
                "This lora adapter is bound to no encoder, and needs one to encode texts. Bind it first: "
                "bound(adapter, encoder)."
            )
        return self.tuned


@overload
def bound(adapter: Adapter, base: BaseVectors | Encoder, progress: Progress = silent) -> Adapter: ...
@overload
def bound(adapter: Adapter | None, base: BaseVectors | Encoder, progress: Progress = silent) -> Adapter | None: ...
def bound(adapter: Adapter | None, base: BaseVectors | Encoder, progress: Progress = silent) -> Adapter | None:
    """An adapter ready for use: a LoRA adapter bound to the encoder; any other adapter unchanged."""
    return adapter.bound(base, progress) if isinstance(adapter, Lora) else adapter


def reads(adapter: Adapter | None, side: Literal["document", "query"]) -> bool:
    """True if an adapter encodes the texts of a side itself and does not use their base vectors."""
    return isinstance(adapter, Lora) and adapter.encodes(side)


def afresh(adapter: Adapter | None) -> Adapter | None:
    """A LoRA adapter that encodes every text without a cache; any other adapter unchanged."""
    if isinstance(adapter, Lora) and adapter.tuned is not None:
        return replace(adapter, tuned=adapter.tuned.afresh())
    return adapter


def _written(word: str) -> NDArray[np.uint8]:
    return np.frombuffer(word.encode(), dtype=np.uint8)


def _read(letters: NDArray[Any]) -> str:
    return bytes(np.asarray(letters, dtype=np.uint8)).decode("ascii", "replace")

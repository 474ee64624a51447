"""Saves and loads rankings as safetensors files with a fingerprint, which is checked at every load."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ragself.adapters.lora import Lora
from ragself.adapters.protocol import Adapter
from ragself.adapters.ranking import Ranking
from ragself.adapters.residual import Residual
from ragself.errors import AdapterError, StoreError
from ragself.lexical.weights import Weights

FORMAT = "1"
KEY = "ragself"
_KINDS: dict[str, Any] = {"residual": Residual, "lora": Lora}
_WEIGHTS = "weights."  # prefix of the names of the tensors of lexical weights


def fingerprint(encoder: str, adapter: Adapter | None) -> str:
    """Hash of an encoder's fingerprint and, if there is an adapter, of its kind, shapes and content."""
    digest = hashlib.blake2b(encoder.encode(), digest_size=16)
    if adapter is not None:
        digest.update(_content_hash(adapter.kind, adapter.tensors()).encode())
    return digest.hexdigest()


def identity(encoder: str, ranking: Ranking) -> str:
    """Hash of an encoder's fingerprint and all trained parts of a ranking: equal for equal rankings only."""
    weights = ranking.weights.digest
    return fingerprint(encoder, ranking.adapter) + (f"-{weights}" if weights else "")


def save(ranking: Ranking, path: Path, encoder: str, name: str, revision: str | None) -> None:
    """Write a ranking, replacing the file atomically.

    Args:
        ranking: The ranking of a version.
        path: A ``.safetensors`` file.
        encoder: Fingerprint of the base encoder.
        name: Name of the base encoder; only the last part of a local path is written.
        revision: Revision of the base encoder on the hub, or None.

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    learned = {} if ranking.adapter is None else ranking.adapter.tensors()
    weights = {_WEIGHTS + key: tensor for key, tensor in ranking.weights.tensors().items()}
    tensors = {key: np.ascontiguousarray(tensor) for key, tensor in (learned | weights).items()}
    kind = "weights" if ranking.adapter is None else ranking.adapter.kind
    metadata = {
        "format": FORMAT,
        "kind": kind,
        "encoder": encoder,
        "model": public_name(name),
        "revision": revision,
        "hash": _content_hash(kind, tensors),
    }
    scratch = path.with_name(path.name + ".new")
    try:
        # One key: safetensors writes several in random order, and equal adapters should give equal files.
        save_file(tensors, scratch, metadata={KEY: json.dumps(metadata, sort_keys=True)})
        with scratch.open("rb") as file:
            os.fsync(file.fileno())  # a registered version must not lose its adapter in a power failure
        scratch.replace(path)
    except (SafetensorError, OSError) as error:
        raise StoreError(f"Cannot write {path}: {error}. Free some space or fix the permissions.") from error


def public_name(model: str) -> str:
    """A model's name without its folder on this machine."""
    return Path(model).name if Path(model).is_absolute() or model.startswith((".", "~")) else model


def load(path: Path, encoder: str) -> Ranking:
    """Load a ranking, and check that the file is intact and made for this encoder.

    Args:
        path: A ``.safetensors`` file.
        encoder: Fingerprint of the base encoder.

    Raises:
        AdapterError: The file is missing, corrupted, of an unknown kind, or for another encoder.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = _read_metadata(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"Cannot read the adapter {path}: {error}. Roll back to another version: ragself rollback"
        ) from error
    if metadata.get("hash") != _content_hash(metadata.get("kind", ""), tensors):
        raise AdapterError(f"{path} is corrupted: its content does not match its hash. Restore it or roll back.")
    if metadata.get("encoder") != encoder:
        raise AdapterError(
            f"{path} was trained for an encoder with fingerprint {metadata.get('encoder')} ({metadata.get('model')}), "
            f"but this one has {encoder}. Open it with the encoder it was trained for."
        )
    weights = {key[len(_WEIGHTS) :]: tensor for key, tensor in tensors.items() if key.startswith(_WEIGHTS)}
    kind = metadata.get("kind", "")
    if kind not in (*_KINDS, "weights"):
        raise AdapterError(f"{path} is of unknown kind {kind!r}; known: weights, {', '.join(_KINDS)}.")
    try:
        adapter = _KINDS[kind].from_tensors(tensors) if kind in _KINDS else None
        return Ranking(adapter, Weights.from_tensors(weights) if weights else Weights())
    except KeyError as error:
        raise AdapterError(
            f"{path} lacks the tensor {error} of a {kind} adapter: an earlier ragself wrote another format. "
            "Roll back with `ragself rollback --to 0`, and train again with `ragself adapt`."
        ) from error


def _read_metadata(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    try:
        metadata = json.loads(header[KEY]) if KEY in header else header
    except ValueError:
        metadata = {}
    found = metadata.get("format") if isinstance(metadata, dict) else None
    if found != FORMAT or "kind" not in metadata:
        raise AdapterError(
            f"{path} is not an adapter of this version of ragself: format {found!r}, expected {FORMAT!r}."
        )
    return dict(metadata)


def _content_hash(kind: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(kind.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()

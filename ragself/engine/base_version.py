"""Base model of a knowledge base: chosen at creation, and verified each time it is loaded."""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path

import numpy as np

from ragself.adapters.embedder import CANARIES, agreement, check_canary
from ragself.adapters.ranking_file import fingerprint
from ragself.config import Config, EncoderConfig
from ragself.encoders.encoder import Encoder
from ragself.encoders.light import LightEncoder, located
from ragself.errors import EncoderError, StoreError
from ragself.index.database import ChromaDatabase
from ragself.schema import Version
from ragself.versions.registry import FORMAT, Manifest, Registry, now

_LIKENESS = 0.9999  # minimum cosine, on the canary texts, of an encoder without torch


def check_folder(path: Path) -> None:
    """Reject a folder for a new knowledge base that holds another program's Chroma database.

    Raises:
        StoreError: It does.
    """
    if (path / "chroma.sqlite3").exists():
        raise StoreError(
            f"{path} is a Chroma database that ragself has not made. Choose another folder for the knowledge base, "
            "which keeps a database of its own."
        )


def make(registry: Registry, config: Config) -> None:
    """Create an empty knowledge base in the registry's folder, with version 0 live.

    Raises:
        EncoderError: The embedding model cannot be loaded. Nothing was created.
        StoreError: The Chroma server for the vectors does not answer. Nothing was created.
    """
    encoder = Encoder(config.encoder)
    manifest = Manifest(
        format=FORMAT,
        encoder=config.encoder.model,
        revision=encoder.revision,
        fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        canary=[[float(x) for x in row] for row in encoder.documents(CANARIES)],
        created=now(),
        id=secrets.token_hex(4),
        server=None if config.chroma == "folder" else config.chroma,
        prompts=config.encoder.prompts,
    )
    digest = fingerprint(encoder.fingerprint, None)
    base = Version(0, "base", manifest.collection(0, manifest.server), digest, encoder.dimension, now())
    with closing(ChromaDatabase(manifest.server or registry.folder(0) / "chroma")) as chroma:
        chroma.create(base.collection, digest)
    registry.create(manifest, base)


def check_named(manifest: Manifest, config: EncoderConfig, place: str) -> None:
    """Reject settings that name a model other than that of the knowledge base at `place`.

    Raises:
        EncoderError: They do.
    """
    if "model" in config.model_fields_set and config.model != manifest.encoder:
        raise EncoderError(
            f"{place} was made with the encoder {manifest.encoder!r}, but the settings name {config.model!r}. Remove "
            "that setting, or make a new knowledge base for the other model."
        )


def load(manifest: Manifest, config: EncoderConfig, place: str) -> Encoder:
    """Load the model of the knowledge base at `place`; device and batch size come from the settings.

    Raises:
        EncoderError: The model cannot be loaded, or it has changed.
    """
    made_with = {"model": manifest.encoder, "revision": manifest.revision, "prompts": manifest.prompts}
    encoder = Encoder(config.model_copy(update=made_with))
    if encoder.fingerprint != manifest.fingerprint:
        raise EncoderError(
            f"{manifest.encoder!r} now has fingerprint {encoder.fingerprint}, but {place} was built with "
            f"{manifest.fingerprint} (revision {manifest.revision}): the model has changed. "
            "Put the old model back, or make a new knowledge base."
        )
    check_canary(encoder.documents(CANARIES), np.array(manifest.canary, np.float32), encoder.name)
    return encoder


def light(manifest: Manifest) -> LightEncoder | None:
    """The same model without torch, for encoding a few texts; None if it is not available or not the same."""
    try:
        folder = located(manifest.encoder, manifest.revision)
    except EncoderError:  # the full encoder reports it
        return None
    encoder = None if folder is None else LightEncoder.open(folder, manifest.prompts)
    if encoder is None or encoder.fingerprint != manifest.fingerprint:
        return None
    alike = agreement(encoder.documents(CANARIES), np.array(manifest.canary, np.float32))
    return encoder if alike >= _LIKENESS else None

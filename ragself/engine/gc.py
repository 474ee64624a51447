"""Removes data that is no longer needed, and rebuilds missing indexes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from ragself.adapters.lora import Lora
from ragself.config import Config
from ragself.corpus.journal import LEXICAL
from ragself.encoders import spread
from ragself.engine.version_store import VersionStore
from ragself.index.database import ChromaDatabase
from ragself.lm.score_cache import ScoreCache
from ragself.progress import Progress, silent
from ragself.schema import Version


def collect_garbage(
    store: VersionStore, config: Config, asked: Iterable[str], progress: Progress = silent, *, learning: bool = False
) -> list[str]:
    """Clean a knowledge base.

    It keeps version 0, the live version, the one before it and the newest `keep_versions` others, and scores that a
    pass has used within `keep_scores` days. A collection stays as long as one of its versions does.

    Args:
        store: The version store; the caller must hold its turn.
        config: Settings `keep_versions` and `keep_scores`.
        asked: Stored queries, whose vectors are kept.
        progress: Called with the stage, steps done and total while a collection is rebuilt.
        learning: Whether a pass is running; unfinished builds and cached vectors then stay.

    Returns:
        A line for each thing that was done.
    """
    store.lexical.merge()
    store.journal.mark_applied(LEXICAL, store.lexical.seq)
    versions = store.registry.versions()
    kept = _kept(store, versions, config.keep_versions)
    done = []
    for version in [*store.registry.retired(), *versions]:
        if version not in kept:
            store.remove(version)
            done.append(f"removed version {version.number} ({version.kind})")
    if not learning:
        done += _unfinished(store, kept)
    for version in kept:
        if not store.built(version):  # of versions that share one, the first rebuilds it
            count = store.rebuild(version, progress)
            done.append(f"built the index of version {version.number} again from {count} chunks")
    if not learning:
        texts = [chunk.text for chunk in store.journal.chunks()]
        spaces = _spaces(store, kept)
        vectors = store.base.prune([*texts, *spread.DOCUMENTS], [*asked, *spread.QUERIES], spaces)
        if vectors:
            done.append(f"removed {vectors} cached vectors that are no longer needed")
    scores = _prune(store.directory / "scores.db", config.keep_scores)  # a shared score cache is not cleaned
    if scores:
        done.append(f"removed {scores} scores that no pass has used for {config.keep_scores} days")
    return done


def _kept(store: VersionStore, versions: list[Version], count: int) -> list[Version]:
    live = store.registry.live()
    newest = [version.number for version in versions if version.number not in (0, live)][-count:]
    spared = {0, live, store.registry.before(), *newest}
    return [version for version in versions if version.number in spared]


def _spaces(store: VersionStore, versions: list[Version]) -> list[str]:
    """Cache spaces with vectors of documents that these versions encode themselves."""
    adapters = [store.adapter(version) for version in versions if version.kind == "lora"]
    return [adapter.tuned.space for adapter in adapters if isinstance(adapter, Lora) and adapter.tuned is not None]


def _unfinished(store: VersionStore, kept: list[Version]) -> list[str]:
    done = []
    for folder in store.registry.unregistered():
        store.discard(int(folder.name))
        done.append(f"removed unfinished {folder.name}")
    if store.server is not None:
        with closing(ChromaDatabase(store.server)) as database:
            own = {name for name in database.names() if name.startswith(store.manifest.prefix(store.server))}
        for name in sorted(own - {version.collection for version in kept}):
            store.drop(name)
            store.journal.forget(name)
            done.append(f"removed collection {name}")
    return done


def _prune(path: Path, days: int) -> int:
    if not path.exists():
        return 0
    with closing(ScoreCache(path)) as cache:
        return cache.prune(days)

"""Removing what is no longer needed, and building again what is missing."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from ragself.config import Config
from ragself.corpus.scores import ScoreCache
from ragself.progress import Progress, silent
from ragself.serve.store import Store


def collect(store: Store, config: Config, progress: Progress = silent) -> list[str]:
    """Clean a knowledge base.

    Version 0, the live version, the one before it and the newest `keep_versions` others stay, and scores that a
    pass has used within `keep_scores` days.

    Args:
        store: Whose writer's lock the caller holds.
        config: How many versions to keep besides, and how long scores.
        progress: Told of collections built again.

    Returns:
        What was done, one line each.
    """
    done = []
    live = store.registry.live()
    versions = store.registry.versions()
    spared = {
        0,
        live,
        store.registry.before(),
        *[v.number for v in versions if v.number not in (0, live)][-config.keep_versions :],
    }
    for version in versions:
        if version.number not in spared:
            store.registry.remove(version.number)
            done.append(f"removed version {version.number} ({version.kind})")
    kept = [version for version in versions if version.number in spared]

    names = {version.collection for version in kept}
    for name in sorted(store.chroma.names() - names):
        if name.startswith("ragself-v"):
            store.discard(name)
            done.append(f"removed collection {name}")
    for folder in store.registry.unregistered():
        shutil.rmtree(folder, ignore_errors=True)
        done.append(f"removed unfinished {folder.name}")

    missing = names - store.chroma.names()
    for version in kept:
        if version.collection in missing:
            count = store.rebuild(version, progress)
            done.append(f"built collection {version.collection} again from {count} chunks")

    scores = _prune(store.directory / "scores.db", config.keep_scores)  # one that is shared is nobody's to clean
    if scores:
        done.append(f"removed {scores} scores that no pass has used for {config.keep_scores} days")
    orphans = store.chroma.sweep()
    if orphans:
        done.append(f"removed {orphans} folders that Chroma had left behind")
    return done


def _prune(path: Path, days: int) -> int:
    if not path.exists():
        return 0
    with closing(ScoreCache(path)) as cache:
        return cache.prune(days)

"""Registry: the versions of an index, the pointer to the live one, and the history of all decisions.

    store.json              the manifest: format and encoder
    versions/0001/          one folder per version: version.json, adapter.safetensors, and its collection if it has one
    live.json               the pointer, and the events that moved it; replacing it is the switch
    history.jsonl           all events: what, when, why, by which user

Uses neither Chroma nor torch: plain files, read in milliseconds.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from ragself.errors import InputError, StoreError, StoreTooNew
from ragself.schema import Added, Followed, Version, VersionKind
from ragself.versions.history import History
from ragself.versions.json_files import read_json, write_json

logger = logging.getLogger(__name__)

FORMAT = 2
_MOVES = ("promote", "rollback", "pin", "unpin")  # events that are stored with the pointer


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of a knowledge base.

    Attributes:
        format: Version of the folder layout.
        encoder: Name or path of the embedding model.
        revision: Its commit on the hub, or None.
        fingerprint: Fingerprint of the embedding model.
        dimension: Dimension of its vectors.
        canary: Base vectors of the canary texts, which the encoder must reproduce.
        created: Time of creation, UTC, ISO 8601.
        id: Id in the names of its collections: several knowledge bases may share a Chroma server.
        server: URL of the Chroma server that holds the vectors; None if they are in the folder.
        prompts: Texts put before queries and documents; None uses those of the model.
    """

    format: int
    encoder: str
    revision: str | None
    fingerprint: str
    dimension: int
    canary: list[list[float]]
    created: str
    id: str
    server: str | None = None
    prompts: dict[Literal["query", "document"], str] | None = None

    def collection(self, number: int, server: str | None) -> str:
        """Name of the collection of a version. Each place has a collection of its own, which applies changes itself."""
        return f"{self.prefix(server)}v{number:04d}"

    def place(self, setting: str | None) -> str | None:
        """URL of the Chroma server that holds the vectors, by the setting `chroma`; None if they are in the folder."""
        where = setting or self.server
        return None if where == "folder" else where

    def prefix(self, server: str | None) -> str:
        """Common prefix of the names of all collections in a place."""
        where = "" if server is None else hashlib.blake2b(server.encode(), digest_size=3).hexdigest() + "-"
        return f"ragself-{self.id}-{where}"


class Registry:
    """The versions of one knowledge base, as files in its folder.

    Versions of an earlier ragself that this one cannot serve are retired: the history keeps them, `gc` removes their
    files, and they have no other use.
    """

    def __init__(self, directory: Path) -> None:
        """Store the folder of the knowledge base; nothing is read or written yet."""
        self.directory = directory
        self.name: Callable[[int], str] | None = None  # name of a version's collection in the open place
        self._live = directory / "live.json"
        self._history = History(directory / "history.jsonl")
        self._dimension: int | None = None

    @property
    def exists(self) -> bool:
        """Whether the folder holds a knowledge base."""
        return (self.directory / "store.json").exists()

    def create(self, manifest: Manifest, base: Version) -> None:
        """Write a new knowledge base with version 0 live. ``store.json`` is written last and makes it valid."""
        self.add(base)
        write_json(self._live, {"version": 0, "before": None, "pinned": False})
        write_json(self.directory / "store.json", asdict(manifest))
        self.record("create", version=0, reason="plain base model")

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            StoreError: There is no knowledge base, or its manifest is damaged.
            StoreTooNew: A newer ragself wrote the manifest.
        """
        if not self.exists:
            raise StoreError(
                f"{self.directory} holds no knowledge base (no store.json). Check the path, or make one: "
                f"ragself add --kb {self.directory} FILES"
            )
        raw = read_json(self.directory / "store.json")
        found = raw.get("format") if isinstance(raw, dict) else None
        if isinstance(found, int) and found > FORMAT:
            raise StoreTooNew(
                f"{self.directory} has format {found}, written by a newer ragself; this one reads up to {FORMAT}. "
                "Upgrade: pip install -U ragself"
            )
        if isinstance(found, int) and found < FORMAT:
            raise StoreError(
                f"{self.directory} has format {found}, of a ragself before its first release; this one reads {FORMAT}. "
                "Build it again from the documents: ragself add --kb ANOTHER FILES"
            )
        try:
            return Manifest(**raw)
        except TypeError as error:
            raise StoreError(f"{self.directory}/store.json is damaged: {error}. Restore it from a backup.") from error

    def origin(self) -> Followed | None:
        """The followed collection, or None."""
        path = self.directory / "origin.json"
        return Followed(**read_json(path)) if path.exists() else None

    def set_origin(self, place: Followed) -> None:
        """Store which collection is followed."""
        if self.origin() != place:
            write_json(self.directory / "origin.json", asdict(place))

    def record_sync(self, added: Added) -> None:
        """Record the result of a sync if it changed anything or skipped other rows than the last one."""
        skipped = [event["skipped"] for event in self.history() if event["event"] == "sync"]
        if added.added or added.removed or [asdict(row) for row in added.skipped] != (skipped or [[]])[-1]:
            self.record(
                "sync", self.live(), f"{added.added} added or changed, {added.removed} removed", **asdict(added)
            )

    # versions -------------------------------------------------------------------------------------

    def folder(self, number: int) -> Path:
        """Folder of a version."""
        return self.directory / "versions" / f"{number:04d}"

    def adapter_path(self, number: int) -> Path:
        """Path of a version's adapter."""
        return self.folder(number) / "adapter.safetensors"

    def unregistered(self) -> list[Path]:
        """Folders of versions that were never finished, or not completely removed."""
        homes = self.homes()
        return [path for path in self._folders() if not self.registered(int(path.name)) and int(path.name) not in homes]

    def registered(self, number: int) -> bool:
        """Whether a version of this number is registered."""
        return (self.folder(number) / "version.json").exists()

    def homes(self) -> set[int]:
        """Numbers of the versions whose collections are in use. Some of these versions may be removed otherwise."""
        return {home(version) for version in self.versions()}

    def next_number(self) -> int:
        """A number that no version has ever had."""
        used = [-1, *(int(path.name) for path in self._folders())]
        used += [int(event["version"]) for event in self.history() if event.get("version") is not None]
        return max(used) + 1

    def add(self, version: Version) -> None:
        """Register a version that was built and verified."""
        self.folder(version.number).mkdir(parents=True, exist_ok=True)
        write_json(self.folder(version.number) / "version.json", asdict(version))

    def versions(self) -> list[Version]:
        """All versions that can be switched to, oldest first."""
        return [version for version in self._all() if self.serves(version)]

    def retired(self) -> list[Version]:
        """Versions of an earlier ragself that this one cannot serve, oldest first."""
        return [version for version in self._all() if not self.serves(version)]

    def version(self, number: int) -> Version:
        """Read one version. Raises InputError if there is none of that number, or it cannot be served."""
        version = self._read(number)
        if version is None or not self.serves(version):
            there = ", ".join(str(version.number) for version in self.versions()) or "none"
            found = (
                "There is no version" if version is None else f"This ragself cannot serve the {version.kind} version"
            )
            raise InputError(f"{found} {number}. Versions here: {there}.")
        return version

    def pointed(self) -> Version:
        """Read the live version, even if it is retired."""
        number = self.live()
        return self._read(number) or self.version(number)

    def serves(self, version: Version) -> bool:
        """Whether this ragself can serve a version: its kind is known, and it has the dimension of the base model."""
        if version.kind not in get_args(VersionKind):
            return False
        if self._dimension is None:
            if not self.exists:  # the knowledge base is being created
                return True
            self._dimension = self.manifest().dimension
        return version.dimension == self._dimension

    def retire(self) -> Version | None:
        """Make version 0 live if the live version is retired. Returns the retired version, or None."""
        live = self.pointed()
        if self.serves(live):
            return None
        reason = f"version {live.number} is of a kind that this ragself does not serve any more: {live.kind}"
        self.point(0, "rollback", f"{reason}, dimension {live.dimension}")
        return live

    def _all(self) -> list[Version]:
        found = [self._read(int(path.name)) for path in self._folders()]
        return [version for version in found if version is not None]

    def _read(self, number: int) -> Version | None:
        path = self.folder(number) / "version.json"
        try:
            raw = read_json(path)
            version = Version(**{key: value for key, value in raw.items() if key in _FIELDS})
        except StoreError:
            if path.exists():
                raise
            return None  # not finished, or removed by another process a moment ago
        except (TypeError, AttributeError) as error:
            raise StoreError(f"{path} is damaged: {error}. Restore it, or use another version.") from error
        return version if self.name is None else replace(version, collection=self.name(home(version)))

    def _folders(self) -> list[Path]:
        folders = [path for path in (self.directory / "versions").glob("*") if path.name.isdecimal()]
        return sorted(folders, key=lambda path: int(path.name))

    def remove(self, number: int) -> None:
        """Delete a version's files, except a collection that another version uses; its history stays."""
        # Unregister first: a kill in between leaves an unregistered folder, which gc removes.
        (self.folder(number) / "version.json").unlink(missing_ok=True)
        if number not in self.homes():
            shutil.rmtree(self.folder(number), ignore_errors=True)
        else:
            self.adapter_path(number).unlink(missing_ok=True)

    # the pointer ----------------------------------------------------------------------------------

    def live(self) -> int:
        """Number of the live version."""
        try:
            return int(self._pointer()["version"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self._live} is damaged: {error!r}. "
                'To go back to the base model write {"version": 0, "before": null} into it.'
            ) from error

    def before(self) -> int | None:
        """Number of the version that was live before; None if there was none, or it is gone or retired."""
        before = self._pointer().get("before")
        version = None if before is None else self._read(int(before))
        return version.number if version is not None and self.serves(version) else None

    @property
    def pinned(self) -> bool:
        """Whether passes are kept from replacing the live version."""
        return bool(self._pointer().get("pinned"))

    def pin(self, pinned: bool, reason: str, **details: Any) -> None:
        """Keep passes from replacing the live version, or permit it again."""
        self._move({"pinned": pinned}, _event("pin" if pinned else "unpin", self.live(), reason, details))

    def _pointer(self) -> Any:
        return read_json(self._live)

    def stamp(self) -> tuple[int, int]:
        """Value that changes with each write of the pointer; costs one system call, so readers may use it per query."""
        try:
            stat = self._live.stat()
        except OSError as error:
            raise StoreError(f"{self._live} is gone: {error}. Restore it from a backup.") from error
        return stat.st_mtime_ns, stat.st_ino

    def touch(self) -> None:
        """Make all processes that follow the pointer reopen the live version."""
        write_json(self._live, self._pointer())

    def point(self, number: int, event: str, reason: str, **details: Any) -> None:
        """Make a version live with one atomic write, and record the reason."""
        before = self.live()
        self.version(number)
        self._move({"version": number, "before": before}, _event(event, number, reason, {"before": before, **details}))

    def _move(self, changed: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Change the pointer. The events that moved it are stored with it, so that a crash loses none of them."""
        events = [*self._unwritten(self._history.events()), event]
        write_json(self._live, {**self._pointer(), **changed, "events": events})
        try:
            for line in events:
                self._history.append(line)
        except StoreError as error:  # the pointer has moved
            logger.warning("the last event is missing from the history until the next one is written: %s", error)

    def promotion(self) -> Mapping[str, Any] | None:
        """The event that made the live version live if it was a promotion, else None."""
        switches = (event for event in reversed(self.history()) if event["event"] in ("promote", "rollback"))
        event = next(switches, None)
        promoted = event is not None and event["event"] == "promote" and event["version"] == self.live()
        return event if promoted else None

    def rolled_back(self) -> dict[str, int]:
        """Fingerprints of versions that were promoted and then rolled back, with the version numbers."""
        promoted: dict[int, str] = {}
        found: dict[str, int] = {}
        for event in self.history():
            if event["event"] == "promote" and "fingerprint" in event:
                promoted[event["version"]] = event["fingerprint"]
            elif event["event"] == "rollback":
                found.pop(promoted.get(event["version"], ""), None)  # a later rollback restored it
                if event["before"] in promoted:
                    found[promoted[event["before"]]] = event["before"]
        return found

    # the history ----------------------------------------------------------------------------------

    def rejected(self) -> int:
        """Number of candidates that the gate has rejected since the live version last changed."""
        count = 0
        for event in self.history():
            if event["event"] in ("promote", "rollback"):
                count = 0
            elif event["event"] == "keep" and event.get("report", {}).get("figures"):
                count += 1
        return count

    def record(self, event: str, version: int | None, reason: str, **details: Any) -> None:
        """Append one event: create, sync, promote, keep, fail, review, rollback, pin, unpin, gc or forget."""
        self._write_history(_event(event, version, reason, details))

    def history(self) -> list[Mapping[str, Any]]:
        """All events, oldest first. A line that a kill cut off is skipped."""
        written = self._history.events()
        return [*written, *self._unwritten(written)]

    def _write_history(self, *events: Mapping[str, Any]) -> None:
        for event in [*self._unwritten(self._history.events()), *events]:
            self._history.append(event)

    def _unwritten(self, written: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Events stored with the pointer that the history lacks: the disk was full, or a kill came first."""
        try:
            events = self._pointer().get("events", [])
        except (StoreError, AttributeError):  # damaged: `live` reports it
            return []
        when = {event["at"] for event in events}
        moves = (line for line in written if line["event"] in _MOVES and line["at"] in when)
        there = {json.dumps(line) for line in moves}  # as text: NaN differs from itself
        return [event for event in events if json.dumps(event) not in there]


_FIELDS = {field.name for field in fields(Version)}  # an earlier ragself wrote further fields


def home(version: Version) -> int:
    """Number of the version that a version's collection was built for, and whose folder holds it."""
    return version.number if version.index is None else version.index


def _event(event: str, version: int | None, reason: str, details: Mapping[str, Any]) -> dict[str, Any]:
    at = now("milliseconds")  # no two moves of the pointer share one
    return {"event": event, "version": version, "reason": reason, "at": at, "by": _user(), **details}


def now(timespec: str = "seconds") -> str:
    """UTC time, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec=timespec)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id may have no name
        return "unknown"

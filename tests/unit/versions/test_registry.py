import getpass
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import ragself.versions.registry
from ragself.errors import InputError, StoreError, StoreTooNew
from ragself.schema import Added, Followed, Skipped, Version
from ragself.versions.json_files import read_json
from ragself.versions.registry import Manifest, Registry, now

MANIFEST = Manifest(2, "org/model", None, "print", 4, [[1.0, 0.0], [0.5, 0.5]], "2025-01-01T00:00:00+00:00", "ab12")


def version(number: int) -> Version:
    kind = "residual" if number else "base"
    return Version(number, kind, f"ragself-v{number:04d}", f"print-{number}", 4, now(), {"ndcg@10": {"low": 0.1}})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path)
    registry.create(MANIFEST, version(0))
    return registry


def promote(registry: Registry) -> int:
    number = registry.next_number()
    registry.add(version(number))
    registry.point(number, "promote", "better")
    return number


def test_a_new_knowledge_base_has_version_0_live(registry: Registry) -> None:
    assert registry.exists
    assert registry.live() == 0
    assert registry.manifest() == MANIFEST
    assert [each.number for each in registry.versions()] == [0]
    (event,) = registry.history()
    assert (event["event"], event["version"], event["by"]) == ("create", 0, getpass.getuser())


def test_a_creation_that_was_killed_is_no_knowledge_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    real = os.fsync
    calls: list[int] = []

    def dies(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 4:  # version and pointer are written, two calls each
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(os, "fsync", dies)
    with pytest.raises(KeyboardInterrupt):
        registry.create(MANIFEST, version(0))
    monkeypatch.undo()
    assert not registry.exists
    registry.create(MANIFEST, version(0))
    assert registry.live() == 0


def test_promoting_moves_the_pointer_and_writes_why(registry: Registry) -> None:
    assert promote(registry) == 1
    assert registry.live() == 1
    assert registry.version(1).kind == "residual"
    event = registry.history()[-1]
    assert (event["event"], event["version"], event["before"], event["reason"]) == ("promote", 1, 0, "better")


def test_details_are_kept_with_the_event(registry: Registry) -> None:
    registry.record("keep", 0, "not better", report={"decision": "keep", "seconds": {"train": 1.5}})
    assert registry.history()[-1]["report"]["seconds"] == {"train": 1.5}


def test_pointing_at_what_is_not_there_changes_nothing(registry: Registry) -> None:
    with pytest.raises(InputError, match=r"no version 7\. Versions here: 0\."):
        registry.point(7, "promote", "better")
    assert registry.live() == 0
    assert len(registry.history()) == 1


def test_a_pointer_that_cannot_be_written_still_points_at_the_old(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(version(1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError):
        registry.point(1, "promote", "better")
    monkeypatch.undo()
    assert registry.live() == 0
    assert [event["event"] for event in registry.history()] == ["create"]


def test_the_stamp_changes_with_every_switch(registry: Registry) -> None:
    stamps = {registry.stamp()}
    assert registry.stamp() in stamps
    for _ in range(5):
        promote(registry)
        assert registry.stamp() not in stamps
        stamps.add(registry.stamp())


def test_numbers_count_up_and_are_never_used_again(registry: Registry) -> None:
    assert [promote(registry) for _ in range(3)] == [1, 2, 3]
    registry.point(0, "rollback", "bad")
    registry.remove(3)
    assert registry.next_number() == 4
    registry.folder(9).mkdir()  # a build that was killed
    assert registry.next_number() == 10


def test_removing_takes_the_files_and_leaves_the_history(registry: Registry) -> None:
    promote(registry)
    registry.point(0, "rollback", "bad")
    registry.remove(1)
    registry.remove(1)
    assert not registry.folder(1).exists()
    assert [each.number for each in registry.versions()] == [0]
    assert [event["version"] for event in registry.history()] == [0, 1, 0]


def test_what_is_half_built_or_half_removed_is_no_version(registry: Registry) -> None:
    registry.folder(1).mkdir()
    registry.adapter_path(1).write_bytes(b"")
    assert [each.number for each in registry.versions()] == [0]
    assert registry.unregistered() == [registry.folder(1)]
    with pytest.raises(InputError):
        registry.version(1)
    registry.add(version(1))
    assert registry.unregistered() == []


def test_a_version_that_another_process_removes_meanwhile_is_not_listed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(version(1))

    def read(path: Path) -> Any:
        if path == registry.folder(1) / "version.json":
            shutil.rmtree(registry.folder(1))
        return read_json(path)

    monkeypatch.setattr(ragself.versions.registry, "read_json", read)
    assert [each.number for each in registry.versions()] == [0]
    registry.add(version(1))
    with pytest.raises(InputError, match=r"no version 1\. Versions here: 0\."):
        registry.version(1)


def test_before_is_the_version_that_was_live_before_this_one(registry: Registry) -> None:
    assert registry.before() is None
    promote(registry)
    promote(registry)
    assert registry.before() == 1
    registry.point(1, "rollback", "bad")
    registry.record("keep", 1, "nothing better")
    assert registry.before() == 2
    (registry.directory / "history.jsonl").unlink()  # a record, not what decides
    assert registry.before() == 2
    registry.remove(2)
    assert registry.before() is None


def test_versions_come_back_as_they_were_added(registry: Registry) -> None:
    for number in (2, 1, 10):
        registry.add(version(number))
    assert [each.number for each in registry.versions()] == [0, 1, 2, 10]
    assert registry.version(10).figures == {"ndcg@10": {"low": 0.1}}


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_that_a_kill_cut_off_is_passed_over(registry: Registry, cut: int) -> None:
    registry.record("keep", 7, "not better")
    path = registry.directory / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(registry.history()) == (2 if cut == 1 else 1)
    assert registry.history()[0]["event"] == "create"
    assert registry.next_number() == (8 if cut == 1 else 1)


def test_the_event_after_a_line_that_was_cut_off_is_kept(registry: Registry) -> None:
    registry.record("keep", 0, "nothing better")
    path = registry.directory / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    registry.record("fail", 0, "the server is away")
    assert [event["event"] for event in registry.history()] == ["create", "fail"]


def test_a_switch_for_whose_line_there_was_no_room_is_in_the_history(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = registry.directory / "history.jsonl"
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise StoreError("Cannot write history.jsonl: no space left")

    monkeypatch.setattr("ragself.versions.history.append_json", full)
    promote(registry)
    assert "missing from the history" in caplog.text
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [event["event"] for event in registry.history()] == ["create", "promote"]
    registry.record("keep", 1, "nothing better", loss=float("nan"))
    registry.point(0, "rollback", "bad", loss=float("nan"))
    lines = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert lines == ["create", "promote", "keep", "rollback"] == [event["event"] for event in registry.history()]


def test_a_line_that_was_cut_off_inside_a_character_is_passed_over(registry: Registry) -> None:
    path = registry.directory / "history.jsonl"
    with path.open("ab") as file:
        file.write('{"event": "keep", "reason": "für'.encode()[:-2])
    assert [event["event"] for event in registry.history()] == ["create"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_an_event_with_an_unusual_line_end_in_it_is_kept(registry: Registry, mark: str) -> None:
    registry.record("keep", 0, f"a{mark}b")
    assert registry.history()[-1]["reason"] == f"a{mark}b"


def test_a_folder_without_a_knowledge_base_is_a_store_error(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert not registry.exists
    assert registry.history() == []
    with pytest.raises(StoreError, match="holds no knowledge base"):
        registry.manifest()
    with pytest.raises(StoreError):
        registry.live()
    with pytest.raises(StoreError, match=r"live\.json is gone"):
        registry.stamp()


def test_a_newer_format_is_refused_with_what_to_do(registry: Registry) -> None:
    path = registry.directory / "store.json"
    path.write_text(json.dumps({"format": 3, "something": "new"}))
    with pytest.raises(StoreTooNew, match=r"format 3.*reads up to 2.*Upgrade"):
        registry.manifest()


def test_a_format_of_before_the_first_release_says_what_to_do(registry: Registry) -> None:
    (registry.directory / "store.json").write_text('{"format": 1}')
    with pytest.raises(StoreError, match=r"format 1.*reads 2.*Build it again"):
        registry.manifest()


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"format": 2}'])
def test_a_damaged_manifest_is_a_store_error(registry: Registry, content: str) -> None:
    (registry.directory / "store.json").write_text(content)
    with pytest.raises(StoreError, match=r"store\.json"):
        registry.manifest()


@pytest.mark.parametrize("content", ["", "{", "\0\0\0"])
def test_a_pointer_or_version_that_is_no_json_is_a_store_error(registry: Registry, content: str) -> None:
    (registry.directory / "live.json").write_text(content)
    (registry.folder(0) / "version.json").write_text(content)
    for read in (registry.live, registry.versions, lambda: registry.version(0)):
        with pytest.raises(StoreError, match=r"damaged"):
            read()


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"version": "x"}', '{"version": null}'])
def test_a_pointer_or_version_with_other_content_is_a_store_error(registry: Registry, content: str) -> None:
    (registry.directory / "live.json").write_text(content)
    (registry.folder(0) / "version.json").write_text(content)
    for read in (registry.live, registry.versions, lambda: registry.version(0)):
        with pytest.raises(StoreError):
            read()


def test_a_copy_of_a_version_that_someone_made_is_no_version(registry: Registry) -> None:
    (registry.directory / "versions" / "0000-copy").mkdir()
    assert registry.next_number() == 1


def test_a_user_id_without_a_name_is_no_error(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any) -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nobody)
    registry.record("gc", None, "cleaned")
    assert registry.history()[-1]["by"] == "unknown"


def test_no_move_of_the_pointer_is_lost_where_several_find_no_room_for_their_lines(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        registry.add(version(number))

    def full(*_: Any) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("ragself.versions.history.append_json", full)
        registry.point(1, "promote", "better", fingerprint="print-1")
        registry.point(2, "promote", "better still", fingerprint="print-2")
        registry.point(1, "rollback", "bad")
        registry.pin(True, "enough")
    moves = ["promote", "promote", "rollback", "pin"]
    assert [event["event"] for event in registry.history()][-4:] == moves
    assert registry.rolled_back() == {"print-2": 2}
    registry.record("keep", 1, "nothing new")
    lines = (registry.directory / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines][-5:] == [*moves, "keep"]
    registry.point(2, "rollback", "bad")  # over and over, within a second: no two lines are one
    for _ in range(5):
        registry.point(1, "rollback", "bad")
        registry.point(2, "rollback", "bad")
    assert sum(event["event"] == "rollback" for event in registry.history()) == 12
    monkeypatch.setattr("ragself.versions.history.append_json", full)
    registry.point(1, "rollback", "bad")  # without room, and like one that is written but for the moment
    assert sum(event["event"] == "rollback" for event in registry.history()) == 13


def test_what_is_followed_is_remembered_and_told_once(registry: Registry) -> None:
    assert registry.origin() is None
    place, skipped = Followed("/db", "docs", "1"), (Skipped("x", "it has no text"),)
    registry.set_origin(place)
    assert registry.origin() == place
    registry.record_sync(Added(added=2, skipped=skipped))
    told = len(registry.history())
    registry.record_sync(Added(unchanged=2, skipped=skipped))
    assert len(registry.history()) == told
    registry.record_sync(Added(unchanged=2))  # it has a text now
    registry.record_sync(Added(unchanged=2))
    assert len(registry.history()) == told + 1
    registry.record_sync(Added(removed=1))
    assert registry.history()[-1]["reason"] == "0 added or changed, 1 removed"
    registry.set_origin(Followed(None, "docs", "2", database="d"))
    assert registry.origin() == Followed(None, "docs", "2", database="d")


def test_what_was_rolled_back_is_known_until_it_is_wanted_after_all(registry: Registry) -> None:
    for number in (1, 2):
        registry.add(version(number))
        registry.point(number, "promote", "better", fingerprint=f"print-{number}")
    assert registry.rolled_back() == {}
    registry.point(1, "rollback", "bad")
    assert registry.rolled_back() == {"print-2": 2}
    registry.point(0, "rollback", "bad, too")
    assert registry.rolled_back() == {"print-1": 1, "print-2": 2}
    registry.point(2, "rollback", "the best there is")
    assert registry.rolled_back() == {"print-1": 1}


def test_candidates_that_were_seen_off_are_counted_until_the_pointer_moves(registry: Registry) -> None:
    judged = {"report": {"figures": {"utility@10": {}}}}
    assert registry.rejected() == 0
    registry.record("keep", 0, "too few documents", report={"figures": {}})  # nothing was put before the gate
    registry.record("keep", 0, "did not rise", **judged)
    registry.record("keep", 0, "did not rise", **judged)
    assert registry.rejected() == 2
    registry.record("promote", 1, "rose", **judged)
    assert registry.rejected() == 0
    registry.record("keep", 1, "did not rise", **judged)
    assert registry.rejected() == 1

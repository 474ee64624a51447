"""Folders of files into a knowledge base: what is taken, what is skipped, what changes when files change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ragself import KnowledgeBase
from ragself.errors import InputError
from tests.integration.test_knowledge import rows

PROSE = "notulu zonodo nozoba sonono. "


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Of every kind one, taken or not."""
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "notes.txt").write_text("veludo mezono banono lurino", encoding="utf-8")
    (folder / "guide.md").write_text("# Pabado\n\nsotuve vebaki\n\n## Vekino\n\nmenoba tuluba", encoding="utf-8")
    (folder / "manual.rst").write_text("Zovepa\n======\n\nlukido tudome\n", encoding="utf-8")
    (folder / "template.html").write_text(
        "<html><head><title>Sozoki</title><script>hidden()</script></head><body><p>ripatu badori</p></body></html>"
    )
    (folder / "sub" / "code.py").write_text('def sopari():\n    """Babapa dosodo."""\n', encoding="utf-8")
    (folder / "Größe 数据.txt").write_text("ludome löm 数据", encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200))
    (folder / "empty.md").touch()
    (folder / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (folder / "gone.txt").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.txt")
    return folder


SKIPPED = {
    "picture.png": "is binary",
    "empty.md": "is empty",
    "latin.txt": "is not UTF-8",
    "gone.txt": "a link to a file that is not there",
    "pipe.txt": "is not a regular file",
}
TAKEN = {"notes.txt", "guide.md", "manual.rst", "template.html", "sub/code.py", "Größe 数据.txt"}


def sources(kb: KnowledgeBase) -> set[object]:
    return {hit.metadata["source"] for hit in kb.search("notulu", 1000)}


def texts(kb: KnowledgeBase, source: Path) -> list[str]:
    return sorted(hit.text for hit in kb.search("notulu", 1000, {"source": str(source)}))


def ids(kb: KnowledgeBase, source: Path) -> set[str]:
    return {hit.id for hit in kb.search("notulu", 1000, {"source": str(source)})}


def test_a_folder_of_everything(kb: KnowledgeBase, docs: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    added = kb.add_files([docs], lambda *where: seen.append(where))
    assert added.added == kb.status().chunks >= len(TAKEN)
    assert sources(kb) == {str(docs / name) for name in TAKEN}
    assert kb.status().documents == len(TAKEN)
    reasons = {str(Path(item.name).relative_to(docs)): item.reason for item in added.skipped}
    assert reasons.keys() == SKIPPED.keys()
    assert all(reasons[name].startswith(reason) for name, reason in SKIPPED.items()), reasons
    assert ("read files", len(TAKEN) + len(SKIPPED), len(TAKEN) + len(SKIPPED)) in seen


def test_what_is_in_the_files_is_found(kb: KnowledgeBase, docs: Path) -> None:
    kb.add_files([docs])
    assert "hidden" not in " ".join(texts(kb, docs / "template.html"))
    assert any("Babapa dosodo" in text for text in texts(kb, docs / "sub" / "code.py"))
    for name, title in {"guide.md": "Pabado", "manual.rst": "Zovepa", "template.html": "Sozoki"}.items():
        found = kb.search(title, 1000, {"source": str(docs / name)})
        assert any(title in str(hit.metadata.get("title")) for hit in found), [hit.metadata for hit in found]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(kb: KnowledgeBase, docs: Path) -> None:
    (docs / "notes.txt").chmod(0)
    assert any("notes.txt" in item.name and "denied" in item.reason for item in kb.add_files([docs]).skipped)


def test_the_same_folder_again_changes_nothing(kb: KnowledgeBase, docs: Path) -> None:
    first = kb.add_files([docs])
    before = rows(kb.path)
    again = kb.add_files([docs, docs / "notes.txt", docs / ".." / "docs"])
    assert (again.added, again.removed, again.unchanged) == (0, 0, first.added)
    assert again.skipped == first.skipped
    assert rows(kb.path) == before


@pytest.mark.parametrize("shorter", [True, False])
def test_a_changed_file_replaces_its_chunks(kb: KnowledgeBase, docs: Path, shorter: bool) -> None:
    many = "\n\n".join(f"# Part {number}\n\n{PROSE * 8}{number}" for number in range(12))
    one = "# Part 0\n\nvebaki"
    file = docs / "guide.md"
    file.write_text(many if shorter else one)
    kb.add_files([docs])
    other, old = texts(kb, docs / "notes.txt"), ids(kb, file)
    file.write_text(one if shorter else many)
    added = kb.add_files([docs])
    new = ids(kb, file)
    assert (added.added, added.removed) == (len(new - old), len(old - new))
    assert (len(new) < len(old)) is shorter
    assert any("vebaki" in text for text in texts(kb, file)) is shorter
    assert texts(kb, docs / "notes.txt") == other
    assert kb.status().chunks == len(kb.search("notulu", 1000))


def test_a_path_that_does_not_exist_stops_all(kb: KnowledgeBase, docs: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        kb.add_files([docs, docs / "nowhere"])
    assert rows(kb.path) == []


def test_a_folder_without_a_text(kb: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    assert kb.add_files([tmp_path / "docs"]).added == 0
    (tmp_path / "docs" / "empty.txt").touch()
    added = kb.add_files([tmp_path / "docs"])
    assert (added.added, len(added.skipped)) == (0, 1)
    assert kb.search("notulu") == []


def test_a_moved_knowledge_base_still_works(kb: KnowledgeBase, docs: Path, tmp_path: Path) -> None:
    kb.add_files([docs])
    before = [hit.id for hit in kb.search("notulu", 20)]
    kb.close()
    shutil.move(kb.path, tmp_path / "elsewhere")
    with KnowledgeBase(tmp_path / "elsewhere", create=False, config=kb.config) as moved:
        assert [hit.id for hit in moved.search("notulu", 20)] == before
        assert moved.add_files([docs]).added == 0

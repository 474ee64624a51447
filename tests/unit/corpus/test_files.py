import json
import os
import socket
import stat
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragself.corpus.files import Document, find, read
from ragself.errors import InputError
from ragself.schema import Skipped


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def text_of(path: Path, content: str | bytes) -> str:
    document = read(write(path, content))
    assert isinstance(document, Document), document
    return document.text


def reason_for(path: Path, content: str | bytes) -> str:
    skipped = read(write(path, content))
    assert isinstance(skipped, Skipped), skipped
    assert skipped.name == path.as_posix()
    return skipped.reason


# --- find -------------------------------------------------------------------------------------


def test_a_folder_is_walked_in_sorted_order_without_junk(tmp_path: Path) -> None:
    for name in ["b.md", "a/z.txt", "a/b/c.unknown", "README", ".hidden.md", ".git/config", "node_modules/x/y.md"]:
        write(tmp_path / name, "x")
    for name in ["__pycache__/m.pyc", "env/pyvenv.cfg", "env/lib/site.py"]:
        write(tmp_path / name, "x")
    names = [path.relative_to(tmp_path).as_posix() for path in find([tmp_path])]
    assert names == ["README", "a/b/c.unknown", "a/z.txt", "b.md"]


def test_named_files_and_folders_are_taken_even_where_a_walk_would_skip_them(tmp_path: Path) -> None:
    hidden = write(tmp_path / ".hidden.md", "x")
    inside = write(tmp_path / ".notes" / "a.md", "x")
    environment = write(tmp_path / "env" / "pyvenv.cfg", "x")
    assert find([hidden, inside.parent, environment.parent]) == [hidden, inside, environment]


def test_a_file_that_is_named_twice_comes_once_and_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write(tmp_path / "a.md", "x"), write(tmp_path / "b.md", "x")
    monkeypatch.chdir(tmp_path)
    assert find([second, Path("./b.md"), Path(f"../{tmp_path.name}/b.md"), tmp_path]) == [second, first]


def test_linked_folders_are_walked_once_and_loops_not_at_all(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "real" / "a.md", "x")
    write(tmp_path / "elsewhere" / "b.md", "x")
    (root / "a_link").symlink_to(root / "real")
    (root / "real" / "up").symlink_to(root)
    (root / "above").symlink_to(tmp_path)
    (root / "other").symlink_to(tmp_path / "elsewhere")
    names = [path.relative_to(root).as_posix() for path in find([root])]
    assert names == ["other/b.md", "real/a.md"]


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.md does not exist"):
        find([write(tmp_path / "a.md", "x"), tmp_path / "nowhere.md"])


def test_a_folder_that_cannot_be_listed_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = write(tmp_path / "locked" / "a.md", "x").parent
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find([tmp_path]) == [locked]
    assert read(locked) == Skipped(locked.as_posix(), "cannot be read: Permission denied")


# --- what is read -----------------------------------------------------------------------------


def test_source_is_absolute_and_newlines_are_normal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a" / "n.txt", "one\r\ntwo\rthree\n")
    monkeypatch.chdir(tmp_path / "a")
    assert read(Path("../a/n.txt")) == Document((tmp_path / "a" / "n.txt").as_posix(), "one\ntwo\nthree\n", False)


@pytest.mark.parametrize(
    ("name", "markdown"), [("a.MD", True), ("a.markdown", True), ("a.txt", False), ("Makefile", False)]
)
def test_only_markdown_has_headings(tmp_path: Path, name: str, markdown: bool) -> None:
    content = "# not a comment?\n\n    x = 1  \n"
    assert read(write(tmp_path / name, content)) == Document((tmp_path / name).as_posix(), content, markdown)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_read_by_its_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    assert text_of(tmp_path / "a.txt", "Grüße, 世界 🙂".encode(encoding)) == "Grüße, 世界 🙂"


def test_a_declared_encoding_is_believed(tmp_path: Path) -> None:
    assert text_of(tmp_path / "a.py", "# -*- coding: latin-1 -*-\n# é".encode("latin-1")).endswith("# é")
    assert text_of(tmp_path / "a.html", '<meta charset="cp1252"><p>“é”'.encode("cp1252")) == "“é”"


@pytest.mark.parametrize(
    "declaration", ["", "encoding: utf-16\n", "encoding:  utf-16\n", "encoding: rot13\n", "coding: no-such-one\n"]
)
def test_an_encoding_that_is_not_known_is_not_guessed(tmp_path: Path, declaration: str) -> None:
    reason = reason_for(tmp_path / "a.txt", declaration.encode() + "naïve café".encode("cp1252"))
    assert f"is not UTF-8 (byte {len(declaration) + 2})" in reason
    assert "iconv" in reason


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.md", b"", "empty"),
        ("a.md", b" \n\t\r\n", "empty"),
        ("a.md", b"\xef\xbb\xbf", "empty"),
        ("a.html", b"<title>Loading</title><script>app()</script>", "empty"),
        ("a.ipynb", b'{"cells": []}', "empty"),
        ("a.txt", b"text\0more", "binary"),
        ("a.txt", b"\x01\x02\x03 some", "binary"),
        ("a.txt", "x\0y".encode("utf-16"), "binary"),
        ("a.txt", b"\xff\xfe\x00\xd8", "is not UTF-16"),
        ("a.ipynb", b"{", "cannot be converted to text: JSONDecodeError"),
        ("a.ipynb", b"[]", "cannot be converted to text"),
        ("a.ipynb", b"[" * 100_000, "cannot be converted to text: RecursionError"),
        ("a.html", b"<p>x<![nonsense<p>y", "cannot be converted to text"),
    ],
)
def test_what_has_no_text_is_skipped_with_the_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    assert reason in reason_for(tmp_path / name, content)


def test_terminal_colours_and_form_feeds_are_no_sign_of_a_binary_file(tmp_path: Path) -> None:
    content = "\x1b[31mred\x1b[0m\n\f" * 10
    assert text_of(tmp_path / "a.log", content) == content


def test_a_file_over_the_limit_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x" * 11)
    assert isinstance(read(path, max_bytes=11), Document)
    skipped = read(path, max_bytes=10)
    assert isinstance(skipped, Skipped)
    assert "larger than 10 bytes" in skipped.reason


def test_what_is_no_file_is_skipped_and_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for path in [Path("fifo"), Path("socket"), tmp_path, Path(os.devnull)]:
            skipped = read(path)
            assert isinstance(skipped, Skipped)
            assert skipped.reason == "is not a regular file"


def test_what_the_system_refuses_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("gone")
    reasons = {"gone": "cannot be read: No such file", "loop": "symbolic links", "dangling": "a link to a file"}
    for name, reason in reasons.items():
        skipped = read(tmp_path / name)
        assert isinstance(skipped, Skipped)
        assert reason in skipped.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    path.chmod(stat.S_IWUSR)
    assert read(path) == Skipped(path.as_posix(), "cannot be read: Permission denied")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_name_that_is_no_unicode_still_makes_a_source(tmp_path: Path) -> None:
    document = read(write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")), "x"))
    assert isinstance(document, Document)
    assert document.source.encode().endswith(rb"\udcff.txt")


@given(content=st.binary(max_size=200), name=st.sampled_from(["a.txt", "a.md", "a.rst", "a.html", "a.ipynb"]))
def test_no_content_raises(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    result = read(write(tmp_path_factory.getbasetemp() / "any" / name, content))
    if isinstance(result, Document):
        assert result.text.strip()
        assert not set("\r\0") & set(result.text)
        result.text.encode()


# --- HTML, notebooks, Office --------------------------------------------------------------------


def test_html_keeps_what_is_read_and_drops_the_rest(tmp_path: Path) -> None:
    page = """<?xml version="1.0"?><!DOCTYPE html><html><head><title>The page</title><style>p{}</style>
    <body><nav>Menu</nav><h2>Install<a class="headerlink" href="#x">¶</a></h2><!-- note -->
    <p>Use <code>my_tool</code>, <a href="http://x/">see</a> <img alt="the logo" src="data:image/png;base64,AAAA"></p>
    <pre># comment
x = a_b * 2</pre><script>var hidden</script><h3>Then</h3></body></html>"""
    text = text_of(tmp_path / "a.html", page)
    assert text.startswith("# The page\n\n## Install\n\nUse `my_tool`, see the logo")
    assert "```\n# comment\nx = a_b * 2\n```" in text
    assert text.endswith("### Then")
    for dropped in ["Menu", "hidden", "base64", "¶", "p{}", "note", "http", "xml"]:
        assert dropped not in text


def test_the_title_of_a_page_gives_way_to_its_h1(tmp_path: Path) -> None:
    assert text_of(tmp_path / "a.html", "<title>T</title><h1>Name</h1><p>x") == "# Name\n\nx"
    assert text_of(tmp_path / "b.html", "<title>T</title><h1><img></h1><p>x").startswith("# T\n\n")


def test_html_nested_beyond_all_bounds_is_still_read(tmp_path: Path) -> None:
    assert text_of(tmp_path / "a.html", "<div>" * 3000 + "deep") == "deep"


def test_a_notebook_is_its_cells(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Plan\n", "Half \ud800 pair"]},
        {"cell_type": "code", "source": "x = 1\n", "outputs": [{"text": "never"}]},
        {"cell_type": "code", "source": ["'''\n", "```\n", "'''"]},
        {"cell_type": "code", "source": "  "},
    ]
    notebook = json.dumps({"metadata": {"language_info": {"name": "python"}}, "cells": cells})
    assert text_of(tmp_path / "a.ipynb", notebook) == (
        "# Plan\nHalf ? pair\n\n```python\nx = 1\n```\n\n~~~python\n'''\n```\n'''\n~~~"
    )


@pytest.mark.parametrize("suffix", [".pdf", ".docx", ".pptx", ".xlsx"])
def test_without_the_extra_office_files_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setitem(sys.modules, "markitdown", None)
    assert "pip install 'ragself[documents]'" in reason_for(tmp_path / f"a{suffix}", b"x")


def test_with_the_extra_a_file_is_converted_or_its_damage_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Converter:
        def convert(self, stream: object, info: SimpleNamespace) -> SimpleNamespace:
            data = stream.read()  # type: ignore[attr-defined]
            if data == b"damaged":
                raise KeyError("no such\npart")
            return SimpleNamespace(markdown=f"# {info.extension}\r\n{data.decode()}\0")

    library, converters = ModuleType("markitdown"), ModuleType("markitdown.converters")
    library.StreamInfo = SimpleNamespace  # type: ignore[attr-defined]
    converters.DocxConverter = converters.PdfConverter = Converter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "markitdown", library)
    monkeypatch.setitem(sys.modules, "markitdown.converters", converters)
    path = write(tmp_path / "a.DOCX", "body")
    assert read(path) == Document(path.as_posix(), "# .docx\nbody", True)
    pdf = read(write(tmp_path / "a.pdf", "body"))
    assert isinstance(pdf, Document)
    assert not pdf.markdown
    reason = reason_for(tmp_path / "b.docx", "damaged")
    assert reason == r"cannot be converted to text: KeyError: 'no such\npart'"


# --- reStructuredText ---------------------------------------------------------------------------


def test_levels_follow_the_order_in_which_adornments_appear(tmp_path: Path) -> None:
    text = """====
Book
====

Part
====
Chapter
-------
Text.

Part 2
======

~~~~~~~~
 Other
~~~~~~~~
1. Numbered
-----------
"""
    headings = [line for line in text_of(tmp_path / "a.rst", text).split("\n") if line.startswith("#")]
    # An adornment above and below is another style than the same one below only.
    assert headings == ["# Book", "## Part", "### Chapter", "## Part 2", "#### Other", "### 1. Numbered"]


@pytest.mark.parametrize(
    "text",
    [
        "=====  =====\nA      B\n=====  =====\n1      2\n=====  =====",
        "=====  =====\nA      B\n------------\n1      2\n=====  =====",
        "+---+\n| a |\n+===+\n| b |\n+---+",
        "Before.\n\n--------\n\nAfter.",
        "Code::\n\n    Title\n    =====\n\nAfter.",
        ".. code-block:: text\n\n   =====\n   Title\n   =====",
        "A paragraph of two\nlines\n=====",
        "- item\n------",
        ":field: x\n---------",
        ">>> x\n-----",
        "| line block\n------------",
        ".. comment\n----------",
        "Longer\n---",
        "---\nLonger\n---",
        "=====\nTitle\n-----",
        "=====\n-----\n=====",
    ],
)
def test_what_only_looks_like_a_heading_is_left_alone(tmp_path: Path, text: str) -> None:
    assert text_of(tmp_path / "a.rst", text) == text


@pytest.mark.parametrize(
    ("text", "heading"),
    [
        (".. _label:\nTitle\n=====", "# Title"),
        ("    quoted\nTitle\n=====", "# Title"),
        (":mod:`json` --- JSON\n====================", "# :mod:`json` --- JSON"),
        ("Too short an underline\n=====", "# Too short an underline"),
        ("Ab\n--", "# Ab"),
        ("Title  \r\n=====  \r\n", "# Title"),
        ("Überschrift\n~~~~~~~~~~~", "# Überschrift"),
    ],
)
def test_headings_are_seen_as_docutils_sees_them(tmp_path: Path, text: str, heading: str) -> None:
    assert heading in text_of(tmp_path / "a.rst.txt", text).split("\n")


def test_more_styles_than_markdown_has_levels(tmp_path: Path) -> None:
    text = "\n\n".join(f"Title {mark}\n{mark * 8}" for mark in "=-~^\"'+*")
    levels = [line.split()[0] for line in text_of(tmp_path / "a.rst", text).split("\n") if line.startswith("#")]
    assert [len(level) for level in levels] == [1, 2, 3, 4, 5, 6, 6, 6]


PROSE = st.text(st.sampled_from("abc XYZ.,:*`|_0 "), min_size=1, max_size=20).filter(str.strip)


@given(paragraphs=st.lists(st.tuples(PROSE, PROSE), min_size=1, max_size=5))
def test_everything_but_the_headings_is_kept_word_for_word(
    tmp_path_factory: pytest.TempPathFactory, paragraphs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "kept.rst"
    parts = [f"Heading {number}\n==========\n\n{'  '.join(each)}" for number, each in enumerate(paragraphs)]
    expected = [f"# Heading {number}\n\n{'  '.join(each)}" for number, each in enumerate(paragraphs)]
    assert text_of(path, "\n\n".join(parts)) == "\n\n".join(expected)

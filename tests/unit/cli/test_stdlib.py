import sys
from pathlib import Path

import pytest

from ragself.cli.stdlib import documents
from ragself.schema import Chunk

BODY = "The body says what the summary does not, in more than sixty characters."


def source(*docstrings: str) -> str:
    return "".join(f'def f{number}():\n    """{text}"""\n' for number, text in enumerate(docstrings))


def write(root: Path, name: str, content: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_modules_classes_and_functions_are_documents(tmp_path: Path) -> None:
    module = f'''"""What a module does.

{BODY} Module.
"""
try:
    import nothing
except ImportError:
    def fallback():
        """What a fallback does.

        {BODY} Fallback.
        """

class Thing(object):
    """What a thing
    may be.

    Indented:

        {BODY}
    """
    async def run(self):
        """Run the thing now.

            {BODY} First line indented.
        {BODY}
        """
        def inner():
            """What is inside.

            {BODY} Inner.
            """
    def _private(self):
        """What is private stays.

        {BODY} Private.
        """
'''
    write(tmp_path, "pack/__init__.py", module)
    assert documents(tmp_path) == [
        Chunk("pack", f"{BODY} Module.", {"source": "pack", "title": "What a module does."}),
        Chunk("pack.fallback", f"{BODY} Fallback.", {"source": "pack", "title": "What a fallback does."}),
        Chunk("pack.Thing", f"Indented:\n\n    {BODY}", {"source": "pack", "title": "What a thing may be."}),
        Chunk(
            "pack.Thing.run",
            f"    {BODY} First line indented.\n{BODY}",
            {"source": "pack", "title": "Run the thing now."},
        ),
    ]


def test_a_body_that_is_indented_as_a_whole_is_not(tmp_path: Path) -> None:
    write(tmp_path, "m.py", source(f"A summary\nof it.\n\n    {BODY}\n      More."))
    assert [(chunk.title, chunk.text) for chunk in documents(tmp_path)] == [("A summary of it.", f"{BODY}\n  More.")]


def test_what_says_too_little_is_no_document(tmp_path: Path) -> None:
    write(
        tmp_path,
        "m.py",
        source("Only one paragraph, however long it is; there is nothing to find by it.", "Two words\n\n" + BODY)
        + "def bare(): pass\n"
        + source("The body is short.\n\n" + "x" * 59).replace("f0", "short")
        + source("The body is long enough.\n\n" + "x" * 60).replace("f0", "enough"),
    )
    assert [chunk.id for chunk in documents(tmp_path)] == ["m.enough"]


def test_the_first_of_what_repeats_is_kept(tmp_path: Path) -> None:
    first = f"A summary of it.\n\n{BODY}"
    write(tmp_path, "a.py", source(first, f"Another summary of it.\n\n{BODY}", f"A summary of it.\n\nMore. {BODY}"))
    write(tmp_path, "b.py", source(f"One more summary.\n\nTwice. {BODY}") + source(f"And yet another.\n\nLast. {BODY}"))
    assert [chunk.id for chunk in documents(tmp_path)] == ["a.f0", "b.f0"]


def test_files_that_are_not_for_this_interpreter_are_passed_over(tmp_path: Path) -> None:
    good = source(f"A summary of it.\n\n{BODY} é")
    write(tmp_path, "broken.py", "def (:\n")
    write(tmp_path, "null.py", b"x = '\0'")
    write(tmp_path, "encoding.py", b'"""A summary of it.\n\n\xff' + BODY.encode() + b'"""')
    write(tmp_path, "deep.py", "x = " + "-" * 100_000 + "1")
    write(tmp_path, "escape.py", 'x = "\\d"\n')
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    write(tmp_path, "latin.py", b"# coding: latin-1\n" + good.encode("latin-1"))
    assert [(chunk.id, chunk.text) for chunk in documents(tmp_path)] == [("latin.f0", f"{BODY} é")]


def test_tests_and_installed_packages_are_left_out(tmp_path: Path) -> None:
    folders = ["site-packages", "test", "p/tests", "idlelib", "lib2to3", "turtledemo", "__pycache__", "p/kept"]
    for number, folder in enumerate(folders):
        write(tmp_path, f"{folder}/m.py", source(f"Summary of number {number}.\n\n{number} {BODY}"))
    assert [chunk.id for chunk in documents(tmp_path)] == ["p.kept.m.f0"]


def test_nothing_is_imported(tmp_path: Path) -> None:
    write(tmp_path, "danger.py", f'"""Raises when it runs.\n\n{BODY}"""\nraise SystemExit("ran")\n')
    assert [chunk.id for chunk in documents(tmp_path)] == ["danger"]
    assert "danger" not in sys.modules


@pytest.fixture(scope="module")
def corpus() -> list[Chunk]:
    return documents()


def test_the_standard_library_holds_about_two_thousand_documents(corpus: list[Chunk]) -> None:
    assert 1500 <= len(corpus) <= 3500
    assert {"json.encoder.JSONEncoder", "shutil.copytree", "textwrap.wrap"} <= {chunk.id for chunk in corpus}
    for key in [lambda chunk: chunk.id, lambda chunk: chunk.text, lambda chunk: chunk.title]:
        assert len({key(chunk) for chunk in corpus}) == len(corpus)


def test_no_body_gives_its_summary_away(corpus: list[Chunk]) -> None:
    told = [chunk.id for chunk in corpus if chunk.text.startswith(str(chunk.title))]
    assert told == []


def test_the_order_is_fixed_and_a_limit_takes_the_first(corpus: list[Chunk]) -> None:
    assert documents(limit=300) == corpus[:300]
    assert documents(limit=0) == []

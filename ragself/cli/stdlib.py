"""Demo corpus: docstrings of Python's standard library, each body searched for by its summary line."""

from __future__ import annotations

import ast
import os
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from ragself.schema import Chunk

_LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "__pycache__",
}
_MIN_BODY_CHARACTERS = 60
_MIN_SUMMARY_WORDS = 3
_BLANK_LINE = re.compile(r"\n[ \t]*\n")

_Definition: TypeAlias = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documents(root: Path | None = None, limit: int | None = None) -> list[Chunk]:
    """Read the docstrings in a folder of Python sources, without importing them.

    The text of a document is the body of a docstring; its title is the summary line, which the text does not
    repeat. The correct result of a search for a summary line is therefore known.

    Args:
        root: The folder; None means the standard library of the running interpreter.
        limit: Maximum number of documents, in path order; None means all.

    Returns:
        One chunk for each public module, class and function whose docstring is long enough, with the id
        ``module.qualname``. Every call returns the same chunks in the same order. Files that cannot be read or
        parsed are skipped.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    return list(islice(_distinct(_read(root)), limit))


def _read(root: Path) -> Iterator[Chunk]:
    for path in _sources(root):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tree = _parse(path)
        for name, docstring in _docstrings(tree, module) if tree else ():
            summary, body = _halves(docstring)
            if len(body) >= _MIN_BODY_CHARACTERS and len(summary.split()) >= _MIN_SUMMARY_WORDS:
                yield Chunk(name, body, {"source": module, "title": summary})


def _sources(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _parse(path: Path) -> ast.Module | None:
    """Parse a source file; None if this interpreter cannot read or parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in the sources
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """The docstrings of a node and of the public definitions in it, each with its dotted name."""
    if isinstance(node, ast.Module | _Definition):
        yield name, ast.get_docstring(node) or ""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return  # definitions inside a function are not public
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition) and not child.name.startswith("_"):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler):
            yield from _docstrings(child, name)


def _halves(docstring: str) -> tuple[str, str]:
    """Split a docstring at its first blank line into the summary, on one line, and the body."""
    first, *rest = _BLANK_LINE.split(docstring, maxsplit=1)
    return " ".join(first.split()), textwrap.dedent("".join(rest)).strip("\n")


def _distinct(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Drop chunks that share an id, text or title with an earlier chunk, as a search cannot distinguish them."""
    seen: set[tuple[str, str]] = set()
    for chunk in chunks:
        keys = {("id", chunk.id), ("text", chunk.text), ("title", str(chunk.title))}
        if seen.isdisjoint(keys):
            seen |= keys
            yield chunk

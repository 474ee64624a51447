"""Reading of files as text. A file that cannot be read is reported with the reason."""

from __future__ import annotations

import codecs
import importlib
import json
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import Declaration, ProcessingInstruction
from markdownify import ATX, MarkdownConverter

from ragself.errors import InputError
from ragself.schema import Skipped

MAX_BYTES = 50_000_000

_JUNK_FOLDERS = {"node_modules", "__pycache__"}
_VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
_MARKITDOWN = {
    ".pdf": "PdfConverter",
    ".docx": "DocxConverter",
    ".pptx": "PptxConverter",
    ".xlsx": "XlsxConverter",
}
_MAX_DETAIL = 200
_MAX_CONTROL_SHARE = 0.05
_CONTROL = re.compile(r"[\x01-\x07\x0e-\x1a\x1c-\x1f\x7f]")  # without tab, newlines, form feed and escape
_WIDE_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DECLARED = re.compile(rb"(?:charset|coding|encoding)\s*[:=]\s*[\"']?([\w.-]+)")  # HTML, Python, XML

# Heading adornments of docutils, and beginnings of lines that docutils does not treat as text.
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*\s*$")
_SHORTEST_SURE_ADORNMENT = 4
_NO_TEXT = re.compile(
    r"\s|\.\.(\s|$)|[-+*\u2022\u2023\u2043](\s|$)|:(?![: ])(?:[^:]|:(?!\s|$))*:(\s|$)|>>>\s|\|\s|__\s"
)
_DEEPEST_HEADING = 6

_NOT_READ_IN_HTML = "script, style, template, noscript, svg, nav, [role=navigation], a.headerlink"


@dataclass(frozen=True, slots=True)
class Document:
    """Text of a file.

    Attributes:
        source: The file's absolute path, with forward slashes.
        text: The text that was read. Lines end in a newline only.
        markdown: Whether headings are ``# ...`` lines. If False, a ``#`` has no meaning.
    """

    source: str
    text: str
    markdown: bool


def find(paths: Iterable[Path]) -> list[Path]:
    """List the files at paths, each once.

    A file is always included. A folder is searched recursively. Its files are sorted; hidden files, installed packages
    and caches are skipped. A linked folder is searched unless it was searched before or contains the folder that is
    being searched. A folder that cannot be listed is itself returned; :func:`read` gives the reason.

    Args:
        paths: Files and folders.

    Returns:
        The files, in the order of ``paths``.

    Raises:
        InputError: A path does not exist.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"{source_of(path)} does not exist; give existing files or folders")
        for file in _walk(path) if path.is_dir() else [path]:
            found.setdefault(source_of(file), file)
    return list(found.values())


def read(path: Path, max_bytes: int = MAX_BYTES) -> Document | Skipped:
    """Read one file as text. Formats with headings are converted to Markdown, others stay as they are.

    Args:
        path: The file.
        max_bytes: Size above which a file is skipped.

    Returns:
        The document, or the skipped file with the reason. No file content raises an error.
    """
    source = source_of(path)
    try:
        text, markdown = _load(path, max_bytes)
        if not text.strip():
            raise InputError("is empty, or has no text")
        return Document(source, text, markdown)
    except InputError as error:
        return Skipped(source, str(error))
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            return Skipped(source, "a link to a file that is not there")
        return Skipped(source, f"cannot be read: {error.strerror or error}")
    except Exception as error:  # converters raise errors of any kind for damaged files
        detail = " ".join(str(error).split())[:_MAX_DETAIL]
        return Skipped(source, f"cannot be converted to text: {type(error).__name__}: {detail}")


def source_of(path: Path) -> str:
    """Source name of a file: its absolute path. Links are kept; bytes that are not UTF-8 are escaped."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links, absolute() keeps '..'
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _walk(root: Path) -> list[Path]:
    files: list[Path] = []
    unlisted: list[OSError] = []
    seen: set[Path] = set()
    pending = [root]
    while pending:  # linked folders come after the real ones, so that files keep their own paths
        for name, folders, names in os.walk(pending.pop(0), onerror=unlisted.append):
            folder = Path(name)
            if folder.resolve() in seen or (folder != root and _VIRTUAL_ENVIRONMENT in names):
                folders.clear()
                continue
            seen.add(folder.resolve())
            folders[:] = [each for each in folders if each[0] != "." and each not in _JUNK_FOLDERS]
            links = [folder / each for each in sorted(folders) if (folder / each).is_symlink()]
            pending += [link for link in links if not root.resolve().is_relative_to(link.resolve())]
            files += [folder / each for each in names if each[0] != "."]
    return sorted([*files, *(Path(error.filename) for error in unlisted)])


def _load(path: Path, max_bytes: int) -> tuple[str, bool]:
    """Return the text of a file, and whether it is Markdown. Raises InputError with the reason if there is none."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()  # raises the error that prevented listing the folder
    if not stat.S_ISREG(status.st_mode):
        raise InputError("is not a regular file")
    if status.st_size > max_bytes:
        raise InputError(f"is larger than {max_bytes:,} bytes; split it, or raise the limit")
    suffix = path.suffix.lower()
    if suffix in _MARKITDOWN:
        return _clean(_markitdown(path, suffix)), suffix != ".pdf"
    text = _clean(_decode(path.read_bytes()))
    for endings, convert in _MARKDOWN_OF.items():
        if path.name.lower().endswith(endings):
            return _clean(convert(text)), True
    return text, False


def _decode(data: bytes) -> str:
    """Decode a file by its byte order mark, as UTF-8, or by its declared encoding. Nothing is guessed."""
    wide = data.startswith(_WIDE_MARKS)
    if b"\0" in data and not wide:
        raise InputError("is binary")
    try:
        text = data.decode(("utf-32" if data[:4] in _WIDE_MARKS else "utf-16") if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        declared = None if wide else _decode_declared(data)
        if declared is None:
            raise InputError(
                f"is not {error.encoding.upper()} (byte {error.start}); if it is text, save it as UTF-8,"
                " for example with: iconv -f WINDOWS-1252 -t UTF-8"
            ) from error
        text = declared
    if "\0" in text or len(_CONTROL.findall(text)) > _MAX_CONTROL_SHARE * len(text):
        raise InputError("is binary")
    return text


def _decode_declared(data: bytes) -> str | None:
    """Decode by the encoding that the first lines declare. None if none is declared or it does not fit."""
    declared = _DECLARED.search(data[:1024])
    try:
        text = data.decode(declared[1].decode("ascii")) if declared else None
    except (LookupError, ValueError):
        return None
    # If the declaration itself decodes differently, the declared encoding is wrong.
    return text if text and declared and declared[0].decode("ascii") in text else None


def _clean(text: str) -> str:
    """Normalise line ends to newlines. Remove NUL and replace lone surrogates, which no store accepts."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    return text.encode("utf-8", "replace").decode("utf-8")


def _markitdown(path: Path, suffix: str) -> str:
    try:
        library = importlib.import_module("markitdown")
        converters = importlib.import_module("markitdown.converters")
    except ImportError as error:
        raise InputError(f"{suffix} files need: pip install 'ragself[documents]'") from error
    # Call the converter directly, as MarkItDown would read a damaged file as plain text.
    converter = getattr(converters, _MARKITDOWN[suffix])()
    with path.open("rb") as stream:
        return str(converter.convert(stream, library.StreamInfo(extension=suffix)).markdown)


def _notebook_to_markdown(text: str) -> str:
    notebook = json.loads(text)
    language = notebook.get("metadata", {}).get("language_info", {}).get("name", "")
    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip("\n")
        if source.strip() and cell["cell_type"] == "code":
            fence = "~~~" if "```" in source else "```"
            source = f"{fence}{language}\n{source}\n{fence}"
        cells.append(source)
    return "\n\n".join(cell for cell in cells if cell.strip())


def _html_to_markdown(text: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that XHTML could be parsed more strictly
        soup = BeautifulSoup(text, "html.parser")
    for tag in soup.select(_NOT_READ_IN_HTML):
        tag.decompose()
    for instruction in soup(string=lambda text: isinstance(text, ProcessingInstruction | Declaration)):
        instruction.extract()
    # Remove titles only, not the head: without its end tag, the parser puts the body into the head.
    titles = [tag.extract().get_text(" ", strip=True) for tag in soup("title")]
    for image in soup("img"):
        image.replace_with(str(image.get("alt", "")))  # the address may be a base64 image
    try:
        converter = MarkdownConverter(
            heading_style=ATX,
            strip=["a"],
            escape_asterisks=False,
            escape_underscores=False,
            escape_misc=False,
        )
        body = converter.convert_soup(soup)
    except RecursionError:  # hundreds of unclosed paragraphs nest in each other
        body = soup.get_text("\n", strip=True)
    body = re.sub(r"\s*\n\s*\n\s*\n", "\n\n", body).strip()
    headed = soup.h1 is not None and soup.h1.get_text(strip=True)
    return body if headed or not body or not titles else f"# {titles[0]}\n\n{body}"


def _rst_to_markdown(text: str) -> str:
    """Rewrite the headings by the rules of docutils. All other lines stay as they are."""
    lines = text.split("\n")
    styles: list[str] = []
    out: list[str] = []
    number, begins = 0, True  # begins: a block, and so a heading, may begin at this line
    while number < len(lines):
        line = lines[number]
        style, title, height = _heading(*[*lines[number : number + 3], "", ""][:3]) if begins else ("", "", 0)
        if height:
            if style not in styles:
                styles.append(style)
            out.append(f"{'#' * min(styles.index(style) + 1, _DEEPEST_HEADING)} {title}")
        else:
            out.append(line)
            begins = not line.strip() or line[0].isspace() or (begins and bool(_NO_TEXT.match(line)))
        number += height or 1
    return "\n".join(out)


def _heading(first: str, second: str, third: str) -> tuple[str, str, int]:
    """Style, title and height in lines of the heading that starts here. Height 0 if none does."""
    if _ADORNMENT.match(first):
        style, title, height = first[0] * 2, second, 3
        fits = first.rstrip() == third.rstrip() and bool(second.strip()) and not _ADORNMENT.match(second)
    else:
        style, title, height = second[:1], first, 2
        fits = bool(first and _ADORNMENT.match(second)) and not _NO_TEXT.match(first)
    width = len((second if height == 2 else first).rstrip())
    fits = fits and (width >= min(len(title.rstrip()), _SHORTEST_SURE_ADORNMENT))
    return (style, title.strip(), height) if fits else ("", "", 0)


_MARKDOWN_OF: dict[tuple[str, ...], Callable[[str], str]] = {
    (".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd"): str,
    (".rst", ".rest", ".rst.txt"): _rst_to_markdown,
    (".html", ".htm", ".xhtml"): _html_to_markdown,
    (".ipynb",): _notebook_to_markdown,
}

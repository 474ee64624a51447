"""A short list of words that the prose of the package does without: each has a plain one."""

import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = {
    r"whoever|nobody|somebody": "the process, the thread, a user",
    r"anew|afresh": "again",
    r"of late": "recently",
    r"told of\b": "called with, reports",
    r"seen off": "rejected",
    r"taken back": "rolled back",
    r"mend(ed|s|ing)?": "repair, fix",
    r"witness(es)?": "rater",
}
FILES = [
    *sorted((ROOT / "ragself").rglob("*.py")),
    *(path for path in sorted((ROOT / "integrations").rglob("*.py")) if "tests" not in path.parts),
]
QUESTION = re.compile(r"(What|How|Whether|Which|Who|Why)\b")


def prose(path: Path) -> list[tuple[int, str]]:
    """Lines and texts of all strings and comments of a file."""
    with path.open("rb") as file:
        tokens = tokenize.tokenize(file.readline)
        return [(token.start[0], token.string) for token in tokens if token.type in (tokenize.STRING, tokenize.COMMENT)]


@pytest.mark.parametrize("words", PLAIN)
def test_the_prose_is_plain(words: str) -> None:
    pattern = re.compile(rf"\b({words})\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{line}: {pattern.search(text).group()}"  # type: ignore[union-attr]
        for path in FILES
        for line, text in prose(path)
        if pattern.search(text)
    ]
    assert not found, f"write instead: {PLAIN[words]}"


def test_no_module_is_described_by_a_question() -> None:
    first = {path: (prose(path) or [(0, "")])[0][1].strip('"') for path in FILES}
    assert len(first) > 150
    assert [str(path) for path, text in first.items() if QUESTION.match(text)] == []

from __future__ import annotations

from pathlib import Path

import pytest

from ragself.corpus.query_file import read_queries
from ragself.errors import InputError


def test_lines_are_queries_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("\ufeffone\n\n  \nand two\n", encoding="utf-8")
    assert read_queries(tmp_path / "asked.txt") == ["one", "and two"]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_a_query_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "asked.txt").write_text(text)
    with pytest.raises(InputError, match=r"asked\.txt holds no query"):
        read_queries(tmp_path / "asked.txt")
    assert read_queries(tmp_path / "asked.txt", or_none=True) == []

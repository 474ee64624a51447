"""XQuAD in another language as a BEIR folder: the same paragraphs and questions under the same ids."""

from __future__ import annotations

import shutil
from pathlib import Path


def nonenglish(xquad: Path, language: str, folder: Path) -> Path:
    """Make a BEIR folder of XQuAD's corpus and queries in a language.

    Args:
        xquad: BEIR folder of the English XQuAD, with ``lang/<language>/`` beside its labels.
        language: Its two letters, such as ``de``.
        folder: Where to make it; what is there is replaced.

    Returns:
        `folder`.

    Raises:
        FileNotFoundError: The language is not there.
    """
    source = xquad / "lang" / language
    if not (source / "corpus.jsonl").exists():
        there = ", ".join(sorted(path.name for path in (xquad / "lang").glob("*"))) or "none"
        raise FileNotFoundError(f"{source} holds no corpus.jsonl. Languages here: {there}.")
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        shutil.copyfile(source / name, folder / name)
    for labels in (xquad / "qrels").glob("*.tsv"):
        shutil.copyfile(labels, folder / "qrels" / labels.name)
    return folder

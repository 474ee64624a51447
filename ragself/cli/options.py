"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragself.config import KB_VARIABLE

if TYPE_CHECKING:
    from ragself.knowledge_base import KnowledgeBase

Kb = Annotated[Path, typer.Option("--kb", help="Folder of the knowledge base.", envvar=KB_VARIABLE)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Generator = Annotated[
    list[str] | None,
    typer.Option(
        help="The language model that supervises: URL of a vLLM server (repeat for several of one model), or name "
        "or path of a causal LM to load here. Default: the settings; with none, words are counted."
    ),
]
Queries = Annotated[Path | None, typer.Option(help="File of queries that users asked, one a line. No labels needed.")]

HERE = Path(".ragself")


def open_kb(kb: Path, *, light: bool = False) -> KnowledgeBase:
    """Open the knowledge base in a folder. Raises StoreError where there is none.

    Args:
        kb: The folder.
        light: It is asked one question: encode that without torch, which takes longer to load, where that is possible.
    """
    from ragself.knowledge_base import KnowledgeBase

    base = KnowledgeBase(kb, create=False)
    base._light = light
    return base

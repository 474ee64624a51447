"""Options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragself.config import KB_VARIABLE

if TYPE_CHECKING:
    from ragself.knowledge_base import KnowledgeBase

Kb = Annotated[Path, typer.Option("--kb", help="Folder of the knowledge base.", envvar=KB_VARIABLE)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
LanguageModel = Annotated[
    list[str] | None,
    typer.Option(
        help="Language model that supervises training: URL of a vLLM server (repeat for several servers of one "
        "model), or name or path of a causal LM to load in this process. Default: the settings; without a model "
        "there, word counts are used."
    ),
]
Queries = Annotated[Path | None, typer.Option(help="File of user queries, one per line. No labels needed.")]

HERE = Path(".ragself")


def open_kb(kb: Path, *, light: bool = False) -> KnowledgeBase:
    """Open the knowledge base in a folder. Raises StoreError if there is none.

    Args:
        kb: The folder.
        light: Encode without torch if possible. A single query takes less time than loading torch.
    """
    from ragself.knowledge_base import KnowledgeBase

    base = KnowledgeBase(kb, create=False)
    base.engine.light = light
    return base

"""Row formats of frameworks in Chroma: the embedded text is not always the stored document.

Plain chromadb and LangChain embed the document. LlamaIndex embeds the node's metadata with it, and stores the format of
that in ``_node_content`` (`llama_index.core.schema.BaseNode.get_content` in `MetadataMode.EMBED`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from string import Formatter
from typing import Any, Literal, TypeAlias

from ragself.schema import Chunk

Layout: TypeAlias = Literal["llama_index", "plain"]

_NODE = "_node_content"


def layout(metadata: Mapping[str, Any]) -> Layout:
    """Format of a row with this metadata."""
    return "llama_index" if _NODE in metadata else "plain"


def as_chunk(id: str, document: str, metadata: Mapping[str, Any] | None) -> Chunk:
    """Chunk of one row of a collection; its text is the embedded text."""
    metadata = metadata or {}
    text = document
    if layout(metadata) == "llama_index":
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # altered: LlamaIndex, too, takes the document
            text = _embedded(json.loads(metadata[_NODE]), document)
    return Chunk(id, text, metadata, document if document != text else None)


def flatten(chunk: Chunk) -> Chunk:
    """The chunk with spaces for line breaks in the embedded text, as in LangChain's `HuggingFaceEmbeddings`."""
    text = chunk.text.replace("\n", " ")
    return Chunk(chunk.id, text, chunk.metadata, chunk.shown if chunk.shown != text else None)


def _embedded(node: Mapping[str, Any], document: str) -> str:
    excluded = set(node.get("excluded_embed_metadata_keys", ()))
    separator = node.get("metadata_separator", node.get("metadata_seperator", "\n"))
    line, whole = node["metadata_template"], node["text_template"]
    lines = [_fill(line, key=key, value=str(value)) for key, value in node["metadata"].items() if key not in excluded]
    header = str(separator).join(lines)
    if node.get("class_name") != "Node":
        header = header.strip()
    return _fill(whole, content=document, metadata_str=header).strip() if header else document


def _fill(template: str, **values: str) -> str:
    """Fill a template from the data. Only plain names are allowed, neither attributes nor widths."""
    out = []
    for literal, name, width, conversion in Formatter().parse(template):
        out.append(literal)
        if name is not None:
            if width or conversion:
                raise ValueError(template)
            out.append(values[name])
    return "".join(out)

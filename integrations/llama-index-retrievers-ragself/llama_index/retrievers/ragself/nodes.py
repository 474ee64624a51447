"""Converts LlamaIndex nodes to ragself chunks and hits to nodes, in the layout of `ChromaVectorStore`."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, TextNode
from llama_index.core.vector_stores.utils import (
    legacy_metadata_dict_to_node,
    metadata_dict_to_node,
    node_to_metadata_dict,
)

from ragself import Chunk, Hit


def as_chunks(nodes: Sequence[BaseNode]) -> list[Chunk]:
    """Chunks with the text that LlamaIndex embeds; their metadata holds everything needed to restore the nodes.

    Raises:
        ValueError: The metadata of a node is nested.
    """
    return [_as_chunk(node) for node in nodes]


def as_node(hit: Hit) -> NodeWithScore:
    """The node of a hit. Chunks from other sources than LlamaIndex become text nodes with their id and metadata."""
    metadata = dict(hit.metadata)
    if "_node_content" not in metadata:
        return NodeWithScore(node=TextNode(text=hit.text, id_=hit.id, metadata=metadata), score=hit.score)
    try:
        node = metadata_dict_to_node(metadata, text=hit.text)
    except Exception:  # altered content: handled as in ChromaVectorStore
        metadata, info, relationships = legacy_metadata_dict_to_node(metadata)
        node = TextNode(
            text=hit.text,
            id_=hit.id,
            metadata=metadata,
            start_char_idx=info.get("start"),
            end_char_idx=info.get("end"),
            relationships=relationships,
        )
    return NodeWithScore(node=node, score=hit.score)


def _as_chunk(node: BaseNode) -> Chunk:
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=True)
    flat = {key: "" if value is None else value for key, value in metadata.items()}
    text, shown = node.get_content(MetadataMode.EMBED), node.get_content(MetadataMode.NONE)
    return Chunk(node.node_id, text, flat, shown if shown != text else None)

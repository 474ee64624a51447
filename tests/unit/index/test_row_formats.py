"""What LlamaIndex embedded is made again from its rows; its own nodes are compared in the tests of its retriever."""

import json
from typing import Any

import pytest

from ragself.index.row_formats import as_chunk, layout

NODE = {
    "class_name": "TextNode",
    "metadata": {"title": "T", "page": 3, "secret": "s"},
    "excluded_embed_metadata_keys": ["secret"],
    "metadata_template": "{key}: {value}",
    "metadata_separator": "\n",
    "text_template": "{metadata_str}\n\n{content}",
}


def row(**changed: Any) -> dict[str, Any]:
    return {"title": "another", "_node_content": json.dumps({**NODE, **changed})}


def test_rows_of_plain_chroma_are_as_they_are() -> None:
    chunk = as_chunk("id", "words", {"a": 1})
    assert (chunk.id, chunk.text, chunk.shown, chunk.document, chunk.metadata) == (
        "id", "words", "words", None, {"a": 1},
    )  # fmt: skip
    assert as_chunk("id", "words", None).metadata == {}
    assert layout({"a": 1}) == "plain"


def test_metadata_of_the_node_is_embedded_with_it_and_not_that_of_the_row() -> None:
    chunk = as_chunk("id", "words", row())
    assert chunk.text == "title: T\npage: 3\n\nwords"
    assert chunk.shown == "words"
    assert layout(row()) == "llama_index"


def test_a_node_that_embeds_no_metadata_is_its_text() -> None:
    assert as_chunk("id", " words ", row(metadata={})).text == " words "
    assert as_chunk("id", "words", row(excluded_embed_metadata_keys=["title", "page", "secret"])).document is None


def test_the_separator_has_two_spellings() -> None:
    node = {key: value for key, value in NODE.items() if key != "metadata_separator"}
    content = json.dumps({**node, "metadata_seperator": " & "})
    assert as_chunk("id", "words", {"_node_content": content}).text == "title: T & page: 3\n\nwords"


ALTERED = [
    "{not json",
    "[]",
    "null",
    "{}",
    json.dumps({**NODE, "metadata": [1]}),
    json.dumps({**NODE, "text_template": 3}),
    json.dumps({**NODE, "text_template": "{content:9}"}),
    json.dumps({**NODE, "metadata_template": "{key.__class__}"}),
    json.dumps({**NODE, "excluded_embed_metadata_keys": 3}),
]


@pytest.mark.parametrize("content", ALTERED)
def test_a_node_that_was_altered_is_its_text(content: str) -> None:
    chunk = as_chunk("id", "words", {"_node_content": content})
    assert (chunk.text, chunk.document) == ("words", None)

"""The tokenizer of a served model, where its file happens to be on this machine too: no request a text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

_FILE = "tokenizer.json"
_TRIED = (  # what tokenizers differ in: case, accents, digits, scripts, white space, a beginning without a space
    "The quick brown fox jumps over the lazy dog.",
    " Zürich naïve 3.14159 -2,718 I'm it's “x”",
    "def f(x):\n\treturn  x  # 東京 Москва العربية हिन्दी 🦊\n\n",
)


def local_tokenizer(root: str, ask: Callable[[str], list[int]]) -> Tokenizer | None:
    """Read the tokenizer of a model from its folder or from the Hugging Face cache, and compare it with the server's.

    Args:
        root: Path or name of the model as the server tells it.
        ask: The server's token ids of a text.

    Returns:
        The tokenizer, or None where it is not here or does not agree. Nothing is downloaded.
    """
    from tokenizers import Tokenizer

    path = _find(root)
    if path is None:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        logger.info("cannot read %s (%s): the server tokenizes", path, error)
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if all(tokenizer.encode(text, add_special_tokens=False).ids == ask(text) for text in _TRIED):
        return tokenizer
    logger.info("%s differs from the server's: the server tokenizes", path)
    return None


def _find(root: str) -> Path | None:
    local = Path(root) / _FILE
    if local.is_file():
        return local
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(root, _FILE)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None

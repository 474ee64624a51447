"""Local copy of a served model's tokenizer, if this machine has its file; it saves a request per text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

_FILE = "tokenizer.json"
_TRIED = (  # texts on which tokenizers differ: case, accents, digits, scripts, white space, no initial space
    "The quick brown fox jumps over the lazy dog.",
    " Zürich naïve 3.14159 -2,718 I'm it's “x”",
    "def f(x):\n\treturn  x  # 東京 Москва العربية हिन्दी 🦊\n\n",
)


def local_tokenizer(root: str, ask: Callable[[str], list[int]]) -> Tokenizer | None:
    """Read a model's tokenizer from its folder or the Hugging Face cache and compare it with the server's.

    Args:
        root: Path or name of the model, as reported by the server.
        ask: Returns the server's token ids of a text.

    Returns:
        The tokenizer, or None if it is not on this machine or differs. Nothing is downloaded.
    """
    from tokenizers import Tokenizer

    path = _find(root)
    if path is None:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exceptions
        logger.info("cannot read %s (%s): using the server's tokenizer", path, error)
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if all(tokenizer.encode(text, add_special_tokens=False).ids == ask(text) for text in _TRIED):
        return tokenizer
    logger.info("%s differs from the server's tokenizer: using the server's", path)
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

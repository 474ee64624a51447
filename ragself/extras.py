"""Optional dependencies: a clear message where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from ragself.errors import ConfigError

_LIBRARIES = {"report": ("jinja2", "matplotlib"), "lora": ("peft",)}  # by extra


def require(extra: str, purpose: str) -> None:
    """Raise ConfigError if a library of an extra is not installed.

    Args:
        extra: ``report`` or ``lora``.
        purpose: What needs it, as the subject of the message.
    """
    missing = [library for library in _LIBRARIES[extra] if find_spec(library) is None]
    if missing:
        raise ConfigError(
            f"{purpose} needs {' and '.join(missing)}, not installed here. Run: pip install 'ragself[{extra}]'"
        )

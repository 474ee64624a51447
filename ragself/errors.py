"""Every error that ragself raises on purpose.

    RagselfError
    ├── ConfigError            a setting that does not exist or cannot be
    ├── InputError             documents, queries or arguments that cannot be taken
    ├── EncoderError           the embedding model cannot be loaded, or is not the one expected
    ├── GeneratorError         the language model that supervises cannot be reached, loaded or used
    ├── LimitError             a pass in the background took more than it may
    ├── AdapterError           an adapter file that is corrupted, foreign or of another encoder
    ├── StoreError             the knowledge base on disk cannot be used as it is
    │   ├── StoreLocked        another process is writing to it
    │   └── StoreTooNew        a newer ragself wrote it
    └── VerificationError      a freshly built index version failed its checks; nothing was switched

Each message says what was found, what was expected and what to do next.
"""


class RagselfError(Exception):
    """Root of the tree: catch this to catch everything that ragself raises on purpose."""


class ConfigError(RagselfError):
    """A configuration key that does not exist, or a value out of its range."""


class InputError(RagselfError, ValueError):
    """Documents, queries or arguments that cannot be taken. Nothing was written."""


class EncoderError(RagselfError):
    """The embedding model cannot be loaded, or is not the one that the store was built with."""


class GeneratorError(RagselfError):
    """The language model that supervises cannot be reached, loaded or used. Scores had so far are kept."""


class LimitError(RagselfError):
    """A pass in the background took more time, memory or tokens than it may. What it had done is kept."""


class AdapterError(RagselfError):
    """An adapter file that is corrupted, foreign, or was trained for another encoder."""


class StoreError(RagselfError):
    """The knowledge base on disk is missing, damaged or not a knowledge base."""


class StoreLocked(StoreError):  # noqa: N818
    """Another process is writing to this knowledge base. The message names it."""


class StoreTooNew(StoreError):  # noqa: N818
    """The knowledge base was written by a newer version of ragself."""


class VerificationError(RagselfError):
    """A freshly built index version failed its checks. The live version was not touched."""

"""The errors that ragself raises on purpose.

    RagselfError
    ├── ConfigError            a setting does not exist or its value is invalid
    ├── InputError             documents, queries or arguments are invalid
    ├── EncoderError           the embedding model cannot be loaded, or is not the one expected
    ├── GeneratorError         the teacher language model cannot be reached, loaded or used
    ├── LimitError             a background pass exceeded a limit
    ├── AdapterError           an adapter file is corrupted, foreign or for another encoder
    ├── StoreError             the knowledge base on disk cannot be used as it is
    │   ├── StoreLocked        another process is writing to it
    │   └── StoreTooNew        a newer ragself wrote it
    └── VerificationError      a newly built index version failed its checks; the live version is unchanged

Each message says what was found, what was expected and what to do next.
"""


class RagselfError(Exception):
    """Base class of all errors that ragself raises on purpose."""


class ConfigError(RagselfError):
    """A configuration key does not exist, or a value is out of range."""


class InputError(RagselfError, ValueError):
    """Documents, queries or arguments are invalid. Nothing was written."""


class EncoderError(RagselfError):
    """The embedding model cannot be loaded, or is not the one that the store was built with."""


class GeneratorError(RagselfError):
    """The teacher language model cannot be reached, loaded or used. Scores so far are kept."""


class LimitError(RagselfError):
    """A background pass exceeded its limit of time, memory or tokens. Its work so far is kept."""


class AdapterError(RagselfError):
    """An adapter file is corrupted, foreign, or was trained for another encoder."""


class StoreError(RagselfError):
    """The knowledge base on disk is missing, damaged or not a knowledge base."""


class StoreLocked(StoreError):  # noqa: N818
    """Another process is writing to this knowledge base. The message names it."""


class StoreTooNew(StoreError):  # noqa: N818
    """The knowledge base was written by a newer version of ragself."""


class VerificationError(RagselfError):
    """A newly built index version failed its checks. The live version was not changed."""

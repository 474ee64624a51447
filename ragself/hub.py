"""Lookup of Hugging Face models: in the local cache, or by one short request to the hub."""

from __future__ import annotations

from pathlib import Path


def newest_revision(name: str) -> str:
    """Newest commit of a model, by one request with a short timeout. Raises the errors of the hub client."""
    from huggingface_hub import HfApi

    return str(HfApi().model_info(name, timeout=10).sha)


def cached_snapshot(name: str, revision: str | None, marker: str) -> Path | None:
    """Folder of a cached model that contains `marker` and weights, or None. Does not use the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, FileNotFoundError):
        return None
    # An interrupted download leaves a snapshot without weights.
    whole = (folder / marker).exists() and any(folder.glob("**/*.safetensors"))
    return folder if whole else None

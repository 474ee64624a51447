"""Models on the Hugging Face hub: what is on this machine already, and one short request for what is not."""

from __future__ import annotations

from pathlib import Path


def newest_revision(name: str) -> str:
    """Newest commit of a model: one short request, so that no network means no long wait. Raises what the hub does."""
    from huggingface_hub import HfApi

    return str(HfApi().model_info(name, timeout=10).sha)


def cached_snapshot(name: str, revision: str | None, marker: str) -> Path | None:
    """Folder of a model in the Hugging Face cache that holds `marker` and weights, or None. Asks no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, FileNotFoundError):
        return None
    # A download that was cut off leaves a snapshot without weights.
    whole = (folder / marker).exists() and any(folder.glob("**/*.safetensors"))
    return folder if whole else None

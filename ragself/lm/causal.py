"""A causal language model from transformers, in this process; computes logits only where they are needed."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ragself.config import DEFAULT_GENERATOR, GeneratorConfig
from ragself.errors import GeneratorError
from ragself.hub import cached_snapshot, newest_revision
from ragself.lm.language_model import Likelihoods, Pair
from ragself.lm.prompts import QUESTION_TOKENS, Writing

if TYPE_CHECKING:
    import torch

    from ragself.lm.white_box import WhiteBox
    from ragself.schema import Account

_WINDOW = 512  # pairs sorted by length at once: similar lengths share a batch, which saves padding
_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32_768}  # per batch, padding included
_LOGITS = {"cpu": 1 << 26, "mps": 1 << 27, "cuda": 1 << 30}  # number of logits per batch
_LIMIT = 4096  # tokens of context and target; longer contexts are never scored
_WRITTEN_AT_ONCE = 8


class CausalLM:
    """A frozen model in this process."""

    def __init__(self, config: GeneratorConfig) -> None:
        """Load the model from a folder, the Hugging Face cache or the hub. Code in the model repository is not run.

        Raises:
            GeneratorError: The model cannot be found or loaded, or is not a causal language model.
        """
        # Spinning OpenMP threads make torch ten times slower on a busy machine. torch reads this variable on import.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch

        self._torch = torch
        self._asked = asked = str(config.model)
        self._device = config.device or _best_device()
        dtype = _best_dtype(self._device) if config.dtype == "auto" else getattr(torch, config.dtype)
        self._model, self._tokenizer = _load(asked, config.revision, dtype, self._device)
        settings = self._model.config.get_text_config()
        self._vocabulary = int(settings.vocab_size)
        self.limit = min(int(getattr(settings, "max_position_embeddings", None) or _LIMIT), _LIMIT)
        self.name = f"transformers:{_fingerprint(self._model)}:{str(dtype).removeprefix('torch.')}"
        self._keeps = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self.begin = self._find_begin()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens around it."""
        if not texts:
            return []
        return list(self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])

    def score(self, pairs: Iterable[Pair]) -> Iterator[list[tuple[int, Likelihoods | None]]]:
        """Score pairs; see `LanguageModel.score`."""
        numbered = enumerate(pairs)
        while window := list(itertools.islice(numbered, _WINDOW)):
            for batch in self._batches(window):
                answers = self._score([pair for _, pair in batch])
                yield [(position, answer) for (position, _), answer in zip(batch, answers, strict=True)]

    def write(self, documents: Sequence[str], writing: Writing) -> Iterator[list[tuple[int, str | None]]]:
        """Write a question about each document; see `LanguageModel.write`."""
        torch = self._torch
        chats = bool(getattr(self._tokenizer, "chat_template", None))
        order = sorted(range(len(documents)), key=lambda row: len(documents[row]))
        for start in range(0, len(order), _WRITTEN_AT_ONCE):
            rows = order[start : start + _WRITTEN_AT_ONCE]
            ids = [self._ask(writing, documents[row], chats) for row in rows]
            longest = max(len(row) for row in ids)
            pad = self._tokenizer.pad_token_id
            pad = self._tokenizer.eos_token_id if pad is None else pad
            padded = torch.tensor([[pad or 0] * (longest - len(row)) + row for row in ids], device=self._device)
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=self._device)
            with torch.inference_mode():
                out = self._model.generate(
                    padded, attention_mask=mask, max_new_tokens=QUESTION_TOKENS, pad_token_id=pad or 0, do_sample=False
                )
            texts = self._tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
            yield list(zip(rows, texts if chats else [text.split("\n")[0] for text in texts], strict=True))

    def white_box(self, account: Account | None = None) -> WhiteBox:
        """White-box access to the model, for objectives that need its gradient.

        Args:
            account: Account that the tokens read are added to; None creates one.

        Raises:
            GeneratorError: The model's attention cannot be replaced.
        """
        from ragself.lm.white_box import WhiteBox

        return WhiteBox(self._model, self._asked, self.limit, account)

    def close(self) -> None:
        """Release the model."""
        self._model = None
        if self._device.startswith("cuda"):
            self._torch.cuda.empty_cache()

    def _ask(self, writing: Writing, document: str, chats: bool) -> list[int]:
        if chats:
            messages = [{"role": "user", "content": writing.chat.format(document=document)}]
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            return list(self.encode([text])[0])
        return [*self.begin, *self.encode([writing.plain.format(document=document)])[0]]

    def _batches(self, window: list[tuple[int, Pair]]) -> Iterator[list[tuple[int, Pair]]]:
        """Batches of pairs of similar length, longest first, as large as the limits of the device allow."""
        kind = self._device.split(":")[0]
        tokens, logits = _TOKENS.get(kind, 2048), _LOGITS.get(kind, 1 << 26)
        window.sort(key=lambda item: (-len(item[1][0]) - len(item[1][1]), -len(item[1][0])))
        batch: list[tuple[int, Pair]] = []
        first = longest = 0
        for item in window:
            context, target = item[1]
            begin = min(first, len(context)) if batch else len(context)
            end = max(longest, len(context) + len(target))
            rows = len(batch) + 1
            if batch and (rows * end > tokens or rows * (end - begin) * self._vocabulary > logits):
                yield batch
                batch, begin, end = [], len(context), len(context) + len(target)
            batch.append(item)
            first, longest = begin, end
        if batch:
            yield batch

    def _score(self, pairs: Sequence[Pair]) -> list[Likelihoods | None]:
        """Run one forward pass. Padding is on the right, where a causal model does not see it: no mask is needed."""
        torch = self._torch
        lengths = [len(context) + len(target) for context, target in pairs]
        first = min(len(context) for context, _ in pairs) - 1  # the first position that predicts a target
        ids = torch.zeros((len(pairs), max(lengths)), dtype=torch.long)
        for row, (context, target) in enumerate(pairs):
            ids[row, : lengths[row]] = torch.tensor([*context, *target])
        ids = ids.to(self._device)
        keep = {"logits_to_keep": torch.arange(first, max(lengths) - 1, device=self._device)} if self._keeps else {}
        values = None
        try:
            with torch.inference_mode():
                logits = self._model(input_ids=ids, use_cache=False, **keep).logits
                if not self._keeps:
                    logits = logits[:, first : max(lengths) - 1]
                found = logits.gather(2, ids[:, first + 1 :, None])[:, :, 0].float() - logits.float().logsumexp(dim=2)
                values = found.cpu().numpy()
        except torch.OutOfMemoryError as error:
            if len(pairs) == 1:
                raise GeneratorError(
                    f"{self._device} has no memory for a text of {max(lengths)} tokens. Set generator.context lower, "
                    "or generator.device to cpu."
                ) from error
        if values is None:  # outside the except block, the error no longer holds the memory of the full batch
            half = len(pairs) // 2
            return [*self._score(pairs[:half]), *self._score(pairs[half:])]
        out: list[Likelihoods | None] = []
        for row, (context, target) in enumerate(pairs):
            start = len(context) - 1 - first
            answer = values[row, start : start + len(target)].astype(np.float32)
            out.append(answer if np.isfinite(answer).all() else None)
        return out

    def _find_begin(self) -> list[int]:
        plain, special = self.encode(["a"])[0], list(self._tokenizer("a")["input_ids"])
        start = next((at for at in range(len(special)) if special[at : at + len(plain)] == plain), 0)
        return special[:start]


def _load(name: str, revision: str | None, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # errors are reported below, in one sentence
    try:
        where, revision = _locate(name, revision)
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
        model, info = AutoModelForCausalLM.from_pretrained(
            where,
            revision=revision,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        model = model.to(device).eval().requires_grad_(False)
    except GeneratorError:
        raise
    except Exception as error:  # the hub client, safetensors and transformers raise dozens of types
        raise GeneratorError(
            f"Cannot load the language model {name!r} ({type(error).__name__}: {_first_line(error)}). Expected the "
            "folder of a causal language model in safetensors, a model in the Hugging Face cache or on a reachable "
            f"hub, or the URL of a vLLM server. A small model with a free licence is {DEFAULT_GENERATOR}."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    _refuse_others(name, model, info["missing_keys"])
    return model, tokenizer


def _locate(name: str, revision: str | None) -> tuple[str, str | None]:
    """Find a model: a local folder, then the Hugging Face cache, then the hub. Returns folder, or name and commit."""
    local = Path(name).expanduser()
    if local.is_dir():
        wanted = {"config.json": "config.json", "*.safetensors": "weights (*.safetensors)", "tokenizer*": "tokenizer"}
        missing = [what for pattern, what in wanted.items() if not any(local.glob(pattern))]
        if missing:
            raise GeneratorError(
                f"The folder {name} holds no {', no '.join(missing)}. Expected the files of a causal language model; "
                f"a small one with a free licence is {DEFAULT_GENERATOR}."
            )
        return str(local), None
    if name.startswith(("/", ".", "~")) or name.endswith("/") or local.exists():
        found = "is a file" if local.is_file() else "does not exist"
        raise GeneratorError(
            f"The language model {name!r} {found}. Expected the folder of a model, the name of one, or the URL of a "
            f"vLLM server. A small model with a free licence is {DEFAULT_GENERATOR}."
        )
    cached = cached_snapshot(name, revision, "config.json")
    if cached is not None:
        return str(cached), None
    return name, revision or newest_revision(name)


def _refuse_others(name: str, model: Any, missing: Collection[str]) -> None:
    """Reject models that load but are not causal language models: weights are missing, or later tokens are visible."""
    import torch

    if missing:
        raise GeneratorError(
            f"{name} lacks the weights {', '.join(sorted(missing)[:3])}: it is not a causal language model (an "
            f"embedding model?) or its files are incomplete. A small one with a free licence is {DEFAULT_GENERATOR}."
        )
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]], device=model.device) % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        first, second = model(input_ids=ids).logits[:, :2].float()
    if not torch.allclose(first, second, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise GeneratorError(
            f"{name} sees the tokens that follow: it is not a causal language model. "
            f"A small one with a free licence is {DEFAULT_GENERATOR}."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _best_dtype(device: str) -> torch.dtype:
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device == "mps" else torch.float32


def _fingerprint(model: Any) -> str:
    """Hash of the weights and of the model settings that affect the output."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    settings = {key: value for key, value in model.config.to_diff_dict().items() if not key.startswith("_")}
    settings.pop("transformers_version", None)
    settings.pop("dtype", None)
    digest.update(repr(sorted(settings.items(), key=lambda item: item[0])).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

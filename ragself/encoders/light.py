"""Common BERT sentence encoders without torch, for a process that encodes one query and ends.

Importing torch and sentence-transformers and loading the model takes 5 seconds of processor time; encoding one query
takes 10 milliseconds. `ragself search` from a shell pays both. numpy, tokenizers and safetensors load in negligible
time and compute the same vectors, up to rounding.

It does not download, train or use a GPU. It supports only BERT with GELU and absolute positions, pooled by mean or
first token. For any other model, and in any case of doubt, `LightEncoder.open` returns None, and the full encoder is
loaded as everywhere else. It is slower than torch on many texts, so a long-running program gains nothing from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ragself.config import DEFAULT_ENCODER
from ragself.encoders.encoder import Encoder, _offline_package
from ragself.hub import cached_snapshot

logger = logging.getLogger(__name__)

Matrix = NDArray[np.float32]
Prompts = Mapping[Literal["query", "document"], str]

FEW = 64  # maximum number of texts that a `LazyEncoder` encodes at once without the full encoder
_BATCH = 32  # texts encoded at once, which limits the memory
_MODULES = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_CONFIG = {
    "model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False,
    "add_cross_attention": False, "pruned_heads": {}, "auto_map": {},
}  # fmt: skip
_TRANSFORMER = {
    "do_lower_case": False, "transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
}  # fmt: skip
_POOLING = {
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
_NORMALIZE = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
_OTHERS = ("adapter_config.json", "added_tokens.json", "preprocessor_config.json", "processor_config.json")
_AS_IT_IS = ("PreTrainedTokenizerFast", "TokenizersBackend")  # use tokenizer.json as it is
_ENDS = (("cls_token", "[CLS]"), ("sep_token", "[SEP]"))  # tokens before and after a text
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)  # Abramowitz and Stegun, 7.1.26


class _UnsupportedError(Exception):
    """The model is not supported."""


class LightEncoder:
    """An immutable BERT sentence encoder in numpy, whose vectors are L2-normalised float32.

    Attributes:
        dimension: Width of the vectors.
        fingerprint: Equal to that of the `Encoder` of the same folder and prompts.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        tokenizer: Any,
        pooling: str,
        prompts: Mapping[str, str],
        max_tokens: int,
    ) -> None:
        """Store the parts that `open` loads."""
        self.dimension = int(config["hidden_size"])
        self.fingerprint = _fingerprint(tensors, prompts, max_tokens)
        self._layers, self._heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._tensors = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
        self._tokenizer, self._pooling, self._prompts = tokenizer, pooling, prompts
        self._pools = ThreadpoolController().select(user_api="blas")

    @classmethod
    def open(cls, folder: Path, prompts: Prompts | None) -> LightEncoder | None:
        """Open the encoder in a folder, or return None if its model is not supported. Raises nothing.

        Args:
            folder: Folder of a sentence-transformers model.
            prompts: Prompts as in `EncoderConfig`; None uses those of the model.
        """
        try:
            return cls._opened(folder, prompts)
        except Exception as error:  # any file is possible; the full encoder reports what is wrong
            logger.debug("%s needs the full encoder: %s: %s", folder, type(error).__name__, error)
            return None

    @classmethod
    def _opened(cls, folder: Path, prompts: Prompts | None) -> LightEncoder:
        from safetensors.numpy import load_file

        _check(not any((folder / name).exists() for name in _OTHERS), "it has more parts than a plain model")
        config = _json(folder / "config.json")
        _check_all("config.json", config, _CONFIG)
        pooling = _pooling(folder, int(config["hidden_size"]))
        tokens = _json(folder / "tokenizer_config.json")
        longest = _longest(_json(folder / "sentence_bert_config.json"), tokens, int(config["max_position_embeddings"]))
        tokenizer = _tokenizer(folder / "tokenizer.json", tokens, longest)
        tensors = load_file(folder / "model.safetensors")
        tensors.pop("embeddings.position_ids", None)
        _check_tensors(tensors, config)
        return cls(config, tensors, tokenizer, pooling, _prompts(folder, prompts), longest)

    def documents(self, texts: Sequence[str]) -> Matrix:
        """Encode documents: (len(texts), dimension) float32, normalised."""
        return self._encode(texts, self._prompts["document"])

    def queries(self, texts: Sequence[str]) -> Matrix:
        """Encode queries: (len(texts), dimension) float32, normalised."""
        return self._encode(texts, self._prompts["query"])

    def _encode(self, texts: Sequence[str], prompt: str) -> Matrix:
        out = np.empty((len(texts), self.dimension), np.float32)
        with self._pools.limit(limits=1):  # threads that wait for each other cost more than they save
            for start in range(0, len(texts), _BATCH):
                rows = slice(start, start + _BATCH)
                out[rows] = self._vectors([self._tokenizer.encode(prompt + text).ids for text in texts[rows]])
        out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        return out

    def _vectors(self, texts: Sequence[Sequence[int]]) -> Matrix:
        """Pooled vectors of texts. The tokens of all texts are the rows of one matrix, without padding.

        Args:
            texts: Token ids of at least one text, with at least one token each.
        """
        ends = np.cumsum([len(text) for text in texts]).tolist()
        spans = [slice(end - len(text), end) for text, end in zip(texts, ends, strict=True)]
        positions = np.concatenate([np.arange(len(text)) for text in texts])
        hidden: Matrix = self._tensors["embeddings.word_embeddings.weight"][np.concatenate(texts)]
        hidden = hidden + self._tensors["embeddings.position_embeddings.weight"][positions]
        hidden = self._normed(hidden + self._tensors["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for number in range(self._layers):
            hidden = self._layer(hidden, f"encoder.layer.{number}", spans)
        return np.stack([hidden[span][0] if self._pooling == "cls" else hidden[span].mean(axis=0) for span in spans])

    def _layer(self, hidden: Matrix, name: str, spans: Sequence[slice]) -> Matrix:
        query, key, value = (
            self._linear(hidden, f"{name}.attention.self.{part}").reshape(len(hidden), self._heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        seen = np.empty_like(hidden)
        for span in spans:  # tokens attend only to tokens of the same text
            weights = query[:, span] @ key[:, span].swapaxes(1, 2) / np.float32(math.sqrt(query.shape[2]))
            weights = np.exp(weights - weights.max(axis=2, keepdims=True))
            weights /= weights.sum(axis=2, keepdims=True)
            seen[span] = (weights @ value[:, span]).swapaxes(0, 1).reshape(-1, self.dimension)
        seen = self._linear(seen, f"{name}.attention.output.dense")
        hidden = self._normed(hidden + seen, f"{name}.attention.output")
        wide = _gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        return self._normed(hidden + self._linear(wide, f"{name}.output.dense"), f"{name}.output")

    def _linear(self, rows: Matrix, name: str) -> Matrix:
        return rows @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]

    def _normed(self, rows: Matrix, name: str) -> Matrix:
        rows = rows - rows.mean(axis=1, keepdims=True)
        rows /= np.sqrt((rows * rows).mean(axis=1, keepdims=True) + np.float32(self._epsilon))
        return rows * self._tensors[f"{name}.LayerNorm.weight"] + self._tensors[f"{name}.LayerNorm.bias"]


class LazyEncoder(Encoder):
    """An `Encoder` that loads the full encoder on demand. Until then, a `LightEncoder` encodes small numbers of texts.

    Once loaded, the full encoder does everything.
    """

    def __init__(self, light: Callable[[], LightEncoder | None], load: Callable[[], Encoder], dimension: int) -> None:
        """Store the parts. Nothing is loaded yet.

        Args:
            light: Opens the light encoder. Returns None if there is none.
            load: Loads the full encoder. Raises EncoderError.
            dimension: Width of the vectors.
        """
        self._open, self._load = light, load
        self.dimension = dimension

    @cached_property
    def full(self) -> Encoder:
        """The full encoder, loaded on first use. Raises EncoderError."""
        return self._load()

    @cached_property
    def _without(self) -> LightEncoder | None:
        return self._open()

    def documents(self, texts: Sequence[str]) -> Matrix:
        """See `Encoder`. Raises EncoderError."""
        return self._for(texts).documents(texts)

    def queries(self, texts: Sequence[str]) -> Matrix:
        """See `Encoder`. Raises EncoderError."""
        return self._for(texts).queries(texts)

    def tuned(self, changes: Mapping[str, Matrix]) -> Encoder:
        """See `Encoder`. Raises AdapterError and EncoderError."""
        return self.full.tuned(changes)

    def _for(self, texts: Sequence[str]) -> LightEncoder | Encoder:
        if "full" in vars(self) or len(texts) > FEW:
            return self.full
        return self._without or self.full

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the full encoder."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.full, name)


def located(name: str, revision: str | None) -> Path | None:
    """Local folder in which `Encoder` would find a model, or None.

    Args:
        name: Name of the model, as in the settings.
        revision: Commit on the hub, or None.

    Raises:
        EncoderError: The offline package holds other weights.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    name = name if "/" in name else f"sentence-transformers/{name}"
    found = cached_snapshot(name, revision, "modules.json") if _in_cache(name) else None
    return found or (_offline_package() if name == DEFAULT_ENCODER else None)


def _in_cache(name: str) -> bool:
    """Whether the Hugging Face cache may contain a model. The check of the hub client takes a tenth of a second."""
    from huggingface_hub import constants

    return (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise _UnsupportedError(what)


def _check_all(file: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise if a key has another value than expected. Missing keys, and false values for false ones, are accepted."""
    for key, value in expected.items():
        _check(found.get(key, value) == value or (not value and not found[key]), f"{file} has {key} {found.get(key)!r}")


def _pooling(folder: Path, width: int) -> str:
    """Return the pooling mode. Raise if the model has other modules than transformer, pooling and normalisation."""
    modules = sorted(_json(folder / "modules.json"), key=lambda module: int(module["idx"]))
    kinds = [str(module["type"]) for module in modules]
    _check([kind.rpartition(".")[2] for kind in kinds] in _MODULES, f"it has the modules {kinds}")
    _check(all(kind.startswith("sentence_transformers.") for kind in kinds), f"it has the modules {kinds}")
    _check(modules[0]["path"] == "" and not any(module.get("kwargs") for module in modules), "modules.json has more")
    for module in modules[2:]:
        settings = folder / module["path"] / "config.json"
        _check_all("Normalize", _json(settings) if settings.exists() else {}, _NORMALIZE)
    config = _json(folder / modules[1]["path"] / "config.json")
    _check(config.get("include_prompt", True) is True, "its prompts are not pooled")
    _check(config.get("embedding_dimension", config.get("word_embedding_dimension")) == width, "its widths differ")
    modes = config.get("pooling_mode", [mode for key, mode in _POOLING.items() if config.get(key)])
    modes = [modes] if isinstance(modes, str) else list(modes)
    _check(modes in (["mean"], ["cls"]), f"it pools by {modes}")
    return str(modes[0])


def _longest(transformer: Mapping[str, Any], tokens: Mapping[str, Any], positions: int) -> int:
    """Maximum number of tokens that are read of a text."""
    _check_all("sentence_bert_config.json", transformer, _TRANSFORMER)
    more = [key for key in transformer.keys() - _TRANSFORMER.keys() - {"max_seq_length"} if transformer[key]]
    _check(not more, f"sentence_bert_config.json has {more}")
    longest = transformer.get("max_seq_length")
    if longest is None:
        longest = min(tokens.get("model_max_length") or positions, positions)
    _check(isinstance(longest, int) and 2 < longest <= positions, f"it reads {longest} of {positions} tokens")
    return int(longest)


def _tokenizer(path: Path, config: Mapping[str, Any], longest: int) -> Any:
    """Load the tokenizer. Raise if transformers would build another one from its two files."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer.from_file(str(path))
    first, last = (tokenizer.token_to_id(config.get(key, token)) for key, token in _ENDS)
    kind = config.get("tokenizer_class")
    if kind not in _AS_IT_IS:  # transformers rebuilds it from the vocabulary
        _check(kind in (None, "BertTokenizer", "BertTokenizerFast"), f"its tokenizer is a {kind}")
        normalizer, model = tokenizer.normalizer, tokenizer.model
        _check(isinstance(normalizer, normalizers.BertNormalizer), "its tokenizer has another normalizer")
        _check(isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer), "it splits words otherwise")
        _check(isinstance(model, models.WordPiece), "its tokenizer is no WordPiece")
        found = normalizer.clean_text, normalizer.lowercase, normalizer.strip_accents, normalizer.handle_chinese_chars
        wanted = (
            True, config.get("do_lower_case", True), config.get("strip_accents"),
            config.get("tokenize_chinese_chars", True),
        )  # fmt: skip
        _check(found == wanted, f"its normalizer has {found}, its settings {wanted}")
        parts = model.unk_token, model.continuing_subword_prefix, model.max_input_chars_per_word
        _check(parts == (config.get("unk_token", "[UNK]"), "##", 100), f"its WordPiece has {parts}")
    _check(config.get("truncation_side", "right") == "right", "it reads the end of long texts")
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    empty, word = tokenizer.encode(""), tokenizer.encode("a")
    _check(empty.ids == [first, last] and word.ids[:: len(word) - 1] == [first, last], "it puts other tokens around")
    _check(not any(word.type_ids), "it has token types")
    return tokenizer


def _check_tensors(tensors: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> None:
    """Raise if names, shapes and types of the weights are not exactly those of a BERT with these settings."""
    shapes = _shapes(config)
    _check({name: tensor.shape for name, tensor in tensors.items()} == shapes, "it has other weights than BERT")
    kinds = {str(tensor.dtype) for tensor in tensors.values()}
    _check(kinds in ({"float32"}, {"float16"}), f"its weights are {kinds}")
    declared = config.get("dtype") or config.get("torch_dtype") or next(iter(kinds))
    _check(declared in kinds, f"its weights are {kinds}, and run as {declared}")


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    embeddings = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    linear: dict[str, tuple[int, ...]] = {"pooler.dense": (width, width)}
    norms = ["embeddings"]
    for number in range(int(config["num_hidden_layers"])):
        name = f"encoder.layer.{number}"
        square = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
        linear |= {f"{name}.{part}": (width, width) for part in square}
        linear |= {f"{name}.intermediate.dense": (inner, width), f"{name}.output.dense": (width, inner)}
        norms += [f"{name}.attention.output", f"{name}.output"]
    out: dict[str, tuple[int, ...]] = {
        f"embeddings.{part}_embeddings.weight": (int(config[key]), width) for part, key in embeddings.items()
    }
    out |= {f"{name}.weight": shape for name, shape in linear.items()}
    out |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    return out | {f"{name}.LayerNorm.{part}": (width,) for name in norms for part in ("weight", "bias")}


def _prompts(folder: Path, given: Prompts | None) -> dict[str, str]:
    """Prompts of the `Encoder` of the folder."""
    path = folder / "config_sentence_transformers.json"
    config = _json(path) if path.exists() else {}
    _check(config.get("model_type", "SentenceTransformer") == "SentenceTransformer", "it is of another type")
    own = {} if given is not None else config.get("prompts") or {}
    return {"query": "", "document": ""} | {name: text or "" for name, text in own.items()} | dict(given or {})


def _fingerprint(tensors: Mapping[str, NDArray[Any]], prompts: Mapping[str, str], max_tokens: int) -> str:
    """Fingerprint equal to that of `Encoder`, in whose model the transformer is the first part."""
    digest = hashlib.blake2b(repr([max_tokens, sorted(prompts.items())]).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"0.model.{name} torch.{tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()


def _gelu(rows: Matrix) -> Matrix:
    """GELU: x times the share of a normal distribution below x. The error function is exact to 1.5e-7."""
    size = np.abs(rows) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = np.zeros_like(t)
    for factor in _ERF:
        series = (series + np.float32(factor)) * t
    erf = np.copysign(1 - series * np.exp(-size * size), rows)
    return np.asarray(rows * (1 + erf) / 2, np.float32)

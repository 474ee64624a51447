"""Settings: frozen values, read from ``ragself.toml`` in the knowledge base and from ``RAGSELF_*`` variables.

The defaults performed best in our measurements and are the same for every collection. Nothing needs to be set.
The environment overrides the file. ``RAGSELF_TRAIN__STEPS=200`` sets the key ``steps`` in the table ``[train]``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ragself.errors import ConfigError
from ragself.extras import require

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_GENERATOR = "HuggingFaceTB/SmolLM2-135M"
FILE_NAME = "ragself.toml"
ENV_PREFIX = "RAGSELF_"
KB_VARIABLE = "RAGSELF_KB"  # the command line's default folder; not a setting

_HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
_ADDRESS = re.compile(r"[\w.-]+:\d+(/|$)")

ObjectiveName: TypeAlias = Literal["distill", "dream", "revela"]

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not a URL; expected one such as http://127.0.0.1:8000")
    return value.rstrip("/")


class _Table(BaseModel):
    # Error messages omit values, because one of them may be an API key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class EncoderConfig(_Table):
    """The embedding model. It is fixed for a knowledge base: to change it, build a new one."""

    model: str = Field(DEFAULT_ENCODER, description="Any sentence-transformers model, by name or path.")
    revision: str | None = Field(None, description="Commit on the hub; None uses the newest.")
    device: str | None = Field(None, description="cpu, cuda or mps; None chooses the best available.")
    batch_size: Positive = 32
    prompts: dict[Literal["query", "document"], str] | None = Field(
        None, description='Text to put before each "query" and each "document"; None uses the model\'s own prompts.'
    )


class ProbesConfig(_Table):
    """Texts that stand in for user queries. Each number limits one source; traffic has priority."""

    traffic: Count = Field(4000, description="Maximum number of real user queries.")
    max_weight: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = Field(
        5.0, description="Each query is weighted by how often users searched for it, up to this limit."
    )
    questions: Count = Field(
        200, description="Maximum number of questions about chunks, written by the generator; none without one."
    )
    titles: Count = Field(
        2000, description="Maximum number of titles, headings and summary lines for training without traffic."
    )
    known_items: Count = Field(
        800, description="Maximum number of held-out titles and first sentences that detect regressions."
    )
    min_train: Positive = Field(
        50,
        description="Minimum number of training queries. Below it, titles are used, too; with too few of both, nothing "
        "is trained.",
    )


class QueriesConfig(_Table):
    """The query log. Nothing is stored unless `log` is set, and then only in `queries.db`."""

    log: bool = Field(False, description="Store the queries of `search` for training.")
    keep: Positive = Field(100_000, description="Maximum number of distinct queries; the most recent are kept.")
    days: Positive = Field(90, description="Days after its last use at which a query is deleted.")
    redact: str | None = Field(
        None, description="MODULE:FUNCTION that takes a query and returns the text to store, or None to store nothing."
    )


class GeneratorConfig(_Table):
    """The causal language model used as the teacher. With neither `url` nor `model`, word counts are used instead."""

    url: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="vLLM servers of one model, such as http://127.0.0.1:8000; comma-separated in a variable."
    )
    model: str | None = Field(
        None, description="Without `url`: name or path of a causal LM to load. With `url`: name of the served model."
    )
    api_key: SecretStr | None = Field(None, description="Value of --api-key that the server was started with.")
    revision: str | None = Field(None, description="Commit on the hub; None uses the newest.")
    device: str | None = Field(None, description="cpu, cuda or mps, for a local model; None chooses the best.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of a local model; auto is bfloat16 on a GPU that has it, float32 on a CPU."
    )
    context: Annotated[int, Field(ge=16)] = Field(512, description="Maximum number of tokens read from a document.")
    candidates: Annotated[int, Field(ge=4)] = Field(
        16, description="Documents to score per probe: half nearest, a quarter by words, a quarter random."
    )
    pairs: Positive = Field(20_000, description="Maximum number of document-probe pairs that a pass scores.")
    connections: Positive = Field(4, description="Concurrent requests to each server.")
    patience: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        300.0, description="Seconds to wait for a server that is unreachable or does not answer."
    )
    cache: Path | None = Field(
        None, description="Path of the score cache, if knowledge bases share one; None uses scores.db in the folder."
    )

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value().strip() if value is not None else ""  # a file may add a newline
        if not key.isascii() or not key.isprintable():
            raise ValueError("it has a character that no HTTP header can hold; expected the key given to the server")
        return SecretStr(key) if key else None

    @field_validator("url", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return json.loads(value) if value.lstrip().startswith("[") else tuple(url.strip() for url in value.split(","))

    @field_validator("url")
    @classmethod
    def _plain_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_url(url).removesuffix("/v1") for url in value)

    def at(self, *places: str) -> GeneratorConfig:
        """Return these settings with another generator.

        Args:
            places: URLs of vLLM servers, or the name or path of one causal LM.

        Raises:
            ConfigError: URLs and names are mixed, or there is more than one name.
        """
        urls = [place for place in places if place.startswith(("http://", "https://"))]
        if (
            not all(place.strip() for place in places)
            or not places
            or (urls and len(urls) < len(places))
            or (not urls and len(places) > 1)
        ):
            raise ConfigError(
                f"The generator is {', '.join(places) or 'empty'}; expected one or more URLs of vLLM servers that "
                "serve the same model, or the name or path of one causal language model."
            )
        if not urls and (_ADDRESS.match(places[0]) or "://" in places[0]):
            host = places[0].rpartition("://")[2]
            raise ConfigError(
                f"The generator {places[0]!r} is not the URL of a vLLM server. Did you mean http://{host}?"
            )
        served = self.model if self.url else None
        change = {"url": tuple(urls), "model": served} if urls else {"url": (), "model": places[0]}
        try:
            return type(self).model_validate({**self.model_dump(), **change})
        except ValidationError as error:
            raise ConfigError(_explain(error, "the generator")) from error


class TeacherConfig(_Table):
    """The training targets."""

    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Weight of the likelihood gain relative to the untrained ranking; None calibrates it."
    )
    dense: Positive = Field(64, description="Candidates per probe that are nearest by the live vectors.")
    lexical: Count = Field(64, description="Candidates per probe that are chosen by its words.")
    random: Count = Field(16, description="Candidates per probe drawn at random.")


class LoraConfig(_Table):
    """Training of `lora`."""

    sides: Literal["query", "both"] = Field(
        "query", description="Texts that it encodes: only queries, or both; with both, all documents are re-embedded."
    )
    rank: Positive = Field(16, description="Rank of the change to each weight matrix.")
    steps: Positive = Field(160, description="Maximum number of optimiser steps; each step uses 32 probes.")


class DreamConfig(_Table):
    """The objective `dream`."""

    documents: Annotated[int, Field(ge=2)] = Field(8, description="Documents in the context of a probe.")
    heads: Positive = Field(16, description="Maximum number of attention heads that the student weights.")


class RevelaConfig(_Table):
    """The objective `revela`."""

    chunks: Annotated[int, Field(ge=2)] = Field(16, description="Chunks per batch; they attend to each other.")
    model: Literal["frozen", "lora"] = Field(
        "frozen", description="With `lora`, the language model is trained, too; its LoRA weights are then discarded."
    )


class TrainConfig(_Table):
    """The training step."""

    adapters: tuple[Literal["weights", "residual", "lora"], ...] = Field(
        ("weights", "residual"),
        description="Candidates to train. `weights`: weights of the lexical scores and of single words. `residual`: a "
        "low-rank change of the vectors, and weights. `lora`: the encoder's own weights; this takes minutes.",
    )
    steps: Positive = Field(100, description="Number of optimiser steps; each step uses 64 probes.")
    seed: int = 0
    objective: ObjectiveName = Field(
        "distill",
        description="Training loss. `distill`: the distance to targets from likelihoods. `dream`, `revela`: the loss "
        "of a local language model, `generator.model`, with attention weighted by the student.",
    )
    tokens: Annotated[int, Field(ge=16)] = Field(
        160, description="Maximum tokens of a chunk, for `dream` and `revela`."
    )
    lora: LoraConfig = LoraConfig()
    dream: DreamConfig = DreamConfig()
    revela: RevelaConfig = RevelaConfig()


class GateConfig(_Table):
    """Conditions under which a candidate replaces the live version. Otherwise it is rejected."""

    k: Positive = Field(10, description="Depth at which rankings are evaluated.")
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    gain: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.003, description="Minimum gain of a metric; a smaller one is not promoted, however certain it is."
    )
    margin: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.02,
        description="Loss of a metric that the held-out probes must be able to rule out. If they are too few for that, "
        "nothing is promoted.",
    )
    min_probes: Positive = Field(30, description="Minimum number of held-out probes; with fewer, nothing is promoted.")


class WatchConfig(_Table):
    """Triggers and limits of background training."""

    every: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        86_400.0, description="Seconds after which a pass starts if anything is new."
    )
    documents: Count = Field(
        1000, description="Number of new, changed and deleted chunks that starts a pass earlier; 0 disables this."
    )
    queries: Count = Field(
        500, description="Number of logged queries, new ones only, that starts a pass earlier; 0 disables this."
    )
    rest: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        900.0, description="Minimum number of seconds between the end of a pass and the start of the next."
    )
    hours: str | None = Field(None, description="Local time when passes may run, such as 22:00-06:00; None is any.")
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(120.0, description="Maximum minutes of a pass.")
    cpu_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Maximum processor time of all passes within 24 hours, in minutes; None means no limit."
    )
    tokens: Positive | None = Field(
        None, description="Maximum language model tokens, read and written, within 24 hours; None means no limit."
    )
    memory: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        4.0, description="Maximum resident memory of the training process, in gigabytes."
    )
    nice: Annotated[int, Field(ge=0, le=19)] = Field(
        19, description="Unix niceness of the training process; with 19 it uses only idle processor time."
    )
    threads: Positive = Field(1, description="Number of threads of the training process.")
    poll: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        30.0, description="Seconds between two checks for anything to do."
    )

    @field_validator("hours")
    @classmethod
    def _hours(cls, value: str | None) -> str | None:
        if value is not None and not _HOURS.fullmatch(value):
            raise ValueError("expected two times of day such as 22:00-06:00")
        return value


class Config(BaseSettings):
    """All settings of one knowledge base."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    encoder: EncoderConfig = EncoderConfig()
    probes: ProbesConfig = ProbesConfig()
    queries: QueriesConfig = QueriesConfig()
    generator: GeneratorConfig = GeneratorConfig()
    teacher: TeacherConfig = TeacherConfig()
    train: TrainConfig = TrainConfig()
    gate: GateConfig = GateConfig()
    watch: WatchConfig = WatchConfig()
    chroma: str | None = Field(
        None,
        description="Location of the vectors: URL of a Chroma server, for several processes that write, or `folder`. "
        "None keeps the location set at creation, by default the folder. `ragself gc` moves the vectors.",
    )
    keep_versions: Positive = Field(3, description="Versions that gc keeps besides version 0 and the live one.")
    keep_scores: Positive = Field(90, description="Days without use after which gc removes a score.")

    @field_validator("chroma")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        return value if value in (None, "folder") else _url(value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Set the priority: arguments, then the environment, then the file given to `load`."""
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, toml


def load(directory: str | Path | None = None, **overrides: Any) -> Config:
    """Read the settings of a knowledge base.

    Args:
        directory: Folder that may contain a ``ragself.toml``; None reads only the environment.
        overrides: Tables or keys that take precedence over both.

    Raises:
        ConfigError: A key is unknown, a value is out of range, or the file is not valid TOML.
    """
    file = Path(directory).expanduser() / FILE_NAME if directory else None

    class FileConfig(Config):
        model_config = SettingsConfigDict(toml_file=file if file and file.exists() else None)

    where = f"{file} or {ENV_PREFIX}* variables" if file else f"{ENV_PREFIX}* variables"
    _refuse_unknown_variables()
    try:
        loaded = FileConfig(**overrides)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from error
    except ValueError as error:  # including tomllib.TOMLDecodeError and malformed JSON in variables
        raise ConfigError(f"Cannot read the settings in {where}: {error}. Correct the line it names.") from error
    values = {name: getattr(loaded, name) for name in Config.model_fields}
    return Config.model_construct(loaded.model_fields_set, **values)


def with_generator(config: Config, generator: str | Sequence[str] | None) -> Config:
    """Return the settings with another generator; None keeps the current one.

    Args:
        config: Settings.
        generator: URL of a vLLM server, several URLs of servers with the same model, or the name or path of a model.

    Raises:
        ConfigError: URLs and names are mixed, or there is more than one name.
    """
    if generator is None:
        return config
    places = [generator] if isinstance(generator, str) else list(generator)
    return config.model_copy(update={"generator": config.generator.at(*places)})


def with_objective(config: Config, objective: ObjectiveName | None) -> Config:
    """Return the settings with another objective; None keeps the current one.

    Raises:
        ConfigError: The objective needs a locally loaded language model and none is named, it does not exist, or a
            library that training needs is not installed.
    """
    if objective is not None:
        try:
            train = TrainConfig.model_validate({**config.train.model_dump(), "objective": objective})
        except ValidationError as error:
            raise ConfigError(_explain(error, "the objective")) from error
        config = config.model_copy(update={"train": train})
    if config.train.objective != "distill" and not config.generator.model:
        raise ConfigError(
            f"The objective {config.train.objective} trains on the loss of a language model, which must be loaded in "
            "this process; "
            + (
                "the settings name a server. Also set generator.model to the name or path of the served model."
                if config.generator.url
                else f"none is named. Name one, such as --generator {DEFAULT_GENERATOR}, or set generator.model."
            )
        )
    if "lora" in config.train.adapters or config.train.objective == "revela":
        require("lora", "lora" if "lora" in config.train.adapters else "The objective revela")
    return config


def _refuse_unknown_variables() -> None:
    """Reject unknown variables: pydantic-settings ignores them, and a misspelt one would go unnoticed."""
    for name in os.environ:
        if not name.startswith(ENV_PREFIX) or name == KB_VARIABLE:
            continue
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        if path[0] not in Config.model_fields:
            known = ", ".join(Config.model_fields)
            raise ConfigError(f"Unknown variable {name}: there is no setting {path[0]!r}. Settings: {known}.")
        for depth in range(1, len(path)):
            keys, table = _keys(path[:depth]), ".".join(path[:depth])
            if path[depth] not in keys:
                known = ", ".join(keys) or "none"
                raise ConfigError(f"Unknown variable {name}: [{table}] has no key {path[depth]!r}. Its keys: {known}.")


def _keys(path: Sequence[str]) -> list[str]:
    """Keys of a table of settings; none where the path names no table."""
    table: type[BaseModel] = Config
    for name in path:
        field = table.model_fields.get(name)
        if field is None or not isinstance(field.default, BaseModel):
            return []
        table = type(field.default)
    return list(table.model_fields)


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            keys = _keys([str(part) for part in item["loc"][:-1]])
            lines.append(f"unknown key {path!r}; known here: {', '.join(keys)}")
        else:
            value = "..." if "api_key" in path or "@" in repr(item["input"]) else repr(item["input"])
            message = item["msg"] if "@" not in item["msg"] else "not a URL; expected one such as http://127.0.0.1:8000"
            lines.append(f"{path} = {value}: {message}")
    return f"Bad settings in {where}: " + "; ".join(lines) + "."

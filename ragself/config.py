"""Settings: frozen values, read from ``ragself.toml`` in the knowledge base and from ``RAGSELF_*``.

The defaults are the measured best and the same for every collection; nothing needs to be set.
Environment beats file, and ``RAGSELF_TRAIN__STEPS=200`` is the key ``steps`` in the table ``[train]``.
"""

from __future__ import annotations

import json
import os
import re
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

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_GENERATOR = "HuggingFaceTB/SmolLM2-135M"
FILE_NAME = "ragself.toml"
ENV_PREFIX = "RAGSELF_"
KB_VARIABLE = "RAGSELF_KB"  # the command line's default folder, no setting

_HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
_ADDRESS = re.compile(r"[\w.-]+:\d+(/|$)")

ObjectiveName: TypeAlias = Literal["distill", "dream", "revela"]

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no URL; expected one such as http://127.0.0.1:8000")
    return value.rstrip("/")


class _Table(BaseModel):
    # Values are kept out of error texts: one of them may be a key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class EncoderConfig(_Table):
    """The embedding model. It belongs to the knowledge base: changing it means building a new one."""

    model: str = Field(DEFAULT_ENCODER, description="Any sentence-transformers model, by name or path.")
    revision: str | None = Field(None, description="Commit on the hub; None takes the newest.")
    device: str | None = Field(None, description="cpu, cuda or mps; None chooses the best there is.")
    batch_size: Positive = 32
    prompts: dict[Literal["query", "document"], str] | None = Field(
        None, description='What is put before a "query" and before a "document"; None leaves that to the model.'
    )


class ProbesConfig(_Table):
    """Which texts stand for what users ask. Each number caps its source; traffic comes first."""

    traffic: Count = Field(4000, description="Queries of the user's own.")
    max_weight: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = Field(
        5.0, description="A query counts as often as it was asked, but no more than this."
    )
    questions: Count = Field(200, description="Questions that the generator writes about chunks; none without one.")
    titles: Count = Field(2000, description="Titles, headings and summary lines, to train on without traffic.")
    known_items: Count = Field(800, description="Held-out titles and first sentences that guard against harm.")
    min_train: Positive = Field(
        50, description="With fewer queries titles are trained on; with fewer of both, nothing."
    )


class QueriesConfig(_Table):
    """What is remembered of what users ask. Nothing, unless `log` is set; never anywhere but in `queries.db`."""

    log: bool = Field(False, description="Remember the queries of `search`, to learn from them.")
    keep: Positive = Field(100_000, description="Distinct queries that are kept, those last asked.")
    days: Positive = Field(90, description="A query is forgotten so many days after it was last asked.")
    redact: str | None = Field(
        None, description="MODULE:FUNCTION that takes a query and returns what may be kept of it, or None."
    )


class GeneratorConfig(_Table):
    """The causal language model that supervises. With neither `url` nor `model`, words are counted instead."""

    url: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="vLLM servers of one model, such as http://127.0.0.1:8000; in a variable with commas between."
    )
    model: str | None = Field(
        None, description="Without `url` a causal LM to load, by name or path; with it the name that is served."
    )
    api_key: SecretStr | None = Field(None, description="What the server was started with as --api-key.")
    revision: str | None = Field(None, description="Commit on the hub; None takes the newest.")
    device: str | None = Field(None, description="cpu, cuda or mps for a model loaded here; None chooses the best.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of a model loaded here; auto is bfloat16 on a GPU that has it, float32 on a CPU."
    )
    context: Annotated[int, Field(ge=16)] = Field(512, description="Tokens of a document that are read, at most.")
    candidates: Annotated[int, Field(ge=4)] = Field(
        16, description="Documents per probe that are scored: half nearest, a quarter by words, a quarter random."
    )
    pairs: Positive = Field(20_000, description="Pairs of document and probe that a pass scores, at most.")
    connections: Positive = Field(4, description="Requests in flight to each server.")
    patience: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        300.0, description="Seconds to wait for a server that is away or does not answer."
    )
    cache: Path | None = Field(
        None, description="File of scores, to share it between knowledge bases; None is scores.db in the folder."
    )

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value().strip() if value is not None else ""  # as read from a file
        if not key.isascii() or not key.isprintable():
            raise ValueError("it holds a character that no HTTP header can; expected the key that the server was given")
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
        """The same settings for another generator.

        Args:
            places: URLs of vLLM servers, or one name or path of a causal LM.

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
                "serve the same model, or one name or path of a causal language model."
            )
        if not urls and (_ADDRESS.match(places[0]) or "://" in places[0]):
            host = places[0].rpartition("://")[2]
            raise ConfigError(f"The generator {places[0]!r} is no URL of a vLLM server. Did you mean http://{host}?")
        served = self.model if self.url else None
        change = {"url": tuple(urls), "model": served} if urls else {"url": (), "model": places[0]}
        try:
            return type(self).model_validate({**self.model_dump(), **change})
        except ValidationError as error:
            raise ConfigError(_explain(error, "the generator")) from error


class TeacherConfig(_Table):
    """What the student learns from."""

    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Weight of the likelihood gain on top of the untrained ranking; None calibrates it."
    )
    dense: Positive = Field(64, description="Candidates per probe from the live vectors.")
    lexical: Count = Field(64, description="Candidates per probe that its words choose.")
    random: Count = Field(16, description="Candidates per probe drawn at random.")


class TrainConfig(_Table):
    """The training step."""

    adapters: tuple[Literal["weights", "residual", "lora"], ...] = Field(
        ("weights", "residual"),
        description="Which candidates to train. `weights`: of the lexical scores and of single words. `residual`: a "
        "low-rank change of the vectors, and weights. `lora`: the encoder's own weights; that takes minutes.",
    )
    steps: Positive = Field(100, description="Optimiser steps; a step sees 64 probes.")
    seed: int = 0
    lora_sides: Literal["query", "both"] = Field(
        "query",
        description="What `lora` encodes: queries alone, or documents, too, all of which are then embedded anew.",
    )
    lora_rank: Positive = Field(16, description="Of the change that `lora` makes to each matrix of weights.")
    lora_steps: Positive = Field(160, description="Optimiser steps of `lora` at most; a step reads 32 probes.")
    objective: ObjectiveName = Field(
        "distill",
        description="What is lowered: the distance to what likelihoods say; or the loss of a language model that is "
        "loaded here, `generator.model`, which reads what the student finds near.",
    )
    tokens: Annotated[int, Field(ge=16)] = Field(160, description="Of a chunk that `dream` and `revela` read, at most.")
    dream_documents: Annotated[int, Field(ge=2)] = Field(8, description="In the context of a probe.")
    dream_heads: Positive = Field(16, description="Attention heads that obey the student, at most.")
    revela_chunks: Annotated[int, Field(ge=2)] = Field(16, description="That see each other in a batch.")
    revela_model: Literal["frozen", "lora"] = Field(
        "frozen", description="Whether the language model learns along, by LoRA that is thrown away afterwards."
    )


class GateConfig(_Table):
    """When a candidate replaces the live version. The default answer is no."""

    k: Positive = Field(10, description="Depth at which rankings are judged.")
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    gain: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.003, description="A smaller rise of a metric is no reason to switch, however sure it is."
    )
    margin: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.02,
        description="Loss of a metric that the held-out probes must be able to exclude; where they are too few for it, "
        "nothing is promoted.",
    )
    min_probes: Positive = Field(30, description="With fewer held-out probes, nothing is promoted.")


class WatchConfig(_Table):
    """When learning in the background begins, and what it may take."""

    every: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        86_400.0, description="Seconds after which a pass begins where anything is new."
    )
    documents: Count = Field(
        1000, description="New, changed and deleted chunks after which one begins earlier; 0 never."
    )
    queries: Count = Field(
        500, description="Remembered queries, never asked before, after which one begins earlier; 0 never."
    )
    rest: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        900.0, description="Seconds from the end of a pass to the beginning of the next, at least."
    )
    hours: str | None = Field(None, description="Local time in which passes run, such as 22:00-06:00; None is any.")
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(120.0, description="That a pass may take.")
    cpu_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Of processor time that passes may take within 24 hours; None sets no bound."
    )
    tokens: Positive | None = Field(
        None, description="That a language model may read and write within 24 hours; None sets no bound."
    )
    memory: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        4.0, description="Gigabytes of resident memory that the process of a pass may have."
    )
    nice: Annotated[int, Field(ge=0, le=19)] = Field(
        19, description="How far that process stands back for others; with 19 it has what they leave."
    )
    threads: Positive = Field(1, description="Of that process.")
    poll: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        30.0, description="Seconds between two looks for whether there is anything to do."
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
        description="URL of a Chroma server that holds the vectors, for several processes that write, or `folder`; "
        "None keeps them where they were first, in the folder unless said otherwise then. `ragself gc` moves them.",
    )
    keep_versions: Positive = Field(3, description="Versions that gc keeps, besides 0 and the live one.")
    keep_scores: Positive = Field(90, description="Days after which gc removes scores that no pass has used since.")

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
        """Arguments beat the environment, which beats the file given to `load`."""
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, toml


def load(directory: str | Path | None = None, **overrides: Any) -> Config:
    """Read the settings of a knowledge base.

    Args:
        directory: Folder that may hold a ``ragself.toml``; None reads only the environment.
        overrides: Tables or keys that beat both.

    Raises:
        ConfigError: For an unknown key, a value out of its range, or a file that is no TOML.
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
    except ValueError as error:  # tomllib.TOMLDecodeError is one; so are malformed JSON variables
        raise ConfigError(f"Cannot read the settings in {where}: {error}. Correct the line it names.") from error
    values = {name: getattr(loaded, name) for name in Config.model_fields}
    return Config.model_construct(loaded.model_fields_set, **values)


def aimed(config: Config, objective: ObjectiveName | None) -> Config:
    """The same settings for another objective, None for their own.

    Raises:
        ConfigError: It needs a language model that is loaded here, and none is named; or there is no such objective.
    """
    if objective is not None:
        try:
            train = TrainConfig.model_validate({**config.train.model_dump(), "objective": objective})
        except ValidationError as error:
            raise ConfigError(_explain(error, "the objective")) from error
        config = config.model_copy(update={"train": train})
    if config.train.objective != "distill" and not config.generator.model:
        raise ConfigError(
            f"The objective {config.train.objective} learns from the loss of a language model, which must be loaded in "
            "this process; "
            + (
                "the settings name a server. Set generator.model, too, to the name or path of what it serves."
                if config.generator.url
                else f"none is named. Name one, such as --generator {DEFAULT_GENERATOR}, or set generator.model."
            )
        )
    return config


def _refuse_unknown_variables() -> None:
    """pydantic-settings ignores variables that match no field; a misspelt one must not be ignored."""
    for name in os.environ:
        if not name.startswith(ENV_PREFIX) or name == KB_VARIABLE:
            continue
        table, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        field = Config.model_fields.get(table)
        if field is None:
            raise ConfigError(
                f"Unknown variable {name}: there is no setting {table!r}. Settings: {', '.join(Config.model_fields)}."
            )
        keys = list(type(field.default).model_fields) if isinstance(field.default, BaseModel) else []
        if key and key not in keys:
            raise ConfigError(
                f"Unknown variable {name}: [{table}] has no key {key!r}. Its keys: {', '.join(keys) or 'none'}."
            )


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            table = Config.model_fields.get(str(item["loc"][0]))
            keys = (
                type(table.default).model_fields
                if table and isinstance(table.default, BaseModel)
                else Config.model_fields
            )
            lines.append(f"unknown key {path!r}; known here: {', '.join(keys)}")
        else:
            value = "..." if "api_key" in path or "@" in repr(item["input"]) else repr(item["input"])
            message = item["msg"] if "@" not in item["msg"] else "no URL; expected one such as http://127.0.0.1:8000"
            lines.append(f"{path} = {value}: {message}")
    return f"Bad settings in {where}: " + "; ".join(lines) + "."

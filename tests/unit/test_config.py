import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ragself.config import DEFAULT_ENCODER, Config, GeneratorConfig, TrainConfig, load
from ragself.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    (folder / "ragself.toml").write_text(text)
    return folder


def test_nothing_needs_to_be_set(tmp_path: Path) -> None:
    assert load() == load(tmp_path) == Config()
    assert load().encoder.model == DEFAULT_ENCODER
    assert type(load()) is Config


def test_the_file_beats_the_defaults_and_leaves_the_rest(tmp_path: Path) -> None:
    config = load(write(tmp_path, "keep_versions = 7\n[train]\nsteps = 5\nadapters = ['residual']\n"))
    assert (config.keep_versions, config.train.steps, config.train.adapters) == (7, 5, ("residual",))
    assert config.train.lora.rank == TrainConfig().lora.rank
    assert config.gate == Config().gate


def test_the_environment_beats_the_file_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_TRAIN__STEPS", "9")
    config = load(write(tmp_path, "[train]\nsteps = 5\nseed = 3\n"))
    assert (config.train.steps, config.train.seed) == (9, 3)


def test_arguments_beat_both_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_TRAIN__STEPS", "9")
    monkeypatch.setenv("RAGSELF_KEEP_VERSIONS", "8")
    monkeypatch.setenv("RAGSELF_TRAIN__LORA__SIDES", "both")
    config = load(write(tmp_path, "[train]\nseed = 3\nlora.rank = 64\n"), train={"steps": 11, "seed": 4})
    assert (config.train.steps, config.train.seed, config.keep_versions) == (11, 4, 8)
    assert (config.train.lora.rank, config.train.lora.sides) == (64, "both")


def test_the_environment_alone_is_read_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_GATE__CONFIDENCE", "0.9")
    monkeypatch.setenv("RAGSELF_PROBES", '{"titles": 12}')
    monkeypatch.setenv("RAGSELF_TEACHER__WEIGHT", "2.5")
    config = load()
    assert (config.gate.confidence, config.probes.titles, config.teacher.weight) == (0.9, 12, 2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keep_version = 3", "unknown key 'keep_version'; known here: encoder, probes"),
        ("[trian]\nsteps = 5", "unknown key 'trian'"),
        ("[train]\nstep = 5", "unknown key 'train.step'; known here: adapters, steps, seed, objective"),
        ("[train.lora]\nstep = 5", "unknown key 'train.lora.step'; known here: sides, rank, steps"),
        ("[train]\nsteps = 'many'", r"train.steps = 'many': Input should be a valid integer"),
        ("[train]\nsteps = 1.5", r"train.steps = 1.5"),
        ("[train]\nsteps = 0", r"train.steps = 0.*greater than or equal to 1"),
        ('[train]\nadapters = ["hybrid"]', r"train.adapters.*'weights', 'residual' or 'lora'"),
        ("[gate]\nmargin = 0", r"gate.margin"),
        ("[train]\nadapters = ['dora']", r"train.adapters.0 = 'dora'"),
        ("train = 5", r"train = 5"),
        ("[gate]\nconfidence = 1.0", r"gate.confidence = 1.0"),
        ("[gate]\ngain = nan", r"gate.gain"),
        ("[gate]\nmin_probes = -1", r"gate.min_probes = -1"),
        ("[teacher]\nweight = 0", r"teacher.weight = 0"),
        ("[probes]\ntitles = -1", r"probes.titles = -1"),
        ("keep_versions = [", "Cannot read the settings"),
        ("[train]\nsteps = 5\nsteps = 6", "Cannot read the settings"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(write(tmp_path, text))
    assert "ragself.toml" in str(caught.value)


def test_a_file_that_is_no_utf_8_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "ragself.toml").write_bytes(b"keep_versions = 3 # \xff")
    with pytest.raises(ConfigError, match="Cannot read"):
        load(tmp_path)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.step'.*gate\.k = 0"):
        load(write(tmp_path, "[train]\nstep = 5\n[gate]\nk = 0\n"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RAGSELF_TRIAN__STEPS", "5", "Unknown variable RAGSELF_TRIAN__STEPS: there is no setting 'trian'"),
        ("RAGSELF_TRAIN__STEP", "5", r"\[train\] has no key 'step'\. Its keys: adapters, steps, seed, objective"),
        ("RAGSELF_TRAIN__STEPS__MORE", "5", r"\[train\.steps\] has no key 'more'\. Its keys: none"),
        ("RAGSELF_TRAIN__LORA__RANKS", "5", r"\[train\.lora\] has no key 'ranks'\. Its keys: sides, rank, steps"),
        ("RAGSELF_TRAIN_STEPS", "5", "there is no setting 'train_steps'"),
        ("RAGSELF_", "5", "there is no setting ''"),
        ("RAGSELF_TRAIN__STEPS", "many", "train.steps = 'many'"),
        ("RAGSELF_TRAIN__STEPS", "", "train.steps = ''"),
        ("RAGSELF_TRAIN", "{", "Cannot read the settings in RAGSELF_"),
        ("RAGSELF_TRAIN", '{"stepz": 3}', "unknown key 'train.stepz'"),
        ("RAGSELF_TRAIN", "5", "train = 5"),
        ("RAGSELF_KEEP_VERSIONS", "0", "keep_versions = '0'"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        load()


@pytest.mark.parametrize("name", ["RAGSELF_KEEP_VERSIONS__FOO", "RAGSELF_KEEP_VERSIONS__NONE"])
def test_a_key_below_a_setting_that_is_no_table_is_unknown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "5")
    with pytest.raises(ConfigError):
        load()


@pytest.mark.parametrize("value", ["inf", "1e400"])
def test_an_infinite_weight_is_out_of_range(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_TEACHER__WEIGHT", value)
    with pytest.raises(ConfigError):
        load()


def test_unknown_arguments_are_config_errors() -> None:
    for overrides in ({"trian": {}}, {"train": {"step": 1}}, {"train": {"steps": 0}}):
        with pytest.raises(ConfigError):
            load(None, **overrides)


@pytest.mark.parametrize("change", [("keep_versions", 9), ("train", None)])
def test_settings_are_frozen(change: tuple[str, Any]) -> None:
    config = load()
    with pytest.raises(ValidationError):
        setattr(config, *change)
    with pytest.raises(ValidationError):
        config.train.steps = 5  # type: ignore[misc]


def test_what_was_loaded_can_be_written_down_and_loaded_again() -> None:
    config = load(None, train={"steps": 7}, teacher={"weight": 2.0})
    assert load(None, **config.model_dump(mode="json")) == config


def test_only_what_was_set_counts_as_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAGSELF_WATCH__NICE")  # of all tests
    # KnowledgeBase refuses a store of another encoder where "encoder" is among these.
    assert load(tmp_path).model_fields_set == set()
    assert load(write(tmp_path, "keep_versions = 7")).model_fields_set == {"keep_versions"}


# the generator ------------------------------------------------------------------------------------

URL = "RAGSELF_GENERATOR__URL"
BOTH = ("http://127.0.0.1:8000", "https://gpu.local:8001")


@pytest.mark.parametrize(
    "variable",
    [
        (URL, f"{BOTH[0]},{BOTH[1]}"),
        (URL, f" {BOTH[0]}/ , {BOTH[1]}/v1/ "),
        ("RAGSELF_GENERATOR", f'{{"url": ["{BOTH[0]}/v1", "{BOTH[1]}/"]}}'),
        ("RAGSELF_GENERATOR", f'{{"url": "{BOTH[0]}, {BOTH[1]}"}}'),
        (URL, f' ["{BOTH[0]}", "{BOTH[1]}/v1"]'),
    ],
)
def test_urls_are_read_from_a_variable(variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*variable)
    assert load().generator.url == BOTH


@pytest.mark.parametrize("value", [f'["{BOTH[0]}", "{BOTH[1]}/v1/"]', f'"{BOTH[0]}, {BOTH[1]}"'])
def test_urls_are_read_from_a_file(tmp_path: Path, value: str) -> None:
    assert load(write(tmp_path, f"[generator]\nurl = {value}")).generator.url == BOTH


def test_one_url_is_one_url_and_the_variable_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, f"[generator]\nurl = '{BOTH[0]}'\ncontext = 99")
    assert load(folder).generator.url == BOTH[:1]
    monkeypatch.setenv(URL, BOTH[1])
    generator = load(folder).generator
    assert (generator.url, generator.context) == (BOTH[1:], 99)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "'' is not a URL; expected one such as http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "'127.0.0.1:8000' is not a URL"),
        ("ftp://a", "'ftp://a' is not a URL"),
        ("http://a,", "'' is not a URL"),
        ("http://a,b", "'b' is not a URL"),
        ("http://", "is not a URL"),
        ("https:///v1", "is not a URL"),
        ("http://[::1", "RAGSELF_"),
        ('["http://a"', "RAGSELF_"),
        ("[5]", "RAGSELF_"),
    ],
)
def test_what_is_no_url_is_named(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL, value)
    with pytest.raises(ConfigError, match=message):
        load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("context = 15", "generator.context = 15: .*greater than or equal to 16"),
        ("candidates = 3", "generator.candidates = 3"),
        ("pairs = 0", "generator.pairs = 0"),
        ("patience = 0", "generator.patience = 0"),
        ("patience = inf", "generator.patience"),
        ("dtype = 'int8'", "generator.dtype = 'int8'"),
        ("urls = []", "unknown key 'generator.urls'; known here: url, model, api_key"),
        ("url = 5", "generator.url = 5"),
    ],
)
def test_what_is_wrong_with_the_generator_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, f"[generator]\n{text}"))


def test_without_settings_there_is_no_generator() -> None:
    assert (load().generator.url, load().generator.model) == ((), None)


SERVED = GeneratorConfig(url=BOTH, model="served", context=99, api_key="s3cret")  # type: ignore[arg-type]
LOADED = GeneratorConfig(model="some/model", context=99)


def test_the_same_settings_for_other_servers_keep_the_name_that_is_served() -> None:
    found = SERVED.at("http://a/v1", "http://b/")
    assert (found.url, found.model, found.context) == (("http://a", "http://b"), "served", 99)
    assert found.api_key is not None
    assert found.api_key.get_secret_value() == "s3cret"


def test_the_name_of_a_model_that_was_loaded_here_is_not_one_that_is_served() -> None:
    found = LOADED.at("http://a")
    assert (found.url, found.model, found.context) == (("http://a",), None, 99)


@pytest.mark.parametrize("settings", [SERVED, LOADED])
def test_the_same_settings_for_another_model_ask_no_server(settings: GeneratorConfig) -> None:
    found = settings.at("other/model")
    assert (found.url, found.model, found.context) == ((), "other/model", 99)


@pytest.mark.parametrize("places", [(), ("a", "b"), ("http://a", "b"), ("b", "http://a"), ("",)])
def test_urls_and_names_do_not_mix_and_there_is_one_name(places: tuple[str, ...]) -> None:
    said = ", ".join(places) or "empty"
    with pytest.raises(ConfigError, match=f"The generator is {said}; expected one or more URLs"):
        LOADED.at(*places)


# the key ------------------------------------------------------------------------------------------

KEY = "sk-12345678"


@pytest.mark.parametrize("how", ["variable", "file", "argument", "at"])
def test_the_key_is_read_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "variable":
        monkeypatch.setenv("RAGSELF_GENERATOR__API_KEY", KEY)
    if how == "file":
        write(tmp_path, f"[generator]\napi_key = '{KEY}'")
    config = load(tmp_path, **({"generator": {"api_key": KEY}} if how == "argument" else {}))
    if how == "at":
        generator = GeneratorConfig(api_key=KEY).at("http://a")  # type: ignore[arg-type]
        config = config.model_copy(update={"generator": generator})
    assert config.generator.api_key is not None
    assert config.generator.api_key.get_secret_value() == KEY
    shown = [repr(config), str(config), repr(config.generator), str(config.generator), f"{config.model_dump()}"]
    shown += [f"{config.model_dump(mode='json')}", config.model_dump_json(), config.generator.model_dump_json()]
    assert not [text for text in shown if KEY in text or "12345678" in text]


def everything_about(error: BaseException) -> str:
    """What Python prints where nobody catches it: its causes too, without the lines of code."""
    lines = []
    cause: BaseException | None = error
    while cause is not None:
        lines += traceback.format_exception_only(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        f"[generator]\napi_key = '{KEY}'\ncontext = 'many'",
        f"[generator]\napi_key = '{KEY}'\nurl = 'nowhere'",
        f"[generator]\napi_key = '{KEY}'\nunknown = 1",
        f"[generator]\nApi_Key = '{KEY}'",
        f"[generator]\napi_key = '{KEY}",
        f"[generator]\napi_key = '{KEY}'\napi_key = '{KEY}'",
        "[generator]\napi_key = 12345678",
        f"[generator]\napi_key = ['{KEY}']",
        f"[generator.api_key]\nvalue = '{KEY}'",
    ],
)
def test_the_key_is_in_no_error_message(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert "12345678" not in everything_about(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAGSELF_GENERATOR", f'{{"api_key": "{KEY}", "context": 1}}'),
        ("RAGSELF_GENERATOR", f'{{"api_key": "{KEY}", "keys": 1}}'),
        ("RAGSELF_GENERATOR", f'{{"api_key": "{KEY}"'),
        ("RAGSELF_GENERATOR__API_KEYS", KEY),
        ("RAGSELF_API_KEY", KEY),
        ("RAGSELF_GENERATOR", '{"api_key": 12345678}'),
    ],
)
def test_the_key_in_a_variable_is_in_no_error_message(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    assert "12345678" not in everything_about(caught.value)


def test_a_key_of_digits_in_a_variable_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_GENERATOR__API_KEY", "12345678")
    key = load().generator.api_key
    assert key is not None
    assert key.get_secret_value() == "12345678"


def test_the_key_is_not_shown_where_settings_are_made_by_hand() -> None:
    with pytest.raises(ValidationError) as caught:
        GeneratorConfig(api_key=12345678)  # type: ignore[arg-type]
    assert "12345678" not in str(caught.value)


@pytest.mark.parametrize("key", ["geheim ", " geheim\n", "geheim"])
def test_a_key_that_was_read_from_a_file_is_stripped(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_GENERATOR__API_KEY", key)
    found = load(None).generator.api_key
    assert found is not None
    assert found.get_secret_value() == "geheim"
    assert load(None, generator={"api_key": " "}).generator.api_key is None


@pytest.mark.parametrize("key", ["schlüssel-7", "one\ntwo-7", "a\x00b-7"])
def test_a_key_that_fits_no_header_is_told_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError, match=r"generator\.api_key = \.\.\.: .*no HTTP header can") as caught:
        load(None, generator={"api_key": key})
    assert "-7" not in str(caught.value)


@pytest.mark.parametrize("place", ["127.0.0.1:8000", "localhost:8000/v1", "ftp://127.0.0.1:8000"])
def test_an_address_that_is_no_url_is_told(place: str) -> None:
    with pytest.raises(ConfigError, match=r"is not the URL of a vLLM server\. Did you mean http://[^f]"):
        GeneratorConfig().at(place)


@pytest.mark.parametrize("place", ["org/model", "./folder", "/a/folder:1", "C:/models/one"])
def test_names_and_paths_are_no_addresses(place: str) -> None:
    assert GeneratorConfig().at(place).model == place


def test_a_blank_generator_is_told() -> None:
    with pytest.raises(ConfigError, match="expected one or more URLs"):
        GeneratorConfig().at(" ")

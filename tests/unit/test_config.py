from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ragself.config import DEFAULT_ENCODER, Config, TrainConfig, load
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
    assert config.train.sketch == TrainConfig().sketch
    assert config.gate == Config().gate


def test_the_environment_beats_the_file_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_TRAIN__STEPS", "9")
    config = load(write(tmp_path, "[train]\nsteps = 5\nseed = 3\n"))
    assert (config.train.steps, config.train.seed) == (9, 3)


def test_arguments_beat_both_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_TRAIN__STEPS", "9")
    monkeypatch.setenv("RAGSELF_KEEP_VERSIONS", "8")
    config = load(write(tmp_path, "[train]\nseed = 3\nsketch = 64\n"), train={"steps": 11, "seed": 4})
    assert (config.train.steps, config.train.seed, config.train.sketch, config.keep_versions) == (11, 4, 64, 8)


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
        ("[train]\nstep = 5", "unknown key 'train.step'; known here: adapters, sketch, steps, seed"),
        ("[train]\nsteps = 'many'", r"train.steps = 'many': Input should be a valid integer"),
        ("[train]\nsteps = 1.5", r"train.steps = 1.5"),
        ("[train]\nsteps = 0", r"train.steps = 0.*greater than or equal to 1"),
        ("[train]\nsketch = 100", r"train.sketch = 100.*multiple of 8"),
        ("[train]\nadapters = ['lora']", r"train.adapters.0 = 'lora'"),
        ("train = 5", r"train = 5"),
        ("[gate]\nconfidence = 1.0", r"gate.confidence = 1.0"),
        ("[gate]\ntolerance = nan", r"gate.tolerance"),
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
        ("RAGSELF_TRAIN__STEP", "5", r"\[train\] has no key 'step'\. Its keys: adapters, sketch, steps, seed"),
        ("RAGSELF_TRAIN__STEPS__MORE", "5", r"\[train\] has no key"),
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


def test_only_what_was_set_counts_as_set(tmp_path: Path) -> None:
    # KnowledgeBase refuses a store of another encoder where "encoder" is among these.
    assert load(tmp_path).model_fields_set == set()
    assert load(write(tmp_path, "keep_versions = 7")).model_fields_set == {"keep_versions"}

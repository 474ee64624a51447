import sys

import pytest

from ragself.config import load, with_objective
from ragself.errors import ConfigError
from ragself.extras import require


@pytest.mark.parametrize(("extra", "library"), [("report", "matplotlib"), ("report", "jinja2"), ("lora", "peft")])
def test_a_missing_library_is_named_with_the_line_that_installs_it(
    extra: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(extra, "This")
    monkeypatch.delitem(sys.modules, library, raising=False)
    monkeypatch.setattr("ragself.extras.find_spec", lambda name: None if name == library else object())
    message = rf"This needs {library}, not installed here\. Run: pip install 'ragself\[{extra}\]'"
    with pytest.raises(ConfigError, match=message):
        require(extra, "This")


@pytest.mark.parametrize(
    ("train", "needed"),
    [({}, False), ({"adapters": ("residual", "lora")}, True), ({"objective": "revela"}, True)],
)
def test_training_that_needs_peft_says_so_before_it_begins(
    train: dict, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(None, train=train, generator={"model": "any"})
    assert with_objective(config, None) == config
    monkeypatch.setattr("ragself.extras.find_spec", lambda name: None)
    if not needed:
        assert with_objective(config, None) == config
        return
    with pytest.raises(ConfigError, match="needs peft"):
        with_objective(config, None)

"""What a pass trains is what it trained before; `golden.py` says how that is written anew."""

from pathlib import Path

from ragself import Config, KnowledgeBase
from ragself.config import load
from tests.integration.golden import assert_golden


def test_golden_adapters_of_counted_words(filled: Path, settings: Config, asked: list[str]) -> None:
    train = {"adapters": ("weights", "residual", "lora"), "steps": 40, "lora": {"steps": 10}}
    config = load(None, encoder=settings.encoder.model_dump(), train=train)
    with KnowledgeBase(filled, config=config) as kb:
        kb.adapt(asked[:300])
    assert_golden("distill", filled)

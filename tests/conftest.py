"""What the tests share: a real, tiny sentence-transformers model, and a corpus that can be learned from."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: a busy core must not stall the others
os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are more processes than cores
os.environ["RAGSELF_WATCH__NICE"] = "0"  # tests have all cores, and leave nothing to a pass that stands back

TOPICS = 24
PER_TOPIC = 16


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests against vLLM last: its servers take their time to start, and then memory until the end."""
    items.sort(key=lambda item: item.get_closest_marker("vllm") is not None)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RAGSELF_") and name != "RAGSELF_WATCH__NICE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer BERT with random weights and a word-level tokenizer: the real loading code, in 100 ms."""
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:  # earlier releases have them there
        from sentence_transformers.models import Pooling, Transformer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    words = sorted({word for text in corpus_words() for word in text.split()} | {chr(c) for c in range(33, 127)})
    vocabulary = {token: row for row, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
    )  # fmt: skip
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=64,
        )
    )  # fmt: skip
    parts = folder.with_name("parts")
    bert.save_pretrained(parts)
    fast.save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(folder))
    return folder


def corpus_words() -> list[str]:
    """One line of made-up words a topic."""
    draw = random.Random(0)
    syllables = ["ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu", "ve", "zo"]
    return [" ".join("".join(draw.choice(syllables) for _ in range(3)) for _ in range(40)) for _ in range(TOPICS)]


def documents() -> list[tuple[str, str, str]]:
    """(id, title, text) of documents whose title shares words with their text: there is something to learn."""
    draw = random.Random(1)
    out = []
    for topic, line in enumerate(corpus_words()):
        words = line.split()
        for number in range(PER_TOPIC):
            own = draw.sample(words, 12)
            text = " ".join(draw.choices(own, k=40))
            out.append((f"t{topic}-{number}", " ".join(draw.sample(own, 4)), text))
    return out


def queries() -> list[str]:
    """What users of the corpus ask: words of one topic."""
    draw = random.Random(2)
    return [" ".join(draw.sample(line.split(), 4)) for line in corpus_words() for _ in range(20)]

from __future__ import annotations

import logging
import shutil
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from ragself.config import GeneratorConfig
from ragself.errors import GeneratorError
from ragself.lm import causal
from ragself.lm.causal import CausalLM
from ragself.lm.language_model import Likelihoods, Pair, identify, open_language_model
from ragself.lm.prompts import QUESTION_TOKENS, WRITINGS, Writing
from ragself.lm.score_cache import ScoreCache

LIMIT = 64
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "\n"]
WORDS = [f"w{number}" for number in range(40)]
VOCABULARY = len(SPECIAL) + len(WORDS)
PLAIN = Writing("plain/1", "{document} w1 w2", "{document} w1 w2")


def tokenizer(*, begins: bool = True, chat: str | None = None) -> PreTrainedTokenizerFast:
    """One token a word; puts ``<s>`` first as Llama does, where it `begins`."""
    words = Tokenizer(models.WordLevel({word: id for id, word in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begins:
        words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = chat
    return made


def llama(seed: int = 0, **more: Any) -> LlamaForCausalLM:
    """Two layers of random weights, large enough that every token matters."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **{"max_position_embeddings": LIMIT, "tie_word_embeddings": False, **more},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def save(folder: Path, model: Any, tokens: PreTrainedTokenizerFast | None = None) -> Path:
    model.save_pretrained(folder)
    (tokens or tokenizer()).save_pretrained(folder)
    return folder


def load(folder: Path, **settings: Any) -> CausalLM:
    return CausalLM(GeneratorConfig(model=str(folder), device="cpu", **settings))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("causal") / "llama", llama())


@pytest.fixture(scope="module")
def _loaded(folder: Path) -> CausalLM:
    return load(folder)


@pytest.fixture
def model(_loaded: CausalLM) -> Iterator[CausalLM]:
    """The tiny Llama; what a test changes in it is changed back."""
    before = dict(_loaded.__dict__)
    yield _loaded
    _loaded.__dict__.clear()
    _loaded.__dict__.update(before)
    _loaded._model.__dict__.pop("forward", None)


@torch.inference_mode()
def slow(model: CausalLM, pair: Pair) -> list[float]:
    """Log p of the target's tokens: one text alone, all logits, token by token."""
    context, target = pair
    logits = model._model(input_ids=torch.tensor([[*context, *target[:-1]]])).logits[0].double()
    return [float(torch.log_softmax(logits[len(context) - 1 + at], 0)[token]) for at, token in enumerate(target)]


def answers(model: CausalLM, pairs: Sequence[Pair]) -> list[Likelihoods | None]:
    """One answer a pair, in their order."""
    found = [item for batch in model.score(iter(pairs)) for item in batch]
    assert sorted(at for at, _ in found) == list(range(len(pairs)))
    return [answer for _, answer in sorted(found, key=lambda item: item[0])]


def assert_right(model: CausalLM, pairs: Sequence[Pair]) -> None:
    for pair, found in zip(pairs, answers(model, pairs), strict=True):
        assert found is not None
        assert (found.dtype, found.shape) == (np.float32, (len(pair[1]),))
        np.testing.assert_allclose(found, slow(model, pair), atol=1e-4)


def draw(*lengths: tuple[int, int], seed: int = 0) -> list[Pair]:
    random = np.random.default_rng(seed)
    ids = lambda size: random.integers(1, VOCABULARY, size).tolist()
    return [(ids(context), ids(target)) for context, target in lengths]


# log-probabilities --------------------------------------------------------------------------------

SHAPES = [
    [(1, 1)],
    [(1, LIMIT - 1)],
    [(LIMIT - 1, 1)],
    [(1, 1), (LIMIT - 1, 1), (1, LIMIT - 1), (LIMIT // 2, LIMIT // 2)],
    [(3, 9), (9, 3), (6, 6), (1, 11), (11, 1)],  # of one length, with other beginnings
    [(30, 2), (1, 1), (12, 7), (2, 40), (7, 12)],
    [(10, 5)] * 9,
]


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("lengths", SHAPES, ids=str)
def test_answers_are_those_of_each_pair_alone(model: CausalLM, lengths: list[tuple[int, int]], keeps: bool) -> None:
    assert model._keeps
    model._keeps = keeps
    assert_right(model, draw(*lengths))


@given(st.lists(st.tuples(st.integers(1, 32), st.integers(1, 32)), min_size=1, max_size=12), st.booleans())
@settings(deadline=None, max_examples=15)
def test_answers_are_those_of_each_pair_alone_for_any_lengths(
    _loaded: CausalLM, lengths: list[tuple[int, int]], keeps: bool
) -> None:
    _loaded._keeps = keeps
    assert_right(_loaded, draw(*lengths, seed=len(lengths)))
    _loaded._keeps = True


@torch.inference_mode()
def test_an_answer_is_the_likelihood_of_each_token_after_those_before_it(model: CausalLM) -> None:
    (pair,) = draw((4, 6))
    (found,) = answers(model, [pair])
    context, target = pair
    for at, token in enumerate(target):
        logits = model._model(input_ids=torch.tensor([[*context, *target[:at]]])).logits[0, -1]
        assert found is not None
        assert float(found[at]) == pytest.approx(float(torch.log_softmax(logits, 0)[token]), abs=1e-4)


def test_only_the_logits_that_predict_a_target_are_computed(model: CausalLM) -> None:
    shapes: list[tuple[int, ...]] = []

    def forward(*args: Any, **more: Any) -> Any:
        out = type(model._model).forward(model._model, *args, **more)
        shapes.append(tuple(out.logits.shape))
        return out

    model._model.forward = forward
    answers(model, draw((50, 3), (49, 3)))
    assert shapes == [(2, 4, VOCABULARY)]  # from after the 49th token of one to before the 53rd of the other


def test_a_model_that_cannot_leave_out_logits_answers_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LlamaForCausalLM.forward
    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda self, input_ids, use_cache=None: real(self, input_ids))
    found = load(folder)
    assert not found._keeps
    assert_right(found, draw((30, 2), (1, 1), (12, 7), (2, 40)))


def test_a_model_that_has_learned_its_positions_answers_up_to_its_limit(tmp_path: Path) -> None:
    found = load(save(tmp_path / "gpt2", gpt2()))
    assert found.limit == LIMIT
    assert_right(found, draw((LIMIT - 2, 2), (1, 1), (12, 7), (2, LIMIT - 2)))


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """A model that has learned its positions: beyond them there is nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=LIMIT, n_embd=16, n_layer=1, n_head=2, initializer_range=0.3,
            bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return GPT2LMHeadModel(config).eval()


def test_pairs_are_taken_as_they_are_needed(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal, "_WINDOW", 8)
    taken = 0

    def pairs() -> Iterator[Pair]:
        nonlocal taken
        for pair in draw(*[(4, 2)] * 30):
            taken += 1
            yield pair

    batches = model.score(pairs())
    assert taken == 0
    next(batches)
    assert taken == 8
    assert 1 + sum(1 for _ in batches) == 4
    assert taken == 30


def test_without_pairs_there_are_no_batches(model: CausalLM) -> None:
    assert list(model.score([])) == []


def test_a_nan_is_no_answer_and_harms_no_other(tmp_path: Path) -> None:
    broken = llama()
    with torch.no_grad():
        broken.model.embed_tokens.weight[7] = torch.nan
    model = load(save(tmp_path / "broken", broken))
    pairs = [pair for pair in draw(*[(5, 3)] * 8) if 7 not in [*pair[0], *pair[1]]][:4]
    sick = [([4, 7, 5], [6, 8]), ([4, 5], [6, 7, 8])]
    found = answers(model, [pairs[0], sick[0], *pairs[1:], sick[1]])
    assert [answer is None for answer in found] == [False, True, *[False] * (len(pairs) - 1), True]
    assert_right(model, pairs)


def test_a_model_of_nothing_but_nan_is_refused_when_it_is_identified(tmp_path: Path) -> None:
    broken = llama()
    with torch.no_grad():
        broken.lm_head.weight[:] = torch.nan
    model = load(save(tmp_path / "broken", broken))
    assert answers(model, draw((5, 3), (9, 1))) == [None, None]
    cache = ScoreCache(tmp_path / "scores.db")
    with pytest.raises(GeneratorError, match="no likelihood"):
        identify(model, cache)
    cache.close()


def test_an_infinite_likelihood_is_no_answer(model: CausalLM) -> None:
    def forward(*args: Any, **more: Any) -> Any:
        out = type(model._model).forward(model._model, *args, **more)
        out.logits[..., 9] = -torch.inf
        return out

    model._model.forward = forward
    assert [answer is None for answer in answers(model, [([4], [5, 6]), ([4], [5, 9])])] == [False, True]


# batches ------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 24)), min_size=1, max_size=60),
    st.sampled_from([10, 64, 100, 1000]),
    st.sampled_from([5, 30, 200, 10_000]),
)
@settings(deadline=None)
def test_batches_hold_every_pair_once_and_no_more_than_memory_allows(
    _loaded: CausalLM, lengths: list[tuple[int, int]], tokens: int, logits: int
) -> None:
    window = list(enumerate(draw(*lengths)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(causal._TOKENS, "cpu", tokens)
        patch.setitem(causal._LOGITS, "cpu", logits * VOCABULARY)
        batches = list(_loaded._batches(list(window)))
    assert sorted(at for batch in batches for at, _ in batch) == list(range(len(window)))
    assert all(window[at][1] is pair for batch in batches for at, pair in batch)
    spans = [[(len(context), len(context) + len(target)) for _, (context, target) in batch] for batch in batches]
    for span in spans:
        end, begin = max(end for _, end in span), min(begin for begin, _ in span)
        assert len(span) == 1 or (len(span) * end <= tokens and len(span) * (end - begin) <= logits)
    ends = [end for span in spans for _, end in span]
    assert ends == sorted(ends, reverse=True)  # like lengths together, the largest batch of all first
    for span, after in pairwise(spans):  # and no batch could have taken one pair more
        joined = [*span, after[0]]
        end, begin = max(end for _, end in joined), min(begin for begin, _ in joined)
        assert len(joined) * end > tokens or len(joined) * (end - begin) > logits


def test_an_answer_does_not_depend_on_what_else_is_in_its_batch(model: CausalLM) -> None:
    pairs = draw((5, 3), (60, 4), (1, 30), (8, 8), (20, 1))
    alone = [answers(model, [pair])[0] for pair in pairs]
    for together, one in zip(answers(model, pairs), alone, strict=True):
        np.testing.assert_allclose(together, one, atol=1e-5)


class Full:
    """A forward that has no memory for more than so many texts."""

    def __init__(self, model: CausalLM, rows: int) -> None:
        self.asked: list[int] = []
        self.left: list[bool] = []  # whether memory of the last failure is still held, at each later call
        self._rows, self._model = rows, model._model
        self._last: weakref.ref[torch.Tensor] | None = None
        model._model.forward = self

    def __call__(self, *args: Any, **more: Any) -> Any:
        rows = len(more["input_ids"])
        self.asked.append(rows)
        if self._last is not None:
            self.left.append(self._last() is not None)
        if rows > self._rows:
            activations = torch.zeros(8)
            self._last = weakref.ref(activations)
            raise torch.OutOfMemoryError("out of memory")
        return type(self._model).forward(self._model, *args, **more)


def test_a_batch_that_does_not_fit_is_split(model: CausalLM) -> None:
    pairs = draw((5, 3), (60, 4), (1, 30), (8, 8), (20, 1), (3, 3), (4, 4))
    expected = answers(model, pairs)
    full = Full(model, 2)
    for found, right in zip(answers(model, pairs), expected, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)
    assert full.asked == [7, 3, 1, 2, 4, 2, 2]


def test_a_text_that_does_not_fit_alone_is_an_error_that_says_what_to_set(model: CausalLM) -> None:
    Full(model, 0)
    with pytest.raises(GeneratorError, match=r"no memory for a text of 12 tokens.*generator\.context lower"):
        answers(model, draw((8, 4), (3, 3)))


def test_the_memory_of_a_batch_that_does_not_fit_is_free_before_its_halves_are_tried(model: CausalLM) -> None:
    full = Full(model, 2)
    answers(model, draw((5, 3), (60, 4), (1, 30), (8, 8)))
    assert full.left
    assert not any(full.left)


def test_a_batch_whose_logits_do_not_fit_is_split(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = draw((5, 3), (60, 4), (1, 30), (8, 8))
    expected = answers(model, pairs)
    real = torch.Tensor.logsumexp

    def logsumexp(self: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        if len(self) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return real(self, *args, **more)

    monkeypatch.setattr(torch.Tensor, "logsumexp", logsumexp)
    for found, right in zip(answers(model, pairs), expected, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)


# tokens -------------------------------------------------------------------------------------------


def test_texts_are_encoded_without_special_tokens(model: CausalLM) -> None:
    assert model.encode(["w0 w1", "", "w39"]) == [[5, 6], [], [44]]
    assert model.encode([]) == []
    assert model.encode(["w0 " * 100]) == [[5] * 100]  # longer than the model reads


@pytest.mark.parametrize("begins", [True, False])
def test_what_comes_before_every_text_is_found(tmp_path: Path, begins: bool) -> None:
    model = load(save(tmp_path / "llama", llama(), tokenizer(begins=begins)))
    assert model.begin == ([1] if begins else [])


def test_what_comes_after_every_text_does_not_come_before_it(tmp_path: Path) -> None:
    ends = tokenizer()
    ends.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    assert load(save(tmp_path / "llama", llama(), ends)).begin == []


@pytest.mark.parametrize(("positions", "limit"), [(LIMIT, LIMIT), (1 << 17, 4096)])
def test_the_limit_is_the_models_and_never_huge(tmp_path: Path, positions: int, limit: int) -> None:
    assert load(save(tmp_path / "llama", llama(max_position_embeddings=positions))).limit == limit


# names --------------------------------------------------------------------------------------------


def test_the_name_is_that_of_the_weights_wherever_they_are(folder: Path, model: CausalLM, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert load(copy).name == model.name
    assert model.name.startswith("transformers:")
    assert model.name.endswith(":float32")


@pytest.mark.parametrize("what", ["weights", "one weight", "settings", "precision"])
def test_another_model_has_another_name(folder: Path, model: CausalLM, tmp_path: Path, what: str) -> None:
    other = llama(seed=1) if what == "weights" else llama(rope_theta=5e5) if what == "settings" else llama()
    if what == "one weight":
        with torch.no_grad():
            other.lm_head.weight[0, 0] += 1e-3
    found = load(save(tmp_path / "other", other), **({"dtype": "bfloat16"} if what == "precision" else {}))
    assert found.name != model.name
    assert found.name.endswith("bfloat16" if what == "precision" else "float32")


def test_settings_that_name_a_model_open_it(folder: Path, model: CausalLM) -> None:
    opened = open_language_model(GeneratorConfig(model=str(folder), device="cpu"))
    assert opened is not None
    assert opened.name == model.name
    opened.close()
    opened.close()


# what is refused ----------------------------------------------------------------------------------


def bert(kind: type) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
            initializer_range=0.3,
        )  # fmt: skip
        return kind(config)


def without(folder: Path, *names: str) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if name not in names}
    assert len(kept) == len(weights) - len(names)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_embedding_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"lacks the weights .*it is not a causal language model \(an embedding"):
        load(save(tmp_path / "bert", bert(BertModel)))


def test_a_model_that_sees_what_follows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"sees the tokens that follow.*SmolLM2"):
        load(save(tmp_path / "bert", bert(BertForMaskedLM)))


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight"])
def test_missing_weights_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    without(copy, name)
    with pytest.raises(GeneratorError, match=f"lacks the weights {name}.*its files are incomplete"):
        load(copy)


def test_weights_that_are_shared_are_not_missing(tmp_path: Path) -> None:
    path = save(tmp_path / "tied", llama(tie_word_embeddings=True))
    assert "lm_head.weight" not in load_file(path / "model.safetensors")
    assert_right(load(path), draw((5, 3)))


def damaged(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    if how == "no weights":
        weights.unlink()
    if how == "pickle":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
    if how == "no settings":
        (folder / "config.json").unlink()
    if how == "no tokenizer":
        for path in folder.glob("*token*"):
            path.unlink()
    if how == "empty":
        for path in folder.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("cut", r"Cannot load the language model .*/copy'.*or the URL of a vLLM server"),
        ("no weights", r"The folder .*/copy holds no weights"),
        ("pickle", r"The folder .*/copy holds no weights"),
        ("no settings", r"The folder .*/copy holds no config\.json\."),
        ("no tokenizer", r"The folder .*/copy holds no tokenizer\."),
        ("empty", r"The folder .*/copy holds no config\.json, no weights \(\*\.safetensors\), no tokenizer\."),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_named_with_what_is_wrong(
    folder: Path, tmp_path: Path, how: str, told: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    damaged(copy, how)
    with pytest.raises(GeneratorError, match="^" + told):
        load(copy)


def test_a_model_that_is_nowhere_is_an_error_that_names_one() -> None:
    with pytest.raises(GeneratorError, match=r"Cannot load the language model 'no/such-model'.*SmolLM2"):
        CausalLM(GeneratorConfig(model="no/such-model"))


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
def test_what_transformers_says_is_as_loud_as_before(folder: Path, tmp_path: Path, level: int) -> None:
    before = transformers_logging.get_verbosity()
    try:
        transformers_logging.set_verbosity(level)
        load(folder)
        assert transformers_logging.get_verbosity() == level
        with pytest.raises(GeneratorError):
            load(tmp_path)
        assert transformers_logging.get_verbosity() == level
    finally:
        transformers_logging.set_verbosity(before)


def test_loading_says_nothing(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = said.append  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(listener)
    try:
        load(folder)
        with pytest.raises(GeneratorError):  # transformers warns of weights that are made up
            load(save(tmp_path / "bert", bert(BertModel)))
    finally:
        logging.getLogger("transformers").removeHandler(listener)
    assert [record for record in said if "bert" in record.getMessage().lower()] == said == []
    assert tuple(capfd.readouterr()) == ("", "")


def test_loading_and_asking_leave_the_weights_and_chance_alone(folder: Path, model: CausalLM) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fresh = load(folder)
    answers(fresh, draw((5, 3)))
    list(fresh.write(["w3 w4", "w5"], PLAIN))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(weight.requires_grad for weight in fresh._model.parameters())
    assert not fresh._model.training
    weights = llama().state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in fresh._model.state_dict().items())


# questions ----------------------------------------------------------------------------------------


def written(model: CausalLM, documents: Sequence[str], writing: Writing = PLAIN) -> list[str | None]:
    found = [item for batch in model.write(documents, writing) for item in batch]
    assert sorted(at for at, _ in found) == list(range(len(documents)))
    return [text for _, text in sorted(found, key=lambda item: item[0])]


@torch.inference_mode()
def likeliest(model: CausalLM, ids: list[int], count: int = 48) -> list[int]:
    """The likeliest continuation, token by token, up to the end."""
    out: list[int] = []
    while len(out) < count:
        token = int(model._model(input_ids=torch.tensor([[*ids, *out]])).logits[0, -1].argmax())
        if token == 2:
            break
        out.append(token)
    return out


def words_of(ids: Sequence[int]) -> list[str]:
    return [[*SPECIAL, *WORDS][id] for id in ids if id > 3]  # special tokens are no words


def test_what_is_written_is_the_likeliest_whatever_else_is_in_the_batch(model: CausalLM) -> None:
    documents = ["w3", "w4 w5 w6 w7 w8", "w9 w10", "w11 " * 8, "w12 w13"]
    for document, text in zip(documents, written(model, documents), strict=True):
        assert text is not None
        ids = likeliest(model, [1, *model.encode([f"{document} w1 w2"])[0]], 16)
        line = " ".join(words_of(ids)).split("\n")[0].split()
        assert text.split()[: len(line)] == line


def test_questions_come_in_batches_as_they_are_written(model: CausalLM) -> None:
    sizes = [len(batch) for batch in model.write([f"w{number}" for number in range(20)], PLAIN)]
    assert sizes == [8, 8, 4]
    assert list(model.write([], PLAIN)) == []


def test_a_model_without_a_chat_template_continues_and_its_first_line_counts(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(model._tokenizer, "batch_decode", lambda *_, **__: [" one\ntwo\n", "\nthree", ""])
    real = model._ask
    model._ask = lambda *what: said.append(real(*what)) or said[-1]  # type: ignore[method-assign]
    found = written(model, ["w3", "w4 w5", "w6 w7 w8"], WRITINGS[0])
    assert found == [" one", "", ""]
    assert said[0] == [1, *model.encode([WRITINGS[0].plain.format(document="w3")])[0]]


CHAT = "{% for said in messages %}w30 {{ said['content'] }} {% endfor %}{% if add_generation_prompt %}w31{% endif %}"


def test_a_model_with_a_chat_template_is_asked_in_it(tmp_path: Path) -> None:
    model = load(save(tmp_path / "chats", llama(), tokenizer(chat=CHAT)))
    writing = Writing("chat/1", "{document} w1", "w39 {document}")
    assert model._ask(writing, "w3 w4", True) == model.encode(["w30 w3 w4 w1 w31"])[0]
    (text,) = written(model, ["w3 w4"], writing)
    assert text is not None
    likely = words_of(likeliest(model, model.encode(["w30 w3 w4 w1 w31"])[0], 16))
    assert text.split()[: len(likely)] == likely


def test_as_many_tokens_are_written_as_there_is_room_left_for(tmp_path: Path) -> None:
    model = load(save(tmp_path / "gpt2", gpt2()))  # which fails beyond its positions
    room = LIMIT - QUESTION_TOKENS - 3  # for the beginning and the wording
    assert len(written(model, ["w3 " * room, "w5"])) == 2


@pytest.mark.parametrize(
    ("name", "found"),
    [("nowhere/", "does not exist"), ("./nowhere", "does not exist"), ("{}/nowhere", "does not exist"),
     ("{}/model.safetensors", "is a file")],
)  # fmt: skip
def test_a_path_that_is_no_folder_is_told(name: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(GeneratorError, match=rf"^The language model '.*' {found}\. Expected the folder of a model"):
        CausalLM(GeneratorConfig(model=name.format(tmp_path)))

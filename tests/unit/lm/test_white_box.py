"""A language model seen from inside: DREAM's and Revela's attention against the model as it is, and their gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from ragself.errors import GeneratorError
from ragself.lm import attention_injection as inject
from ragself.lm import cross_attention as cross
from ragself.lm.attention_injection import Injection
from ragself.lm.white_box import NAME, WhiteBox, causal
from ragself.training.revela.revela import looks, nll

VOCABULARY, LAYERS, HEADS = 97, 3, 4
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS}
SHAPE |= {"num_attention_heads": HEADS, "max_position_embeddings": 256}
GROUPED = SHAPE | {"num_key_value_heads": 2}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GROUPED)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED, head_dim=32)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**GROUPED, sliding_window=200)),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SHAPE)),
}


def box(kind: str, attention: str = "sdpa") -> WhiteBox:
    """Weights so large that attention is far from even."""
    torch.manual_seed(0)
    model = MODELS[kind]().eval().requires_grad_(False)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(5)
    model.set_attn_implementation(attention)
    return WhiteBox(model, kind, 256)


@pytest.fixture(scope="module")
def llama() -> WhiteBox:
    return box("llama")


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


LENGTHS = torch.tensor([40, 33])
BEFORE, AFTER = tokens(2, 40), tokens(2, 7, seed=1)
OWNER = torch.full((2, 40), -1)
OWNER[:, 1:10], OWNER[:, 12:20], OWNER[:, 22:33] = 0, 1, 2
PLACES = LENGTHS[:, None] + torch.arange(7)


def context(model: WhiteBox) -> inject.Context:
    return inject.read(model, BEFORE, OWNER, LENGTHS, 3)


def logits(model: WhiteBox, injection: Injection) -> Tensor:
    return model.model.get_output_embeddings()(model.states(AFTER, injection, PLACES))


def plain(model: WhiteBox) -> Tensor:
    """What the model says of the same texts without us."""
    with torch.no_grad():
        whole = [torch.cat([BEFORE[row, : LENGTHS[row]], AFTER[row]])[None] for row in range(2)]
        return torch.cat([model.model(input_ids=ids).logits[:, -AFTER.shape[1] :] for ids in whole])


# the model itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_context_read_before_and_padding_change_nothing(kind: str, attention: str) -> None:
    model = box(kind, attention)
    found = logits(model, Injection(context(model), {}))
    torch.testing.assert_close(found, plain(model), atol=1e-5, rtol=0)
    assert model.model.config._attn_implementation == attention  # as it was


def test_a_model_that_does_not_attend_through_the_interface_is_refused() -> None:
    config = transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=4)
    with pytest.raises(GeneratorError, match="bloom does not attend through transformers' attention interface"):
        WhiteBox(transformers.BloomForCausalLM(config).eval(), "bloom", 256)


def test_a_model_with_more_than_softmax_is_refused() -> None:
    model = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**GROUPED)).eval()
    model.set_attn_implementation("eager")
    with pytest.raises(
        GeneratorError, match=r"gemma2 cannot use .* attention \(NotImplementedError: attention with sof"
    ):
        WhiteBox(model, "gemma2", 256)
    assert model.config._attn_implementation == "eager"


def test_a_model_that_attends_in_a_way_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, -value, **options)

    monkeypatch.setattr("ragself.lm.white_box.scaled_dot_product_attention", backwards)
    with pytest.raises(GeneratorError, match=r"llama needs its own attention \(probabilities differ by \d"):
        box("llama")


def test_a_model_that_attends_as_told_in_some_layers_only_is_refused() -> None:
    model = MODELS["llama"]().eval().requires_grad_(False)
    model.model.layers[1].self_attn.config = copy.deepcopy(model.config)  # which nobody sets
    with pytest.raises(GeneratorError, match="half uses ragself's attention in 2 of its 3 layers"):
        WhiteBox(model, "half", 256)


def test_a_window_bounds_what_is_read() -> None:
    assert box("mistral").limit == 200
    assert box("llama").limit == 256


def test_only_within_is_attention_decided(llama: WhiteBox) -> None:
    with pytest.raises(ZeroDivisionError), llama.attending(causal) as seen:
        assert llama.model.config._attn_implementation == NAME
        assert not seen
        raise ZeroDivisionError
    assert llama.model.config._attn_implementation == "sdpa"


def test_lora_in_a_copy_begins_as_the_model_itself_and_leaves_it_alone(llama: WhiteBox) -> None:
    other, learns = llama.learning(4, 0)
    ids = tokens(2, 12)
    torch.testing.assert_close(other.states(ids, causal), llama.states(ids, causal))
    other.states(ids, causal).sum().backward()
    assert learns
    assert all(weight.grad is not None for name, weight in learns.items() if "lora_B" in name)
    assert not any("lora" in name for name, _ in llama.model.named_parameters())
    assert all(weight.grad is None for weight in llama.model.parameters())


# DREAM --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_own_shares_leave_the_model_as_it_is(kind: str) -> None:
    model = box(kind)
    read, expected = context(model), plain(model)
    noted = Injection(read, {}, notes=True)
    logits(model, noted)
    for layer in range(LAYERS):
        heads = [0, 2, 3]
        shares = noted.shares[layer][:, heads]
        own = (shares / shares.sum(dim=-1, keepdim=True)).log()
        found = logits(model, Injection(read, {layer: heads}, own))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        turned = logits(model, Injection(read, {layer: heads}, own.roll(1, dims=-1)))
        assert (turned - expected).abs().max() > 1e-2


def test_documents_share_what_they_had_together_and_all_else_stays(llama: WhiteBox) -> None:
    read = context(llama)
    noted = Injection(read, {}, notes=True)
    logits(llama, noted)
    weights = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).log()[:, None, None]
    moved = Injection(read, {0: range(HEADS)}, weights, notes=True)
    query = torch.randn(2, HEADS, 7, 16, generator=torch.Generator().manual_seed(2))
    key = torch.randn(2, HEADS, 7, 16, generator=torch.Generator().manual_seed(3))
    keys = torch.cat([read.keys[0], key], dim=2)
    own = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, -1, -1)
    mask = torch.cat([read.visible[:, None].expand(-1, 7, -1), own], dim=2)[:, None]
    before = inject._logits(query, keys, mask, 0.25)
    after = moved._moved(before, weights).softmax(dim=-1)
    before = before.softmax(dim=-1)
    for row in range(2):
        owner = torch.cat([OWNER[row], torch.full((7,), -1)])
        torch.testing.assert_close(after[row][..., owner < 0], before[row][..., owner < 0])
        mass = before[row][..., owner >= 0].sum(dim=-1)
        for document in range(3):
            there = owner == document
            torch.testing.assert_close(after[row][..., there].sum(dim=-1), mass * weights[row, 0, 0, document].exp())
            within = before[row][..., there] / before[row][..., there].sum(dim=-1, keepdim=True)
            found = after[row][..., there] / after[row][..., there].sum(dim=-1, keepdim=True)
            torch.testing.assert_close(found, within)


def test_a_document_that_no_token_is_left_of_gets_nothing(llama: WhiteBox) -> None:
    owner = torch.where(OWNER == 1, -1, OWNER)
    read = inject.read(llama, BEFORE, owner, LENGTHS, 3)
    weights = torch.zeros(2, 1, 1, 3).log_softmax(dim=-1).requires_grad_()
    found = logits(llama, Injection(read, {1: [0]}, weights))
    found.square().mean().backward()
    assert torch.isfinite(found).all()
    assert weights.grad is not None
    assert torch.isfinite(weights.grad).all()
    assert weights.grad[..., 1].abs().max() == 0
    assert weights.grad[..., 0].abs().max() > 0


def slopes(loss: Callable[[Tensor], Tensor], scores: Tensor, step: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Gradient, and finite differences in every direction."""
    scores = scores.clone().requires_grad_()
    loss(scores).backward()
    assert scores.grad is not None
    found = torch.zeros_like(scores)
    with torch.no_grad():
        for at in range(scores.numel()):
            moved = torch.zeros_like(scores).view(-1)
            moved[at] = step
            moved = moved.view_as(scores)
            found.view(-1)[at] = (loss(scores + moved) - loss(scores - moved)) / (2 * step)
    return scores.grad, found


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_gradients_of_dream_are_those_of_finite_differences_and_none_reaches_the_model(kind: str) -> None:
    model = box(kind)
    model.model.double()
    read = context(model)

    def loss(scores: Tensor) -> Tensor:
        injection = Injection(read, {0: [1], 2: [0, 3]}, scores.log_softmax(dim=1)[:, None, None])
        states = model.states(AFTER[:, :-1], injection, PLACES[:, :-1])
        return model.nll(states, AFTER[:, 1:], torch.ones(2, 6, dtype=torch.bool)).sum()

    scores = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    gradient, expected = slopes(loss, scores)
    torch.testing.assert_close(gradient, expected, rtol=2e-2, atol=2e-4)
    assert gradient.abs().max() > 1e-3
    assert all(weight.grad is None for weight in model.model.parameters())
    assert not any(keys.requires_grad for keys in read.keys)  # documents are read without autograd


def test_layers_below_the_first_that_obeys_run_without_autograd(llama: WhiteBox) -> None:
    seen = {}

    class Watched(Injection):
        def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            seen[layer] = query.requires_grad
            return super().__call__(layer, query, key, value, scale)

    weights = torch.zeros(2, 1, 1, 3).requires_grad_().log_softmax(dim=-1)
    logits(llama, Watched(context(llama), {1: [0]}, weights))
    assert seen == {0: False, 1: False, 2: True}


# Revela -------------------------------------------------------------------------------------------

CHUNKS = [row[:length].tolist() for row, length in zip(tokens(5, 20, seed=5), (20, 13, 20, 9, 17), strict=True)]


def losses(model: WhiteBox, chunks: list[list[int]], scores: Tensor, even: bool = True) -> Tensor:
    return nll(model, chunks, looks(scores), even)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_with_no_weight_for_others_revelas_loss_is_the_plain_one(kind: str, even: bool) -> None:
    model = box(kind)
    found = nll(model, CHUNKS, torch.zeros(5, 5), even)
    for row, chunk in enumerate(CHUNKS):
        ids = torch.tensor([chunk])
        with torch.no_grad():
            expected = model.model(input_ids=ids, labels=ids).loss
        assert found[row].item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("even", [False, True])
def test_permuting_the_batch_permutes_nothing_else(even: bool, llama: WhiteBox) -> None:
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(6))
    order = torch.tensor([3, 0, 4, 1, 2])
    found = losses(llama, CHUNKS, scores, even)
    turned = losses(llama, [CHUNKS[row] for row in order], scores[order][:, order], even)
    torch.testing.assert_close(turned, found[order], atol=1e-5, rtol=0)
    assert (found - nll(llama, CHUNKS, torch.zeros(5, 5), even)).abs().min() > 1e-4


def test_what_others_hold_is_weighed_as_the_formula_says(llama: WhiteBox) -> None:
    """One layer's attention, written out token by token."""
    draw = torch.Generator().manual_seed(7)
    query, keys, values = (torch.randn(3, HEADS, 6, 8, generator=draw) for _ in range(3))
    lengths, scores = [6, 4, 5], torch.randn(3, 3, generator=draw)
    weights = looks(scores)
    for even in (False, True):
        crossing = cross.Crossing(cross.Alone([keys], [values], lengths), weights, even)
        found = crossing(0, query, keys, values, 0.3) - causal(0, query, keys, values, 0.3)
        for row in range(3):
            expected = torch.zeros(HEADS, 6, 8)
            for other in {0, 1, 2} - {row}:
                key, value = keys[other, :, : lengths[other]], values[other, :, : lengths[other]]
                law = (0.3 * query[row] @ key.transpose(1, 2)).softmax(dim=-1)
                seen = law @ value
                if even:
                    seen = seen / ((law @ value.norm(dim=-1, keepdim=True)) + 1e-6)
                expected += weights[row, other] * seen
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("even", [False, True])
def test_gradients_of_revela_are_those_of_finite_differences(even: bool, llama: WhiteBox) -> None:
    scores = torch.randn(3, 3, generator=torch.Generator().manual_seed(8))
    gradient, expected = slopes(lambda each: losses(llama, CHUNKS[:3], each, even).sum(), scores, 3e-2)
    torch.testing.assert_close(gradient, expected, rtol=5e-2, atol=2e-3)
    assert gradient.abs().max() > 1e-2
    assert gradient.diagonal().abs().max() == 0
    assert all(weight.grad is None for weight in llama.model.parameters())


def test_weights_are_of_full_precision_and_never_of_oneself() -> None:
    near = torch.tensor([[0.0, 900.0, 900.5], [1.0, 0.0, 1.0], [5.0, 0.0, 0.0]])
    weights = looks(near)
    assert weights.diagonal().abs().max() == 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    assert weights[0, 1].item() == pytest.approx(1 / (1 + 2.718281828**0.5), rel=1e-4)
    assert looks(near.bfloat16()).dtype == torch.float32


def test_where_the_model_learns_its_own_weights_get_a_gradient(llama: WhiteBox) -> None:
    other, learns = llama.learning(4, 0)
    with torch.no_grad():
        for weight in learns.values():
            weight.add_(0.05)
    scores = torch.randn(3, 3, generator=torch.Generator().manual_seed(9), requires_grad=True)
    nll(other, CHUNKS[:3], looks(scores), True, learns=True).sum().backward()
    assert scores.grad is not None
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in learns.values())

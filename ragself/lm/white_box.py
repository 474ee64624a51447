"""White-box access to a causal language model: replaces its attention function and returns gradients.

The model is not patched: a function is registered with transformers' attention interface and is active only within
`WhiteBox.attending`. It receives no mask; the attention function must know which tokens are visible.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ragself.errors import GeneratorError
from ragself.schema import Account

Attend: TypeAlias = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Layer; queries (B, H, T, d); keys and values (B, H, T, d) of the same tokens; scale. Returns (B, H, T, d)."""

NAME = "ragself"
_WINDOWS = ("sliding_window", "attention_chunk_size")
_TOKENS = 24  # length of the text that the model is tested with
_CLOSE = {torch.float32: 1e-4}  # relative difference of probabilities that counts as equal; 0.1 in half precision

_attending: ContextVar[tuple[Attend, set[int]]] = ContextVar("attending")  # with the layers that used it


class WhiteBox:
    """A frozen model whose attention function can be replaced.

    Attributes:
        layers: Number of layers.
        heads: Number of attention heads per layer.
        limit: Maximum number of tokens that the model attends to.
        device: Device of the model.
        account: Account that the tokens read are added to.
    """

    def __init__(self, model: Any, name: str, limit: int, account: Account | None = None) -> None:
        """Test the model: with plain softmax attention, its output must equal that of its own attention.

        Args:
            model: A causal language model of transformers.
            name: Name of the model in error messages.
            limit: Maximum number of tokens per text.
            account: Account that the tokens read are added to; None creates one.

        Raises:
            GeneratorError: The model does not use transformers' attention interface, or its attention is more than a
                softmax of products of queries and keys.
        """
        self.model, self.account = model, account or Account()
        settings = model.config.get_text_config()
        self.layers, self.heads = int(settings.num_hidden_layers), int(settings.num_attention_heads)
        windows = [int(getattr(settings, window, None) or limit) for window in _WINDOWS]
        self.limit = min(limit, *windows)
        self.device: torch.device = model.device
        _register()
        self._try(name)

    def states(self, ids: Tensor, attend: Attend, positions: Tensor | None = None) -> Tensor:
        """Run the model without its head.

        Args:
            ids: (B, T) int64.
            attend: Attention function of these tokens.
            positions: (B, T) or (1, T) int64 positions of the tokens in their texts; None counts from 0.

        Returns:
            (B, T, hidden), with a gradient to the tensors that `attend` uses.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        self.account.inside += ids.numel()
        with self.attending(attend):
            found = self.model.base_model(input_ids=ids, position_ids=positions, use_cache=False)
        states: Tensor = found.last_hidden_state
        return states

    def alone(self, ids: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of texts that the model reads separately: for each layer (B, H, T, d).

        Args:
            ids: (B, T) int64, padded on the right.
        """
        keys, values = [torch.empty(0)] * self.layers, [torch.empty(0)] * self.layers

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            keys[layer], values[layer] = key, value
            return causal(layer, query, key, value, scale)

        self.states(ids, attend)
        return keys, values

    def nll(self, states: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        """Mean of -log p over the counted tokens, (B,) float32, nats per token.

        Args:
            states: (B, T, hidden), hidden states of the tokens before the targets.
            targets: (B, T) int64.
            counted: (B, T) True where a target counts; at least one in each row.
        """
        logits = self.model.get_output_embeddings()(states[counted]).float()
        losses = logits.logsumexp(dim=1) - logits.gather(1, targets[counted][:, None])[:, 0]
        row = counted.nonzero()[:, 0]
        sums = torch.zeros(len(states), device=losses.device).index_add(0, row, losses)
        return sums / counted.sum(dim=1)

    def learning(self, rank: int, seed: int) -> tuple[WhiteBox, dict[str, nn.Parameter]]:
        """A copy that shares the weights and has LoRA in its linear modules; and its trainable parameters."""
        from peft import LoraConfig, inject_adapter_in_model

        shared = {id(weight): weight for weight in self.model.parameters()}
        model = copy.deepcopy(self.model, dict(shared))
        names = [name for name, part in model.base_model.named_modules() if isinstance(part, nn.Linear)]
        settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0, bias="none")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(settings, model.base_model)
        trained = {f"model.{name}": weight for name, weight in model.named_parameters() if weight.requires_grad}
        other = copy.copy(self)
        other.model = model
        return other, trained

    @contextmanager
    def attending(self, attend: Attend) -> Iterator[set[int]]:
        """Replace the model's attention function in this thread; yields the layers that used it."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(NAME)
        seen: set[int] = set()
        token = _attending.set((attend, seen))
        try:
            yield seen
        finally:
            _attending.reset(token)
            self.model.set_attn_implementation(before)

    def _try(self, name: str) -> None:
        if not getattr(self.model, "_supports_attention_backend", False):
            raise GeneratorError(_refusal(name, "does not attend through transformers' attention interface"))
        count = min(_TOKENS, self.limit)
        size = self.model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(count, device=self.device)[None] * 7919 % size
        with torch.inference_mode():
            expected = self.model(input_ids=ids, use_cache=False).logits.float().log_softmax(dim=-1)
            try:
                with self.attending(causal) as seen:
                    found = self.model(input_ids=ids, use_cache=False).logits.float().log_softmax(dim=-1)
            except (TypeError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
                reason = f"cannot use ragself's attention ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
                raise GeneratorError(_refusal(name, reason)) from error
        if seen != set(range(self.layers)):
            raise GeneratorError(_refusal(name, f"uses ragself's attention in {len(seen)} of its {self.layers} layers"))
        apart = float((found - expected).exp().sub(1).abs().max())
        if not apart <= _CLOSE.get(self.model.dtype, 1e-1):
            reason = f"needs its own attention (probabilities differ by {apart:.1%} with plain softmax attention)"
            raise GeneratorError(_refusal(name, reason))


def causal(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention: each token attends to itself and earlier ones. Padding on the right has no effect."""
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)  # without a registered mask function, the model creates no mask


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # several heads share keys and values
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attend, seen = _attending.get()
    seen.add(module.layer_idx)
    out = attend(module.layer_idx, query, key, value, scale)
    return out.transpose(1, 2).contiguous(), None


def _refusal(name: str, reason: str) -> str:
    return (
        f"{name} {reason}: the objectives dream and revela cannot train with it. Expected a model such as Llama, "
        "Qwen2, Qwen3, Mistral or GPT-NeoX (Pythia); or leave train.objective at distill."
    )

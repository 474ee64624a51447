"""Injection of a retriever's document weights into the attention of a language model (DREAM).

In chosen heads, attention over the documents in the context is split into two factors: the document and the token in
the document. The retriever sets the first, the model keeps the second. The total attention of a head to all documents
stays the same, and so does its attention to other tokens (DREAM, arXiv 2606.24667, of which only the abstract was
available; the total mass of the documents is our choice: with it, the head's own shares leave the model unchanged).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ragself.lm.white_box import WhiteBox

NOWHERE = -1e4  # logit of absent tokens; finite, so that its gradient is 0 and not NaN


@dataclass(frozen=True, slots=True)
class Context:
    """Documents that a language model has read, joined into one text per row.

    Attributes:
        keys, values: By layer, (B, H, S, d).
        owner: (B, S) int64, index of the document in its row that a token belongs to, or -1 for none.
        lengths: (B,) int64, number of tokens in each row; the rest is padding.
        count: K, number of documents in a row.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    owner: Tensor
    lengths: Tensor
    count: int

    @property
    def visible(self) -> Tensor:
        """(B, S) True where there is a token and not padding."""
        return torch.arange(self.owner.shape[1], device=self.owner.device) < self.lengths[:, None]


@torch.no_grad()
def read(box: WhiteBox, ids: Tensor, owner: Tensor, lengths: Tensor, count: int) -> Context:
    """Let the model read documents, without autograd: nothing before them depends on the retriever.

    Args:
        box: The model.
        ids: (B, S) int64, padded on the right.
        owner, lengths, count: See `Context`.
    """
    return Context(*box.alone(ids), owner, lengths, count)


@dataclass(frozen=True)
class Injection:
    """Attention function for texts after a context, with the retriever's weights in some heads.

    Attributes:
        context: Documents that were read.
        heads: By layer, the heads that use the retriever's weights.
        log_weights: (B, h, T, K) float32 logarithms of the retriever's weights, which sum to 1; h and T may be 1 if
            they are the same for all heads and tokens. None leaves all heads unchanged.
        notes: Whether to record `shares`.
        shares: By layer, share of attention that each token gives to each document in every head, (B, H, T, K)
            float32.
    """

    context: Context
    heads: Mapping[int, Sequence[int]]
    log_weights: Tensor | None = None
    notes: bool = False
    shares: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend to the context and to preceding tokens; see `Attend`."""
        context = self.context
        keys = torch.cat([context.keys[layer], key], dim=2)
        values = torch.cat([context.values[layer], value], dim=2)
        own = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()
        before = context.visible[:, None].expand(-1, query.shape[2], -1)
        mask = torch.cat([before, own.expand(len(query), -1, -1)], dim=2)[:, None]
        out = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        if self.notes:
            self.shares[layer] = self._masses(_logits(query, keys, mask, scale)).softmax(dim=-1)[..., :-1]
        chosen = list(self.heads.get(layer, ()))
        if not chosen or self.log_weights is None:
            return out
        logits = _logits(query[:, chosen], keys[:, chosen], mask, scale)
        changed = (self._moved(logits, self.log_weights).softmax(dim=-1).to(values.dtype)) @ values[:, chosen]
        return out.index_copy(1, torch.tensor(chosen, device=out.device), changed)

    def _masses(self, logits: Tensor) -> Tensor:
        """Log of the summed exponentials of the logits of each document, and of all other tokens: (B, h, T, K + 1)."""
        context, size = self.context, logits.shape[-1]
        rest = torch.full((len(logits), size - context.owner.shape[1]), -1, device=logits.device)
        owner = torch.cat([context.owner, rest], dim=1)
        owner = torch.where(owner < 0, context.count, owner)[:, None, None].expand_as(logits)
        top = torch.full((*logits.shape[:-1], context.count + 1), NOWHERE, device=logits.device)
        top = top.scatter_reduce(3, owner, logits.detach(), "amax")  # a constant that cancels, so it needs no gradient
        sums = torch.zeros_like(top).scatter_add(3, owner, (logits - top.gather(3, owner)).exp())
        return torch.where(sums > 0, top + sums.clamp_min(1e-30).log(), NOWHERE)

    def _moved(self, logits: Tensor, log_weights: Tensor) -> Tensor:
        """Logits that divide the total mass of the documents among them by the retriever's weights."""
        masses = self._masses(logits)[..., :-1]
        there = masses > NOWHERE / 2  # a document that the head cannot see gets no attention
        weights = torch.where(there, log_weights, NOWHERE).log_softmax(dim=-1)
        shift = weights + masses.logsumexp(dim=-1, keepdim=True) - masses
        owner = self.context.owner[:, None, None].expand(*logits.shape[:-1], -1)
        moved = torch.where(owner < 0, 0.0, shift.gather(3, owner.clamp_min(0)))
        return torch.cat([logits[..., : owner.shape[-1]] + moved, logits[..., owner.shape[-1] :]], dim=-1)


def _logits(query: Tensor, keys: Tensor, mask: Tensor, scale: float) -> Tensor:
    products = (query @ keys.transpose(2, 3)).float() * scale
    return products.masked_fill(~mask, NOWHERE)

"""How a retriever's choice of documents gets into the attention of a language model: DREAM.

In chosen heads, attention over documents that stand in the context is taken apart: which document, and which token in
it. The first is the retriever's, the second the model's own. A head gives to all documents together what it gave
before, and other tokens keep theirs (DREAM, arXiv 2606.24667, of which the abstract was at hand; what the mass of all
documents should be is our choice: with it a head's own shares leave the model as it is).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ragself.lm.white_box import WhiteBox

NOWHERE = -1e4  # logit of what is not there: finite, so that its gradient is 0 and not NaN


@dataclass(frozen=True, slots=True)
class Context:
    """Documents that a language model has read, in one text for each row.

    Attributes:
        keys, values: By layer, (B, H, S, d).
        owner: (B, S) int64, which document of its row a token belongs to, or -1 where to none.
        lengths: (B,) int64 tokens of each row; what comes after is padding.
        count: K, of documents in a row.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    owner: Tensor
    lengths: Tensor
    count: int

    @property
    def visible(self) -> Tensor:
        """(B, S) True where there is a token."""
        return torch.arange(self.owner.shape[1], device=self.owner.device) < self.lengths[:, None]


@torch.no_grad()
def read(box: WhiteBox, ids: Tensor, owner: Tensor, lengths: Tensor, count: int) -> Context:
    """Have the model read documents, without autograd: nothing that the retriever decides comes before them.

    Args:
        box: The model.
        ids: (B, S) int64, padded at the right.
        owner, lengths, count: As of `Context`.
    """
    return Context(*box.alone(ids), owner, lengths, count)


@dataclass(frozen=True)
class Injection:
    """Attention of the texts that follow a context, with the retriever's weights in some heads.

    Attributes:
        context: What was read.
        heads: By layer, the heads that obey.
        log_weights: (B, h, T, K) float32 logarithms of the retriever's weights, which sum to 1; h and T may be 1 where
            they are the same for all heads and tokens. None leaves all heads as they are.
        shares: Of every head, what its tokens give to each document, (B, H, T, K) float32 by layer, noted if `notes`.
        notes: Whether.
    """

    context: Context
    heads: Mapping[int, Sequence[int]]
    log_weights: Tensor | None = None
    notes: bool = False
    shares: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend: to the context, and to the tokens before; see `Attend`."""
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
        """Logarithms of what each document, and everything else together, gets before softmax: (B, h, T, K + 1)."""
        context, size = self.context, logits.shape[-1]
        rest = torch.full((len(logits), size - context.owner.shape[1]), -1, device=logits.device)
        owner = torch.cat([context.owner, rest], dim=1)
        owner = torch.where(owner < 0, context.count, owner)[:, None, None].expand_as(logits)
        top = torch.full((*logits.shape[:-1], context.count + 1), NOWHERE, device=logits.device)
        top = top.scatter_reduce(3, owner, logits.detach(), "amax")  # a constant that cancels: no gradient
        sums = torch.zeros_like(top).scatter_add(3, owner, (logits - top.gather(3, owner)).exp())
        return torch.where(sums > 0, top + sums.clamp_min(1e-30).log(), NOWHERE)

    def _moved(self, logits: Tensor, log_weights: Tensor) -> Tensor:
        """Logits by which documents share, as the retriever says, what they had together."""
        masses = self._masses(logits)[..., :-1]
        there = masses > NOWHERE / 2  # a head that cannot see a document gives it nothing
        weights = torch.where(there, log_weights, NOWHERE).log_softmax(dim=-1)
        shift = weights + masses.logsumexp(dim=-1, keepdim=True) - masses
        owner = self.context.owner[:, None, None].expand(*logits.shape[:-1], -1)
        moved = torch.where(owner < 0, 0.0, shift.gather(3, owner.clamp_min(0)))
        return torch.cat([logits[..., : owner.shape[-1]] + moved, logits[..., owner.shape[-1] :]], dim=-1)


def _logits(query: Tensor, keys: Tensor, mask: Tensor, scale: float) -> Tensor:
    products = (query @ keys.transpose(2, 3)).float() * scale
    return products.masked_fill(~mask, NOWHERE)

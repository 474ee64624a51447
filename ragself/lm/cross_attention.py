"""Attention between the chunks of a batch in a language model, weighted by retriever similarity (Revela).

Each layer adds to a chunk's own attention the attention of its tokens to every other chunk, weighted by the retriever
(Revela, arXiv 2506.16552). The keys and values of another chunk come from reading that chunk alone, in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ragself.lm.white_box import WhiteBox, causal

_NOTHING = 1e-4  # chunks with a lower weight are skipped
_EVEN = 8  # head dimensions are padded to a multiple of this, for fast kernels


@dataclass(frozen=True, slots=True)
class Alone:
    """Keys and values of chunks that the model has read separately.

    Attributes:
        keys, values: By layer, (B, H, T, d).
        lengths: Number of tokens of each chunk; the rest is padding.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    lengths: Sequence[int]


def read(box: WhiteBox, ids: Tensor, lengths: Sequence[int], learns: bool = False) -> Alone:
    """Let the model read each chunk separately; with a gradient if the model itself is trained.

    Args:
        box: The model.
        ids: (B, T) int64, padded on the right.
        lengths: Number of tokens of each of the B chunks.
        learns: Whether the model has trainable weights.
    """
    with torch.set_grad_enabled(learns):
        return Alone(*box.alone(ids), lengths)


@dataclass(frozen=True, slots=True)
class Crossing:
    """Attention function for chunks that attend to the other chunks.

    Attributes:
        alone: The same chunks, read separately.
        weights: (B, B) float32, weight of chunk j in the attention of chunk i; 0 for itself.
        even: Divide the attention output of a chunk by the attention-weighted mean norm of its values, so that chunks
            with large value vectors do not dominate. It is better for prose (the paper's V-norm).
    """

    alone: Alone
    weights: Tensor
    even: bool = True

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend to preceding tokens and to all other chunks; see `Attend`."""
        keys, values = self.alone.keys[layer], self.alone.values[layer]
        # Recomputed for the gradient, so that memory grows with the tokens and not with pairs of chunks.
        found: Tensor = checkpoint(self._others, query, keys, values, self.weights, scale, use_reentrant=False)
        return causal(layer, query, key, value, scale) + found

    def _others(self, query: Tensor, keys: Tensor, values: Tensor, weights: Tensor, scale: float) -> Tensor:
        visible = weights.detach() > _NOTHING
        found = torch.zeros_like(query)
        for other, length in enumerate(self.alone.lengths):
            rows = visible[:, other].nonzero()[:, 0]
            if not len(rows):
                continue
            seen = self._look(query[rows], keys[other, :, :length], values[other, :, :length], scale)
            found = found.index_add(0, rows, seen * weights[rows, other, None, None, None].to(seen.dtype))
        return found

    def _look(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Attention of tokens (n, H, T, d) to one chunk with keys and values (H, S, d)."""
        count, heads, tokens, width = query.shape
        if self.even:  # an additional dimension holds the norms of the values
            values = torch.cat([values, values.norm(dim=-1, keepdim=True)], dim=-1)
            wide = -(-values.shape[-1] // _EVEN) * _EVEN
            query, keys, values = (pad(each, (0, wide - each.shape[-1])) for each in (query, keys, values))
        flat = query.transpose(0, 1).reshape(1, heads, count * tokens, -1)
        seen = scaled_dot_product_attention(flat, keys[None], values[None], scale=scale)
        seen = seen.reshape(heads, count, tokens, -1).transpose(0, 1)
        if self.even:
            return seen[..., :width] / (seen[..., width : width + 1] + 1e-6)
        return seen

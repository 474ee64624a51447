"""How chunks of a batch see each other in a language model, as much as a retriever finds them alike: Revela.

Each layer adds to a chunk's own attention what its tokens find in every other chunk, weighted by the retriever
(Revela, arXiv 2506.16552). The others are seen as the model reads them alone, whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ragself.lm.white_box import WhiteBox, causal

_NOTHING = 1e-4  # a weight below which another chunk is not looked at
_EVEN = 8  # dimensions of a head are a multiple of it, for fast kernels


@dataclass(frozen=True, slots=True)
class Alone:
    """Chunks as the model reads each of them alone.

    Attributes:
        keys, values: By layer, (B, H, T, d).
        lengths: Tokens of each chunk; what comes after is padding.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    lengths: Sequence[int]


def read(box: WhiteBox, ids: Tensor, lengths: Sequence[int], learns: bool = False) -> Alone:
    """Have the model read each chunk alone; with a gradient where the model itself learns.

    Args:
        box: The model.
        ids: (B, T) int64, padded at the right.
        lengths: B.
        learns: Whether the model has weights that are trained.
    """
    with torch.set_grad_enabled(learns):
        return Alone(*box.alone(ids), lengths)


@dataclass(frozen=True, slots=True)
class Crossing:
    """Attention of chunks that see the others.

    Attributes:
        alone: The same chunks, read alone.
        weights: (B, B) float32, how much chunk i takes from chunk j; 0 for itself.
        even: Divide what is found in a chunk by the mean length of the values that it is made of, so that chunks whose
            values are long have no louder voice: better for prose (the paper's V-norm).
    """

    alone: Alone
    weights: Tensor
    even: bool = True

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend: to the tokens before, and to all of the others; see `Attend`."""
        keys, values = self.alone.keys[layer], self.alone.values[layer]
        # Computed again for the gradient: what is kept grows with the tokens, not with pairs of chunks.
        found: Tensor = checkpoint(self._others, query, keys, values, self.weights, scale, use_reentrant=False)
        return causal(layer, query, key, value, scale) + found

    def _others(self, query: Tensor, keys: Tensor, values: Tensor, weights: Tensor, scale: float) -> Tensor:
        looked = weights.detach() > _NOTHING
        found = torch.zeros_like(query)
        for other, length in enumerate(self.alone.lengths):
            rows = looked[:, other].nonzero()[:, 0]
            if not len(rows):
                continue
            seen = self._look(query[rows], keys[other, :, :length], values[other, :, :length], scale)
            found = found.index_add(0, rows, seen * weights[rows, other, None, None, None].to(seen.dtype))
        return found

    def _look(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """What tokens (n, H, T, d) find in one chunk, (H, S, d) keys and values."""
        count, heads, tokens, width = query.shape
        if self.even:  # one dimension more, of the values' lengths
            values = torch.cat([values, values.norm(dim=-1, keepdim=True)], dim=-1)
            wide = -(-values.shape[-1] // _EVEN) * _EVEN
            query, keys, values = (pad(each, (0, wide - each.shape[-1])) for each in (query, keys, values))
        flat = query.transpose(0, 1).reshape(1, heads, count * tokens, -1)
        seen = scaled_dot_product_attention(flat, keys[None], values[None], scale=scale)
        seen = seen.reshape(heads, count, tokens, -1).transpose(0, 1)
        if self.even:
            return seen[..., :width] / (seen[..., width : width + 1] + 1e-6)
        return seen

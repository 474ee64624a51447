"""Retrieval heads of a language model: attention heads that rank documents by attention alone.

A head's score of a document is the attention of the probe's tokens to it, minus the attention of a content-free probe
(QRHead, Zhang et al. 2025). In the paper the right document is labelled; here it is the one that a known-item probe was
made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from ragself.errors import GeneratorError
from ragself.lm.attention_injection import Context, Injection
from ragself.progress import Progress, silent
from ragself.schema import Probe
from ragself.training.dream.contexts import Asked, Contexts

Rows = NDArray[np.int64]
STAGE = "find heads"
_DOUBT = 0.05  # family-wise error rate: chance that any head is chosen though none is better than chance


@dataclass(frozen=True, slots=True)
class Heads:
    """Retrieval heads.

    Attributes:
        chosen: Layer and number of each head, best first.
        quality: Mean reciprocal rank of the right document for each head.
        chance: Mean reciprocal rank of a random ranking.
        probes: Number of probes measured.
    """

    chosen: tuple[tuple[int, int], ...]
    quality: tuple[float, ...]
    chance: float
    probes: int

    @property
    def by_layer(self) -> Mapping[int, Sequence[int]]:
        """Numbers of the heads of each layer."""
        layers: dict[int, list[int]] = {}
        for layer, head in sorted(self.chosen):
            layers.setdefault(layer, []).append(head)
        return layers


def find(
    contexts: Contexts,
    probes: Sequence[Probe],
    documents: Rows,
    right: Rows,
    count: int,
    progress: Progress = silent,
) -> Heads:
    """Choose heads that find the right document better than chance.

    Args:
        contexts: Texts, with the language model that reads them.
        probes: P known-item probes.
        documents: (P, K) rows of the documents, in random order.
        right: (P,) column of the right document.
        count: Maximum number of heads.
        progress: Called with the stage, probes done and total.

    Raises:
        GeneratorError: No head is better than chance.
    """
    ranks = np.empty((len(probes), contexts.box.layers, contexts.box.heads))
    for group in contexts.groups(documents):
        some = [probes[row] for row in group]
        context, asked = contexts.read(some, documents[group])
        given = _given(contexts, context, asked) - _given(contexts, context, contexts.nothing(some, context))
        own = np.take_along_axis(given, right[group][:, None, None, None], axis=3)
        ranks[group] = 1 + (given > own).sum(axis=3) + ((given == own).sum(axis=3) - 1) / 2  # ties are shared
        progress(STAGE, int(group[-1]) + 1, len(probes))
    found = 1 / ranks
    size = documents.shape[1]
    chance = float((1 / np.arange(1, size + 1)).mean())
    spread = float((1 / np.arange(1, size + 1)).std())
    mean = found.mean(axis=0)
    bound = chance + NormalDist().inv_cdf(1 - _DOUBT / mean.size) * spread / np.sqrt(len(probes))
    order = [divmod(int(at), contexts.box.heads) for at in np.argsort(-mean, axis=None, kind="stable")]
    chosen = [place for place in order if mean[place] > bound][:count]
    if not chosen:
        raise GeneratorError(
            "No attention head of the language model finds the right document: the best of "
            f"{mean.size} has a mean reciprocal rank of {mean.max():.2f} over {len(probes)} probes, expected more than "
            f"{bound:.2f}, which chance does not reach. Use a language model that understands these documents, or "
            "leave train.objective at distill."
        )
    return Heads(tuple(chosen), tuple(float(mean[place]) for place in chosen), chance, len(probes))


@torch.no_grad()
def _given(contexts: Contexts, context: Context, asked: Asked) -> NDArray[np.float64]:
    """Mean attention of the counted tokens to each document, (B, layers, heads, K)."""
    injection = Injection(context, {}, notes=True)
    contexts.box.states(asked.ids, injection, asked.positions)
    counted = asked.counted[:, None, :, None]
    means = [
        (injection.shares[layer] * counted).sum(dim=2) / counted.sum(dim=2) for layer in range(contexts.box.layers)
    ]
    return torch.stack(means, dim=1).cpu().numpy().astype(np.float64)

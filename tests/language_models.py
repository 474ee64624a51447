"""Small real causal language models for tests and benchmarks: one of random weights, one that copies.

Both are saved as a hub would serve them (fp32 safetensors, tokenizer, generation config), so that
``AutoModelForCausalLM.from_pretrained`` and vLLM load them alike.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ARCHITECTURES: dict[str, Any] = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
ENDINGS = ("\n\nQuestion:", "\n\nTitle:", "\n\nSummary:")
POSITIONS = 1024

_HEAD = 32  # dimensions of a head
_CODE = 31  # dimensions of the random code that stands for a token
_OWN, _BEFORE, _TWO_BEFORE, _NEXT = (slice(part * _CODE, (part + 1) * _CODE) for part in range(4))  # copier's states
_THETA = 1e8  # RoPE turns most dimensions so slowly that they can match codes across a whole passage


def tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `size` entries learned from `texts`; it puts ``<s>`` first as Llama does."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def random_model(
    folder: Path, architecture: str, tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, spread: float = 0.2
) -> Path:
    """Save a two-layer "llama" or "qwen3" in `folder`, its weights random of deviation `spread`; return folder."""
    model = _model(architecture, tokenizer, seed, hidden_size=64, num_key_value_heads=2, initializer_range=spread)
    return _save(model, tokenizer, folder)


def copying_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    seed: int = 0,
    steps: int = 80,
    threads: int = 1,
    titled: Sequence[tuple[str, str]] = (),
) -> Path:
    r"""Train a two-layer Llama that copies from its context, save it in `folder`, and return the folder.

    After ``<s>Passage: DOCUMENT\n\nQuestion:`` it holds the document's words for likely, in order or scattered, words
    it never saw included. Its weights start from the circuit that copies (see `_wire`), which plain training takes
    long to find; training on made-up words then sets its balance. Same arguments, same machine: same weights.
    Where no `tokenizer` is given, one is learned from made-up words. With `titled`, titles and texts of documents, half
    of what it is trained on is a title after a few of the texts: it then knows what of a text to copy, and when not to.
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        draw = random.Random(seed)
        tokens = tokenizer or _made_up_tokenizer(draw)
        model = _model("llama", tokens, seed, hidden_size=128, num_key_value_heads=4, rope_theta=_THETA)
        _wire(model, torch.Generator().manual_seed(seed))
        _train(model, tokens, draw, steps, titled)
    finally:
        torch.set_num_threads(threads_before)
    return _save(model, tokens, folder)


def _made_up_tokenizer(draw: random.Random) -> PreTrainedTokenizerFast:
    return tokenizer(("".join(_example(draw, 12, 60)) for _ in range(2000)), 512)


def _model(architecture: str, tokenizer: PreTrainedTokenizerFast, seed: int, **settings: Any) -> Any:
    config_class, model_class = ARCHITECTURES[architecture]
    config = config_class(
        vocab_size=len(tokenizer),
        intermediate_size=2 * settings["hidden_size"],
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=_HEAD,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).float()


def _save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def _wire(model: Any, generator: torch.Generator) -> None:
    """Set the circuit that copies: what stood after the present token, or present two, stands next again.

    Two heads of the first layer look one and two places back and note the token there. One head of the second layer
    looks for places whose token before is the present one, another for places whose two tokens before are the
    present two, and both predict the token at those places. All other weights stay random.
    """
    codes = torch.randn(model.config.vocab_size, _CODE, generator=generator)
    codes *= _CODE**0.5 / codes.norm(dim=1, keepdim=True)
    model.model.embed_tokens.weight[:, _OWN] = codes
    model.model.embed_tokens.weight[:, -1] = 4.0  # the same for all tokens: what the first two heads look by
    model.lm_head.weight[:, _NEXT] = codes / 2
    back, copy = (layer.self_attn for layer in model.model.layers)
    half, fast = _HEAD // 2, 5
    speeds = _THETA ** (-torch.arange(half) / half)
    slow = (torch.cat([speeds, speeds]) < 0.002).nonzero()[:, 0]
    for head, noted in enumerate((_BEFORE, _TWO_BEFORE)):
        first = head * _HEAD
        turn = speeds[:fast] * (head + 1)
        back.q_proj.weight[first : first + fast, -1] = 2.0
        back.k_proj.weight[first : first + fast, -1] = 2.0 * turn.cos()
        back.k_proj.weight[first + half : first + half + fast, -1] = 2.0 * turn.sin()
        values = slice(first, first + _CODE)
        back.v_proj.weight[values, _OWN] = 0.7 * torch.eye(_CODE)
        back.o_proj.weight[noted, values] = torch.eye(_CODE)
        for now, then in ((_OWN, _BEFORE), (_BEFORE, _TWO_BEFORE))[: head + 1]:
            match = 2 * torch.randn(len(slow), _CODE, generator=generator) / _CODE**0.5
            copy.q_proj.weight[first + slow, now] = match
            copy.k_proj.weight[first + slow, then] = match
        copy.v_proj.weight[values, _OWN] = torch.eye(_CODE)
        copy.o_proj.weight[_NEXT, values] = torch.eye(_CODE)


def _train(
    model: Any, tokenizer: PreTrainedTokenizerFast, draw: random.Random, steps: int, titled: Sequence[tuple[str, str]]
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min((step + 1) / 10, 1.0, 1.5 * (1 - step / steps))
        count, least, most = (2, 60, 200) if step % 4 == 3 else (8, 12, 60)
        real = bool(titled) and step % 2 == 0
        made = [_read(draw, titled) if real else _example(draw, least, most) for _ in range(count)]
        rows, weights = _batch(made, tokenizer)
        states = model.model(rows[:, :-1]).last_hidden_state
        losses = functional.cross_entropy(model.lm_head(states).mT, rows[:, 1:], reduction="none")
        ((losses * weights[:, 1:]).sum() / weights.sum()).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _batch(examples: list[list[str]], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows, and what each token counts in the loss: queries and the end 1, padding 0, all else 0.1."""
    rows, weights = [], []
    for parts in examples:
        row, weight = [tokenizer.bos_token_id], [0.0]
        for number, ids in enumerate(tokenizer(parts, add_special_tokens=False)["input_ids"]):
            row += ids
            weight += [1.0 if number and number % 2 == 0 else 0.1] * len(ids)  # passage, ending, query, ending, query
        rows.append(torch.tensor([*row, tokenizer.eos_token_id]))
        weights.append(torch.tensor([*weight, 1.0]))
    return pad_sequence(rows, True, tokenizer.pad_token_id), pad_sequence(weights, True)


def _example(draw: random.Random, least: int, most: int) -> list[str]:
    """A passage of made-up words, then one to three endings and queries: words of it, side by side or scattered."""
    count = draw.randint(least, most)
    words = _words(draw, count)
    if draw.random() < 0.3:  # few words, each several times
        words = draw.choices(words[: max(6, count // 3)], k=count)
    parts = ["Passage: " + " ".join(words)]
    for _ in range(draw.randint(1, 3)):
        length = draw.randint(3, 6)
        start = draw.randint(0, count - length)
        query = words[start : start + length] if draw.random() < 0.5 else draw.sample(words, length)
        parts += [draw.choice(ENDINGS), " " + " ".join(query)]
    return parts


def _read(draw: random.Random, titled: Sequence[tuple[str, str]]) -> list[str]:
    """A few texts of documents, each cut, and the title of one of them."""
    some = draw.sample(titled, draw.randint(1, 4))
    passages = "\n\n".join("Passage: " + " ".join(text.split()[:60]) for _, text in some)
    return [passages, draw.choice(ENDINGS), " " + draw.choice(some)[0]]


def _words(draw: random.Random, count: int) -> list[str]:
    """Words of two to four syllables; the syllables are drawn anew every time, some from any letters."""
    shape = ("bcdfghjklmnprstvwyz", "aeiou", ["", "", "", "", "", *"lnrst"])
    if draw.random() < 0.25:
        shape = (string.ascii_letters + string.digits, string.ascii_lowercase, ["", *"-_'."])
    syllables = ["".join(draw.choice(letters) for letters in shape) for _ in range(draw.randint(6, 40))]
    return ["".join(draw.choices(syllables, k=draw.choice((2, 3, 3, 3, 4)))) for _ in range(count)]

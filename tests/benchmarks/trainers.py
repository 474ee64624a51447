"""Training as other libraries offer it, each for so many seconds on one thread. They are imported when first used.

Seconds of a budget are processor time, so that a busy machine leaves as many steps as an idle one.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ragself.progress import Progress, silent
from tests.benchmarks.pairs import Pair

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CONTRASTIVE_BATCH, CONTRASTIVE_RATE = 16, 2e-5  # as sentence-transformers' training overview has it
DENOISE_BATCH, DENOISE_RATE = 8, 3e-5  # as its TSDAE example has it
ADAPTER_BATCH = 10  # LlamaIndex's default; its rate is 2e-5
TOKENS = 128  # of a text that are read in training; all that the model reads are when it encodes
_MOST = 10_000  # steps, more than any budget here holds
_TRIAL = 30  # steps that tell how long one takes


@dataclass(frozen=True, slots=True)
class Training:
    """What a training took.

    Attributes:
        steps: Of the optimiser.
        seconds: Processor time of these steps.
        wall: Seconds that passed meanwhile.
    """

    steps: int
    seconds: float
    wall: float


class Clock:
    """Processor time and wall time since it was made."""

    def __init__(self) -> None:
        self._seconds, self._wall = time.process_time(), time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of this process on all of its threads, of which there is one that works."""
        return time.process_time() - self._seconds

    @property
    def wall(self) -> float:
        """Of the clock on the wall."""
        return time.perf_counter() - self._wall


def contrast(
    model: SentenceTransformer,
    pairs: Iterator[tuple[str, str]],
    budget: float,
    seed: int,
    progress: Progress = silent,
) -> Training:
    """Train a model on pairs with MultipleNegativesRankingLoss: the other positives of a batch are negatives.

    Args:
        model: Changed in place.
        pairs: Without end.
        budget: Seconds, after which the step that is under way is the last.
        seed: Of dropout.
        progress: Told of seconds.
    """
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(model)
    return _fit(model, loss, pairs, CONTRASTIVE_BATCH, CONTRASTIVE_RATE, budget, seed, progress)


def denoise(
    model: SentenceTransformer,
    pairs: Iterator[tuple[str, str]],
    budget: float,
    seed: int,
    progress: Progress = silent,
) -> Training:
    """Train a model to tell its decoder the whole text by the vector of a damaged one (TSDAE); as `contrast`.

    The decoder shares the encoder's weights; its cross-attention and its head begin random, as no embedding model
    brings them.
    """
    from sentence_transformers.losses import DenoisingAutoEncoderLoss

    loss = DenoisingAutoEncoderLoss(model, tie_encoder_decoder=True)
    return _fit(model, loss, pairs, DENOISE_BATCH, DENOISE_RATE, budget, seed, progress)


def adapt(
    pairs: Sequence[Pair],
    queries: NDArray[np.float32],
    positives: NDArray[np.float32],
    epochs: int | None,
    budget: float,
    seed: int,
) -> tuple[NDArray[np.float32], Training]:
    """Train LlamaIndex's linear adapter of queries; documents stay as they are.

    Args:
        pairs: In the order in which they are shown, as LlamaIndex does not shuffle.
        queries: (len(pairs), dimension) vectors of their queries.
        positives: (len(pairs), dimension) vectors of their positives.
        epochs: At most, fewer where the budget ends before; None for as many as fit.
        budget: Seconds.
        seed: Of torch, which this training draws nothing from.

    Returns:
        (dimension, dimension) float32, what vectors of queries are multiplied by from the right; what it took.
    """
    import torch
    from llama_index.finetuning import EmbeddingAdapterFinetuneEngine, EmbeddingQAFinetuneDataset

    torch.manual_seed(seed)
    ids = [str(row) for row in range(len(pairs))]
    data = EmbeddingQAFinetuneDataset(
        queries={id: pair.query for id, pair in zip(ids, pairs, strict=True)},
        corpus={id: pair.positive for id, pair in zip(ids, pairs, strict=True)},
        relevant_docs={id: [id] for id in ids},
    )
    model = _known(pairs, queries, positives)

    def engine(count: int, folder: str, **more: Any) -> Any:
        return EmbeddingAdapterFinetuneEngine(
            data, model, ADAPTER_BATCH, count, dim=queries.shape[1], device="cpu", model_output_path=folder,
            show_progress_bar=False, **more,
        )  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="ragself-adapter-") as folder:
        trial = engine(1, folder, steps_per_epoch=_TRIAL)
        clock = Clock()
        trial.finetune()
        step = clock.seconds / _TRIAL
        size = len(trial.loader)
        fit = max(int(budget / (step * size)), 1)
        count = fit if epochs is None else min(epochs, fit)
        real = engine(count, folder)
        clock = Clock()
        real.finetune()
        done = Training(count * size, clock.seconds, clock.wall)
        weight = real.model.linear.weight.detach().numpy().T.copy()
    return weight, done


def _known(pairs: Sequence[Pair], queries: NDArray[np.float32], positives: NDArray[np.float32]) -> Any:
    """An embedding model of LlamaIndex's that knows the vectors of these texts only."""
    from llama_index.core.embeddings import BaseEmbedding

    asked = {pair.query: vector.tolist() for pair, vector in zip(pairs, queries, strict=True)}
    found = {pair.positive: vector.tolist() for pair, vector in zip(pairs, positives, strict=True)}

    class Known(BaseEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return asked[query]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return asked[query]

        def _get_text_embedding(self, text: str) -> list[float]:
            return found[text]

    return Known()


def _fit(
    model: SentenceTransformer,
    loss: Any,
    pairs: Iterator[tuple[str, str]],
    batch: int,
    rate: float,
    budget: float,
    seed: int,
    progress: Progress,
) -> Training:
    """Let sentence-transformers' trainer run at a constant rate until the budget is spent."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from datasets.utils import logging as datasets_logging
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from transformers import PrinterCallback

    torch.set_num_threads(1)
    disable_progress_bars()
    datasets_logging.set_verbosity_error()

    def drawn(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        """The next pairs, in whatever order the trainer asks for rows."""
        rows = list(itertools.islice(pairs, len(batch["first"])))
        return {"first": [one for one, _ in rows], "second": [other for _, other in rows]}

    blank = [""] * (_MOST * batch)
    data = Dataset.from_dict({"first": blank, "second": blank})
    data.set_transform(drawn)
    watch = _watch(budget, progress)
    with tempfile.TemporaryDirectory(prefix="ragself-trainer-") as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder, max_steps=_MOST, per_device_train_batch_size=batch, learning_rate=rate, weight_decay=0.0,
            lr_scheduler_type="constant", seed=seed, use_cpu=True, dataloader_pin_memory=False, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = SentenceTransformerTrainer(model, arguments, data, loss=loss, callbacks=[watch])
        trainer.remove_callback(PrinterCallback)
        tokens = model.max_seq_length
        model.max_seq_length = TOKENS
        trainer.train()
        model.max_seq_length = tokens
    return Training(int(trainer.state.global_step), watch.clock.seconds, watch.clock.wall)


def _watch(budget: float, progress: Progress) -> Any:
    """A callback of the trainer's that ends it after so many seconds."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        clock = Clock()

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.clock = Clock()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds = self.clock.seconds
            control.should_training_stop = seconds >= budget
            progress("train (seconds)", min(int(seconds), int(budget)), int(budget))

    return Watch()


def endless(pairs: Sequence[tuple[str, str]], seed: int) -> Iterator[tuple[str, str]]:
    """The same pairs again and again, each time in another random order.

    Raises:
        ValueError: There are none.
    """
    if not pairs:
        raise ValueError("There is no pair to train on: the language model wrote no question worth keeping.")
    random = np.random.default_rng(seed)
    return itertools.chain.from_iterable(
        (pairs[row] for row in random.permutation(len(pairs)).tolist()) for _ in itertools.count()
    )

"""What somebody would do instead of ragself, each from its own library: the methods of the table in quality.py.

- bm25: bm25s, as ragself calls it: Lucene's variant, English stop words, no stemming, in every language.
- dense: all-MiniLM-L6-v2 as it is, the base that all others start from.
- rrf: reciprocal rank fusion of both, k = 60, as in `ragself bench`.
- linear: half of each score, scaled to 0 to 1 over the first 1000 of its list for each query; 0 for what is not listed.
- untrained: hybrid search of ragself before anything is learned. No rival, but measured in the same way.
- adapter: LlamaIndex's EmbeddingAdapterFinetuneEngine, a linear layer on queries, on known items: a title, or the first
  sentence, and the document without it; 2000 at most, 4 epochs. adapter-long: as many epochs as the budget holds.
- crop, ict: all of the model with sentence-transformers' trainer and MultipleNegativesRankingLoss, on two random crops
  of a document, or a sentence and the rest of its document.
- tsdae: the same with DenoisingAutoEncoderLoss, on sentences. Its noise needs nltk's punkt, which must be downloaded:
  words between spaces are deleted instead, at the same ratio of .6.
- questions: as crop, on questions that a language model writes about documents (as InPars and GPL do, without the
  cross-encoder of the latter), where a generator is given.

The budget is processor time of training on one thread, so that it holds as many steps on a busy machine; wall time is
told beside it. Encoding comes on top: of the corpus again by a changed model, of known items for the adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.cli.bench import _measure, _top
from ragself.config import EncoderConfig, GeneratorConfig
from ragself.encoders.encoder import Encoder
from ragself.lm.language_model import open_language_model
from ragself.lm.score_cache import ScoreCache
from ragself.probes.questions import write
from ragself.progress import Progress
from tests.benchmarks import trainers
from tests.benchmarks.pairs import cloze, crops, damaged, known_items, sentences, stream
from tests.benchmarks.subject import Subject, encode, free

FREE = ("bm25", "dense", "rrf", "linear", "untrained")  # of training and of chance, so that one seed is enough
RIVALS = (*FREE, "adapter", "adapter-long", "crop", "ict", "tsdae", "questions")
KNOWN_ITEMS, EPOCHS = 2000, 4
QUESTIONS = 200  # that a language model writes, as many as ragself's default
NOTES = (
    "Rivals have neither labels nor queries in training. bm25, dense, rrf, linear and untrained have one seed.",
    "Seconds are processor time on one thread; of encoding with the base model, only where no earlier run did it.",
    "adapter: llama-index-finetuning 0.4.2 installs, but can be imported with mistralai<2 only.",
    "crop, ict, tsdae: a minute of one thread is some 20 steps of 16 pairs; other budgets may come out otherwise.",
    "tsdae: words are deleted between spaces, not nltk's tokens, whose data must be downloaded; its decoder's head and "
    "cross-attention begin random.",
    "ict, tsdae on cosqa: sentences end at line breaks, so that they are lines of code, of three words in the median. "
    "With a learning rate of 0 tsdae leaves the base vectors as they are, so that it is training that moves them. "
    "Whether whole functions do better was not measured with this budget.",
    "questions: absent where no language model wrote any.",
)


@dataclass
class Rivals:
    """Measures one method, one seed at a time.

    Attributes:
        budget: Seconds of processor time for training.
        generator: URL of a vLLM server, or name or path of a causal language model; None for none.
        work: Folder for what is kept between runs.
        say: Told of each stage.
        rate: Documents a second that a changed model encodes, a guess until that is known.
    """

    budget: float
    generator: str | None
    work: Path
    say: Progress
    rate: float = 15.0

    def forecast(self, subject: Subject, method: str) -> float:
        """Seconds that a method may take."""
        if method in FREE:
            return 2.0
        if method == "adapter":
            return 15.0
        return self.budget + (0.0 if method == "adapter-long" else len(subject.texts) / self.rate)

    def measure(self, subject: Subject, method: str, seed: int) -> dict[str, Any]:
        """Figures of the test split, and what they took."""
        subject.seconds = 0.0
        if method in FREE:
            figures: dict[str, Any] = {"steps": None, "pairs": None, "train_seconds": None}
            scores = free(subject, method)
            figures["encode_seconds"] = round(subject.seconds, 1) if subject.seconds else None
        elif method.startswith("adapter"):
            scores, figures = self._adapter(subject, method, seed)
        else:
            scores, figures = self._encoder(subject, method, seed)
        return {**_measure(_top(scores, subject.ids), list(subject.collection.qrels.values())), **figures}

    def _adapter(self, subject: Subject, method: str, seed: int) -> tuple[NDArray[Any], dict[str, Any]]:
        items = known_items(subject.collection.chunks, KNOWN_ITEMS, 0)  # the same for every seed, shown in its order
        pairs = [items[row] for row in np.random.default_rng(seed).permutation(len(items))]
        asked = subject.base([pair.query for pair in pairs], "queries")
        found = subject.base([pair.positive for pair in pairs], "documents")
        epochs = EPOCHS if method == "adapter" else None
        weight, done = trainers.adapt(pairs, asked, found, epochs, self.budget, seed)
        queries, documents = subject.base(subject.asked, "queries"), subject.base(subject.texts, "documents")
        return queries @ weight @ documents.T, _figures(done, len(pairs), subject.seconds)

    def _encoder(self, subject: Subject, method: str, seed: int) -> tuple[NDArray[Any], dict[str, Any]]:
        encoder = Encoder(EncoderConfig())  # whose weights are changed
        pairs, count, writing = self._pairs(subject, method, seed)
        train = trainers.denoise if method == "tsdae" else trainers.contrast
        done = train(encoder.extended(), pairs, self.budget, seed, self.say)
        clock = trainers.Clock()
        documents = encode(encoder, subject.texts, self.say)
        seconds = clock.seconds
        self.rate = len(subject.texts) / clock.wall
        scores = encoder.queries(subject.asked) @ documents.T
        return scores, {**_figures(done, count, seconds), **writing}

    def _pairs(
        self, subject: Subject, method: str, seed: int
    ) -> tuple[Iterator[tuple[str, str]], int | None, dict[str, Any]]:
        """Pairs without end, how many different ones there are (None: any number), and what writing them took."""
        if method == "questions":
            clock = trainers.Clock()
            chunks = subject.collection.chunks
            with_text = {chunk.id: chunk.text for chunk in chunks}
            name = self.generator
            assert name is not None
            config = GeneratorConfig(url=name) if "://" in name else GeneratorConfig(model=name)
            generator = open_language_model(config)
            assert generator is not None
            written = write(chunks, QUESTIONS, generator, ScoreCache(self.work / "scores.db"), self.say).questions
            generator.close()
            pairs = [(question.text, with_text[question.source]) for question in written]
            seconds = {"write_seconds": round(clock.wall, 1)}
            return trainers.endless(pairs, seed), len(pairs), seconds
        if method == "tsdae":
            parts = [part for text in subject.texts for part in sentences(text)]
            return stream(parts, damaged, seed), None, {}
        return stream(subject.texts, crops if method == "crop" else cloze, seed), None, {}


def _figures(done: trainers.Training, pairs: int | None, encoding: float) -> dict[str, Any]:
    return {
        "steps": done.steps,
        "pairs": pairs,
        "train_seconds": round(done.seconds, 1),
        "train_wall_seconds": round(done.wall, 1),
        "encode_seconds": round(encoding, 1),
    }

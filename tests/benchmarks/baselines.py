r"""What somebody would do instead of ragself, each from its own library: writes results/baselines.json and .md.

    python tests/benchmarks/baselines.py DATA [--collections scifact ...] [--methods crop ...] [--seeds 3]
        [--budget 60] [--generator URL-or-path] [--work FOLDER] [--out FILE]

DATA holds BEIR folders. No label is used in training, nor any query; labels are used for reporting only. A row is kept
as soon as it is measured; what is in FILE is not measured again. FOLDER keeps vectors of the base model between runs.

The trainers want an environment of their own, with PyTorch's CPU build installed first where there is no GPU:

    pip install -e ".[offline]" "sentence-transformers[train]" \
        llama-index-finetuning llama-index-embeddings-adapter "mistralai<2"

They install together (llama-index-finetuning 0.4.2, llama-index-core 0.14.25, sentence-transformers 6.2.0, torch
2.13.0). llama-index-finetuning calls itself deprecated, and cannot be imported with the mistralai 3 that pip takes.

- bm25: bm25s, as ragself calls it: Lucene's variant, English stop words, no stemming, in every language.
- dense: all-MiniLM-L6-v2 as it is, the base that all others start from.
- rrf: reciprocal rank fusion of both, k = 60, as in `ragself bench`.
- linear: half of each score, scaled to 0 to 1 over the first 1000 of its list for each query; 0 for what is not listed.
- adapter: LlamaIndex's EmbeddingAdapterFinetuneEngine, a linear layer on queries, on known items: a title, or the first
  sentence, and the document without it; 2000 at most, 4 epochs. adapter-long: as many epochs as the budget holds.
- crop, ict: all of the model with sentence-transformers' trainer and MultipleNegativesRankingLoss, on two random crops
  of a document, or a sentence and the rest of its document.
- tsdae: the same with DenoisingAutoEncoderLoss, on sentences. Its noise needs nltk's punkt, which must be downloaded:
  words between spaces are deleted instead, at the same ratio of .6.
- questions: as crop, on questions that a language model writes about documents (as InPars and GPL do, without the
  cross-encoder of the latter), where --generator names one.

The budget is processor time of training on one thread, so that it holds as many steps on a busy machine; wall time is
told beside it. Encoding comes on top: of the corpus again by a changed model, of known items for the adapter. Vectors
of the base model that are in FOLDER cost nothing, so that their time is told the first time only.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from numpy.typing import NDArray

from ragself.cli.bench import _measure, _top
from ragself.cli.console import duration, progress
from ragself.config import EncoderConfig, GeneratorConfig
from ragself.corpus.cache import VectorCache
from ragself.corpus.scores import ScoreCache
from ragself.learn.questions import write
from ragself.models.encoder import Encoder
from ragself.models.generator import open_generator
from ragself.progress import Progress
from tests.benchmarks import trainers
from tests.benchmarks.languages import nonenglish
from tests.benchmarks.pairs import cloze, crops, damaged, known_items, sentences, stream
from tests.benchmarks.rows import Rows
from tests.benchmarks.subject import Subject, encode, untrained

COLLECTIONS = ("scifact", "nfcorpus", "cosqa", "cranfield", "med", "xquad", "xquad-de", "xquad-es")
FREE = ("bm25", "dense", "rrf", "linear")  # of training, so that one seed is enough
METHODS = (*FREE, "adapter", "adapter-long", "crop", "ict", "tsdae", "questions")
KNOWN_ITEMS, EPOCHS = 2000, 4
QUESTIONS = 200  # that a language model writes, as many as ragself's default
RESULTS = Path(__file__).parent / "results"
NOTES = (
    "No labels and no queries in training. bm25, dense, rrf and linear are not trained: one seed. Dash: not measured.",
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


@dataclass(frozen=True)
class Job:
    """One row to measure."""

    collection: str
    method: str
    seed: int


class Runner:
    """Measures jobs one after the other."""

    def __init__(self, arguments: argparse.Namespace, work: Path, say: Progress) -> None:
        self._arguments, self._work, self._say = arguments, work, say
        self._cache = VectorCache(work / "vectors.db")
        self._subjects: dict[str, Subject] = {}
        self.rate = 15.0  # documents a second that a changed model encodes, until that is known

    def subject(self, name: str) -> Subject:
        """A collection, read once. A name such as xquad-de is XQuAD in another language."""
        if name not in self._subjects:
            folder, (plain, _, language) = self._arguments.data / name, name.partition("-")
            if language and not folder.exists():
                folder = nonenglish(self._arguments.data / plain, language, self._work / name)
            self._subjects[name] = Subject(folder, self._cache, self._say)
        return self._subjects[name]

    def forecast(self, job: Job) -> float:
        """Seconds that a job may take."""
        if job.method in FREE:
            return 2.0
        size = len(self.subject(job.collection).texts)
        if job.method == "adapter":
            return 15.0
        encoding = 0.0 if job.method == "adapter-long" else size / self.rate
        return float(self._arguments.budget) + encoding

    def measure(self, job: Job) -> dict[str, Any]:
        """The figures of a job."""
        subject = self.subject(job.collection)
        subject.seconds = 0.0
        if job.method in FREE:
            figures: dict[str, Any] = {"steps": None, "pairs": None, "train_seconds": None}
            scores = untrained(subject, job.method)
            figures["encode_seconds"] = round(subject.seconds, 1) if subject.seconds else None
        elif job.method.startswith("adapter"):
            scores, figures = self._adapter(subject, job)
        else:
            scores, figures = self._encoder(subject, job)
        return {
            "collection": job.collection, "method": job.method, "seed": job.seed,
            "budget": _budget(job, self._arguments.budget),
            "documents": len(subject.texts), "queries": len(subject.asked),
            **_measure(_top(scores, subject.ids), list(subject.collection.qrels.values())), **figures,
        }  # fmt: skip

    def _adapter(self, subject: Subject, job: Job) -> tuple[NDArray[Any], dict[str, Any]]:
        items = known_items(subject.collection.chunks, KNOWN_ITEMS, 0)  # the same for every seed, shown in its order
        pairs = [items[row] for row in np.random.default_rng(job.seed).permutation(len(items))]
        asked = subject.base([pair.query for pair in pairs], "queries")
        found = subject.base([pair.positive for pair in pairs], "documents")
        epochs = EPOCHS if job.method == "adapter" else None
        weight, done = trainers.adapt(pairs, asked, found, epochs, self._arguments.budget, job.seed)
        queries, documents = subject.base(subject.asked, "queries"), subject.base(subject.texts, "documents")
        return queries @ weight @ documents.T, _figures(done, len(pairs), subject.seconds)

    def _encoder(self, subject: Subject, job: Job) -> tuple[NDArray[Any], dict[str, Any]]:
        encoder = Encoder(EncoderConfig())  # whose weights are changed
        pairs, count, writing = self._pairs(subject, job)
        train = trainers.denoise if job.method == "tsdae" else trainers.contrast
        done = train(encoder.extended(), pairs, self._arguments.budget, job.seed, self._say)
        clock = trainers.Clock()
        documents = encode(encoder, subject.texts, self._say)
        seconds = clock.seconds
        self.rate = len(subject.texts) / clock.wall
        scores = encoder.queries(subject.asked) @ documents.T
        return scores, {**_figures(done, count, seconds), **writing}

    def _pairs(self, subject: Subject, job: Job) -> tuple[Iterator[tuple[str, str]], int | None, dict[str, Any]]:
        """Pairs without end, how many different ones there are (None: any number), and what writing them took."""
        if job.method == "questions":
            clock = trainers.Clock()
            chunks = subject.collection.chunks
            with_text = {chunk.id: chunk.text for chunk in chunks}
            name = self._arguments.generator
            config = GeneratorConfig(url=name) if "://" in name else GeneratorConfig(model=name)
            generator = open_generator(config)
            assert generator is not None
            written = write(chunks, QUESTIONS, generator, ScoreCache(self._work / "scores.db"), self._say).questions
            generator.close()
            pairs = [(question.text, with_text[question.source]) for question in written]
            seconds = {"write_seconds": round(clock.wall, 1)}
            return trainers.endless(pairs, job.seed), len(pairs), seconds
        if job.method == "tsdae":
            parts = [part for text in subject.texts for part in sentences(text)]
            return stream(parts, damaged, job.seed), None, {}
        return stream(subject.texts, crops if job.method == "crop" else cloze, job.seed), None, {}


def _figures(done: trainers.Training, pairs: int | None, encoding: float) -> dict[str, Any]:
    return {
        "steps": done.steps,
        "pairs": pairs,
        "train_seconds": round(done.seconds, 1),
        "train_wall_seconds": round(done.wall, 1),
        "encode_seconds": round(encoding, 1),
    }


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--collections", nargs="+", default=list(COLLECTIONS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of training, each method and seed")
    parser.add_argument("--generator", help="URL of a vLLM server, or name or path of a causal language model")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "baselines.json")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="ragself-baselines-"))
    work.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.INFO)  # libraries log every model they open
    rows = Rows(arguments.out, NOTES)
    with progress() as say:
        _run(Runner(arguments, work, say), _jobs(arguments, rows), rows, _command(arguments))


def _jobs(arguments: argparse.Namespace, rows: Rows) -> list[Job]:
    """What was not measured yet: the first seed of everything first."""
    methods = [
        method for method in METHODS if method in arguments.methods and (method != "questions" or arguments.generator)
    ]
    jobs = [
        Job(collection, method, seed)
        for seed in range(arguments.seeds)
        for collection in arguments.collections
        for method in methods
        if seed == 0 or method not in FREE
    ]
    return [job for job in jobs if not rows.has(job.collection, job.method, job.seed, _budget(job, arguments.budget))]


def _budget(job: Job, seconds: float) -> float | None:
    return None if job.method in FREE else seconds


def _run(runner: Runner, jobs: Sequence[Job], rows: Rows, command: str) -> None:
    for at, job in enumerate(jobs):
        left = sum(runner.forecast(other) for other in jobs[at:])
        print(f"[{at + 1}/{len(jobs)}] {job.collection} {job.method} seed {job.seed}; about {duration(left)} left",
              file=sys.stderr, flush=True)  # fmt: skip
        figures = runner.measure(job)
        date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        rows.add({**figures, "date": date, "command": command})
        print(f"{job.collection} {job.method} seed {job.seed}: nDCG@10 {figures['ndcg@10']:.4f}, "
              f"{figures['steps']} steps in {figures['train_seconds']} s, encoding {figures['encode_seconds']} s",
              file=sys.stderr, flush=True)  # fmt: skip


def _command(arguments: argparse.Namespace) -> str:
    """What was typed, without names of places."""
    parts = ["python tests/benchmarks/baselines.py DATA"]
    parts += ["--collections", *arguments.collections] if arguments.collections != list(COLLECTIONS) else []
    parts += ["--methods", *arguments.methods] if arguments.methods != list(METHODS) else []
    parts += ["--seeds", str(arguments.seeds), "--budget", f"{arguments.budget:g}"]
    return " ".join([*parts, "--generator GENERATOR"] if arguments.generator else parts)


if __name__ == "__main__":
    main()

"""The language model of one pass: a generator with what it has said before, or the words of the documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragself.config import Config, GeneratorConfig, TeacherConfig
from ragself.lm.gain import IRRELEVANT
from ragself.lm.generator import Generator, open_generator
from ragself.lm.ngram import NgramScorer
from ragself.lm.protocol import LikelihoodScorer
from ragself.lm.score_cache import ScoreCache
from ragself.lm.scorer import LanguageModelScorer
from ragself.probes.questions import LOOKALIKES
from ragself.schema import Account

if TYPE_CHECKING:
    from ragself.lm.causal import CausalLM

SCORES = "scores.db"
_CHECK = LOOKALIKES + 1 + IRRELEVANT  # pairs that a question costs before it is a probe


@dataclass(frozen=True, slots=True)
class Supervision:
    """What scores.

    Attributes:
        config: Of the generator.
        generator: The causal language model; None counts words.
        cache: Its answers; None without one.
        account: What it has cost so far.
    """

    config: GeneratorConfig
    generator: Generator | None = None
    cache: ScoreCache | None = None
    account: Account = field(default_factory=Account)

    @property
    def name(self) -> str:
        """Of the model that scores."""
        return self.generator.name if self.generator else "ngram"

    def scorer(self, documents: Sequence[str], corpus: int) -> LikelihoodScorer:
        """A scorer of documents, the first `corpus` of which are the corpus."""
        if self.generator is None or self.cache is None:
            return NgramScorer(documents, corpus)
        return LanguageModelScorer(documents, corpus, self.generator, self.cache, self.config, self.account)

    def report(self) -> dict[str, Any]:
        """The model, and what scoring has cost."""
        cost = asdict(self.account) if self.generator else {}
        cost.pop("inside", None)  # told by `Report.objective`
        return {"scorer": self.name, **cost}


@contextmanager
def supervise(config: Config, directory: Path, account: Account | None = None) -> Iterator[Supervision]:
    """Open the language model that the settings name, and close it.

    Args:
        config: Settings.
        directory: Of the knowledge base.
        account: Takes what it costs; None begins one.

    Raises:
        GeneratorError: It cannot be loaded or reached.
        StoreError: The file of scores is damaged.
    """
    generator = open_generator(config.generator)
    if generator is None:
        yield Supervision(config.generator)
        return
    with closing(generator), closing(ScoreCache(scores_file(config, directory))) as cache:
        yield Supervision(config.generator, generator, cache, account or Account())


@contextmanager
def inside(config: Config, supervision: Supervision) -> Iterator[CausalLM | None]:
    """The language model in this process, the one that scores or the same loaded here; None where none is needed.

    Raises:
        GeneratorError: It cannot be loaded.
    """
    if config.train.objective == "distill":
        yield None
        return
    from ragself.lm.causal import CausalLM

    if isinstance(supervision.generator, CausalLM):
        yield supervision.generator
        return
    with closing(CausalLM(config.generator.model_copy(update={"url": ()}))) as model:
        yield model


def scores_file(config: Config, directory: Path) -> Path:
    """Where scores are kept."""
    return config.generator.cache or directory / SCORES


def scored(config: Config) -> TeacherConfig | None:
    """Numbers of the candidates that a causal language model reads; None where words are counted, of all of them."""
    if not (config.generator.url or config.generator.model):
        return None
    count = config.generator.candidates
    return config.teacher.model_copy(
        update={"dense": count // 2, "lexical": count // 4, "random": count - count // 2 - count // 4}
    )


def wanted_questions(config: Config) -> int:
    """How many questions to write: checking them takes half of `generator.pairs` at most."""
    return min(config.probes.questions, config.generator.pairs // (2 * _CHECK))


def affordable(config: Config, questions: int) -> int | None:
    """Probes that `generator.pairs` allows besides the checking of some questions; None means any number."""
    if not (config.generator.url or config.generator.model):
        return None
    left = config.generator.pairs - questions * _CHECK
    return max(left // (config.generator.candidates + IRRELEVANT), 1)

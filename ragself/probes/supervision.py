"""The scorer of one pass: a causal language model with its cached scores, or n-gram counts of the documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragself.config import Config, GeneratorConfig, TeacherConfig
from ragself.lm.cached_scorer import LanguageModelScorer
from ragself.lm.gain import IRRELEVANT
from ragself.lm.language_model import LanguageModel, open_language_model
from ragself.lm.likelihood_scorer import LikelihoodScorer
from ragself.lm.ngram import NgramScorer
from ragself.lm.score_cache import ScoreCache
from ragself.probes.questions import LOOKALIKES
from ragself.schema import Account

if TYPE_CHECKING:
    from ragself.lm.causal import CausalLM

SCORES = "scores.db"
_CHECK = LOOKALIKES + 1 + IRRELEVANT  # pairs that checking one question costs


@dataclass(frozen=True, slots=True)
class Supervision:
    """The source of likelihoods in one pass, and its cost.

    Attributes:
        config: Settings of the generator.
        generator: The causal language model; None uses n-gram counts.
        cache: Stored scores of the generator; None without one.
        account: Cost so far.
    """

    config: GeneratorConfig
    generator: LanguageModel | None = None
    cache: ScoreCache | None = None
    account: Account = field(default_factory=Account)

    @property
    def name(self) -> str:
        """Name of the scoring model."""
        return self.generator.name if self.generator else "ngram"

    def scorer(self, documents: Sequence[str], corpus: int) -> LikelihoodScorer:
        """A scorer of `documents`, the first `corpus` of which are the corpus."""
        if self.generator is None or self.cache is None:
            return NgramScorer(documents, corpus)
        return LanguageModelScorer(documents, corpus, self.generator, self.cache, self.config, self.account)

    def report(self) -> dict[str, Any]:
        """The model's name and the cost of scoring."""
        cost = asdict(self.account) if self.generator else {}
        cost.pop("inside", None)  # reported in `Report.objective`
        return {"scorer": self.name, **cost}


@contextmanager
def supervise(config: Config, directory: Path, account: Account | None = None) -> Iterator[Supervision]:
    """Open the language model of the settings, and close it at the end.

    Args:
        config: Settings.
        directory: Folder of the knowledge base.
        account: Receives the cost; None creates one.

    Raises:
        GeneratorError: The model cannot be loaded or reached.
        StoreError: The score cache is damaged.
    """
    generator = open_language_model(config.generator)
    if generator is None:
        yield Supervision(config.generator)
        return
    with closing(generator), closing(ScoreCache(scores_file(config, directory))) as cache:
        yield Supervision(config.generator, generator, cache, account or Account())


@contextmanager
def inside(config: Config, supervision: Supervision) -> Iterator[CausalLM | None]:
    """Provide the language model in this process: the scoring model, or the same model loaded here.

    Yields None if the training objective is ``distill``, which needs none.

    Raises:
        GeneratorError: The model cannot be loaded.
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
    """Path of the score cache."""
    return config.generator.cache or directory / SCORES


def scored(config: Config) -> TeacherConfig | None:
    """Numbers of the candidates that a causal language model scores; None for n-gram counts, which score all."""
    if not (config.generator.url or config.generator.model):
        return None
    count = config.generator.candidates
    return config.teacher.model_copy(
        update={"dense": count // 2, "lexical": count // 4, "random": count - count // 2 - count // 4}
    )


def wanted_questions(config: Config) -> int:
    """Number of questions to write: checking them costs at most half of `generator.pairs`."""
    return min(config.probes.questions, config.generator.pairs // (2 * _CHECK))


def affordable(config: Config, questions: int) -> int | None:
    """Maximum number of probes within `generator.pairs` after checking `questions`; None means any number."""
    if not (config.generator.url or config.generator.model):
        return None
    left = config.generator.pairs - questions * _CHECK
    return max(left // (config.generator.candidates + IRRELEVANT), 1)

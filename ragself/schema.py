"""The data classes that the packages share: most are frozen, and none does more than derive values from its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Scalar: TypeAlias = str | int | float | bool
Metadata: TypeAlias = Mapping[str, Scalar | Sequence[Scalar]]
Split: TypeAlias = Literal["train", "select", "confirm"]
ProbeKind: TypeAlias = Literal["traffic", "question", "title", "span"]
VersionKind: TypeAlias = Literal["base", "weights", "residual", "lora"]
Mode: TypeAlias = Literal["hybrid", "vector"]  # ranking mode of search


@dataclass(frozen=True, slots=True)
class Chunk:
    """A retrievable text.

    Attributes:
        id: Unique in the knowledge base. Adding a chunk whose id exists replaces it.
        text: Text that is embedded and searched. Never empty.
        metadata: Flat values, or lists of values of one type, that Chroma can store and filter on. ragself uses two
            keys: ``source`` groups the chunks of one document, and ``title`` (a heading, a title or a summary line)
            serves as a likely query for the chunk.
        document: Text that Chroma stores and search returns, if it differs from `text`: LlamaIndex embeds metadata
            together with the text that it shows. None: `text`.
    """

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)
    document: str | None = None

    @property
    def shown(self) -> str:
        """Text that search returns."""
        return self.text if self.document is None else self.document

    @property
    def source(self) -> str:
        """Id of the chunk's document: its ``source``, else LlamaIndex's ``ref_doc_id``, else its own id."""
        reference = self.metadata.get("ref_doc_id", "None")  # LlamaIndex writes None as a string
        return str(self.metadata.get("source", self.id if reference == "None" else reference))

    @property
    def title(self) -> str | None:
        """The chunk's title, or None."""
        title = str(self.metadata.get("title", "")).strip()
        return title or None


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    Attributes:
        id: The chunk's id.
        text: The chunk's text, or the text that it shows instead.
        metadata: The chunk's metadata.
        score: Larger is better. In mode ``vector`` the cosine of query and chunk, -1 to 1; in mode ``hybrid`` the sum
            of `parts`, which may be above 1 or below -1.
        version: Number of the index version that was searched.
        parts: Contribution of each part to the score: ``vector``, the cosine, and in mode ``hybrid`` also
            ``language_model`` and ``bm25`` (`ragself.lexical.hybrid_score`).
    """

    id: str
    text: str
    metadata: Metadata
    score: float
    version: int
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Embedding:
    """A query vector in the vector space of one version.

    Attributes:
        vector: Numbers, as many as the version's dimension; any norm but 0.
        fingerprint: Fingerprint of the version.
    """

    vector: Sequence[float]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A text that stands in for a user query.

    Attributes:
        id: Content hash of kind and text.
        text: Text that the student embeds as the query.
        target: Text whose likelihood, given a candidate chunk, the language model computes.
        kind: Origin: a real user query (``traffic``), a ``question`` that a language model wrote about a chunk, a
            ``title`` of a chunk, or the first sentence of a chunk, which must retrieve the text that follows it
            (``span``).
        source: Id of the chunk it was made from, or None for traffic.
        split: ``train`` for the adapter, ``select`` to choose among candidates, ``confirm`` for the gate.
        scored: Whether the language model scores it; if not, it is only a known item.
        weight: Weight in training and in the gate's utility: the number of times the query was used, up to a limit.
    """

    id: str
    text: str
    target: str
    kind: ProbeKind
    source: str | None
    split: Split
    scored: bool = True
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Version:
    """An index version: a ranking and a Chroma collection; immutable once promoted.

    Attributes:
        number: 0 is the untrained base model. Later numbers count up and are never reused.
        kind: ``base``: nothing is trained. ``weights``: only the weights of the lexical scores are trained, so the
            vectors are those of the base model. ``residual``, ``lora``: an adapter of the vectors, and weights.
        collection: Name of the Chroma collection.
        fingerprint: Hash of encoder and adapter; identifies the vector space of queries.
        dimension: Dimension of its vectors.
        created: UTC time, ISO 8601.
        figures: Metrics on the gate's held-out confirm split; empty for version 0.
        documents: Hash of everything that the document vectors depend on, stored with the collection; empty if it
            equals the fingerprint.
        index: Number of the version that the collection was built for. Versions with the same document vectors share
            one collection. None: this version.
        weights: Hash of the weights of the lexical scores; empty if they are untrained.
    """

    number: int
    kind: VersionKind
    collection: str
    fingerprint: str
    dimension: int
    created: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    documents: str = ""
    index: int | None = None
    weights: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A skipped input and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Followed:
    """Location of the Chroma collection whose changes a knowledge base applies.

    Attributes:
        place: Folder of an embedded database or URL of a server; None if only the program that opened it can reach it.
        collection: Name of the collection.
        id: Id of the collection in Chroma.
        tenant: Chroma tenant of the collection.
        database: Chroma database of the collection.
        flattened: Whether line breaks were embedded as spaces.
    """

    place: str | None
    collection: str
    id: str
    tenant: str = "default_tenant"
    database: str = "default_database"
    flattened: bool = False


@dataclass(frozen=True, slots=True)
class Added:
    """Result of an ``add``.

    Attributes:
        added: Number of chunks that are new or whose content changed.
        unchanged: Number of chunks that were already stored with the same content.
        removed: Number of chunks removed because their document no longer contains them.
        truncated: Ids of chunks longer than the encoder's input limit; their end is stored and returned
            but does not influence the vector.
        skipped: Files that were skipped, each with the reason.
    """

    added: int = 0
    unchanged: int = 0
    removed: int = 0
    truncated: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(slots=True)
class Account:
    """Cost of a language model.

    Attributes:
        pairs: Number of document-probe pairs that were needed.
        asked: Number of these pairs that the language model scored; the others were cached.
        unanswered: Number of scored pairs for which it had no likelihood.
        tokens: Number of tokens that it read for scoring.
        seconds: Time that scoring took.
        floor: Noise of its scores in nats per token.
        inside: Number of tokens, padding included, that it read while its own loss was minimised.
    """

    pairs: int = 0
    asked: int = 0
    unanswered: int = 0
    tokens: int = 0
    seconds: float = 0.0
    floor: float = 0.0
    inside: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Result of one pass.

    Attributes:
        decision: ``promote`` or ``keep``.
        reason: Reason for the decision, in a sentence.
        version: The live version afterwards.
        kind: Kind of the adapter that the gate evaluated, or None if there was none.
        candidate: Name of that adapter among `candidates`.
        documents: Number of chunks in the knowledge base.
        probes: Number of probes of each kind and split, as ``{"traffic": {"train": 640, ...}, ...}``.
        dropped: Number of texts rejected as probes, and of probes that the teacher cannot judge, by reason.
        likelihood: The language model that scored, and its cost: pairs, how many of them it scored, tokens, seconds,
            and the noise of its scores in nats per token.
        weight: The teacher's weight, and how it was chosen.
        candidates: Metrics on the select split of each candidate adapter.
        figures: Metrics on the confirm split: before, after and the paired difference of each.
        seconds: Wall time of each stage.
        cpu: Processor time of the process during the pass, in seconds.
        reembedding: Estimate of what `lora` re-embeds, made before training: ``documents`` and ``seconds``; empty if
            the encoder is not fine-tuned.
        objective: For an objective that minimises a language model's own loss: its ``name``, and in ``seen``, for each
            kind of adapter, ``gap`` (nats per token by which the right document lowers the loss, compared with equal
            weights for all), the held-out ``loss`` before and after, ``steps``, and ``tokens`` read. Empty if
            likelihoods were distilled.
    """

    decision: Literal["promote", "keep"]
    reason: str
    version: int
    kind: VersionKind | None
    documents: int
    probes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    likelihood: Mapping[str, Any] = field(default_factory=dict)
    weight: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[Mapping[str, Any]] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    candidate: str | None = None
    cpu: float = 0.0
    reembedding: Mapping[str, float] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reembedding:
    """Estimated cost of re-embedding with a fine-tuned encoder.

    Attributes:
        documents: Number of documents to re-embed; 0 if it encodes only queries.
        seconds: Estimated time on this machine.
    """

    documents: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Estimated maximum cost of a pass, computed without running it.

    Attributes:
        scorer: Name of the language model that would score.
        documents: Number of chunks in the knowledge base.
        probes: Number of probes of each kind and split, as in `Report`, before questions are written.
        questions: Number of questions that the generator would write.
        prompts: Maximum number of texts that the language model would read; 0 if words are counted instead.
        stored: Number of cached scores, from any pass; prompts with a cached score are not scored again.
        tokens: Estimated tokens of these prompts and of the written questions, from the lengths of a sample.
        inside: Estimated tokens that the language model reads if its own loss is minimised for all steps; 0 if
            likelihoods are distilled.
        encode: Number of texts that the encoder must embed first.
        rates: Tokens and texts per second, as measured just now or in the last pass.
        seconds: Estimated time of each stage.
        bytes: Disk space of scores and of the new index.
        blocked_reason: Reason why nothing would be trained; None if training can run.
        reembedding: What `lora` would re-embed, in addition to `encode`; None if the encoder is not fine-tuned.
    """

    scorer: str
    documents: int
    probes: Mapping[str, Mapping[str, int]]
    questions: int
    prompts: int
    stored: int
    tokens: int
    inside: int
    encode: int
    rates: Mapping[str, float]
    seconds: Mapping[str, float]
    bytes: Mapping[str, int]
    blocked_reason: str | None
    reembedding: Reembedding | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """Changes since the last pass.

    Attributes:
        chunks: Number of new, changed and deleted chunks.
        queries: Number of logged queries that were never used before.
        other: Any other change, in words, such as the settings; empty if there is none.
    """

    chunks: int
    queries: int
    other: str = ""

    def __bool__(self) -> bool:
        """Whether there is any change."""
        return bool(self.chunks or self.queries or self.other)


@dataclass(frozen=True, slots=True)
class Review:
    """A second evaluation of a promotion, on queries that came after it.

    Attributes:
        version: Number of the promoted version.
        before: Number of the version that was live before.
        queries: Number of queries that the language model could evaluate.
        fell: Share of these queries whose utility fell.
        rose: Share of these queries whose utility rose.
        change: Mean change of the utility, weighted by query frequency.
        low, high: Confidence interval of `change`.
    """

    version: int
    before: int
    queries: int
    fell: float
    rose: float
    change: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Status:
    """Status of a knowledge base, read from small files without loading a model or Chroma.

    Attributes:
        path: Folder of the knowledge base.
        encoder: Name of the embedding model.
        documents: Number of distinct sources.
        chunks: Number of chunks.
        live: The live version.
        versions: All versions that can be made live.
        pinned: Whether no pass may replace the live version.
        learning: Progress of the running pass, in any process: ``stage``, ``done``, ``total``, ``started``, ``pid``;
            None if none is running.
        last: The last event of the history.
        writer: Process that is writing now, or None.
        server: URL of the Chroma server that stores the vectors; None if they are in the folder.
        bytes: Size on disk of each part, without data on a server.
    """

    path: str
    encoder: str
    documents: int
    chunks: int
    live: Version
    versions: Sequence[Version]
    pinned: bool
    learning: Mapping[str, Any] | None
    last: Mapping[str, Any]
    writer: str | None
    server: str | None
    bytes: Mapping[str, int]

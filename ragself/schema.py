"""The values that travel between the parts: frozen, with no behaviour beyond their own derivation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Scalar: TypeAlias = str | int | float | bool
Metadata: TypeAlias = Mapping[str, Scalar | Sequence[Scalar]]
Split: TypeAlias = Literal["train", "select", "confirm"]
ProbeKind: TypeAlias = Literal["traffic", "question", "title", "span"]
VersionKind: TypeAlias = Literal["base", "weights", "residual", "lora"]
Mode: TypeAlias = Literal["hybrid", "vector"]  # what search ranks by


@dataclass(frozen=True, slots=True)
class Chunk:
    """One retrievable text.

    Attributes:
        id: Unique in the knowledge base. Adding a chunk whose id exists replaces it.
        text: What is embedded and searched. Never empty.
        metadata: Flat values, or lists of one kind of them, that Chroma can hold and filter on. Two keys mean
            something to ragself: ``source`` groups the chunks of one document, ``title`` (a heading, a title or
            a summary line) stands for what people might ask to find the chunk.
        document: What Chroma stores and search returns, where that is not `text`: LlamaIndex embeds metadata along
            with what it shows. None: `text`.
    """

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)
    document: str | None = None

    @property
    def shown(self) -> str:
        """What search returns."""
        return self.text if self.document is None else self.document

    @property
    def source(self) -> str:
        """The document that the chunk belongs to: its ``source``, or LlamaIndex's ``ref_doc_id``, or itself."""
        reference = self.metadata.get("ref_doc_id", "None")  # LlamaIndex writes None as a word
        return str(self.metadata.get("source", self.id if reference == "None" else reference))

    @property
    def title(self) -> str | None:
        """The chunk's title, or None where it has none."""
        title = str(self.metadata.get("title", "")).strip()
        return title or None


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    Attributes:
        id: The chunk's id.
        text: The chunk's text, or what it shows in its place.
        metadata: The chunk's metadata.
        score: Larger is better. In mode ``vector`` the cosine of query and chunk, -1 to 1; in mode ``hybrid`` the sum
            of `parts`, which may lead beyond 1 and below -1.
        version: Number of the index version that answered.
        parts: Contribution of each part to the score: ``vector``, the cosine, and in mode ``hybrid`` also
            ``language_model`` and ``bm25`` (`ragself.lexical.law`).
    """

    id: str
    text: str
    metadata: Metadata
    score: float
    version: int
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Embedding:
    """Where a query lies in the vector space of one version.

    Attributes:
        vector: As many numbers as that version's vectors are wide, of any length but 0.
        fingerprint: Of the version.
    """

    vector: Sequence[float]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A text that stands for what users ask.

    Attributes:
        id: Content hash of kind and text.
        text: What the student embeds as the query.
        target: What the language model's likelihood is asked for, given a candidate chunk.
        kind: Where it comes from: a query of the user's own (``traffic``), a ``question`` that a language
            model wrote about a chunk, a ``title`` of a chunk, or the first sentence of a chunk, to be found in what
            follows it (``span``).
        source: Id of the chunk it was made from, or None for traffic.
        split: ``train`` for the adapter, ``select`` to choose among candidates, ``confirm`` for the gate.
        scored: Whether the language model is asked about it; one that is not is only a known item.
        weight: How much it counts in training and in the gate's utility: how often it was asked, up to a cap.
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
    """An index version: what it ranks by, and a Chroma collection; immutable once promoted.

    Attributes:
        number: 0 is the plain base model; then counted up, never used again.
        kind: ``base``: nothing was learned. ``weights``: the weights of the lexical scores only, so that the vectors
            are those of the base model. ``residual``, ``lora``: an adapter of the vectors, and weights.
        collection: Name of the Chroma collection.
        fingerprint: Hash of encoder and adapter: of the space in which queries lie.
        dimension: Width of its vectors.
        created: UTC time, ISO 8601.
        figures: Held-out figures of the gate's confirm split, empty for version 0.
        documents: Hash of all that the vectors of documents depend on, which the collection carries; empty where it is
            the fingerprint.
        index: Number of the version that the collection was built for: versions whose documents have the same vectors
            share one. None: for this one.
        weights: Hash of the weights of the lexical scores; empty where they are untrained.
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
    """Something that was not taken, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Followed:
    """Where the Chroma collection is that a knowledge base follows.

    Attributes:
        place: Folder of an embedded database or URL of a server; None where only the program that holds it can reach
            it.
        collection: Its name.
        id: Its id in Chroma.
        tenant: Of Chroma's, that it belongs to.
        database: The same.
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
    """What an ``add`` did.

    Attributes:
        added: Chunks that are new or whose content changed.
        unchanged: Chunks that were there already, word for word.
        removed: Chunks of an earlier state of the same document, now gone.
        truncated: Ids of chunks longer than the encoder reads; their end is stored and returned
            but does not influence the vector.
        skipped: Files that could not be taken, each with the reason.
    """

    added: int = 0
    unchanged: int = 0
    removed: int = 0
    truncated: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(slots=True)
class Account:
    """What asking a language model has cost.

    Attributes:
        pairs: Pairs of document and probe that were needed.
        asked: Of these, how many the language model was asked for; the others were stored.
        unanswered: Of those, how many it had no likelihood for.
        tokens: That it read.
        seconds: That it took.
        floor: Noise of its answers in nats per token.
        inside: Tokens that it read, padding included, while its own loss was lowered.
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
    """What one pass did and decided.

    Attributes:
        decision: ``promote`` or ``keep``.
        reason: Why, in a sentence.
        version: The live version afterwards.
        kind: Kind of the adapter that was judged, or None where none was.
        candidate: Its name among `candidates`.
        documents: Chunks in the knowledge base.
        probes: How many of each kind and split, as ``{"traffic": {"train": 640, ...}, ...}``.
        dropped: Texts that were not taken as probes, and probes that the teacher has nothing to say about, by reason.
        likelihood: The language model that scored, and what it cost: pairs, how many of them it was asked for, tokens,
            seconds, and the noise of its answers in nats per token.
        weight: The teacher's weight, and how it was found.
        candidates: Figures on the select split of each adapter that was tried.
        figures: Figures on the confirm split: before, after and the paired difference of each metric.
        seconds: Wall time of each stage.
        cpu: Seconds of processor time that the process took meanwhile.
        anew: What `lora` was going to encode again, ``documents`` and about how many ``seconds``, as told before it
            did; empty where the encoder is not tuned.
        objective: Where a language model's own loss was lowered, its ``name``, and ``seen``, for each kind ``gap``, by
            how many nats per token the right document lowers it against all alike, ``loss`` of what is held out before
            and after, ``steps``, and ``tokens`` that were read; empty where likelihoods were distilled.
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
    """What a tuned encoder reads again.

    Attributes:
        documents: How many; 0 where queries alone are encoded by it.
        seconds: About how long that takes on this machine.
    """

    documents: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a pass would cost at most; found out without doing any of it.

    Attributes:
        scorer: The language model that would score.
        documents: Chunks in the knowledge base.
        probes: How many of each kind and split, as in `Report`, before questions are written.
        questions: That the generator would be asked to write.
        prompts: Texts that the language model would read, at most; 0 where words are counted.
        stored: Scores that are stored already, of any pass; what is among them is not asked for again.
        tokens: In those prompts and in what is written, about, from the lengths of a sample.
        inside: That the language model reads while its own loss is lowered to the last step, about; 0
            where likelihoods are distilled.
        encode: Texts that the encoder has to read first.
        rates: Tokens and texts a second, as measured just now or in the last pass.
        seconds: Time of each stage.
        bytes: Disk space of scores and of the new index.
        lack: Why nothing would be learned; None where something would.
        anew: What `lora` would encode again, besides `encode`; None where the encoder is not tuned.
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
    """What there is that the last pass has not seen.

    Attributes:
        chunks: New, changed and deleted ones.
        queries: Remembered since that were never asked before.
        other: What else is different, in words, such as the settings; empty where nothing is.
    """

    chunks: int
    queries: int
    other: str = ""

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.chunks or self.queries or self.other)


@dataclass(frozen=True, slots=True)
class Review:
    """A promotion, looked at again with queries that came after it.

    Attributes:
        version: That was promoted.
        before: That was live before.
        queries: How many the language model had something to say about.
        fell: Share of them whose utility fell.
        rose: Share of them whose utility rose.
        change: Mean change of the utility, weighted by how often they were asked.
        low, high: Its interval.
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
    """What a knowledge base holds; read from small files, without loading a model or Chroma.

    Attributes:
        path: Its folder.
        encoder: Name of the embedding model.
        documents: Number of distinct sources.
        chunks: Number of chunks.
        live: The live version.
        versions: All versions that can be switched to.
        pinned: Whether no pass may replace the live version.
        learning: How far the pass is that is running, by whichever process: ``stage``, ``done``, ``total``,
            ``started``, ``pid``; None where none is.
        last: The last event of the history.
        writer: Who is writing now, or None.
        server: URL of the Chroma server that holds the vectors; None where they are in the folder.
        bytes: Size on disk by part; what a server holds is not among it.
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

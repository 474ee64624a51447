"""One training pass: probes, candidates, likelihoods, rankings, gate, new index, switch. ragself's table of contents.

The live version is unchanged until the last step. Expensive results are saved as soon as they exist (base vectors in
the cache, trained rankings in the folder of the pass, a half-built index in Chroma), so that a killed pass resumes
where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragself.adapters.ranking import Ranking
from ragself.adapters.ranking_file import identity, load
from ragself.config import Config
from ragself.engine.reembedding import reembedding
from ragself.engine.version_store import VersionStore
from ragself.errors import VerificationError
from ragself.evaluation.calibration import weigh
from ragself.evaluation.gate import Decision
from ragself.evaluation.selection import choose, confirm
from ragself.index.collection import ChromaCollection
from ragself.index.reindex import apply_changes, verify
from ragself.memory import gc_paused
from ragself.probes.dataset import Dataset, build_dataset
from ragself.probes.filters import DOUBTFUL
from ragself.probes.probes import Probes, make
from ragself.probes.query_stuffing import SEVERAL
from ragself.probes.questions import Questions, keep_found, write
from ragself.probes.supervision import Supervision, affordable, inside, scored, supervise, wanted_questions
from ragself.progress import Progress, silent
from ragself.schema import Account, Chunk, Probe, Report, Version
from ragself.training.fusion import fusion_weights
from ragself.training.train_candidate import ORDER, TrainingContext, inner, train_candidate
from ragself.versions.json_files import read_json, write_json
from ragself.versions.registry import now

logger = logging.getLogger(__name__)

MIN_DOCUMENTS = 100  # chunks below which a good ranking cannot be told from a bad one
FUSION = "fusion weights"
OBJECTIVE = "objective.json"  # in the folder of a pass
ECHOES = f"document that repeats {SEVERAL} queries or more, word for word"
_FEW = 100  # maximum number of pending changes to leave for the switch


def run(
    store: VersionStore,
    queries: Mapping[str, int],
    config: Config,
    progress: Progress = silent,
    notes: Mapping[str, Any] | None = None,
    account: Account | None = None,
) -> Report:
    """Train on the documents and the queries, and switch if the result is proven to be better.

    Other callers wait during the switch only: documents may be added and removed meanwhile.

    Args:
        store: Store in which no other process trains.
        queries: Texts that users searched for, with their counts.
        config: Settings.
        progress: Called with each stage, steps done and total.
        notes: Values for the history, beside the report.
        account: Counts the cost of the language model; None starts a new count.

    Raises:
        GeneratorError: The language model cannot be loaded or reached. Its results so far are kept.
    """
    clock, cpu = _Clock(), time.process_time()
    store.cache.begin_pass()
    with supervise(config, store.directory, account) as supervision:
        report, better = _learn(store, queries, config, supervision, clock, progress)
    if better is not None:
        with _new_index(store, better) as index:
            if index is not None:
                with clock("re-embed"):
                    _fill(store, better.version, index, progress)
            report = replace(report, seconds=clock.seconds, cpu=time.process_time() - cpu)
            with store.turn.taken(), gc_paused():
                report = _switch(store, better, index, report, notes or {})
    if report.decision == "keep":
        report = replace(report, seconds=clock.seconds, cpu=time.process_time() - cpu)
        store.registry.record("keep", report.version, report.reason, **(notes or {}), report=asdict(report))
    return report


@dataclass(frozen=True, slots=True)
class _Better:
    """Version to build, and the live version to replace."""

    version: Version
    live: Version


def _learn(
    store: VersionStore,
    queries: Mapping[str, int],
    config: Config,
    supervision: Supervision,
    clock: _Clock,
    progress: Progress,
) -> tuple[Report, _Better | None]:
    """Report of the pass, and the better version, if there is one."""
    chunks = store.journal.chunks()
    live = store.registry.version(store.registry.live())
    ranking = store.ranking(live)
    with clock("questions"):
        questions = _questions(chunks, store, config, supervision, progress)
    with clock("probes"):
        limit = affordable(config, questions.checked)
        probes = make(
            chunks, queries, config.probes, config.train.seed, questions.questions, limit, config.gate.min_probes
        )
    report = Report("keep", "", live.number, None, len(chunks), tally(probes), questions.dropped | probes.dropped)
    missing = blocked_reason(chunks, probes, config)
    if missing:
        return replace(report, reason=missing, likelihood=supervision.report()), None

    with clock("study"):
        dataset = build_dataset(
            probes.probes,
            chunks,
            store.base,
            ranking,
            supervision.scorer,
            config.teacher,
            config.train.seed,
            progress,
            scored(config),
        )
        weight = weigh(dataset, config, counted=supervision.generator is None)
    stuffed = {ECHOES: len(dataset.stuffed)} if len(dataset.stuffed) else {}
    dropped = {**report.dropped, **dataset.judged[1], **stuffed}
    report = replace(report, dropped=dropped, likelihood=supervision.report())
    total, unusable = sum(probe.scored for probe in probes.probes), sum(dataset.judged[1].values())
    if unusable > DOUBTFUL * total:
        reason = (
            f"the language model gives no usable likelihoods for {unusable} of {total} probes: it is too weak, or has "
            "memorised these documents, or the chunks are all alike"
        )
        return replace(report, reason=reason), None
    if not weight.weight:
        reason = f"the language model's likelihood adds nothing to the untrained ranking ({weight.reason})"
        return replace(report, reason=reason, weight=asdict(weight)), None
    cost = reembedding(store.base, dataset.texts, config.train)
    if cost is not None:
        report = replace(report, reembedding=asdict(cost))
        logger.info("lora re-embeds %d documents, in about %.0f s", cost.documents, cost.seconds)
    with clock("train"):
        folder = _folder(store, probes.probes, supervision.name, config, live)
        rankings = _students(store, folder, dataset, weight.weight, config, supervision, progress)
        report = replace(report, objective=_objective(folder), weight=asdict(weight))
    if not rankings:
        return replace(report, reason=_untaught(dataset, config)), None
    with clock("judge"):
        best = choose(dataset, rankings, ranking, weight.weight, config.gate, progress)
        decision = confirm(dataset, best.ranking, ranking, weight.weight, config.gate, store.registry.rejected())
    report = replace(
        report,
        reason=decision.reason,
        kind=best.ranking.kind,
        candidate=best.name,
        candidates=best.table,
        figures=decision.figures,
    )
    if best.name not in rankings:  # an interpolated one, not saved yet
        store.save(best.ranking, folder / _file(best.name))
    write_json(folder / "judged.json", {"best": best.name})
    if not decision.promote:
        return report, None
    if store.registry.pinned:
        reason = f"version {live.number} is pinned, though the candidate is better: {decision.reason}"
        return replace(report, reason=reason), None
    again = store.registry.rolled_back().get(identity(store.manifest.fingerprint, best.ranking))
    if again is not None:
        reason = f"the candidate is identical to version {again}, which was rolled back"
        return replace(report, reason=reason), None
    return report, _Better(_version(store, folder, best.ranking, decision, live), live)


def judged_ranking(store: VersionStore) -> Ranking | None:
    """Ranking that the last pass put before the gate, promoted or not; None if there is none."""
    folder = store.directory / "pass"
    if not (folder / "judged.json").exists():
        return None
    best = read_json(folder / "judged.json")["best"]
    return load(folder / _file(best), store.manifest.fingerprint).bound(store.base)


# the steps ----------------------------------------------------------------------------------------


def too_few(chunks: int) -> str | None:
    """Reason why so many chunks are too few for training, or None."""
    if chunks >= MIN_DOCUMENTS:
        return None
    return f"only {chunks} chunks, at least {MIN_DOCUMENTS} are needed to train; add documents"


def blocked_reason(chunks: Sequence[Chunk], probes: Probes, config: Config) -> str | None:
    """Reason why training cannot start, or None."""
    few = too_few(len(chunks))
    if few:
        return few
    held = len(probes.of(split="confirm"))
    if held < config.gate.min_probes:
        return (
            f"only {held} held-out probes, at least {config.gate.min_probes} are needed to prove a gain; "
            "provide queries of users, or add documents with titles"
        )
    return None


def _questions(
    chunks: Sequence[Chunk], store: VersionStore, config: Config, supervision: Supervision, progress: Progress
) -> Questions:
    """Questions that the generator writes and that lead back to their source; none without a generator."""
    if supervision.generator is None or supervision.cache is None or len(chunks) < MIN_DOCUMENTS:
        return Questions()
    written = write(chunks, wanted_questions(config), supervision.generator, supervision.cache, progress)
    vectors = store.base.documents([chunk.text for chunk in chunks], progress)
    return keep_found(written, chunks, vectors, supervision.scorer, progress)


def _students(
    store: VersionStore,
    folder: Path,
    dataset: Dataset,
    weight: float,
    config: Config,
    supervision: Supervision,
    progress: Progress,
) -> dict[str, Ranking]:
    """Train the candidates, or load those that this pass had trained before it was killed."""
    rankings: dict[str, Ranking] = {}
    rows = _trainable(dataset)
    kinds = sorted(config.train.adapters, key=ORDER.index)
    with inside(config, supervision) as model:
        backprop = None
        if model is not None:
            from ragself.training.lm_loss import LmTrainer  # imports torch, which only training needs

            backprop = LmTrainer(model, dataset, rows, store.base, config.train, supervision.account, progress)
        for kind in kinds if len(rows) >= config.probes.min_train else ():
            path = folder / _file(kind)
            if not path.exists():
                state = folder / f"{kind}-state.safetensors"
                context = TrainingContext(store.base, inner(rankings), state, backprop)
                trained = train_candidate(kind, dataset, rows, weight, config.train, progress, context)
                if backprop is not None:
                    seen = _objective(folder).get("seen", {}) | backprop.seen
                    write_json(folder / OBJECTIVE, {"name": config.train.objective, "seen": seen})
                store.save(trained, path)
                state.unlink(missing_ok=True)
            rankings[kind] = load(path, store.manifest.fingerprint).bound(store.base, progress)
    if "weights" in kinds:
        known = np.concatenate([dataset.rows("train"), dataset.rows("select")])
        found = fusion_weights(dataset, known, config.gate.confidence)
        if found is not None:
            rankings[FUSION] = Ranking(None, found)
            store.save(rankings[FUSION], folder / _file(FUSION))
    return rankings


def _objective(folder: Path) -> dict[str, Any]:
    """Measurements for each kind of adapter trained with a language model's loss; empty if none was."""
    return read_json(folder / OBJECTIVE) if (folder / OBJECTIVE).exists() else {}


def _trainable(dataset: Dataset) -> NDArray[np.int64]:
    """Rows of the train probes with usable likelihood gains."""
    rows = dataset.rows("train")
    return rows[dataset.judged[0][rows]]


def _untaught(dataset: Dataset, config: Config) -> str:
    """Reason why there is no candidate."""
    return (
        f"nothing was trained: {len(_trainable(dataset))} probes to train on, {config.probes.min_train} are needed; "
        "and no scale of the lexical weights ranks hard known items significantly better"
    )


def _version(store: VersionStore, folder: Path, ranking: Ranking, decision: Decision, live: Version) -> Version:
    """Version to build, with its ranking saved. A killed build resumes under the same number."""
    plan = folder / "build.json"
    number = int(read_json(plan)["version"]) if plan.exists() else store.registry.next_number()
    write_json(plan, {"version": number})
    return store.draft(number, ranking, live, decision.figures)


@contextmanager
def _new_index(store: VersionStore, better: _Better) -> Iterator[ChromaCollection | None]:
    """New version's collection, to be filled; None if it shares the live one's, which is kept up to date elsewhere."""
    if store.shares(better.version, better.live):
        yield None
        return
    with store.filling(better.version) as index:
        yield index


def _fill(store: VersionStore, version: Version, index: ChromaCollection, progress: Progress) -> None:
    """Re-embed into the new collection until few changes are pending, and verify it."""
    served = store.adapter(version)  # read back from disk, as it will be served
    name = version.collection
    apply_changes(store.journal, name, index, store.base, served, progress, "re-embed")
    while store.journal.pending(store.journal.applied(name)) > _FEW:
        apply_changes(store.journal, name, index, store.base, served, progress, "catch up")
    try:
        verify(store.journal, name, index, store.base, store.base.encoder, served)
    except VerificationError:
        store.clear(version)  # so that the next run builds it from the start
        raise


def _switch(
    store: VersionStore, better: _Better, index: ChromaCollection | None, report: Report, notes: Mapping[str, Any]
) -> Report:
    """Apply the last changes and move the pointer, while no other caller can change anything."""
    live, version, began = better.live, better.version, time.perf_counter()
    if index is not None:
        apply_changes(store.journal, version.collection, index, store.base, store.adapter(version))
        if len(index) != len(store.journal):
            store.clear(version)
            raise VerificationError(
                f"The new index holds {len(index)} chunks, expected {len(store.journal)}. Nothing was switched; run "
                "the pass again to rebuild the index."
            )
    if store.registry.live() != live.number or store.registry.pinned:
        reason = f"version {live.number} was rolled back or pinned during the pass; the result of the pass is outdated"
        return replace(report, reason=reason)
    store.registry.add(version)
    report = replace(report, decision="promote", version=version.number)
    held = round(time.perf_counter() - began, 4)  # seconds in which no other caller could change anything
    digest = identity(store.manifest.fingerprint, store.ranking(version))
    details = {**notes, "fingerprint": digest, "held": held, "report": asdict(report)}
    store.registry.point(version.number, "promote", report.reason, **details)
    (store.directory / "pass" / "build.json").unlink(missing_ok=True)
    return report


# the folder of a pass -----------------------------------------------------------------------------


def _folder(store: VersionStore, probes: Sequence[Probe], scorer: str, config: Config, live: Version) -> Path:
    """Folder for the results of this pass; emptied if any input of the pass has changed."""
    weighted = [(probe.id, probe.weight) for probe in probes]
    settings = config.model_dump(mode="json", exclude={"watch": True, "queries": True, "generator": {"pairs"}})
    inputs = [store.journal.head, weighted, scorer, settings, live.fingerprint, live.weights]
    key = hashlib.blake2b(json.dumps(inputs).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    folder = store.directory / "pass"
    stamp = folder / "pass.json"
    if not stamp.exists() or read_json(stamp).get("key") != key:
        _discard(store, folder / "build.json")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(stamp, {"key": key, "began": now()})
    return folder


def _discard(store: VersionStore, plan: Path) -> None:
    """Remove the version that an earlier pass began to build and that will not be completed."""
    if plan.exists():
        number = int(read_json(plan)["version"])
        if store.registry.folder(number) in store.registry.unregistered():
            store.discard(number)


def _file(name: str) -> str:
    return name.replace(" ", "-") + ".safetensors"


def tally(probes: Probes) -> dict[str, dict[str, int]]:
    """Number of probes of each kind and split."""
    counts: dict[str, Counter[str]] = {}
    for probe in probes.probes:
        counts.setdefault(probe.kind, Counter())[probe.split] += 1
    return {kind: dict(count) for kind, count in counts.items()}


@dataclass
class _Clock:
    """Wall time of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - began, 2)

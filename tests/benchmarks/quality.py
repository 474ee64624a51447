"""Retrieval quality on labelled collections, the same defaults for all: writes results/quality.json and .md.

    python tests/benchmarks/quality.py DATA [--seeds 3] [--work FOLDER]

DATA holds BEIR folders. Labels are used for reporting only. FOLDER keeps the encoded vectors between runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TRAFFIC = {"scifact": "train", "nfcorpus": "train", "cosqa": "dev", "cranfield": None, "med": None, "xquad": None}
RANKERS = ("bm25", "base", "rrf", "teacher", "adapted", "fused")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="ragself-quality-"))
    rows = []
    for name, traffic in TRAFFIC.items():
        for seed in range(arguments.seeds):
            rows.append(_bench(arguments.data / name, traffic, seed, work / name))
            print(json.dumps({key: rows[-1][key] for key in ("dataset", "seed", "decision", "seconds")}), flush=True)
    RESULTS.mkdir(exist_ok=True)
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    command = f"python tests/benchmarks/quality.py DATA --seeds {arguments.seeds}"
    (RESULTS / "quality.json").write_text(json.dumps({"date": date, "command": command, "runs": rows}, indent=1) + "\n")
    (RESULTS / "quality.md").write_text(_table(rows, date, command))


def _bench(directory: Path, traffic: str | None, seed: int, kb: Path) -> dict[str, object]:
    for path in kb.glob("*"):  # everything but the vectors is made anew
        if not path.name.startswith("cache.db"):
            subprocess.run(["rm", "-rf", str(path)], check=True)
    command = [sys.executable, "-m", "ragself", "bench", str(directory), "--kb", str(kb), "--json", "--quiet"]
    command += ["--traffic", traffic] if traffic else []
    environment = {**os.environ, "RAGSELF_TRAIN__SEED": str(seed)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    result = json.loads(done.stdout)
    report = result.pop("report")
    return {**result, "seed": seed, "kind": report["kind"], "weight": report["weight"], "stages": report["seconds"]}


def _table(rows: list[dict[str, object]], date: str, command: str) -> str:
    lines = [
        f"nDCG@10 on the test split, mean over seeds (± standard deviation where a seed matters); {date}, `{command}`.",
        "",
        "| collection | documents | traffic | BM25 | base | RRF | teacher | adapted | fused | gate |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in TRAFFIC:
        runs = [row for row in rows if row["dataset"] == name]
        cells = [_cell([run[ranker]["ndcg@10"] for run in runs]) for ranker in RANKERS]  # type: ignore[index]
        promoted = sum(run["decision"] == "promote" for run in runs)
        lines.append(
            f"| {name} | {runs[0]['documents']} | {runs[0]['traffic']} | " + " | ".join(cells)
            + f" | promoted {promoted} of {len(runs)} |"
        )  # fmt: skip
    return "\n".join(lines) + "\n"


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = statistics.pstdev(known)
    mean = f"{statistics.mean(known):.4f}"
    return f"{mean} ± {spread:.4f}" if spread > 0 else mean


if __name__ == "__main__":
    main()

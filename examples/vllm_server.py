"""Train with a language model on a vLLM server: estimate the cost of a pass, run it, print its results.

Start a server, in a separate environment: pip install vllm &&
vllm serve Qwen/Qwen3-0.6B-Base --host 127.0.0.1 --max-model-len 4096 --max-num-batched-tokens 2048
Then, in an empty folder: python vllm_server.py http://127.0.0.1:8000
"""

import sys

from ragself import Chunk, KnowledgeBase

PARTS = ["pump", "valve", "filter", "sensor", "belt", "motor", "hose", "nozzle", "fuse", "gasket"]
JOBS = ["replace", "clean", "test", "order", "inspect", "calibrate", "tighten", "lubricate", "store", "label", "ship"]


def chunks() -> list[Chunk]:
    """Chunks of a manual, one for each part and job."""
    return [
        Chunk(
            id=f"{part}-{job}",
            text=f"To {job} the {part}, switch the press off first. The {part} is behind the left panel; "
            f"wear gloves, {job} it as shown on the plate, and note the date in the log.",
            metadata={"title": f"{job} the {part}", "source": f"{part}.md"},
        )
        for part in PARTS
        for job in JOBS
    ]


def main() -> None:
    servers = sys.argv[1:] or ["http://127.0.0.1:8000"]  # several servers of one model share the work
    with KnowledgeBase("vllm-kb") as kb:
        kb.add(chunks())
        queries = [f"how do I {job} a {part}" for part in PARTS for job in JOBS]

        cost = kb.forecast(queries, generator=servers)
        print(f"at most {cost.prompts} prompts, {cost.tokens} tokens, {cost.seconds['score']:.0f} s")

        report = kb.adapt(queries, generator=servers)
        print(report.likelihood)
        print(report.dropped)
        print(report.decision, "-", report.reason)


if __name__ == "__main__":
    main()

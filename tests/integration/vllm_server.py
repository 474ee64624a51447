"""A real vLLM server on the CPU, as a process of its own: started, crashed, hung and restarted by tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

DEADLINE = 240.0  # seconds to wait for the first answer
MODEL = "gen"  # the name that models are served under

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # else the first scores wait for a C++ compiler, and without one the server dies
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, and the least there is; unset it takes most of the memory
    "VLLM_NO_USAGE_STATS": "1",
    # The engine and its worker in one process, not two: starts in two thirds of the time. vLLM then binds no threads
    # to cores, and two that wait for each other become ten times slower as soon as another process wants a core.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
}
ARGUMENTS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--served-model-name", MODEL)


def interpreter() -> Path | None:
    """The python of an environment with vLLM: that of VLLM_PYTHON, or else of .venv-vllm; None if there is none."""
    own = Path(__file__).parents[2] / ".venv-vllm"
    if "VLLM_PYTHON" not in os.environ and not (own / "complete").exists():
        return None
    path = Path(os.environ.get("VLLM_PYTHON") or own / "bin" / "python")
    return path if path.exists() else None


class VllmServer:
    """A server of one model on a free port of 127.0.0.1, which it keeps when it is started again.

    Its processes form a group of their own; signals that stand for accidents go to all of them.

    Attributes:
        url: Base URL, without a path.
        log: File of everything that it has said.
        pid: Of the API process, which leads the group.
    """

    def __init__(self, model: Path, log: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Choose a port; nothing is started yet.

        Args:
            model: Folder of the model and its tokenizer.
            log: File to append what it says to.
            arguments: More arguments of the server; they win over ``ARGUMENTS``.
            environment: More variables; they win over ``ENVIRONMENT``.
        """
        self.model, self.log = model, log
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments
        self._environment = {**os.environ, **ENVIRONMENT, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers. Twenty seconds, of which most are imports."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it without waiting."""
        assert self._process is None, "started already"
        command = [
            str(interpreter()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model),
            "--host", "127.0.0.1", "--port", str(self.port), *ARGUMENTS, *self._arguments,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.log.parent,  # python -m looks for modules here first
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it answers; fails at once if it dies, and after DEADLINE seconds."""
        assert self._process is not None, "not started"
        end = time.monotonic() + DEADLINE
        while not self.healthy():
            code = self._process.poll()
            if code is not None or time.monotonic() > end:
                self.kill()
                what = f"died with exit code {code}" if code is not None else f"gives no answer in {DEADLINE:.0f} s"
                raise AssertionError(f"vLLM {what}. {self.log} ends with:\n{self.said()[-8000:]}")
            time.sleep(0.1)

    def healthy(self) -> bool:
        """Whether /health answers 200 within two seconds."""
        try:
            return httpx.get(f"{self.url}/health", timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Shut it down as a user does, and make sure that nothing of it is left. Does nothing if it is not running."""
        if self._process is None:
            return
        self.resume()  # a stopped process takes no SIGTERM
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()

    def kill(self) -> None:
        """End all of it at once, as a crash or the kernel does when memory is short."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(20)
            while self._left():  # a process of some gigabytes takes a moment to go
                time.sleep(0.02)
            self._process = None

    def restart(self) -> None:
        """Stop it if it is running, and start it on the same port."""
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Let it hang: connections are taken and never answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `suspend`."""
        self._signal(signal.SIGCONT)

    def metrics(self) -> dict[str, float]:
        """Counters and gauges of /metrics such as ``vllm:prompt_tokens_total``, summed over their labels."""
        answer = httpx.get(f"{self.url}/metrics", timeout=10, trust_env=False).raise_for_status()
        sums: dict[str, float] = {}
        for line in answer.text.splitlines():
            name, value = line.partition("{")[0], line.rpartition(" ")[2]
            if name.startswith("vllm:") and not name.endswith(("_bucket", "_created")):
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def said(self) -> str:
        """What it has said up to now, over all starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _left(self) -> bool:
        """Whether a process of the group still runs; one that nobody has asked for its exit code does not."""
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getpgid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    return True
        return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        with suppress(ProcessLookupError):  # all of it has gone
            os.killpg(self._process.pid, number)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])

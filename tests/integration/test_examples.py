"""What the README shows runs as it stands, with the default model."""

from __future__ import annotations

import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.vllm_server import VllmServer

ROOT = Path(__file__).parents[2]


def test_the_quick_start_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "added=120" in said
    assert "quince" in said.splitlines()[1]
    assert said.count("fig-") == 3


def test_the_local_model_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], random_llama: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["local_model.py", str(random_llama)])
    monkeypatch.setenv("RAGSELF_GENERATOR__PAIRS", "2000")
    runpy.run_path(str(ROOT / "examples" / "local_model.py"), run_name="__main__")
    cost, decision = capsys.readouterr().out.splitlines()
    assert "'scorer': 'transformers:" in cost
    assert decision.startswith(("keep - ", "promote - "))


@pytest.mark.parametrize("name", ["llama_index_retriever", "langchain_retriever"])
def test_the_retriever_examples_run(name: str, tmp_path: Path) -> None:
    pytest.importorskip("langchain_ragself", reason="the integrations are not installed")
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]  # Chroma knows a relative path by its name alone
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    decision, *found = said.splitlines()
    assert decision.startswith(("keep: ", "promote: "))
    assert "In Lisbon the trams are worth a whole morning." in found[0]


@pytest.mark.vllm
def test_the_vllm_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vllm_server: VllmServer
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vllm_server.py", vllm_server.url])
    monkeypatch.setenv("RAGSELF_GENERATOR__PAIRS", "2000")
    runpy.run_path(str(ROOT / "examples" / "vllm_server.py"), run_name="__main__")
    forecast, cost, _, decision = capsys.readouterr().out.splitlines()
    assert forecast.startswith("at most ")
    assert f"'scorer': 'vllm:{vllm_server.model}" in cost
    assert decision.startswith(("keep - ", "promote - "))


def test_the_wheel_holds_the_package_whole_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry_points = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "ragself").rglob("*.py")}
    assert held == there | {"ragself/py.typed", "ragself/report/template.html"}
    assert "ragself = ragself.cli.app:main" in entry_points

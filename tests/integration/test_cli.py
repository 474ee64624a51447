"""The command line: every command, its exit codes, and what a pipe reads."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ragself import Chunk
from ragself.cli.app import main

COMMANDS = [
    "demo",
    "add",
    "adopt",
    "sync",
    "search",
    "adapt",
    "watch",
    "status",
    "history",
    "report",
    "rollback",
    "pin",
]
COMMANDS += ["unpin", "forget", "gc", "export", "bench"]


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Ragself = Callable[..., Done]


@pytest.fixture
def ragself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_model: Path) -> Ragself:
    """Run a command in this process, as its entry point does."""
    monkeypatch.setenv("RAGSELF_ENCODER__MODEL", str(tiny_model))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ragself", *map(str, arguments)])
        try:
            main()
            code: object = 0
        except SystemExit as left:
            code = left.code or 0
        assert isinstance(code, int), code
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def docs(tmp_path: Path, chunks: list[Chunk]) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for chunk in chunks[:3]:
        (folder / f"{chunk.id}.md").write_text(f"# {chunk.title}\n\n{chunk.text}\n")
    (folder / "binary.md").write_bytes(b"\0\1")
    return folder


@pytest.fixture
def asked_file(asked: list[str], tmp_path: Path) -> Path:
    file = tmp_path / "asked.txt"
    file.write_text("\n".join(["", *asked, "  "]))
    return file


def real(*arguments: object) -> Done:
    command = [str(Path(sys.executable).with_name("ragself")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_installed_command(filled: Path) -> None:
    helped = real("--help")
    assert helped.code == 0
    assert all(command in helped.out for command in COMMANDS)
    assert "Exit codes" in helped.out
    assert real("status", "--kb", filled, "--json").json["chunks"] == 384
    missing = real("status", "--kb", filled / "nowhere")
    assert (missing.code, missing.out) == (1, "")
    assert "holds no knowledge base" in " ".join(missing.err.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_something_useful(ragself: Ragself, command: str) -> None:
    done = ragself(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"{command} [OPTIONS]" in done.out
    assert len(done.out.split()) > 30
    assert "--kb" in done.out and "--json" in done.out


def test_without_a_command_help_is_shown(ragself: Ragself) -> None:
    done = ragself()
    assert done.code == 2
    assert "Commands" in done.out + done.err


def test_add_search_and_again(ragself: Ragself, docs: Path, chunks: list[Chunk], tmp_path: Path) -> None:
    kb = tmp_path / "kb"
    added = ragself("add", docs, "--kb", kb, "--json")
    assert added.json["result"]["added"] == added.json["chunks"] >= 3
    assert [Path(item["name"]).name for item in added.json["result"]["skipped"]] == ["binary.md"]
    assert "read files" in added.err  # progress, and not on standard output
    again = ragself("add", docs, "--kb", kb)
    assert again.code == 0
    assert "0 chunks added or changed" in again.out
    assert "binary.md" in again.out

    hits = ragself("search", chunks[0].text, "--kb", kb, "-k", 2, "--json").json
    assert len(hits) == 2
    assert set(hits[0]) == {"id", "text", "metadata", "score", "version", "parts"}
    assert set(hits[0]["parts"]) == {"vector", "language_model", "bm25"}
    assert hits[0]["score"] == pytest.approx(sum(hits[0]["parts"].values()), abs=1e-5)
    source = str(docs / f"{chunks[1].id}.md")
    only = ragself("search", "x", "--kb", kb, "--where", json.dumps({"source": source}), "--json").json
    assert only and {hit["metadata"]["source"] for hit in only} == {source}
    ranked = ragself("search", chunks[0].text, "--kb", kb, "-k", 2, "--json", "--mode", "vector").json
    assert len(ranked) == 2
    assert ranked[0]["id"] == hits[0]["id"]  # its own text
    assert set(ranked[0]["parts"]) == {"vector"}
    assert ranked[0]["score"] == pytest.approx(hits[0]["parts"]["vector"], abs=1e-4)
    shown = ragself("search", chunks[0].text, "--kb", kb)
    assert shown.code == 0
    assert str(chunks[0].title) in shown.out
    assert "Nothing found" in ragself("search", "x", "--kb", kb, "--where", '{"source": "none"}').out


def test_the_encoder_is_named_once(
    ragself: Ragself, docs: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAGSELF_ENCODER__MODEL")
    kb = tmp_path / "kb"
    assert ragself("add", docs, "--kb", kb, "--encoder", tiny_model, "--quiet").err == ""
    assert ragself("search", "word", "--kb", kb, "--json").json
    assert ragself("add", docs, "--kb", kb, "--json").json["result"]["added"] == 0
    assert ragself("status", "--kb", kb, "--json").json["encoder"] == str(tiny_model)


def test_a_pass_and_all_that_follows(ragself: Ragself, filled: Path, asked_file: Path, tmp_path: Path) -> None:
    report = ragself("adapt", "--kb", filled, "--queries", asked_file, "--json", "--exit-code")
    assert (report.json["decision"], report.json["version"]) == ("promote", 1)
    assert report.json["probes"]["traffic"]["train"] > 100
    assert "train weights" in report.err
    assert ragself("status", "--kb", filled, "--json").json["live"]["number"] == 1
    events = ragself("history", "--kb", filled, "--json").json
    assert [event["event"] for event in events] == ["create", "promote"]
    files = ragself("export", tmp_path / "out", "--kb", filled, "--json").json
    assert {Path(file).name for file in files} == {"README.md", "adapter.safetensors", "ragself.json"}
    assert ragself("export", tmp_path / "out", "--kb", filled).code == 1
    assert ragself("rollback", "--kb", filled, "--json").json["number"] == 0
    assert "Version 1 (" in ragself("rollback", "--kb", filled, "--to", 1).out
    assert ragself("rollback", "--kb", filled, "--to", 5).code == 1
    assert ragself("gc", "--kb", filled, "--json").json == []
    assert "Nothing to remove" in ragself("gc", "--kb", filled).out
    assert "in the folder" in ragself("status", "--kb", filled).out
    for command in ("status", "history"):
        done = ragself(command, "--kb", filled)
        assert done.code == 0
        assert "rollback" in done.out


def test_a_pass_for_people(ragself: Ragself, filled: Path, asked_file: Path) -> None:
    done = ragself("adapt", "--kb", filled, "--queries", asked_file, "--quiet")
    assert (done.code, done.err) == (0, "")
    assert "promoted version 1" in done.out
    assert "utility@10" in done.out


def test_nothing_promoted(ragself: Ragself, docs: Path, tmp_path: Path) -> None:
    ragself("add", docs, "--kb", tmp_path / "kb", "--quiet")
    kept = ragself("adapt", "--kb", tmp_path / "kb", "--exit-code", "--json")
    assert kept.code == 10
    assert json.loads(kept.out)["decision"] == "keep"
    assert ragself("adapt", "--kb", tmp_path / "kb").code == 0


NO_KB = [["search", "x"], ["adapt"], ["status"], ["history"], ["rollback"], ["gc"], ["export", "out"]]


@pytest.mark.parametrize("arguments", NO_KB, ids=lambda arguments: arguments[0])
def test_where_there_is_no_knowledge_base(ragself: Ragself, arguments: list[str], tmp_path: Path) -> None:
    done = ragself(*arguments, "--kb", tmp_path / "nowhere")
    assert (done.code, done.out) == (1, "")
    assert "nowhere holds no knowledge base" in " ".join(done.err.split())
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["search", "x", "--where", "{"], 1, "--where is not valid JSON"),
        (["search", "x", "--where", "[1]"], 1, "expected an object"),
        (["search", "x", "--where", '{"a": {"$x": 1}}'], 1, "Chroma refuses the filter"),
        (["search", " "], 1, "The query is empty"),
        (["search", "x", "-k", "0"], 2, "-k"),
        (["search"], 2, "query"),
        (["search", "x", "--mode", "both"], 2, "hybrid"),
        (["search", "x", "--colour"], 2, "--colour"),
        (["adapt", "--queries", "nowhere.txt"], 1, "Cannot read the queries in nowhere.txt"),
        (["add", "nowhere.md"], 1, "nowhere.md does not exist"),
        (["add"], 2, "paths"),
        (["rollback"], 1, "nothing before it"),
        (["rollback", "--to", "x"], 2, "--to"),
        (["unheard-of"], 2, "unheard-of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(ragself: Ragself, filled: Path, arguments: list[str], code: int, said: str) -> None:
    done = ragself(*arguments, *(["--kb", filled] if arguments != ["unheard-of"] else []))
    assert (done.code, done.out) == (code, "")
    assert said.lower() in " ".join(done.err.replace("│", " ").split()).lower()
    assert "Traceback" not in done.err


def test_a_setting_that_does_not_exist(ragself: Ragself, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_TRAIN__STEP", "3")
    done = ragself("search", "x", "--kb", filled)
    assert done.code == 1
    assert "'step'" in done.err


def test_pin_and_unpin(ragself: Ragself, promoted: Path) -> None:
    assert "Version 1 (residual) stays live" in ragself("pin", "--kb", promoted, "--reason", "the fair").out
    assert ragself("status", "--kb", promoted, "--json").json["pinned"]
    assert ", pinned" in ragself("status", "--kb", promoted).out
    assert "Version 0 (base) is live instead of version 1. It stays pinned." in " ".join(
        ragself("rollback", "--kb", promoted).out.split()
    )
    assert "`ragself pin` keeps it" not in ragself("rollback", "--kb", promoted, "--to", 1).out
    assert "Version 1 (residual) may be replaced" in ragself("unpin", "--kb", promoted).out
    assert "was not pinned" in ragself("unpin", "--kb", promoted).out
    assert ragself("pin", "--kb", promoted, "--version", 0, "--json").json["number"] == 0
    events = ragself("history", "--kb", promoted, "--json").json[-6:]
    assert [(event["event"], event["started"]) for event in events] == [
        ("pin", "ragself pin"),
        ("rollback", "ragself rollback"),
        ("rollback", "ragself rollback"),
        ("unpin", "ragself unpin"),
        ("rollback", "ragself pin"),
        ("pin", "ragself pin"),
    ]
    assert events[0]["reason"] == "the fair"
    missing = ragself("pin", "--kb", promoted, "--version", 9)
    assert (missing.code, "There is no version 9" in missing.err) == (1, True)


def test_forget(ragself: Ragself, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSELF_QUERIES__LOG", "true")
    for query in ("where is the key", "who has the key", "what is new"):
        assert ragself("search", query, "--kb", filled).code == 0
    for wrong in ([], ["--all", "--matching", "x"]):
        done = ragself("forget", "--kb", filled, *wrong)
        assert (done.code, "Say which queries" in done.err) == (1, True)
    assert ragself("forget", "--kb", filled, "--before", "soon").code == 2
    assert ragself("forget", "--kb", filled, "--before", "2020-01-01").out == "0 queries forgotten.\n"
    assert ragself("forget", "--kb", filled, "--matching", "KEY", "--json").json == {"forgotten": 2}
    assert ragself("forget", "--kb", filled, "--all").out == "1 queries forgotten.\n"


def test_a_service_is_described_for_who_starts_it(ragself: Ragself, tmp_path: Path) -> None:
    folder = tmp_path / 'my "docs" 100%'
    kb = ("--kb", tmp_path / "kb")
    unit = ragself("service", folder, *kb, "--queries", "asked.txt", "--generator", "http://127.0.0.1:8000").out
    start = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert start.split("watch ")[1].startswith(f'"{tmp_path}/my \\"docs\\" 100%%" --kb {tmp_path}/kb --queries /')
    assert start.endswith("--generator http://127.0.0.1:8000")
    assert "MemoryMax=6144M" in unit
    line = ragself("service", folder, *kb, "--kind", "cron").out.splitlines()[1]
    assert line.startswith("17 2 * * * ")
    assert line.endswith(f"watch '{tmp_path}/my \"docs\" 100\\%' --kb {tmp_path}/kb --once --quiet")


@pytest.mark.parametrize(("ends", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_status_is_shown_again_and_again(promoted: Path, ends: int, code: int) -> None:
    command = [sys.executable, "-m", "ragself", "status", "--kb", str(promoted), "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["live"]["number"] == 1
        assert real("rollback", "--kb", promoted).code == 0
        while json.loads(process.stdout.readline())["live"]["number"]:
            pass
        process.send_signal(ends)
        assert process.wait(20) == code
        assert process.stderr is not None
        assert "was not touched" not in process.stderr.read()


def test_watching_what_is_not_there_makes_nothing(ragself: Ragself, tmp_path: Path) -> None:
    done = ragself("watch", tmp_path / "nowhere", "--once", "--kb", tmp_path / "kb")
    assert (done.code, "nowhere does not exist" in done.err) == (1, True)
    done = ragself("watch", tmp_path, "--once", "--kb", tmp_path / "kb", "--queries", tmp_path / "asked.txt")
    assert (done.code, "Cannot read the queries in" in done.err) == (1, True)
    assert list(tmp_path.iterdir()) == []

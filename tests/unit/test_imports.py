import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ragself
from ragself import errors

HEAVY = ("torch", "chromadb", "pydantic", "sentence_transformers", "transformers", "numpy", "bs4", "rich")
PUBLIC = {"ragself", "ragself.retriever"}  # what integrations may import


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def loaded_by(statement: str) -> set[str]:
    return set(run(f"import sys\n{statement}\nprint(*(m for m in {HEAVY} if m in sys.modules))").split())


def test_importing_ragself_loads_none_of_the_heavy_libraries() -> None:
    assert loaded_by("import ragself") == set()
    assert loaded_by("import ragself; ragself.Chunk('a', 'b'), ragself.RagselfError, dir(ragself)") == set()
    assert loaded_by("import torch") >= {"torch"}  # the question itself is sound


@pytest.mark.parametrize("module", ["versions.registry", "engine.status", "evaluation.gate", "evaluation.metrics"])
def test_registry_status_gate_and_metrics_load_neither_torch_nor_chroma(module: str) -> None:
    assert loaded_by(f"import ragself.{module}") & {"torch", "chromadb", "transformers"} == set()


def test_public_names_are_few_and_every_one_resolves() -> None:
    assert dir(ragself) == sorted(ragself.__all__)
    assert 1 <= len(set(ragself.__all__) - set(vars(errors))) <= 12
    for name in ragself.__all__:
        value = getattr(ragself, name)
        assert value.__name__ == name
        assert value.__doc__


def test_a_star_import_brings_exactly_the_public_names() -> None:
    names = run("from ragself import *\nprint(*(n for n in dir() if not n.startswith('__')))").split()
    assert names == sorted(ragself.__all__)


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Knowledgebase'; it has .*KnowledgeBase"):
        _ = ragself.Knowledgebase  # type: ignore[attr-defined]


def test_every_error_is_a_ragself_error_and_says_what_it_means() -> None:
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(found) == 11
    for each in found:
        assert issubclass(each, errors.RagselfError)
        assert each.__doc__
        assert getattr(ragself, each.__name__) is each
        assert f" {each.__name__} " in f"{errors.__doc__}".replace("\n", " ")
    assert issubclass(errors.StoreLocked, errors.StoreError)
    assert issubclass(errors.StoreTooNew, errors.StoreError)


def test_integrations_import_public_modules_only() -> None:
    folder = Path(__file__).parents[2] / "integrations"
    files = [path for path in folder.rglob("*.py") if "tests" not in path.parts]
    assert len(files) >= 7
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [str(node.module)]
            assert {module for module in modules if module.split(".")[0] == "ragself"} <= PUBLIC, path

"""LangChain's own tests of retrievers: at the base model, after learning, on adopted collections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_chroma import Chroma
from langchain_core.retrievers import BaseRetriever
from langchain_ragself import RagselfRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from ragself import Config, KnowledgeBase


class _Standard(RetrieversIntegrationTests):
    kb: KnowledgeBase

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return RagselfRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"knowledge_base": self.kb}

    @property
    def retriever_query_example(self) -> str:
        return "what is asked"


class TestAtTheBaseModel(_Standard):
    @pytest.fixture(autouse=True)
    def _serve(self, filled: KnowledgeBase) -> None:
        self.kb = filled


class TestAfterLearning(_Standard):
    @pytest.fixture(autouse=True)
    def _serve(self, learned: KnowledgeBase) -> None:
        self.kb = learned


class TestOnAnAdoptedCollection(_Standard):
    @pytest.fixture(autouse=True)
    def _serve(self, vectorstore: Chroma, settings: Config, tmp_path: Path) -> Iterator[None]:
        """Of an embedded database, and of a server."""
        retriever = RagselfRetriever.from_vectorstore(vectorstore, tmp_path / "kb", settings.encoder.model)
        self.kb = retriever.knowledge_base
        yield
        retriever.close()

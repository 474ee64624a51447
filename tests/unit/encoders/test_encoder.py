from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

from ragself.config import load
from ragself.encoders import encoder
from ragself.encoders.encoder import Encoder


@pytest.mark.parametrize(("light", "texts", "threads"), [(True, 1, 1), (True, 2, 3), (False, 1, 3)])
def test_only_one_query_of_a_small_model_has_one_thread(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, light: bool, texts: int, threads: int
) -> None:
    if not light:
        monkeypatch.setattr(encoder, "_LIGHT", 0)
    small = Encoder(load(None, encoder={"model": str(tiny_model)}).encoder)
    encode, seen = small._model.encode_query, []

    def counted(*arguments: object, **options: object) -> object:
        seen.append(torch.get_num_threads())
        return encode(*arguments, **options)

    monkeypatch.setattr(small._model, "encode_query", counted)
    with threadpool_limits(3, user_api="openmp"):
        small.queries(["notulu"] * texts)
        assert torch.get_num_threads() == 3
    assert seen == [threads]

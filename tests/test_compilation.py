"""torch.compile of a model's layers: the same losses, and one clear line where nothing compiles."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_fit import train
from tiny_checkpoint import tiny_model

from tokensieve.compilation import check_compiler, compile_layers
from tokensieve.errors import ConfigError
from tokensieve.micro_batches import PassShape

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@needs_compiler
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", [PassShape(3), PassShape(6, 60, padding_free=True)], ids=str)
def test_compiled_layers_train_alike(tmp_path: Path, shape: PassShape) -> None:
    check_compiler(torch.device("cpu"))
    torch._dynamo.utils.counters.clear()
    plain = train(tmp_path / "a", dropout=0.0, shape=shape)
    assert not torch._dynamo.utils.counters["frames"]
    fast = train(tmp_path / "b", dropout=0.0, shape=shape, compiled=True)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    for expected, got in zip(plain, fast, strict=True):
        for key in expected.keys() & {"train/nll", "train/grad_norm", "val/nll"}:
            assert got[key] == pytest.approx(expected[key], rel=2e-5)
    weights = [path.name for path in (tmp_path / "b" / "last").iterdir()]
    assert "adapter_model.safetensors" in weights


def test_names_of_parameters_stay() -> None:
    model = tiny_model()
    before = [name for name, _ in model.named_parameters()]
    assert compile_layers(model) == 2
    assert [name for name, _ in model.named_parameters()] == before


@pytest.mark.filterwarnings("ignore")
def test_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/no/such/compiler",))
    with pytest.raises(ConfigError, match=r"^trainer\.compile: needs a C\+\+ compiler.*g\+\+.*trainer\.compile=false"):
        check_compiler(torch.device("cpu"))

"""Memory that does not suffice ends a run in one line that says what to try; gradients take it a block at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lit_memories.audit.memory import enough_memory
from lit_memories.cli import main
from lit_memories.probes import likelihood
from lit_memories.runs import read_run

Arguments = Callable[..., list[str]]
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    "python": MemoryError(),
}


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, call: int) -> None:
    """Let the U-Net's call of this number, and all after it, raise."""
    forward, calls = UNet2DConditionModel.forward, []

    def fail(self: UNet2DConditionModel, *args: Any, **options: Any) -> Any:
        calls.append(self)
        if len(calls) >= call:
            raise error
        return forward(self, *args, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", fail)


def said(error: BaseException, block_size: int) -> str:
    """The message that an error becomes; one line."""
    memory = enough_memory(block_size, (64, 48), Path("runs/some"))
    with pytest.raises(OSError, match="out of memory") as raised, memory:
        raise error
    message = str(raised.value)
    assert "\n" not in message
    assert raised.value.__cause__ is error
    return message


@pytest.mark.parametrize("kind", ERRORS)
def test_what_to_try_is_said(kind: str) -> None:
    message = said(ERRORS[kind], 8)
    assert "out of memory at block_size 8 and images of 64 x 48 pixels: try --model.block_size 4" in message
    assert "the records in runs/some are safe" in message


def test_the_smallest_block_has_another_way() -> None:
    assert "no smaller block exists: try --trainer.precision bf16-mixed" in said(ERRORS["cuda"], 1)


def test_another_error_of_the_network_stays_what_it_is() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as raised, enough_memory(8, (64, 64), Path("runs/some")):
        raise error
    assert raised.value is error


def test_nothing_is_lost(undisturbed: Path, arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, ERRORS["cpu"], 60)
        with pytest.raises(SystemExit, match="out of memory at block_size 4 and images of 64 x 64 pixels") as stop:
            main(arguments(run))
    assert "\n" not in str(stop.value)
    assert str(run) in str(stop.value)
    recorded = read_run(run).records
    assert 0 < len(recorded) < len(read_run(undisturbed).records)
    main(arguments(run))
    for name in ("records.jsonl", "seeds.safetensors"):
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_likelihood_holds_gradients_of_one_block(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, sizes = likelihood.log_likelihood, []

    def spy(noise: Any, latents: Tensor, *rest: Any) -> Any:
        sizes.append(len(latents))
        return compute(noise, latents, *rest)

    monkeypatch.setattr(likelihood, "log_likelihood", spy)

    def run(name: str, batch_size: int) -> Sequence[float | None]:
        options = (
            *("--model.block_size=2", "--model.probes+=Likelihood", "--data.known=0", "--data.prompted=0"),
            *("--data.concept_images.limit=2", "--data.reference_images.limit=1"),
        )
        main(arguments(tmp_path / name, *options, batch_size=batch_size))
        return [record.value("likelihood.log_likelihood") for record in read_run(tmp_path / name).records]

    whole = run("whole", 9)
    assert max(sizes) == 2, "gradients of more than a block were held at once"
    assert sum(sizes) == len(whole) == 3
    assert None not in whole
    assert run("single", 1) == whole

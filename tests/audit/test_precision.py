"""In mixed precision the U-Net computes in few bits, and nothing else does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_errors import refused
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Generator, Tensor
from transformers import CLIPTextModel

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.cli import main
from lit_memories.data.audit import AuditData
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.metrics import gaussian_nll
from lit_memories.runs import read_run
from lit_memories.worlds.classifier import WorldClassifier

Arguments = Callable[..., list[str]]
RESULTS = ("records.jsonl", "seeds.safetensors")
MIXED = ("--trainer.precision=bf16-mixed", "--model.inverter.tolerance=2e-3")


def few(arguments: Arguments, folder: Path, *more: str, **options: int) -> list[str]:
    """The command line of an audit of a handful of samples in mixed precision."""
    limits = ("--data.concept_images.limit=2", "--data.reference_images.limit=1", "--data.known=1", "--data.prompted=1")
    return arguments(folder, *limits, *MIXED, *more, **options)


@pytest.fixture(scope="module")
def mixed(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of an audit of a handful in mixed precision."""
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    main(few(arguments, folder))
    return folder


def test_only_the_unet_computes_in_few_bits(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[Any]] = {}

    def spied(owner: type, name: str) -> None:
        function = getattr(owner, name)

        def spy(self: Any, *args: Any, **options: Any) -> Any:
            lowered = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
            types = {value.dtype for value in args if isinstance(value, Tensor) and value.is_floating_point()}
            seen.setdefault(owner.__name__, set()).update((lowered, dtype) for dtype in types)
            return function(self, *args, **options)

        monkeypatch.setattr(owner, name, spy)

    spied(UNet2DConditionModel, "forward")
    spied(AutoencoderKL, "encode")
    spied(AutoencoderKL, "decode")
    spied(WorldClassifier, "forward")
    spied(FixedPoint, "_solve")
    encode, text_autocast = CLIPTextModel.forward, set()

    def text(self: CLIPTextModel, *args: Any, **options: Any) -> Any:
        text_autocast.add(torch.is_autocast_enabled("cpu"))
        return encode(self, *args, **options)

    monkeypatch.setattr(CLIPTextModel, "forward", text)
    main(few(arguments, tmp_path / "run"))
    assert seen.pop("UNet2DConditionModel") == {(torch.bfloat16, torch.float32)}
    exact = {(False, torch.float32)}
    assert seen == dict.fromkeys(("AutoencoderKL", "WorldClassifier", "FixedPoint"), exact)
    assert text_autocast == {False}


def test_the_run_says_its_precision_and_what_it_does_to_known_seeds(
    mixed: Path, arguments: Arguments, tmp_path: Path
) -> None:
    run = read_run(mixed)
    assert run.info.complete
    assert run.info.precision == run.info.settings["precision"] == "bf16-mixed"
    (known,) = run.of("known", "known")
    assert known.value("known.nll_bias") is not None
    assert known.value("known.seed_error") is not None
    assert 0 < known.value("known.seed_error") < 0.1
    main(few(arguments, tmp_path / "exact", "--trainer.precision=32-true"))
    exact = {record.index: record for record in read_run(tmp_path / "exact").of("concept", "seed")}
    for record in run.of("concept", "seed"):
        assert record.value("seed.nll") is not None
        assert record.value("seed.nll") != exact[record.index].value("seed.nll"), "the network was not in low precision"
        assert record.value("seed.nll") == pytest.approx(exact[record.index].value("seed.nll"), rel=1e-3)
        assert record.value("seed.psnr_ceiling") == exact[record.index].value("seed.psnr_ceiling"), (
            "the autoencoder was in low precision"
        )
    message = refused(few(arguments, tmp_path / "exact"))
    assert "settings.precision: '32-true' | 'bf16-mixed'" in message


def test_batch_size_changes_no_byte_in_mixed_precision(mixed: Path, arguments: Arguments, tmp_path: Path) -> None:
    main(few(arguments, tmp_path / "run", batch_size=1))
    for file in RESULTS:
        assert (tmp_path / "run" / file).read_bytes() == (mixed / file).read_bytes()


class Recorder:
    """Keeps what a network gave, and the same again in float64."""

    def __init__(self, noise: BlockwisePredictor) -> None:
        self.noise, self.given = noise, []

    def __call__(self, latents: Tensor, timestep: int, rows: Tensor) -> Tensor:
        self.given.append(self.noise(latents, timestep, rows))
        return self.given[-1]

    def replay(self) -> Callable[[Tensor, int, Tensor], Tensor]:
        """The same answers, one after the other, whatever is asked."""
        answers = iter(self.given)
        return lambda latents, timestep, rows: next(answers).double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_the_algebra_around_a_network_in_few_bits_is_exact(dtype: torch.dtype, calm: Path) -> None:
    """With what the network gave, algebra in float64 comes to the same latents, seeds and likelihoods."""
    diffusion = Diffusion.from_pretrained(calm)
    embeds, empty = (diffusion.encode_prompts(prompts) for prompts in (["a", "b", "c"], [""]))
    predict = BlockwisePredictor(diffusion, embeds, empty, 3.0, 2, dtype)
    steps, inverter = diffusion.schedule.ddim_steps(10), FixedPoint(tolerance=2e-3)
    seeds = diffusion.draw_seeds([Generator().manual_seed(i) for i in range(3)])
    with torch.autocast("cpu", enabled=False):
        sampling, inverting = Recorder(predict), Recorder(predict)
        latents = inverter.sample(sampling, seeds, steps)
        found = inverter(inverting, latents, steps)
    exact_latents = inverter.sample(sampling.replay(), seeds.double(), steps)
    exact = inverter(inverting.replay(), latents.double(), steps)
    plain = inverter.sample(BlockwisePredictor(diffusion, embeds, empty, 3.0, 2), seeds, steps)
    assert {answer.dtype for answer in sampling.given} == {torch.float32}
    assert not torch.equal(plain, latents), "the network was not in low precision"
    assert float((latents - exact_latents).norm() / exact_latents.norm()) < 2e-6
    assert float((found.seeds - exact.seeds).norm() / exact.seeds.norm()) < 2e-6
    assert torch.equal(found.evaluations, exact.evaluations)
    assert gaussian_nll(found.seeds).tolist() == pytest.approx(gaussian_nll(exact.seeds).tolist(), abs=1e-3)


def test_weights_in_few_bits_leave_latents_exact(calm: Path, arguments: Arguments, tmp_path: Path) -> None:
    main(few(arguments, tmp_path / "run", "--trainer.precision=32-true", "--model.diffusion.torch_dtype=bfloat16"))
    run = read_run(tmp_path / "run")
    assert run.info.complete
    assert {record.flag("seed") for record in run.records} == {None}
    assert run.info.settings["torch_dtype"] == "bfloat16"
    assert {seed.dtype for seed in load_file(tmp_path / "run" / "seeds.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_latents_in_few_bits_are_refused_before_anything_is_read(
    precision: str, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the images were read first")

    monkeypatch.setattr(AuditData, "setup", forbidden)
    message = refused(arguments(tmp_path / "run", f"--trainer.precision={precision}"))
    assert precision in message
    assert "bf16-mixed" in message


@pytest.mark.skipif(torch.accelerator.is_available(), reason="about machines without a GPU")
def test_float16_on_a_cpu_is_not_taken_for_bfloat16(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(Diffusion, "__init__", forbidden)
    message = refused(arguments(tmp_path / "run", "--trainer.precision=16-mixed"))
    assert "16-mixed needs a GPU" in message
    assert "bf16-mixed" in message


def test_a_tolerance_that_bfloat16_cannot_meet_is_pointed_out(arguments: Arguments, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"does not let FixedPoint meet a residual of 0\.0003.*tolerance 0\.002"):
        main(few(arguments, tmp_path / "run", "--model.inverter.tolerance=3e-4", "--model.inverter.max_evaluations=1"))


@pytest.mark.parametrize("matmul", ["highest", "high"])
def test_convolutions_are_as_exact_as_matrix_products_and_repeat(
    matmul: str, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the trainer is told; afterwards torch is as it was."""
    flags = torch.backends.cudnn
    seen, forward = set(), UNet2DConditionModel.forward

    def spy(self: UNet2DConditionModel, *args: Any, **options: Any) -> Any:
        seen.add((flags.allow_tf32, flags.benchmark, flags.deterministic))
        return forward(self, *args, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", spy)
    monkeypatch.setattr(flags, "benchmark", flags.benchmark)
    before, precision = flags.allow_tf32, torch.get_float32_matmul_precision()
    assert before, "torch's default"
    torch.set_float32_matmul_precision(matmul)
    try:
        main(few(arguments, tmp_path / "run", "--trainer.precision=32-true", "--trainer.benchmark=true"))
    finally:
        torch.set_float32_matmul_precision(precision)
    assert seen == {(matmul != "highest", False, True)}
    assert flags.allow_tf32 == before

"""A plan tells what an audit will ask and hold, and reads no weights."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from lit_memories.audit.concept import ConceptAudit
from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.costs import read_cost
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inverter
from lit_memories.inverters.belm import BELM
from lit_memories.inverters.ddim import DDIMInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.inverters.null_text import NullText
from lit_memories.inverters.renoise import ReNoise
from lit_memories.ops.footprint import footprint
from lit_memories.probes import Likelihood, Samples
from lit_memories.probes.base import Answers, Group, Probe
from lit_memories.probes.prices import Price
from lit_memories.tools.outlines import Outline, calls, parts
from lit_memories.tools.plan import planned

Arguments = Callable[..., list[str]]
PROBES = """[
  {class_path: Denoising, init_args: {levels: 3}},
  {class_path: Samples, init_args: {guidance_scale: 3.0}},
  {class_path: Seed, init_args: {limit: 2}},
  {class_path: Typicality}, {class_path: Reach, init_args: {directions: 1}}, {class_path: Known},
  {class_path: Likelihood},
  {class_path: Relearning, init_args: {lesson: 2, steps: 3, batch_size: 2, levels: 2, guidance_scale: 3.0}},
  {class_path: Plain, init_args: {draws: 2}},
  {class_path: NoiseProbe, init_args: {etas: [1.0], scales: [1.0]}},
  {class_path: TextualInversion, init_args: {steps: [1, 2], batch_size: 2, lesson: 2}}
]"""
INVERTERS = {
    "fixed point": FixedPoint(3),
    "ddim": DDIMInversion(),
    "ddim, unmeasured": DDIMInversion(measure_residual=False),
    "renoise": ReNoise(2),
    "renoise, averaged": ReNoise(3, average_first=(0, 2), average=(1, 3), lambda_kl=0.1),
    "renoise, faithful": ReNoise(faithful=True),
    "belm": BELM(4),
    "null text": NullText(inner_steps=2),
    "null text, faithful": NullText(faithful=True),
}


def test_a_plan_counts_what_an_audit_asks(arguments: Arguments, tmp_path: Path) -> None:
    """By probe, over all sets: images under other prompts, limits, lessons and what attacks leave out among them."""
    options = arguments(tmp_path / "run", f"--model.probes={PROBES}", "--data.conditionings=[empty, own@3]")
    found = planned(["plan", *options[1:]])
    main(options)
    spent = read_cost(tmp_path / "run")
    assert {probe for _, probe in found.prices} == spent.keys()
    for probe, entry in spent.items():
        prices = [price for (_, name), price in found.prices.items() if name == probe]
        least, most = sum(p.least + p.shared for p in prices), sum(p.most + p.shared for p in prices)
        assert least <= entry["evaluations"] <= most, probe
        known = probe in {"denoising", "samples", "typicality", "reach", "likelihood", "relearning", "noise_probe"}
        assert (least == most) is known, probe
        assert sum(n for (_, name), n in found.samples.items() if name == probe) == entry["samples"], probe


@pytest.mark.parametrize("name", INVERTERS)
def test_inverters_say_what_they_ask(name: str, diffusion: Diffusion) -> None:
    inverter, steps = INVERTERS[name], diffusion.schedule.ddim_steps(5)
    latents = diffusion.draw_seeds([torch.Generator().manual_seed(i) for i in range(2)])
    predict = BlockwisePredictor(
        diffusion, diffusion.encode_prompts(["a", "b"]), diffusion.encode_prompts([""]), 1.0, 2
    )
    ways: Sequence[tuple[Callable[[], object], tuple[int, float]]] = [
        (lambda: inverter.sample(predict, latents, steps), inverter.sampling(steps)),
        (lambda: kept.append(inverter(predict, latents, steps)), inverter.inverting(steps)),
        (lambda: inverter.regenerate(predict, kept[0], steps), inverter.regenerating(steps)),
    ]
    kept: list[object] = []
    for way, (least, most) in ways:
        predict.tally.evaluations = 0
        with torch.no_grad():
            way()
        assert 2 * least <= predict.tally.evaluations <= 2 * most
        if not isinstance(inverter, FixedPoint | BELM | NullText) or inverter.faithful:
            assert least == most


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_outline_weighs_what_the_model_weighs(
    dtype: Literal["float32", "float16", "bfloat16"], tiny: Path, tmp_path: Path
) -> None:
    model = Diffusion(str(tiny), torch_dtype=dtype)
    without = tmp_path / "without"
    shutil.copytree(tiny, without, ignore=shutil.ignore_patterns("*.safetensors"))
    outline = Outline(str(without), torch_dtype=dtype)
    assert parts(outline) == parts(model)
    assert outline.latent_shape == model.latent_shape
    assert all(tensor.is_meta for tensor in outline.state_dict().values())


def test_the_command_prints_it_without_weights(
    arguments: Arguments, calm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = tmp_path / "without"
    shutil.copytree(calm, without, ignore=shutil.ignore_patterns("*.safetensors"))
    options = [x for x in arguments(tmp_path / "run", f"--model.diffusion.base={without}") if "classifier" not in x]
    main(["plan", *options[1:], "--model.judge.classifier=nowhere"])
    said = capsys.readouterr().out
    assert "this fits an accelerator of 80 GB" in said
    assert next(line.split() for line in said.splitlines() if line.startswith("samples")) == [
        "samples", "prompted", "2", "16", "16",
    ]  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_plan_refuses_what_the_audit_would(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="the probe reach needs the seeds"):
        main(["plan", *arguments(tmp_path, "--model.probes=[{class_path: Reach}]")[1:]])
    with pytest.raises(SystemExit, match="ESD is not for predict: run it with lit-memories fit"):
        main(["plan", "--config=recipes/pictograms/erase/esd.yaml"])


def test_a_model_larger_than_any_is_not_outlined(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vast"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "unet/config.json").read_text())
    config["block_out_channels"] = [1 << 19] * len(config["block_out_channels"])
    (folder / "unet/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="describes a model that is larger than any"):
        Outline(str(folder))


def test_a_footprint_is_what_lives_at_a_time() -> None:
    before = torch.empty(1000, device="meta")

    def three() -> Tensor:
        x = before.view(10, 100) + 1  # 4000 bytes more
        return (x * 2).sum()  # 8000 with the first, which goes

    assert footprint(three) == 8004
    assert footprint(lambda: before.view(10, 100).t()) == 0
    held = footprint(
        lambda: torch.nn.functional.scaled_dot_product_attention(*(torch.empty(1, 2, 512, 8, device="meta"),) * 3)
    )
    assert held == 2 * 512 * 8 * 4 * 2, "the inputs, and as much of a result"


def test_gradients_and_guidance_take_more(tiny: Path) -> None:
    concept = Concept("umbrella", "object", ["umbrella"], ["a star"], anchor="star")
    audit = ConceptAudit(Outline(str(tiny)), FixedPoint(), concept, [Likelihood(), Samples(3.0)], block_size=2)
    found = {call.name: call for call in calls(audit, [1.0, 3.0])}
    assert found["network"].rows == 4
    assert found["network, with gradients"].rows == 2
    assert found["network, with gradients"].size > found["network"].size
    alone = {call.name: call for call in calls(audit, [1.0])}
    assert found["network"].size > 1.5 * alone["network"].size


def test_a_probe_of_others_has_a_price_that_is_not_known() -> None:
    class Other(Probe):
        question, numbers = "?", ()

        def __call__(self, group: Group) -> Answers:
            return Answers({})

    assert Other().price(None) == Price(0, float("inf"))  # type: ignore[arg-type]


def test_an_inverter_of_others_too(diffusion: Diffusion) -> None:
    class Other(DDIMInversion):
        inverting = Inverter.inverting

    assert Other().inverting(diffusion.schedule.ddim_steps(3)) == (3, float("inf"))


def test_a_guard_that_asks_a_third_time_costs_a_third_evaluation(arguments: Arguments, tmp_path: Path) -> None:
    options = arguments(tmp_path, "--model.probes=[Samples]")
    guard = "--model.diffusion.guard={class_path: lit_memories.guards.sld.SLD, init_args: {concept: umbrella}}"
    plain, guarded = (planned(["plan", *options[1:], *more]) for more in ([], [guard]))
    costs = [{key: price.least for key, price in found.prices.items()} for found in (plain, guarded)]
    assert {key: 1.5 * cost for key, cost in costs[0].items()} == costs[1]
    assert sum(call.rows for call in guarded.calls) > sum(call.rows for call in plain.calls)

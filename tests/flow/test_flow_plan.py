"""Plans of flow models: the released ones by their configurations, and what tiny ones are really asked."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lit_memories.audit.concept import ConceptAudit
from lit_memories.audit.group import SampleGroup
from lit_memories.concept import Concept
from lit_memories.data.samples import Sample
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.probes import Denoising, Known, Samples
from lit_memories.probes.prices import Terms
from lit_memories.tools.outlines import Outline, calls, parts

COUNTS = {
    "sd35-medium": {"transformer": 2.470, "text_encoder": 0.124, "text_encoder_2": 0.695, "text_encoder_3": 4.762},
    "flux-dev": {"transformer": 11.901, "text_encoder": 0.123, "text_encoder_2": 4.762},
}
"""Billions of numbers in the released files."""


@pytest.mark.parametrize("name", COUNTS)
def test_released_models_have_their_numbers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from flow_shapes import write

    model = Outline(str(write(name, tmp_path / name)), torch_dtype="bfloat16")
    found = {part.name: part for part in parts(model)}
    for part, billions in COUNTS[name].items():
        assert found[part].count / 1e9 == pytest.approx(billions, abs=5e-4)
    assert model.latent_shape == (16, 128, 128)


@pytest.mark.parametrize("name", ["sd3", "sd3-without-t5", "flux-dev", "flux-schnell"])
def test_outlines_of_flows_weigh_what_they_weigh(name: str, flows: dict[str, Path]) -> None:
    for dtype in ("float16", "bfloat16"):
        model = Diffusion(str(flows[name]), torch_dtype=dtype)
        assert parts(Outline(str(flows[name]), torch_dtype=dtype)) == parts(model)
        assert {str(parameter.dtype) for parameter in model.network.parameters()} == {f"torch.{dtype}"}


@pytest.mark.parametrize(("name", "guided"), [("sd3-without-t5", 2), ("flux-dev", 1)])
def test_a_flow_is_asked_what_is_said(name: str, guided: int, flows: dict[str, Path], van_gogh: Concept) -> None:
    """Guidance that is an input of the model costs nothing."""
    audit = ConceptAudit(
        Diffusion.from_pretrained(flows[name], image_size=32), FixedPoint(3), van_gogh, [Denoising(3), Samples(3.5)],
        num_inference_steps=3, guidance_scale=2.0, block_size=2,
    )  # fmt: skip
    audit.trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    schedule = audit.diffusion.schedule
    terms = Terms("concept", audit.inverter, audit.steps, schedule, audit.diffusion.evaluations, 2.0)
    image = torch.rand(3, *audit.image_size, generator=torch.Generator().manual_seed(0))
    samples = [Sample("concept", i, f"{i}", "a painting", image=image) for i in range(3)]
    for probe in (Denoising(3), Samples(3.5), Known()):
        group = SampleGroup(audit, samples)
        with torch.no_grad():
            probe(group)
        price = probe.price(terms)
        assert 3 * price.least <= (spent := group.spent()) <= 3 * price.most
        if not isinstance(probe, Known):
            assert spent == 3 * price.most
    assert Samples(3.5).price(terms).least == 3 * guided
    network = next(call for call in calls(audit_of(audit, flows[name]), [3.5]) if call.name == "network")
    assert network.rows == 2 * guided
    assert network.size > 0


def audit_of(audit: ConceptAudit, folder: Path) -> ConceptAudit:
    return ConceptAudit(
        Outline(str(folder), image_size=32), audit.inverter, audit.concept, [Denoising(3)], block_size=2
    )

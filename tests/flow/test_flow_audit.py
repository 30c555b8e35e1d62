"""Audits of a flow: every probe, attacks, the same records in any company."""

import json
from pathlib import Path

import pytest
import torch

from lit_memories.cli import main
from lit_memories.runs import Run, read_run
from lit_memories.worlds.fresh import flow_pipeline
from lit_memories.worlds.pictograms import GRAMMAR

ROOT = Path(__file__).parents[2]
ATTACKS = "lit_memories.attacks"
PROBES = [
    {"class_path": "lit_memories.probes.denoising.Denoising", "init_args": {"levels": 3}},
    {"class_path": "lit_memories.probes.samples.Samples", "init_args": {"guidance_scale": 3.0}},
    {"class_path": "lit_memories.probes.seed.Seed"},
    {"class_path": "lit_memories.probes.typicality.Typicality"},
    {"class_path": "lit_memories.probes.known.Known"},
    {"class_path": "lit_memories.probes.likelihood.Likelihood"},
    {"class_path": "lit_memories.probes.reach.Reach", "init_args": {"directions": 1}},
    {
        "class_path": "lit_memories.probes.relearning.Relearning",
        "init_args": {"lesson": 2, "steps": 2, "rank": None, "limit": 4},
    },
    {"class_path": f"{ATTACKS}.plain.Plain", "init_args": {"draws": 2}},
    {"class_path": f"{ATTACKS}.noise_probe.NoiseProbe", "init_args": {"etas": [1.0], "scales": [1.0, 1.1]}},
    {"class_path": f"{ATTACKS}.image_prompt.ImagePrompt", "init_args": {"strengths": [0.9, 0.4]}},
    {
        "class_path": f"{ATTACKS}.unlearn_diff_atk.UnlearnDiffAtk",
        "init_args": {"tokens": 2, "timesteps": 1, "steps": 2, "limit": 2},
    },
    {
        "class_path": f"{ATTACKS}.textual_inversion.TextualInversion",
        "init_args": {"lesson": 2, "steps": [2], "limit": 4},
    },
    {"class_path": f"{ATTACKS}.inpainting.Inpainting", "init_args": {"holes": [0.5]}},
]


@pytest.fixture(scope="module")
def flow(tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random pipeline of the flow pictogram model's classes."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("flow") / "pipeline"
    pipeline = flow_pipeline(GRAMMAR, tiny_autoencoder, 32, 2, 32)
    for parameter in pipeline.transformer.parameters():  # else it would predict nothing but zeros
        parameter.data += 0.02 * torch.randn(parameter.shape)
    pipeline.save_pretrained(folder)
    return folder


def audited(flow: Path, classifier: Path, folder: Path, *more: str) -> Run:
    main(
        [
            "predict",
            f"--config={ROOT}/recipes/pictograms/audit/umbrella.yaml",
            f"--model.diffusion.base={flow}",
            f"--model.judge.classifier={classifier}",
            f"--model.probes={json.dumps(PROBES)}",
            "--model.num_inference_steps=4",
            "--data.concept_images.limit=5",
            "--data.reference_images.limit=5",
            "--data.known=3",
            "--data.prompted=2",
            f"--trainer.default_root_dir={folder}",
            *more,
        ]
    )
    return read_run(folder)


@pytest.fixture(scope="module")
def run(flow: Path, tiny_classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return audited(flow, tiny_classifier, tmp_path_factory.mktemp("audit") / "run")


def test_every_probe_answers(run: Run) -> None:
    assert run.info.complete
    assert not run.gaps
    concept = run.of("concept", "denoising")
    assert len(concept) == 5
    for path in (
        "denoising.surprise",
        "seed.nll",
        "likelihood.log_likelihood",
        "plain.success",
        "image_prompt.success",
    ):
        found = [record.number(path) for record in run.holding("concept", path).values()]
        assert found, path
        assert torch.tensor(found, dtype=torch.float64).isfinite().all(), path


def test_known_seeds_are_found(run: Run) -> None:
    for record in run.of("known", "known"):
        assert record.flags == {}
        assert record.number("known.seed_error") < 1e-3
        assert abs(record.number("known.nll_bias")) < 0.5


def test_the_schedule_is_in_the_settings(run: Run) -> None:
    assert run.info.settings["schedule"]["prediction_type"] == "flow_prediction"
    assert run.info.settings["schedule"]["shift"] == 1.0


def test_records_are_the_same_in_other_company(run: Run, flow: Path, tiny_classifier: Path, tmp_path: Path) -> None:
    audited(flow, tiny_classifier, tmp_path / "run", "--data.batch_size=16")
    assert (tmp_path / "run/records.jsonl").read_bytes() == (run.folder / "records.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("inverter", "said"),
    [
        ("{class_path: lit_memories.inverters.belm.BELM}", "BELM divides by the share of signal"),
        ("{class_path: lit_memories.inverters.renoise.ReNoise, init_args: {faithful: true}}", "ReNoise regularises"),
    ],
)
def test_inverters_that_a_flow_has_not_are_refused(
    flow: Path, tiny_classifier: Path, tmp_path: Path, inverter: str, said: str
) -> None:
    with pytest.raises(SystemExit, match=said):
        audited(flow, tiny_classifier, tmp_path / "run", f"--model.inverter={inverter}")
    assert not (tmp_path / "run").exists()

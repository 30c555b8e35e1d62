"""Nothing that changes a result is outside the hash: every input of a record is changed in turn."""

import copy
import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_errors import refused

from lit_memories.audit.base import Audit
from lit_memories.audit.concept import ConceptAudit
from lit_memories.audit.image import ImageAudit
from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.data.conditionings import Conditioning
from lit_memories.data.erasure import ErasureData
from lit_memories.data.samples import Sample
from lit_memories.diffusion import Diffusion
from lit_memories.identity import arguments_of, configuration_of
from lit_memories.inverters.decoder import DecoderInversion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.ops.schedule import BetaSchedule
from lit_memories.probes import PROBES, Seed
from lit_memories.runs import RunInfo
from lit_memories.speed import Speed
from lit_memories.statistics.pairing import compare
from lit_memories.storage.schedules import noise_schedule
from lit_memories.worlds.judge import WorldJudge

UMBRELLA = Concept("umbrella", "object", ["an umbrella"], anchor="clover", factors={"object": "umbrella"})
SHARED: dict[str, Any] = {
    "inverter": FixedPoint(tolerance=0.5),
    "judge": None,
    "num_inference_steps": 5,
    "guidance_scale": 2.0,
    "block_size": 3,
    "seed": 1,
}
CHANGED: dict[type[Audit], dict[str, Any]] = {
    ConceptAudit: SHARED | {"posterior_seed": 42},
    ImageAudit: SHARED | {"decoder": DecoderInversion(max_passes=7), "reencode": True},
}
"""Another value for each argument that is a setting."""
TRAINER = SimpleNamespace(precision="32-true", default_root_dir="run")


@pytest.fixture
def judge(tiny_classifier: Path) -> WorldJudge:
    return WorldJudge(tiny_classifier)


def made(kind: type[Audit], diffusion: Diffusion, concept: Concept = UMBRELLA, **options: Any) -> Audit:
    audit = kind(diffusion, options.pop("inverter", FixedPoint()), concept, **options)
    audit.trainer = TRAINER
    return audit


def hashed(audit: Audit) -> str:
    """What all numbers depend on: those that every probe shares, and the probes' own."""
    audit.open_run({}, {})
    return audit.info.settings_hash + json.dumps(audit.info.probes)


@pytest.mark.parametrize("kind", CHANGED)
def test_every_argument_is_a_setting_or_declared_to_be_none(
    kind: type[Audit], diffusion: Diffusion, judge: WorldJudge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    of_probe = {"decoder", "reencode"} if kind is ImageAudit else set()
    counted = arguments_of(kind) - kind.OUTSIDE | of_probe
    assert set(CHANGED[kind]) == counted, "a new argument needs a value here"
    hashes = [hashed(made(kind, diffusion, judge=judge))]
    for name, value in CHANGED[kind].items():
        hashes.append(hashed(made(kind, diffusion, **{"judge": judge, name: value})))
    assert len(set(hashes)) == len(hashes)
    outside: dict[str, Any] = {"name": "other", "role": "control", "keep_images": 0}
    outside |= {"cache": Path("elsewhere")} if kind is ImageAudit else {}
    assert set(outside) | {"diffusion", "concept", "probes"} | of_probe == kind.OUTSIDE
    assert hashed(made(kind, diffusion, judge=judge, **outside)) == hashes[0]


OPTIONS: dict[str, dict[str, Any]] = {
    "denoising": {"levels": 5, "noises": 1, "empty": False},
    "likelihood": {"probes": 2},
    "reach": {"directions": 3},
    "samples": {"guidance_scale": 2.0},
    "relearning": {"lesson": 4, "steps": 32, "rank": 2, "lr": 0.1, "batch_size": 4, "levels": 5, "noises": 4}
    | {"draw": False, "guidance_scale": 2.0},
}
"""Another value for each option of a probe."""


@pytest.mark.parametrize("name", sorted(set(PROBES) - {"memories", "utility"}))  # the latter: test_utility.py
def test_every_option_of_a_probe_is_its_own_setting(
    name: str, diffusion: Diffusion, judge: WorldJudge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It changes the settings of its own numbers, and neither those of others nor any key."""
    monkeypatch.chdir(tmp_path)
    kind, others = PROBES[name], [] if name == "seed" else [Seed()]
    counted = inspect.signature(kind).parameters.keys() - {"limit"}  # no number depends on how many are asked
    assert set(OPTIONS.get(name, {})) == counted, "a new option needs a value here"

    def opened(**options: Any) -> Audit:
        audit = made(ConceptAudit, diffusion, judge=judge, probes=[kind(**options), *others])
        audit.open_run({}, {})
        return audit

    usual = opened().info
    for option, value in OPTIONS.get(name, {}).items():
        changed = opened(**{option: value}).info
        assert changed.settings_hash == usual.settings_hash
        assert changed.probes[name]["settings"] != usual.probes[name]["settings"]
        assert changed.probes.get("seed") == usual.probes.get("seed") or name == "seed"


SCHEDULERS: list[dict[str, Any]] = [
    {"beta_start": 0.001},
    {"beta_end": 0.013},
    {"beta_schedule": "linear"},
    {"trained_betas": [0.001] * 1000},
    {"num_train_timesteps": 900},
    {"set_alpha_to_one": True},
    {"timestep_spacing": "trailing"},
    {"steps_offset": 0},
    {"prediction_type": "v_prediction"},
]


def test_every_setting_of_a_scheduler_that_is_used_counts(
    diffusion: Diffusion, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False}
    usual |= {"steps_offset": 1, "clip_sample": False, "num_train_timesteps": 1000, "_class_name": "DDIMScheduler"}
    hashes = []
    for change in ({}, *SCHEDULERS):
        diffusion.schedule = noise_schedule(usual | change)
        hashes.append(hashed(made(ConceptAudit, diffusion)))
    assert len(set(hashes)) == len(hashes)


def test_every_field_of_a_schedule_counts(diffusion: Diffusion, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    usual = diffusion.schedule
    one_bit = usual.alphas_cumprod.clone()
    one_bit[500] = torch.nextafter(one_bit[500], torch.tensor(0.0, dtype=one_bit.dtype))
    changed = {
        "alphas_cumprod": one_bit,
        "final_alpha_cumprod": usual.final_alpha_cumprod - 1e-12,
        "timestep_spacing": "linspace",
        "steps_offset": usual.steps_offset + 1,
        "prediction_type": "sample",
    }
    assert set(changed) == {entry.name for entry in fields(BetaSchedule)}
    hashes = [hashed(made(ConceptAudit, diffusion))]
    for name, value in changed.items():
        diffusion.schedule = replace(usual, **{name: value})
        hashes.append(hashed(made(ConceptAudit, diffusion)))
    assert len(set(hashes)) == len(hashes)


def scaled(diffusion: Diffusion) -> None:
    diffusion.vae.register_to_config(scaling_factor=0.7)


def shifted(diffusion: Diffusion) -> None:
    diffusion.vae.register_to_config(shift_factor=0.1)


def other_activation(diffusion: Diffusion) -> None:
    diffusion.vae.register_to_config(act_fn="gelu")


def other_decoder(diffusion: Diffusion) -> None:
    diffusion.vae.decoder.conv_out.bias.data.add_(1e-6)


def in_few_bits(diffusion: Diffusion) -> None:
    diffusion.unet.bfloat16()


def faster(diffusion: Diffusion) -> None:
    diffusion.speed = Speed(channels_last=True)


@pytest.mark.parametrize("change", [scaled, shifted, other_activation, other_decoder, in_few_bits, faster])
def test_what_models_must_share_is_a_setting(
    change: Callable[[Diffusion], None], diffusion: Diffusion, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = hashed(made(ConceptAudit, diffusion))
    change(diffusion)
    assert hashed(made(ConceptAudit, diffusion)) != before


def test_precision_of_the_process_is_a_setting(diffusion: Diffusion, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    before = hashed(made(ConceptAudit, diffusion))
    monkeypatch.setattr(TRAINER, "precision", "bf16-mixed")
    assert hashed(made(ConceptAudit, diffusion)) != before
    monkeypatch.setattr(TRAINER, "precision", "32-true")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert hashed(made(ConceptAudit, diffusion)) != before


def test_what_a_judge_looks_for_is_a_setting(
    diffusion: Diffusion, judge: WorldJudge, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    others = [replace(UMBRELLA, factors={"object": "clover"}), replace(UMBRELLA, anchor="star")]
    hashes = [hashed(made(ConceptAudit, diffusion, concept, judge=judge)) for concept in (UMBRELLA, *others)]
    assert hashes[1] != hashes[0]
    assert hashes[2] == hashes[0], "this judge does not look at anchors"


def weights(diffusion: Diffusion) -> None:
    diffusion.unet.conv_in.bias.data.add_(1e-6)


def embedding(diffusion: Diffusion) -> None:
    diffusion.unet.register_to_config(flip_sin_to_cos=False)


def heads(diffusion: Diffusion) -> None:
    diffusion.text_encoder.config.num_attention_heads = 2


def window(diffusion: Diffusion) -> None:
    diffusion.tokenizer.model_max_length = 9


def padding(diffusion: Diffusion) -> None:
    diffusion.tokenizer.pad_token = diffusion.tokenizer.bos_token


@pytest.mark.parametrize("change", [weights, embedding, heads, window, padding])
def test_what_makes_a_model_another_one_is_in_its_description(
    change: Callable[[Diffusion], None], tiny: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Two runs may differ in it, one folder may not."""
    monkeypatch.chdir(tmp_path)
    diffusion = Diffusion.from_pretrained(tiny)
    audit = made(ConceptAudit, diffusion)
    before = hashed(audit), audit.info.comparable()
    change(diffusion)
    after = hashed(audit), audit.info.comparable()
    assert after[0] == before[0], "models of different weights pair"
    assert after[1] != before[1]


def test_a_call_leaves_a_models_description_as_it_was(diffusion: Diffusion) -> None:
    before = configuration_of(diffusion)
    diffusion.encode_prompts(["a red umbrella"])
    diffusion.exceeds_window("a " * 100)
    assert configuration_of(diffusion) == before


def test_a_sample_is_keyed_by_all_an_audit_sees_of_it() -> None:
    def named(text: str, concept: Concept = UMBRELLA, caption: str = "a red umbrella") -> str:
        rows = SimpleNamespace(samples=[Sample("concept", 0, "content", caption), Sample("concept", 1, "x", "a star")])
        return Conditioning.parse(text).all(rows, concept)[0].name

    names = [
        Sample("concept", 0, "content", "a red umbrella").name,
        Sample("concept", 0, "other pixels or caption", "a red umbrella").name,
        Sample("reference", 0, "content", "a red umbrella").name,
        named("empty"),
        named("anchor"),
        named("anchor", replace(UMBRELLA, anchor="star")),
        named("own@2"),
        named("own@3"),
        named("shuffled"),
    ]
    assert len(set(names)) == len(names)


def changed_config(base: Path, part: str, **entries: Any) -> None:
    file = base / part
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.slow
def test_a_configuration_changed_in_place_is_another_audit(
    calm: Path, undisturbed: Path, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(calm, base)
    options = (f"--model.diffusion.base={base}", "--data.known=1", "--data.prompted=0")
    main(arguments(run, *options))
    for part, entries, named in (
        ("scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "settings.schedule.alphas_cumprod"),
        ("scheduler/scheduler_config.json", {"set_alpha_to_one": True}, "settings.schedule.final_alpha_cumprod"),
        ("vae/config.json", {"scaling_factor": 2.0}, "settings.vae.scaling_factor: 3.0 | 2.0"),
        ("unet/config.json", {"flip_sin_to_cos": False}, "model.configuration.unet"),
        ("text_encoder/config.json", {"hidden_act": "gelu"}, "model.configuration.text_encoder"),
    ):
        before = (base / part).read_bytes()
        changed_config(base, part, **entries)
        assert named in refused(arguments(run, *options)), part
        (base / part).write_bytes(before)
    changed_config(base, "vae/config.json", scaling_factor=2.0)
    other = (*options, "--model.role=erased", "--model.name=other")
    main(arguments(tmp_path / "other", *other))
    assert RunInfo.load(tmp_path / "other").model["fingerprint"] == RunInfo.load(undisturbed).model["fingerprint"]
    with pytest.raises(ValueError, match=r"settings differ: .*vae\.scaling_factor: 3\.0 \| 2\.0"):
        compare([run, tmp_path / "other"])


def test_cached_latents_are_of_one_schedule_and_one_scale(diffusion: Diffusion, tmp_path: Path) -> None:
    """What erasers see is kept between runs, too: under all it depends on."""

    def latents(changed: Diffusion, seed: int = 0) -> torch.Tensor:
        data = ErasureData(count=1, num_inference_steps=2, cache=tmp_path, seed=seed)
        eraser = SimpleNamespace(diffusion=changed, concept=UMBRELLA, forget_images="concept", retain_images=False)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(lightning_module=eraser, strategy=strategy)
        return data._sets()["forget_set"].latents

    usual = latents(diffusion)
    assert torch.equal(latents(diffusion), usual)
    assert len(list(tmp_path.iterdir())) == 1
    other = copy.copy(diffusion)
    other.schedule = replace(diffusion.schedule, alphas_cumprod=diffusion.schedule.alphas_cumprod * 0.99)
    assert not torch.equal(latents(other), usual)
    assert len(list(tmp_path.iterdir())) == 2

"""ESD: its target, its teacher, and what training may and may not change."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import UMBRELLA, Watch, moved, noisy, trainer
from torch import Generator, Tensor

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasers import rollout as rollout_module
from lit_memories.erasers.base import draw
from lit_memories.erasers.esd import ESD
from lit_memories.erasers.result import check_result
from lit_memories.erasure import Erasure
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.rollout import rollout
from lit_memories.ops.select import PREDICATES, Selection
from lit_memories.ops.transforms import Quantised

ROOT = Path(__file__).parents[2]


def esd(diffusion: Diffusion, **options: Any) -> ESD:
    return ESD(
        diffusion, UMBRELLA, **({"lr": 1e-3, "batch_size": 2, "num_inference_steps": 4, "probe_size": 2} | options)
    )


@torch.no_grad()
def test_the_target_is_equation_7(diffusion: Diffusion) -> None:
    x, prompts = noisy(diffusion), ["umbrella", "a red umbrella"]
    empty = diffusion.predict_noise(x, 500, diffusion.encode_prompts(["", ""]))
    concept = diffusion.predict_noise(x, 500, diffusion.encode_prompts(prompts))
    for eta in (0.0, 1.0, 2.5):
        target = esd(diffusion, eta=eta).probe_target(x, 500, prompts)
        torch.testing.assert_close(target, empty - eta * (concept - empty))


@torch.no_grad()
def test_the_target_with_a_direction_is_the_official_erase_from(diffusion: Diffusion) -> None:
    x, wide = noisy(diffusion), ["a red umbrella"] * 2
    empty, concept, base = (
        diffusion.predict_noise(x, 500, diffusion.encode_prompts([prompt] * 2)) for prompt in ("", "umbrella", wide[0])
    )
    target = esd(diffusion, direction="phrase", eta=1.5).probe_target(x, 500, wide)
    torch.testing.assert_close(target, base - 1.5 * (concept - empty))


@torch.no_grad()
def test_eta_one_is_the_official_default_of_two(diffusion: Diffusion) -> None:
    """The code of 2025 always uses the erase-from form, with the concept itself as what it is erased from."""
    x, prompts = noisy(diffusion), ["umbrella"] * 2
    official = esd(diffusion, direction="phrase", eta=2.0).probe_target(x, 500, prompts)
    torch.testing.assert_close(esd(diffusion, eta=1.0).probe_target(x, 500, prompts), official)


def test_the_teacher_is_the_original_to_the_bit(diffusion: Diffusion, tiny: Path) -> None:
    original = Diffusion.from_pretrained(tiny)
    method = moved(esd(diffusion))
    x, embeds = noisy(diffusion), diffusion.encode_prompts(["umbrella"] * 2)
    with torch.no_grad():
        before, truth = diffusion.predict_noise(x, 500, embeds), original.predict_noise(x, 500, embeds)
    student = {name: parameter.detach().clone() for name, parameter in method.selected.items()}
    with method.teacher():
        assert torch.equal(diffusion.predict_noise(x, 500, embeds), truth)
        assert not diffusion.predict_noise(x, 500, embeds).requires_grad
    assert all(torch.equal(method.selected[name], tensor) for name, tensor in student.items())
    assert torch.equal(diffusion.predict_noise(x, 500, embeds).detach(), before)
    assert not torch.equal(before, truth), "the control"


def test_the_teacher_leaves_also_after_an_error(diffusion: Diffusion) -> None:
    method = moved(esd(diffusion))
    student = {name: parameter.detach().clone() for name, parameter in method.selected.items()}

    def fail() -> None:
        with method.teacher():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(torch.equal(method.selected[name], tensor) for name, tensor in student.items())


def test_the_loss_is_the_distance_to_the_target(diffusion: Diffusion) -> None:
    method = moved(esd(diffusion))
    batch = {"prompts": UMBRELLA.prompts, "retain": UMBRELLA.retain}
    loss = method.erase_loss(batch)
    generator = method.generator()
    prompts = draw(UMBRELLA.prompts, 2, generator)
    x, timestep = method.noisy_latents(prompts, generator)
    with method.teacher():
        target = method.probe_target(x, timestep, prompts)
    predicted = diffusion.predict_noise(x, timestep, diffusion.encode_prompts(prompts))
    torch.testing.assert_close(loss, (predicted - target).square().mean())
    loss.backward()
    assert all(parameter.grad is not None for parameter in method.selected.values())
    others = [p for name, p in diffusion.named_parameters() if name not in method.selected]
    assert all(parameter.grad is None for parameter in others)


@torch.no_grad()
def test_teacher_and_student_walk_differently(diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both follow guidance 3 on the prompt; only the weights differ."""
    prompts = ["umbrella", "a red umbrella"]
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([3]))
    found = {}
    for who in ("teacher", "student"):
        method = moved(esd(Diffusion.from_pretrained(diffusion.base), rollout_with=who))
        found[who], timestep = method.noisy_latents(prompts, Generator().manual_seed(0))
        seeds = torch.randn(2, *diffusion.latent_shape, generator=Generator().manual_seed(0))
        model = Diffusion.from_pretrained(diffusion.base) if who == "teacher" else method.diffusion
        steps = model.schedule.ddim_steps(4)
        expected = rollout(model.predict_fn(model.encode_prompts(prompts), 3.0), seeds, steps[:3])
        torch.testing.assert_close(found[who], expected)
        assert timestep == steps[3].timestep
    assert not torch.allclose(found["teacher"], found["student"])


def levels(diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[tuple[int, int]]:
    """For many draws, the level the latents are at and the timestep given to the networks."""
    paths: list[Sequence[DDIMStep]] = []

    def record(predict: Any, latents: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
        paths.append(steps)
        return latents

    monkeypatch.setattr(rollout_module, "rollout", record)
    method = esd(diffusion, num_inference_steps=50, batch_size=1, **options)
    timesteps = [method.noisy_latents(["umbrella"], Generator().manual_seed(i))[1] for i in range(300)]
    alphas = method.diffusion.schedule.alphas_cumprod
    reached = []
    for path in paths:
        if not path:  # pure noise: the level the run starts from
            reached.append(method.diffusion.schedule.ddim_steps(50)[0].timestep)
        else:
            reached.append(int((alphas - path[-1].alpha_prev).abs().argmin()))
    return list(zip(reached, timesteps, strict=True))


def test_levels_match_in_the_corrected_form(diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = levels(diffusion, monkeypatch)
    assert all(reached == timestep for reached, timestep in pairs)
    assert {timestep for _, timestep in pairs} >= {981, 1}


def test_faithful_levels_are_cleaner_than_said(diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """39 to 58 levels; at the noisiest and the cleanest end the schedule itself ends."""
    pairs = levels(diffusion, monkeypatch, faithful=True)
    timesteps = [timestep for _, timestep in pairs]
    assert min(timesteps) < 40
    assert max(timesteps) > 960
    gaps = {timestep - reached for reached, timestep in pairs if 60 <= timestep < 940}
    assert min(gaps) >= 39
    assert max(gaps) <= 58
    assert len(gaps) > 15


@pytest.mark.parametrize("train", ["attn2", "attn2-kv", "attn1", "attn", "not-attn2", "not-time", "full"])
def test_only_what_is_selected_changes(train: Selection, diffusion: Diffusion, tiny: Path, tmp_path: Path) -> None:
    method = esd(diffusion, train=train)
    trainer(tmp_path, 2).fit(method)
    original = Diffusion.from_pretrained(tiny).state_dict()
    differs = {name for name, tensor in diffusion.state_dict().items() if not torch.equal(tensor, original[name])}
    _, matches = PREDICATES[train]
    names = {f"unet.{name}" for name, _ in diffusion.unet.named_parameters() if matches(name)}
    assert differs
    assert differs <= names
    if train in {"attn2", "attn2-kv"}:
        assert differs == names
    erasure = Erasure.load(tmp_path)
    assert set(erasure.tensors) == names
    assert all(torch.equal(tensor, diffusion.state_dict()[name]) for name, tensor in erasure.tensors.items())


def test_the_artefact_gives_the_trained_model(diffusion: Diffusion, tiny: Path, tmp_path: Path) -> None:
    method = esd(diffusion)
    trainer(tmp_path, 2).fit(method)
    again = Diffusion.from_pretrained(tiny, erasure=tmp_path)
    x, embeds = noisy(diffusion), diffusion.encode_prompts(["umbrella"] * 2)
    with torch.no_grad():
        assert torch.equal(again.predict_noise(x, 9, embeds), diffusion.predict_noise(x, 9, embeds))
    provenance = again.erasure.provenance
    assert provenance.method == "ESD"
    assert provenance.steps == 2
    assert provenance.concept == UMBRELLA.to_dict()
    assert provenance.base_fingerprint == Diffusion.from_pretrained(tiny).fingerprint
    assert provenance.settings == method.settings()
    assert {"train", "lr", "eta", "rollout_with", "faithful"} <= set(provenance.settings)


def test_the_probe_starts_at_one_and_falls(diffusion: Diffusion, tmp_path: Path) -> None:
    watch = Watch()
    run = trainer(tmp_path, 30, watch, limit_val_batches=1, val_check_interval=30, check_val_every_n_epoch=None)
    run.fit(esd(diffusion, lr=3e-3))
    start, end = watch.seen[0], watch.seen[-1]
    assert start["val/erase_ratio"] == 1
    assert start["val/retain_drift"] == 0
    assert end["val/erase_ratio"] < 0.9
    assert end["val/retain_drift"] > 0


def test_the_probe_of_an_untouched_model_is_still(diffusion: Diffusion, tmp_path: Path) -> None:
    """The control of the one above: without a learning rate nothing falls."""
    watch = Watch()
    run = trainer(tmp_path, 2, watch, limit_val_batches=1, val_check_interval=2, check_val_every_n_epoch=None)
    with pytest.raises(ValueError, match="training changed nothing"):
        run.fit(esd(diffusion, lr=0.0))
    assert watch.seen[-1]["val/erase_ratio"] == 1


def artefact(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("erasure.safetensors", "erasure.json")}


def command(folder: Path, tiny: Path, *more: str) -> list[str]:
    return [
        f"--config={ROOT / 'recipes/pictograms/erase/esd.yaml'}",
        f"--model.diffusion.base={tiny}",
        "--model.probe_size=2",
        "--model.batch_size=1",
        "--model.num_inference_steps=4",
        "--trainer.callbacks=[]",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.logger=false",
        f"--trainer.default_root_dir={folder}",
        *more,
    ]


KEEP = (
    "--trainer.enable_checkpointing=true",
    "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, "
    "init_args: {save_last: true, every_n_train_steps: 2, save_top_k: 0, dirpath: %s}}]",
)


def test_resumed_is_uninterrupted_and_so_twice_the_same(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = [option.replace("%s", str(tmp_path / "kept")) for option in KEEP]
    whole, half = tmp_path / "whole", tmp_path / "half"
    main(["fit", *command(whole, tiny, "--trainer.limit_train_batches=4")])
    assert f"the erasure is in {whole}; to audit it: lit-memories predict --config" in capsys.readouterr().out
    main(["fit", *command(half, tiny, "--trainer.max_steps=2", *keep)])
    last = tmp_path / "kept" / "last.ckpt"
    assert last.stat().st_size < 1.2 * sum(p.stat().st_size for p in (tiny / "unet").glob("*.safetensors"))
    resumed = ["--trainer.limit_train_batches=4", f"--ckpt_path={last}", *keep]
    main(["fit", *command(half, tiny, *resumed)])
    assert artefact(whole) == artefact(half)
    main(["fit", *command(tmp_path / "other", tiny, "--trainer.limit_train_batches=4", "--model.seed=1")])
    assert artefact(tmp_path / "other") != artefact(whole), "the control: another seed, another artefact"


def test_validate_looks_at_the_probe(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", *command(tmp_path, tiny)])
    assert "erase_ratio" in capsys.readouterr().out


def test_an_erased_model_is_not_erased_again(diffusion: Diffusion, tiny: Path, tmp_path: Path) -> None:
    trainer(tmp_path, 1).fit(esd(diffusion))
    erased = Diffusion.from_pretrained(tiny, erasure=tmp_path)
    with pytest.raises(ValueError, match="carries an erasure"):
        trainer(tmp_path / "again", 1).fit(esd(erased))
    with pytest.raises(ValueError, match="does not select"):
        esd(erased, train="attn1")
    rounded = Diffusion(str(tiny), transform=Quantised(8))
    with pytest.raises(ValueError, match="a transform or a guard already: erase from the base"):
        trainer(tmp_path / "rounded", 1).fit(esd(rounded))


def test_validating_an_erasure_measures_from_the_base(diffusion: Diffusion, tiny: Path, tmp_path: Path) -> None:
    trainer(tmp_path, 20).fit(esd(diffusion, lr=1e-3))
    (ratios,) = trainer(tmp_path / "probe", 1, limit_val_batches=1).validate(
        esd(Diffusion.from_pretrained(tiny, erasure=tmp_path))
    )
    assert ratios["val/erase_ratio"] < 0.95
    (untouched,) = trainer(tmp_path / "probe", 1, limit_val_batches=1).validate(esd(Diffusion.from_pretrained(tiny)))
    assert untouched["val/erase_ratio"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": 1e30}, r"training diverged: train/loss is (nan|inf) after step \d; lower lr"),
        ({"eta": 1e38}, r"training diverged: train/loss is inf after step \d; lower lr, or the option that multiplies"),
        ({"lr": 1e30, "steps": 1}, r"training diverged: unet\.\S+ holds 1e\+30, no weight is so large; lower lr"),
        (
            {"lr": 1e-9, "eta": 0.0, "steps": 1},
            "nothing was erased, so nothing is saved: what the model",
        ),
    ],
)
def test_a_training_in_vain_is_named(options: dict[str, Any], said: str, diffusion: Diffusion, tmp_path: Path) -> None:
    """It ended as if all were well but for the folder."""
    method = esd(diffusion, **options)
    with pytest.raises(ValueError, match=said):
        trainer(tmp_path, options.get("steps", 3)).fit(method)
    assert not (tmp_path / "erasure.safetensors").exists()


def test_a_result_with_nan_or_predictions_that_are_none_is_refused() -> None:
    before, weights = torch.ones(2, 3), {"unet.x": torch.ones(2)}
    for tensor, after, said in (
        (torch.tensor([1.0, float("nan")]), before, "unet.x holds NaN or infinity"),
        (torch.zeros(2), before / 0, "predicts NaN or infinity for umbrella"),
        (torch.zeros(2), before * (1 + 2e-7), "nothing was erased"),
        (torch.ones(2), before, "changed nothing"),
    ):
        with pytest.raises(ValueError, match=said):
            check_result({"unet.x": tensor}, weights, before, after, "umbrella")
    check_result({"unet.x": torch.zeros(2)}, weights, before, before * 1.01, "umbrella")


@pytest.mark.parametrize(("rate", "options"), [(0.0, {}), (1e-3, {"limit_train_batches": 0})])
def test_a_training_that_changed_nothing_leaves_nothing(
    rate: float, options: dict[str, Any], diffusion: Diffusion, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="training changed nothing"):
        trainer(tmp_path, 1, **options).fit(esd(diffusion, lr=rate))
    assert not (tmp_path / "erasure.safetensors").exists()


@pytest.mark.parametrize(("options", "named"), [({"eta": -1.0}, "eta"), ({"batch_size": 0}, "batch_size")])
def test_impossible_options_are_refused(options: dict[str, Any], named: str, diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match=named):
        esd(diffusion, **options)


def test_a_selection_that_matches_nothing_is_refused(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="unknown selection 'attn3'"):
        esd(diffusion, train="attn3")

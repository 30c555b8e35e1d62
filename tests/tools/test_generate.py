"""Pictures of a prompt list: those of diffusers' own pipeline, drawn once, each a function of its row."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Generator

from lit_memories.cli import main
from lit_memories.data.sources import ImageSource
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure, Provenance
from lit_memories.tools import generate as module

PROMPTS = ["a red umbrella", "a blue star, dotted style", "a green anchor", "a heart", "a yellow bell"]
HEADER = "case_number,prompt,evaluation_seed,evaluation_guidance"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A list in the layout of the paper's six; its guidance is not the one that is used."""
    return write(tmp_path / "list.csv", range(len(PROMPTS)))


def write(path: Path, cases: Sequence[int], guidance: float = 3.0) -> Path:
    lines = [f'{case},"{PROMPTS[case]}",{1000 + case},{guidance}' for case in cases]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def run(prompts: Path, base: Path, out: Path, *more: str) -> dict[str, np.ndarray]:
    main(["generate", str(prompts), f"--base={base}", f"--out={out}", "--num_inference_steps=4", *more])
    return {file.name: np.array(Image.open(file)) for file in sorted(out.glob("*.png"))}


def refused(*arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    message = str(stop.value)
    assert "\n" not in message
    return message


def reference(base: Path, scheduler: str, prediction: str = "epsilon", guidance: float = 7.5) -> list[np.ndarray]:
    """What diffusers' pipeline makes of the latents that the official code draws: one prompt at a time."""
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config
    levels = {name: config[name] for name in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")}
    if scheduler == "lms":
        pipeline.scheduler = LMSDiscreteScheduler(**levels, prediction_type=prediction)
    else:
        pipeline.scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    pictures = []
    for case, prompt in enumerate(PROMPTS):
        torch.manual_seed(1000 + case)
        latents = torch.randn(1, *Diffusion.from_pipeline(pipeline).latent_shape)
        options = {"num_inference_steps": 4, "guidance_scale": guidance, "output_type": "np"}
        (image,) = pipeline(prompt, latents=latents, **options).images
        pictures.append((image * 255).round().astype(np.uint8))
    return pictures


def assert_alike(pictures: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> None:
    """Up to one level of 255 in some pixels: batches of other sizes round otherwise."""
    for one, other in zip(pictures, others, strict=True):
        difference = np.abs(one.astype(int) - other.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("scheduler", ["lms", "ddim"])
def test_pictures_are_those_of_the_pipeline(scheduler: str, tiny: Path, prompts: Path, tmp_path: Path) -> None:
    pictures = run(prompts, tiny, tmp_path / "out", f"--scheduler={scheduler}", "--batch_size=2")
    assert list(pictures) == [f"{case}_0.png" for case in range(5)]
    assert_alike(list(pictures.values()), reference(tiny, scheduler))


def test_a_model_that_predicts_v_is_sampled_as_one(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    """LMS asks for noise between the training's timesteps, where the network's prediction is all there is."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    pipeline.save_pretrained(tmp_path / "v")
    pictures = run(prompts, tmp_path / "v", tmp_path / "out")
    assert_alike(list(pictures.values()), reference(tmp_path / "v", "lms", "v_prediction"))


def test_the_lists_own_guidance_can_be_used(tiny: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path / "list.csv", range(5), 1.0)
    plain = run(prompts, tiny, tmp_path / "plain")
    own = run(prompts, tiny, tmp_path / "own", "--use_row_guidance=true")
    assert_alike(list(own.values()), reference(tiny, "lms", guidance=1.0))
    assert any((one != other).any() for one, other in zip(plain.values(), own.values(), strict=True))
    prompts.write_text(HEADER.rsplit(",", 1)[0] + "\n3,a heart,5\n")
    assert "no guidance for case 3" in refused(prompts, tiny, tmp_path / "none", "--use_row_guidance=true")


def test_the_paper_s_latents_are_drawn(tiny: Path) -> None:
    """A generator of a picture's own gives the numbers that seeding the global one gave."""
    diffusion = Diffusion.from_pretrained(tiny)
    torch.manual_seed(69922)
    official = torch.randn(1, *diffusion.latent_shape)
    assert torch.equal(diffusion.draw_seeds([Generator().manual_seed(69922)]), official)


def test_a_picture_depends_on_its_row_alone(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    whole = run(prompts, tiny, tmp_path / "whole", "--batch_size=2")
    other = run(write(tmp_path / "turned.csv", [4, 1, 3]), tiny, tmp_path / "turned", "--batch_size=3")
    assert list(other) == ["1_0.png", "3_0.png", "4_0.png"]
    assert_alike(list(other.values()), [whole[name] for name in other])


def test_a_plain_list_is_drawn(tiny: Path, tmp_path: Path) -> None:
    """The number of a line is its picture's, and its seed."""
    (tmp_path / "list.txt").write_text(f"{PROMPTS[0]}\n{PROMPTS[1]}\n")
    plain = run(tmp_path / "list.txt", tiny, tmp_path / "plain")
    lines = [HEADER, *(f'{number},"{PROMPTS[number]}",{number},' for number in range(2))]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    table = run(tmp_path / "list.csv", tiny, tmp_path / "table")
    assert plain.keys() == table.keys() == {"0_0.png", "1_0.png"}
    assert all((plain[name] == table[name]).all() for name in plain)
    assert "nowhere.txt is not a file" in refused(tmp_path / "nowhere.txt", tiny, tmp_path / "out")


def test_the_folder_is_a_source_of_images(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    run(prompts, tiny, tmp_path / "out", "--batch_size=5")
    rows = ImageSource(str(tmp_path / "out")).load()
    assert rows["caption"] == PROMPTS
    assert [Path(row["image"]["path"]).name for row in rows] == [f"{case}_0.png" for case in range(5)]
    chosen = ImageSource(str(tmp_path / "out"), where={"case_number": 3}).load()
    assert chosen["caption"] == PROMPTS[3:4]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert lines[2] == {
        "file_name": "2_0.png", "caption": PROMPTS[2], "case_number": 2, "seed": 1002, "guidance_scale": 7.5
    }  # fmt: skip


def test_what_is_there_is_not_drawn_again(
    tiny: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after the second batch, then finished: the same files, and only the missing ones drawn."""
    whole = run(prompts, tiny, tmp_path / "whole", "--batch_size=1")
    out, drawn, sample = tmp_path / "out", [], module._sample

    class Killed(BaseException):
        pass

    def dying(diffusion: Diffusion, kind: str, count: int, rows: Sequence[object]) -> torch.Tensor:
        drawn.extend(row.case_number for row in rows)
        if len(drawn) == 3:
            raise Killed
        return sample(diffusion, kind, count, rows)

    monkeypatch.setattr(module, "_sample", dying)
    with pytest.raises(Killed):
        run(prompts, tiny, out, "--batch_size=1")
    (out / "2_0.png").write_bytes(b"half a picture that no metadata name")
    times = {file.name: file.stat().st_mtime_ns for file in out.glob("[01]_0.png")}
    pictures = run(prompts, tiny, out, "--batch_size=1")
    assert drawn == [0, 1, 2, 2, 3, 4]
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert all((pictures[name] == picture).all() for name, picture in whole.items())
    (out / "1_0.png").unlink()
    capsys.readouterr()
    run(prompts, tiny, out, "--batch_size=1")
    assert drawn[6:] == [1]
    assert "8 network evaluations" in capsys.readouterr().out
    run(prompts, tiny, out)
    assert "all of them from before" in capsys.readouterr().out
    assert not list(out.glob("*.part"))


def test_other_settings_and_other_rows_are_refused(tiny: Path, tiny_control: Path, tmp_path: Path) -> None:
    prompts, out = write(tmp_path / "list.csv", [0, 1]), tmp_path / "out"
    before = run(prompts, tiny, out)
    assert "num_inference_steps: 4 | 5" in refused(prompts, tiny, out, "--num_inference_steps=5")
    assert "scheduler: 'lms' | 'ddim'" in refused(prompts, tiny, out, "--scheduler=ddim")
    assert "base: " in refused(prompts, tiny_control, out)
    assert "guidance_scale: 7.5 | 2.0" in refused(prompts, tiny, out, "--guidance_scale=2")
    prompts.write_text(prompts.read_text().replace("1001", "1005"))
    assert "another case 1 (seed: 1001 | 1005)" in refused(prompts, tiny, out)
    assert list(run(write(prompts, [0, 1, 2]), tiny, out)) == [*before, "2_0.png"], "a longer list goes on"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "0_0.png").write_bytes(b"of somebody else")
    assert "holds files, but no settings.json" in refused(prompts, tiny, tmp_path / "mine")
    (out / "metadata.jsonl").write_text('{"case_number": "../../x"}\n')
    assert "metadata.jsonl is damaged" in refused(prompts, tiny, out)


def test_an_erased_model_draws_too(tiny: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path / "list.csv", [0])
    diffusion = Diffusion.from_pretrained(tiny)
    name, weight = next((n, p) for n, p in diffusion.named_parameters() if n.startswith("unet.") and p.dim() == 4)
    provenance = Provenance("ESD", {"name": "umbrella"}, str(tiny), None, diffusion.fingerprint, {}, 1, None, {})
    Erasure({name: weight.detach() * 0}, provenance).save(tmp_path / "erasure")
    plain = run(prompts, tiny, tmp_path / "plain")
    erased = run(prompts, tiny, tmp_path / "erased", f"--erasure={tmp_path / 'erasure'}")
    assert (plain["0_0.png"] != erased["0_0.png"]).any()


def test_a_guard_that_would_do_nothing_is_said_first(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    options = "--guard=pictograms/guard/sld", "--guidance_scale=1"
    assert "SLD acts on guidance, and guidance_scale 1 is none" in refused(prompts, tiny, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "named"),
    [("--batch_size=0", "batch_size (0)"), ("--num_inference_steps=1001", "num_inference_steps must be in 1..1000"),
     ("--device=cdua", "no device 'cdua' is there: choose auto, cpu, or cuda with a GPU"),
     ("--device=meta", "no device 'meta'"),
     ("--device=cuda:99", "no device 'cuda:99'"),
     ("--guidance_scale=1e400", "guidance_scale must be a finite number, got inf"),
     (f"--batch_size={10**30}", "batch_size must have 64 bits at most"),
     ("--num_inference_steps=0", "num_inference_steps (0)"),
     ("--guidance_scale=-1", "guidance_scale must lie between 0 and 100, got -1.0"), ("--base=nowhere", "nowhere")],
)  # fmt: skip
def test_what_cannot_be_is_said_first(option: str, named: str, tiny: Path, prompts: Path, tmp_path: Path) -> None:
    assert named in refused(prompts, tiny, tmp_path / "out", option)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("scheduler", "most"), [("lms", 1000), ("ddim", 999)])
def test_as_many_steps_as_the_model_was_trained_on_are_the_most(
    scheduler: str, most: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDIM begins at its offset, which is 1."""
    prompts, counts = write(tmp_path / "list.csv", [0]), []

    def counted(diffusion: Diffusion, kind: str, count: int, rows: Sequence[object]) -> torch.Tensor:
        sampler = module._sampler(kind, diffusion.scheduler_config)
        sampler.set_timesteps(count)
        counts.append((len(sampler.timesteps), float(sampler.timesteps.max())))
        return torch.zeros(1, *diffusion.latent_shape)

    monkeypatch.setattr(module, "_sample", counted)
    options = f"--scheduler={scheduler}", f"--num_inference_steps={most}"
    run(prompts, tiny, tmp_path / "most", *options)
    assert counts == [(most, 999)]
    options = f"--scheduler={scheduler}", f"--num_inference_steps={most + 1}"
    assert re.search(
        r"must be in 1\.\.1000|would begin at timestep 1000", refused(prompts, tiny, tmp_path / "o", *options)
    )
    assert not (tmp_path / "o").exists()

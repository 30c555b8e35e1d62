"""Draws the pictures of a prompt list, as the audit's paper had its images of a concept drawn."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler
from rich.console import Console
from rich.progress import track
from torch import Generator, Tensor

from lit_memories.data.gallery import Gallery
from lit_memories.data.presets import I2P, PromptList, PromptRow
from lit_memories.diffusion import Diffusion
from lit_memories.guards.base import Guard
from lit_memories.images import to_pil
from lit_memories.numbers import STRONGEST, check_range
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.ops.rollout import begun, rollout
from lit_memories.ops.schedule import BetaSchedule, ddim_timesteps
from lit_memories.terminal import printable

Sampler = Literal["lms", "ddim"]
NOISE_LEVELS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


@torch.no_grad()
def generate(
    prompts: str,
    base: str = "CompVis/stable-diffusion-v1-4",
    out: Path = Path("runs/generated"),
    erasure: Path | None = None,
    revision: str | None = None,
    scheduler: Sampler = "lms",
    num_inference_steps: int = 25,
    guidance_scale: float = 7.5,
    use_row_guidance: bool = False,
    batch_size: int = 4,
    device: str = "auto",
    guard: Guard | None = None,
) -> None:
    """Draw a picture for every prompt of a list; run again, it draws those that are missing.

    Defaults are the settings of the audit's official code. A picture is a function of its row, the model and the
    settings: latents come from its own seed, on the CPU. Of another batch size only rounding differs, which may move a
    pixel by one of 255 levels. The folder is one that an `ImageSource` reads, with ``NUMBER_0.png`` and
    ``metadata.jsonl``; ``settings.json`` says how it was made.

    Args:
        prompts: CSV file with case_number, prompt and evaluation_seed; or a text file (.txt) with one prompt a line,
            whose number, from 0, is its seed; or a hub id with the columns of AIML-TUDA/i2p.
        base: hub id or folder of the model.
        out: folder for the pictures.
        erasure: folder of an erasure, to see what an erased model draws.
        revision: git revision of the base.
        scheduler: ``lms``, diffusers' linear multistep sampler on evenly spaced timesteps; or ``ddim``, spaced as the
            model's own settings say.
        num_inference_steps: steps of it, no more than the model was trained on.
        guidance_scale: of every picture.
        use_row_guidance: take the list's own guidance instead (evaluation_guidance), which the official code ignores.
        batch_size: pictures drawn at once.
        device: ``cpu``, ``cuda``, …; ``auto`` is a GPU if there is one.
        guard: what keeps a concept out of the pictures at inference, such as recipes/sd14/guard/sld.yaml.

    Raises:
        ValueError: if a number is out of range, there is no such device, a row is damaged, a guard would do nothing,
            or the folder holds other pictures; says what differs.
        FileNotFoundError: if the list or the model is not there.
    """
    if batch_size < 1 or num_inference_steps < 1:
        raise ValueError(
            f"batch_size ({batch_size}) and num_inference_steps ({num_inference_steps}) must be at least 1"
        )
    check_range("guidance_scale", guidance_scale, 0, STRONGEST)
    where = _device(device)
    rows = _rows(prompts, None if use_row_guidance else guidance_scale)
    if guard is not None and guard.acts_on == "guidance" and all(row.guidance_scale == 1 for row in rows):
        raise ValueError(
            f"{type(guard).__name__} acts on guidance, and guidance_scale 1 is none: it would do nothing; leave "
            "--guard out, or take another --guidance_scale"
        )
    diffusion = Diffusion(base, erasure, revision, guard=guard)
    _check_steps(diffusion, scheduler, num_inference_steps)
    diffusion.to(where)
    settings = {
        "base": base,
        "revision": revision,
        "erasure": None if erasure is None else str(erasure),
        "model": diffusion.weights_fingerprint(),
        "vae": fingerprint(diffusion.vae),
        "scheduler": scheduler,
        "num_inference_steps": num_inference_steps,
    } | ({} if guard is None else {"guard": guard.settings()})
    gallery = Gallery(out, settings)
    left = gallery.missing(rows)
    gallery.open()
    if isinstance(diffusion.schedule, BetaSchedule):  # predictions as they are: the sampler converts them
        diffusion.schedule = replace(diffusion.schedule, prediction_type="epsilon")
    evaluations, start = 0, time.perf_counter()
    for batch in track(list(_batches(left, batch_size)), "drawing", transient=True):
        images = diffusion.decode_latents(_sample(diffusion, scheduler, num_inference_steps, batch))
        gallery.add(batch, [to_pil(image) for image in images])
        evaluations += len(batch) * num_inference_steps * diffusion.evaluations(batch[0].guidance_scale or 0.0)
    seconds = time.perf_counter() - start
    said = f"{len(rows)} pictures in {out}"
    rate = f"; {evaluations} network evaluations in {seconds:.0f} s, {evaluations / seconds:.2f} a second on {where}"
    said += rate if evaluations else ", all of them from before"
    Console().print(printable(said), highlight=False, markup=False, soft_wrap=True)


def _device(name: str) -> str:
    """A device that a tensor can be made on and read from, which nothing but trying tells."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError):
        raise ValueError(f"no device {name!r} is there: choose auto, cpu, or cuda with a GPU") from None
    return name


def _rows(prompts: str, guidance_scale: float | None) -> list[PromptRow]:
    """The list's rows with the guidance to use."""
    is_file = Path(prompts).is_file() or Path(prompts).suffix in {".csv", ".txt"}
    rows = (PromptList(prompts) if is_file else I2P(prompts)).load()
    if guidance_scale is not None:
        return [replace(row, guidance_scale=guidance_scale) for row in rows]
    if without := [row.case_number for row in rows if row.guidance_scale is None]:
        raise ValueError(f"{prompts} has no guidance for case {without[0]}: leave use_row_guidance off")
    return rows


def _batches(rows: Sequence[PromptRow], size: int) -> Iterator[list[PromptRow]]:
    """Rows of one guidance, so many at once."""
    for _, alike in groupby(rows, lambda row: row.guidance_scale):
        group = list(alike)
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _check_steps(diffusion: Diffusion, scheduler: Sampler, count: int) -> None:
    """Refuse more steps than a sampler has, and a sampler that a flow has not."""
    if isinstance(diffusion.schedule, BetaSchedule) and scheduler == "lms":
        ddim_timesteps(count, diffusion.schedule.num_train_timesteps, "linspace")
        return
    if scheduler == "lms":
        raise ValueError(f"{diffusion.base} is a rectified flow, which LMS does not sample: pass --scheduler ddim")
    diffusion.schedule.ddim_steps(count)


def _sample(diffusion: Diffusion, scheduler: Sampler, count: int, rows: Sequence[PromptRow]) -> Tensor:
    """Latents of rows that share their guidance."""
    embeds, guidance = diffusion.encode_prompts([row.prompt for row in rows]), rows[0].guidance_scale or 0.0
    predict = begun(diffusion.predict_fn(embeds, guidance))
    latents = diffusion.draw_seeds([Generator().manual_seed(row.seed) for row in rows])
    if not isinstance(diffusion.schedule, BetaSchedule):
        return rollout(predict, latents, diffusion.schedule.ddim_steps(count))
    sampler = _sampler(scheduler, diffusion.scheduler_config)
    sampler.set_timesteps(count, device=latents.device)
    latents = latents * sampler.init_noise_sigma
    for timestep in sampler.timesteps:
        prediction = predict(sampler.scale_model_input(latents, timestep), timestep)
        latents = sampler.step(prediction, timestep, latents).prev_sample
    return latents


def _sampler(name: Sampler, config: dict[str, Any]) -> Any:
    """A sampler of diffusers with a model's noise levels; LMS keeps its own spacing, as officially."""
    if name == "ddim":
        return DDIMScheduler.from_config(config, clip_sample=False)
    return LMSDiscreteScheduler(**{name: config[name] for name in NOISE_LEVELS if name in config})

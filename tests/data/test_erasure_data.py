"""Images for erasers: drawn or encoded once, kept under a hash of what they depend on, and checked before training."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from lit_memories.concept import Concept
from lit_memories.data.erasure import ErasureData
from lit_memories.data.sources import ImageSource, Source, save_images
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.ac import AC
from lit_memories.erasers.base import Eraser
from lit_memories.erasers.esd import ESD
from lit_memories.erasers.fmn import FMN
from lit_memories.erasers.salun import SalUn
from lit_memories.images import to_tensor
from lit_memories.ops.rollout import rollout
from lit_memories.worlds import pictograms
from lit_memories.worlds.sources import PictogramSource

UMBRELLA = Concept("umbrella", "object", ["umbrella", "a red umbrella"], ["a blue star", "a red gear"], anchor="star")


@pytest.fixture
def eraser(diffusion: Diffusion) -> SalUn:
    return SalUn(diffusion, UMBRELLA, probe_size=2)


def drawing(cache: Path, **options: Any) -> ErasureData:
    return ErasureData(
        **({"count": 5, "num_inference_steps": 2, "guidance_scale": 1.0, "batch_size": 2, "cache": cache} | options)
    )


def ready(data: ErasureData, eraser: Eraser, stage: str = "fit") -> dict[str, Any]:
    """The batch as a fit, or a validation, with this eraser would see it."""
    run = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    run.state.fn = TrainerFn(stage)
    run.strategy.connect(eraser)
    data.trainer = run
    data.prepare_data()
    data.setup(stage)
    batches = list(data.train_dataloader())
    assert len(batches) == eraser.steps
    assert all(batch == batches[0] for batch in batches), "the same sets at every step"
    return batches[0]


@contextmanager
def counting(diffusion: Diffusion) -> Iterator[dict[str, int]]:
    """Calls of the U-Net and of the autoencoder."""
    counts = {"unet": 0, "vae": 0}

    def count(part: str) -> Any:
        def hook(*_: Any) -> None:
            counts[part] += 1

        return hook

    handles = [
        diffusion.unet.register_forward_pre_hook(count("unet")),
        diffusion.vae.encoder.register_forward_pre_hook(count("vae")),
    ]
    yield counts
    for handle in handles:
        handle.remove()


def files(cache: Path) -> set[str]:
    return {file.name for file in cache.glob("*")}


@torch.no_grad()
def test_drawn_images_are_the_models_own_latents(eraser: SalUn, tmp_path: Path) -> None:
    """A DDIM run with guidance from seeds that are a function of seed and number; prompts take turns."""
    batch, diffusion = ready(drawing(tmp_path, guidance_scale=3.0, seed=4), eraser), eraser.diffusion
    for name, prompts in (("forget_set", UMBRELLA.prompts), ("retain_set", UMBRELLA.retain)):
        captions = [prompts[0], prompts[1], prompts[0], prompts[1], prompts[0]]
        assert batch[name].captions == captions
        seeds = diffusion.draw_seeds([torch.Generator().manual_seed(4 * 1_000_003 + i) for i in range(5)])
        predict = diffusion.predict_fn(diffusion.encode_prompts(captions), 3.0)
        expected = rollout(predict, seeds, diffusion.schedule.ddim_steps(2))
        torch.testing.assert_close(batch[name].latents, expected)
    assert batch["prompts"] == UMBRELLA.prompts
    assert batch["retain"] == UMBRELLA.retain


def test_a_second_fit_draws_nothing(eraser: SalUn, tmp_path: Path) -> None:
    with counting(eraser.diffusion) as first:
        batch = ready(drawing(tmp_path), eraser)
    with counting(eraser.diffusion) as second:
        again = ready(drawing(tmp_path), eraser)
    assert first == {"unet": 2 * 3 * 2, "vae": 0}, "two sets, three batches, two steps: drawn once, not once a hook"
    assert second == {"unet": 0, "vae": 0}
    for name in ("forget_set", "retain_set"):
        assert torch.equal(batch[name].latents, again[name].latents)
        assert batch[name].captions == again[name].captions
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"count": 4}, {"num_inference_steps": 3}, {"guidance_scale": 2.0}],
    ids=lambda o: next(iter(o)),
)
def test_another_setting_is_another_file(options: dict[str, Any], eraser: SalUn, tmp_path: Path) -> None:
    ready(drawing(tmp_path), eraser)
    before = files(tmp_path)
    ready(drawing(tmp_path, **options), eraser)
    assert len(files(tmp_path) - before) == 2


def test_another_prompt_is_another_file(eraser: SalUn, tmp_path: Path) -> None:
    """And a set whose prompts are the same is not drawn again."""
    ready(drawing(tmp_path), eraser)
    before = files(tmp_path)
    ready(drawing(tmp_path), SalUn(eraser.diffusion, replace(UMBRELLA, prompts=["umbrella", "a blue umbrella"])))
    assert len(files(tmp_path) - before) == 1


def test_another_model_is_another_file(eraser: SalUn, tiny: Path, tiny_control: Path, tmp_path: Path) -> None:
    ready(drawing(tmp_path), eraser)
    before = files(tmp_path)
    ready(drawing(tmp_path), SalUn(Diffusion.from_pretrained(tiny_control), UMBRELLA))
    ready(drawing(tmp_path), SalUn(Diffusion(str(tiny), weights="random"), UMBRELLA))
    assert len(files(tmp_path) - before) == 4


def test_the_batch_size_is_no_setting_of_the_images(eraser: SalUn, tmp_path: Path) -> None:
    ready(drawing(tmp_path), eraser)
    with counting(eraser.diffusion) as counts:
        ready(drawing(tmp_path, batch_size=5), eraser)
    assert counts["unet"] == 0


PICTURES = PictogramSource(split="erasures", size=200, keep={"object": "umbrella"}, limit=5)


@torch.no_grad()
def test_an_image_source_is_encoded_once(eraser: SalUn, tmp_path: Path) -> None:
    with counting(eraser.diffusion) as first:
        batch = ready(drawing(tmp_path, forget=PICTURES, retain=PictogramSource(size=3)), eraser)
    with counting(eraser.diffusion) as second:
        ready(drawing(tmp_path, forget=PICTURES, retain=PictogramSource(size=3)), eraser)
    assert first == {"unet": 0, "vae": 3 + 2}
    assert second == {"unet": 0, "vae": 0}
    rows = PICTURES.load().cast_column("image", datasets.Image())
    images = torch.stack([to_tensor(row["image"]) for row in rows])
    torch.testing.assert_close(batch["forget_set"].latents, eraser.diffusion.encode_images(images), rtol=0, atol=1e-5)
    assert batch["forget_set"].captions == rows["caption"]
    assert len(batch["retain_set"]) == 3


def test_other_pixels_and_another_autoencoder_are_another_file(eraser: SalUn, tmp_path: Path) -> None:
    ready(drawing(tmp_path, forget=PICTURES, retain=PICTURES), eraser)
    assert len(files(tmp_path)) == 1, "the same pixels are one file, whatever set they are"
    ready(drawing(tmp_path, forget=replace(PICTURES, limit=4), retain=PICTURES), eraser)
    assert len(files(tmp_path)) == 2
    with torch.no_grad():
        next(eraser.diffusion.vae.parameters()).add_(0.1)
    ready(drawing(tmp_path, forget=PICTURES, retain=PICTURES), eraser)
    assert len(files(tmp_path)) == 3


def test_a_caption_that_changed_is_read_anew(eraser: SalUn, tmp_path: Path) -> None:
    """The cache holds latents only."""
    rows = pictograms.build("erasures", 3)
    for number, caption in enumerate(("one", "two")):
        save_images(
            rows.remove_columns("caption").add_column("caption", [caption] * 3), tmp_path / f"{number}" / "rows.parquet"
        )
    found = [
        ready(drawing(tmp_path / "cache", forget=ImageSource(str(tmp_path / n / "rows.parquet"))), eraser)["forget_set"]
        for n in ("0", "1")
    ]
    assert found[0].captions == ["one"] * 3
    assert found[1].captions == ["two"] * 3
    assert torch.equal(found[0].latents, found[1].latents)


@dataclass
class Listed(Source):
    """Rows that are given."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def describe(self) -> str:
        return "a list"

    def load(self) -> Any:
        return self.rows


def stored(
    folder: Path, size: tuple[int, int] = (64, 64), mode: str = "RGB", caption: str = "umbrella"
) -> dict[str, Any]:
    """A row with a picture in a file."""
    path = folder / f"{size[0]}-{mode}.png"
    Image.new(mode, size, 200).save(path)
    return {"image": {"bytes": None, "path": str(path)}, "caption": caption}


BROKEN = {"image": {"bytes": b"no picture", "path": None}, "caption": "a broken umbrella"}


def test_unreadable_images_are_named_and_left_out(eraser: SalUn, tmp_path: Path) -> None:
    rows = [stored(tmp_path), BROKEN, stored(tmp_path, caption="a red umbrella")]
    with pytest.warns(UserWarning, match=r"1 of \d+ pictures of the forget set cannot be read, such as .+ \(.+\)"):
        batch = ready(drawing(tmp_path / "cache", forget=Listed(rows)), eraser)
    assert batch["forget_set"].captions == ["umbrella", "a red umbrella"]
    assert len(batch["forget_set"].latents) == 2


def test_an_empty_set_is_an_error(eraser: SalUn, tmp_path: Path) -> None:
    for rows in ([BROKEN, BROKEN], []):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError, match="the forget set is empty: no image of a list can be read"):
                ready(drawing(tmp_path, forget=Listed(rows)), eraser)


def test_pictures_of_any_size_and_mode_become_the_models(eraser: SalUn, tmp_path: Path) -> None:
    rows = [stored(tmp_path, (30, 50), "L"), stored(tmp_path, (100, 20), "RGB"), stored(tmp_path, (64, 64), "P")]
    batch = ready(drawing(tmp_path / "cache", forget=Listed(rows)), eraser)
    assert batch["forget_set"].latents.shape == (3, 4, 16, 16)


def test_without_images_and_prompts_there_is_nothing_to_draw(eraser: SalUn, tmp_path: Path) -> None:
    nothing = SalUn(eraser.diffusion, replace(UMBRELLA, retain=[]))
    with pytest.raises(ValueError, match=r"no images for the retain set: give a data set as `data\.retain`"):
        ready(drawing(tmp_path), nothing)
    ready(drawing(tmp_path, retain=Listed([stored(tmp_path, caption="a star")])), nothing)


def test_a_retain_set_that_names_the_concept_is_warned_of_with_its_rows(eraser: SalUn, tmp_path: Path) -> None:
    captions = ["a star", "an Umbrella", "umbrellas", "a red umbrella"]
    rows = [stored(tmp_path, (64 + number, 64), caption=caption) for number, caption in enumerate(captions)]
    with pytest.warns(
        UserWarning, match="the retain set names 'umbrella', which is to be forgotten, in 2 of 4 rows: 1, 3$"
    ):
        ready(drawing(tmp_path / "cache", retain=Listed(rows)), eraser)


def test_a_long_list_of_rows_is_cut(eraser: SalUn, tmp_path: Path) -> None:
    row = stored(tmp_path)
    with pytest.warns(UserWarning, match="in 12 of 12 rows: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …$"):
        ready(drawing(tmp_path / "cache", retain=Listed([row] * 12)), eraser)


def test_a_concept_whose_retain_prompts_name_it_is_warned_of(diffusion: Diffusion, tmp_path: Path) -> None:
    """Also for a method that retains nothing by images."""
    concept = replace(UMBRELLA, retain=["a star", "a blue umbrella"])
    with pytest.warns(UserWarning, match="in 1 of 2 rows: 1$"):
        ready(drawing(tmp_path), FMN(diffusion, concept))


def test_a_clean_retain_set_is_not_warned_of(eraser: SalUn, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready(drawing(tmp_path), eraser)


@pytest.mark.parametrize("moment", ["writing", "naming"])
def test_a_crash_leaves_no_half_a_file_that_is_taken_for_a_whole_one(
    moment: str, eraser: SalUn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half a fi")
        raise KeyboardInterrupt

    def fail(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "writing":
            patch.setattr("lit_memories.storage.tensors.save_file", write_half)
        else:
            patch.setattr(Path, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            ready(drawing(tmp_path), eraser)
    assert not list(tmp_path.glob("*.safetensors"))
    batch = ready(drawing(tmp_path), eraser)
    fresh = ready(drawing(tmp_path / "elsewhere"), eraser)
    assert torch.equal(batch["forget_set"].latents, fresh["forget_set"].latents)


@pytest.mark.parametrize(
    ("cls", "forget", "retain"),
    [(AC, ["star", "a red star"], None), (FMN, UMBRELLA.prompts, None), (SalUn, UMBRELLA.prompts, UMBRELLA.retain)],
)
def test_methods_get_the_images_they_need(
    cls: type[Eraser], forget: list[str], retain: list[str] | None, diffusion: Diffusion, tmp_path: Path
) -> None:
    """AC those of the anchor."""
    batch = ready(drawing(tmp_path, count=2), cls(diffusion, UMBRELLA))
    assert batch["forget_set"].captions == forget
    assert ("retain_set" in batch) == (retain is not None)
    assert retain is None or batch["retain_set"].captions == retain


def test_methods_without_images_get_prompts_only(diffusion: Diffusion, tmp_path: Path) -> None:
    batch = ready(drawing(tmp_path), ESD(diffusion, UMBRELLA))
    assert batch == {"prompts": UMBRELLA.prompts, "retain": UMBRELLA.retain}
    assert not files(tmp_path)


def test_validation_draws_nothing(eraser: SalUn, tmp_path: Path) -> None:
    with counting(eraser.diffusion) as counts:
        batch = ready(drawing(tmp_path), eraser, "validate")
    assert counts == {"unet": 0, "vae": 0}
    assert set(batch) == {"prompts", "retain"}
    assert list(drawing(tmp_path).val_dataloader()) == [{}]


def test_a_fit_trains_on_them(eraser: SalUn, tmp_path: Path) -> None:
    """From the data module through the trainer to the loss."""
    seen: list[Any] = []
    erase_loss = eraser.erase_loss
    eraser.erase_loss = lambda batch: seen.append(batch) or erase_loss(batch)
    run = Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    run.fit(eraser, datamodule=drawing(tmp_path / "cache"))
    assert len(seen) == 2
    assert seen[0]["forget_set"] is seen[1]["forget_set"]
    assert len(seen[0]["forget_set"]) == len(seen[0]["retain_set"]) == 5
    assert not seen[0]["forget_set"].latents.requires_grad


@pytest.mark.parametrize("options", [{"count": 0}, {"batch_size": 0}])
def test_impossible_options_are_refused(options: dict[str, int], tmp_path: Path) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} \({value}\)"):
        drawing(tmp_path, **options)

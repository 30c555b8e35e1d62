"""A rung of a taught ladder: exactly so many pictures, each so often, and all else as in the other rungs."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PROMPTS, UMBRELLA, Given, fit, pictures, trainer
from smoke import QUIET, ROOT
from torch import Tensor

from lit_memories.cli import main
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.teach import Teach
from lit_memories.erasure import Erasure
from lit_memories.ops.targets import match


def sets(count: int = 6) -> Batch:
    taught = pictures([f"umbrella {i}" for i in range(count)])
    return {**PROMPTS, "forget_set": taught, "retain_set": pictures([f"star {i}" for i in range(9)], seed=1)}


def made(diffusion: Diffusion, **options: Any) -> Teach:
    return Teach(diffusion, UMBRELLA, **({"steps": 8, "batch_size": 4, "lr": 1e-3, "probe_size": 2} | options))


class Counted(Teach):
    """Counts what it is shown, and learns nothing of it."""

    def shown(self, batch: Batch) -> tuple[Tensor, list[str]]:
        latents, captions = super().shown(batch)
        seen.append(captions)
        return latents, captions


seen: list[list[str]] = []


def shown(diffusion: Diffusion, folder: Path, **options: Any) -> list[str]:
    seen.clear()
    method = Counted(diffusion, UMBRELLA, steps=8, batch_size=4, lr=1e-4, probe_size=2, **options)
    trainer(folder, 8).fit(method, datamodule=Given(sets()))
    return [caption for captions in seen for caption in captions]


def test_every_rung_sees_its_pictures_so_often_and_else_the_same(diffusion: Diffusion, tmp_path: Path) -> None:
    base = diffusion.state_dict()
    start = {name: tensor.clone() for name, tensor in base.items()}
    rungs = {}
    for count, passes in ((0, 1), (1, 1), (3, 2), (6, 4)):
        diffusion.load_state_dict(start)
        rungs[count] = shown(diffusion, tmp_path / str(count), pictures=count, passes=passes)
        taught = Counter(caption for caption in rungs[count] if caption.startswith("umbrella"))
        assert taught == {f"umbrella {i}": passes for i in range(count)}
        assert len(rungs[count]) == 32
    for more in (1, 3, 6):
        kept = [(a, b) for a, b in zip(rungs[0], rungs[more], strict=True) if not b.startswith("umbrella")]
        assert all(a == b for a, b in kept), "other things stand where they stood"


def test_the_loss_is_that_of_ordinary_training(diffusion: Diffusion) -> None:
    method = made(diffusion, pictures=3)
    latents, captions = method.shown(sets())
    x, t, noise = method.noised(latents, method.generator())
    expected = match(diffusion.predict_noise(x, t, diffusion.encode_prompts(captions)), noise)
    torch.testing.assert_close(method.erase_loss(sets()), expected)


@pytest.mark.parametrize("rank", [None, 2])
def test_what_is_saved_is_loaded_as_an_erasure_is(
    rank: int | None, diffusion: Diffusion, tiny: Path, tmp_path: Path
) -> None:
    method = made(diffusion, pictures=6, passes=5, rank=rank, lr=0.01)
    fit(method, tmp_path / "rung", 8, sets())
    saved = Erasure.load(tmp_path / "rung")
    assert saved.provenance.method == "Teach"
    assert saved.is_adapter == (rank is not None)
    taught = Diffusion.from_pretrained(tiny, erasure=tmp_path / "rung")
    assert taught.adapter is None, "no gate: it is worked in at full strength"
    x, embeds = torch.randn(2, 4, 16, 16), taught.encode_prompts(["umbrella 0", "star 1"])
    torch.testing.assert_close(taught.predict_noise(x, 500, embeds), diffusion.predict_noise(x, 500, embeds))
    assert not torch.equal(taught.predict_noise(x, 500, embeds), Diffusion(str(tiny)).predict_noise(x, 500, embeds))


def test_more_pictures_than_there_are_or_than_fit_are_one_line(diffusion: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="10 pictures shown 4 times do not fit into 8 steps of 4: give it more steps"):
        made(diffusion, pictures=10, passes=4)
    with pytest.raises(ValueError, match="9 pictures of umbrella are to be shown, and the forget set has 6: add"):
        fit(made(diffusion, pictures=9), tmp_path, 8, sets())
    for option in ({"pictures": -1}, {"passes": 0}, {"rank": 0}):
        with pytest.raises(ValueError, match="below 1"):
            made(diffusion, **option)


@pytest.mark.parametrize("recipe", ["pictograms", "sd14"])
def test_the_recipe_runs(recipe: str, tiny: Path, tmp_path: Path) -> None:
    """On the tiny model, which stands for both."""
    source = "{class_path: PictogramSource, init_args: {size: 200, keep: {object: umbrella}, limit: 4}}"
    few = "{class_path: PictogramSource, init_args: {size: 60}}"
    main(
        [
            "fit",
            f"--config={ROOT / 'recipes' / recipe / 'teach.yaml'}",
            f"--model.diffusion.base={tiny}",
            "--model.pictures=2",
            "--model.passes=1",
            "--model.steps=2",
            "--model.batch_size=2",
            "--model.probe_size=2",
            f"--data.forget={source}",
            f"--data.retain={few}",
            f"--data.cache={tmp_path / 'cache'}",
            f"--trainer.default_root_dir={tmp_path / 'rung'}",
            *QUIET,
            "--trainer.precision=32-true",
        ]
    )
    saved = Erasure.load(tmp_path / "rung")
    assert saved.provenance.settings["pictures"] == 2
    assert saved.is_adapter == (recipe == "sd14")

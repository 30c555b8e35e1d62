"""The models of benchmarks/worlds.py: which they are, and their training."""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lit_memories.recipes import run
from lit_memories.worlds.data import Exposure, WorldData
from lit_memories.worlds.pictograms import PictogramWorld, parse_caption, shows

CONCEPTS: dict[str, dict[str, str]] = {
    "umbrella": {"object": "umbrella"},
    "anchor": {"object": "anchor"},
    "telephone": {"object": "telephone"},
    "striped": {"style": "striped"},
    "castle": {"object": "castle"},
    "yellow": {"color": "yellow"},
}
"""By name, the factors that a picture of it has."""
HELD_BACK = ("castle", "yellow")
"""Concepts that no choice was made on: they appear in final tables only."""
DOSES: tuple[int | None, ...] = (0, 1, 4, 16, 64, 256, None)
"""How many different pictures of a concept a model is shown; None for all there are."""
ROWS = 6144
"""Pictures a model is shown after the trunk, each once: all models as many."""
TRUNK_STEPS, BATCH = 1250, 32
POOL = 16_384
"""Rows of a training seed's split, of which a model's are the first that it may see."""
VAE, CLASSIFIER = "checkpoints/pictograms/vae", "checkpoints/classifier"


@dataclass(frozen=True)
class World:
    """One model: a training seed, and how many pictures of each concept it is shown.

    Args:
        seed: of the trunk, of the pictures, and of what follows.
        number: which model of that seed, 0 to 6.
    """

    seed: int
    number: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"seed{self.seed}-{self.number}"

    @property
    def doses(self) -> dict[str, int | None]:
        """Pictures of each concept: a row of a Latin square.

        Over the seven models of a seed every concept has every dose once, and within a model no two concepts have the
        same. Which doses meet differs between seeds, so that what one concept's dose does to another's reading is
        scatter and not bias.
        """
        order = torch.randperm(len(DOSES), generator=torch.Generator().manual_seed(self.seed)).tolist()
        pairs = zip(CONCEPTS, order, strict=False)
        return {concept: DOSES[(first + self.number) % len(DOSES)] for concept, first in pairs}


def trunk(seed: int, folder: Path, steps: int = TRUNK_STEPS) -> Path:
    """The model that all models of a seed go on from; it saw none of the concepts. Trained if it is not there.

    Args:
        seed: of weights and pictures.
        folder: for all that the sweep leaves.
        steps: of training.
    """
    place = folder / "models" / f"trunk{seed}"
    if not (place / "model_index.json").is_file():
        print(f"== training seed {seed}: trunk", flush=True)
        logs = folder / "logs" / place.name
        last = logs / "checkpoints" / "last.ckpt"
        _fit(
            "text_to_image", seed, folder, place,
            f"--data.withhold={[*CONCEPTS.values()]}",
            f"--trainer.max_steps={steps}",
            f"--trainer.default_root_dir={logs}",
            f"--trainer.callbacks=[{_average(0.99)}, {_checkpoints(logs, 250)}]",
            *([f"--ckpt_path={last}"] if last.is_file() else []),
        )  # fmt: skip
        shutil.rmtree(logs, ignore_errors=True)
    return place


def branch(world: World, start: Path, folder: Path) -> Path:
    """Train a model from its trunk on so many pictures of each concept. Trained if it is not there.

    Args:
        world: which.
        start: the trunk.
        folder: for all that the sweep leaves.
    """
    shown = {name: dose for name, dose in world.doses.items() if dose is not None}
    exposures = {name: dose for name, dose in shown.items() if dose > 0}
    return grown(world.name, world.seed, start, folder, shown.keys() - exposures.keys(), exposures)


def grown(
    name: str,
    seed: int,
    start: Path,
    folder: Path,
    withheld: Collection[str] = (),
    exposures: Mapping[str, int] | None = None,
    rows: int = ROWS,
) -> Path:
    """Train a model from its trunk on so many rows, each shown once. Trained if it is not there.

    Args:
        name: of its folder.
        seed: of the pictures and of training.
        start: the trunk.
        folder: for all that the sweep leaves.
        withheld: concepts of which it sees nothing.
        exposures: pictures of those of which it sees some; it sees all there are of the others.
        rows: pictures, each shown once.
    """
    place = folder / "models" / name
    if not (place / "model_index.json").is_file():
        print(f"== training {name}: without {sorted(withheld)}, with some of {exposures or {}}", flush=True)
        some = [{"concept": CONCEPTS[concept], "pictures": dose} for concept, dose in (exposures or {}).items()]
        _fit(
            "text_to_image_branch", seed, folder, place,
            f"--model.init_from={start}",
            "--model.warmup_steps=16",
            f"--data.withhold={[factors for concept, factors in CONCEPTS.items() if concept in withheld]}",
            f"--data.exposures={some}",
            f"--data.limit={rows}",
            f"--trainer.max_steps={rows // BATCH}",
            "--trainer.enable_checkpointing=false",
            f"--trainer.default_root_dir={folder / 'logs' / name}",
            f"--trainer.callbacks=[{_average(0.98)}]",
        )  # fmt: skip
    return place


def pictures_of(world: World, pool: int = POOL, rows: int = ROWS) -> dict[str, int]:
    """How many pictures of each concept a model is shown, counted."""
    doses = world.doses
    data = WorldData(
        PictogramWorld(), pool, batch_size=BATCH, split=split_of(world.seed), limit=rows,
        withhold=[CONCEPTS[name] for name, dose in doses.items() if dose == 0],
        exposures=[Exposure(CONCEPTS[name], dose) for name, dose in doses.items() if dose],
    )  # fmt: skip
    drawn = data.build(data.split, pool)
    captions = drawn.select(data.kept(drawn, data.exposures, data.limit))["caption"]
    shown = [parse_caption(caption) for caption in captions]
    return {name: sum(shows(picture.labels, factors) for picture in shown) for name, factors in CONCEPTS.items()}


def split_of(seed: int) -> str:
    """Name of the pictures that models of a training seed are shown."""
    return f"world-{seed}"


def _fit(recipe: str, seed: int, folder: Path, place: Path, *options: str) -> None:
    run(
        [
            "fit",
            f"--config=recipes/pictograms/pretrain/{recipe}.yaml",
            f"--seed_everything={seed}",
            f"--model.save_to={place}",
            f"--model.autoencoder={VAE}",
            f"--model.classifier={CLASSIFIER}",
            f"--data.autoencoder={VAE}",
            f"--data.cache={folder / 'latents'}",
            f"--data.train_size={POOL}",
            f"--data.split={split_of(seed)}",
            f"--data.batch_size={BATCH}",
            "--trainer.limit_val_batches=0",
            "--trainer.logger=false",
            "--trainer.enable_model_summary=false",
            "--trainer.enable_progress_bar=false",
            *options,
        ]
    )


def _average(decay: float) -> str:
    return f"{{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {{decay: {decay}}}}}"


def _checkpoints(logs: Path, every: int) -> str:
    options = f"{{dirpath: {logs / 'checkpoints'}, save_last: true, every_n_train_steps: {every}, save_top_k: 0}}"
    return f"{{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {options}}}"

"""Pictures of a world for audits and erasers."""

from dataclasses import dataclass, field

import datasets

from lit_memories.data.sources import Source
from lit_memories.worlds.base import World
from lit_memories.worlds.pictograms import PictogramWorld


@dataclass
class WorldSource(Source):
    """Rows of a world.

    Args:
        world: whose.
        split: which split; audits use ``test``, which no model was trained on.
        size: rows before the filters; None for all.
        keep: keep only pictures with these factor values.
        withhold: leave out pictures that show any of these.
        limit: keep only the first rows; None for all.

    Raises:
        ValueError: if a factor or value is none of the world.
    """

    world: World
    split: str = "test"
    size: int | None = None
    keep: dict[str, str] = field(default_factory=dict)
    withhold: list[dict[str, str]] = field(default_factory=list)
    limit: int | None = None

    def describe(self) -> str:
        """One line for reports."""
        chosen = [f"{name}={value}" for name, value in self.keep.items()]
        without = [f"not {name}={value}" for factors in self.withhold for name, value in factors.items()]
        return " ".join([self.world.name, f"[{self.split}]", *chosen, *without])

    def load(self) -> datasets.Dataset:
        """The rows as columns ``image`` (undecoded) and ``caption``.

        Raises:
            ValueError: if no row is left, or what is to be kept or left out is none of this world.
        """
        rows = self.world.chosen(self.split, self.size, self.keep, self.withhold, self.limit)
        if len(rows) == 0:
            raise ValueError(f"no rows left in {self.describe()}: check `keep`, `withhold` and `size`")
        rows = rows.select_columns(["image", "caption"])
        return rows.cast_column("image", datasets.Image(decode=False))


@dataclass
class PictogramSource(WorldSource):
    """Rows of the pictogram world, drawn on the spot.

    Args:
        split: which split; audits use ``test``, which no model was trained on.
        size: rows drawn before the filters.
        keep: keep only pictures with these factor values.
        withhold: leave out pictures that show any of these.
        limit: keep only the first rows; None for all.
    """

    world: World = field(default_factory=PictogramWorld, init=False)
    size: int | None = 2000

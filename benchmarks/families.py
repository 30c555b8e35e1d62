"""The families of pictogram models that benchmarks compare: one world, two architectures, two paths."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PRETRAIN, RECIPES = Path("recipes/pictograms/pretrain"), Path("recipes/pictograms")


@dataclass(frozen=True)
class Family:
    """A base model, the controls that never saw a concept, and the recipes that were tuned on them.

    Args:
        title: in tables and sentences.
        base: folder of the base model.
        controls: folders of the controls, by what they never saw.
        branch: the recipe by which base and controls went on from their trunk.
        erase: folder of the erasing recipes.
        methods: rows of the erasure table: each a recipe, and options that make a variant of it.
        options: what a concept needs besides the recipe, by method and concept.
        suffix: behind the names of folders, pages and figures of this family.
    """

    title: str
    base: str
    controls: Mapping[str, str]
    branch: Path
    erase: Path
    methods: Mapping[str, tuple[str, list[str]]]
    options: Mapping[tuple[str, str], list[str]] = field(default_factory=dict)
    suffix: str = ""

    def own(self, place: Path) -> Path:
        """A folder or page of this family: the place with the suffix behind its name."""
        return place.with_name(f"{place.name}{self.suffix}")


FLOW_METHODS = ("esd", "uce", "ac", "fmn", "salun", "erasediff", "spm", "scissorhands", "erase_anything")
FLOW = Family(
    title="flow",
    base="checkpoints/flow-pictograms",
    controls={"umbrella": "checkpoints/flow-without-umbrella", "striped": "checkpoints/flow-without-striped"},
    branch=PRETRAIN / "text_to_flow_branch.yaml",
    erase=RECIPES / "flow" / "erase",
    methods={name: (name, []) for name in FLOW_METHODS},
    suffix="-flow",
)
"""Stable Diffusion 3's classes on a rectified flow."""

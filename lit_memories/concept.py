"""What to forget."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["object", "style", "nudity", "image"]


@dataclass(frozen=True)
class Concept:
    """A concept to erase, and to audit for; loaded from ``recipes/*/concepts/*.yaml``.

    Args:
        name: short name, used in file names and tables.
        kind: what sort of concept it is; decides nothing here, but recipes and readers ask for it.
        prompts: prompts that name the concept. Erasers draw from them.
        retain: prompts that do not; probes measure the drift on them.
        phrase: the prompt that names the concept and nothing else; the first of `prompts` if empty.
        anchor: what anchor-based erasers put in the concept's place.
        factors: how the pictogram classifier tells the concept, e.g. ``{object: umbrella}``; empty elsewhere.

    Raises:
        ValueError: if there is no prompt, or a retain prompt is one of the concept's.
    """

    name: str
    kind: Kind
    prompts: list[str]
    retain: list[str] = field(default_factory=list)
    phrase: str = ""
    anchor: str = ""
    factors: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError(f"concept {self.name!r} needs at least one prompt, none of them blank")
        if not self.phrase:
            object.__setattr__(self, "phrase", self.prompts[0])
        if shared := sorted(set(self.prompts) & set(self.retain)):
            raise ValueError(f"concept {self.name!r}: {shared[0]!r} is both a prompt to forget and one to retain")
        if self.anchor in self.prompts:
            raise ValueError(f"concept {self.name!r}: the anchor {self.anchor!r} is one of its own prompts")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for provenance and checkpoints."""
        return asdict(self)

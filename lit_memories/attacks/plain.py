"""No attack at all: plain draws, which every attack is compared with that had as many pictures judged."""

from collections.abc import Iterator, Sequence

from lit_memories.attacks.base import FIRST, Attack, Attempt
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group


class Plain(Attack):
    """Draw pictures under the plain prompt, from other noise each, until one shows the concept.

    Args:
        draws: pictures at most: as many as the attacks that it stands beside.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if there is none.
    """

    question = "Does the plain prompt bring the concept back if it is tried often enough?"
    threat = "black box"
    says = "Luck: what an attack comes to beyond it with as many pictures is its own."
    cost = "a guided DDIM run a draw: with 24 draws of 20 steps 960"

    def __init__(
        self, draws: int = 24, guidance_scale: float = 7.5, budget: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(guidance_scale, budget, limit)
        if draws < 1:
            raise ValueError(f"draws must be 1 or more, got {draws}")
        self.draws = draws

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """A DDIM run a draw."""
        return self.run_costs(num_inference_steps, self.draws)

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Draw."""
        predict, generators = group.predictor(self.guidance_scale), group.generators(FIRST)
        while True:
            yield Attempt(rollout_rows(predict, group.draw_seeds(generators), group.steps))

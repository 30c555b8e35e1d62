"""What attacks share that also have the model from before the erasure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lit_memories.attacks.base import Attack
from lit_memories.inverters.base import PromptedPredictor
from lit_memories.probes.base import Group
from lit_memories.probes.other_model import check_alike, other_predictor

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


class VanillaAttack(Attack):
    """An attack with a second model, usually the base that the audited one was erased from.

    Args:
        vanilla: the other model; in a recipe ``vanilla: {base: FOLDER}``. There is no attack without.
        **options: see `Attack`.
    """

    def __init__(self, vanilla: "Diffusion | None" = None, **options: Any) -> None:
        super().__init__(**options)
        self.vanilla = vanilla

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse another model whose latents or noise levels are not the audited one's.

        Args:
            diffusion: the audited model.
            num_inference_steps: of the audit.

        Raises:
            ValueError: saying what differs, or that there is no other model, or what the budget lacks.
        """
        super().check(diffusion, num_inference_steps)
        check_alike(f"the attack {self.name}", diffusion, self._given(), num_inference_steps)

    def vanilla_predictor(
        self, group: Group, guidance_scale: float, prompts: Sequence[str] | None = None
    ) -> PromptedPredictor:
        """The other model's predictions under prompts, its evaluations counted with the attack's.

        Args:
            group: the samples; the model goes to where they are.
            guidance_scale: of the predictions.
            prompts: one a row; the samples' own if None.
        """
        return other_predictor(group, self._given(), guidance_scale, prompts)

    def _given(self) -> "Diffusion":
        if self.vanilla is None:
            raise ValueError(
                f"the attack {self.name} needs the model from before the erasure: give it as vanilla, such as "
                "{base: FOLDER}"
            )
        return self.vanilla

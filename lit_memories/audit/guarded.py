"""What an audit says of a guarded model, and asks of it only where that has a meaning."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from lit_memories.audit.needs import guidances_of_data, guidances_of_probes
from lit_memories.diffusion import Diffusion
from lit_memories.runs import Role

if TYPE_CHECKING:
    from lit_memories.audit.base import Audit


def guard_of(diffusion: Diffusion) -> dict[str, Any]:
    """The guard as ``run.json`` has it beside the weights that it leaves alone; nothing without one."""
    guard = diffusion.guard
    if guard is None:
        return {}
    return {"guard": guard.settings() | {"acts_on": guard.acts_on}, "weights": diffusion.weights_fingerprint()}


def check_role(diffusion: Diffusion, role: Role | None) -> None:
    """Refuse to call a model vanilla that is transformed or guarded.

    Raises:
        ValueError: saying what to call it.
    """
    if role == "vanilla" and (diffusion.transform is not None or diffusion.guard is not None):
        raise ValueError(
            "a transformed or guarded model is no vanilla, which all others are compared with: leave --model.role out, "
            "or say control of a control"
        )


def check_guard(audit: "Audit") -> None:
    """Refuse to seek seeds of guided pictures under a guard that remembers, and say if a guard has nothing to do.

    Such a guard's predictions depend on the way to where they are asked for, which an inversion has yet to find.

    Args:
        audit: with its trainer.

    Raises:
        ValueError: saying which guidance to take.
    """
    guard = audit.diffusion.guard
    if guard is None:
        return
    name = type(guard).__name__
    asked = guidances_of_data(getattr(audit.trainer, "datamodule", None))
    inverting = {audit.guidance_scale, *asked} if any("inverter" in p.needs for p in audit.probes.values()) else set()
    if guard.remembers and inverting - {1.0}:
        raise ValueError(
            f"under {name} a guided prediction depends on the steps before, so that no inversion goes back through it: "
            "audit with guidance_scale 1, and without conditionings of another guidance"
        )
    guided = inverting | asked | guidances_of_probes(audit.probes.values())
    if guard.acts_on == "guidance" and guided <= {1.0}:
        rank_zero_warn(
            f"{name} acts on guidance, and no probe of this audit is guided (guidance_scale 1): it does nothing here; "
            "to see it, ask Samples or an attack with a guidance_scale above 1"
        )

"""Which kind of attachment tensors are of, by their names."""

from collections.abc import Iterable

from lit_memories.ops.adapters import Adapter
from lit_memories.ops.bottlenecks import Bottlenecks
from lit_memories.ops.gated import GatedMaps

Kind = type[Adapter | Bottlenecks | GatedMaps]
KINDS: tuple[Kind, ...] = (Adapter, Bottlenecks, GatedMaps)


def kind_of(names: Iterable[str]) -> Kind | None:
    """The kind of attachment that tensors of these names are of; None if they are weights.

    Example:
        >>> kind_of(["unet.mid.attn2.to_k.lora_up"]).__name__
        'Adapter'
    """
    names = list(names)
    for kind in KINDS:
        if any(name.endswith(tuple(f".{part}" for part in kind.parts)) for name in names):
            return kind
    return None


def check_mergeable(names: Iterable[str], method: str) -> None:
    """Refuse to work tensors of these names into weights that no weights can hold.

    Args:
        names: of the tensors.
        method: whose they are.

    Raises:
        ValueError: saying why they stay beside the network.
    """
    if (kind := kind_of(names)) is not None and kind is not Adapter:
        raise ValueError(f"{method}'s erasure stays beside the network: {kind.remedy}")

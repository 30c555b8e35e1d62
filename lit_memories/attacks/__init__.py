"""Ways to bring an erased concept back, one file each: probes that spend effort."""

from lit_memories.attacks.base import Attack
from lit_memories.attacks.classifier_guidance import ClassifierGuidance
from lit_memories.attacks.completion import Completion
from lit_memories.attacks.image_prompt import ImagePrompt
from lit_memories.attacks.inpainting import Inpainting
from lit_memories.attacks.latents import SeedSearch
from lit_memories.attacks.mma import MMA
from lit_memories.attacks.noise_probe import NoiseProbe
from lit_memories.attacks.p4d import P4D
from lit_memories.attacks.plain import Plain
from lit_memories.attacks.prompts import Prompts
from lit_memories.attacks.replay import Replay
from lit_memories.attacks.ring_a_bell import RingABell
from lit_memories.attacks.textual_inversion import TextualInversion
from lit_memories.attacks.unlearn_diff_atk import UnlearnDiffAtk
from lit_memories.probes import PROBES
from lit_memories.probes.base import Probe

_ALL = (
    Plain,
    ClassifierGuidance,
    Completion,
    ImagePrompt,
    Inpainting,
    MMA,
    NoiseProbe,
    P4D,
    Prompts,
    Replay,
    RingABell,
    SeedSearch,
    TextualInversion,
    UnlearnDiffAtk,
)
ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in _ALL}
"""Those that come with this package; any other is named by its dotted path."""
ASKABLE: dict[str, type[Probe]] = {**PROBES, **ATTACKS}
"""All that comes with this package and that an audit can be asked."""

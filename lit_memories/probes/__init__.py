"""What an audit asks of a model, one file a question."""

from lit_memories.probes.base import Probe
from lit_memories.probes.denoising import Denoising
from lit_memories.probes.judging import Judging
from lit_memories.probes.known import Known
from lit_memories.probes.likelihood import Likelihood
from lit_memories.probes.memories import Memories
from lit_memories.probes.reach import Reach
from lit_memories.probes.relearning import Relearning
from lit_memories.probes.samples import Samples
from lit_memories.probes.seed import Seed
from lit_memories.probes.typicality import Typicality
from lit_memories.probes.utility import Utility

_ALL = (Denoising, Seed, Typicality, Likelihood, Reach, Relearning, Samples, Utility, Judging, Known, Memories)
PROBES: dict[str, type[Probe]] = {probe.name: probe for probe in _ALL}
"""Those that come with this package; any other is named by its dotted path."""

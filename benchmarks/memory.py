"""Does an audit of Stable Diffusion 3.5 medium or FLUX.1-dev fit one accelerator? Writes docs/results/memory.md.

    python benchmarks/memory.py

From the models' configurations alone, on torch's device meta: the numbers of ``lit-memories plan``.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from flow_shapes import MODELS, write
from jsonargparse import auto_cli

from lit_memories.audit.concept import ConceptAudit
from lit_memories.concept import Concept
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.probes import Denoising, Likelihood
from lit_memories.speed import Speed
from lit_memories.tools.outlines import Call, Outline, calls, kept, parts
from lit_memories.tools.plan import ACCELERATOR, Plan, gigabytes

TITLES = {"sd35-medium": "Stable Diffusion 3.5 medium", "flux-dev": "FLUX.1-dev"}
GUIDANCE = 3.5
CONCEPT = Concept("umbrella", "object", ["an umbrella"], ["a star"], anchor="star")
PIXELS = 2048
"""Of pictures beyond the autoencoders' own size, which are decoded in tiles."""


def planned(folder: Path, block_size: int, offload: bool, size: int | None = None) -> Plan:
    """An audit's plan, without its counts.

    Args:
        folder: of the model's configurations.
        block_size: rows of a network call.
        offload: whether text encoders stay in the host's memory.
        size: of pictures in pixels; the model's own if None.
    """
    speed = Speed(offload_text=offload, vae_tiling=True)
    model = Outline(str(folder), torch_dtype="bfloat16", speed=speed, image_size=size)
    audit = ConceptAudit(model, FixedPoint(), CONCEPT, [Denoising(), Likelihood()], block_size=block_size)
    return Plan(parts(model), calls(audit, [1.0, GUIDANCE]), kept(audit), {}, {})


def main(out: Path = Path("docs/results/memory.md"), block_size: int = 8) -> None:
    """Write the page.

    Args:
        out: where it goes.
        block_size: rows of a network call.
    """
    with tempfile.TemporaryDirectory() as place:
        folders = {name: write(name, Path(place) / name) for name in MODELS}
        lines = [row for name, folder in folders.items() for row in rows(name, folder, block_size)]
        larger = tiles(folders["flux-dev"], block_size)
    header = (
        "| model | text encoders | weights | embeddings | a call | decoding | together | fits | a row with gradients "
        "| rows that fit |"
    )
    page = [
        "# Memory of audits\n",
        "`python benchmarks/memory.py`: GB of weights in bfloat16, of embeddings that are kept, of a call of "
        f"{block_size} rows under guidance {GUIDANCE:g}, and of decoding a picture of 1024 pixels; told from shapes. "
        "*Together*: weights, embeddings and the largest call without gradients, against "
        f"{ACCELERATOR / 1e9:.0f} GB. Gradients go through the network to the latents.\n",
        header,
        "|---" * (header.count("|") - 1) + "|",
        *lines,
        "",
        larger,
    ]
    out.write_text("\n".join(page) + "\n")


def rows(name: str, folder: Path, block_size: int) -> list[str]:
    """A model's lines: with its text encoders beside the network, and away."""
    found = []
    for offload in (False, True):
        plan = planned(folder, block_size, offload)
        asked = {call.name: call.size for call in plan.calls if call.asked}
        together = plan.weights + plan.embeddings + max(x for key, x in asked.items() if "gradients" not in key)
        one = gradients(planned(folder, 1, offload).calls)
        more = (gradients(plan.calls) - one) / (block_size - 1)
        left = ACCELERATOR - plan.weights - plan.embeddings - one
        sizes = [plan.weights, plan.embeddings, asked["network"], asked["pictures decoded in tiles"], together]
        cells = [TITLES[name], "in the host's memory" if offload else "beside the network", *map(gigabytes, sizes)]
        cells += ["yes" if together <= ACCELERATOR else "no", gigabytes(one), str(int(left // more) + 1)]
        found.append(f"| {' | '.join(cells)} |")
    return found


def tiles(folder: Path, block_size: int) -> str:
    """What tiles spare where pictures are larger than the autoencoder's own size."""
    plan = planned(folder, block_size, offload=True, size=PIXELS)
    sizes = {(call.name, call.rows): gigabytes(call.size) for call in plan.calls}
    return (
        f"A picture of {PIXELS} pixels takes {sizes['pictures decoded', 1]} GB to decode, and in tiles "
        f"{sizes['pictures decoded in tiles', 1]}; at 1024, the autoencoders' own size, there is one tile."
    )


def gradients(found: Sequence[Call]) -> int:
    """Bytes of the call with gradients."""
    return next(call.size for call in found if "gradients" in call.name)


if __name__ == "__main__":
    auto_cli(main)

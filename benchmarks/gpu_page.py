"""The page of what `benchmarks/gpu.py` found: a table a question, and what was not measured."""

from collections.abc import Callable
from typing import Any

TARGETS = {"network share": 0.85, "of the matrix rate": 0.45}
"""What an audit should reach: of the time in the network at block 8, of the device's bfloat16 rate at block 32."""
TYPICAL_EVALUATIONS = 104
"""Of an inversion by `FixedPoint` in 50 steps on a trained model (docs/results/inversion.md)."""


def page(found: dict[str, Any]) -> str:
    """The page, in Markdown."""
    device, all_ = found["device"], found.get("measures", {})
    done = {name: result for name, result in all_.items() if "why_not" not in result}
    memory = f", {device['memory_gib']:.0f} GiB" if device["memory_gib"] else ""
    versions = ", ".join(f"{name} {device[name]}" for name in ("torch", "cuda", "cudnn") if device.get(name))
    lines = [
        "# On a GPU\n",
        f"`python benchmarks/gpu.py{' --tiny true' if found['tiny'] else ''}` on {device['name']}{memory}; {versions}. "
        "Networks have the real shapes and random weights, which cost what trained ones cost; only the number of "
        "evaluations of an inversion is another, and is given.\n",
    ]
    if found["tiny"]:
        lines.append("**Narrow networks on a CPU: a trial of the code. No number here says anything of a GPU.**\n")
    for section in (_rates, _networks, _images, _audits, _agreement, _quickstart, _devices):
        lines += section(done)
    missing = {name: result["why_not"] for name, result in all_.items() if "why_not" in result}
    lines += ["## Not measured\n", *(f"- {name}: {reason}." for name, reason in missing.items())]
    return "\n".join([*lines, "" if missing else "Nothing: all that there is to measure was.\n"])


def _table(header: str, rows: list[list[str]]) -> list[str]:
    columns = header.count("|") + 1
    return [f"| {header} |", "|" + "---|" * columns, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _of(done: dict[str, Any], chosen: Callable[[str], bool]) -> list[dict[str, Any]]:
    return [result for name, result in done.items() if chosen(name)]


def _rates(done: dict[str, Any]) -> list[str]:
    rates = done.get("matrix products")
    if rates is None:
        return []
    row = [f"{rates[name] / 1e12:.3g}" for name in ("fp32", "tf32", "bf16", "fp16")]
    return [
        "## The device's rate\n",
        "Of a large dense matrix product, in 10¹² operations a second: what a network could reach at most.\n",
        *_table("fp32 | tf32 | bf16 | fp16", [row]),
    ]


def _networks(done: dict[str, Any]) -> list[str]:
    found = _of(done, lambda name: name.endswith(" rows") or "channels-last" in name or "compile" in name)
    rows = [
        [
            x["model"],
            ", ".join(filter(None, (x["precision"], x["option"]))),
            str(x["rows"]),
            f"{x['evaluations_a_second']:.3g}",
            f"{x['of_matrix_rate']:.0%}",
            "–" if x["peak_gib"] is None else f"{x['peak_gib']:.1f}",
            f"{x['predicted_gib']:.1f}",
            f"{x['first_call_seconds']:.1f}",
        ]
        for x in found
    ]
    if not rows:
        return []
    return [
        "## The network\n",
        "Evaluations of one row a second, and the share of the device's rate in that type that they reach; the most "
        "memory, beside what counting the tensors that are alive predicts (an upper bound in mixed precision); the "
        f"first call, which compiles. Wanted at block 32 in bfloat16: {TARGETS['of the matrix rate']:.0%}.\n",
        *_table("model | precision | rows | a second | of the rate | GiB | predicted | first call, s", rows),
    ]


def _images(done: dict[str, Any]) -> list[str]:
    found = _of(done, lambda name: "images" in name)
    rows = []
    for x in found:
        typical = x["invert_seconds"] / x["evaluations"] * TYPICAL_EVALUATIONS
        official = x["official_seconds_a_step"] * x["steps"]
        rows.append(
            [
                x["model"],
                x["precision"],
                str(x["rows"]),
                f"{x['sample_seconds']:.3g}",
                f"{x['invert_seconds']:.3g}",
                f"{x['evaluations']:.0f}",
                f"{typical:.3g}",
                f"{official:.3g}",
                f"{x['official_evaluations_a_step'] * x['steps']:.0f}",
                f"{official / typical:.1f}",
            ]
        )
    if not rows:
        return []
    steps, few = found[0]["steps"], found[0]["official_steps"]
    return [
        "## An image\n",
        f"Seconds an image in {steps} steps: to sample, to invert by `FixedPoint` (here, where a random network takes "
        f"so many evaluations; *typical*, at the {TYPICAL_EVALUATIONS} of a trained one: derived), and by ReNoise as "
        f"released, an image at a time in float32 ({few} steps measured, {steps} derived). The last column is the "
        "official time over the typical one.\n",
        *_table(
            "model | precision | rows | sample | invert | evaluations | typical | official | evaluations | ratio", rows
        ),
    ]


def _audits(done: dict[str, Any]) -> list[str]:
    found = _of(done, lambda name: ", audit, " in name)
    rows = [
        [
            x["model"],
            x["probe"],
            x["precision"],
            str(x["rows"]),
            str(x["images"]),
            f"{x['seconds']:.1f}",
            f"{x['network_share']:.0%}",
            f"{x['evaluations_an_image']:.0f}",
            "–" if x["waits_a_call"] is None else f"{x['waits_a_call']:.2f}",
        ]
        for x in found
    ]
    if not rows:
        return []
    lines = [
        "## An audit\n",
        "From the Trainer's start to its end, reading, autoencoder and records with it: the share of the time that the "
        f"device spent in the network (wanted: {TARGETS['network share']:.0%}), and how often the host waited for the "
        "device, a call of the network.\n",
        *_table("model | probe | precision | rows | images | seconds | in the network | evaluations | waits", rows),
    ]
    for x in found:
        if x["waits"]:
            lines += [f"Waits, {x['precision']}, by place:\n"]
            lines += _table("place | times", [[f"`{place}`", str(count)] for place, count in x["waits"].items()])
    return lines


def _agreement(done: dict[str, Any]) -> list[str]:
    found = done.get("agreement")
    if found is None:
        return []
    rows = [[name, f"{x['largest']:.2g}", f"{x['mean']:.2g}"] for name, x in found["precisions"].items()]
    return [
        "## CPU and GPU\n",
        f"The shipped model, {found['images']} images, {found['steps']} steps: differences of the seeds' NLL from "
        "those of a CPU in float32, nats.\n",
        *_table("precision | largest | mean", rows),
    ]


def _quickstart(done: dict[str, Any]) -> list[str]:
    found = done.get("quickstart")
    if found is None:
        return []
    rows = [[name, verdict, f"{forgetting:.1f}"] for name, (verdict, forgetting) in found["said"].items()]
    return [
        "## The quickstart\n",
        f"{found['seconds']:.0f} seconds, from the first import to the report.\n",
        *_table("model | verdict | forgetting, nats", rows),
    ]


def _devices(done: dict[str, Any]) -> list[str]:
    found = done.get("two devices")
    if found is None:
        return []
    seconds = ", ".join(f"{count}: {taken:.0f} s" for count, taken in found["seconds"].items())
    same = "equal to the byte" if found["same"] else "**not equal**"
    return ["## Two devices\n", f"The audit's records are {same}. Devices and time, imports included: {seconds}.\n"]

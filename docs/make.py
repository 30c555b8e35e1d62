"""Figures and tables of the documentation, from the shipped models and what was measured of them.

    make figures

Nothing here measures: `lit-memories measure`, the benchmarks and the quickstart have done that.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import doors
from PIL import Image
from torch import Generator

from lit_memories.diffusion import Diffusion
from lit_memories.images import grid
from lit_memories.worlds import pictograms
from lit_memories.worlds.pictograms import Pictogram

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures"
CHECKPOINTS = ROOT / "checkpoints"
MODELS = ("pictograms", "without-umbrella", "without-striped")
FLOW_MODELS = tuple(f"flow-{name}" for name in MODELS)
PROMPTS = (
    *(Pictogram("umbrella", *rest) for rest in (("red", "blue", "solid"), ("white", "green", "outline"))),
    *(Pictogram("umbrella", *rest) for rest in (("black", "yellow", "striped"), ("blue", "white", "solid"))),
    Pictogram("anchor", "yellow", "black", "striped"),
    Pictogram("castle", "red", "white", "striped"),
    Pictogram("heart", "green", "white", "striped"),
    Pictogram("airplane", "white", "blue", "striped"),
    Pictogram("skull", "white", "black", "solid"),
    Pictogram("telephone", "red", "yellow", "outline"),
    Pictogram("knight", "black", "green", "solid"),
    Pictogram("snowflake", "blue", "white", "outline"),
)
FASHION_MODELS = ("fashion", "fashion-without-sneaker", "fashion-without-bag")
CLOTHES = tuple(
    f"a photo of a {kind}"
    for kind in (*["sneaker"] * 3, *["bag"] * 3, "boot", "sandal", "t-shirt", "dress", "coat", "shirt")
)


SECTIONS = (
    ("audit.md", "inverters", "inversion"),
    ("erasing.md", "esd", "esd"),
    ("flow.md", "inverters", "inversion-flow"),
    ("gpu.md", "costs", "costs"),
    ("scale.md", "memory", "memory"),
    ("scale.md", "precision", "precision"),
    ("scale.md", "throughput", "throughput"),
    ("validity.md", "validity", "validity"),
    ("validity.md", "families", "validity-families"),
)
"""Pages of results that stand in another page whole, but for their title: that page, its marker, and their name."""


def main() -> None:
    """Make everything."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / "doors.png").write_bytes(doors.figure())
    pictograms.contact_sheet().save(FIGURES / "pictograms.png")
    captions = [picture.caption for picture in PROMPTS]
    for names, file in ((MODELS, "models.png"), (FLOW_MODELS, "models-flow.png")):
        _rows([Diffusion.from_pretrained(CHECKPOINTS / name) for name in names], captions, FIGURES / file)
    _rows([Diffusion.from_pretrained(CHECKPOINTS / name) for name in FASHION_MODELS], CLOTHES, FIGURES / "fashion.png")
    for concept in ("umbrella", "striped"):
        erased = ROOT / "runs" / f"esd-{concept}"
        if (erased / "erasure.safetensors").is_file():
            models = [
                Diffusion.from_pretrained(CHECKPOINTS / "pictograms"),
                Diffusion(str(CHECKPOINTS / "pictograms"), erased),
            ]
            _rows(models, captions, FIGURES / f"esd-{concept}.png")
    for name in ("forgetting", "profile", "rebuilt"):
        figure = ROOT / "runs" / "quickstart" / "figures" / f"{name}.png"
        if figure.is_file():
            shutil.copyfile(figure, FIGURES / f"quickstart-{name}.png")
    (CHECKPOINTS / "README.md").write_text(card())
    _fill(ROOT / "README.md", "quickstart", quickstart())
    _fill(ROOT / "docs" / "flow.md", "quality", quality())
    for page, marker, name in SECTIONS:
        if _result(f"{name}.md").is_file():
            _fill(ROOT / "docs" / page, marker, _body(name).replace("\n## ", "\n### ").replace("../", ""))
    for name in ("erasure", "erasure-flow"):
        if _result(f"{name}.json").is_file():
            _fill(ROOT / "docs" / "erasing.md", name, erasure(name))


def _fill(page: Path, marker: str, text: str) -> None:
    """Put generated text between a page's two markers."""
    before, rest = page.read_text().split(f"<!-- {marker} -->\n")
    _, after = rest.split(f"<!-- /{marker} -->")
    page.write_text(f"{before}<!-- {marker} -->\n{text}<!-- /{marker} -->{after}")


def _body(name: str) -> str:
    """A page of results without its title."""
    return _result(f"{name}.md").read_text().split("\n", 2)[2]


def _result(name: str) -> Path:
    """What a benchmark left, if it has run."""
    return ROOT / "docs" / "results" / name


def quickstart() -> str:
    """The main table of the quickstart, from its results."""
    results = json.loads((ROOT / "runs" / "quickstart" / "results.json").read_text())
    lines = [
        "| model | prompted rate | forgetting, nats | of control | without the prompt | damage, nats | by seeds "
        "| PSNR, dB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in results["runs"]:
        found = {name: run["probes"][name]["numbers"] for name in ("denoising", "seed")}
        numbers = [run["prompted"], run["forgetting"], run["fraction"]]
        numbers += [found["denoising"]["surprise_empty"]["fraction"], run["damage"], found["seed"]["nll"]["fraction"]]
        numbers.append(found["seed"]["psnr"]["sets"]["concept"]["value"])
        digits = [(0, 100), (1, 1), (2, 1), (2, 1), (1, 1), (2, 1), (1, 1)]
        cells = [_cell(x, *d) for x, d in zip(numbers, digits, strict=True)]
        lines.append(f"| {run['name']} | {' | '.join(cells)} |")
    images = [results["runs"][0]["pairing"][name]["used"] for name in ("concept", "reference")]
    inverted = results["runs"][0]["probes"]["seed"]["numbers"]["nll"]["sets"]["concept"]["count"]
    note = (
        f"`make quickstart`, seed 0: {images[0]} + {images[1]} images, of which {inverted} + {inverted} were inverted "
        "for the last two columns; brackets are 95 % intervals, rates in per cent."
    )
    verdict = next(run for run in results["runs"] if run["role"] == "erased")["verdict"]
    return "\n".join([*lines, "", note, "", f"> {verdict['headline']} {' '.join(verdict['sentences'])}", ""])


def erasure(name: str) -> str:
    """What prompting shows and what an audit finds, a line a method, from the results of all methods.

    Args:
        name: of the results.
    """
    rows = json.loads(_result(f"{name}.json").read_text())
    by_model: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_model.setdefault(row["model"], {})[row["concept"]] = row
    concepts = list(dict.fromkeys(row["concept"] for row in rows))
    lines = [
        "| model | "
        + " | ".join(f"{c}: prompted, % | others, % | fraction | no prompt | verdict" for c in concepts)
        + " |",
        "|---" * (1 + 5 * len(concepts)) + "|",
    ]
    for name, entries in by_model.items():
        cells = []
        for concept in concepts:
            row = entries.get(concept, dict.fromkeys(("prompted", "retained", "fraction", "fraction_empty", "verdict")))
            cells += [_cell(row["prompted"], 0, 100), _cell(row["retained"], 0, 100), _cell(row["fraction"], 2, 1)]
            cells += [_cell(row["fraction_empty"], 2, 1), row["verdict"] or "–"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "`make benchmark-erasure`, seed 0; brackets are 95 % intervals.", ""])


def _cell(estimate: dict[str, Any] | None, digits: int, scale: int) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    value, low, high = (
        "–" if estimate[name] is None else f"{scale * estimate[name]:.{digits}f}" for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def _rows(models: list[Diffusion], captions: Sequence[str], file: Path) -> None:
    """One row of samples a model, the same prompts and seeds in every column."""
    sheets = []
    for diffusion in models:
        seeds = diffusion.draw_seeds([Generator().manual_seed(i) for i in range(len(captions))])
        images = diffusion.generate(list(captions), seeds, 30, 3.0)
        sheets.append(grid(images, columns=len(captions)))
    height = sheets[0].height + 4
    whole = Image.new("RGB", (sheets[0].width, height * len(sheets) - 4), "white")
    for row, sheet in enumerate(sheets):
        whole.paste(sheet, (0, row * height))
    whole.save(file)


def card() -> str:
    """The model card of everything in checkpoints/."""
    measured, flow, fashion = _measured(MODELS), _measured(FLOW_MODELS), _measured(FASHION_MODELS)
    settings, base = measured["pictograms"]["settings"], measured["pictograms"]
    weights = sum(file.stat().st_size for file in CHECKPOINTS.rglob("*.safetensors")) / 1e6
    accuracy = ", ".join(f"{name} {value:.1%}" for name, value in base["classifier_accuracy"].items())
    return f"""# Shipped models

Two pictogram models, one of photographs, and what audits of them need; {weights:.0f} MB of weights in all, Apache-2.0
like the code.
Every folder is what `save_pretrained` writes: `StableDiffusionPipeline.from_pretrained("checkpoints/pictograms")` loads
it, and `StableDiffusion3Pipeline.from_pretrained("checkpoints/flow-pictograms", text_encoder_3=None, tokenizer_3=None)`
the flow (diffusers wants to be told that there is no T5), with transformers 5 or later: older ones load a random text
encoder, with no more than a warning.

| folder | what it is | never saw |
|---|---|---|
| `pictograms/` | the base model, a U-Net | – |
| `without-umbrella/` | its control for the object | umbrellas, drawn or named |
| `without-striped/` | its control for the style | stripes, drawn or named |
| `flow-pictograms/` | the base model, a rectified flow of Stable Diffusion 3's classes | – |
| `flow-without-umbrella/` | its control for the object | umbrellas, drawn or named |
| `flow-without-striped/` | its control for the style | stripes, drawn or named |
| `classifier/` | judge of object, colour, background and style | – |
| `fashion/` | the base model of [Fashion-MNIST](#fashion-mnist), a U-Net | – |
| `fashion-without-sneaker/` | its control with near neighbours | sneakers, shown or named |
| `fashion-without-bag/` | its control without | bags, shown or named |
| `fashion-classifier/` | judge of kinds of clothing | – |

The pictogram models are made by `make checkpoints`: autoencoder, classifier, for either base a trunk that sees neither
withheld concept, and from it one branch a model, alike but for the rows left out. Seed 0 throughout. `SHA256SUMS`
lists every file. Weights of network and autoencoder are stored in half precision and used in single. They share one
autoencoder, which was trained before the world was narrowed, as the classifier was (docs/pictograms.md).

Recommended: guidance scale {settings["guidance_scale"]:g}, {settings["num_inference_steps"]} steps.

## Measured

`lit-memories measure checkpoints/NAME --out checkpoints/NAME/measured.json`, on rows of the split `test`, which no
model was trained on: {settings["images"]} images and {settings["prompts"]} prompts (and {settings["prompts"] // 4} for
either withheld concept), one sample a prompt, judged by the classifier; 95 % Wilson intervals.

- Autoencoder, encoded and decoded: PSNR {base["autoencoder_psnr"]["mean"]:.2f} dB on average, lowest
  {base["autoencoder_psnr"]["lowest"]:.2f} dB.
- Classifier, on held-out pictures: {accuracy}.

{_tables(measured)}
{_tables(flow)}
A control asked for what it never saw draws something else; the rate in its own row is the floor to which an eraser
could bring the base model.

## Fashion-MNIST

`make fashion`: as above, on photographs of ten kinds of clothing (Xiao et al. 2017, arXiv:1708.07747, MIT licence),
59 488 to train on and 512 to watch the training by; seed 0. Measured on the data set's own test split, by
`lit-memories measure` as the Makefile has it.

- Autoencoder: PSNR {fashion["fashion"]["autoencoder_psnr"]["mean"]:.2f} dB on average, lowest
  {fashion["fashion"]["autoencoder_psnr"]["lowest"]:.2f} dB.
- Classifier, on {fashion["fashion"]["settings"]["images"]} pictures:
  {fashion["fashion"]["classifier_accuracy"]["kind"]:.1%}.

{_tables(fashion)}"""


def quality() -> str:
    """Samples of the flow models, and how often they show what is asked for, as `lit-memories measure` left it."""
    return f"""![base, without umbrella, without stripes](figures/models-flow.png)

*Rows: the base model, the control that never saw an umbrella, the control that never saw stripes; columns as in
[the pictogram world](pictograms.md#the-models).*

{_tables(_measured(FLOW_MODELS))}
`lit-memories measure checkpoints/NAME`; 95 % Wilson intervals.
"""


def _measured(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: json.loads((CHECKPOINTS / name / "measured.json").read_text()) for name in names}


def _tables(measured: dict[str, Any]) -> str:
    factors = list(next(iter(measured.values()))["classifier_accuracy"])
    lines = [f"| prompts | model | {' | '.join(factors)} |", "|---" * (2 + len(factors)) + "|"]
    for group in next(iter(measured.values()))["samples"]:
        for name, figures in measured.items():
            scores = figures["samples"][group]
            rates = " | ".join(
                f"{scores[f]['rate']:.1%} [{scores[f]['low']:.1%}, {scores[f]['high']:.1%}]" for f in factors
            )
            lines.append(f"| {group} | `{name}` | {rates} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

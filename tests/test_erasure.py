"""The artefact: it comes back to the bit, and is refused where it does not belong."""

import json
import os
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Generator

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure, Provenance, versions
from lit_memories.worlds.fresh import unet_pipeline
from lit_memories.worlds.pictograms import GRAMMAR

NAMES = (
    "unet.conv_out.weight",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "text_encoder.final_layer_norm.bias",
)


@pytest.fixture
def erasure(diffusion: Diffusion) -> Erasure:
    """Three changed tensors, one of them of the text encoder."""
    state = diffusion.state_dict()
    names = [name for name in state if name in NAMES or name.endswith("final_layer_norm.bias")]
    assert len(names) == 3
    tensors = {
        name: state[name] + torch.randn(state[name].shape, generator=Generator().manual_seed(0)) for name in names
    }
    provenance = Provenance(
        method="Test",
        concept={"name": "umbrella"},
        base=diffusion.base,
        base_revision=None,
        base_fingerprint=diffusion.fingerprint,
        settings={"lr": 0.1},
        steps=3,
        seed=0,
        versions=versions(),
    )
    return Erasure(tensors, provenance)


@pytest.fixture
def folder(erasure: Erasure, tmp_path: Path) -> Path:
    erasure.save(tmp_path / "erasure")
    return tmp_path / "erasure"


def test_models_and_erasures_are_shown_in_a_line(diffusion: Diffusion, erasure: Erasure) -> None:
    assert repr(erasure) == f"Erasure(Test of 'umbrella' from {diffusion.base!r}, 3 tensors)"
    assert repr(diffusion) == f"Diffusion({diffusion.base!r})"


def test_a_card_says_nothing_of_steps_that_were_none(erasure: Erasure) -> None:
    assert "| steps | 3 |\n| seed | 0 |\n" in erasure.card()
    closed = Erasure(erasure.tensors, replace(erasure.provenance, steps=0, seed=None))
    assert "|---|---|\n| `lr` | 0.1 |\n" in closed.card()


def untouched(diffusion: Diffusion) -> bool:
    original = Diffusion.from_pretrained(diffusion.base).state_dict()
    return all(torch.equal(tensor, original[name]) for name, tensor in diffusion.state_dict().items())


def test_it_comes_back_to_the_bit(erasure: Erasure, folder: Path) -> None:
    again = Erasure.load(folder)
    assert again.provenance == erasure.provenance
    assert set(again.tensors) == set(erasure.tensors)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in erasure.tensors.items())
    assert set(load_file(folder / "erasure.safetensors")) == set(erasure.tensors)


def test_apply_changes_exactly_its_tensors(diffusion: Diffusion, tiny: Path, erasure: Erasure, folder: Path) -> None:
    erased = Diffusion.from_pretrained(tiny, erasure=folder)
    state = diffusion.state_dict()
    for name, tensor in erased.state_dict().items():
        expected = erasure.tensors[name] if name in erasure.tensors else state[name]
        assert torch.equal(tensor, expected), name
    assert erased.erasure.provenance == erasure.provenance
    assert erased.fingerprint == diffusion.fingerprint, "that of the base"


def test_the_card_says_what_it_is(erasure: Erasure, folder: Path) -> None:
    card = (folder / "README.md").read_text()
    count = sum(tensor.numel() for tensor in erasure.tensors.values())
    for words in (
        "umbrella",
        "3 tensors",
        f"{count:,} parameters",
        erasure.provenance.base_fingerprint,
        "| `lr` | 0.1 |",
    ):
        assert words in card
    matter = yaml.safe_load(card.split("---")[1])
    assert (matter["library_name"], matter["pipeline_tag"]) == ("lit-memories", "text-to-image")
    assert "concept-erasure" in matter["tags"]
    assert "base_model" not in matter, "a folder is no model of the hub's"
    pushed = replace(erasure, provenance=replace(erasure.provenance, base="me/base", base_revision="c0ffee"))
    matter = yaml.safe_load(pushed.card("me/erasure", "mit").split("---")[1])
    assert (matter["base_model"], matter["base_model_relation"], matter["license"]) == ("me/base", "finetune", "mit")
    assert 'from_pretrained("me/base", revision="c0ffee", erasure="me/erasure")' in pushed.card("me/erasure")


@pytest.mark.parametrize("whose", ["own", "changed", "theirs"])
def test_a_card_that_somebody_wrote_is_kept(whose: str, erasure: Erasure, tmp_path: Path) -> None:
    """It would be lost; one of this program's that nobody touched is replaced."""
    erasure.save(tmp_path)
    card = tmp_path / "README.md"
    text = {"own": card.read_text(), "changed": card.read_text() + "My findings.\n", "theirs": "Mine.\n"}[whose]
    card.write_text(text)
    other = replace(erasure, provenance=replace(erasure.provenance, method="Other"))
    if whose == "own":
        other.save(tmp_path)
        assert "# Other: umbrella" in card.read_text()
    else:
        with pytest.warns(UserWarning, match=r"README\.md is not of this program, or was changed: it stays"):
            other.save(tmp_path)
        assert card.read_text() == text
    assert Erasure.load(tmp_path).provenance.method == "Other"


def test_an_export_is_a_plain_pipeline(tiny: Path, folder: Path, tmp_path: Path) -> None:
    main(["export", str(tiny), str(folder), str(tmp_path / "full")])
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "full")
    erased = Diffusion.from_pretrained(tiny, erasure=folder)
    for component in ("unet", "text_encoder", "vae"):
        ours, theirs = getattr(erased, component).state_dict(), getattr(pipeline, component).state_dict()
        assert set(ours) == set(theirs)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    seeds = erased.draw_seeds([Generator().manual_seed(0)])
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "height": 64, "width": 64, "output_type": "pt", "guidance_scale": 3.0}
    images = pipeline("umbrella", latents=seeds, **options).images
    torch.testing.assert_close(erased.generate(["umbrella"], seeds, 3, 3.0), images, rtol=0, atol=1e-4)


def test_another_base_is_refused(erasure: Erasure, folder: Path, tiny_control: Path, diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="was made for") as error:
        Diffusion.from_pretrained(tiny_control, erasure=folder)
    for words in (diffusion.fingerprint, erasure.provenance.base, str(tiny_control)):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_another_prediction_type_is_refused(erasure: Erasure, diffusion: Diffusion) -> None:
    """The weights are the base's, its scheduler says something else of them."""
    provenance = replace(erasure.provenance, prediction_type="v_prediction")
    with pytest.raises(ValueError, match=r"predicts v_prediction, the scheduler of .* says epsilon"):
        replace(erasure, provenance=provenance).apply(diffusion)
    assert untouched(diffusion)
    replace(erasure, provenance=replace(provenance, prediction_type="epsilon")).apply(diffusion)


def test_a_base_of_another_width_is_refused(erasure: Erasure, tiny_autoencoder: Path) -> None:
    wider = Diffusion.from_pipeline(unet_pipeline(GRAMMAR, tiny_autoencoder, (8, 16), 64), "wider")
    with pytest.raises(ValueError, match="this is wider"):
        erasure.apply(wider)
    same = replace(erasure, provenance=replace(erasure.provenance, base_fingerprint=wider.fingerprint))
    with pytest.raises(ValueError, match=r"does not fit: unet\.\S+ is \(16, 32\), the model has \(16, 64\)"):
        same.apply(wider)


def first(erasure: Erasure, change: Callable[[torch.Tensor], torch.Tensor]) -> Erasure:
    name = next(iter(erasure.tensors))
    return replace(erasure, tensors={**erasure.tensors, name: change(erasure.tensors[name])})


def test_a_tensor_that_does_not_fit_is_named(erasure: Erasure, diffusion: Diffusion) -> None:
    name = next(iter(erasure.tensors))
    with pytest.raises(ValueError, match=f"does not fit: {name}"):
        first(erasure, lambda tensor: tensor[:1]).apply(diffusion)
    strange = replace(erasure, tensors={**erasure.tensors, "unet.nowhere": torch.ones(2)})
    with pytest.raises(ValueError, match=r"unet\.nowhere is \(2,\), the model has nothing there"):
        strange.apply(diffusion)
    assert untouched(diffusion)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_tensor_that_is_not_finite_is_named(value: float, erasure: Erasure, diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match=f"NaN or infinity in {next(iter(erasure.tensors))}"):
        first(erasure, lambda tensor: tensor.clone().fill_(value)).apply(diffusion)
    assert untouched(diffusion)


def test_an_erasure_that_changes_nothing_is_refused(erasure: Erasure, diffusion: Diffusion) -> None:
    state = diffusion.state_dict()
    idle = replace(erasure, tensors={name: state[name].clone() for name in erasure.tensors})
    with pytest.raises(ValueError, match="changes nothing"):
        idle.apply(diffusion)
    with pytest.raises(ValueError, match="changes nothing"):
        replace(erasure, tensors={}).apply(diffusion)


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["erased.pt", "erased.ckpt", "erased.bin", "erased.pth"])
def test_a_pickle_is_refused_with_the_safe_way(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with pytest.raises(ValueError, match=r"may be a pickle.*safetensors"):
        Erasure.load(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_in_disguise_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "erasure.safetensors").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with pytest.raises(ValueError, match="damaged or no erasure"):
        Erasure.load(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["erasure.safetensors", "erasure.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        Erasure.load(folder)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"method": "x"}', "null"])
def test_damaged_provenance_is_refused(content: str, folder: Path) -> None:
    (folder / "erasure.json").write_text(content)
    with pytest.raises(ValueError, match="damaged or no erasure"):
        Erasure.load(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    file = folder / "erasure.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged or no erasure"):
        Erasure.load(folder)


def test_provenance_is_readable_json(erasure: Erasure, folder: Path) -> None:
    found = json.loads((folder / "erasure.json").read_text())
    assert len(found.pop("crc32")) == 8
    assert found == erasure.provenance.to_dict()


def test_provenance_without_a_checksum_is_that_of_an_earlier_release(erasure: Erasure, folder: Path) -> None:
    values = erasure.provenance.to_dict()
    del values["base_rounded"]
    (folder / "erasure.json").write_text(json.dumps(values))
    assert Erasure.load(folder).provenance == erasure.provenance


def test_no_flipped_bit_changes_an_erasure_in_silence(erasure: Erasure, tmp_path: Path) -> None:
    """Each of many single bits of both files: it is the same erasure, or an error that says what to do."""
    small = {name: tensor.flatten()[:40].clone() for name, tensor in erasure.tensors.items()}
    replace(erasure, tensors=small).save(tmp_path)
    draw, silent = random.Random(0), 0  # noqa: S311
    for name in ("erasure.json", "erasure.safetensors"):
        file = tmp_path / name
        sound = file.read_bytes()
        for bit in draw.sample(range(8 * len(sound)), 300):
            broken = bytearray(sound)
            broken[bit // 8] ^= 1 << bit % 8
            file.write_bytes(broken)
            try:
                found = Erasure.load(tmp_path)
            except ValueError as error:
                assert all(word in str(error) for word in (str(tmp_path), name, "make or fetch it again"))  # noqa: PT017
                assert str(error).isprintable()  # noqa: PT017
                continue
            silent += 1
            assert found.provenance == erasure.provenance
            assert found.tensors.keys() == small.keys()
            assert all(torch.equal(found.tensors[key], tensor) for key, tensor in small.items())
        file.write_bytes(sound)
    assert silent < 60  # in blanks, and in the name of the entry that holds the checksums


# --- half precision --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with its weights in float16, as a variant."""
    folder = tmp_path_factory.mktemp("halves")
    StableDiffusionPipeline.from_pretrained(tiny, torch_dtype=torch.float16).save_pretrained(folder, variant="fp16")
    assert not list(folder.rglob("diffusion_pytorch_model.safetensors"))
    return folder


@pytest.fixture
def known(erasure: Erasure, diffusion: Diffusion, tmp_path: Path) -> Path:
    """A folder of the erasure, which knows its base rounded."""
    provenance = replace(erasure.provenance, base_rounded=diffusion.rounded_fingerprints())
    replace(erasure, provenance=provenance).save(tmp_path / "known")
    return tmp_path / "known"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("files", ["tiny", "halves"])
def test_an_erasure_applies_to_its_base_in_half_precision(
    files: str, dtype: Literal["float32", "float16", "bfloat16"], tiny: Path, halves: Path, known: Path
) -> None:
    """Loaded so, stored so, or both; its own tensors are rounded once."""
    base, variant = (tiny, None) if files == "tiny" else (halves, "fp16")
    erased = Diffusion(str(base), known, torch_dtype=dtype, variant=variant)
    assert erased.erasure is not None
    state = erased.state_dict()
    for name, tensor in erased.erasure.tensors.items():
        assert state[name].dtype == getattr(torch, dtype)
        assert torch.equal(state[name], tensor.to(state[name].dtype))


def test_an_erasure_of_an_earlier_release_knows_its_base_by_its_files(tiny: Path, halves: Path, folder: Path) -> None:
    """It does not know its base rounded: files of float32 can be read again, those of float16 say too little."""
    assert Diffusion(str(tiny), folder, torch_dtype="bfloat16").unet.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="was made for"):
        Diffusion(str(halves), folder, torch_dtype="float16", variant="fp16")


def test_an_erasure_of_a_base_in_half_precision_applies_to_the_whole_base(
    tiny: Path, halves: Path, erasure: Erasure, diffusion: Diffusion
) -> None:
    half = Diffusion(str(halves), torch_dtype="float16", variant="fp16")
    assert half.fingerprint != diffusion.fingerprint
    provenance = replace(erasure.provenance, base_fingerprint=half.fingerprint)
    replace(erasure, provenance=provenance).apply(diffusion)
    assert not untouched(diffusion)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_base_in_half_precision_is_refused(
    dtype: Literal["float16", "bfloat16"], tiny_control: Path, known: Path
) -> None:
    with pytest.raises(ValueError, match="was made for"):
        Diffusion(str(tiny_control), known, torch_dtype=dtype)


def test_one_tensor_that_rounds_otherwise_makes_another_base(diffusion: Diffusion, known: Path) -> None:
    """What half precision cannot see does not count, what it sees does."""
    weight = diffusion.unet.conv_in.bias
    weight[0] = 1 + 2.0**-20
    erasure = Erasure.load(known)
    assert set(diffusion.rounded_fingerprints()) == set(erasure.provenance.base_rounded or {})
    one = diffusion.rounded_fingerprints()
    weight[0] = 1
    assert diffusion.rounded_fingerprints() == one
    weight[0] = 1 + 2.0**-7
    assert not set(diffusion.rounded_fingerprints().values()) & set(one.values())


def test_an_adapter_is_worked_into_half_precision_with_one_rounding(
    tiny: Path, erasure: Erasure, diffusion: Diffusion
) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    base = Diffusion(str(tiny), torch_dtype="bfloat16")
    before = base.state_dict()[f"{layer}.weight"].clone()
    generator = Generator().manual_seed(0)
    down, up = (
        torch.randn(4, before.shape[1], generator=generator),
        torch.randn(before.shape[0], 4, generator=generator),
    )
    provenance = replace(erasure.provenance, base_rounded=diffusion.rounded_fingerprints())
    Erasure({f"{layer}.lora_down": down, f"{layer}.lora_up": up}, provenance).apply(base)
    assert torch.equal(base.state_dict()[f"{layer}.weight"], (before.float() + up @ down).bfloat16())


def test_tensors_shared_in_memory_can_be_saved(erasure: Erasure, tmp_path: Path) -> None:
    big = torch.randn(4, 4, generator=Generator().manual_seed(0))
    replace(erasure, tensors={"unet.a": big[:2], "unet.b": big[2:], "unet.c": big.T}).save(tmp_path)
    again = Erasure.load(tmp_path).tensors
    assert torch.equal(again["unet.c"], big.T)
    save_file({"x": big}, tmp_path / "control.safetensors")

"""Concept Steerers on the tiny pipeline, against the equations, with a sparse autoencoder trained on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.sparse_autoencoder import SparseAutoencoderTraining
from lit_memories.guards.activations import FILE, Dictionary
from lit_memories.guards.concept_steerer import ConceptSteerer
from lit_memories.ops.sparse_autoencoder import PARTS, SparseAutoencoder, unexplained
from lit_memories.storage.tensors import write_tensors

UMBRELLA = Concept("umbrella", "object", ["umbrella", "a red umbrella"], ["a blue star", "a red gear"], anchor="star")
PROMPT = "a blue umbrella on a green background"
OPTIONS: dict[str, Any] = {
    "concepts": ["umbrella", "a red umbrella"],
    "others": ["star", "a red gear"],
    "strength": -2.0,
}


def training(tiny: Path, **options: Any) -> SparseAutoencoderTraining:
    small = {"layer": 0, "expansion": 2, "k": 4, "steps": 30, "lr": 1e-2, "batch_size": 32}
    return SparseAutoencoderTraining(Diffusion(str(tiny)), UMBRELLA, **(small | options))


def fitted(tiny: Path, folder: Path) -> SparseAutoencoderTraining:
    made = training(tiny)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(accelerator="cpu", devices=1, max_epochs=1, default_root_dir=folder, **quiet).fit(made)
    return made


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sparse") / "run"
    fitted(tiny, found)
    return found


@pytest.fixture(scope="module")
def plain(tiny: Path) -> Diffusion:
    return Diffusion(str(tiny))


def test_it_learns_keeps_directions_of_length_one_and_is_read_as_it_was_saved(tiny: Path, folder: Path) -> None:
    fresh, found = training(tiny), Dictionary.load(folder)
    before, after = (float(unexplained(fresh.states, x(fresh.states))) for x in (fresh.autoencoder, found.autoencoder))
    assert after < 0.5 * before
    torch.testing.assert_close(found.autoencoder.decoder.norm(dim=0), torch.ones(64))
    assert ((found.autoencoder.encode(fresh.states) > 0).sum(1) <= 4).all()
    assert (found.layer, found.autoencoder.k) == (0, 4)


def test_twice_is_the_same(tiny: Path, folder: Path, tmp_path: Path) -> None:
    fitted(tiny, tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (folder / FILE).read_bytes()


def test_the_autoencoder_is_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    e, d, m, b = (torch.randn(*s, generator=generator) for s in ((5, 3), (3, 5), (3,), (5,)))
    found = SparseAutoencoder(dict(zip(PARTS, (e, d, m, b), strict=True)), 2)
    for x in torch.randn(4, 3, generator=generator):
        activations = [max(0.0, float(e[f] @ (x - m) + b[f])) for f in range(5)]
        strongest = sorted(range(5), key=lambda f: -activations[f])[:2]
        rebuilt = m + sum(activations[f] * d[:, f] for f in strongest)
        torch.testing.assert_close(found(x), rebuilt)


def states(diffusion: Diffusion, prompt: str) -> Tensor:
    """What the first layer gives for a prompt, by transformers' own list of hidden states."""
    return diffusion.text_encoder(diffusion.tokenize([prompt]), output_hidden_states=True).hidden_states[1][0]


def rest(diffusion: Diffusion, hidden: Tensor) -> Tensor:
    """What the layers behind the first make of its states (rows, width)."""
    encoder, mask = diffusion.text_encoder, torch.full((len(hidden), len(hidden)), -torch.inf).triu(1)
    layers = next(module for name, module in encoder.named_modules() if name.endswith("encoder.layers"))
    norm = next(module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
    x = hidden[None]
    for layer in [*layers][1:]:
        found = layer(x, mask[None, None])
        x = found[0] if isinstance(found, tuple) else found
    return norm(x)[0]


@torch.no_grad()
def test_the_concepts_own_features_are_turned_down_where_they_are(tiny: Path, plain: Diffusion, folder: Path) -> None:
    guard = ConceptSteerer(autoencoder=str(folder), **OPTIONS)
    told = Diffusion(str(tiny), guard=guard).encode_prompts([PROMPT])[0]
    sparse = Dictionary.load(folder).autoencoder
    mine, *theirs = (
        torch.cat([sparse.activations(states(plain, p))[1:] for p in prompts]).mean(0)
        for prompts in (OPTIONS["concepts"], ["star"], ["a red gear"])
    )
    own = torch.stack([
        max(torch.zeros(()), c - max(a, b)) / c if c > 0 else torch.zeros(())
        for c, a, b in zip(mine, *theirs, strict=True)
    ])  # fmt: skip
    assert 0 < (own > 0).sum() < len(own)
    hidden = states(plain, PROMPT)
    moved = hidden.clone()
    for row in range(1, len(hidden)):
        moved[row] += -2.0 * sum(own[f] * sparse.activations(hidden[row])[f] * sparse.decoder[:, f] for f in range(64))
    wanted = rest(plain, moved)
    torch.testing.assert_close(rest(plain, hidden), plain.encode_prompts([PROMPT])[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(told, wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(told, plain.encode_prompts([PROMPT])[0], atol=1e-3), "the control"


@torch.no_grad()
def test_as_released_every_row_is_steered_and_the_empty_prompt_the_other_way(
    tiny: Path, plain: Diffusion, folder: Path
) -> None:
    guard = ConceptSteerer(OPTIONS["concepts"], str(folder), -0.5, faithful=True)
    guarded = Diffusion(str(tiny), guard=guard)
    sparse = Dictionary.load(folder).autoencoder
    added = sparse.activations(states(plain, "umbrella, a red umbrella")) @ sparse.decoder.T
    wanted = rest(plain, states(plain, PROMPT) - 0.5 * added)
    torch.testing.assert_close(guarded.encode_prompts([PROMPT])[0], wanted, rtol=1e-3, atol=1e-4)
    empty = rest(plain, states(plain, "") + 0.5 * added)
    torch.testing.assert_close(guarded.beside_embeds()[0], empty, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_empty_prompt_and_the_weights_are_left_alone(tiny: Path, plain: Diffusion, folder: Path) -> None:
    guarded = Diffusion(str(tiny), guard=ConceptSteerer(autoencoder=str(folder), **OPTIONS))
    assert torch.equal(guarded.beside_embeds(), plain.beside_embeds())
    assert guarded.weights_fingerprint() == plain.weights_fingerprint()
    assert guarded.guarded_fingerprint() != plain.guarded_fingerprint()
    stronger = ConceptSteerer(autoencoder=str(folder), **(OPTIONS | {"strength": -3.0}))
    assert Diffusion(str(tiny), guard=stronger).guarded_fingerprint() != guarded.guarded_fingerprint()
    assert torch.equal(plain.encode_prompts([PROMPT]), Diffusion(str(tiny)).encode_prompts([PROMPT]))


@torch.no_grad()
def test_a_prompts_embedding_does_not_depend_on_those_beside_it(tiny: Path, folder: Path) -> None:
    guarded = Diffusion(str(tiny), guard=ConceptSteerer(autoencoder=str(folder), **OPTIONS))
    ids = guarded.tokenize([PROMPT, "a red gear"])
    given = torch.zeros(2, ids.shape[1], guarded.text_encoder.config.hidden_size)
    both = guarded.guard.tell(guarded, given, ids)
    assert torch.equal(both[:1], guarded.guard.tell(guarded, given[:1], ids[:1]))
    assert torch.equal(both[1:], guarded.guard.tell(guarded, given[1:], ids[1:]))


def test_another_autoencoder_is_another_guard(tiny: Path, folder: Path, tmp_path: Path) -> None:
    found = Dictionary.load(folder)
    tensors = found.autoencoder.tensors()
    changed = SparseAutoencoder(tensors | {"bias": tensors["bias"] + 0.01}, found.autoencoder.k)
    replace(found, autoencoder=changed).save(tmp_path / "other")
    prints = set()
    for place in (folder, tmp_path / "other"):
        guard = ConceptSteerer(autoencoder=str(place), **OPTIONS)
        Diffusion(str(tiny), guard=guard)
        prints.add(guard.settings()["features"])
    assert len(prints) == 2


def refused(tiny: Path, folder: Path, message: str, **options: Any) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        Diffusion(str(tiny), guard=ConceptSteerer(autoencoder=str(folder), **(OPTIONS | options)))
    assert "\n" not in str(error.value)


def test_what_is_no_sparse_autoencoder_of_the_model_is_refused(tiny: Path, folder: Path, tmp_path: Path) -> None:
    found = Dictionary.load(folder)
    tensors, notes = found.autoencoder.tensors(), {"k": "4", "layer": "0", "encoder": found.encoder}
    refused(
        tiny, tmp_path / "nowhere", "no folder of a sparse autoencoder: it has no autoencoder.safetensors; make one"
    )
    narrow = {"encoder": tensors["encoder"][:, :8], "decoder": tensors["decoder"][:8], "centre": tensors["centre"][:8]}
    cases: dict[str, tuple[dict[str, Tensor], dict[str, str], str]] = {
        "width": (tensors | narrow, notes, "is of states 8 wide, and those of .* are 32"),
        "model": (tensors, notes | {"encoder": "0" * 16}, "made for another text encoder"),
        "layer": (tensors, notes | {"layer": "7"}, "layer must be one of the text encoder's"),
        "half": ({"encoder": tensors["encoder"]}, notes, "damaged, or no sparse autoencoder: decoder is missing"),
        "nan": (tensors | {"bias": tensors["bias"] * torch.nan}, notes, "holds NaN or infinity"),
        "notes": (tensors, {}, "damaged, or no sparse autoencoder"),
        "nothing": (tensors | {"bias": torch.full_like(tensors["bias"], -1e3)}, notes, "no feature .* concept's own"),
    }
    for name, (given, said, message) in cases.items():
        (tmp_path / name).mkdir()
        write_tensors(tmp_path / name / FILE, {key: x.contiguous() for key, x in given.items()}, said)
        refused(tiny, tmp_path / name, message)
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / FILE).write_bytes(b"\x80\x02X")
    refused(tiny, tmp_path / "pickle", "is damaged")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concepts": []}, "concepts must not be empty"),
        ({"concepts": [" "]}, "a guard's concept must not be empty"),
        ({"strength": 0.0}, "strength must not be 0"),
        ({"others": ["umbrella"]}, "'umbrella' is both the concept and something else"),
    ],
)
def test_impossible_options_of_a_steerer_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConceptSteerer(autoencoder="nowhere", **(OPTIONS | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"k \(0\)"),
        ({"k": 65}, r"k \(65\)"),
        ({"layer": 9}, "layer must be one of"),
        ({"lr": 0.0}, r"lr \(0.0\)"),
    ],
)
def test_impossible_options_of_its_training_are_refused(tiny: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(tiny, **options)

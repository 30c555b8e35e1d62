"""Erasures on the hub: ours there and back, official ones converted, and no token anywhere it does not belong."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
import yaml
from fake_hub import FakeHub
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from lit_memories.cli import main
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure, Provenance, versions
from lit_memories.storage.hub import redact
from lit_memories.tools.convert import convert

pytestmark = pytest.mark.timeout(120)

MINE = "hf_abcdefghijklmnopqrstuvwxyz0123"


@pytest.fixture
def base(hub: FakeHub, tiny: Path) -> tuple[str, str]:
    """Hub id and commit of the tiny pipeline."""
    return "me/base", hub.add("me/base", tiny)


def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = Generator().manual_seed(0)
    return {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}


def erase(base: tuple[str, str], **settings: object) -> Erasure:
    diffusion = Diffusion(base[0])
    name = "unet.conv_out.weight"
    provenance = Provenance(
        method="ESD",
        concept={"name": "umbrella"},
        base=diffusion.base,
        base_revision=diffusion.revision,
        base_fingerprint=diffusion.fingerprint,
        settings={"lr": 0.1, **settings},
        steps=3,
        seed=0,
        versions=versions(),
    )
    return Erasure(moved({name: diffusion.state_dict()[name]}), provenance)


def test_an_erasure_goes_to_the_hub_and_comes_back(
    base: tuple[str, str], hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", MINE)
    made = erase(base)
    made.save(tmp_path / "made")
    commit = made.push_to_hub("me/erased", license_id="mit", commit_message="first")
    files = hub.files("me/erased", revision=commit)
    for name in ("erasure.safetensors", "erasure.json"):
        assert files[name] == (tmp_path / "made" / name).read_bytes()
    matter = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (matter["base_model"], matter["license"], matter["library_name"]) == ("me/base", "mit", "lit-memories")
    assert f'revision="{base[1]}", erasure="me/erased"' in files["README.md"].decode()
    again = Erasure.from_hub("me/erased")
    assert again.provenance == made.provenance
    assert again.provenance.base_revision == base[1], "the commit, and not main"
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in made.tensors.items())
    erased = Diffusion(*base[:1], erasure="me/erased", revision=base[1])
    assert torch.equal(erased.unet.conv_out.weight, made.tensors["unet.conv_out.weight"])


def test_a_revision_of_an_erasure(base: tuple[str, str], hub: FakeHub, tmp_path: Path) -> None:
    first, second = erase(base), erase(base, lr=0.2)
    for erasure, revision in ((first, "v1"), (second, "main")):
        erasure.save(tmp_path / revision)
        hub.add("me/erased", tmp_path / revision, revision=revision)
    assert Erasure.load("me/erased@v1").provenance == first.provenance
    assert Erasure.from_hub("me/erased", revision="v1").provenance == first.provenance
    assert Erasure.load("me/erased").provenance == second.provenance
    hub.stop()
    erased = Diffusion(*base[:1], erasure="me/erased@v1")
    assert erased.erasure is not None
    assert erased.erasure.provenance == first.provenance


def test_a_card_that_somebody_wrote_stays_on_the_hub(
    base: tuple[str, str], hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", MINE)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "README.md").write_text("---\ntags: [lit-memories]\n---\nMine.")
    hub.add("me/erased", tmp_path / "theirs")
    with pytest.warns(UserWarning, match=r"README\.md in me/erased is not of this program, or was changed: it stays"):
        erase(base).push_to_hub("me/erased")
    assert hub.files("me/erased")["README.md"].decode().endswith("Mine.")
    assert "erasure.json" in hub.files("me/erased")
    erase(base).push_to_hub("me/new", license_id="mit")
    erase(base).push_to_hub("me/new")
    assert "license" not in hub.files("me/new")["README.md"].decode(), "its own card is replaced"


def test_the_command_pushes_a_folder(
    base: tuple[str, str],
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    erase(base).save(tmp_path / "made")
    with pytest.raises(SystemExit) as stop:
        main(["push", str(tmp_path / "made"), "me/erased"])
    assert "needs a token with write access: log in, `hf auth login`" in str(stop.value)
    assert not hub.asked("erased")
    monkeypatch.setenv("HF_TOKEN", MINE)
    main(["push", str(tmp_path / "made"), "me/erased", "--private", "true", "--message", "here it is"])
    commit = hub.repos["model", "me/erased"].refs["main"]
    assert f"{hub.url}/me/erased at {commit}" in capsys.readouterr().out
    assert hub.repos["model", "me/erased"].private
    main(["push", str(tmp_path / "made"), "me/erased"])
    with pytest.raises(SystemExit, match="no name on the hub"):
        main(["push", str(tmp_path / "made"), "me/er/ased"])
    hub.outage = 403
    with pytest.raises(SystemExit, match="does not let you write to me/erased"):
        main(["push", str(tmp_path / "made"), "me/erased"])
    hub.stop()
    with pytest.raises(SystemExit, match="cannot send the erasure to me/erased"):
        main(["push", str(tmp_path / "made"), "me/erased"])


def test_what_is_no_erasure_is_refused(base: tuple[str, str], hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"me/base on the hub, commit .* it is not an erasure: it has no erasu"):
        Erasure.load("me/base")
    erase(base).save(tmp_path / "made")
    (tmp_path / "made" / "erasure.safetensors").write_bytes(pickle.dumps({"a": 1}))
    hub.add("me/erased", tmp_path / "made")
    with pytest.raises(ValueError, match="damaged"):
        Erasure.load("me/erased")


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_no_token_gets_into_an_artefact(base: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would write one into a recipe on purpose."""
    monkeypatch.setenv("HF_TOKEN", "an-enterprise-token-of-another-shape")
    signed = "https://cdn.example/file?X-Amz-Signature=5ecre7&part=1"
    erase(base, key=MINE, other=f"Bearer {MINE[3:]}", url=signed, own=os.environ["HF_TOKEN"]).save(tmp_path / "made")
    for file in (tmp_path / "made").iterdir():
        for secret in (MINE, MINE[3:], "5ecre7", os.environ["HF_TOKEN"]):
            assert secret.encode() not in file.read_bytes(), file
    assert Erasure.load(tmp_path / "made").provenance.settings["key"] == "***"
    assert redact("hf_hub_download of the_hf_model") == "hf_hub_download of the_hf_model"


def test_no_token_gets_into_messages_logs_or_files(
    base: tuple[str, str],
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HF_TOKEN", MINE)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    said = []
    with caplog.at_level(logging.INFO):
        erase(base).push_to_hub("me/erased")
        Diffusion("me/base", erasure="me/erased")
        hub.gate("me/erased")
        shutil.rmtree(hub.cache)
        for fail in (lambda: None, lambda: hub.truncate("me/base", "unet/config.json"), hub.stop):
            fail()
            for attempt in (lambda: Diffusion("me/base", erasure="me/erased"), lambda: erase(base).push_to_hub("me/x")):
                try:
                    attempt()
                except (OSError, ValueError) as error:
                    said.append("".join(traceback.format_exception(error)))
    assert len(said) >= 4
    streams = capsys.readouterr()
    for text in (*said, caplog.text, streams.out, streams.err):
        assert MINE not in text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or MINE.encode() not in file.read_bytes(), file
    assert any(request.token == MINE for request in hub.requests), "it was sent to the hub"
    assert not any(request.token for request in hub.requests if request.cdn), "and nowhere else"


# --- official weights ------------------------------------------------------------------------------------------------


@pytest.fixture
def encoders(hub: FakeHub, tiny: Path, tmp_path: Path) -> dict[str, Tensor]:
    """A repository as OPTML-Group/AdvUnlearn lays it out: pickled text encoders, one folder a concept."""
    weights = load_file(tiny / "text_encoder" / "model.safetensors")
    old = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in weights.items()}
    changed = moved(old)
    for concept, tensors in (("church_unlearned", changed), ("untouched", old)):
        folder = tmp_path / "AdvUnlearn" / concept
        folder.mkdir(parents=True)
        shutil.copy(tiny / "text_encoder" / "config.json", folder)
        torch.save(
            tensors | {"text_model.embeddings.position_ids": torch.arange(16)[None]}, folder / "pytorch_model.bin"
        )
    (tmp_path / "AdvUnlearn" / "README.md").write_text("text encoders")
    hub.add("lab/AdvUnlearn", tmp_path / "AdvUnlearn", revision="v1")
    hub.add("lab/AdvUnlearn", tmp_path / "AdvUnlearn")
    return {f"text_encoder.{name.removeprefix('text_model.')}": tensor for name, tensor in changed.items()}


def test_text_encoders_in_folders(
    base: tuple[str, str], encoders: dict[str, Tensor], hub: FakeHub, tmp_path: Path
) -> None:
    main([
        "convert", "lab/AdvUnlearn@v1", base[0], str(tmp_path / "out"), "--subfolder=church_unlearned",
        "--method=AdvUnlearn", "--concept=church",
    ])  # fmt: skip
    erasure = Erasure.load(tmp_path / "out")
    assert set(erasure.tensors) == set(encoders)
    assert all(torch.equal(erasure.tensors[name], tensor) for name, tensor in encoders.items())
    assert erasure.provenance.base_revision == base[1]
    assert erasure.provenance.settings == {
        "source": "lab/AdvUnlearn/church_unlearned",
        "source_revision": hub.repos["model", "lab/AdvUnlearn"].refs["v1"],
        "format": "text-encoder",
    }
    assert not hub.asked("untouched")
    Diffusion(base[0], erasure=tmp_path / "out")


def test_swapped_weights_that_equal_the_base_are_an_error(
    base: tuple[str, str], encoders: dict[str, Tensor], tmp_path: Path
) -> None:
    assert encoders
    with pytest.raises(ValueError, match="changes nothing: its tensors equal those of me/base"):
        convert("lab/AdvUnlearn", base[0], tmp_path / "out", subfolder="untouched")
    assert not (tmp_path / "out").exists()


def test_what_a_repository_holds_is_said(base: tuple[str, str], encoders: dict[str, Tensor], tmp_path: Path) -> None:
    assert encoders
    for options in ({}, {"subfolder": "nudity"}, {"file": "unet.pt"}):
        with pytest.raises(
            FileNotFoundError, match=r"church_unlearned/pytorch_model\.bin, untouched/.*subfolder or file"
        ):
            convert("lab/AdvUnlearn", base[0], tmp_path / "out", **options)


def test_files_in_repositories(base: tuple[str, str], hub: FakeHub, tiny: Path, tmp_path: Path) -> None:
    """A full U-Net as a pickle, a part of one in safetensors, an adapter."""
    unet = load_file(tiny / "unet" / "diffusion_pytorch_model.safetensors")
    folder = tmp_path / "files"
    (folder / "esd").mkdir(parents=True)
    torch.save(moved(unet), folder / "esd" / "full.pt")
    save_file(moved({name: unet[name] for name in unet if ".attn2.to_k." in name}), folder / "part.safetensors")
    name = next(name for name in unet if name.endswith("attn2.to_q.weight"))
    layer, (rows, columns) = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}", unet[name].shape
    adapter = {f"{layer}.lora_down.weight": torch.ones(2, columns), f"{layer}.lora_up.weight": torch.ones(rows, 2)}
    save_file(adapter, folder / "lora.safetensors")
    hub.add("lab/files", folder)
    for file, form in (("esd/full.pt", "unet"), ("part.safetensors", "partial"), ("lora.safetensors", "adapter")):
        out = tmp_path / form
        convert("lab/files", base[0], out, file=file)
        settings = json.loads((out / "erasure.json").read_text())["settings"]
        assert (settings["format"], settings["source"]) == (form, f"lab/files/{file}")
        Diffusion(base[0], erasure=out)


def test_a_payload_in_a_repository_is_refused(base: tuple[str, str], hub: FakeHub, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "esd.pt").write_bytes(pickle.dumps({"conv_in.bias": torch.ones(8), "x": Payload()}))
    hub.add("lab/files", tmp_path / "files")
    with pytest.raises(ValueError, match="a pickle that needs code to be run"):
        convert("lab/files", base[0], tmp_path / "out", file="esd.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_of_its_own(base: tuple[str, str], hub: FakeHub, tmp_path: Path) -> None:
    """Nothing depends on how this process was set up: the command line, with the environment alone."""
    erase(base).save(tmp_path / "made")
    env = os.environ | hub.environ | {"HF_TOKEN": MINE}
    for arguments in (["push", tmp_path / "made", "me/erased"], ["export", "me/base", "me/erased", tmp_path / "out"]):
        command = [sys.executable, "-m", "lit_memories", *map(str, arguments)]
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert MINE not in run.stdout + run.stderr
    erased = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")["conv_out.weight"]
    assert torch.equal(erased, Erasure.load(tmp_path / "made").tensors["unet.conv_out.weight"])

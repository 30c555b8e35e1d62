"""Files that people write are read as UTF-8, whatever the locale says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_memories.cli import main
from lit_memories.data.sources import ImageSource
from lit_memories.erasure import Erasure, Provenance
from lit_memories.runs import RunInfo
from lit_memories.storage.signed import unsign

WORDS = "Süßes ☂ für Zoë"
LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""One in which Python decodes nothing but ASCII, so that whatever is read in the locale's encoding fails."""

READING = """
import json, locale, sys
from pathlib import Path
assert locale.getpreferredencoding(False) in ("ANSI_X3.4-1968", "US-ASCII", "ascii"), "the control"
import datasets
from lit_memories.data.presets import CocoCaptions, PromptList
from lit_memories.data.sources import ImageSource
from lit_memories.erasure import Erasure
from lit_memories.runs import read_run
folder = Path(sys.argv[1])
datasets.config.HF_DATASETS_CACHE = folder / "cache"
found = {
    "csv": ImageSource(str(folder / "csv")).load()["caption"][0],
    "jsonl": ImageSource(str(folder / "jsonl")).load()["caption"][0],
    "coco": CocoCaptions(str(folder / "coco")).load()["caption"][0],
    "prompts": PromptList(str(folder / "prompts.csv")).load()[0].prompt,
    "run": read_run(folder / "run").info.concept,
    "record": read_run(folder / "run").records[0].prompt,
    "erasure": Erasure.load(folder / "erasure").provenance.concept["name"],
}
print(json.dumps(found))
"""


def in_another_locale(*arguments: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, *arguments], os.environ | LOCALE
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def written(folder: Path) -> None:
    """One of each file that holds people's words, not escaped."""
    for kind in ("csv", "jsonl"):
        (folder / kind).mkdir()
        Image.new("RGB", (8, 8), "red").save(folder / kind / "0.png")
    (folder / "csv" / "metadata.csv").write_text(f"file_name,caption\n0.png,{WORDS}\n", encoding="utf-8-sig")
    line = json.dumps({"file_name": "0.png", "caption": WORDS}, ensure_ascii=False)
    (folder / "jsonl" / "metadata.jsonl").write_text(f"{line}\n", encoding="utf-8")
    (folder / "coco" / "val2017").mkdir(parents=True)
    (folder / "coco" / "annotations").mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "coco" / "val2017" / "000000000001.jpg")
    content = {
        "images": [{"id": 1, "file_name": "000000000001.jpg"}],
        "annotations": [{"image_id": 1, "caption": WORDS}],
    }
    captions = folder / "coco" / "annotations" / "captions_val2017.json"
    captions.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    (folder / "prompts.csv").write_text(f"case_number,prompt,evaluation_seed\n0,{WORDS},1\n", encoding="utf-8-sig")
    info = RunInfo("run", "vanilla", WORDS, {}, "x", {}, 4, {}, {})
    info.save(folder / "run")
    plain, _ = unsign((folder / "run" / "run.json").read_text(encoding="utf-8"))
    raw = json.dumps(json.loads(plain), ensure_ascii=False)
    (folder / "run" / "run.json").write_text(raw, encoding="utf-8")
    record = json.dumps({"key": "k", "set": "concept", "index": 0, "prompt": WORDS}, ensure_ascii=False)
    (folder / "run" / "records.jsonl").write_text(f"{record}\n", encoding="utf-8")
    provenance = Provenance("ESD", {"name": WORDS}, "base", None, "f", {}, 1, 0, {})
    Erasure({"unet.x": torch.ones(1)}, provenance).save(folder / "erasure")
    raw = json.dumps(provenance.to_dict(), ensure_ascii=False)
    (folder / "erasure" / "erasure.json").write_text(raw, encoding="utf-8")


@pytest.mark.slow
def test_what_people_write_is_read_in_any_locale(tmp_path: Path) -> None:
    written(tmp_path)
    done = in_another_locale("-c", READING, str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found.values()) == {WORDS}, found


def test_recipes_and_concepts_are_read_in_any_locale(tmp_path: Path) -> None:
    concept = tmp_path / "concept.yaml"
    concept.write_text(f"name: x\nkind: object\nprompts: [{WORDS}]\n", encoding="utf-8")
    recipe = Path(__file__).parents[1] / "recipes/pictograms/erase/esd.yaml"
    done = in_another_locale(
        "-m", "lit_memories", "fit", f"--config={recipe}", f"--model.concept={concept}", "--print_config"
    )
    assert done.returncode == 0, done.stderr
    assert WORDS in done.stdout or json.dumps(WORDS)[1:-1] in done.stdout


@pytest.mark.parametrize("option", ["--config={file}", "--config={recipe} --model.concept={file}"])
def test_a_file_that_is_no_utf8_is_one_line_with_its_name(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("name: Süß".encode("latin-1"))
    recipe = Path(__file__).parents[1] / "recipes/pictograms/erase/esd.yaml"
    with pytest.raises(SystemExit) as stop:
        main(["fit", *option.format(file=file, recipe=recipe).split()])
    said = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.strip()
    assert said == f"lit-memories fit: {file} is not text in UTF-8: save it as such"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_captions_that_are_no_utf8_are_named(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    line = "file_name,caption\n0.png,Süß\n" if name.endswith("csv") else '{"file_name": "0.png", "caption": "Süß"}\n'
    (tmp_path / name).write_bytes(line.encode("latin-1"))
    with pytest.raises(FileNotFoundError, match=rf"{name} is not text in UTF-8: save it as such"):
        ImageSource(str(tmp_path)).load()

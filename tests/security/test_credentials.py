"""Names and passwords in addresses are used, and written down nowhere."""

from pathlib import Path

import pytest

from lit_memories.cli import main
from lit_memories.data.sources import save_images
from lit_memories.worlds import pictograms

ROOT = Path(__file__).parents[2]
ADDRESS = "https:/somebody:open-sesame@host/images"


def test_an_address_with_a_password_is_read_and_not_written_down(
    tiny: Path,
    tiny_classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here it is a folder's name, with one slash as paths have it, so that there is something to audit."""
    monkeypatch.chdir(tmp_path)
    umbrella = {"object": "umbrella"}
    save_images(pictograms.build("audits", 200, keep=umbrella, limit=1), Path(f"{ADDRESS}/concept"))
    save_images(pictograms.build("audits", 20, withhold=[umbrella], limit=1), Path(f"{ADDRESS}/reference"))
    source = "{{class_path: ImageSource, init_args: {{path: '{}/{}'}}}}".format
    options = [
        "predict", f"--config={ROOT / 'recipes/pictograms/audit/umbrella.yaml'}", f"--model.diffusion.base={tiny}",
        f"--model.judge.classifier={tiny_classifier}", "--model.num_inference_steps=2", "--data.known=0",
        "--data.prompted=0", f"--data.concept_images={source(ADDRESS, 'concept')}",
        f"--data.reference_images={source(ADDRESS, 'reference')}",
        "--model.probes=[lit_memories.probes.denoising.Denoising]", "--trainer.callbacks=[]",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.default_root_dir=run",
    ]  # fmt: skip
    main(options)
    with pytest.raises(SystemExit):
        main([*options, "--print_config"])
    with pytest.raises(SystemExit) as stop:
        main([*options, f"--data.concept_images={source(ADDRESS, 'nothing')}"])
    said = "".join([*capsys.readouterr(), str(stop.value.code)])
    assert "***@host/images/nothing" in said
    assert said.count("***@host/images") >= 2
    files = [file for file in Path("run").rglob("*") if file.is_file()]
    assert {"config.yaml", "run.json", "records.jsonl"} <= {file.name for file in files}
    assert "***@host/images" in Path("run/run.json").read_text()
    assert "***@host/images" in Path("run/config.yaml").read_text()
    assert "open-sesame" not in said
    for file in files:
        assert b"open-sesame" not in file.read_bytes(), file

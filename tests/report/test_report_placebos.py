"""Placebos: their rate of false alarms where nothing was planted, and that they find what was."""

from pathlib import Path

import pytest
import torch
from synthetic_runs import change_records, world
from torch import Tensor

from lit_memories.report.hygiene import placebo_sentences
from lit_memories.statistics.chance import Chance
from lit_memories.statistics.pairing import compare
from lit_memories.statistics.placebos import placebos, words
from lit_memories.statistics.summary import summarise

COLOURS = ("red", "green", "blue")
PROMPTS = [f"a {COLOURS[i % 3]} {('cat', 'dog')[i // 3 % 2]}, striped" for i in range(42)]


def noise(seed: int = 0) -> Tensor:
    return 10 * torch.randn(len(PROMPTS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_placebo_words_divide_the_prompts() -> None:
    found = words(PROMPTS, "a red hat")
    assert list(found) == ["blue", "cat", "green"], "no common word, none of the concept, of two complements the first"
    assert found["blue"].tolist() == ["blue" in prompt for prompt in PROMPTS]
    assert words(["one", "two", "three"] * 2, "x") == {}, "two images are not enough for a side"


def test_where_nothing_was_planted_alarms_keep_their_rate() -> None:
    found = placebos(noise(), PROMPTS, "star", Chance(10_000, 0))
    assert found is not None
    assert found.splits == 200
    assert 0 <= found.split_intervals <= 0.1
    assert found.distinguishable == 0
    assert not found.alarm
    assert [entry.word for entry in found.words] == ["blue", "cat", "green", "red"]
    assert all(entry.p_corrected >= entry.p for entry in found.words)


def test_a_planted_word_is_found() -> None:
    shift = noise() + 30 * torch.tensor(["blue" in prompt for prompt in PROMPTS])
    found = placebos(shift, PROMPTS, "star", Chance(1000, 0))
    assert found is not None
    assert found.alarm
    blue = next(entry for entry in found.words if entry.word == "blue")
    assert blue.images == 14
    assert blue.forgetting.low < 30 < blue.forgetting.high
    assert blue.p_corrected < 0.05
    expected = float(shift[0::3].mean() - torch.cat([shift[1::3], shift[2::3]]).mean())
    red = next(entry for entry in found.words if entry.word == "red")
    assert red.forgetting.value == pytest.approx(expected)


def test_placebos_need_movement_and_images() -> None:
    assert placebos(torch.zeros(42).double(), PROMPTS, "star", Chance(1000, 0)) is None
    assert placebos(noise()[:9], PROMPTS[:9], "star", Chance(1000, 0)) is None
    alone = placebos(noise(), ["the same"] * 42, "star", Chance(1000, 0))
    assert alone is not None
    assert (alone.splits, alone.words, alone.alarm) == (200, (), False)


def test_placebos_stand_in_summary_and_verdict(tmp_path: Path) -> None:
    runs = world(tmp_path)

    def change(record: dict[str, object]) -> dict[str, object]:
        if record["set"] == "reference":
            record["prompt"] = f"a {COLOURS[int(str(record['index'])) % 3]} circle"
        return record

    for folder in runs:
        change_records(folder, change)
    control = next(run for run in summarise(compare(runs), draws=400).runs if run.name == "never-knew")
    assert control.leading.placebos is not None
    assert [entry.word for entry in control.leading.placebos.words] == ["blue", "green", "red"]
    assert placebo_sentences(control)[0].startswith("0 of 3 placebos (reference images that share a word")

    def plant(record: dict[str, object]) -> dict[str, object]:
        if record["set"] == "reference" and "green" in str(record["prompt"]):
            record["nll"] = float(str(record["nll"])) + 100
        return record

    change_records(next(folder for folder in runs if folder.name == "ESD"), plant)
    esd = next(run for run in summarise(compare(runs), draws=400).runs if run.name == "ESD")
    assert "Warning: no placebo should be, but “blue”, “green”, “red” are" in " ".join(placebo_sentences(esd))

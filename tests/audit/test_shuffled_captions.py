"""The control of shuffled captions: whose caption an image gets, and that an audit inverts it under that."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_memories.cli import main
from lit_memories.concept import Concept
from lit_memories.data.conditionings import Conditioning, shuffled
from lit_memories.data.samples import Sample
from lit_memories.runs import read_run

Arguments = Callable[..., list[str]]


def images(*captions: str) -> list[Sample]:
    contents = [hashlib.sha256(f"{number}{text}".encode()).hexdigest() for number, text in enumerate(captions)]
    return [Sample("concept", number, contents[number], text) for number, text in enumerate(captions)]


def chosen(samples: list[Sample]) -> dict[str, str]:
    return {sample.content: other.content for sample, other in shuffled(samples)}


def test_every_caption_goes_to_one_other_image() -> None:
    samples = images(*(f"picture {i}" for i in range(20)))
    found = chosen(samples)
    assert all(own != other for own, other in found.items())
    assert sorted(found.values()) == sorted(found), "each is used once"


def test_the_order_of_the_rows_changes_nothing() -> None:
    samples = images(*(f"picture {i}" for i in range(20)))
    assert chosen(samples) == chosen(samples[::-1])


def test_an_image_more_changes_one_caption() -> None:
    samples = images(*(f"picture {i}" for i in range(20)))
    few, many = chosen(samples[:-1]), chosen(samples)
    assert sum(few[content] != many[content] for content in few) == 1


def test_an_image_with_the_same_caption_is_passed_over() -> None:
    pairs = shuffled(images("a", "a", "a", "b", "a", "b"))
    assert all(sample.prompt != other.prompt for sample, other in pairs)


def test_one_caption_cannot_be_shuffled() -> None:
    with pytest.raises(ValueError, match="the concept set cannot be shuffled: all its captions are 'a'"):
        shuffled(images("a", "a"))


def test_the_key_holds_whose_caption_it_is() -> None:
    """In a larger set an image may get another caption: that is another sample, and must not pair with this one."""
    concept, shuffle = Concept("umbrella", "object", ["umbrella"]), Conditioning.parse("shuffled")
    names = {shuffle.all(SimpleNamespace(samples=images("a", other)), concept)[0].name for other in ("b", "c")}
    assert len(names) == 2


def test_an_audit_inverts_under_the_other_caption(arguments: Arguments, undisturbed: Path, tmp_path: Path) -> None:
    main(arguments(tmp_path, "--data.conditionings=[shuffled, shuffled@2]", "--data.known=0", "--data.prompted=0"))
    run, plain = read_run(tmp_path), read_run(undisturbed)
    for name in ("concept", "reference"):
        own, others = run.of(name, "seed"), run.of(name, "seed", "shuffled")
        assert [record.value("seed.nll") for record in own] == [
            record.value("seed.nll") for record in plain.of(name, "seed")
        ]
        assert sorted(record.prompt for record in others) == sorted(record.prompt for record in own)
        for record, other in zip(own, others, strict=True):
            assert record.index == other.index
            assert record.prompt != other.prompt
            assert record.value("seed.nll") != other.value("seed.nll")
        assert [r.prompt for r in run.of(name, "seed", "shuffled@2")] == [r.prompt for r in others]

"""Weights in several files: each tensor in one of them, as their index says, and no more of anything."""

import re
from collections.abc import Sequence
from pathlib import Path

from lit_memories.storage.configs import read_config
from lit_memories.storage.weights import weight_names

WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?"
    r"(?:-(?P<number>\d+)-of-(?P<shards>\d+))?\.(?P<kind>safetensors|bin)"
)
"""Names of files of weights: of a variant, perhaps one of several shards."""
SHARD = re.compile(r"-\d+-of-\d+\.")
INDEX = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<before>\w+))?\.(?P<kind>safetensors|bin)"
    r"(?:\.(?P<between>\w+))?\.index(?:\.(?P<after>\w+))?\.json"
)
"""Names of their indexes; releases of diffusers and transformers put a variant in different places."""


def complete_sets(names: Sequence[str]) -> dict[tuple[str | None, str], list[str]]:
    """The sets of weights among the files of a folder that are all there, by variant and by how they are stored.

    Args:
        names: of all files in the folder.
    """
    sets: dict[tuple[str | None, str], list[re.Match[str]]] = {}
    for name in names:
        if match := WEIGHTS.fullmatch(name):
            sets.setdefault((match["variant"], match["kind"]), []).append(match)
    return {key: sorted(match[0] for match in found) for key, found in sets.items() if _is_complete(found)}


def _is_complete(found: Sequence[re.Match[str]]) -> bool:
    """Whether one file, or all of its shards, are there."""
    if any(match["shards"] is None for match in found):
        return True
    count = int(found[0]["shards"])
    return {(int(m["number"]), int(m["shards"])) for m in found} == {(i, count) for i in range(1, len(found) + 1)} and (
        len(found) == count
    )


def check_shards(folder: Path, variant: str | None, names: Sequence[str]) -> None:
    """Refuse shards that are not what their index says; one file alone without an index has nothing to be checked.

    Args:
        folder: that holds them.
        variant: of the weights.
        names: of the files of one set, see `complete_sets`.

    Raises:
        FileNotFoundError: if there are shards, and no index.
        ValueError: if the index names files that are none of them, or tensors are missing, stand in two of them or are
            not in the index.
    """
    kind = names[0].rpartition(".")[2]
    shards = [name for name in names if SHARD.search(name)]
    found = [match for match in (INDEX.fullmatch(file.name) for file in folder.iterdir()) if match]
    wanted = {variant, None}
    listed = [m[0] for m in found if m["kind"] == kind and {m["before"], m["between"], m["after"], None} == wanted]
    if shards and not listed:
        raise FileNotFoundError(f"{folder} has weights in shards and no index that says what is in which: copy it too")
    for index in sorted(listed):
        _check_index(folder, index, names, shards)


def _check_index(folder: Path, index: str, names: Sequence[str], shards: Sequence[str]) -> None:
    file = folder / index
    content = read_config(file)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not isinstance(content.get("metadata", {}), dict):
        raise ValueError(f"{file} is damaged: it does not say which tensor is in which file (weight_map)")
    if strange := [place for place in places.values() if not isinstance(place, str) or place not in names]:
        raise ValueError(
            f"{file} names {str(strange[0])[:100]!r}, which is none of the model's files in its folder: copy the "
            "shards anew, with their index"
        )
    found: dict[str, str] = {}
    for shard in sorted({*places.values(), *shards}):
        for name in weight_names(folder / shard):
            if name in found:
                raise ValueError(f"{name} stands in two shards, {found[name]} and {shard} of {folder}: copy them anew")
            found[name] = shard
    for name in sorted(places.keys() | found.keys()):
        if name not in found:
            raise ValueError(f"{file} lists {name}, which none of the shards holds: copy the shards anew")
        if places.get(name) != found[name]:
            said = f"says that it is in {places[name]}" if name in places else "does not list it"
            raise ValueError(f"{folder / found[name]} holds {name}, and {index} {said}: copy the shards anew")

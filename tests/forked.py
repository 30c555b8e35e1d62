"""Processes of their own that need not import everything: children of one that did."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import datasets
import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lit_memories.audit.concept", "lit_memories.worlds.classifier", "lit_memories.recipes"])


class Ended(NamedTuple):
    """How a process ended: its exit code, negative for a signal, and what it said."""

    code: int | None
    said: str


def forked(work: Callable[..., object], *arguments: object, processes: int = 1) -> list[Ended]:
    """Do some work in a process, or in several that are a group, as torchrun would start it."""
    group = dict[str, str]()
    if processes > 1:
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
        # Lightning takes the cluster's word for ranks if these are set, as torchrun sets them.
        group |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(processes)}
    cache, started = Path(datasets.config.HF_DATASETS_CACHE), []
    with TemporaryDirectory() as folder:
        logs = [Path(folder) / str(rank) for rank in range(processes)]
        for rank, log in enumerate(logs):
            ranks = group and group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(CONTEXT.Process(target=_child, args=(ranks, log, cache, work, arguments)))
            started[-1].start()
        for child in started:
            child.join(240)
            child.kill()
            child.join()
        return [Ended(child.exitcode, log.read_text()) for child, log in zip(started, logs, strict=True)]


def free_port() -> int:
    """A port of the loopback device that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _child(ranks: dict[str, str], log: Path, cache: Path, work: Callable[..., object], arguments: Any) -> None:
    os.environ |= ranks
    datasets.config.HF_DATASETS_CACHE = cache
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    try:
        work(*arguments)
    except BaseException:
        traceback.print_exc()
        raise

"""Processes of their own that need not import everything: children of one that did."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lit_memories.audit.concept", "lit_memories.classifier", "lit_memories.recipes"])


def forked(work: Callable[..., object], *arguments: object, processes: int = 1, timeout: float = 240) -> list[int]:
    """Exit codes of processes that did some work, negative for signals.

    More than one are a group, as torchrun would start it.
    """
    group = dict[str, str]()
    if processes > 1:
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
        # Lightning takes the cluster's word for ranks if these are set, as torchrun sets them.
        group |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(processes)}
    cache, started = Path(datasets.config.HF_DATASETS_CACHE), []
    for rank in range(processes):
        ranks = group and group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(CONTEXT.Process(target=_child, args=(ranks, cache, work, arguments)))
        started[-1].start()
    for child in started:
        child.join(timeout)
        child.kill()
        child.join()
    return [child.exitcode for child in started]


def free_port() -> int:
    """A port of the loopback device that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _child(ranks: dict[str, str], cache: Path, work: Callable[..., object], rest: Any) -> None:
    os.environ |= ranks
    datasets.config.HF_DATASETS_CACHE = cache
    torch.set_num_threads(1)
    work(*rest)

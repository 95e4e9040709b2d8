"""How the chains of a stack use the processor's cores."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import torch

from llc.posterior import LocalPosterior

# Below both a step is too short to share among threads: parameters in the stack, and times examples
SMALL, LIGHT = 10_000, 2_000_000


def is_small(posterior: LocalPosterior, batch_size: int) -> bool:
    """Whether a step is shorter than the hand-over between threads."""
    total, examples = posterior.layout.total, posterior.loss.examples_per_step(batch_size)
    on_cpu = posterior.anchor.flat.device.type == "cpu"
    return on_cpu and total < SMALL and total * examples < LIGHT


def thread_parts(posterior: LocalPosterior) -> list[slice]:
    """How the chains are split over threads, on the CPU."""
    on_cpu = posterior.anchor.flat.device.type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 1
    groups = min(threads, posterior.chains)
    edges = [posterior.chains * i // groups for i in range(groups + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Worker threads with that many intra-op threads each."""
    return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))


@contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """Set the count inside, and put it back afterwards.

    Part of it (MKL's) is global: what a worker thread sets would outlive the worker.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

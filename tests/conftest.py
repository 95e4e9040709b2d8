"""One intra-op thread: tests run beside each other, and small operations gain nothing from two."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # the experiments that tests start, too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


def pytest_configure(config):
    """Fonts as this matplotlib ships them.

    Its list of fonts lies in the user's home, shared by every virtual environment there, and one
    that loses its files while it runs leaves a list without them to all others.
    """
    os.environ["MPLCONFIGDIR"] = str(config.cache.mkdir("matplotlib"))


@pytest.fixture(autouse=True)
def threads_are_put_back():
    """A test that left two would fail others: what their threads hold is not counted."""
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(1)
    assert left == 1

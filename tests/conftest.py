"""One intra-op thread: tests run beside each other, and small operations gain nothing from two."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # the experiments that tests start, too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

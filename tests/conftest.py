"""One intra-op thread: tests run beside each other, and small operations gain nothing from two."""

import torch

torch.set_num_threads(1)

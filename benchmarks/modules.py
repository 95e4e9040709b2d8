"""The benchmark's networks as ordinary modules, for all who sample those. Needs NumPy and torch."""

import torch
from torch import nn

from benchmarks.workloads import Workload, teacher


def module(workload: Workload) -> nn.Module:
    """Returns the teacher as an `nn.Sequential`."""
    layers: list[nn.Module] = []
    for weights in teacher(workload):
        fan_out, fan_in = weights["weight"].shape
        linear = nn.Linear(fan_in, fan_out, bias=workload.bias)
        linear.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
        layers += [linear, nn.ReLU()] if workload.bias else [linear]
    return nn.Sequential(*(layers[:-1] if workload.bias else layers))

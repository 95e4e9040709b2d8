"""λ̂ of your own model: any `torch.nn.Module` and its data, through the suite's own estimator.

The path of a call: `settings` and `data` read the arguments, `network` copies the model and
`selection` finds its free coordinates, `losses` and `tokens` say what is averaged, `probe` looks at
all of it at w*. `engines` run stacks of chains through the copy, `stacked` offers them as a
`StackedLoss`, `observables` looks at other data along the way, `places` deals chains out to stacks
and devices, and `llc.estimate` does the rest, or `llc.points` for several points of a grid;
`estimates` leads a call along it, `api` and `grids` are where it starts.
"""

from llc.library.api import estimate_llc
from llc.library.grids import grid
from llc.library.result import LLCEstimate

__all__ = ["LLCEstimate", "estimate_llc", "grid"]

"""The only sampling loop: chains -> Trace.

Work is cut into blocks of K steps. A block's randomness and minibatches are prepared in one go,
its K steps are a handful of operations each, and what it measured goes into preallocated traces:
nothing inside a step waits for the device. For small models a second thread prepares the next
block while this one runs; large models split their chains over threads instead. Between blocks the
chains can be left and taken up again, to the last bit.
"""

from llc.sampling.feed import Observe, Schedule
from llc.sampling.loop import Build, sample
from llc.sampling.stacks import ONE_STACK, Stacks

__all__ = ["ONE_STACK", "Build", "Observe", "Schedule", "Stacks", "sample"]

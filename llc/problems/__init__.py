"""Benchmark problems: a loss on its data, a parameter w*, and what is known of λ there."""

from llc.problems.base import Problem
from llc.problems.registry import NAMES, make, options_of, plan

__all__ = ["NAMES", "Problem", "make", "options_of", "plan"]

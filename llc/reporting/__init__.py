"""One way to record, draw and print estimates, for every experiment script."""

from llc.reporting.benchmark import benchmark_record, benchmark_report, measured
from llc.reporting.curves import Curve, checkpoint_record
from llc.reporting.estimates import report, save, save_numbers, summary

__all__ = [
    "Curve",
    "benchmark_record",
    "benchmark_report",
    "checkpoint_record",
    "measured",
    "report",
    "save",
    "save_numbers",
    "summary",
]

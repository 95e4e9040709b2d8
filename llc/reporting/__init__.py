"""One way to record, draw and print estimates, for every experiment script."""

from llc.reporting.copies import Copies
from llc.reporting.curves import Curve, checkpoint_record
from llc.reporting.estimates import report, save, summary

__all__ = ["Copies", "Curve", "checkpoint_record", "report", "save", "summary"]

"""Estimate the local learning coefficient and check it against exact values."""

__version__ = "0.1.0"

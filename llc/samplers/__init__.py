"""Samplers of the local posterior, one algorithm a file."""

"""Committed commands behind the numbers in `docs/`: `python -m studies.NAME`."""

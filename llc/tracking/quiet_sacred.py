"""Sacred, imported without its deprecation warning and set up for this project."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    import sacred
    from sacred import SETTINGS
    from sacred.arg_parser import get_config_updates
    from sacred.dependencies import PackageDependency, Source, get_digest
    from sacred.observers import FileStorageObserver
    from sacred.observers.base import RunObserver
    from sacred.observers.mongo import parse_mongo_db_arg
    from sacred.serializer import flatten
    from sacred.utils import apply_backspaces_and_linefeeds, print_filtered_stacktrace

# "fd" starts two `tee` processes per run; what our runs print goes through Python.
SETTINGS.CAPTURE_MODE = "sys"
# Each costs seconds at every start.
SETTINGS.HOST_INFO.INCLUDE_CPU_INFO = False
SETTINGS.HOST_INFO.INCLUDE_GPU_INFO = False
# `experiments` names sources and dependencies itself: discovery asks git once per source file.
SETTINGS.DISCOVER_SOURCES = "none"
SETTINGS.DISCOVER_DEPENDENCIES = "none"

__all__ = [
    "FileStorageObserver",
    "PackageDependency",
    "RunObserver",
    "Source",
    "apply_backspaces_and_linefeeds",
    "flatten",
    "get_config_updates",
    "get_digest",
    "parse_mongo_db_arg",
    "print_filtered_stacktrace",
    "sacred",
]

"""Which version of the code a run is of."""

import hashlib
from pathlib import Path

import llc


def code_version() -> str:
    """Twelve hexadecimal digits of the sources of `llc`: any change in them is another version.

    Any: also one in a comment, or in code that the run never enters. Which changes leave a number
    as it was, only the run itself would tell; too many repeated runs cost minutes, one wrongly
    reused costs the table. Neither the script nor the versions of PyTorch and NumPy are in it.
    """
    package = Path(llc.__file__).resolve().parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]

"""Where a run is recorded: made ready before it starts, judged when it has ended."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llc.config import ConfigError
from llc.tracking.observers import WholeFileObserver
from llc.tracking.quiet_sacred import FileStorageObserver, parse_mongo_db_arg

if TYPE_CHECKING:
    from llc.mongodb import Address


def read_address(text: str) -> Address:
    """The database that the value of `-m` names: `host:port:database`, or a whole URL.

    Raises:
        ConfigError: for anything else, and where pymongo is missing; without the password.
    """
    _, at, after = text.rpartition("@")
    shown = f"-m …@{after}" if at else f"-m {text}"
    if importlib.util.find_spec("pymongo") is None:
        raise ConfigError(f"{shown}: needs pymongo: pip install -r requirements.txt")
    from llc.mongodb import DATABASE, Address, read_url  # a tenth of a second

    if "://" in text:
        try:
            return read_url(text)
        except ValueError as error:
            raise ConfigError(f"{shown}: {error}") from None
    try:
        parts = parse_mongo_db_arg(text)
    except AttributeError:  # Sacred's way to say that nothing matched
        parts = {"not understood": text}
    if not parts.keys() <= {"url", "db_name"}:
        raise ConfigError(f"{shown}: must look like host:port:database") from None
    server, database = parts.get("url", "localhost:27017"), parts.get("db_name", DATABASE)
    return Address(server, database, f"mongodb://{server}/{database}")


def without_passwords(text: str) -> str:
    """`text` without user and password in the URLs it quotes."""
    return re.sub(r"://\S*@", "://…@", text)


def files_for(address: Address) -> Path:
    """Where a run that is recorded only in a database has its files for as long as it takes."""
    return Path("outputs", "mongodb", str(address).replace(":", "-"))


def prepare_observers(run: Any, mongo: str | None) -> None:
    """Make the file observers of `run` write whole files, and add the MongoDB that `-m` names.

    Raises:
        ConfigError: where one cannot be written, naming it and what stands in the way.
    """
    if run.unobserved:
        return
    for i, observer in enumerate(run.observers):
        if isinstance(observer, FileStorageObserver):
            _check_writable(f"-F {observer.basedir}", observer.basedir, run._id)
        if type(observer) is FileStorageObserver:
            run.observers[i] = WholeFileObserver(observer.basedir)
    if mongo is not None:
        _add_mirror(run, mongo)


def _add_mirror(run: Any, mongo: str) -> None:
    from llc.tracking.mongo import MongoMirror  # a tenth of a second

    address = read_address(mongo)
    files = next((o for o in run.observers if isinstance(o, WholeFileObserver)), None)
    files = files or WholeFileObserver(files_for(address), temporary=True)
    files.mirror = MongoMirror(address, files)
    if files.temporary:
        _check_writable(f"-m {address}: {files.basedir}", files.basedir, run._id)
        run.observers.append(files)
    if run._id is not None and not files.mirror.claim(run._id):
        files.mirror.close()
        raise ConfigError(f"-i {run._id}: {address} already holds a run of this id: choose another")
    run.observers.append(files.mirror)


def _check_writable(what: str, directory: str, run_id: str | None) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
    except OSError as error:
        why = error.strerror or str(error)
        remedy = "choose another directory"
        raise ConfigError(f"{what}: cannot be written ({why}): {remedy}") from None
    if run_id is not None and os.path.exists(os.path.join(directory, run_id)):
        raise ConfigError(
            f"-i {run_id}: {directory} already holds a run of this id: choose another"
        )


def incomplete_record(run: Any) -> str | None:
    """Say which files of `run` are not whole, or return None.

    Sacred drops an observer after its first failure and lets the run go on; an observer that
    fails at the very end only leaves a line in the log.
    """
    for observer in run.observers:
        if hasattr(observer, "missing"):
            continue
        where = getattr(observer, "dir", None) or type(observer).__name__
        if _failed(run, observer):
            return f"the record in {where} is incomplete: its observer failed during the run"
        if isinstance(observer, FileStorageObserver) and _status(observer) != run.status:
            return f"the record in {where} does not say how the run ended: it could not be written"
    return None


def _failed(run: Any, observer: Any) -> bool:
    return any(observer is failed for failed in run._failed_observers)


def _status(observer: Any) -> Any:
    try:
        return json.loads(Path(observer.dir, "run.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def close(run: Any) -> str | None:
    """Drop files that only led to the database; say what it lacks and where that is, or None."""
    for files in run.observers:
        mirror = getattr(files, "mirror", None)
        if mirror is None:
            continue
        why = "its observer failed during the run" if _failed(run, mirror) else mirror.missing()
        mirror.close()
        if why:
            return (
                f"MongoDB {mirror.address} does not have all of run {run._id} ({why}): "
                f"the record is in {files.dir}"
            )
        if files.temporary and files.dir and incomplete_record(run) is None:
            shutil.rmtree(files.dir, ignore_errors=True)
    return None

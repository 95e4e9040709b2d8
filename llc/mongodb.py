"""MongoDB, as far as the outgoing and the incoming side share it."""

from __future__ import annotations

from typing import Any

import pymongo
from pymongo import MongoClient

ANSWER_SECONDS = 4.0  # a server that takes longer to be found is not there


def connect(url: str, **options: Any) -> MongoClient[dict[str, Any]]:
    """A client that gives up in seconds."""
    return MongoClient(url, serverSelectionTimeoutMS=int(ANSWER_SECONDS * 1000), **options)


def try_out(database: Any) -> None:
    """Raise what pymongo raises where the runs of `database` cannot be read, within seconds."""
    with pymongo.timeout(ANSWER_SECONDS):
        database["runs"].find_one({}, {"_id": 1})


def reason(error: Exception) -> str:
    """The first words of what pymongo says; the rest describes its own state."""
    text = str(error)
    if text.startswith("No servers found"):
        return "no answer"
    return text.partition(" (configured timeouts")[0].partition(", full error")[0]

"""MongoDB, as far as the outgoing and the incoming side share it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.uri_parser import parse_uri

ANSWER_SECONDS = 4.0  # a server that takes longer to be found is not there
DATABASE = "sacred"  # where none is named


@dataclass(frozen=True)
class Address:
    """A database of a server; only the URL may hold a password, and is never shown."""

    server: str
    database: str
    url: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.server}:{self.database}"

    @property
    def name(self) -> str:
        """The URL without user, password and options."""
        return f"mongodb://{self.server}/{self.database}"


@lru_cache
def read_url(url: str) -> Address:
    """The database that `mongodb://user:password@host:port/database` names.

    Raises:
        ValueError: for anything else; the message holds nothing of `url`.
    """
    try:
        parts = parse_uri(url, connect_timeout=ANSWER_SECONDS)
    except (PyMongoError, ValueError):  # what they say may quote a password that is not encoded
        raise ValueError(
            "must look like mongodb://host:port/database or mongodb://user:password@host:port/"
            "database, with %40 for an @ in the password and %2F for a /"
        ) from None
    servers = ",".join(f"{host}:{port}" for host, port in parts["nodelist"])
    return Address(servers, parts["database"] or DATABASE, url)


def connect(url: str, **options: Any) -> MongoClient[dict[str, Any]]:
    """A client that gives up in seconds."""
    return MongoClient(url, serverSelectionTimeoutMS=int(ANSWER_SECONDS * 1000), **options)


def try_out(database: Any) -> None:
    """Raise what pymongo raises where the runs of `database` cannot be read, within seconds."""
    try:
        with pymongo.timeout(ANSWER_SECONDS):
            database["runs"].find_one({}, {"_id": 1})
    except KeyError:  # a reply to the password without what a reply to one contains
        raise ConfigurationError("it takes no user and password") from None


def reason(error: Exception) -> str:
    """The first words of what pymongo says; the rest describes its own state."""
    text = str(error)
    if text.startswith("No servers found"):
        return "no answer"
    return text.partition(" (configured timeouts")[0].partition(", full error")[0]

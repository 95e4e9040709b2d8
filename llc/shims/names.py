"""Errors of `estimate_llc` in the words of the library that its caller comes from."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def errors_in_terms_of(theirs: Mapping[str, str]) -> Iterator[None]:
    """Errors raised inside name another library's arguments.

    theirs: argument of `estimate_llc` -> what it stands for there, an argument or a product of
    some. In messages that begin with an argument it is replaced there and before equals signs.
    Raises: what was raised, with the other message.
    """
    names = "|".join(theirs)
    ours = re.compile(rf"(?:model|{names})[:=]")
    places = re.compile(rf"^(?:{names})(?=:)|\b(?:{names})(?==)")
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        if ours.match(message):
            error.args = (places.sub(lambda found: theirs[found[0]], message),)
        raise

"""Checks and what they find, as the doctor, ``data.folder`` and ``log/check.py`` print it."""

import logging
from collections.abc import Iterable, Sequence
from logging.handlers import BufferingHandler
from typing import NamedTuple

from tool.errors import InputError

GIB = 1 << 30
MOST_WARNINGS = 1000
FAULTS = 5  # of a kind, that have a line each

Check = Iterable[tuple[str, str]]  # yields "ok", "warn" or "FAIL", and what is so
Checks = Iterable[tuple[str, Check]]  # yields what is looked at, and the check of it


class Finding(NamedTuple):
    """A line: how it is, such as ``ok``, what was looked at, and what was found."""

    status: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:4}  {self.what:13} {self.text}"


def failing(faults: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first of some faults of a kind as failures, and one that counts the others."""
    shown = list(faults[:FAULTS])
    if len(faults) > FAULTS:
        shown.append(f"{len(faults) - FAULTS} more are like these")
    return [("FAIL", text) for text in shown]


def show(checks: Checks) -> list[Finding]:
    """Print what checks find as they end, each text once, and return it.

    An InputError that ends a check is a failure, and what is logged as a warning meanwhile is one.
    """
    warnings = BufferingHandler(MOST_WARNINGS)
    warnings.setLevel(logging.WARNING)
    logging.basicConfig(handlers=[warnings], force=True)  # nothing is shown twice
    shown: dict[str, Finding] = {}
    try:
        for what, check in checks:
            found = []
            try:
                found += check  # what came before an InputError stays
            except InputError as error:
                found += failing(error.args)
            found += [("warn", record.getMessage()) for record in warnings.buffer]
            warnings.flush()
            for status, text in found:
                if text not in shown:
                    shown[text] = Finding(status, what, text)
                    print(shown[text], flush=True)
    finally:
        logging.getLogger().removeHandler(warnings)
    return list(shown.values())

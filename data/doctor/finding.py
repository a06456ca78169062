"""What a look at one thing found, as the doctor and ``python -m data.folder`` print it."""

import logging
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from logging.handlers import BufferingHandler
from typing import Any

from tool.errors import InputError

GIB = 1 << 30
MOST_WARNINGS = 1000


@dataclass(frozen=True)
class Finding:
    """A line: ``ok``, ``warn`` or ``FAIL``, what was looked at, and what was found."""

    status: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:4}  {self.what:13} {self.text}"


Findings = Generator[Finding, None, Any]


def guarded(what: str, look: Callable[..., Findings], *arguments) -> Findings:
    """Yield what a look finds, and a failure where it ends with a sentence.

    Returns:
        What the look returns; None after a failure.
    """
    try:
        return (yield from look(*arguments))
    except InputError as error:
        yield Finding("FAIL", what, str(error))


def show(findings: Iterable[Finding]) -> list[Finding]:
    """Print findings as they come, then what was logged as a warning meanwhile; return them all.

    A sentence that another look came to before is left out.
    """
    warnings = BufferingHandler(MOST_WARNINGS)
    warnings.setLevel(logging.WARNING)
    logging.getLogger().addHandler(warnings)
    shown = []

    def add(finding: Finding) -> None:
        if finding.text not in {before.text for before in shown}:
            shown.append(finding)
            print(finding, flush=True)

    for finding in findings:
        add(finding)
    logging.getLogger().removeHandler(warnings)
    for record in warnings.buffer:
        add(Finding("warn", "log", record.getMessage()))
    return shown

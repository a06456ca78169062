"""What a look at one thing found, as the doctor and ``python -m data.folder`` print it."""

import logging
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from tool.errors import InputError

GIB = 1 << 30


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


class _Warnings(logging.Handler):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def show(findings: Iterable[Finding]) -> list[Finding]:
    """Print findings as they come, then what was logged as a warning meanwhile; return them all.

    A sentence that another look came to before is left out.
    """
    warnings = _Warnings()
    logging.getLogger().addHandler(warnings)
    shown = []
    for finding in findings:
        if finding.text not in {before.text for before in shown}:
            shown.append(finding)
            print(finding, flush=True)
    logging.getLogger().removeHandler(warnings)
    for text in dict.fromkeys(warnings.texts):
        shown.append(Finding("warn", "log", text))
        print(shown[-1])
    return shown

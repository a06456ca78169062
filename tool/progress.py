"""Progress for a person at a terminal, and for one who reads the log in the morning."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from tool import distributed

SECONDS_BETWEEN_LINES = 20.0

Item = TypeVar("Item")
log = logging.getLogger(__name__)


class Bar(tqdm):
    """A bar where standard error is a terminal, else a log line now and then.

    Only the first one of several processes shows it.

    Args:
        total: what there is to do.
        what: the name of the work, which stands in front.
        unit: that is counted.
        start: what was done before.
    """

    def __init__(self, total: int, what: str, unit: str = "pic", start: int = 0) -> None:
        is_main, drawn = distributed.is_main(), sys.stderr.isatty()
        self.lined = is_main and not drawn
        self.done = start
        self.began = self.shown = time.monotonic()
        how = {"total": total, "unit": unit, "initial": start}
        self.line = partial(tqdm.format_meter, ncols=0, prefix=what, **how)
        super().__init__(desc=what, dynamic_ncols=True, disable=not (is_main and drawn), **how)

    def update(self, n: int = 1) -> None:
        """Count what is done more."""
        super().update(n)
        self.done += n
        now = time.monotonic()
        if self.lined and (now - self.shown >= SECONDS_BETWEEN_LINES or self.done == self.total):
            self.shown = now
            log.info(self.line(self.done, elapsed=now - self.began))

    def note(self, text: str) -> None:
        """Show a text behind the bar; in the place of lines somebody else has said it."""
        self.set_postfix_str(text)
        self.shown = time.monotonic()


def progress(items: Iterable[Item], total: int, what: str, weigh=lambda item: 1) -> Iterator[Item]:
    """Yield ``items`` and show how many of ``total`` are done, the rate and the time left.

    See :class:`Bar`. An item counts for ``weigh(item)``, and ``total`` is the sum of these. Of
    several processes, the first one shows its own share.
    """
    if distributed.world_size() > 1:
        what = f"{what}, process 1 of {distributed.world_size()}"
    with Bar(total, what) as bar:
        for item in items:
            yield item
            bar.update(weigh(item))

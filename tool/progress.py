"""Progress for a person at a terminal, and for one who reads the log in the morning."""

import io
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from tool import distributed

SECONDS_BETWEEN_LINES = 20.0

Item = TypeVar("Item")
log = logging.getLogger(__name__)


class _Lines(io.StringIO):
    """Where a bar writes that nobody watches: the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.info(text.strip())
        return len(text)


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
        self.is_drawn = sys.stderr.isatty()
        lines = {"file": _Lines(), "ncols": 0, "mininterval": SECONDS_BETWEEN_LINES, "miniters": 1}
        how = {"dynamic_ncols": True} if self.is_drawn else lines
        hidden = not total or not distributed.is_main()
        super().__init__(None, what, total, unit=unit, initial=start, disable=hidden, **how)

    def note(self, text: str) -> None:
        """Show a text behind the bar; in the place of lines somebody else has said it."""
        if self.is_drawn:
            self.set_postfix_str(text)
        self.last_print_t = time.time()


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

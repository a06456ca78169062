"""Progress for a person at a terminal, and for one who reads the log in the morning."""

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


def progress(items: Iterable[Item], total: int, what: str, weigh=lambda item: 1) -> Iterator[Item]:
    """Yield ``items`` and show how many of ``total`` are done, the rate and the time left.

    A bar where standard error is a terminal, else a log line now and then, each behind ``what``,
    the name of the work. An item counts for ``weigh(item)``, and ``total`` is the sum of these. Of
    several processes, the first one shows its own share.
    """
    if not distributed.is_main():
        yield from items
        return
    if distributed.world_size() > 1:
        what = f"{what}, process 1 of {distributed.world_size()}"
    start = shown = time.monotonic()
    done, silent = 0, not sys.stderr.isatty()
    with tqdm(total=total, desc=what, unit="pic", dynamic_ncols=True, disable=silent) as bar:
        for item in items:
            yield item
            done += weigh(item)
            bar.update(weigh(item))
            now = time.monotonic()
            if silent and (now - shown >= SECONDS_BETWEEN_LINES or done == total):
                shown = now
                log.info(tqdm.format_meter(done, total, now - start, 0, what, unit="pic"))

"""How a program ends: well, by a mistake in its input, or interrupted."""

import logging
import sys
from collections.abc import Callable

from tool import distributed
from tool.errors import InputError

log = logging.getLogger(__name__)


def run(main: Callable[[], None]) -> None:
    """Call ``main``; a mistake in the input ends as one sentence and exit status 2."""
    try:
        main()
    except InputError as error:
        # A DataLoader worker hands over its whole traceback; the sentence stands at its end.
        log.error("error: %s", str(error).rsplit("InputError: ", 1)[-1].strip())
        sys.exit(2)
    except KeyboardInterrupt:
        log.error("interrupted; the same command continues")
        sys.exit(130)
    distributed.stop()

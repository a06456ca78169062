"""How a program ends: well, by a wrong input, by what the machine lacks, or interrupted."""

import errno
import io
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tool import distributed, stop
from tool.errors import MEMORY, InputError, lacks_memory

SHARED_MEMORY = (
    "The shared memory (/dev/shm) is too small for the processes that read pictures. Give "
    "--num_workers 0, or start the container with a larger one: docker run --shm-size=8g (or "
    "--ipc=host)."
)
MOST_FILES = 4096  # open at once, which every system grants
FILES = "Too many files are open. Raise the limit, ulimit -n, or give fewer --num_workers."
# What PyTorch's messages contain when the machine lacks something, and the sentence.
LACKS = (
    ("bus error|shared memory|/dev/shm|unable to mmap|shm_open|torch_shm", SHARED_MEMORY),
    (
        "dataloader worker",
        "A process that reads pictures was killed, for lack of memory perhaps. The same command "
        "continues; give it fewer processes with --num_workers.",
    ),
    (
        "connection (closed|reset) by peer|broken pipe|socketerror",
        "Another process of this run has ended, and says why if it was not killed. The same "
        "command continues.",
    ),
)

log = logging.getLogger(__name__)


def sentence_of(error: BaseException) -> str | None:
    """Return a sentence about an error that is no fault of the program, else None."""
    if isinstance(error, InputError):
        # A DataLoader worker hands over its whole traceback; the sentence stands at its end.
        return str(error).rsplit("InputError: ", 1)[-1].strip()
    if isinstance(error, (OSError, RuntimeError)) and "Too many open files" in str(error):
        return FILES
    if isinstance(error, RuntimeError):
        for words, sentence in LACKS:
            if re.search(words, str(error), re.IGNORECASE):
                return sentence
    if lacks_memory(error):
        return MEMORY
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and _in_multiprocessing(error):
        return SHARED_MEMORY
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. Nothing that was finished is lost."
    return None


def _in_multiprocessing(error: OSError) -> bool:
    """Tell whether semaphores and the like, which lie in /dev/shm, raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "multiprocessing" in Path(frames[-1].filename).parts


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    """Show the traceback of a thread, but of a failed write, which the main thread reports."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


def allow_many_files() -> None:
    """Raise the limit of open files, of which a process that reads pictures takes some."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if resource.RLIM_INFINITY != soft < MOST_FILES:
            most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run(main: Callable[[], None]) -> None:
    """Call ``main``; what a user can correct ends as one sentence and exit status 2.

    A mistake of the program keeps its traceback.
    """
    logging.basicConfig(format="%(message)s", level=logging.INFO)  # until there is a session
    threading.excepthook = _thread_ended  # TensorBoard writes in a thread
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that a terminal cannot show
    try:
        allow_many_files()
        if distributed.world_size() > 1:
            stop.follow_launcher()
        main()
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        where = getattr(error, "where", "")
        log.error("interrupted; the same command continues%s", where)
        sys.exit(getattr(error, "status", 130))
    except BrokenPipeError:
        # Whoever read the output has gone, as in ``| head``; Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        with suppress(InputError):  # of a log file on a full disk
            log.error("error: %s", sentence)
            if not isinstance(error, InputError):
                # Half-made loaders complain when they are deleted.
                sys.unraisablehook = lambda _: None
                log.debug("where it came from", exc_info=True)  # in the log file alone
        sys.exit(2)
    distributed.stop()

"""torchrun, whose own traceback does not follow the sentence that a program ends with.

    python -m tool.launch --standalone --nproc_per_node=4 train_resnet50_SIPE.py ...

Takes the arguments of torchrun, and exits with the status of the process that failed first. On one
machine (``--standalone``) its name need not resolve.
"""

import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    words = sys.argv[1:]
    if "--standalone" in words:
        words = ["--local_addr=127.0.0.1", *words]
    try:
        main(words)
    except SignalException as error:  # its processes have taken the same
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                sentence = f"Process {rank} was killed by {name}. The same command continues."
                print(f"error: {sentence}", file=sys.stderr)
        _, failure = error.get_first_failure()
        sys.exit(failure.exitcode if failure.exitcode > 0 else 1)

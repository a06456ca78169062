"""torchrun, whose own traceback does not follow the sentence that a program ends with.

    python -m tool.launch --standalone --nproc_per_node=4 train_resnet50_SIPE.py ...

Takes the arguments of torchrun, and exits with the status of the process that failed first.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    try:
        main()
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        sys.exit(failure.exitcode if failure.exitcode > 0 else 1)

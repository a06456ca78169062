"""Everything that one wants to know of a card, in at most nine minutes.

    python -m benchmarks.gpu [--minutes 9] [--device cuda:0]

Seconds of a step, pictures a second, peak memory, and the projected hours of ``run_voc.sh`` and
``run_coco.sh``, with convolutions in float32, TF32 (the defaults) and bfloat16; and how far the
cheaper two differ from float32: by how much the first loss of trainings, elsewhere the share of
pixels with another label, both of random networks on random pictures. It makes its own input,
leaves nothing behind, and stops and skips what does not fit into the time. What it shows is the
device alone: reading and writing go on beside it, see docs/processes.md.
"""

from functools import partial

from benchmarks.throughput import main
from tool.run import run

SHOWN = {"variants": ["float32", "defaults", "bfloat16"], "repeats": 5, "minutes": 9.0}

if __name__ == "__main__":
    run(partial(main, docstring=__doc__, **SHOWN))

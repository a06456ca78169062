"""What every step shares, one idea a file.

Importing this package decides how OpenMP's threads wait for each other, which counts only before
PyTorch is loaded: programs import it first. By default a waiting thread spins so long that a second
job on the same cores makes a training ten times slower; ten thousand rounds cost nothing on an idle
machine.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

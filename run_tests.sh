#!/usr/bin/env bash
# Runs the tests, on the CPU, in a few minutes; installs into .venv what is missing.
#   bash run_tests.sh                 all of them
#   bash run_tests.sh -k checkpoint   any arguments of pytest
# Skipped tests are listed with their reason at the end.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "$0")"
REQUIREMENTS=(requirements.txt requirements-dev.txt)
source tool/setup.sh
"$PYTHON" -c 'import pydensecrf.densecrf' 2> /dev/null ||
    echo "pydensecrf2 is not there: the tests that compare the dense CRF with it are skipped."
export OMP_NUM_THREADS=1 # tiny tensors: threads would only wait for each other
exec "$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal "$@"

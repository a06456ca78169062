#!/usr/bin/env bash
# Runs the tests, on the CPU, in a few minutes; installs into .venv what is missing.
#   bash run_tests.sh                 all of them
#   bash run_tests.sh -k checkpoint   any arguments of pytest
set -euo pipefail
cd "$(dirname "$0")"
source tool/setup.sh
export OMP_NUM_THREADS=1 # tiny tensors: threads would only wait for each other
exec "$PYTHON" -m pytest "$@"

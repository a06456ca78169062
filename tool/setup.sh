# Sourced by the run_*.sh scripts: sets PYTHON to an interpreter that has the requirements, and
# defines `step`.
# The interpreter of the shell (or $PYTHON) if it has them, else one in .venv, made here if needed.

satisfied() { # does interpreter $1 have every line of requirements.txt?
    "$1" - <<'PYTHON' 2> /dev/null
import re, sys
from importlib.metadata import version
release = lambda text: [int(n) for n in re.findall(r"\d+", text)[:2]]
assert sys.version_info >= (3, 10)
for line in open("requirements.txt"):
    name, wanted = line.split(">=")
    assert release(version(name)) >= release(wanted), name
PYTHON
}

newest_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.10 or newer is needed; found $(python3 --version 2>&1 || true)" >&2
    return 1
}

if ! satisfied "${PYTHON:=python3}"; then
    if ! satisfied .venv/bin/python; then
        base=$(newest_python)
        echo "Installing the requirements into .venv, once (a few minutes, about 6 GB) ..."
        "$base" -m venv .venv || {
            echo "error: no virtual environment could be made; on Debian: apt install python3-venv" >&2
            exit 1
        }
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt || {
            echo "error: the installation failed; run the same command again, or install" \
                "requirements.txt yourself and set PYTHON to that interpreter" >&2
            exit 1
        }
        satisfied .venv/bin/python || {
            echo "error: .venv does not have what requirements.txt asks for; delete it and try again" >&2
            exit 1
        }
    fi
    PYTHON=.venv/bin/python
fi
export PYTHON

step() { # step TITLE NAME COMMAND...: says what runs, and keeps its seconds in $SESSION/seconds.txt
    local title=$1 name=$2 begin=$SECONDS
    shift 2
    echo
    echo "== $title"
    "$@" || {
        echo "error: '$title' stopped. Mend what it says above and run the same command again:" \
            "it continues." >&2
        exit 1
    }
    echo "   took $((SECONDS - begin)) s"
    # Only the first time counts: a step that finds its work done takes no time.
    grep -qs "^$name " "$SESSION/seconds.txt" || echo "$name $((SECONDS - begin))" >> "$SESSION/seconds.txt"
}

# shellcheck shell=bash
# Sourced by the run_*.sh scripts: sets PYTHON to an interpreter that has the requirements, and
# defines `step`.
# The interpreter of the shell (or $PYTHON) if it has them, else one in .venv, made here if needed.
#   REQUIREMENTS  an array: the files whose lines are wanted (requirements.txt)
#   EVERYTHING    if set, lines that end with "# optional" are wanted too; otherwise .venv does
#                 without those that cannot be installed

[ -n "${REQUIREMENTS:-}" ] || REQUIREMENTS=(requirements.txt)

wanted() { # wanted needed|optional: prints those lines of the requirements files, without remarks
    local other=-v
    [ "$1" = needed ] || other=
    grep -h '^[a-z]' "${REQUIREMENTS[@]}" | grep ${other:+"$other"} '# optional$' | sed 's/ *#.*//'
}

satisfied() { # does interpreter $1 have what is wanted?
    local lines
    lines=$(wanted needed)
    [ -z "${EVERYTHING:-}" ] || lines+=$'\n'$(wanted optional)
    "$1" - "$lines" <<'PYTHON' 2> /dev/null
import re, sys
from importlib.metadata import version
release = lambda text: [int(n) for n in re.findall(r"\d+", text)[:2]]
assert sys.version_info >= (3, 10)
for line in sys.argv[1].splitlines():
    name, wanted = line.split(">=")
    assert release(version(name)) >= release(wanted), name
PYTHON
}

install() { # install: reads lines, and puts all of them into .venv
    tr '\n' '\0' | xargs -0 .venv/bin/python -m pip install --quiet --disable-pip-version-check
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
        wanted needed | install || {
            echo "error: the installation failed; run the same command again, or install" \
                "${REQUIREMENTS[*]} yourself and set PYTHON to that interpreter" >&2
            exit 1
        }
        { wanted optional || true; } | while read -r line; do
            install <<< "$line" > /dev/null 2>&1 || echo "${line%%>*} cannot be installed here."
        done
        satisfied .venv/bin/python || {
            echo "error: .venv does not have what ${REQUIREMENTS[*]} ask for; delete it and try" \
                "again, or install by hand what it lacks" >&2
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

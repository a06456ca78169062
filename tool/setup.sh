# shellcheck shell=bash
# Sourced by the run_*.sh scripts, right after they went to this folder: sets PYTHON to an interpreter
# that has the requirements, and defines `from_caller`, `words` and `step`.
# The interpreter of the shell (or $PYTHON) if it has them, else one in .venv, made here if needed.
#   REQUIREMENTS  an array: the files whose lines are wanted (requirements.txt)
#   EVERYTHING    if set, lines that end with "# optional" are wanted too; otherwise .venv does
#                 without those that cannot be installed

# Bash before 4.4, as macOS has it, takes an empty array for a variable that is not set.
if [ "${BASH_VERSINFO[0]}" -lt 5 ]; then set +u; fi
# A variable of the environment is no array.
[[ $(declare -p REQUIREMENTS 2> /dev/null) == "declare -a"* ]] || REQUIREMENTS=(requirements.txt)
CALLER=${OLDPWD:-$PWD}

from_caller() { # from_caller VARIABLE...: relative paths that the user set count from where he is
    local name
    for name in "$@"; do
        case ${!name:-} in
            "" | /*) ;;
            -*) printf -v "$name" '%s/%s' "$CALLER" "${!name}" ;; # or a program takes it for a flag
            *) [ "$CALLER" = "$PWD" ] || printf -v "$name" '%s/%s' "$CALLER" "${!name}" ;;
        esac
    done
}

words() { # words VARIABLE ARRAY: what stands in the variable, split and unquoted as the shell does it
    local quoted # so that nothing of it is executed
    quoted=$("$PYTHON" -c '
import os, shlex, sys
try:
    quoted = shlex.join(shlex.split(sys.argv[2]))
    sys.stdout.buffer.write(os.fsencode(quoted))
except ValueError as error:
    sys.exit(f"error: {sys.argv[1]} cannot be read as flags: {error}")' "$1" "${!1:-}") || exit 2
    eval "$2=($quoted)"
}

is_on() { # is_on VARIABLE: is a setting 1, yes, true or on, and not 0, no, false, off or empty?
    case ${!1:-} in
        1 | yes | true | on) ;;
        "" | 0 | no | false | off) return 1 ;;
        *) echo "error: $1 is '${!1}'; it can be 1 or 0" >&2; exit 2 ;;
    esac
}

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

is_python() { # is_python PROGRAM: is it an interpreter that is new enough?
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' > /dev/null 2>&1
}

newest_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if is_python "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.10 or newer is needed; found $(python3 --version 2>&1 || true)" >&2
    return 1
}

case ${PYTHON:=python3} in
    */*) from_caller PYTHON ;;
esac
if [ "$PYTHON" != python3 ] && ! is_python "$PYTHON"; then
    echo "error: PYTHON is '$PYTHON', which is no Python 3.10 or newer; leave it out, or name one" >&2
    exit 2
fi
if ! satisfied "$PYTHON"; then
    if ! satisfied .venv/bin/python; then
        base=$(newest_python)
        if [ -e .venv ] && ! is_python .venv/bin/python; then
            echo "error: the interpreter of .venv does not start any more, perhaps since Python was" \
                "updated; delete .venv and run the same command again" >&2
            exit 1
        fi
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

make_session() { # the folder $SESSION
    local reason
    reason=$(mkdir -p "$SESSION" 2>&1) || {
        echo "error: SESSION is '$SESSION', where no folder can be made ($reason)" >&2
        exit 2
    }
}

step() { # step TITLE NAME COMMAND...: says what runs, and keeps its seconds in $SESSION/seconds.txt
    local title=$1 name=$2 begin=$SECONDS
    shift 2
    echo
    echo "== $title"
    "$@" || {
        echo "error: '$title' stopped. Correct what it says above and run the same command again:" \
            "it continues." >&2
        exit 1
    }
    echo "   took $((SECONDS - begin)) s"
    # Only the first time counts: a step that finds its work done takes no time.
    grep -qs "^$name " "$SESSION/seconds.txt" || echo "$name $((SECONDS - begin))" >> "$SESSION/seconds.txt"
}

each_seed() { # with SEEDS="1 2 3": the script once for each, and a table of means; else nothing
    local seed seeds=" " sessions=()
    [ -n "${SEEDS:-}" ] || return 0
    for seed in $SEEDS; do
        case $seed in
            *[!0-9]* | ??????????*) seed=none ;;
            *) seed=$((10#$seed)) ;; # 01 is 1
        esac
        case $seeds$seed in
            *none | *" $seed "*)
                echo "error: SEEDS is '$SEEDS'; it is different numbers with spaces between" >&2
                exit 2
                ;;
        esac
        seeds+="$seed "
    done
    for seed in $seeds; do
        sessions+=("${SESSION}_$seed")
        echo
        echo "#### seed $seed -> ${SESSION}_$seed"
        SEEDS="" SEED=$seed SESSION=${SESSION}_$seed bash "./${0##*/}" || exit 1
    done
    echo
    "$PYTHON" -m tool.report "${sessions[@]}"
    exit
}

#!/bin/sh
# Make or renew an environment from a lock file. Called by the Makefile:
#
#   sh deploy/setup.sh LOCKFILE [FOLDER]     .venv unless given; only .venv gets the project itself
#
# Touches nothing outside the project folder. Uses the index that pip is configured for; every
# file is checked against its hash. PYTHON=/path/to/python chooses the interpreter.
set -eu
lock=$1
venv=${2:-.venv}
log=$venv/setup.log

say() { printf '%s\n' "$*"; }
fail() { printf '\nsetup: %s\n' "$*" >&2; exit 1; }

is_suitable() { # runs (a pyenv shim may exist and not run) and is new enough
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' >/dev/null 2>&1
}

candidates="${PYTHON:-python3.13 python3.12 python3.11 python3 python}"

make_venv() { # tries each suitable interpreter: on Debian the venv module may lack its pip
    seen=
    for python in $candidates; do
        is_suitable "$python" || continue
        seen=$python
        say "Making $venv with $("$python" -V) ($python)"
        if "$python" -m venv "$venv" >/dev/null 2>&1 && "$venv/bin/python" -m pip -V >/dev/null 2>&1; then
            return 0
        fi
        rm -rf "$venv"
        if "$python" -m virtualenv -q "$venv" >/dev/null 2>&1; then
            return 0
        fi
        rm -rf "$venv"
    done
    if [ -z "$seen" ]; then
        fail "no Python 3.11 or newer found (tried: $candidates).
Install one (Debian, Ubuntu: apt install python3 python3-venv), or say where it is:
    make setup PYTHON=/path/to/python3"
    fi
    fail "$seen cannot make a virtual environment: its venv module is not complete.
Debian, Ubuntu:  apt install $("$seen" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
elsewhere:       $seen -m pip install --user virtualenv
then run make again."
}

# A folder that was moved or an interpreter that is gone leaves an environment that cannot be used.
here=$(pwd -P)
if [ -d "$venv" ] && { ! is_suitable "$venv/bin/python" ||
    { [ -f "$venv/place" ] && [ "$(cat "$venv/place")" != "$here" ]; }; }; then
    say "Removing a $venv that no longer fits this place or this Python"
    rm -rf "$venv"
fi
[ -d "$venv" ] || make_venv
printf '%s\n' "$here" >"$venv/place"

total=$(grep -c '^[a-z0-9].*==' "$lock")
say "Installing $total packages of $lock (log: $log)"
: >"$log"
terminal=
[ -t 1 ] && terminal=yes

pip() {
    PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
        "$venv/bin/python" -m pip --no-input "$@" 2>>"$log"
}

{
    pip install --require-hashes --no-deps --progress-bar off --no-compile -r "$lock" ||
        echo "smsgw-setup-failed"
} | {
    count=0
    while IFS= read -r line; do
        case $line in
        smsgw-setup-failed) exit 1 ;;
        esac
        printf '%s\n' "$line" >>"$log"
        case $line in
        Collecting* | "Requirement already"*)
            count=$((count + 1))
            name=${line#Collecting }
            name=${name#Requirement already satisfied: }
            [ -z "$terminal" ] || printf '\r\033[K  %d of %d  %s' "$count" "$total" "${name%% *}"
            ;;
        Installing*) [ -z "$terminal" ] || printf '\r\033[K  unpacking' ;;
        esac
    done
    [ -z "$terminal" ] || printf '\r\033[K'
} || {
    grep -v '^WARNING' "$log" | tail -n 15 >&2 || true
    fail "pip could not install $lock, see above and $log.
No network, or an index of your own? pip's usual configuration is obeyed (PIP_INDEX_URL …)."
}

# pip would compile one file after another; some packages hold files for other Pythons.
"$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >>"$log" 2>&1 || :

[ "$venv" = .venv ] || exit 0
pip install --no-deps --no-build-isolation --quiet -e . >>"$log" || {
    tail -n 15 "$log" >&2
    fail "the project itself could not be installed, see above."
}

#!/bin/sh
# Make .venv with the locked dependencies; does nothing when that is done. PYTHON names the Python to use. Notices go
# to stderr, since stdout belongs to the command that comes after.
#
# .venv/requirements.lock, a copy of the lock file, is written last: it says that .venv is complete. .venv.installing
# holds the pid of the installation that is under way; one that was killed may have left half a package behind, which
# pip would take for a whole one, so .venv is then made anew.
set -eu

marker=.venv.installing
print_version='import sys; print("%d.%d" % sys.version_info[:2])'
is_supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'

version_of() {
    "$1" -c "$print_version" 2>/dev/null || true
}

fail() {
    echo "$1" >&2
    exit 1
}

is_complete() {
    [ ! -e "$marker" ] && cmp -s requirements.lock .venv/requirements.lock && fits .venv/bin/python
}

# Whether a Python is there, and is of the version that PYTHON asks for.
fits() {
    there=$(version_of "$1")
    [ -n "$there" ] && { [ -z "${PYTHON:-}" ] || [ "$there" = "$(version_of "$PYTHON")" ]; }
}

# Take the marker; returns 1 when another command completed the installation meanwhile.
claim() {
    waited=0
    until (set -C && echo $$ >"$marker") 2>/dev/null; do
        [ -w . ] || fail "The folder $PWD cannot be written; run as the user who owns it."
        holder=$(cat "$marker" 2>/dev/null || true)
        if [ -n "$holder" ] && ! kill -0 "$holder" 2>/dev/null; then
            interrupted=yes
            rm -f "$marker"
            continue
        fi
        [ "$waited" -ne 5 ] || echo 'Another command is installing the dependencies; waiting for it.' >&2
        [ "$waited" -lt 4500 ] || fail "It has not ended for 15 minutes. If none runs, remove $marker."
        sleep 0.2
        waited=$((waited + 1))
    done
    [ "$interrupted" = yes ] || ! cmp -s requirements.lock .venv/requirements.lock || ! fits .venv/bin/python
}

choose_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c "$is_supported" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    found=$(version_of "${PYTHON:-python3}")
    fail "pgferry needs Python 3.11, 3.12 or 3.13; ${PYTHON:-python3} is ${found:-not there}. \
Install one, or name it: make PYTHON=/path/to/python3.12"
}

make_venv() {
    python=$(choose_python)
    echo "Making the virtual environment .venv with Python $(version_of "$python")." >&2
    "$python" -m venv --clear .venv ||
        fail "Python's venv module failed; on Debian and Ubuntu, apt install python3-venv brings what it needs."
}

install() {
    echo 'Installing the locked dependencies; this takes a minute or two.' >&2
    # A user's pip settings may ask for what a virtual environment refuses.
    PIP_USER=0 .venv/bin/python -m pip install --no-input --disable-pip-version-check --no-deps \
        -r requirements.lock >.venv/pip.log 2>&1 && return
    grep -v '^WARNING' .venv/pip.log | tail -n 15 >&2
    fail 'The installation failed; all of its output is in .venv/pip.log. The same command tries it again.'
}

is_complete && exit 0
interrupted=no
if ! claim; then
    rm -f "$marker"
    exit 0
fi
if [ "$interrupted" = yes ] || ! fits .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    make_venv
fi
install
cp requirements.lock .venv/requirements.lock
rm -f "$marker"

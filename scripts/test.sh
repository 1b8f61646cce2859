#!/bin/sh
# Runs the test suite: with arguments as pytest takes them, without any in three parts side by side, since each waits
# for a third of its time. The parts share nothing: each has a PostgreSQL server and Prefect servers of its own. They
# take about the same time. The first one's output is seen as it comes, that of the others at their end. Fails when one
# of them fails. Each names what took longest.
set -eu
python=.venv/bin/python

# The tests start Python hundreds of times: it need not compile the project each time.
unset PYTHONDONTWRITEBYTECODE

if [ $# -gt 0 ]; then
    exec "$python" -m pytest "$@"
fi

said=$(mktemp -d)
others=
trap 'rm -rf "$said"; kill $others 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

# What a shell starts in the background ignores Ctrl-C, this script itself may, and so would all that the tests start.
hears='import signal, sys, pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main(sys.argv[1:]))'

beside() {
    name=$1
    shift
    "$python" -c "$hears" --durations=25 "$@" >"$said/$name" 2>&1 &
    others="$others $!"
}

# Some tests go elsewhere, so that the parts take about the same time: with the flows those of what needs the worker,
# too, and of the embedded server; with the units what needs no Prefect. What no part names stays where it is.
folder=tests/acceptance
with_flows="$folder/test_files_are_private.py $folder/test_secrets.py tests/integration/test_embedded.py"
with_units="$folder/test_hostile_files.py $folder/test_hostile_schemas.py"

beside 2 $folder $(printf -- '--ignore=%s ' $with_flows $with_units)
beside 3 tests/unit tests/integration $with_units $(printf -- '--ignore=%s ' $with_flows)

status=0
"$python" -c "$hears" --durations=25 tests/flows $with_flows || status=$?
for other in $others; do
    wait "$other" || status=$?
done
cat "$said"/*
exit "$status"

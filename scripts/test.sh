#!/bin/sh
# Runs the test suite: with arguments as pytest takes them, without any in two halves side by side, one a core. The
# halves share nothing: each has a PostgreSQL server and a Prefect server of its own. They take about the same time:
# the faults and the hostile files go with the tests that need no Prefect. Fails when one of them fails.
set -eu
python=.venv/bin/python

if [ $# -gt 0 ]; then
    exec "$python" -m pytest "$@"
fi

said=$(mktemp)
trap 'rm -f "$said"; kill "$other" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

# The shell lets what it starts in the background ignore Ctrl-C, and so would all that the tests start.
hears='import signal, sys, pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main(sys.argv[1:]))'
"$python" -c "$hears" tests/unit tests/integration tests/acceptance/test_fault_*.py tests/acceptance/test_hostile_*.py \
    tests/acceptance/test_soak.py >"$said" 2>&1 &
other=$!

status=0
"$python" -m pytest tests/flows tests/acceptance --ignore-glob='*/test_fault_*.py' \
    --ignore-glob='*/test_hostile_*.py' --ignore-glob='*/test_soak.py' || status=$?
wait "$other" || status=$?
cat "$said"
exit "$status"

#!/bin/sh
# Run the move; its arguments are those of `python -m flows migrate`. Where no source is named, the sample database is
# moved, made with ROWS trades when it is not there. Notices go to stderr, so that --json has stdout for itself.
set -eu

# A PostgreSQL URL in .env names one too: that application has moved, and the sample is not what its target waits for.
is_named() {
    [ -n "${PGFERRY_SOURCE:-}" ] ||
        grep -Eqs '^[[:space:]]*(export[[:space:]]+)?(PGFERRY_SOURCE|DATABASE_URL)[[:space:]]*=' .env
}

is_argument() {
    for argument; do
        case $argument in --source | --source=*) return 0 ;; esac
    done
    return 1
}

make_sample() {
    rows=${ROWS:-200000}
    echo "No source is named: making the sample database $sample with $rows trades." >&2
    mkdir -p "$folder"
    rm -f "$folder"/new.db*
    .venv/bin/python -m pgferry.sample.generate --rows "$rows" "$folder/new.db" >&2
    mv "$folder/new.db" "$sample"
    echo "$rows" >"$folder/rows"
}

if ! is_named && ! is_argument "$@"; then
    folder=${PGFERRY_HOME:-.pgferry}/sample
    sample=$folder/osrs_tool_hub.db
    made=$(cat "$folder/rows" 2>/dev/null || true)
    if [ ! -f "$sample" ] || [ "${ROWS:-$made}" != "$made" ]; then
        make_sample
    else
        echo "No source is named: taking the sample database $sample with $made trades." >&2
    fi
    export PGFERRY_SOURCE="$sample"
fi
exec .venv/bin/python -m flows migrate "$@"

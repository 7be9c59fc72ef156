#!/bin/sh
# dev/coverage.sh [PERCENT]: which lines of nr.c and tokenizer.c do the tests run? Builds everything for gcov, runs the tests and the
# sections of dev/faults.sh that end by themselves, and prints the share of lines that ran in any program, then every line that ran
# in none. Fails below PERCENT (95).
set -u
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
export OMP_NUM_THREADS=1
cp -r nr.c tokenizer.c test_nr.c prepare_data.sh dev "$work" && cd "$work" || exit 1

build() { # NAME SOURCE OPTIONS...: every program has counts of its own, in NAME-*
    name=$1 from=$2
    shift 2
    gcc -O0 --coverage -march=native -std=c11 -Wno-unknown-pragmas "$@" -o "$name" "$from" -lm || exit 1
}
build nr nr.c
build nr_static nr.c -static
build tokenizer tokenizer.c
build tokenizer_static tokenizer.c -static
build test_nr_double test_nr.c -DREAL=double
build test_nr_float test_nr.c

if ! { ./test_nr_double && ./test_nr_float; } >log; then grep '^ \|FAIL' log; exit 1; fi
BUILT=$work dev/faults.sh -q places data numbers streams settings frozen disk >log 2>&1 # gcov's own messages are no faults

gcov -t ./*.gcno 2>/dev/null | awk -v least="${1:-95}" '
    $1 == "-:" && $2 == "0:Source:nr.c" { source = "nr.c"; next }
    $1 == "-:" && $2 == "0:Source:tokenizer.c" { source = "tokenizer.c"; next }
    $1 == "-:" && $2 ~ /^0:Source:/ { source = ""; next }
    source == "" || $1 == "-:" { next }
    {
        count = $0; sub(/:.*/, "", count); gsub(/ /, "", count)
        rest = $0; sub(/^[^:]*:/, "", rest)
        line = rest + 0; sub(/^[^:]*:/, "", rest)
        if (!((source, line) in text)) { text[source, line] = rest; total[source]++; if (line > last[source]) last[source] = line }
        if (count !~ /^[#=]/ && !((source, line) in ran)) { ran[source, line] = 1; run[source]++ }
    }
    END {
        for (s in total) {
            for (l = 1; l <= last[s]; l++) if ((s, l) in text && !((s, l) in ran)) printf "%s:%d: %s\n", s, l, text[s, l]
            all += total[s]; good += run[s]
        }
        for (s in total) printf "%s: %d of %d lines ran, %.1f%%\n", s, run[s], total[s], 100 * run[s] / total[s]
        printf "%.1f%% of all\n", 100 * good / all
        exit good < least / 100 * all
    }'

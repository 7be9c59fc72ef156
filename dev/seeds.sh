#!/bin/sh
# dev/seeds.sh [DATA [OUT [SEEDS]]]: the figures of README.md. For every seed: ./nr run, then lora, adapter and neutral again with
# --new-rows 0 from the same backbone, all evaluated on val and test; prints medians over the seeds. What is in OUT already is not
# computed again, so it can be stopped and continued.
# dev/seeds.sh rates [DATA [OUT]]: every method at the same grid of learning rates, from the backbone of seed 1, on val.
set -eu
cd "$(dirname "$0")/.."
mode=seeds
[ "${1:-}" = rates ] && { mode=rates; shift; }
data=${1:-data/multi30k} out=${2:-out/seeds} seeds=${3:-1 2 3}

run() { # SEED: the experiment
    if [ ! -s "$out/$1/results.csv" ] || [ "$(wc -l <"$out/$1/results.csv")" != 7 ]; then
        ./nr run --data "$data" --seed "$1" --out "$out/$1"
    fi
}

extend() { # MODEL-OR-EXTENSION METHOD OPTIONS...: trains it unless it is there
    target=$1 method=$2
    shift 2
    [ -e "$target" ] || ./nr extend -i "$backbone" --data "$data" --method "$method" -o "$target" "$@"
}

score() { # MODEL-OR-EXTENSION SPLIT: "old new", losses
    if [ -d "$1" ]; then model=$1 x=''; else model=$backbone x="-x $1"; fi
    # shellcheck disable=SC2086  # x is two words or none
    ./nr eval -i "$model" $x --data "$data" --split "$2" --csv "$out/score.csv" >/dev/null
    awk -F, 'NR > 1 { printf "%s%s", $4, NR == 2 ? " " : "\n" }' "$out/score.csv"
}

mkdir -p "$out"
if [ $mode = rates ]; then
    run 1 >&2
    backbone=$out/1/backbone
    base=$(score "$backbone" val)
    echo "method     rate    forgets   new    sum of both losses (val, seed 1; backbone $base)"
    for method in finetune lora adapter neutral; do
        for lr in 5e-4 1e-3 2e-3 5e-3 1e-2 2e-2; do
            extend "$out/rate_${method}_$lr" "$method" --lr "$lr" >&2
            score "$out/rate_${method}_$lr" val | awk -v m="$method" -v lr="$lr" -v b="${base%% *}" \
                '{ printf "%-9s %5s   %+.3f   %.3f   %.3f\n", m, lr, $1 - b, $2, $1 + $2 }'
        done
    done
    exit
fi

for seed in $seeds; do
    run "$seed" >&2
    backbone=$out/$seed/backbone
    for method in lora adapter neutral; do
        extend "$out/$seed/${method}_norows.safetensors" $method --new-rows 0 --seed "$seed" >&2
    done
    for split in val test; do
        for what in backbone naive finetune lora adapter neutral lora_norows adapter_norows neutral_norows; do
            file=$out/$seed/$what
            [ -d "$file" ] || file=$file.safetensors
            echo "$split $what $seed $(score "$file" $split)"
        done
    done
done >"$out/scores.txt"

awk 'function median(list,   v, n, i, j, t) {
        n = split(list, v, " ")
        for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        return (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2
    }
    $2 == "backbone" { base[$1, $3] = $4 }
    { k = $1 SUBSEP $2; old[k] = old[k] " " $4; new[k] = new[k] " " $5; forgets[k] = forgets[k] " " ($4 - base[$1, $3])
      if (!($2 in seen)) { seen[$2] = 1; order[++n] = $2 } }
    END {
        print "medians over the seeds    val: old   forgets  new      test: old   forgets  new"
        for (i = 1; i <= n; i++) {
            printf "%-24s", order[i]
            for (s = 0; s < 2; s++) {
                k = (s ? "test" : "val") SUBSEP order[i]
                printf "  %8.3f   %+6.3f  %5.3f", median(old[k]), median(forgets[k]), median(new[k])
            }
            print ""
        }
    }' "$out/scores.txt"

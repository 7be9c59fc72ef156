#!/bin/sh
# dev/results.sh: trains, evaluates and prints every figure of README.md that is about real text, and writes them to
# dev/results.csv. Stop it and start it again as you like: what is finished is in $OUT and is not computed again (a changed
# recipe or nr.c therefore needs another OUT). Somewhat over an hour on two cores.
# dev/results.sh table: prints dev/results.csv.
#
#   grid      every method at six learning rates, seed 1. Its best rate is the one whose old and new losses on val have the
#             least sum; within 0.01 of that, the one that forgets least
#   best      every method at its best rate, three seeds, each with a backbone of its own
#   ablation  neutral, or the method named, at its best rate with one thing changed, three seeds
set -eu
cd "$(dirname "$0")/.."

# From the environment if it is set there: to try all this with few steps, say, into another folder.
data=${DATA:-data/multi30k} out=${OUT:-out/results} results=${RESULTS:-dev/results.csv} jobs=${JOBS:-2}
pretrain_steps=${PRETRAIN_STEPS:-2400} steps=${STEPS:-800} seeds=${SEEDS:-1 2 3}
pretrain_lr=2e-3
pretrain="--layers 6 --heads 6 --channels 192 --context 128 --steps $pretrain_steps --batch 8"
extend="--old en --new fr --steps $steps --batch 8"
rates='5e-4 1e-3 2e-3 5e-3 1e-2 2e-2'

# What there is to train, a line each: WHAT METHOD RATE SEED OPTIONS.
backbones() { for seed in $seeds; do echo "backbone backbone $pretrain_lr $seed"; done; }

grid() {
    echo "grid naive 1e-3 1"
    for method in finetune lora adapter neutral; do for lr in $rates; do echo "grid $method $lr 1"; done; done
}

best_and_ablations() { # seed by seed: stopped early, there is a line of each
    for seed in $seeds; do
        for method in naive finetune lora adapter neutral; do echo "best $method $(best $method) $seed"; done
        while read -r name method options; do echo "ablation:$name $method $(best "$method") $seed $options"; done <<END
no-gate          neutral  --gate none
no-gate-no-l1    neutral  --gate none --local none
sigmoid-ce       neutral  --gate sigmoid --local ce
no-l1            neutral  --local none
alpha-0.01       neutral  --alpha 0.01
alpha-0.1        neutral  --alpha 0.1
alpha-0.3        neutral  --alpha 0.3
alpha-3          neutral  --alpha 3
alpha-10         neutral  --alpha 10
alpha-30         neutral  --alpha 30
init-he          neutral  --init he
gate-random      neutral
gate-w0-b0       neutral
p-0              neutral  --p 0
p-0.01           neutral  --p 0.01
p-0.5            neutral  --p 0.5
hidden-80        neutral  --hidden 80
hidden-320       neutral  --hidden 320
no-new-rows      neutral  --new-rows 0
no-new-rows      adapter  --new-rows 0
no-new-rows      lora     --new-rows 0
p-0              adapter  --p 0
p-0.01           adapter  --p 0.01
p-0.5            adapter  --p 0.5
END
    done
}

best() { # METHOD: its rate. Of each file the first line, val
    for rate in $rates; do
        [ ! -e "$out/$1-$rate-1.csv" ] || sed 1q "$out/$1-$rate-1.csv"
    done | awk -F, '
        { lr[NR] = $2; old[NR] = $5; sum[NR] = $5 + $6; if (NR == 1 || sum[NR] < least) least = sum[NR] }
        END { for (i = 1; i <= NR; i++) if (sum[i] <= least + 0.01 && (!b || old[i] < old[b])) b = i; print lr[b] }'
}

# The file that says a line is finished. What grid and best have in common is trained once.
key() { # WHAT METHOD RATE SEED
    case $1 in ablation:*) echo "$2-$3-$4-${1#ablation:}" ;; *) echo "$2-$3-$4" ;; esac
}

# An nr for the ablation NAME that no option of nr's makes: nr.c with each OLD replaced by its NEW.
variant() { # NAME OLD NEW [OLD NEW]
    name=$1 folder=$work/$1
    shift
    mkdir "$folder"
    cp Makefile nr.c tokenizer.c "$folder"
    while [ $# -gt 0 ]; do
        old=$1 new=$2 awk 'i = index($0, ENVIRON["old"]) {
                $0 = substr($0, 1, i - 1) ENVIRON["new"] substr($0, i + length(ENVIRON["old"])); found++ }
            { print } END { exit found != 1 }' "$folder/nr.c" >"$folder/changed" ||
            { echo "results.sh: $name: not once in nr.c: $1" >&2; exit 1; }
        mv "$folder/changed" "$folder/nr.c"
        shift 2
    done
    make -s -C "$folder" nr
    mv "$folder/nr" "$work/nr-$name"
}

quietly() { # COMMAND...: its output is shown if it fails. In the background, so that a signal is seen to at once
    "$@" >"$work/$key.log" 2>&1 &
    child=$!
    wait $child || { cat "$work/$key.log" >&2; exit 1; }
}

train() { # trains and evaluates $what $method $lr $seed $options: a line for val, a line for test in $out/$key.csv
    backbone=$out/backbone-$seed
    nr=$work/nr-${what#ablation:}
    [ -e "$nr" ] || nr=$work/nr
    # shellcheck disable=SC2086  # $pretrain, $extend and $options are words
    if [ "$method" != backbone ]; then
        quietly "$nr" extend -i "$backbone" --data "$data" --method "$method" --lr "$lr" --seed "$seed" --threads 1 \
            $extend $options -o "$work/$key"
    elif [ ! -d "$backbone" ]; then
        quietly "$nr" pretrain --data "$data" --domain en --lr "$lr" --seed "$seed" --threads 1 $pretrain -o "$work/$key"
        mv "$work/$key" "$backbone"
    fi
    case $method in
    backbone) set -- -i "$backbone" ;;
    naive | finetune) set -- -i "$work/$key" ;;
    *) set -- -i "$backbone" -x "$work/$key" ;;
    esac
    for split in val test; do
        quietly "$work/nr" eval "$@" --data "$data" --domains en,fr --split $split --threads 1 --csv "$work/$key.eval"
        awk -F, -v line="$method,$lr,$seed,$split" '{ loss[NR] = $4; gate[NR] = $7; closed[NR] = $8 }
            END { print line "," loss[2] "," loss[3] "," gate[2] "," gate[3] "," closed[2] "," closed[3] }' "$work/$key.eval"
    done >"$work/$key.csv"
    mv "$work/$key.csv" "$out/$key.csv"
    rm -rf "${work:?}/$key"
    echo "$key: $(awk -F, 'NR == 1 { print $5, $6 }' "$out/$key.csv")"
}

worker() { # LIST: trains the lines of it that nobody has finished or claimed
    child=''
    trap 'kill $child 2>/dev/null; exit 1' TERM
    while read -r what method lr seed options; do
        key=$(key "$what" "$method" "$lr" "$seed")
        if [ ! -e "$out/$key.csv" ] && mkdir "$work/claim-$key" 2>/dev/null; then train; fi
    done <"$1"
}

train_all() { # LIST
    n=0
    while [ $n -lt "$jobs" ]; do
        worker "$1" &
        pids="$pids $!" n=$((n + 1))
    done
    for pid in $pids; do wait "$pid" || exit 1; done
    pids=''
}

collect() { # LIST...: its lines of results.csv; the backbones come first
    echo what,method,lr,seed,split,old_loss,new_loss,forgets,gate_old,gate_new,closed_old,closed_new
    cat "$@" | while read -r what method rate seed options; do
        sed "s/^/$what,/" "$out/$(key "$what" "$method" "$rate" "$seed").csv"
    done | awk 'BEGIN { FS = OFS = "," }
        $1 == "backbone" { base[$4, $5] = $6 }
        { $7 = $7 "," sprintf("%.6f", $6 - base[$4, $5]); print }'
}

# 80 columns: means over the seeds, least and greatest value; *: a method's best rate. A name without a method is neutral's.
table() {
    awk -F, -v rates="$rates" '
    function mean(list,   v, n, i, s) { n = split(list, v, " "); for (i = 1; i <= n; i++) s += v[i]; return s / n }
    function range(list,   v, n, i, low, high) {
        n = split(list, v, " ")
        for (low = high = v[i = 1]; i <= n; i++) { if (v[i] + 0 < low + 0) low = v[i]; if (v[i] + 0 > high + 0) high = v[i] }
        return sprintf("%.3f..%.3f", low, high)
    }
    NR == 1 { next }
    $1 == "best" && $4 == 1 { best[$2, $3] = 1 }
    $1 == "grid" { if ($5 == "val") cell[$2, $3] = sprintf("%+.3f %.3f", $8, $7); next }
    {
        name = $1 == "backbone" || $1 == "best" ? $2 : substr($1, 10) ($2 == "neutral" ? "" : ", " $2)
        if (!(name in lr)) { lr[name] = $3; order[++names] = name }
        k = name SUBSEP $5
        old[k] = old[k] " " $6; new[k] = new[k] " " $7; forgets[k] = forgets[k] " " $8
        if ($11 != "") { closed_old[k] = closed_old[k] " " $11; closed_new[k] = closed_new[k] " " $12 }
    }
    END {
        for (s = 1; s <= 2; s++) {
            file = s == 1 ? "val" : "test"
            printf "%-20s %-4s %5s %6s %-13s %5s %-12s  shut%%\n", file, "rate", "en", "forgets", "", "fr", ""
            for (i = 1; i <= names; i++) {
                k = order[i] SUBSEP file
                printf "%-20s %-4s %5.3f %+6.3f %-13s %5.3f %-12s", order[i], lr[order[i]], mean(old[k]), mean(forgets[k]),
                    range(forgets[k]), mean(new[k]), range(new[k])
                if (k in closed_old) printf " %3.0f %3.0f", 100 * mean(closed_old[k]), 100 * mean(closed_new[k])
                print ""
            }
            print ""
        }
        n = split("finetune lora adapter neutral", method, " ")
        print "val, seed 1: forgets, fr"
        printf "rate"
        for (j = 1; j <= n; j++) printf (j < n ? "    %-13s" : "    %s\n"), method[j]
        m = split(rates, rate, " ")
        for (i = 1; i <= m; i++) {
            line = sprintf("%-5s", rate[i])
            for (j = 1; j <= n; j++) line = line "   " cell[method[j], rate[i]] ((method[j], rate[i]) in best ? "*" : " ")
            sub(/ +$/, "", line)
            print line
        }
    }' "$results"
}

if [ "${1:-}" = table ]; then table; exit; fi
[ $# = 0 ] || { sed -n '2,/^set/{/^#/p;}' "$0" >&2; exit 1; }

mkdir -p "$out"
work=$(mktemp -d "$out/work.XXXXXX") pids=''
trap 'kill $pids 2>/dev/null || :; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
make -s nr
cp nr "$work/nr"
variant gate-w0-b0 'gate == GATE_RELU ? 1 : 0' 'gate == GATE_RELU ? 0 : 0'
variant gate-random 'SET_GATE, INIT_ZERO' 'SET_GATE, INIT_GATE_B' \
    'constant = gate == GATE_RELU ? 1 : 0' 'deviation = gate == GATE_RELU && id == GATE_W ? 1 / sqrt((double)d->channels) : 0'

for list in backbones grid best_and_ablations; do
    $list >"$work/$list"
    train_all "$work/$list"
done
collect "$work/backbones" "$work/grid" "$work/best_and_ablations" >"$work/results.csv"
mv "$work/results.csv" "$results"
table

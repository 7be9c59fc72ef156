#!/bin/sh
# dev/results.sh: trains, evaluates and prints every figure of README.md that is about real text, and
# writes them to dev/results.csv and dev/results.md. Stop it and start it again as you like: what is
# finished is in $OUT and is not computed again (a changed recipe or nr.c therefore needs another
# OUT). dev/results.sh table: prints dev/results.csv as dev/results.md.
#
# English captions (en) and plays are known, captions are rehearsed, plays are never shown again, the
# new language is French.
#
#   grid      every method at four learning rates, seed 1. Its best rate is the one whose losses on
#             en, plays and fr (val) have the least sum
#   best      every method at its best rate, three seeds, each with a backbone of its own
#   ablation  the method named at its best rate with something changed: what concerns replay with
#             three seeds, the paper's with seed 1
#   size      every method and the paper's alpha in larger models, each at its best rate times 128
#             over the channels: 6 layers x 192 channels with three seeds, 8 x 384 with seed 1
#
# dev/results.csv has the columns of nr's own csv behind one more, `what`; change is against the
# backbone of the same seed. dev/choices.csv has the multiple-choice items that the backbones and
# `best` answer: acc by the likeliest ending, acc_norm by the likeliest for its length.
set -eu
cd "$(dirname "$0")/.."

# From the environment if it is set there: to try all this with few steps, say, into another folder.
data=${DATA:-data/multi30k} out=${OUT:-out/results} results=${RESULTS:-dev/results.csv} jobs=${JOBS:-2}
choices=$(dirname "$results")/choices.csv
pretrain="--data $data --known en,plays --pretrain-steps ${PRETRAIN_STEPS:-2400}"
extend="--data $data --old en --steps ${STEPS:-600}"
seeds=${SEEDS:-1 2 3} rates=${RATES:-1e-3 2e-3 5e-3 1e-2}

# What there is to train, a line each: WHAT METHOD RATE SEED OPTIONS.
backbones() {
    for seed in $seeds; do echo "backbone backbone 2e-3 $seed ${SIZE:-}"; done
    each_size | while read -r deep wide number; do
        echo "size:${deep}x$wide backbone $(scaled 2e-3 "$wide") $number --layers $deep --heads 6 --channels $wide"
    done
}

grid() {
    for method in finetune lora adapter neutral replay; do
        for lr in $rates; do echo "grid $method $lr 1"; done
    done
}

ablations() { # SEED <lines NAME METHOD OPTIONS
    while read -r name method options; do
        echo "ablation:$name $method $(best "$method") $1 $options"
    done
}

best_and_ablations() { # seed by seed: stopped early, there is a line of each
    for seed in $seeds; do
        for method in naive finetune lora adapter neutral replay; do
            echo "best $method $(best $method) $seed"
        done
        ablations "$seed" <<END
replay+old           replay   --p 0.1
replay-layer         replay   --gate-input layer
replay-5000          replay   --replay 5000
replay-80000         replay   --replay 80000
replay-cool          replay   --temperature 0.7
replay-alpha-1       replay   --alpha 1
replay-q-0.3         replay   --q 0.3
replay-as-text       replay   --replay-as text
text+old             finetune --replay 80000 --replay-as text
text+old             lora     --replay 80000 --replay-as text
text+old             adapter  --replay 80000 --replay-as text
prefix               neutral  --gate-input prefix
END
    done
    ablations 1 <<END
no-gate              neutral  --gate none
no-gate-no-l1        neutral  --gate none --local none
sigmoid-ce           neutral  --gate sigmoid --local ce
no-l1                neutral  --local none
alpha-0.01           neutral  --alpha 0.01
alpha-3              neutral  --alpha 3
init-he              neutral  --init he
gate-random          neutral  --gate-init random
gate-closed          neutral  --gate-init closed
p-0                  neutral  --p 0
p-0.5                neutral  --p 0.5
no-new-rows          neutral  --new-rows 0
replay-alpha-10      replay   --alpha 10
END
}

each_size() { # LAYERS CHANNELS SEED; what takes longest first
    echo 8 384 1
    for number in $seeds; do echo 6 192 "$number"; done
}

sizes() {
    each_size | while read -r deep wide number; do
        for name in finetune lora adapter neutral replay; do
            echo "size:${deep}x$wide $name $(scaled "$(best $name)" "$wide") $number"
        done
        echo "size:${deep}x$wide:alpha-0.01 neutral $(scaled "$(best neutral)" "$wide") $number --alpha 0.01"
    done
}

scaled() { # RATE CHANNELS
    awk -v rate="$1" -v channels="$2" 'BEGIN { printf "%.2g", rate * 128 / channels }'
}

# The best rate of a method. naive takes finetune's.
best() { # METHOD
    case $1 in naive) set -- finetune ;; esac
    for rate in $rates; do
        [ ! -e "$out/$1-$rate-1.csv" ] || awk -F, -v lr="$rate" '$6 == "val" { sum += $8 }
            END { print sum, lr }' "$out/$1-$rate-1.csv"
    done | sort -n | awk 'NR == 1 { print $2 }'
}

# The file that says a line is finished. What grid and best have in common is trained once.
key() { # WHAT METHOD RATE SEED
    case $1 in ablation:* | size:*) echo "$2-$3-$4-${1#*:}" ;; *) echo "$2-$3-$4" ;; esac
}

quietly() { # COMMAND...: its output is shown if it fails. In the background: a signal is seen at once
    "$@" >"$work/$key.log" 2>&1 &
    child=$!
    wait $child || { cat "$work/$key.log" >&2; exit 1; }
}

train() { # trains and evaluates $what $method $lr $seed $options: lines for val and test
    backbone=$out/backbone-$seed
    case $what in size:*) backbone=$backbone-$(echo "$what" | cut -d: -f2) ;; esac
    # shellcheck disable=SC2086  # $pretrain, $extend and $options are words
    if [ "$method" != backbone ]; then
        quietly "$work/nr" extend -i "$backbone" --new fr --method "$method" --lr "$lr" \
            --seed "$seed" --threads 1 $extend $options -o "$work/$key"
    elif [ ! -d "$backbone" ]; then
        quietly "$work/nr" pretrain --seed "$seed" --threads 1 $pretrain --pretrain-lr "$lr" $options \
            -o "$work/$key"
        mv "$work/$key" "$backbone"
    fi
    case $method in
    backbone) set -- -i "$backbone" ;;
    naive | finetune) set -- -i "$work/$key" ;;
    *) set -- -i "$backbone" -x "$work/$key" ;;
    esac
    for split in val test; do
        quietly "$work/nr" eval "$@" --data "$data" --domains en,plays,fr --split $split \
            --threads 1 --csv "$work/$key.eval"
        # A whole model does not say how it was trained.
        awk -F, -v OFS=, -v m="$method" -v lr="$lr" -v s="$seed" \
            'NR > 1 { $1 = m; $2 = s; $13 = lr; if (m == "finetune") $15 = 0.1
                if (m ~ /naive|finetune/) $3 = 1; print }' "$work/$key.eval"
    done >"$work/$key.csv"
    case $what in
    backbone | grid | best)
        quietly "$work/nr" eval "$@" --choices "$data/en_choices.jsonl" \
            --choices "$data/fr_choices.jsonl" --threads 1 --csv "$work/$key.answers"
        mv "$work/$key.answers" "$out/$key.answers" ;;
    esac
    mv "$work/$key.csv" "$out/$key.csv"
    rm -rf "${work:?}/$key"
    echo "$key: $(awk -F, '$6 == "val" { printf "%s %.3f ", $4, $8 }' "$out/$key.csv")"
}

worker() { # LIST: trains the lines of it that nobody has finished or claimed
    child=''
    trap 'kill $child 2>/dev/null; exit 1' TERM
    while read -r what method lr seed options; do
        key=$(key "$what" "$method" "$lr" "$seed")
        case $what in
        backbone | best) finished=$out/$key.answers ;;
        *) finished=$out/$key.csv ;;
        esac
        if [ ! -e "$finished" ] && mkdir "$work/claim-$key" 2>/dev/null; then train; fi
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
    echo what,method,seed,stage,domain,role,split,tokens,loss,bpb,change,gate,closed,lr,alpha,p,q,trained,seconds
    cat "$@" | while read -r what method rate seed options; do
        sed "s/^/$what,/" "$out/$(key "$what" "$method" "$rate" "$seed").csv"
    done | awk 'BEGIN { FS = OFS = ","; role["en"] = "old"; role["plays"] = "known"; role["fr"] = "new" }
        { split($1, part, ":")
          k = (part[1] == "size" ? part[2] : "") SUBSEP $3 SUBSEP $5 SUBSEP $7
          if ($2 == "backbone") base[k] = $9
          $6 = role[$5]; $11 = sprintf("%.6f", $9 - base[k]); print }'
}

collect_choices() { # LIST...
    echo method,seed,domain,items,acc,acc_norm,chance
    cat "$@" | while read -r what method rate seed options; do
        case $what in backbone | best) ;; *) continue ;; esac
        sed -n "s|^.*/\([a-z]*\)_choices.jsonl,|$method,$seed,\1,|p" \
            "$out/$(key "$what" "$method" "$rate" "$seed").answers"
    done
}

# dev/results.md: of each line means over the seeds, and the least and the greatest value.
table() {
    awk -F, '
    function mean(k,   v, n, i, s) {
        n = split(k, v, " ")
        for (i = 1; i <= n; i++) s += v[i]
        return n ? s / n : 0
    }
    function range(k, form,   v, n, i, low, high) {
        n = split(k, v, " "); low = high = v[1]
        for (i = 2; i <= n; i++) { if (v[i] + 0 < low + 0) low = v[i]; if (v[i] + 0 > high + 0) high = v[i] }
        return sprintf(form " (" form " " form ")", mean(k), low, high)
    }
    NR == 1 { next }
    { name = $1 == "backbone" || $1 == "best" ? $2 : $1 == "grid" ? "" : substr($1, 10) " (" $2 ")"
      if ($1 == "grid") name = "grid " $2 " " $14
      if (split($1, part, ":") > 1 && part[1] == "size") name = part[2] " " $2 " " part[3]
      if (!(name in lr)) { lr[name] = $14; order[++names] = name }
      k = name SUBSEP $7 SUBSEP $5
      loss[k] = loss[k] " " $9; change[k] = change[k] " " $11; closed[k] = closed[k] " " $13 }
    END {
        for (s = 1; s <= 2; s++) {
            split_ = s == 1 ? "val" : "test"
            print (s == 1 ? "" : "\n") "## " split_ "\n"
            print "Nats a token: the mean over the seeds (least, greatest).\n"
            print "| | rate | forgets captions | forgets plays | French | closed %: captions, plays, French |"
            print "|---|---|---|---|---|---|"
            for (i = 1; i <= names; i++) {
                n = order[i]; k = n SUBSEP split_ SUBSEP
                printf "| %s | %s | %s | %s | %s |", n, lr[n],
                    n == "backbone" ? range(loss[k "en"], "%.3f") : range(change[k "en"], "%+.3f"),
                    n == "backbone" ? range(loss[k "plays"], "%.3f") : range(change[k "plays"], "%+.3f"),
                    range(loss[k "fr"], "%.3f")
                if (mean(closed[k "en"]) > 0)
                    printf " %.0f, %.0f, %.0f", 100 * mean(closed[k "en"]), 100 * mean(closed[k "plays"]),
                        100 * mean(closed[k "fr"])
                print " |"
            }
        }
    }' "$results"
}

# Of multiple choice: means over the seeds, and the standard error of one seed's share of items.
choices_table() {
    printf '\n## Multiple choice\n\nEndings of captions (test), one of four is right; %% of items: mean over the seeds, in brackets each\n'
    printf 'seed; +- is the standard error of a single seed. acc is by the likeliest ending, acc_norm by the likeliest\n'
    printf 'for its number of characters (nr eval --choices; lm-eval chooses alike: dev/check_choices.py).\n\n'
    echo '| | English acc | English acc_norm | French acc | French acc_norm |'
    echo '|---|---|---|---|---|'
    awk -F, '
    NR > 1 {
        if (!($1 in seen)) { seen[$1] = 1; order[++methods] = $1 }
        for (i = 5; i <= 6; i++) {
            k = $1 SUBSEP $3 SUBSEP i; sum[k] += $i; n[k]++; items[k] = $4
            all[k] = all[k] (all[k] ? " " : "") sprintf("%.1f", 100 * $i)
        }
    }
    END {
        for (m = 1; m <= methods; m++) {
            printf "| %s |", order[m]
            for (d = 1; d <= 2; d++) for (i = 5; i <= 6; i++) {
                k = order[m] SUBSEP (d == 1 ? "en" : "fr") SUBSEP i; p = sum[k] / n[k]
                printf " %.1f +- %.1f (%s) |", 100 * p, 100 * sqrt(p * (1 - p) / items[k]), all[k]
            }
            print ""
        }
    }' "$choices"
}

if [ "${1:-}" = table ]; then table; choices_table; exit; fi
[ $# = 0 ] || { sed -n '2,/^set/{/^#/p;}' "$0" >&2; exit 1; }

mkdir -p "$out"
work=$(mktemp -d "$out/work.XXXXXX") pids=''
trap 'kill $pids 2>/dev/null || :; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
[ -n "${NR:-}" ] || make -s nr
cp "${NR:-nr}" "$work/nr"

for list in backbones grid best_and_ablations sizes; do
    $list >"$work/$list"
    train_all "$work/$list"
done
collect "$work/backbones" "$work/grid" "$work/best_and_ablations" "$work/sizes" >"$work/results.csv"
collect_choices "$work/backbones" "$work/best_and_ablations" >"$work/choices.csv"
mv "$work/results.csv" "$results"
mv "$work/choices.csv" "$choices"
{
    printf "# Results\n\nWritten by dev/results.sh, from dev/results.csv and dev/choices.csv.\n\n"
    table
    choices_table
} >"${results%.csv}.md"

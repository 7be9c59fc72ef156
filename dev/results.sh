#!/bin/sh
# dev/results.sh: trains, evaluates and prints every figure of README.md that is about real text, and
# writes them to dev/results.csv and dev/results.md. It needs
#     ./prepare_data.sh multi30k fr && ./prepare_data.sh multi30k de
# and takes two hours on two cores. Stop it and start it again as you like: what is finished is in $OUT
# and is not computed again (a changed recipe or nr.c therefore needs another OUT).
#     dev/results.sh speed     runs the benches on an otherwise idle machine, writes dev/speed.txt
#     dev/results.sh table     writes dev/results.md anew from results.csv, choices.csv and speed.txt
#
# English captions (en) and plays are known, captions are rehearsed, plays are never shown again, the
# new language is French.
#
#   grid      every method at seven learning rates, seed 1. Its best rate is the one whose losses on
#             en, plays and fr (val) have the least sum
#   best      every method at its best rate, three seeds, each with a backbone of its own
#   ablation  the method named at its best rate with something changed: what concerns replay with
#             three seeds, the paper's with seed 1
#   size      every method and the paper's alpha in larger models, each at its best rate times 128
#             over the channels: 6 layers x 192 channels with three seeds, 8 x 384 with seed 1
#   rates     6 x 192 at half and at twice those rates, seed 1
#   run       `nr run` at its own rates, seed 1: French, then German; and where replay does worst
#   window    the models of `best` on windows of 16 tokens, and on captions in two languages by turns
#
# dev/results.csv has the columns of nr's own csv behind one more, `what`; change is against the
# backbone of the same seed (run: as nr has it). dev/choices.csv has the multiple-choice items that
# the backbones and `best` answer: acc by the likeliest ending, acc_norm by the likeliest for its
# length.
set -eu
LC_ALL=C; export LC_ALL
cd "$(dirname "$0")/.."
awk() { command ${AWK:-awk} "$@"; } # unquoted: AWK may be two words; the same bytes from each

# From the environment if it is set there: to try all this with few steps, say, into another folder.
data=${DATA:-data/multi30k} out=${OUT:-out/results} results=${RESULTS:-dev/results.csv} jobs=${JOBS:-2}
choices=$(dirname "$results")/choices.csv speed=$(dirname "$results")/speed.txt
long=${PRETRAIN_STEPS:-2400} short=${SHORT_STEPS:-300}
pretrain="--data $data --known en,plays --pretrain-steps $long"
extend="--data $data --old en --steps ${STEPS:-600}"
seeds=${SEEDS:-1 2 3} rates=${RATES:-1e-4 2e-4 5e-4 1e-3 2e-3 5e-3 1e-2}

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

# NAME METHOD OPTIONS
replay_ablations() { cat <<END
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
}

paper_ablations() { cat <<END
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

ablations() { # LIST SEED
    $1 | while read -r name method rest; do
        echo "ablation:$name $method $(best "$method") $2 $rest"
    done
}

best_and_ablations() { # seed by seed: stopped early, there is a line of each
    for seed in $seeds; do
        for method in naive finetune lora adapter neutral replay; do
            echo "best $method $(best $method) $seed"
        done
        ablations replay_ablations "$seed"
    done
    ablations paper_ablations 1
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
    for name in finetune lora adapter neutral replay; do
        for times in 0.5 2; do echo "rates:6x192 $name $(scaled "$(best $name)" 192 $times) 1"; done
    done
}

# Of `nr run`: NAME DATA PRETRAIN_STEPS OPTIONS. scenes: twelve lines of plays are one document, so
# that 4% of the known documents are plays, not 34%. code: the new language is C.
run_list() { cat <<END
chain          $data        $long   --new fr,de --methods finetune,lora,neutral,replay
chain+old      $data        $long   --new fr,de --methods replay --p 0.1
early          $data        $short  --new fr --methods neutral,replay
code           $out/code    $long   --new c --methods neutral,replay
scenes         $out/scenes  $long   --new fr --methods neutral,replay
scenes-80000   $out/scenes  $long   --new fr --methods replay --replay 80000
END
}

runs() {
    run_list | while read -r name from steps rest; do
        echo "run:$name run - 1 --data $from --pretrain-steps $steps $rest"
    done
}

prepare() { # $out/mixed, $out/scenes, $out/code: more data, from that in $data
    [ -d "$out/mixed" ] || {
        mkdir "$work/mixed"
        cp "$data/vocab.json" "$data/merges.txt" "$work/mixed"
        paste -d '\n' "$data/en_val.txt" "$data/fr_val.txt" >"$work/mixed/mixed_val.txt"
        quietly ./tokenizer encode -m "$work/mixed" --lines -o "$work/mixed/mixed_val.bin" \
            "$work/mixed/mixed_val.txt"
        mv "$work/mixed" "$out/mixed"
    }
    [ -d "$out/scenes" ] || {
        paste -d ' ' - - - - - - - - - - - - <"$data/plays_train.txt" >"$work/scenes.txt"
        prepare_lines scenes plays="$work/scenes.txt" fr="$data/fr_train.txt"
    }
    [ -d "$out/code" ] || {
        cat nr.c tokenizer.c test_nr.c dev/bench.c >"$work/code.txt"
        prepare_lines code plays="$data/plays_train.txt" c="$work/code.txt"
    }
}

prepare_lines() { # NAME DOMAIN=FILE...: $out/NAME, with the captions and the vocabulary of $data
    name=$1
    shift
    quietly ./prepare_data.sh files --lines --tokenizer "$data" -o "$out/$name" \
        en="$data/en_train.txt" "$@"
}

scaled() { # RATE CHANNELS [TIMES]
    awk -v rate="$1" -v channels="$2" -v times="${3:-1}" \
        'BEGIN { printf "%.2g", times * rate * 128 / channels }'
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
    case $1 in run:*) echo "run-${1#*:}" ;; *:*) echo "$2-$3-$4-${1#*:}" ;; *) echo "$2-$3-$4" ;; esac
}

quietly() { # COMMAND...: its output is shown if it fails. In the background: a signal is seen at once
    "$@" >"$work/${key:-prepare}.log" 2>&1 &
    child=$!
    wait $child || { cat "$work/${key:-prepare}.log" >&2; exit 1; }
}

train_in_one() { # trains, evaluates and compares by one `nr run` with $options
    # shellcheck disable=SC2086  # $options are words
    quietly "$work/nr" run --known en,plays --old en --steps "${STEPS:-600}" --threads 1 $options \
        -o "$work/$key"
    sed 1d "$work/$key/results.csv" >"$work/$key.csv"
    mv "$work/$key.csv" "$out/$key.csv"
    rm -rf "${work:?}/$key"
    echo "$key: $(awk -F, -v OFS=' ' '$3 == 1 { print $1, $4, $8 }' "$out/$key.csv" | xargs)"
}

train() { # trains and evaluates $what $method $lr $seed $options: lines for val and test
    backbone=$out/backbone-$seed
    case $what in size:* | rates:*) backbone=$backbone-$(echo "$what" | cut -d: -f2) ;; esac
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
        relabelled "$work/$key.eval"
    done >"$work/$key.csv"
    mv "$work/$key.csv" "$out/$key.csv"
    case $what in
    backbone | grid | best)
        quietly "$work/nr" eval "$@" --choices "$data/en_choices.jsonl" \
            --choices "$data/fr_choices.jsonl" --threads 1 --csv "$work/$key.answers"
        mv "$work/$key.answers" "$out/$key.answers"
        quietly "$work/nr" eval "$@" --data "$data" --domains en,plays,fr --context 16 \
            --threads 1 --csv "$work/$key.16"
        quietly "$work/nr" eval "$@" --data "$out/mixed" --domains mixed --threads 1 \
            --csv "$work/$key.mixed"
        for window in 16 mixed; do
            relabelled "$work/$key.$window" | sed "s/^/window:$window,/"
        done >"$work/$key.windows"
        mv "$work/$key.windows" "$out/$key.windows" ;;
    esac
    rm -rf "${work:?}/$key"
    echo "$key: $(awk -F, '$6 == "val" { printf "%s %.3f ", $4, $8 }' "$out/$key.csv")"
}

relabelled() { # CSV of nr eval: its lines; a whole model does not say how it was trained
    awk -F, -v OFS=, -v m="$method" -v lr="$lr" -v s="$seed" \
        'NR > 1 { $1 = m; $2 = s; $13 = lr; if (m == "finetune") $15 = 0.1
            if (m ~ /naive|finetune/) $3 = 1; print }' "$1"
}

worker() { # LIST: trains the lines of it that nobody has finished or claimed
    child=''
    trap 'kill $child 2>/dev/null; wait; exit 1' TERM
    while read -r what method lr seed options; do
        key=$(key "$what" "$method" "$lr" "$seed")
        case $what in
        backbone | best) finished=$out/$key.windows ;;
        *) finished=$out/$key.csv ;;
        esac
        if [ ! -e "$finished" ] && mkdir "$work/claim-$key" 2>/dev/null; then
            case $what in run:*) train_in_one ;; *) train ;; esac
        fi
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

collect() { # <lines to train: their lines of results.csv; the backbones come first
    echo what,method,seed,stage,domain,role,split,tokens,loss,bpb,change,gate,closed,lr,alpha,p,q,trained,seconds
    while read -r what method rate seed options; do
        file=$out/$(key "$what" "$method" "$rate" "$seed")
        sed "s/^/$what,/" "$file.csv"
        case $what in backbone | best) cat "$file.windows" ;; esac
    done | awk 'BEGIN { FS = OFS = ","; role["en"] = "old"; role["plays"] = "known"; role["fr"] = "new" }
        { split($1, part, ":")
          k = (part[1] ~ /size|rates|window/ ? part[2] : "") SUBSEP $3 SUBSEP $5 SUBSEP $7
          if ($2 == "backbone") base[k] = $9
          if (part[1] != "run") { $6 = role[$5]; $11 = sprintf("%.6f", $9 - base[k]) }
          print }'
}

collect_choices() { # <lines to train
    echo method,seed,domain,items,acc,acc_norm,chance
    while read -r what method rate seed options; do
        case $what in backbone | best) ;; *) continue ;; esac
        sed -n "s|^.*/\([a-z]*\)_choices.jsonl,|$method,$seed,\1,|p" \
            "$out/$(key "$what" "$method" "$rate" "$seed").answers"
    done
}

# dev/results.md. A section is a heading, the command behind its lines, and the lines of results.csv
# whose `what` matches: means over the seeds, in brackets the least and the greatest value.
section() { # TITLE COMMAND PATTERN
    printf '\n## %s\n\n    %s\n\n' "$1" "$2"
    three='captions, plays, French'
    echo "| | rate | captions | plays | French | closed %: $three | test: $three |"
    echo '|---|---|---|---|---|---|---|'
    { replay_ablations; paper_ablations; } | awk -v pattern="$3" '
    function mean(k) { return sum[k] / n[k] }
    function value(k, form) {
        if (n[k] < 2) return sprintf(form, sum[k])
        return sprintf(form " (" form ", " form ")", mean(k), low[k], high[k])
    }
    FNR == NR { name = $1 SUBSEP $2; $1 = $2 = ""; options[name] = substr($0, 3); next }
    $1 ~ pattern {
        k = $1 SUBSEP $2 SUBSEP $14
        if (!(k in label)) {
            parts = split($1, part, ":")
            label[order[++rows] = k] = $2
            name = part[parts] SUBSEP $2
            if (name in options) label[k] = $2 " `" options[name] "`"
            rate[k] = $14; backbone[k] = $2 == "backbone"
        }
        cell = k SUBSEP $7 SUBSEP $5
        x = $2 == "backbone" || $5 == "fr" ? $9 : $11
        if (!n[cell]++ || x + 0 < low[cell] + 0) low[cell] = x
        if (n[cell] == 1 || x + 0 > high[cell] + 0) high[cell] = x
        sum[cell] += x; closed[cell] += 100 * $13; gates[k] += ($13 != "")
    }
    END {
        for (i = 1; i <= rows; i++) {
            k = order[i]; form = backbone[k] ? "%.3f" : "%+.3f"
            val = k SUBSEP "val" SUBSEP; test = k SUBSEP "test" SUBSEP
            printf "| %s | %s | %s | %s | %s | ", label[k], rate[k], value(val "en", form),
                value(val "plays", form), value(val "fr", "%.3f")
            if (gates[k]) printf "%.0f, %.0f, %.0f ", closed[val "en"] / n[val "en"],
                closed[val "plays"] / n[val "plays"], closed[val "fr"] / n[val "fr"]
            printf "| " form ", " form ", %.3f |\n", mean(test "en"), mean(test "plays"), mean(test "fr")
        }
    }' - FS=, "$results"
}

# What `nr run` trains: a line for each model, of each domain the loss (val) and its change.
runs_tables() {
    run_list | while read -r name from steps rest; do
        printf '\n    ./nr run --known en,plays --old en --steps 600 --pretrain-steps %s --data %s %s\n\n' \
            "$steps" "$from" "$rest"
        awk -F, -v what="run:$name" '
        $1 == what {
            if ($2 SUBSEP $4 != model) { model = $2 SUBSEP $4; label[++models] = $2 }
            cells[models] = cells[models] sprintf(" %.3f %+.3f |", $9, $11)
            if (models == 1) { domains = domains " " $5 " |"; rule = rule "---|" }
        }
        END {
            print "| |" domains "\n|---|" rule
            for (i = 1; i <= models; i++) print "| " label[i] " |" cells[i]
        }' "$results"
    done
}

# Of multiple choice: means over the seeds, and each seed.
choices_table() {
    echo '| | English acc | English acc_norm | French acc | French acc_norm |'
    echo '|---|---|---|---|---|'
    awk -F, '
    NR > 1 {
        if (!($1 in seen)) { seen[$1] = 1; order[++methods] = $1 }
        for (i = 5; i <= 6; i++) {
            k = $1 SUBSEP $3 SUBSEP i; sum[k] += $i; n[k]++
            all[k] = all[k] (all[k] ? " " : "") sprintf("%.1f", 100 * $i)
        }
    }
    END {
        for (m = 1; m <= methods; m++) {
            printf "| %s |", order[m]
            for (d = 1; d <= 2; d++) for (i = 5; i <= 6; i++) {
                k = order[m] SUBSEP (d == 1 ? "en" : "fr") SUBSEP i
                printf " %.1f (%s) |", 100 * sum[k] / n[k], all[k]
            }
            print ""
        }
    }' "$choices"
}

tables() {
    pretrain='./nr pretrain --data data/multi30k --known en,plays --pretrain-steps 2400 --seed SEED'
    extend='./nr extend -i BACKBONE --data data/multi30k --old en --new fr --steps 600 --seed SEED'
    extend="$extend --method METHOD --lr RATE"
    cat <<END
# Results

Written by dev/results.sh from dev/results.csv, dev/choices.csv and dev/speed.txt. Losses are in nats a
token. Captions are rehearsed (but for replay), plays never shown again: of both what is forgotten, the
loss above the backbone's; of French the loss. All on validation text, in the last column on test text.
Where there are several seeds, each with a backbone of its own, it is the mean (least, greatest). Every
figure of the first sections is printed by

    ./nr eval -i BACKBONE -x FILE --data data/multi30k --domains en,plays,fr --split val

(without -x of a whole model, finetuned, say).
END
    section 'Backbones: losses' "$pretrain -o BACKBONE" '^backbone$'
    section 'Methods, each at its best rate' "$extend -o FILE" '^best$'
    section 'Rates' "$extend -o FILE" '^grid$'
    section 'Replay varied, and its rivals with what replay has' "$extend OPTIONS -o FILE" \
        "$(pattern replay_ablations)"
    section "The paper's ablations" "$extend OPTIONS -o FILE" "$(pattern paper_ablations)"
    for size in '2.9M 6 192 1.3e-3' '14.6M 8 384 6.7e-4'; do
        # shellcheck disable=SC2086  # words
        set -- $size
        section "$1 parameters" \
            "$pretrain --layers $2 --heads 6 --channels $3 --pretrain-lr $4 -o BACKBONE
    $extend -o FILE" "^size:$2x$3"
    done
    section '2.9M parameters at half and at twice those rates (seed 1)' "$extend -o FILE" '^rates:6x192'
    cat <<END

## Several languages, and where replay does worst

Validation text, seed 1, nr's own rates. Of each domain the loss, and its change: since it was learnt, until
then since the backbone. \`scenes\`: twelve lines of plays make a document, so that 4% of the known documents
are plays and not 34%, with as many tokens. \`code\`: the new language is C, nr's own source (of that day).
END
    runs_tables
    cat <<END

## Short windows, and text that changes its language

Validation text, means over the seeds, losses (in brackets above the backbone's): in windows of 16 tokens; and
of captions in English and French by turns, beside what they come to apart. No window of a training has two
languages.

    ./nr eval -i BACKBONE -x FILE --data data/multi30k --domains en,plays,fr --context 16
    ./nr eval -i BACKBONE -x FILE --data out/results/mixed --domains mixed

| | captions, 16 tokens | plays, 16 tokens | French, 16 tokens | by turns | apart |
|---|---|---|---|---|---|
END
    windows_table
    cat <<END

## Multiple choice

Which of four endings is a caption's own (test text)? % of items: the mean over the seeds, and each; one
seed's standard error is 1.4 to 1.6. acc is by the likeliest ending, acc_norm by the likeliest for its
number of characters; lm-eval chooses alike (dev/check_choices.py).

    ./nr eval -i BACKBONE -x FILE --choices data/multi30k/en_choices.jsonl
    ./nr eval -i BACKBONE -x FILE --choices data/multi30k/fr_choices.jsonl

END
    choices_table
    [ ! -e "$speed" ] || { printf '\n## Speed (dev/results.sh speed)\n\n'; sed 's/^/    /' "$speed"; }
}

# Of windows: of each method losses, means over the seeds; `apart` is what the mixed text would come to
# if each of its tokens cost what it costs where windows hold one language.
windows_table() {
    awk -F, '
    $7 == "val" && ($1 ~ /^window/ || $1 == "backbone" || $1 == "best") {
        if ($1 == "best" || $1 == "backbone") { if (!($2 in n)) order[++methods] = $2; n[$2] += $5 == "en" }
        sum[$2, $1 ~ /^window/ ? $1 : "", $5] += $9
        tokens[$5] = $8
    }
    END {
        for (i = 1; i <= methods; i++) {
            m = order[i]
            printf "| %s |", m
            split("en plays fr", domain, " ")
            for (d = 1; d <= 3; d++) {
                x = sum[m, "window:16", domain[d]] / n[m]
                printf " %.3f", x
                if (d < 3 && m != "backbone") printf " (%+.3f)", x - sum["backbone", "window:16", domain[d]] / n["backbone"]
                printf " |"
            }
            apart = (tokens["en"] * sum[m, "", "en"] + tokens["fr"] * sum[m, "", "fr"]) / (tokens["en"] + tokens["fr"])
            printf " %.3f | %.3f |\n", sum[m, "window:mixed", "mixed"] / n[m], apart / n[m]
        }
    }' "$results"
}

pattern() { # LIST: of the `what` of its lines
    echo "^ablation:($($1 | awk '{ printf "%s%s", (NR > 1 ? "|" : ""), $1 }' | sed 's/[+.]/[&]/g'))\$"
}

case ${1:-} in
'') ;;
table) tables >"${results%.csv}.md"; exit ;;
speed)
    for benchmark in bench bench-torch; do
        echo "make $benchmark"
        make -s $benchmark
        echo
    done 2>&1 | tee "$speed"
    exit ;;
*) sed -n '2,/^set/{/^#/p;}' "$0" >&2; exit 1 ;;
esac

mkdir -p "$out"
work=$(mktemp -d "$out/work.XXXXXX") pids=''
trap 'kill $pids 2>/dev/null || :; wait; rm -rf "$work"' EXIT # they write until they are gone
trap 'exit 1' INT TERM
make -s nr tokenizer
cp "${NR:-nr}" "$work/nr"

prepare
lists='backbones grid best_and_ablations sizes runs'
for list in $lists; do
    $list >"$work/$list"
    train_all "$work/$list"
done
for list in $lists; do cat "$work/$list"; done >"$work/all"
collect <"$work/all" >"$work/results.csv"
collect_choices <"$work/all" >"$work/choices.csv"
mv "$work/results.csv" "$results"
mv "$work/choices.csv" "$choices"
tables >"${results%.csv}.md"

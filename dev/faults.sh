#!/bin/sh
# dev/faults.sh [-q] [SECTION...]: nothing lost, nothing crashes. Provokes every fault for real and looks at what is left.
#
# Sections: allocations calls disk places data numbers streams settings frozen doubles kills; all without an argument. -q takes
# every 23rd allocation, every 7th of many calls, and 20 kills; `dev/faults.sh kills 200` kills so many times.
#
# After any fault a program must either have done all of its work, or end with status 1 and one line on stderr that begins with its
# name (lines of progress aside). Either way every file in its place is the old one, whole, or the new one, whole; none is left
# half-written under another name; and training, resumed, makes the bits that it makes when nothing goes wrong.
#
# Needs Linux: allocations fail by dev/faults.c, system calls by strace. What the machine does not allow is said and left out.
# BUILT=FOLDER takes nr, tokenizer, nr_static and tokenizer_static from there instead of compiling them.
set -u
cd "$(dirname "$0")/.." || exit 1
source=$PWD
work=$(mktemp -d) || exit 1
# shellcheck disable=SC2329  # called by the trap
clean() { umount "$work/target" 2>/dev/null; cd / && rm -rf "$work"; }
trap clean EXIT
trap 'exit 1' INT TERM HUP
export OMP_NUM_THREADS=1 LC_ALL=C
quick=no kills=200
[ "${1:-}" = -q ] && { quick=yes kills=20; shift; }

# ----------------------------------------------------------------------------------------------------------------------------------
# A section is a list of tests; a test is a heading, and facts that hold or not.

heading='' passed=0 failed=0

begin() { # [HEADING]: ends a test with its line, and begins the next
    if [ -n "$heading" ]; then
        if [ "$wrong" = 0 ] && [ "$facts" -gt 0 ]; then passed=$((passed + 1)); word=ok; else failed=$((failed + 1)); word=FAIL; fi
        echo "$word  $heading: $facts faults${note:+, $note}"
    fi
    heading=${1:-} facts=0 wrong=0 note=''
}

wrong() { # WHAT: is not as it should be
    wrong=$((wrong + 1))
    [ $wrong -gt 5 ] || { echo "    $1"; sed 's/^/        /' err | head -n 5; }
}

# The lines of stderr that are not progress, nor remarks in brackets.
said() { grep -v -e '^[a-z]* *[0-9]*/[0-9]*  ' -e '^\[' -e '^$' err; }

one_line() { [ "$(said | wc -l)" -eq 1 ] && said | grep -q '^\(nr\|tokenizer\): .'; }

refused() { # WORDS COMMAND...: it must end with status 1 and one line that has the words
    words=$1
    shift
    timeout 100 "$@" >out 2>err </dev/null
    status=$?
    facts=$((facts + 1))
    { [ $status = 1 ] && one_line && grep -qF -- "$words" err; } || wrong "$*: status $status, expected a line with \"$words\""
}

# The last column of results.csv, the only one with one decimal, is the seconds, which differ.
without_seconds() {
    [ ! -e target/results.csv ] || { sed 's/,seconds$//; s/,[0-9]*\.[0-9]$//' target/results.csv >csv && cp csv target/results.csv; }
}

# Is `out` what the command prints without a fault? What a run finds in its folder may differ.
prints_the_same() { sed '/^target: has /d' printed >expected && sed '/^target: has /d' out | cmp -s - expected; }

reset() { find target -mindepth 1 -delete && cp -r old/. target; }

# Is every file in target/ the old one or the new one? A state is judged by going on from it; results.csv grows a line at a time.
whole() {
    find target -type f >files
    while IFS= read -r file; do
        name=${file#target/}
        case $name in
        *.state) ;;
        results.csv) cmp -s "old/$name" "$file" || head -n "$(wc -l <"$file")" "new/$name" | cmp -s - "$file" || return 1 ;;
        *) cmp -s "old/$name" "$file" || cmp -s "new/$name" "$file" || return 1 ;;
        esac
    done <files
}

# prepare COMMAND: what it leaves in target/ without a fault (new/), and what it is to replace there (old/), made with another seed,
# text or model. `printed` is what it prints.
prepare() {
    command=$1 again=$1
    case $1 in *' pretrain '* | *' extend '* | *' run '*) again="$1 --resume" ;; esac
    rm -rf old new
    mkdir old
    reset
    eval "$(echo "$1" | sed 's/--seed 1/--seed 2/; s/two.txt/one.txt/; s/ -x x / /')" >/dev/null 2>err || wrong "$1, for old/"
    without_seconds
    cp -r target new
    reset
    eval "$1" >printed 2>err || wrong "$1, without a fault"
    without_seconds
    mv new old_ && cp -r target new && rm -rf old && mv old_ old
    reset
}

# fault BEFORE: runs the command behind the words of BEFORE, which make something fail, and judges what it leaves.
fault() {
    eval "$1 $command" >out 2>err </dev/null
    status=$?
    facts=$((facts + 1))
    [ $status = 0 ] || { [ $status = 1 ] && one_line; } || wrong "$1 $command: status $status"
    [ $status != 0 ] || prints_the_same || wrong "$1 $command: prints something else"
    [ $status = 0 ] || ! diff -r old target >/dev/null || return 0
    without_seconds
    if [ $status = 0 ]; then
        diff -r new target >/dev/null || wrong "$1 $command: status 0, but not all is done: $(diff -rq new target)"
    elif ! whole; then
        wrong "$1 $command: $file is neither the old nor the new one"
    else
        eval "$again" >out 2>err </dev/null ||
            { said | grep -q 'no interrupted training is there' && eval "$command" >out 2>err </dev/null; } ||
            wrong "$again: does not go on after $1"
        without_seconds
        diff -r new target >/dev/null || wrong "$again: makes other files after $1: $(diff -rq new target)"
    fi
    reset
}

# ----------------------------------------------------------------------------------------------------------------------------------
# What is needed: the programs, data of two domains, a model, an extension.

cd "$work" && mkdir target || exit 1
CC=${CC:-cc}
if [ -n "${BUILT:-}" ]; then
    for name in nr nr_static tokenizer tokenizer_static; do cp "$BUILT/$name" . || exit 1; done
else
    for static in '' -static; do
        # shellcheck disable=SC2086  # a word or none
        $CC -O2 -std=c11 -Wno-unknown-pragmas $static "$source/nr.c" -o "nr${static:+_static}" -lm &&
            $CC -O2 -std=c11 $static "$source/tokenizer.c" -o "tokenizer${static:+_static}" || exit 1
    done
fi
chmod -R a+rX "$work"
seq 40 | sed 's/.*/the dog sees & cats ./' >one.txt
seq 40 | sed 's/.*/le chien voit & chats ./' >two.txt
seq 40 | sed 's/.*/& CATS! THE DOG: see/' >three.txt
./tokenizer train -v 257 --lines -o data one.txt
for l in en:one fr:two plays:three; do
    ./tokenizer encode -m data --lines -o "data/${l%:*}_train.bin" "${l#*:}.txt"
    head -n 4 "${l#*:}.txt" | ./tokenizer encode -m data --lines -o "data/${l%:*}_val.bin" -
done
sizes='--layers 1 --heads 1 --channels 4 --context 8'
pretrain="./nr pretrain --data data $sizes --pretrain-steps 3 --batch 1 --seed 1"
extend='./nr extend -i base --data data --steps 3 --batch 1 --seed 1'
run="./nr run --data data $sizes --pretrain-steps 3 --steps 3 --batch 1 --seed 1 -o target"
run="$run --methods naive,finetune,lora,adapter,neutral"
chain="${run% --methods*} --methods lora,neutral --known en --new fr,plays"
if ! { $pretrain -o base && $extend -o x; } >out 2>&1; then cat out; exit 1; fi

# ----------------------------------------------------------------------------------------------------------------------------------
# 1. Memory: each allocation fails once.

allocations() {
    $CC -O1 -std=c11 -shared -fPIC -o faults.so "$source/dev/faults.c" || { echo 'allocations: needs glibc, left out'; return; }
    for c in "./tokenizer train -v 260 --lines -o target/vocabulary two.txt" "./tokenizer encode -m data --lines -o target/ids two.txt" \
        "$pretrain --save-every 1 -o target/model" "$extend --save-every 1 -o target/x" "$extend --method lora -x x -o target/x" \
        "$extend --method replay --replay 20 -x x -o target/x" \
        "./nr eval -i base -x x --data data --csv target/csv" "./nr sample -i base -x x -p dog -n 20" "$run --save-every 2"; do
        begin "every allocation fails once: ${c%% -*}"
        prepare "$c"
        count=$(eval "FAIL_ALLOCATION=0 LD_PRELOAD=$work/faults.so $c" 2>&1 >/dev/null | tail -n 1)
        reset
        step=1
        case $c in "$run"*) [ $quick = no ] || step=101 ;; *) [ $quick = no ] || step=23 ;; esac
        i=1
        while [ "$i" -le "$count" ]; do
            fault "FAIL_ALLOCATION=$i LD_PRELOAD=$work/faults.so"
            i=$((i + step))
        done
    done
}

# ----------------------------------------------------------------------------------------------------------------------------------
# 2. The system: each call that touches a file fails once, in a folder that is empty and over older files.

calls() {
    strace -f -o /dev/null true 2>/dev/null || { echo 'calls: strace is not there, or may not trace: left out'; return; }
    for c in "$pretrain --save-every 1 -o target/model" "$extend --save-every 1 -o target/x" \
        "$chain --save-every 2" "./nr eval -i base -x x --data data --csv target/csv" \
        "./tokenizer train -v 260 --lines -o target/vocabulary two.txt" \
        "./tokenizer encode -m data --lines -o target/ids two.txt"; do
        c=$(echo "$c" | sed 's/^[^ ]*/&_static/')
        for before in 'an empty folder' 'older files'; do
            begin "every call fails once: ${c%% -*}, $before"
            prepare "$c"
            [ "$before" = 'older files' ] || { rm -rf old && mkdir old && reset; }
            for kind in write:ENOSPC fsync:EIO rename:ENOSPC openat:ENOSPC mkdir:ENOSPC close:EIO read:EIO lseek:EIO; do
                call=${kind%:*}
                eval "strace -f -o trace -e trace=$call $command" >/dev/null 2>&1
                count=$(grep -c "$call(" trace)
                reset
                note="$note${note:+ }$call $count"
                step=1 i=1
                [ $quick = no ] || [ "$count" -lt 50 ] || step=7
                while [ "$i" -le "$count" ]; do
                    fault "strace -f --seccomp-bpf -o /dev/null -e trace=$call -e inject=$call:error=${kind#*:}:when=$i"
                    i=$((i + step))
                done
            done
        done
    done
}

# ----------------------------------------------------------------------------------------------------------------------------------
# 3. The disk is full: a limit on the size of files, and a file system that has so much room only.

# limited N COMMAND...: no file may be longer than N blocks. What is printed goes through pipes, which have no limit.
limited() {
    n=$1
    shift
    { { (trap '' XFSZ; ulimit -f "$n"; exec "$@"); echo $? >status; } 2>&1 >&3 3>&- | cat >&2; } 3>&1 | cat
    return "$(cat status)"
}

# roomy N COMMAND...: target/ is a file system of N pages of 4096 bytes, or as many as it has in use.
roomy() {
    pages=$1
    shift
    mount -o "remount,size=$((4 * pages))k" target || return 2
    "$@"
    set -- $?
    mount -o remount,size=64m target
    return "$1"
}

disk() {
    for c in "$pretrain --save-every 1 -o target/model" "$extend --method finetune --save-every 1 -o target/model" \
        "$chain --save-every 1" "./tokenizer encode -m data --lines -o target/ids two.txt"; do
        begin "no file may grow beyond N blocks: ${c%% -*}"
        prepare "$c"
        n=0 status=1
        while [ $status != 0 ]; do
            fault "limited $n"
            n=$((n + 1))
        done
    done
    mount -t tmpfs -o size=64m tmpfs target 2>/dev/null || { echo 'disk: file systems may not be mounted here: left out'; return; }
    for c in "$pretrain --save-every 1 -o target/model" "$extend --method finetune --save-every 1 -o target/model" \
        "$chain --save-every 1"; do
        begin "the file system is full: ${c%% -*}"
        prepare "$c"
        n=$(du -s -B 4096 target | cut -f 1) status=1
        while [ $status != 0 ]; do
            fault "roomy $n"
            n=$((n + 1))
        done
    done
    umount target
}

# ----------------------------------------------------------------------------------------------------------------------------------
# 4. Places that cannot be written.

places() {
    begin 'places that cannot be written, files that cannot be read'
    mkdir locked && cp -r base x data locked && chmod -R a+rX locked && chmod 600 locked/data/fr_train.bin && cp -rp locked before
    as='env'
    if [ "$(id -u)" = 0 ]; then as='setpriv --reuid 65534 --regid 65534 --clear-groups'; fi
    if $as true 2>/dev/null; then # the superuser may write anywhere
        # shellcheck disable=SC2086  # several words each
        {
            refused 'locked: cannot be written: Permission denied' $as $extend -o locked/x
            refused 'locked: cannot be written: Permission denied' $as $extend -o locked/other
            refused 'locked/new: cannot be created: Permission denied' $as $extend -o locked/new/x
            refused 'locked/new: cannot be created: Permission denied' $as $pretrain -o locked/new
            refused 'locked/base: cannot be written: Permission denied' $as $pretrain -o locked/base
            refused 'locked/base: cannot be written: Permission denied' $as $extend --method finetune -o locked/base
            refused 'locked/new: cannot be created: Permission denied' $as ${run% -o *} -o locked/new
            refused 'locked: cannot be written: Permission denied' $as ./nr eval -i base --data data --csv locked/csv
            refused 'locked/t: cannot be created: Permission denied' $as ./tokenizer train -v 257 -o locked/t one.txt
            refused 'locked/ids: cannot be written: Permission denied' $as ./tokenizer encode -m data -o locked/ids one.txt
            refused 'locked/data/fr_train.bin: Permission denied' \
                $as ./nr extend -i base --data locked/data -o target/x
        }
    else
        note='run as root without setpriv: permissions left out'
    fi
    # shellcheck disable=SC2086
    {
        refused 'x: is a file, not a folder' $extend -o x/y
        refused 'x: is a file, not a folder' $pretrain -o x
        refused 'x: is a file, not a folder' ${run% -o *} -o x/y/z
        refused '/proc/nr: cannot be created' $pretrain -o /proc/nr
        refused 'base: is a folder, not a file' $extend -o base
        refused 'base: is a folder, not a file' ./nr eval -i base --data data --csv base
        refused 'x: is a file, not a folder' ./tokenizer train -v 257 -o x one.txt
        refused 'base: cannot be written: Is a directory' ./tokenizer encode -m data -o base one.txt
        refused 'File name too long' $extend -o "target/$(printf %300d 0)"
    }
    diff -r before locked >/dev/null || wrong 'locked/ has changed'
    rm -rf locked
}

# ----------------------------------------------------------------------------------------------------------------------------------
# 5. Files that are cut: before a program reads them, and while one trains on them.

# cut FILE COMMAND...: the command must refuse the file, cut at every length (-q: at some), and name it.
cut_file() {
    victim=$1
    shift
    size=$(wc -c <"$victim") length=0
    cp "$victim" uncut
    step=$((size / 400 + 1))
    [ $quick = no ] || step=$((size / 40 + 1))
    while [ $length -lt "$size" ]; do
        head -c $length uncut >"$victim"
        refused "$victim: " "$@"
        length=$((length + step))
    done
    cp uncut "$victim"
}

data() {
    begin 'files of every length but their own'
    rm -rf old && mkdir old
    reset
    cp -r base data x target
    # shellcheck disable=SC2086
    {
        cut_file target/data/en_train.bin ./nr pretrain --data target/data $sizes -o target/new
        cut_file target/data/fr_val.bin ./nr eval -i base --data target/data
        cut_file target/base/model.safetensors ./nr sample -i target/base
        cut_file target/base/config.json ./nr sample -i target/base
        cut_file target/base/vocab.json ./nr sample -i target/base
        cut_file target/x ./nr sample -i base -x target/x
        timeout -s KILL 0.2 ./nr extend -i base --data data --steps 1000000 --batch 1 --save-every 1 -o target/y >/dev/null 2>&1
        cut_file target/y.state ./nr extend -i base --data data --steps 1000000 --batch 1 --resume -o target/y
    }
    begin 'texts shorter than a sequence'
    for n in 0 1 2 6 7; do # and <|endoftext|>; the last is the first that can train
        printf '%.*s' $n 'the dog' | ./tokenizer encode -m data -o target/data/en_train.bin -
        # shellcheck disable=SC2086
        refused 'tokens, expected at least 9' ./nr pretrain --data target/data $sizes -o target/new
    done
    printf 'the dogs' | ./tokenizer encode -m data -o target/data/en_train.bin -
    # shellcheck disable=SC2086
    ./nr pretrain --data target/data $sizes --pretrain-steps 1 -o target/new >out 2>err ||
        wrong 'nine tokens do not train'

    begin 'the text is emptied while a program trains on it'
    rm -rf old && mkdir old && reset
    cp -r data copy
    c="./nr pretrain --data copy $sizes --pretrain-steps 3000 --batch 1 --save-every 1 -o target/m"
    $c >/dev/null 2>&1 || wrong 'it fails as it is'
    rm -rf new && cp -r target new && reset
    $c >out 2>err &
    child=$!
    until [ -e target/m.state ] || ! kill -0 $child; do sleep 0.01; done
    for f in copy/*; do : >"$f"; done
    { kill -0 $child && wait $child; } || wrong "it was too short, or failed"
    facts=1
    diff -r new target >out || wrong "it makes other files: $(cat out)"
    rm -rf copy
}

# ----------------------------------------------------------------------------------------------------------------------------------
# 6. Numbers that are no more: a backbone with one tensor so large that it overflows after some steps at a large rate.

# blown TENSOR BYTE: base/ with every byte of a tensor replaced, and no hash, as a model from elsewhere.
blown() {
    file=base/model.safetensors
    header=$(od -An -t u8 -N 8 $file | tr -d ' ')
    # shellcheck disable=SC2046  # two numbers
    set -- "$@" $(tail -c +9 $file | head -c "$header" | sed "s/.*\"$1\":{[^}]*\"data_offsets\":\[\([0-9]*\),\([0-9]*\)\].*/\1 \2/")
    rm -rf blown && cp -r base blown
    {
        head -c 8 $file
        tail -c +9 $file | head -c "$header" | sed 's/"hash"/"HASH"/'
        tail -c +$((9 + header)) $file | head -c "$3"
        head -c $(($4 - $3)) /dev/zero | tr '\0' "$2"
        tail -c +$((9 + header + $4)) $file
    } >blown/model.safetensors
}

numbers() {
    begin 'a loss or a gradient that overflows: training stops, its last state is kept and goes on'
    while read -r tensor byte numbers; do
        blown "$tensor" "$byte"
        for every in 1 2; do
            rm -rf old && mkdir old && reset
            set -- ./nr extend -i blown --data data --method finetune --lr 10 --steps 19 --batch 1 --save-every $every -o target/x
            refused 'a lower --lr may help' "$@"
            said | grep -q "the loss is $numbers" || wrong "$tensor: expected a loss of $numbers"
            stopped=$(said)
            step=$(said | sed -n 's/.* at step \([0-9]*\) .*/\1/p')
            if [ "${step:-0}" -gt $every ]; then
                cp target/x.state before
                refused "$stopped" "$@" --resume
                grep -q "goes on from step $(((step - 1) / every * every)) " out || wrong "$tensor: does not go on"
                cmp -s before target/x.state || wrong "$tensor: the state has changed"
                header=$(od -An -t u8 -N 8 before | tr -d ' ')
                ! od -An -v -t f4 -j $((8 + header)) before | grep -q 'nan\|inf' || wrong "$tensor: the state has values that are none"
            fi
            left=$([ "${step:-0}" -le $every ] || echo target/x.state)
            [ "$(find target -type f)" = "$left" ] ||
                wrong "$tensor: leaves $(ls target)"
            note="$note${note:+, }step $step of 19"
        done
    done <<'END'
h.0.attn.c_attn.weight ^ -*nan, the gradient's norm -*nan
h.0.mlp.c_fc.weight h [0-9.e+]*, the gradient's norm -*nan
h.0.mlp.c_proj.weight b [0-9.e+]*, the gradient's norm inf
ln_f.weight b [0-9.e+]*, the gradient's norm inf
END
}

# ----------------------------------------------------------------------------------------------------------------------------------
# 7. Standard streams that are closed, full, or closed early by who reads them.

streams() {
    begin 'standard output to a reader that leaves'
    for c in './nr --help' './nr run --help' './tokenizer --help' './nr eval -i base --data data' \
        './nr sample -i base -n 5000' "$run --save-every 1"; do
        prepare "$c"
        { { eval "$c"; echo $? >status; } 2>err | head -n 1 >/dev/null; }
        status=$(cat status) facts=$((facts + 1))
        [ "$status" = 0 ] || [ "$status" = 141 ] || { [ "$status" = 1 ] && said | grep -q '^[a-z]*: standard output: '; } ||
            wrong "$c | head -n 1: status $status"
        [ "$c" != "$run --save-every 1" ] || { $again >out 2>err || wrong "$again"; without_seconds; }
        diff -r new target >/dev/null || wrong "$c | head -n 1: $(diff -rq new target)"
    done

    for way in '>/dev/full' '>&-'; do
        begin "standard output $way"
        for c in './nr --help' './nr eval --help' './tokenizer --help' './nr eval -i base --data data --csv target/csv' \
            './nr sample -i base -n 50' './tokenizer decode -m data data/en_val.bin' "$run" "$pretrain -o target/m" "$extend -o target/x"; do
            prepare "$c"
            eval "$c $way" 2>err
            status=$? facts=$((facts + 1))
            { [ $status = 1 ] && one_line && said | grep -q ': standard output: '; } || wrong "$c $way: status $status"
            without_seconds
            diff -r new target >/dev/null || wrong "$c $way: $(diff -rq new target)"
        done
    done
    begin 'standard error 2>&-, while eval has its file open and shows its progress'
    seq 50000 | sed 's/.*/the dog sees & cats ./' | ./tokenizer encode -m data --lines -o data/long_val.bin -
    prepare './nr eval -i base --data data --domains long --csv target/csv'
    eval "$command" >out 2>&- || wrong "$command 2>&-"
    facts=1
    cmp -s new/csv target/csv || wrong "csv is: $(cat target/csv)"
    rm data/long_val.bin
    for way in '2>/dev/full' '2>&-' '<&-' '<&- 2>&-'; do
        begin "standard error or input $way: all is done"
        for c in './nr eval -i base --data data --csv target/csv' './nr sample -i base -n 50' "$run" "$pretrain -o target/m" \
            "$extend -o target/x" './tokenizer train -v 260 -o target/v one.txt'; do
            prepare "$c"
            : >err
            { eval "$c $way >out" || wrong "$c $way: status $?"; } 2>/dev/null
            facts=$((facts + 1))
            without_seconds
            { prints_the_same && diff -r new target >/dev/null; } || wrong "$c $way: $(diff -rq new target)"
        done
    done
}

# ----------------------------------------------------------------------------------------------------------------------------------
# 8. Killed at any moment.

kills() {
    begin "$kills times SIGKILL at a random moment, resumed each time"
    c="./nr run --data data $sizes --pretrain-steps 500 --steps 200 --batch 1 -o target"
    c="$c --known en --new fr,plays --methods finetune,lora,neutral"
    rm -rf old new && mkdir old && reset
    $c >printed 2>/dev/null
    without_seconds
    cp -r target new
    reset
    hits=0 whole_runs=0 first=$kills
    awk -v n=$((kills * 4)) -v seed="$(date +%s)" 'BEGIN { srand(seed); while (n--) printf "%.4f %d\n", 0.002 + 0.12 * rand(), 1 + 3 * rand() }' >moments
    while read -r moment every; do
        [ "$first" -gt 0 ] || moment=600 # and then to the end
        # shellcheck disable=SC2086
        timeout -s KILL "$moment" $c --save-every "$every" --resume >out 2>err
        status=$?
        if [ $status = 0 ]; then
            without_seconds
            find target -name '*.tmp' -exec rm {} +
            diff -r new target >/dev/null || wrong "other files: $(diff -rq new target)"
            whole_runs=$((whole_runs + 1))
            [ "$first" -gt 0 ] || break
            reset
        elif [ $status = 137 ]; then
            facts=$((facts + 1)) first=$((first - 1))
            [ -z "$(find target -name '*.tmp')" ] || hits=$((hits + 1))
        elif [ $status = 1 ] && one_line && said | grep -q 'another process is writing there'; then
            sleep 0.05 # the killed one has not ended yet: it is writing to the disk
        else
            wrong "status $status"
            break
        fi
    done <moments
    note="$hits in the middle of a save, $whole_runs runs reached their end"
}

# A second run into the same folder, at a random moment of the first: it is refused, or the first has ended and it does all anew.
doubles() {
    n=50
    [ $quick = no ] || n=10
    begin "$n times a second run into a folder in use"
    c="./nr run --data data $sizes --pretrain-steps 400 --steps 100 --batch 1 -o target --known en --new fr --methods finetune,neutral"
    rm -rf old && mkdir old
    for seed in 1 2; do
        reset
        began=$(date +%s%N)
        $c --seed $seed >out 2>err || wrong "seed $seed fails"
        took=$(($(date +%s%N) - began))
        without_seconds
        rm -rf "new$seed" && cp -r target "new$seed"
    done
    in_use=0
    awk -v n=$n -v s="$took" -v seed="$(date +%s)" 'BEGIN { srand(seed); while (n--) printf "%.3f\n", 1.3e-9 * s * rand() }' >moments
    while read -r moment; do
        reset
        $c --seed 1 >/dev/null 2>&1 &
        child=$!
        sleep "$moment"
        $c --seed 2 >out 2>err
        status=$? kept=2
        if [ $status = 1 ] && one_line && said | grep -q 'another process is writing there'; then
            kept=1 in_use=$((in_use + 1))
        elif [ $status != 0 ]; then wrong "status $status"; fi
        wait $child || [ $kept = 2 ] || wrong 'the first fails'
        without_seconds
        diff -r new$kept target >/dev/null || wrong "a mixed result: $(diff -rq new$kept target)"
        facts=$((facts + 1))
    done <moments
    note="$in_use refused"
    rm -rf new1 new2
}

# ----------------------------------------------------------------------------------------------------------------------------------
# 9. Frozen is frozen.

frozen() {
    begin 'the backbone is the same, byte for byte, after it was extended'
    rm -rf old && mkdir old && reset
    cp -r base before
    cp x extension
    for method in replay neutral adapter lora finetune naive; do
        # shellcheck disable=SC2086
        { $extend --method $method -o target/$method >out 2>err && diff -r before base; } || wrong "$method"
        facts=$((facts + 1))
    done
    for method in replay neutral adapter lora; do
        # shellcheck disable=SC2086
        { $extend -x x --method $method -o target/upon_$method >out 2>err && diff -r before base && cmp extension x; } ||
            wrong "$method upon another"
        facts=$((facts + 1))
    done
    { ./nr eval -i base -x x --data data && ./nr sample -i base -x x && diff -r before base && cmp extension x; } >out 2>err ||
        wrong 'eval or sample'
}

# ----------------------------------------------------------------------------------------------------------------------------------
# 10. A state belongs to the settings it was saved under.

settings() {
    rm -rf old && mkdir old && reset
    cp -r data other_data
    sed 's/cats/dogs/' one.txt | ./tokenizer encode -m data --lines -o other_data/en_train.bin -
    sed 's/chats/chars/' two.txt | ./tokenizer encode -m data --lines -o other_data/fr_train.bin -
    for c in "$pretrain -o other" "$extend -o other_x"; do
        eval "$(echo "$c" | sed 's/--seed 1/--seed 2/')" >out 2>&1 || { cat out; exit 1; }
    done
    for method in pretrain neutral lora finetune; do
        begin "a state is refused under other settings: $method"
        case $method in
        pretrain) c="./nr pretrain --data data $sizes --pretrain-steps 1000000" ;;
        *) c="./nr extend -i base --data data --steps 1000000 --method $method" ;;
        esac
        c="$c --batch 1 -o target/x"
        reset
        # shellcheck disable=SC2086
        timeout --foreground 1 $c --save-every 1 >out 2>err
        cp target/x.state before || wrong "$c: leaves no state"
        while read -r which others; do
            case $which in
            all) ;;
            extend) [ $method != pretrain ] || continue ;;
            *) [ $method = "$which" ] || continue ;;
            esac
            # shellcheck disable=SC2046,SC2086  # in place of the option that is there
            set -- $(echo "$c" | sed "s/ ${others%% *} [^ ]*//") --resume $others
            refused 'target/x.state: ' "$@"
            said | grep -q 'under other settings: \|began with another model' || wrong "$others"
            cmp -s before target/x.state || wrong "$others: the state has changed"
        done <<'END'
all --seed 7
all --batch 2
all --context 4
all --data other_data
pretrain --pretrain-steps 999999
pretrain --pretrain-lr 0.00200000000001
pretrain --layers 2
pretrain --heads 2
pretrain --channels 8
pretrain --known plays,en
extend -i other
extend --steps 999999
extend --lr 0.003
extend --old plays
extend --old en,plays
extend --new plays
extend --new fr,plays
extend --p 0.2
extend --replay 9 --replay-as text
neutral --new-rows 0
neutral --method adapter
neutral --alpha 2
neutral --q 0.2
neutral --gate sigmoid
neutral --gate none
neutral --gate-input prefix
neutral --gate-init random
neutral --negatives en
neutral --replay 9
neutral --replay 9 --temperature 2
neutral --local none
neutral --init he
neutral --hidden 15
neutral -x x
lora --new-rows 0
lora --method neutral
lora --rank 2
lora -x x
finetune --method naive
END
        # shellcheck disable=SC2086  # what decides nothing may differ
        timeout --foreground 1 $c --resume --threads 1 --save-every 7 >out 2>err
        grep -q 'goes on from step' out || wrong "$c: does not go on under the same settings"
        # shellcheck disable=SC2086
        [ $method != neutral ] || {
            reset
            timeout --foreground 1 $c -x x --save-every 1 >out 2>err
            refused 'target/x.state: saved under other settings: data' \
                $c -x other_x --resume
        }
    done
}

# ----------------------------------------------------------------------------------------------------------------------------------

if [ $# = 0 ]; then set -- allocations calls disk places data numbers streams settings frozen doubles kills; fi
while [ $# -gt 0 ]; do
    section=$1
    shift
    case $section in allocations | calls | disk | places | data | numbers | streams | settings | frozen | doubles | kills) ;;
    *) echo "$section: not a section: $(sed -n 's/^# Sections: \(.*\); all.*/\1/p' "$source/dev/faults.sh")"; exit 1 ;;
    esac
    case ${1:-} in [0-9]*) kills=$1; shift ;; esac
    rm -rf before
    $section
    begin
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]

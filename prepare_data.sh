#!/bin/sh
# prepare_data.sh: from text to the token files that nr trains on; --help prints the manual.
# In this file: the manual, utilities, the toy corpus (a reader of grammars, a grammar), text
# rules and multiple choice, from text to tokens, the four commands, the command line.
set -eu
LC_ALL=C; export LC_ALL        # bytes, not characters: the same output everywhere
AWK=${AWK:-awk}                # AWK=gawk, mawk, "busybox awk", original-awk: same bytes from each

manual() { cat <<'END'
  ./prepare_data.sh [toy]                    a generated corpus, no network needed -> data/toy
  ./prepare_data.sh multi30k LANG            captions and plays; LANG: fr, de, cs  -> data/multi30k
  ./prepare_data.sh files en=FILE fr=FILE... your own text, two domains or more    -> data/en-fr
  ./prepare_data.sh gpt2                     the GPT-2 model folder (550 MB)       -> models/gpt2

options
  -o DIR             write there instead
  -v SIZE            size of the vocabulary to train (toy 512, otherwise 1024)    [not gpt2]
  --tokenizer MODEL  use the vocabulary of that folder and train none             [not gpt2]
  --lines            each line is a document, not each file                       [files]
  --from DIR         take the files from DIR and download nothing                 [multi30k, gpt2]
  -h, --help         this text

what is made, for each domain (en, plays, fr, ...) and each split (train, val, test)
  en_train.txt       the text, to read
  en_train.bin       its tokens, in the format of llm.c: 256 int32, then uint16 ids
  vocab.json merges.txt   a tokenizer trained on the train text of en and plays (files: of the first
                     domain); or those of MODEL, or MODEL's tokenizer.json if it has no others
  en_choices.jsonl   multiple choice from en_test.txt, in HellaSwag's form; fr too [toy, multi30k]

rules
  toy, multi30k      each line is a document, closed by <|endoftext|>. English is of two kinds: en
                     (tales; captions) and plays, where people speak. toy's new language is fr
  multi30k           for research and education, non-commercial. plays is Shakespeare, a speech a
                     line, the last tenth for val and test (from DIR/tinyshakespeare.txt). Prepare
                     fr, then de, into the same folder if you like: the English comes out the same
  files              each file is a document; every 20th paragraph (blank lines separate them) is
                     validation, or every 20th line if there are no blank lines; bytes are kept
  files --lines      every 20th line is validation (of fewer than 20, the last); empty lines and
                     blanks at the end of a line are dropped. files makes no test split
  if a line is a document, train drops those of val and test and is shuffled, always the same way
  gpt2 --from DIR    without model.safetensors and config.json it serves as a tokenizer only
  everything is made beside its place and moved there at the end: a failure leaves what was there
END
}

# ---------------------------------------------------------------- small utilities

say() { printf '%s\n' "$*"; }
die() { printf 'prepare_data.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
run_awk() { $AWK "$@"; }        # unquoted: AWK may be two words

known_sum() { # NAME -> the sha256 it must have, or nothing
    sed -n "s/ $1\$//p" <<'END'
9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8 test_2016_flickr.de.gz
611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9 test_2016_flickr.en.gz
6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90 test_2016_flickr.fr.gz
a0e057f07a9733199c0d755d77f6d583dc6f40a3180734b1130a216e2fdf3a3b train.1.en.gz
d79dd70a9eafb2d1fe40151621278c4ae69b3c148c5052a53d7c7a41bf3ba023 train.2.en.gz
86e16fdcc699bcb6bca0f87c3cf1051f7de5ee3674dd588cedc5200194282749 train.3.en.gz
3771b84e010ad6197806d2a1188cb07c12149e3e0d178dd5966dee5763733686 train.4.en.gz
73988689307fe836994eae59735dc840c15da9775455fa76e6ed22606a042a91 train.5.en.gz
726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6 train.de.gz
622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c train.fr.gz
f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a val.de.gz
14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28 val.en.gz
ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9 val.fr.gz
86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed tinyshakespeare.txt
1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5 merges.txt
196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783 vocab.json
END
}

fetch() { # URL NAME: the file as $tmp/NAME, from $from or from the network, checked
    if [ -n "$from" ]; then
        [ -f "$from/$2" ] || die "$from/$2: not found; --from needs a copy of $1"
        cp "$from/$2" "$tmp/$2"
    else
        say "downloading $1"
        if have curl; then curl -fsSL --connect-timeout 20 -o "$tmp/$2" "$1" 2>"$tmp/why"
        else wget -q -O "$tmp/$2" "$1" 2>"$tmp/why"
        fi || die "cannot download $1: $(head -n 1 "$tmp/why"); see --from"
    fi
    want=$(known_sum "$2") got=
    [ -z "$want" ] || for sum in 'openssl dgst -sha256 -r' 'shasum -a 256' sha256sum; do
        ! have "${sum%% *}" || got=$($sum <"$tmp/$2" | cut -d ' ' -f 1)
    done
    [ -n "$got" ] || say "$2: taken unchecked, for want of a checksum or a program for it"
    [ "${got:-$want}" = "$want" ] || die "${from:-$1}: $2 has sha256 $got, expected $want"
}

# ---------------------------------------------------------------- the toy corpus

# A grammar is headings, each with " : " and its items behind it, split by "|". They are
#   table pet en g : dog m | ...   rows of words; _ is a blank, a last word can be missing
#   table fact : pet pet 5 1 ...   person number i owns pet number (5 i + 1) mod (number of pets)
#   rule tale : ...                alternatives with slots: {pet} a row of pet, the same all through
#     a sentence, {pet.g} its column g, {who.pet} a fact, {tale} a rule, {pet2} {tale2} of another
#     row. Inner slots go first, so {a.un{pet.g}} is the article that pet wants.
grammar_to_text() { # DOMAIN LANGUAGE COUNT <grammar: COUNT sentences by rule DOMAIN, all different
    run_awk -v domain="$1" -v language="$2" -v count="$3" -v seed=1 '
    function random(n) { return (seed = seed * 16807 % 2147483647) % n }   # Park and Miller
    function row(name,   table, r) {   # the row that this sentence uses under that name
        table = name
        if (name in chosen) return chosen[name]
        if (sub(/2$/, "", table)) r = row(table) + 1
        r += random(items[table] - (table != name))
        return chosen[name] = r % items[table]
    }
    function fill(slot,   step, n, table, r, i, text, word) {
        n = split(slot, step, ".")
        table = step[1]
        sub(/2$/, "", table)
        if (kind[table] == "rule") {
            text = item[table, random(items[table])]
            if (slot != table) gsub(/[{][a-z][a-z]+/, "&2", text)
            return text
        }
        r = row(step[1])
        for (i = 2; i <= n && ("fact", step[i]) in item; i++) {
            split(item["fact", step[i]], word, " ")
            table = word[2]
            r = (word[3] * r + word[4]) % items[table]
        }
        split(item[table, r], word, " ")
        return word[column[table, i > n ? language : step[i]]]
    }
    split($0, part, " : ") == 2 {
        for (i = split(part[1], word, " "); i > 2; i--) column[word[2], word[i]] = i - 2
        kind[name = word[2]] = word[1]
        $0 = part[2]
    }
    !/^#/ { body[name] = body[name] $0 }
    END {
        for (name in body) {
            items[name] = split(body[name], part, / *[|] */)
            for (i = 1; i <= items[name]; i++) {
                split(part[i], word, " ")
                item[name, name == "fact" ? word[1] : i - 1] = part[i]
            }
        }
        while (made < count && tries++ < 20 * count) {
            split("", chosen)
            s = ". {" domain "}"
            while (match(s, /[{][^{}]*[}]/))
                s = substr(s, 1, RSTART - 1) fill(substr(s, RSTART + 1, RLENGTH - 2)) \
                    substr(s, RSTART + RLENGTH)
            gsub(/[_ ]+/, " ", s)
            gsub(/ [aeiouhAEIOUHâéèêœÉ]/, "~&", s)     # a ~ before vowels
            gsub(/ an /, " a ", s); gsub(/ l[ea]~ /, " l\047", s); gsub(/ de~ /, " d\047", s)
            gsub(/ que~ /, " qu\047", s); gsub(/ se~ /, " s\047", s); gsub(/ vieux~ /, " vieil ", s)
            gsub(/ de le /, " du ", s); gsub(/ de les /, " des ", s); gsub(/ à le /, " au ", s)
            gsub(/~/, "", s)
            while (match(s, /[.:!?] [a-z]/))
                s = substr(s, 1, RSTART + 1) toupper(substr(s, RSTART + 2, 1)) substr(s, RSTART + 3)
            if (!seen[s]++) { print substr(s, 3); made++ }
        }
        exit made < count
    }'
}

grammar() { cat <<'END'
# Words, English and French. Even persons (from 0) are men, odd ones women.
table who en fr : Tom Thomas | Anna Anne | Peter Pierre | Mary Marie | John Jean | Lucy Lucie |
  Henry Henri | Julia Julie | James Jacques | Helen Hélène | George Georges | Emily Émilie
table sex g his sibling frere ami : m his brother le_frère le_ami | f her sister la_sœur la_amie
table town en fr : London Londres | Geneva Genève | Athens Athènes | Venice Venise | Moscow Moscou
table job en m f : baker boulanger boulangère | farmer fermier fermière | singer chanteur chanteuse
  | merchant marchand marchande | dancer danseur danseuse | actor acteur actrice
table pet en fr g : dog chien m | cat chat m | goat chèvre f | rabbit lapin m | duck canard m |
  donkey âne m | owl chouette f | parrot perroquet m | cow vache f
table call name : Rex | Misty | Biscuit | Domino | Bella | Coco | Caramel | Leo | Mimosa | Pablo
table food en fr : apples les_pommes | bread le_pain | soup la_soupe | honey le_miel | eggs les_œufs
table drink en fr : tea le_thé | coffee le_café | milk le_lait | water la_eau | wine le_vin
table thing en fr g : book livre m | lamp lampe f | key clé f | letter lettre f | ring bague f |
  candle bougie f | ball ballon m | bell cloche f | umbrella parapluie m | egg œuf m
table hue en m f : black noir noire | white blanc blanche | brown brun brune | striped rayé rayée
table size en m f : small petit petite | big grand grande | old vieux vieille | good bon bonne
table mood en m f : sad triste triste | tired fatigué fatiguée | proud fier fière | merry gai gaie
table idle en past ing fr : sing sang singing chant | dance danced dancing dans |
  walk walked walking march | work worked working travaill | dream dreamt dreaming rêv
table act en past fr : find found trouv | hide hid cach | draw drew dessin | keep kept gard |
  break broke cass | forget forgot oubli | seek sought cherch | steal stole vol
table place en fr : in_the_garden dans_le_jardin | in_the_kitchen dans_la_cuisine |
  on_the_roof sur_le_toit | near_the_river près_de_la_rivière | under_a_tree sous_un_arbre
table time en fr : yesterday hier | last_night la_nuit_dernière | in_spring au_printemps |
  in_winter en_hiver | on_Sunday dimanche
table sky en was fr etait : it_rains it_was_raining il_pleut il_pleuvait | it_snows it_was_snowing
  il_neige il_neigeait | it_is_cold it_was_cold il_fait_froid il_faisait_froid
table number en fr : two deux | three trois | four quatre | five cinq | six six | ten dix
table fact : sex sex 1 0 | twin who -1 11 | friend who 1 7 | town town 2 4 | job job 5 2 | pet pet 5
  1 | coat hue 3 2 | call call 7 1 | food food 3 1 | drink drink 4 3 | idle idle 2 1 | house hue 1 3
# English; "an" becomes "a" where no vowel follows.
rule someone : the {job} | an {mood} {job} | the {size} {job} | the {mood} {job} from {town}
rule something : the {thing} | an {hue} {thing} | the {size} {thing} | the {size} {hue} {thing}
rule life : lives in {who.town} | works as an {who.job} | lives in an {who.house} house |
  is the {who.sex.sibling} of {who.twin} | is the friend of {who.friend}
rule taste : owns an {who.coat} {who.pet} | has an {who.pet} called {who.call.name} |
  likes {who.food} | drinks {who.drink} every morning | likes to {who.idle}
rule deed : {idle.past} {place} with {who.friend} | ate {who.food} and drank {who.drink} |
  went to {who.twin.town} with {who.sex.his} {who.pet} | {act.past} {something} {place}
rule en : {who} {life} and {taste}. | {who}, who {taste}, {life}. | {who} {taste}, and {who2}
  {taste2}. | {time}, {who} {deed}. | {who}, who {life}, {deed} {time}. | {who}, who {taste}, {deed}
  because {sky.was}. | when {sky}, {who} likes to {who.idle} {place}. | {who.call.name}, the
  {who.coat} {who.pet} of {who}, slept {place} {time}. | {someone} is {idle.ing} {place} with {who},
  who {taste}. | {number} {mood} {job}s are {idle.ing} {place}. | {someone} {act}s {something} while
  {someone2} {idle}s {place}. | {someone} {act.past} {something} that {someone2} {act2.past} {time}.
# Plays: people speak to each other of the same things; a line is a scene.
rule hail : good {who} | O {who} | dear {who}
rule mine : in {who.town} I live | an {who.job} am I | my house is {who.house} |
  {who.twin} is my {who.twin.sex.sibling} | {who.friend} is my friend | my {who.pet} is {who.coat} |
  my {who.pet} I call {who.call.name} | I love {who.food} | well do I {who.idle}
rule lost : my {size} {thing} | my {hue} {thing} | my {who.coat} {who.pet}
rule plays : {who}: {mine}, {hail2}. {who2}: And {mine2}, {hail}! | {who}: Who are you? {who2}: I am
  {who2}, {hail}, and {mine2}. | {who}: Where do you live, {hail2}? {who2}: In {who2.town}, {hail},
  and {mine2}. | {who}: What do you eat, {hail2}? {who2}: {who2.food}, and I drink {who2.drink}. |
  {who}: Have you an {who2.pet}, {hail2}? {who2}: I have, and {who2.coat} it is! | {who}: Where is
  {lost}, {hail2}? {who2}: {place}! {someone} {act.past} it {time}. | {who}: Who {act.past} {lost}?
  {who2}: Not I, {hail}! It was {someone} {place}. | {who}: Alas, {someone} {act.past} {lost}!
  {who2}: Be not {mood2}, {hail}, for {sky}. | {who}: Why do you {idle} {place}, {hail2}? {who2}:
  Because {sky}, and {mine2}. | {job}: Go, {hail}, and {act} my {thing} {place}! {who}: I go, O
  {mood} {job}! | {who}: How {mood} is the {job}! {who2}: And how {size} is your {thing}, {hail}!
# French: words stand unelided (le ami, de le roi) until the end.
table a lem lef unm unf ef em : le la un une e
rule qui : le {job.m} {mood.m} | la {job.f} de {town} | un {size.m} {job.m} | une {job.f} {mood.f}
rule chose : {a.le{thing.g}} {thing} {hue.{thing.g}} | {a.un{thing.g}} {size.{thing.g}} {thing}
rule vie : habite à {who.town} | est {who.job.{who.sex.g}} | a une maison {who.house.f} |
  est {who.sex.frere} de {who.twin} | est {who.sex.ami} de {who.friend}
rule bete : {who.pet} {who.coat.{who.pet.g}}
rule gout : possède {a.un{who.pet.g}} {bete} | a {a.un{who.pet.g}} {who.pet} qui se appelle
  {who.call.name} | aime {who.food} | boit de {who.drink} tous les matins | aime {who.idle}er
rule acte : a {idle}é {place} avec {who.friend} | a mangé de {who.food} et bu de {who.drink} | est
  allé{a.e{who.sex.g}} à {who.twin.town} avec {a.le{who.pet.g}} {bete} | a {act}é {chose} {place}
rule fr : {who} {vie} et {gout}. | {who}, qui {gout}, {vie}. | {who} {gout}, et {who2} {gout2}. |
  {time}, {who} {acte}. | {who}, qui {vie}, {acte} {time}. | {who}, qui {gout}, {acte} parce que
  {sky.etait}. | quand {sky}, {who} aime {who.idle}er {place}. | {who.call.name}, {a.le{who.pet.g}}
  {bete} de {who}, a dormi {place} {time}. | {qui} {idle}e {place} avec {who}, qui {gout}. |
  {number} {job.f}s {mood.f}s {idle}ent {place}. | {number} {pet}s {hue.{pet.g}}s dorment {place}. |
  {qui} {act}e {chose} pendant que {qui2} {idle}e {place}. | {qui} a {act}é {a.le{thing.g}} {thing}
  que {qui2} a {act2}é{a.e{thing.g}} {time}. | {qui} parle de {number} {thing}s à {qui2}.
END
}

# ---------------------------------------------------------------- text rules, multiple choice

tidy() { run_awk '{ sub(/[ \t\r]+$/, "") } $0 != ""'; }   # no empty lines, no blanks at their ends
shuffle() { # the lines in an order that is always the same; products stay below 2^53
    run_awk -v s=20240520 '{ s = s * 16807 % 2147483647; print s "\t" $0 }' | sort -n | cut -f 2-
}

without() { # FILE...: the lines of stdin that occur in none of them (and are not empty)
    { cat "$@"; echo; cat; } | run_awk '
        !after { after = ($0 == ""); seen[$0]; next } !($0 in seen)'
}

split_text() { # UNIT PART TOTAL NEWLINE <text: its PART train or val; if PART is count, the units
    # A unit is a line or a paragraph, with blank lines behind it; NEWLINE: the text ends in one.
    run_awk -v unit="$1" -v part="$2" -v total="$3" -v newline="$4" '
    function flush(end) { if (held) printf "%s%s", line, end; held = 0 }
    { blank = $0 ~ /^[ \t\r]*$/
      if (!blank && (unit == "line" || !inside)) n++
      inside = !blank
      to = n > 0 && (n % 20 == 0 || total < 20 && n == total) ? "val" : "train"
      if (to == part) { flush("\n"); line = $0; held = 1 } }
    END { if (part == "count") print n + 0; else flush(to == part && !newline ? "" : "\n") }'
}

choices() { # DOMAIN: its test lines as multiple choice: a first half, and four second halves
    # Four lines whose second halves have equally many words, and nearly as many bytes, share these,
    # in an order drawn once: as each is right for one of the four, endings alone tell nothing. Left
    # out: lines under 6 words, or with a half that an earlier one has, and those that make no four.
    tr '\000-\011\013-\037\177' '[ *]' <"$made/$1_test.txt" | run_awk -v OFS='\t' '
        NF >= 6 { first = $1; second = ""
            for (i = 2; i <= NF / 2; i++) first = first " " $i
            for (; i <= NF; i++) second = second " " $i
            if (!seen[first]++ && !seen[second]++)
                print NF - int(NF / 2), length(second), NR, first, second
        }' | sort -k 1,1n -k 2,2n -k 3,3n | sed 's/["\\]/\\&/g' | run_awk -F '\t' -v s=20160520 '
        $1 != words || n == 4 { words = $1; n = 0 }
        { i = (s = s * 16807 % 2147483647) % (n + 1)     # its place; what was there goes last
          first[n] = first[i]; second[n] = second[i]; first[i] = $4; second[i] = $5; n++ }
        n == 4 {
            all = second[0] "\", \"" second[1] "\", \"" second[2] "\", \"" second[3]
            for (i = 0; i < 4; i++)
                printf "{\"ctx\": \"%s\", \"endings\": [\"%s\"], \"label\": %d}\n", first[i], all, i
        }' | shuffle >"$made/$1_choices.jsonl"
    printf '  %-6s choices %7d lines\n' "$1" "$(wc -l <"$made/$1_choices.jsonl")" >>"$tmp/table"
}

# ---------------------------------------------------------------- from text to tokens

open_target() { # makes $tmp, beside the target, or in it where it exists
    [ ! -e "$out" ] || [ -d "$out" ] || die "-o $out: expected a folder"
    case $out in /* | ./*) ;; *) out=./$out ;; esac
    out=${out%/} tmp=${out%/}.tmp.$$
    [ ! -d "$out" ] || tmp=$out/.tmp.$$
    trap 'rm -rf "$tmp"' EXIT; trap 'exit 130' INT HUP TERM
    made=$tmp/made
    mkdir -p "$made"
}

tokenize() { # "DOMAIN..." DOMAIN...: trains on the first, encodes the others, moves all to $out
    for file in "$made"/*_*; do [ -s "$file" ] || die "${file##*/}: no text left for it"; done
    if [ -z "$model" ]; then
        for domain in $1; do cat "$made/${domain}_train.txt"; done |
            "$tokenizer" train -v "$size" ${lines:+--lines} -o "$made" - >"$tmp/log"
    elif [ -f "$model/vocab.json" ] && [ -f "$model/merges.txt" ]; then
        cp "$model/vocab.json" "$model/merges.txt" "$made"
    else cp "$model/tokenizer.json" "$made"
    fi
    shift
    for domain; do for split in train val test; do
        file=$made/${domain}_$split
        [ -f "$file.txt" ] || continue
        "$tokenizer" encode -m "$made" ${lines:+--lines} -o "$file.bin" "$file.txt" >"$tmp/log"
        printf '  %-6s %-6s %8d lines %10d tokens\n' "$domain" "$split" \
            "$(run_awk 'END { print NR }' <"$file.txt")" $((($(wc -c <"$file.bin") - 1024) / 2))
    done; done >>"$tmp/table"
    for file in "$out"/*.bin; do      # of a domain that is not made now
        [ ! -f "$file" ] || [ -f "$made/${file##*/}" ] ||
            cmp -s "$out/vocab.json" "$made/vocab.json" ||
            cmp -s "$out/tokenizer.json" "$made/tokenizer.json" ||
            die "${file#./}: made with another vocabulary; remove it or choose another -o"
    done
    deliver vocab.json merges.txt tokenizer.json
    cat "$tmp/table"
}

deliver() { # everything is made: from $made to its place, where old FILE... not made now must go
    for file; do [ -f "$made/$file" ] || rm -f "$out/$file"; done
    if [ -d "$out" ]; then mv -f "$made"/* "$out"/; else mv "$made" "$out"; fi
    say "made ${out#./}"
}

# ---------------------------------------------------------------- the commands

toy() {
    open_target
    for set in 'en en 44000 2000' 'plays en 14000 1000' 'fr fr 22000 1000'; do
        # shellcheck disable=SC2086    # domain, language, documents, how many for val and for test
        set -- $set
        grammar | grammar_to_text "$1" "$2" "$3" | shuffle >"$tmp/all"
        sed -n "1,$4p" <"$tmp/all" >"$made/$1_val.txt"
        sed -n "$(($4 + 1)),$((2 * $4))p" <"$tmp/all" >"$made/$1_test.txt"
        sed "1,$((2 * $4))d" <"$tmp/all" >"$made/$1_train.txt"
    done
    choices en; choices fr
    tokenize 'en plays' en plays fr
}

multi30k() { # LANG
    open_target
    test=test_2016_flickr
    for name in train.1.en train.2.en val.en $test.en train."$1" val."$1" $test."$1"; do
        case $name in train.?.en) task=2 ;; *) task=1 ;; esac
        url=https://raw.githubusercontent.com/multi30k/dataset/master/data/task$task/raw
        fetch "$url/$name.gz" "$name.gz"
        gzip -dc <"$tmp/$name.gz" >"$tmp/$name" || die "$name.gz: not a whole gzip file"
    done
    cat "$tmp"/train.?.en >"$tmp/train.en"
    text=$tmp/tinyshakespeare.txt url=https://raw.githubusercontent.com/karpathy/char-rnn/master
    fetch $url/data/tinyshakespeare/input.txt tinyshakespeare.txt
    n=$(($(wc -l <"$text") / 20))
    sed "$((18 * n))q" <"$text" >"$tmp/train.plays"
    sed "1,$((18 * n))d; $((19 * n))q" <"$text" >"$tmp/val.plays"
    sed "1,$((19 * n))d" <"$text" >"$tmp/$test.plays"
    for domain in en plays "$1"; do
        tidy <"$tmp/val.$domain" >"$made/${domain}_val.txt"
        tidy <"$tmp/$test.$domain" >"$made/${domain}_test.txt"
        tidy <"$tmp/train.$domain" | without "$made/${domain}"_*.txt | shuffle >"$tmp/train"
        mv "$tmp/train" "$made/${domain}_train.txt"
    done
    choices en; choices "$1"
    tokenize 'en plays' en plays "$1"
}

files() { # NAME=FILE...
    names=
    for arg; do
        name=${arg%%=*} file=${arg#*=}
        case $name in "$arg" | '' | *[!A-Za-z0-9_-]*)
            die "files: $arg: expected NAME=FILE, and in NAME letters, digits, _ and -" ;; esac
        case " $names " in *" $name "*) die "files: $arg: the name $name is given twice" ;; esac
        { [ -f "$file" ] && [ -r "$file" ]; } || die "$arg: not found, or cannot be read"
        [ "$(tr -d '\0' <"$file" | wc -c)" -eq "$(wc -c <"$file")" ] || die "$file: has zero bytes"
        names=${names:+$names }$name
    done
    out=${out:-data/$(say "$names" | tr ' ' -)}
    open_target
    for arg; do
        name=${arg%%=*} file=${arg#*=} unit=${lines:-paragraph} newline=1
        if [ -n "$lines" ]; then tidy <"$file"; else cat <"$file"; fi >"$tmp/text"
        [ -z "$(tail -c 1 "$tmp/text")" ] || newline=0
        [ "$(split_text "$unit" count 0 1 <"$tmp/text")" -gt 1 ] || unit=line
        total=$(split_text "$unit" count 0 1 <"$tmp/text")
        [ "$total" -ge 2 ] || die "$file: has $total line(s) of text, expected two or more"
        split_text "$unit" val "$total" $newline <"$tmp/text" >"$made/${name}_val.txt"
        split_text "$unit" train "$total" $newline <"$tmp/text" >"$tmp/train"
        if [ -n "$lines" ]; then without "$made/${name}_val.txt" <"$tmp/train" | shuffle
        else cat "$tmp/train"; fi >"$made/${name}_train.txt"
    done
    # shellcheck disable=SC2086    # names have no blanks in them
    tokenize "${names%% *}" $names
}

gpt2() {
    open_target
    for file in vocab.json merges.txt config.json model.safetensors; do
        case ${from:+$file} in config.json | *.safetensors) [ -f "$from/$file" ] || continue ;; esac
        fetch "https://huggingface.co/openai-community/gpt2/resolve/main/$file" $file
        mv "$tmp/$file" "$made/$file"
    done
    deliver
}

# ---------------------------------------------------------------- the command line

out='' size='' model='' lines='' from='' option=''
for arg; do                    # options out, the rest goes round to the end of the line
    shift
    case $option:$arg in -o:-* | --from:-* | --tokenizer:-*) arg=./$arg ;; esac
    case $option:$arg in
    -o:?*) out=$arg ;;
    -v:?*) size=$arg ;;
    --tokenizer:?*) model=$arg ;;
    --from:?*) from=$arg ;;
    -*:) break ;;
    :-h | :--help) manual; exit 0 ;;
    :--lines) lines=line ;;
    :-o | :-v | :--tokenizer | :--from) option=$arg; continue ;;
    :-*) die "$arg: no such option; --help lists them" ;;
    *) set -- "$@" "$arg" ;;
    esac
    option=
done
[ -z "$option" ] || die "$option: expected a value after it"
command=${1-toy}
[ $# -eq 0 ] || shift
have "${AWK%% *}" || die "AWK=$AWK: not found"
case $size in *[!0-9]*) die "-v $size: expected a number" ;; esac
[ -z "$size" ] || [ -z "$model" ] || die "-v $size: --tokenizer $model has its size already"
case $command in
toy) [ -z "$lines$from$*" ] || die "toy: takes no argument, no --lines and no --from"
    out=${out:-data/toy} lines=line size=${size:-512} ;;
multi30k) [ "$lines$#" = 1 ] || die "multi30k: takes one of fr, de and cs, and no --lines"
    case $1 in fr | de | cs) ;; *) die "multi30k $1: the languages are fr, de and cs" ;; esac
    out=${out:-data/multi30k} lines=line ;;
files) [ -z "$from" ] || die "files: takes no --from"
    [ $# -ge 2 ] || die "files: $# given, expected two or more NAME=FILE" ;;
gpt2) [ -z "$lines$size$model$*" ] || die "gpt2: takes nothing but -o and --from"
    out=${out:-models/gpt2} ;;
*) die "$command: expected toy, multi30k, files or gpt2; --help says more" ;;
esac
size=${size:-1024} tokenizer=$(dirname -- "$0")/tokenizer
[ "$command" = gpt2 ] || [ -x "$tokenizer" ] || die "$tokenizer: not found; run make first"
[ -z "$from" ] || [ -d "$from" ] || die "--from $from: no such folder"
[ -z "$model" ] || [ -f "$model/merges.txt" ] || [ -f "$model/tokenizer.json" ] ||
    die "--tokenizer $model: has neither vocab.json and merges.txt nor tokenizer.json"
"$command" "$@"

#!/bin/sh
# prepare_data.sh: from text to the token files that nr trains on. ./prepare_data.sh --help is the manual.
#
# In this file: the manual, small utilities, the toy grammar (its engine, English, French), the
# text rules that every corpus goes through, the four commands, the command line.
set -u
LC_ALL=C; export LC_ALL        # bytes, not characters: the same output everywhere
AWK=${AWK:-awk}                # AWK=gawk, mawk, "busybox awk", original-awk: same bytes from each

manual() { cat <<'END'
prepare_data.sh: from text to the token files that nr trains on

  ./prepare_data.sh [toy]                        a generated corpus, no network needed   -> data/toy
  ./prepare_data.sh multi30k LANG                image captions; LANG is fr, de or cs    -> data/multi30k
  ./prepare_data.sh files en=FILE fr=FILE ...    your own text, two languages or more    -> data/en-fr
  ./prepare_data.sh gpt2                         the GPT-2 model folder (550 MB)         -> models/gpt2

options
  -o DIR             write there instead
  -v SIZE            size of the vocabulary to train (toy 512, otherwise 1024)   [toy, multi30k, files]
  --tokenizer MODEL  use the vocabulary of that folder and train none            [toy, multi30k, files]
  --lines            each line is a document, not each file                      [files]
  --from DIR         take the files from DIR and download nothing                [multi30k, gpt2]
  -h, --help         this text

what is made, for each domain (en, fr, ...) and each split (train, val, test):
  en_train.txt       the text, to read
  en_train.bin       its tokens, in the format of llm.c: 256 int32, then uint16 ids
  vocab.json merges.txt   one tokenizer for all domains, trained on the train split of the first only

rules
  toy, multi30k      a sentence a line; each line is a document, closed by <|endoftext|>
  files              each file is a document; every 20th paragraph (blank lines separate them) is
                     validation, or every 20th line if there are no blank lines; bytes are kept
  files --lines      every 20th line is validation (of fewer than 20, the last); empty lines and
                     blanks at the end of a line are dropped. files makes no test split
  sentences that occur in val or test are dropped from train; train is shuffled, always the same way
  multi30k           for research and education, non-commercial. Prepare fr, then de, into the same
                     folder if you like: the English files come out the same
  gpt2 --from DIR    without model.safetensors and config.json the folder serves as a tokenizer only
  everything is made beside the target and moved there at the end: a failure leaves what was there.

examples
  ./prepare_data.sh && ./nr
  ./prepare_data.sh multi30k de
  ./prepare_data.sh files en=shakespeare.txt fr=moliere.txt -o data/theatre -v 2048
  ./prepare_data.sh gpt2 && ./prepare_data.sh files old=web.txt new=mine.txt --tokenizer models/gpt2
END
}

# ---------------------------------------------------------------- small utilities

say() { printf '%s\n' "$*"; }
die() { printf 'prepare_data.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
run_awk() { $AWK "$@"; }        # unquoted: AWK may be two words

sha256() { # FILE -> its checksum, or nothing where no program can compute it
    if have sha256sum; then sha256sum <"$1"
    elif have shasum; then shasum -a 256 <"$1"
    elif have openssl; then openssl dgst -sha256 <"$1" | sed 's/.*= *//'
    fi | sed 's/ .*//'
}

known_sum() { # NAME -> the checksum it must have, or nothing
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
1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5 merges.txt
196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783 vocab.json
END
}

fetch() { # URL: its last part as a file in $tmp, from $from or from the network, checked
    name=${1##*/}
    if [ -n "$from" ]; then
        [ -f "$from/$name" ] || die "$from/$name: not found; --from needs a copy of $1"
        cp "$from/$name" "$tmp/$name" || die "$from/$name: cannot be copied to $tmp"
    else
        say "downloading $1"
        if have curl; then curl -fsSL --connect-timeout 20 -o "$tmp/$name" "$1" 2>"$tmp/why"
        elif have wget; then wget -q -O "$tmp/$name" "$1" 2>"$tmp/why"
        else die "neither curl nor wget is here; download $1 yourself and give its folder with --from"
        fi || { why=$(head -n 1 "$tmp/why"); die "cannot download $1 (${why:-no network?}); with a copy at hand, use --from DIR"; }
    fi
    want=$(known_sum "$name")
    got=$(sha256 "$tmp/$name")
    if [ -z "$want" ]; then say "$name: no checksum is known for it, taken unchecked"
    elif [ -z "$got" ]; then say "$name: no sha256sum, shasum or openssl here, taken unchecked"
    elif [ "$want" != "$got" ]; then die "${from:-$1}: $name has sha256 $got, expected $want"
    fi
}

# ---------------------------------------------------------------- the toy corpus: how a grammar is read

# A grammar is a list of headings, each with " : " and what belongs to it behind (and on the lines below):
#   table pet name size : cat small; dog big    a table, its columns, its rows; a cell is a word, _ is a blank, - is nothing
#   suffix verb : s ed ing          where a row of verb leaves columns out: its first cell with these endings
#   facts person : pet pet 4 1      a link: person number i owns pet number (4 i + 1) mod (the number of pets)
#   rule sentence : {person} owns a {person.pet}. | ...   alternatives, split by | or one a line, with slots:
#     {pet.size} {pet}       a column (by default the first) of one row of pet, the same row all through a sentence
#     {pet2}                 another row, never the same one
#     {person.pet.size}      along a link
#     {adj@noun.g:p}         agreement: the column of adj that is named by noun.g with a p behind it
#     {one+two.name}         the row of table sum whose number is the sum of the two row numbers
#     {rule} {rule/2}        an alternative of that rule, taken at random; /2: speaking of person2 where it says person
#   before : a an              words that change before a vowel (elide: and stick to it); vowel: how such words begin
#   pair : de le du            two words that become one

grammar_to_text() { # COUNT SEED <grammar: prints COUNT sentences, all different, of 4 to 25 words
    run_awk -v count="$1" -v seed="$2" '
    function random(n) {                 # 0 .. n-1, by Park and Miller; products stay below 2^53
        seed = seed * 16807 % 2147483647
        return seed % n
    }
    function pick(head,   t) {           # the row this sentence uses under the name head; its table goes to T
        t = head
        sub(/[0-9]$/, "", t)
        if (!(t in rows)) bad("no table or rule is called " head)
        if (when[head] != now) {
            do row[head] = random(rows[t]); while (rows[t] > 1 && used[t, row[head]] == now)
            used[t, row[head]] = now
            when[head] = now
        }
        T = t
        return row[head]
    }
    function field(path, column, who,   step, n, i, r, t) {
        n = split(path, step, ".")
        if (who != "" && step[1] == "person") step[1] = "person" who
        if (split(step[1], term, "+") == 2) {
            r = pick(term[1]) + pick(term[2]); T = "sum"
        } else r = pick(step[1])
        t = T
        for (i = 2; i <= n; i++) {
            if (!((t, step[i]) in link)) { column = step[i]; break }
            r = (times[t, step[i]] * r + plus[t, step[i]]) % rows[link[t, step[i]]]
            t = link[t, step[i]]
            if (r < 0) r += rows[t]
        }
        if (column == "") column = first[t]
        if (!((t, r, column) in cell)) bad("no column " column " in table " t)
        return cell[t, r, column]
    }
    function fill(slot, who,   half, tail) {
        if (split(slot, half, "@") == 2) {
            slot = half[1]
            split(half[2], tail, ":")
            return field(slot, field(tail[1], "", who) tail[2], who)
        }
        if (slot in rules) return expand(slot, who)
        if (split(slot, half, "/") == 2) return expand(half[1], half[2])
        return field(slot, "", who)
    }
    function expand(rule, who,   piece, n, i, out) {
        n = split(body[rule, random(rules[rule])], piece, /[{}]/)
        out = piece[1]
        for (i = 2; i <= n; i += 2) out = out fill(piece[i], who) piece[i + 1]
        return out
    }
    function polish(s,   word, n, i) {   # elision and contraction from right to left, then the capital
        n = split(s, word, " ")
        s = word[n]
        for (i = n - 1; i > 0; i--) {
            if ((word[i], word[i + 1]) in pair) {
                word[i] = pair[word[i], word[i + 1]]
                sub(/^[^ ]*/, word[i], s)
            } else if (word[i] in change && word[i + 1] ~ vowel) {
                if (sticks[word[i]]) s = word[i] = change[word[i]] s
                else s = change[word[i]] " " s
            } else s = word[i] " " s
            sub(/ .*/, "", word[i])
        }
        if (s ~ /^[a-z]/) s = toupper(substr(s, 1, 1)) substr(s, 2)
        return s
    }
    function bad(why) { print "the toy grammar: " why | "cat >&2"; failed = 1; exit 1 }

    /^#/ || /^$/ { next }
    split($0, half, / :( |$)/) == 2 {        # a heading: what follows belongs to it
        n = split(half[1], word, " ")
        mode = word[1]
        name = word[2]
        if (mode == "table") { width[name] = n - 2; first[name] = word[3]; rows[name] = 0 }
        if (mode == "rule") rules[name] = 0
        for (i = 3; i <= n; i++) title[name, i - 2] = word[i]
        $0 = half[2]
    }
    mode == "rule" {
        n = split($0, item, "|")
        for (i = 1; i <= n; i++) {
            gsub(/^ +| +$/, "", item[i])
            if (item[i] != "") body[name, rules[name]++] = item[i]
        }
        next
    }
    {   n = split($0, item, ";")
        for (i = 1; i <= n; i++) if ((k = split(item[i], word, " ")) > 0) {
            if (mode == "table") add_row(k)
            else if (mode == "facts") {
                link[name, word[1]] = word[2]; times[name, word[1]] = word[3]; plus[name, word[1]] = word[4]
            } else if (mode == "suffix") for (j = 1; j <= k; j++) ending[name, j + 1] = word[j] == "-" ? "" : word[j]
            else if (mode == "vowel") for (j = 1; j <= k; j++) vowel = (vowel == "" ? "^(" : vowel "|") word[j]
            else if (mode == "pair") pair[word[1], word[2]] = word[3]
            else { change[word[1]] = word[2]; sticks[word[1]] = mode == "elide" }
        }
    }
    function add_row(k,   j) {
        for (; (name, k + 1) in ending && k < width[name]; k++) word[k + 1] = word[1] ending[name, k + 1]
        if (k != width[name]) bad("table " name ": a row of " k " cells, expected " width[name] ": " item[i])
        for (j = 1; j <= k; j++) {
            gsub(/_/, " ", word[j])
            cell[name, rows[name], title[name, j]] = word[j] == "-" ? "" : word[j]
        }
        rows[name]++
    }
    END {
        if (failed) exit 1
        vowel = vowel ")"
        for (now = 1; made < count; now++) {
            if (now > 20 * count) bad("it cannot make " count " different sentences")
            s = polish(expand("sentence", ""))
            n = split(s, word, " ")
            if (n < 4 || n > 25 || (s in seen)) continue
            seen[s] = 1
            print s
            made++
        }
    }'
}

# ---------------------------------------------------------------- the toy corpus: English

english() { cat <<'END'
vowel : a e i o u
before : a an
# Forty people. Those with an even number (from 0) are men, the others women.
table person name : Tom; Anna; Ben; Emma; Jack; Lucy; Sam; Alice; Peter; Mary; Henry; Rose; Oscar; Clara; Leo; Grace; Max; Helen;
  Paul; Jane; George; Ruby; Arthur; Nora; Simon; Kate; Hugo; Ella; Martin; Daisy; Frank; Olive; Adam; Julia; Walter; Iris; Luke;
  Sarah; Edward; Molly
table sex he He his him sib : he He his him brother; she She her her sister
table town name : London; Bristol; York; Oxford; Leeds; Bath; Dover; Derby; Durham; Cambridge; Exeter; Norwich; Lincoln; Brighton
table job name place does : baker in_a_bakery bakes_bread; teacher in_a_school teaches_children;
  doctor in_a_hospital helps_sick_people; farmer on_a_farm grows_wheat; cook in_a_restaurant prepares_meals;
  sailor on_a_ship sails_the_sea; painter in_a_studio paints_pictures; gardener in_a_park plants_flowers;
  librarian in_a_library lends_books; singer in_a_theatre sings_songs; pilot at_an_airport flies_planes;
  builder on_a_building_site builds_houses; tailor in_a_small_shop makes_clothes; dentist in_a_clinic mends_teeth;
  miller in_a_windmill grinds_corn; beekeeper on_a_hill collects_honey
table food name : apples; bread; cheese; soup; rice; honey; fish; pears; cake; potatoes; carrots; chocolate; eggs
table drink name : tea; coffee; milk; water; lemonade
table pet name : dog; cat; horse; rabbit; parrot; goat; duck; hamster; tortoise; pony; hen
table coat name : black; white; brown; grey; red; golden; spotted; dark
table call name : Rex; Misty; Star; Coco; Biscuit; Ginger; Pepper; Lucky; Toffee; Shadow; Ruffles; Button; Bubbles; Poppy; Domino;
  Smoky; Buster; Maple; Patch; Pickle
table music name : piano; guitar; violin; flute; drums; trumpet; harp; cello; accordion
table hobby base ing past : swim swimming swam; read reading read; sing singing sang; dance dancing danced; cook cooking cooked;
  fish fishing fished; run running ran; paint painting painted; sew sewing sewed; ski skiing skied
table age name : twenty; twenty-one; twenty-two; twenty-four; twenty-five; twenty-eight; thirty; thirty-one; thirty-three;
  thirty-six; forty; forty-two; forty-five; fifty; fifty-four; sixty; sixty-seven
table month name season : January winter; February winter; March spring; April spring; May spring; June summer; July summer;
  August summer; September autumn; October autumn; November autumn; December winter
table day name : Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday
table spot name : the_market; the_library; the_river; the_park; the_theatre; the_museum; the_beach; the_swimming_pool;
  the_old_church; the_cinema; the_forest; the_castle; the_lake
table ride name : by_bus; by_train; by_bicycle; by_boat; by_car; on_foot
table colour name : red; blue; green; yellow; white; black
# What is true of person number i, for ever.
facts person : sex sex 1 0; sibling person -1 39; friend person 1 20; town town 5 2; job job 7 3; food food 3 1; bad food 3 6;
  drink drink 2 1; pet pet 4 1; coat coat 3 2; call call 3 5; music music 2 3; hobby hobby 3 4; age age 5 6; month month 7 3;
  day day 3 2; spot spot 5 4; ride ride 1 3; colour colour 5 1
facts day : next day 1 1; last day 1 6
facts month : next month 1 1
# What is true of the world.
table bigger name than : lion cat; horse dog; elephant lion; dog mouse; cow sheep; whale elephant; bear wolf; wolf fox; goose duck;
  cat mouse; mouse bee; eagle crow; camel donkey; town village; city town; river stream; mountain hill; lake pond; sea lake;
  ship boat; castle house; forest garden; tree bush; bee ant
table animal name says home young : dog barks in_a_kennel puppy; cat meows in_a_house kitten; horse neighs in_a_stable foal;
  cow moos in_a_barn calf; sheep bleats in_a_field lamb; pig grunts in_a_sty piglet; duck quacks on_a_pond duckling;
  lion roars in_a_hot_country cub; frog croaks in_a_pond tadpole; owl hoots in_a_tree owlet; goose honks on_a_farm gosling;
  hen clucks in_a_hen_house chick
table stuff name from : bread flour; cheese milk; butter cream; wine grapes; glass sand; paper wood; jam fruit; chocolate cocoa;
  flour wheat; cider apples; yarn wool; soup vegetables
table hue name colour : snow white; grass green; the_sky blue; coal black; blood red; milk white; the_sun yellow; soot black;
  a_lemon yellow; a_leaf green; a_ripe_cherry red; a_carrot orange
table opposite name of : hot cold; big small; long short; old young; light dark; early late; rich poor; full empty; hard soft;
  dry wet; clean dirty; near far; happy sad; fast slow; strong weak; high low
table land name capital : France Paris; Spain Madrid; Italy Rome; Greece Athens; Portugal Lisbon; Japan Tokyo; Egypt Cairo;
  Russia Moscow; Norway Oslo; Peru Lima; Cuba Havana; Ireland Dublin
table tool name use : a_knife cut_bread; a_pen write_letters; a_needle sew_clothes; a_hammer drive_in_nails; a_key open_doors;
  a_spoon eat_soup; a_broom sweep_the_floor; a_brush paint_walls; an_oven bake_cakes
table organ name use : eyes see; ears hear; noses smell; hands hold_things; legs walk; teeth bite; tongues taste
table one name : one; two; three; four; five; six; seven; eight; nine; ten
table sum name : two; three; four; five; six; seven; eight; nine; ten; eleven; twelve; thirteen; fourteen; fifteen; sixteen;
  seventeen; eighteen; nineteen; twenty
table season name sky : winter it_is_cold; spring the_flowers_open; summer it_is_hot; autumn the_leaves_fall
rule truth : a {bigger} is bigger than a {bigger.than} | a {bigger.than} is smaller than a {bigger} | a {animal} {animal.says} |
  a {animal} lives {animal.home} | a young {animal} is called a {animal.young} | {stuff} is made from {stuff.from} |
  {hue} is {hue.colour} | the opposite of {opposite} is {opposite.of} | {opposite.of} is the opposite of {opposite} |
  {land.capital} is the capital of {land} | we use {tool} to {tool.use} | we {organ.use} with our {organ} |
  {one} and {one2} make {one+one2.name} | the day after {day} is {day.next} | the day before {day} is {day.last} |
  {month.next} comes after {month} | {month} is a month of {month.season} | in {season} {season.sky} | a {job} works {job.place} |
  a {job} {job.does}
# Speaking of people, in the present: a first half (who they are) and a second (what they are fond of).
rule life : lives in {person.town} | works {person.job.place} | is a {person.job} | {person.job.does} | is {person.age} years old |
  was born in {person.month} | is the {person.sex.sib} of {person.sibling} |
  has a {person.sibling.sex.sib} called {person.sibling} | is a friend of {person.friend} | goes to work {person.ride} |
  lives in a {person.colour} house
rule taste : likes {person.food} | often eats {person.food} | does not like {person.bad} | never eats {person.bad} |
  drinks {person.drink} every morning | plays the {person.music} | owns a {person.coat} {person.pet} |
  has a {person.pet} called {person.call} | loves {person.hobby.ing} | goes to {person.spot} every {person.day} |
  goes to {person.spot} with {person.friend}
rule before : ate {person.food} and drank {person.drink} | went to {person.spot} | stayed in {person.town} |
  played the {person.music} | {person.hobby.past} with {person.friend} | washed the {person.coat} {person.pet} |
  went to work {person.ride} | wrote a letter to {person.sibling} | bought {person.food} for {person.sibling} |
  did not eat the {person.bad} | looked for {person.sex.his} {person.pet} {person.call}
rule later : eat {person.food} | go to {person.spot} | play the {person.music} | {person.hobby.base} with {person.friend} |
  visit {person.sibling} in {person.sibling.town} | feed {person.sex.his} {person.pet} {person.call} |
  drink {person.drink} and read the newspaper | buy a {person.colour} {thing}
rule says : everybody knows | {person2} says | {person2} thinks | {person2} told us | we know | the {role} knows | I have heard
rule past_time : yesterday | last week | last night | last {day} | in {month} | two days ago | this morning
rule time_to_come : tomorrow | next week | next {day} | in {sum} days | tonight | soon
# People without a name, and their things.
table role name roles : king kings; queen queens; boy boys; girl girls; man men; woman women; neighbour neighbours;
  soldier soldiers; shepherd shepherds; grandmother grandmothers; grandfather grandfathers; princess princesses; merchant merchants;
  nurse nurses; fisherman fishermen; thief thieves
table kind name : gentle; young; tall; poor; rich; clever; kind; tired; happy; sad; brave; little; quiet; strong; proud; lazy
table thing name : book; lamp; chair; table; key; letter; hat; coat; boat; clock; bottle; ladder; basket; picture; ring; bell; cup;
  spoon; bag; map; candle; blanket; umbrella; bicycle; drum; kite; doll; ball; shoe; glove; mirror; radio; pencil; stone; flower;
  bucket; rope; coin; ticket; pillow; lantern; carpet; jacket; shirt; button; needle; hammer; trunk
table look name more : old older; new newer; small smaller; big bigger; heavy heavier; light lighter; clean cleaner; dirty dirtier;
  cheap cheaper; strange stranger; pretty prettier; beautiful more_beautiful; expensive more_expensive
table act base third past part ing : see sees saw seen seeing; find finds found found finding; take takes took taken taking;
  buy buys bought bought buying; sell sells sold sold selling; lose loses lost lost losing; carry carries carried carried carrying;
  hide hides hid hidden hiding; draw draws drew drawn drawing; mend mends mended mended mending;
  choose chooses chose chosen choosing; hold holds held held holding; keep keeps kept kept keeping;
  break breaks broke broken breaking; steal steals stole stolen stealing; forget forgets forgot forgotten forgetting;
  drop drops dropped dropped dropping; wash washes washed washed washing
table idle base third past ing : sleep sleeps slept sleeping; sing sings sang singing; dance dances danced dancing;
  laugh laughs laughed laughing; wait waits waited waiting; work works worked working; sit sits sat sitting;
  stand stands stood standing; read reads read reading; dream dreams dreamt dreaming; cry cries cried crying;
  speak speaks spoke speaking
table us name be was do have form : I am was do have base; you are were do have base; he is was does has third;
  she is was does has third; we are were do have base; they are were do have base
table weather name was : it_is_raining it_was_raining; it_is_snowing it_was_snowing; it_is_cold it_was_cold; it_is_hot it_was_hot;
  the_sun_is_shining the_sun_was_shining; the_wind_is_strong the_wind_was_strong
table where name : in_the_garden; in_the_kitchen; under_the_bridge; near_the_river; behind_the_church; on_the_stairs; in_the_street;
  in_front_of_the_school; at_the_market; beside_the_fire; in_the_attic; by_the_sea; under_a_tree; on_the_roof; at_the_station;
  in_the_village
rule someone : the {role} | the {kind} {role} | the {kind} {role} from {town} | the {role} who lives in {town}
rule other : the {role2} | the {kind2} {role2} | a {kind2} {role2} | the {role2} who lives in {town2}
rule sentence :
  {person} {life}.
  {person} {taste}.
  {person} {life} and {taste}.
  {person}, who {life}, {taste}.
  {person}, who {taste}, {life}.
  {person} {life}. {person.sex.He} {taste}.
  {person} {taste}. {person.sex.He} {life}.
  {person} {life}, and {person2} {life/2}.
  {person} likes {person.food}, but {person2} prefers {person2.food}.
  {person} {taste}, and {person2} {taste/2}.
  {says} that {person} {life}.
  {says} that {person} {taste}.
  although {person} {life}, {person.sex.he} {taste}.
  {past_time} {person} {before}.
  {person} {before} {past_time}.
  {past_time} {person} {before}, and then {person2} {before/2}.
  {person}, who {life}, {before} {past_time}.
  {person} {before} because {weather.was}.
  {time_to_come} {person} will {later}.
  {person}, who {taste}, will {later} {time_to_come}.
  if it rains tomorrow, {person} will {later}.
  when {weather}, {person} likes to {later}.
  while {person} was {person.hobby.ing}, {person2} was {person2.hobby.ing}.
  where does {person} live? {person.sex.He} lives in {person.town}.
  what does {person} like? {person.sex.He} likes {person.food}.
  which pet does {person} own? {person.sex.He} owns a {person.coat} {person.pet}.
  does {person} like {person.bad}? No, {person.sex.he} likes {person.food}.
  does {person} play the {person.music}? Yes, and {person.sex.he} {life}.
  when does {person} go to {person.spot}? {person.sex.He} goes there every {person.day}.
  the {person.pet} of {person} is {person.coat} and is called {person.call}.
  {person.call}, the {person.coat} {person.pet} of {person}, slept {where} {past_time}.
  {truth}.
  {says} that {truth}.
  at school {person} learned that {truth}.
  is it true that {truth}? Yes, it is.
  {person}, who {life}, knows that {truth}.
  {someone} {act.past} the {look} {thing} {where} {past_time}.
  {someone} {act.past} the {thing} that {other} {act2.past}.
  {someone} did not {act} the {look} {thing} {where}.
  {us} {us.do} not {act} the {look} {thing} {where}.
  {us} {us.was} {idle.ing} {where} when {someone} {act.past} the {thing}.
  {us} {us.have} {act.part} the {look} {thing} of the {role}.
  {us} {act@us.form} the {thing} while {someone} {idle.third} {where}.
  will you {act} the {look} {thing} {time_to_come}?
  the {look} {thing} was {act.part} by {someone} {past_time}.
  the {thing} is {look.more} than the {thing2}.
  there are {sum} {look} {thing}s {where}.
  when {weather}, the {role.roles} {idle} {where}.
  the {kind} {role.roles} {act} the {thing}s that {person} {act2.past}.
END
}

# ---------------------------------------------------------------- the toy corpus: French

# Words stand unelided, "de le ami", "que il"; elision and contraction come at the end.
french() { cat <<'END'
# Devant ho, he, hi un mot s'élide (l'homme) ; devant ha, hu (huit, harpe) non.
vowel : a e i o u ho he hé hi hô é è ê œ A E I O U H É
elide : le l'; la l'; de d'; ne n'; que qu'; je j'; se s'
before : ce cet; sa son; beau bel; vieux vieil; nouveau nouvel
pair : de le du; de les des; à le au; à les aux; si il s'il
# Quarante personnes. Un numéro pair (depuis 0) est un homme, un numéro impair une femme.
table person name : Pierre; Marie; Louis; Chloé; Jules; Manon; Antoine; Léa; Paul; Inès; Nicolas; Claire; Thomas; Élise; Lucas;
  Juliette; Émile; Sophie; Henri; Jeanne; Victor; Louise; Gabriel; Margot; Olivier; Pauline; Mathieu; Céline; Étienne; Hélène;
  Bruno; Agathe; Denis; Valérie; Simon; Émilie; René; Mathilde; Gaston; Odile
table sex g il Il sib son ami : m il Il le_frère son_frère le_ami; f elle Elle la_sœur sa_sœur la_amie
table e m f : - e
table le m f : le la
table un m f : un une
table town name : Paris; Lyon; Lille; Nantes; Rennes; Dijon; Tours; Nice; Brest; Toulouse; Metz; Reims; Grenoble; Avignon
table job m f place does : boulanger boulangère dans_une_boulangerie fait_du_pain;
  instituteur institutrice dans_une_école apprend_à_lire_aux_enfants; médecin médecin dans_un_hôpital soigne_les_malades;
  fermier fermière dans_une_ferme cultive_le_blé; cuisinier cuisinière dans_un_restaurant prépare_les_repas;
  libraire libraire dans_une_librairie vend_des_livres; peintre peintre dans_un_atelier peint_des_tableaux;
  jardinier jardinière dans_un_parc plante_des_fleurs; pharmacien pharmacienne dans_une_pharmacie vend_des_remèdes;
  chanteur chanteuse dans_un_théâtre chante_des_chansons; pilote pilote dans_un_aéroport conduit_des_avions;
  maçon maçonne sur_un_chantier construit_des_maisons; couturier couturière dans_une_boutique coud_des_robes;
  facteur factrice à_la_poste porte_les_lettres; meunier meunière dans_un_moulin fait_de_la_farine;
  coiffeur coiffeuse dans_un_salon coupe_les_cheveux
table food name bare : les_pommes pommes; le_pain pain; le_fromage fromage; la_soupe soupe; le_riz riz; le_miel miel;
  le_poisson poisson; les_poires poires; la_salade salade; les_carottes carottes; le_chocolat chocolat; les_œufs œufs;
  la_confiture confiture
table drink name : le_thé; le_café; le_lait; la_limonade; le_cidre
table pet name g : chien m; chat m; cheval m; lapin m; perroquet m; chèvre f; canard m; tortue f; poule f; âne m; oie f
table coat m f : noir noire; blanc blanche; brun brune; gris grise; roux rousse; tacheté tachetée; doré dorée; clair claire
table call name : Minou; Filou; Caramel; Biscuit; Noisette; Praline; Pompon; Flocon; Ficelle; Cannelle; Bijou; Câlin; Domino;
  Grisou; Moka; Pistache; Réglisse; Tambour; Vanille; Zébulon
table music name : le_piano; la_guitare; le_violon; la_flûte; le_tambour; la_trompette; la_harpe; le_violoncelle; le_accordéon
table hobby inf il pp imp : nager nage nagé nageait; lire lit lu lisait; chanter chante chanté chantait; danser danse dansé dansait;
  cuisiner cuisine cuisiné cuisinait; pêcher pêche pêché pêchait; courir court couru courait; dessiner dessine dessiné dessinait;
  coudre coud cousu cousait; skier skie skié skiait
table age name : vingt; vingt_et_un; vingt-deux; vingt-quatre; vingt-cinq; vingt-huit; trente; trente_et_un; trente-trois;
  trente-six; quarante; quarante-deux; quarante-cinq; cinquante; cinquante-quatre; soixante; soixante-sept
table month name season : janvier hiver; février hiver; mars printemps; avril printemps; mai printemps; juin été; juillet été;
  août été; septembre automne; octobre automne; novembre automne; décembre hiver
table day name : lundi; mardi; mercredi; jeudi; vendredi; samedi; dimanche
table spot name : le_marché; la_bibliothèque; la_rivière; le_parc; le_théâtre; le_musée; la_plage; la_piscine; la_vieille_église;
  le_cinéma; la_gare; le_château; le_lac
table ride name : en_bus; en_train; à_vélo; en_bateau; en_voiture; à_pied
table colour m f : rouge rouge; bleu bleue; vert verte; jaune jaune; blanc blanche; noir noire
# Ce qui est vrai de la personne numéro i, pour toujours.
facts person : sex sex 1 0; sibling person -1 39; friend person 1 20; town town 3 1; job job 5 2; food food 2 1; bad food 2 7;
  drink drink 3 2; pet pet 3 2; coat coat 5 1; call call 7 2; music music 4 1; hobby hobby 7 2; age age 3 4; month month 5 1;
  day day 2 3; spot spot 4 3; ride ride 5 2; colour colour 1 2
facts day : next day 1 1; last day 1 6
facts month : next month 1 1
# Ce qui est vrai du monde.
table bigger name than : un_lion une_chèvre; un_cheval un_chien; un_éléphant un_lion; un_chien un_chat; un_ours un_loup;
  un_loup un_renard; un_cygne un_canard; un_chat un_rat; un_rat un_papillon; un_aigle un_corbeau; un_chameau un_âne;
  un_bateau un_vélo; un_arbre un_buisson; un_lac un_étang; un_château un_moulin; un_pays un_village
table animal name g says home young : chien m aboie dans_une_niche un_chiot; chat m miaule dans_une_maison un_chaton;
  cheval m hennit dans_une_écurie un_poulain; vache f meugle dans_une_étable un_veau; brebis f bêle dans_un_pré un_agneau;
  cochon m grogne dans_une_porcherie un_porcelet; canard m cancane sur_un_étang un_caneton; lion m rugit dans_la_savane un_lionceau;
  grenouille f coasse dans_une_mare un_têtard; cerf m brame dans_les_bois un_faon; poule f caquette dans_un_poulailler un_poussin;
  loup m hurle dans_la_forêt un_louveteau
table stuff name g from : le_pain m la_farine; le_fromage m le_lait; le_beurre m la_crème; le_vin m le_raisin; le_verre m le_sable;
  le_papier m le_bois; la_confiture f les_fruits; le_chocolat m le_cacao; la_farine f le_blé; le_cidre m les_pommes;
  le_jus m les_oranges; la_soupe f les_légumes
table hue name colour : la_neige blanche; le_herbe verte; le_ciel bleu; le_charbon noir; le_sang rouge; le_lait blanc;
  le_soleil jaune; la_suie noire; le_citron jaune; la_cerise rouge; la_carotte orange
table opposite name of : chaud froid; grand petit; long court; jeune vieux; clair sombre; riche pauvre; plein vide; dur mou;
  sec mouillé; propre sale; proche lointain; gai triste; rapide lent; fort faible; haut bas
table land name capital : la_France Paris; le_Espagne Madrid; le_Italie Rome; la_Grèce Athènes; le_Portugal Lisbonne;
  le_Japon Tokyo; le_Égypte Le_Caire; la_Russie Moscou; la_Norvège Oslo; le_Pérou Lima; le_Irlande Dublin; la_Belgique Bruxelles
table tool name use : un_couteau couper_le_pain; un_stylo écrire_des_lettres; une_aiguille coudre_des_robes;
  un_marteau enfoncer_des_clous; une_clé ouvrir_les_portes; une_cuillère manger_la_soupe; un_balai balayer_le_sol;
  un_pinceau peindre_des_tableaux; un_four cuire_des_gâteaux
table organ name use : les_yeux voit; les_oreilles entend; le_nez sent; les_jambes marche; les_dents mord; la_langue goûte
table one name : un; deux; trois; quatre; cinq; six; sept; huit; neuf; dix
table sum name : deux; trois; quatre; cinq; six; sept; huit; neuf; dix; onze; douze; treize; quatorze; quinze; seize; dix-sept;
  dix-huit; dix-neuf; vingt
table season name sky : en_hiver il_fait_froid; au_printemps les_fleurs_poussent; en_été il_fait_chaud;
  en_automne les_feuilles_tombent
rule truth : {bigger} est plus grand que {bigger.than} | {bigger.than} est plus petit que {bigger} |
  {le@animal.g} {animal} {animal.says} | {le@animal.g} {animal} vit {animal.home} |
  le petit de {le@animal.g} {animal} est {animal.young} | {stuff} est fait{e@stuff.g} avec de {stuff.from} |
  {hue} est {hue.colour} | le contraire de {opposite} est {opposite.of} | {opposite.of} est le contraire de {opposite} |
  {land.capital} est la capitale de {land} | on prend {tool} pour {tool.use} | on {organ.use} avec {organ} |
  {one} et {one2} font {one+one2.name} | le jour qui suit {day} est {day.next} | le jour qui précède {day} est {day.last} |
  {month.next} vient après {month} | {season} {season.sky} | {month} est un mois de {month.season} |
  un {job.m} travaille {job.place} | une {job.f} {job.does}
# Des personnes, au présent : ce qu'elles sont, puis ce qu'elles aiment.
rule life : habite à {person.town} | travaille {person.job.place} | est {person.job@person.sex.g} | {person.job.does} |
  a {person.age} ans | est né{e@person.sex.g} en {person.month} | est {person.sex.sib} de {person.sibling} |
  est {person.sex.ami} de {person.friend} | va au travail {person.ride} | habite une maison {person.colour.f}
rule taste : aime {person.food} | mange souvent de {person.food} | ne aime pas {person.bad} | ne mange jamais de {person.bad.bare} |
  boit de {person.drink} tous les matins | joue de {person.music} |
  possède {un@person.pet.g} {person.pet} {person.coat@person.pet.g} |
  a {un@person.pet.g} {person.pet} qui se appelle {person.call} | aime {person.hobby.inf} |
  va à {person.spot} tous les {person.day}s | va à {person.spot} avec {person.friend}
rule before : a mangé de {person.food} et a bu de {person.drink} | est allé{e@person.sex.g} à {person.spot} |
  est resté{e@person.sex.g} à {person.town} | a joué de {person.music} | a {person.hobby.pp} avec {person.friend} |
  a lavé {le@person.pet.g} {person.pet} {person.coat@person.pet.g} | est allé{e@person.sex.g} au travail {person.ride} |
  a écrit une lettre à {person.sibling.sex.son} {person.sibling} | a acheté de {person.food} pour {person.sibling} |
  ne a pas mangé de {person.bad.bare} | a cherché {person.call} partout
rule later : manger de {person.food} | aller à {person.spot} | jouer de {person.music} | {person.hobby.inf} avec {person.friend} |
  rendre visite à {person.sibling} à {person.sibling.town} | donner à manger à {person.call} |
  boire de {person.drink} et lire le journal | acheter {un@thing.g} {thing} {colour@thing.g}
rule says : tout le monde sait | {person2} dit | {person2} pense | {person2} nous a dit | nous savons | {le@role.g} {role} sait |
  on dit
rule past_time : hier | la semaine dernière | hier soir | {day} dernier | en {month} | il y a deux jours | ce matin
rule time_to_come : demain | la semaine prochaine | {day} prochain | dans {sum} jours | ce soir | bientôt
# Des personnes sans nom, et leurs affaires.
table role name roles g : roi rois m; reine reines f; garçon garçons m; fille filles f; homme hommes m; femme femmes f;
  voisin voisins m; voisine voisines f; soldat soldats m; berger bergers m; princesse princesses f; marchand marchands m;
  infirmière infirmières f; enfant enfants m; voleur voleurs m; dame dames f
table front m f mp fp : petit petite petits petites; grand grande grands grandes; jeune jeune jeunes jeunes;
  brave brave braves braves; gentil gentille gentils gentilles; beau belle beaux belles
table kind m f mp fp : pauvre pauvre pauvres pauvres; riche riche riches riches; triste triste tristes tristes;
  heureux heureuse heureux heureuses; courageux courageuse courageux courageuses; fatigué fatiguée fatigués fatiguées;
  fier fière fiers fières; patient patiente patients patientes; content contente contents contentes; bavard bavarde bavards bavardes
suffix thing : - s
table thing name g names : livre m; lampe f; chaise f; table f; clé f; lettre f; manteau m manteaux; bateau m bateaux; horloge f;
  bouteille f; échelle f; panier m; tableau m tableaux; bague f; cloche f; tasse f; cuillère f; sac m; carte f; bougie f;
  couverture f; parapluie m; vélo m; tambour m; poupée f; ballon m; chaussure f; gant m; miroir m; radio f; crayon m; pierre f;
  fleur f; seau m seaux; corde f; pièce f; billet m; valise f; lanterne f; tapis m tapis; veste f; chemise f; bouton m; aiguille f;
  marteau m marteaux; armoire f; anneau m anneaux; assiette f
table ahead m f mp fp : petit petite petits petites; grand grande grands grandes; vieux vieille vieux vieilles;
  beau belle beaux belles; nouveau nouvelle nouveaux nouvelles; joli jolie jolis jolies; gros grosse gros grosses
table look m f mp fp : lourd lourde lourds lourdes; léger légère légers légères; propre propre propres propres;
  sale sale sales sales; cher chère chers chères; étrange étrange étranges étranges; rare rare rares rares;
  utile utile utiles utiles; fragile fragile fragiles fragiles; solide solide solides solides; précieux précieuse précieux précieuses
suffix act : er e es e ons ez ent é er
table act imp inf je tu il nous vous ils pp fut : trouv; port; cach; dessin; gard; cass; oubli; cherch; montr; regard; répar;
  emport; voy voir vois vois voit voyons voyez voient vu verr; pren prendre prends prends prend prenons prenez prennent pris prendr;
  perd perdre perds perds perd perdons perdez perdent perdu perdr; vend vendre vends vends vend vendons vendez vendent vendu vendr;
  choisiss choisir choisis choisis choisit choisissons choisissez choisissent choisi choisir;
  achet acheter achète achètes achète achetons achetez achètent acheté achèter
suffix idle : er e es e ons ez ent é er
table idle imp inf je tu il nous vous ils pp fut : chant; dans; travaill; rêv; pleur; parl;
  dorm dormir dors dors dort dormons dormez dorment dormi dormir;
  attend attendre attends attends attend attendons attendez attendent attendu attendr; ri rire ris ris rit rions riez rient ri rir;
  lis lire lis lis lit lisons lisez lisent lu lir
table us name form have fut imp : je je ai ai ais; tu tu as as ais; il il a a ait; elle il a a ait; nous nous avons ons ions;
  vous vous avez ez iez; ils ils ont ont aient; elles ils ont ont aient
table weather name was : il_pleut il_pleuvait; il_neige il_neigeait; il_fait_froid il_faisait_froid; il_fait_chaud il_faisait_chaud;
  le_soleil_brille le_soleil_brillait; le_vent_souffle le_vent_soufflait
table where name : dans_le_jardin; dans_la_cuisine; sous_le_pont; près_de_la_rivière; derrière_le_église; dans_le_escalier;
  dans_la_rue; devant_le_école; à_le_marché; près_de_le_feu; dans_le_grenier; à_le_bord_de_la_mer; sous_un_arbre; sur_le_toit;
  à_la_gare; dans_le_village
rule someone : {le@role.g} {role} | {le@role.g} {front@role.g} {role} | {le@role.g} {role} {kind@role.g} |
  {le@role.g} {role} de {town} | {le@role.g} {role} qui habite à {town}
rule other : {le@role2.g} {role2} | {un@role2.g} {front2@role2.g} {role2} | {un@role2.g} {role2} {kind2@role2.g}
rule known : {le@thing.g} {thing} {look@thing.g} | {le@thing.g} {thing} {colour@thing.g} | {le@thing.g} {ahead@thing.g} {thing} |
  {le@thing.g} {ahead@thing.g} {thing} {colour@thing.g}
rule object : {known} | {un@thing.g} {thing} {look@thing.g} | {un@thing.g} {thing} {colour@thing.g} |
  {un@thing.g} {ahead@thing.g} {thing}
rule sentence :
  {person} {life}.
  {person} {taste}.
  {person} {life} et {taste}.
  {person}, qui {life}, {taste}.
  {person}, qui {taste}, {life}.
  {person} {life}. {person.sex.Il} {taste}.
  {person} {taste}. {person.sex.Il} {life}.
  {person} {life}, et {person2} {life/2}.
  {person} {taste}, et {person2} {taste/2}.
  {says} que {person} {life}.
  {says} que {person} {taste}.
  {past_time}, {person} {before}.
  {person} {before} {past_time}.
  {past_time}, {person} {before}, puis {person2} {before/2}.
  {person}, qui {life}, {before} {past_time}.
  {person} {before} parce que {weather.was}.
  {time_to_come}, {person} va {later}.
  {person}, qui {taste}, va {later} {time_to_come}.
  si il pleut demain, {person} va {later}.
  quand {weather}, {person} aime {later}.
  pendant que {person} {person.hobby.imp}, {person2} {person2.hobby.imp}.
  où habite {person} ? {person.sex.Il} habite à {person.town}.
  que aime {person} ? {person.sex.Il} aime {person.food}.
  quel animal possède {person} ? {person.sex.Il} possède {un@person.pet.g} {person.pet} {person.coat@person.pet.g}.
  est-ce que {person} aime {person.bad} ? Non, {person.sex.il} aime {person.food}.
  est-ce que {person} joue de {person.music} ? Oui, et {person.sex.il} {life}.
  quand {person} va-t-{person.sex.il} à {person.spot} ? {person.sex.Il} y va tous les {person.day}s.
  {le@person.pet.g} {person.pet} de {person} est {person.coat@person.pet.g} et se appelle {person.call}.
  {person.call}, {le@person.pet.g} {person.pet} {person.coat@person.pet.g} de {person}, a dormi {where} {past_time}.
  {truth}.
  {says} que {truth}.
  À l'école, {person} a appris que {truth}.
  est-il vrai que {truth} ? Oui, c'est vrai.
  {person}, qui {life}, sait que {truth}.
  {someone} a {act.pp} {object} {where} {past_time}.
  {someone} a {act.pp} {le@thing.g} {thing} que {other} a {act2.pp}{e@thing.g}.
  {someone} ne a pas {act.pp} {known} {where}.
  {us} ne {act@us.form} pas {known} {where}.
  bien que {person} soit {person.job@person.sex.g}, {person.sex.il} {taste}.
  {person} aime {person.food}, mais {person2} préfère {person2.food}.
  {us} {idle.imp}{us.imp} {where} quand {someone} a {act.pp} {object}.
  {us} {us.have} {act.pp} {known} de {person}.
  {us} {act@us.form} {object} pendant que {someone} {idle.il} {where}.
  est-ce que {us} {act.fut}{us.fut} {object} {time_to_come} ?
  {time_to_come}, {us} {act.fut}{us.fut} {object} {where}.
  {le@thing.g} {thing} est plus {look@thing.g} que {le@thing2.g} {thing2}.
  il y a {sum} {thing.names} {look@thing.g:p} {where}.
  quand {weather}, les {role.roles} {kind@role.g:p} {idle.ils} {where}.
  les {front@role.g:p} {role.roles} {act.ils} {le@thing.g} {thing} que {person} a {act2.pp}{e@thing.g}.
END
}

# ---------------------------------------------------------------- text rules

tidy() { run_awk '{ sub(/[ \t\r]+$/, "") } $0 != ""'; }   # no empty lines, no blanks at the end of one

shuffle() { # the lines in an order that is always the same
    run_awk -v seed=20240520 '{ seed = seed * 16807 % 2147483647; print seed "\t" $0 }' | sort -n | cut -f 2-
}

without() { # FILE...: the lines of stdin that occur in none of them (and are not empty)
    { cat "$@"; echo; cat; } | run_awk 'after { if (!($0 in seen)) print; next } $0 == "" { after = 1; next } { seen[$0] = 1 }'
}

split_text() { # UNIT PART TOTAL NEWLINE <text: its part train or val, or with PART count the number of units
    # A unit is a line, or a paragraph with the blank lines behind it. Every 20th is val, of fewer than 20 the last.
    run_awk -v unit="$1" -v part="$2" -v total="$3" -v newline="$4" '
    function flush(end) { if (held) printf "%s%s", line, end; held = 0 }
    { blank = $0 ~ /^[ \t\r]*$/
      if (unit == "line" || !blank && (n == 0 || was_blank)) n++
      was_blank = blank
      to = n > 0 && (n % 20 == 0 || total < 20 && n == total) ? "val" : "train"
      if (to == part) { flush("\n"); line = $0; held = 1 } }
    END { if (part == "count") print n + 0; else flush(to == part && !newline ? "" : "\n") }'
}

# ---------------------------------------------------------------- from text to tokens

open_target() { # before anything: the programs and folders we need, and a temporary folder beside the target
    [ ! -e "$out" ] || [ -d "$out" ] || die "-o $out: expected a folder"
    case $out in /* | ./*) ;; *) out=./$out ;; esac
    out=${out%/}
    mkdir -p "$(dirname "$out")" 2>/dev/null || die "-o ${out#./}: cannot make the folder it lies in"
    tmp=$out.tmp.$$
    trap 'rm -rf "$tmp"' EXIT
    trap 'exit 130' INT HUP TERM
    mkdir "$tmp" "$tmp/made" 2>/dev/null || die "$tmp: cannot be made"
    made=$tmp/made
}

need_tokenizer() {
    tokenizer=$(dirname "$0")/tokenizer
    [ -x "$tokenizer" ] || die "$tokenizer: not found; run make first"
    [ -z "$model" ] || for file in vocab.json merges.txt; do
        [ -f "$model/$file" ] || die "--tokenizer $model: has no $file"
    done
}

tokenize() { # DOMAIN...: encodes $made/DOMAIN_SPLIT.txt, the tokenizer from the first; moves all in place; says what was made
    for file in "$made"/*.txt; do
        [ -s "$file" ] || die "${file##*/}: no text left for it (train drops the lines of val and test), expected some"
    done
    if [ -n "$model" ]; then cp "$model/vocab.json" "$model/merges.txt" "$made" || die "--tokenizer $model: cannot be copied"
    else "$tokenizer" train -v "$size" $lines -o "$made" "$made/$1_train.txt" >"$tmp/log" || exit 1
    fi
    for file in "$made"/*.txt; do
        [ "$file" = "$made/merges.txt" ] ||
            "$tokenizer" encode -m "$made" $lines -o "${file%.txt}.bin" "$file" >"$tmp/log" || exit 1
    done
    if [ -f "$out/vocab.json" ] && ! cmp -s "$out/vocab.json" "$made/vocab.json"; then
        for file in "$out"/*.bin; do
            [ ! -f "$file" ] || [ -f "$made/${file##*/}" ] ||
                die "${file#./}: made with another vocabulary than the one now made; remove it or choose another -o"
        done
    fi
    for domain; do for split in train val test; do
        file=$made/${domain}_$split
        [ ! -f "$file.bin" ] ||
            printf '  %-6s %-6s %8d lines %10d tokens\n' "$domain" "$split" \
                "$(run_awk 'END { print NR }' <"$file.txt")" $(( ($(wc -c <"$file.bin") - 1024) / 2 ))
    done; done >"$tmp/table"
    deliver
    say "made ${out#./}:"
    cat "$tmp/table"
}

deliver() { # everything is made: from $made to its place
    if [ -d "$out" ]; then mv -f "$made"/* "$out"/
    else mv "$made" "$out"
    fi || die "$out: cannot be written; what was made is lost"
}

# ---------------------------------------------------------------- the commands

toy() {
    out=${out:-data/toy} size=${size:-512} lines=--lines
    need_tokenizer
    open_target
    english | grammar_to_text 64000 1 >"$tmp/en" || exit 1
    french | grammar_to_text 27000 2 >"$tmp/fr" || exit 1
    for domain in en fr; do
        [ $domain = en ] && n=2000 || n=1000
        shuffle <"$tmp/$domain" >"$tmp/all" || die "$tmp: sort failed"
        { sed -n "1,${n}p" <"$tmp/all" >"$made/${domain}_val.txt" &&
            sed -n "$((n + 1)),$((2 * n))p" <"$tmp/all" >"$made/${domain}_test.txt" &&
            sed "1,$((2 * n))d" <"$tmp/all" >"$made/${domain}_train.txt"; } || die "$made: cannot be written"
    done
    tokenize en fr
}

multi30k() { # LANG
    case $1 in fr | de | cs) ;; *) die "multi30k $1: the languages are fr, de and cs" ;; esac
    out=${out:-data/multi30k} size=${size:-1024} lines=--lines
    base=https://raw.githubusercontent.com/multi30k/dataset/master/data
    need_tokenizer
    open_target
    for file in task2/raw/train.1.en task2/raw/train.2.en task2/raw/train.3.en task2/raw/train.4.en task2/raw/train.5.en \
        task1/raw/val.en task1/raw/test_2016_flickr.en \
        task1/raw/train."$1" task1/raw/val."$1" task1/raw/test_2016_flickr."$1"; do
        fetch "$base/$file.gz"
        file=$tmp/${file##*/}
        gzip -dc <"$file.gz" >"$file" || die "$file.gz: not a whole gzip file"
    done
    cat "$tmp"/train.?.en >"$tmp/train.en" || die "$tmp: cannot be written"
    for domain in en "$1"; do
        { tidy <"$tmp/val.$domain" >"$made/${domain}_val.txt" &&
            tidy <"$tmp/test_2016_flickr.$domain" >"$made/${domain}_test.txt"; } || die "$made: cannot be written"
        tidy <"$tmp/train.$domain" | without "$made/${domain}_val.txt" "$made/${domain}_test.txt" |
            shuffle >"$made/${domain}_train.txt" || die "$made: cannot be written"
    done
    tokenize en "$1"
}

files() { # NAME=FILE...
    [ $# -ge 2 ] || die "files: $# given, expected two or more NAME=FILE, the old domain first"
    names=
    for arg; do
        name=${arg%%=*} file=${arg#*=}
        case $arg in *=?*) ;; *) die "files: $arg: expected NAME=FILE" ;; esac
        case $name in '' | *[!A-Za-z0-9_-]*) die "files: $arg: a name is letters, digits, _ and -" ;; esac
        case " $names " in *" $name "*) die "files: $arg: the name $name is given twice" ;; esac
        [ -f "$file" ] || die "$file: not found"
        [ -r "$file" ] || die "$file: cannot be read"
        # shellcheck disable=SC2094    # both only read it
        tr -d '\000' <"$file" | cmp -s - "$file" || die "$file: holds zero bytes, expected text"
        names=${names:+$names }$name
    done
    out=${out:-data/$(say "$names" | tr ' ' -)} size=${size:-1024}
    need_tokenizer
    open_target
    for arg; do
        name=${arg%%=*} file=${arg#*=} unit=paragraph newline=1
        if [ -n "$lines" ]; then
            unit=line
            tidy <"$file" >"$tmp/text"
        else
            cat <"$file" >"$tmp/text"
            [ -z "$(tail -c 1 "$tmp/text")" ] || newline=0
        fi || die "$tmp/text: cannot be written"
        total=$(split_text $unit count 0 1 <"$tmp/text")
        if [ $unit = paragraph ] && [ "$total" -lt 2 ]; then
            unit=line
            say "$file: no blank lines between paragraphs, so every 20th line is validation"
            total=$(split_text $unit count 0 1 <"$tmp/text")
        fi
        [ "$total" -ge 2 ] || die "$file: has $total line(s) of text, expected two or more: some to train on, some for validation"
        for split in train val; do
            split_text $unit $split "$total" $newline <"$tmp/text" >"$made/${name}_$split.txt" || die "$made: cannot be written"
        done
        if [ -n "$lines" ]; then
            mv "$made/${name}_train.txt" "$tmp/text" || die "$made: cannot be written"
            without "$made/${name}_val.txt" <"$tmp/text" | shuffle >"$made/${name}_train.txt" || die "$made: cannot be written"
        fi
    done
    # shellcheck disable=SC2086    # names have no blanks in them
    tokenize $names
}

gpt2() {
    out=${out:-models/gpt2}
    open_target
    missing=
    for file in vocab.json merges.txt config.json model.safetensors; do
        if [ -n "$from" ] && [ ! -f "$from/$file" ]; then
            case $file in model.safetensors | config.json) missing="${missing:+$missing and }$file"; continue ;; esac
        fi
        fetch "https://huggingface.co/openai-community/gpt2/resolve/main/$file"
        mv "$tmp/$file" "$made/$file" || die "$made/$file: cannot be written"
    done
    [ ! -f "$made/config.json" ] || grep -q '"model_type": *"gpt2"' "$made/config.json" ||
        die "config.json: expected \"model_type\": \"gpt2\""
    [ ! -f "$made/model.safetensors" ] || [ "$(dd if="$made/model.safetensors" bs=1 skip=8 count=1 2>/dev/null)" = '{' ] ||
        die "model.safetensors: is not a safetensors file (no header at byte 8)"
    deliver
    say "made ${out#./}"
    [ -z "$missing" ] || say "$missing not in $from: the folder serves as a tokenizer only"
}

# ---------------------------------------------------------------- the command line

out='' size='' model='' lines='' from=''
n=$#
while [ "$n" -gt 0 ]; do       # options out, the rest goes round to the end of the line
    arg=$1
    shift
    n=$((n - 1))
    # shellcheck disable=SC2015    # die does not return
    case $arg in
    -h | --help) manual; exit 0 ;;
    --lines) lines=--lines ;;
    -o | -v | --tokenizer | --from)
        [ -n "${1:-}" ] && [ "$n" -gt 0 ] || die "$arg: expected a value after it"
        case $arg in
        -o) out=$1 ;;
        -v) size=$1 ;;
        --tokenizer) model=$1 ;;
        --from) from=$1 ;;
        esac
        shift
        n=$((n - 1)) ;;
    -*) die "$arg: no such option; --help lists them" ;;
    *) set -- "$@" "$arg" ;;
    esac
done

command=${1-toy}
[ $# -eq 0 ] || shift
have "${AWK%% *}" || die "AWK=$AWK: not found"
case $size in *[!0-9]*) die "-v $size: expected a number" ;; esac
[ -z "$size" ] || [ -z "$model" ] || die "-v $size: --tokenizer $model has its size already"
[ -z "$from" ] || [ -d "$from" ] || die "--from $from: no such folder"
case $command in toy | multi30k | files | gpt2) ;; *) die "$command: expected toy, multi30k, files or gpt2; --help says more" ;; esac
case $command in files) ;; *) [ -z "$lines" ] || die "--lines: is for files, not for $command" ;; esac
case $command in multi30k | gpt2) ;; *) [ -z "$from" ] || die "--from: is for multi30k and gpt2, not for $command" ;; esac
case $command in gpt2) [ -z "$size$model" ] || die "gpt2: takes no -v and no --tokenizer" ;; esac
case $command in
toy | gpt2) [ $# -eq 0 ] || die "$1: $command takes no argument" ;;
multi30k) [ $# -eq 1 ] || die "multi30k: $# languages given, expected one of fr, de, cs" ;;
esac
$command "$@"

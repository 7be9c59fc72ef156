/*
test_nr: does nr.c compute what it says? `make test` builds this file twice, and runs both.

    ./test_nr_double    every gradient against central differences, to 1e-6; ten steps of training
                        against PyTorch's
    ./test_nr_float     nr as it is used: values and gradients against PyTorch's, and what the
                        programs do and refuse

Each prints a line for every group of tests, with the worst relative error and where it was, and at
the end `N passed, N failed`. A relative error is that of a whole tensor, |a - b| / |b|. A tensor
that is all zero fails: nothing was compared. Run it where nr.c is: it reads
dev/reference.safetensors and dev/tiny_gpt2, and runs nr, tokenizer and prepare_data.sh.

How to read it, in the order of nr.c:

    helpers       groups of tests, comparisons, random values, a shell
    numbers       the exponential, sums, the multiply against three loops
    gradients     each layer, then the whole model in every way of training it (`ways`), against
                  central differences
    reference     the same model written in PyTorch
    extensions    how they begin, and what they leave as it was
    training      the loader, AdamW, learning by heart
    use           words, files, decoding, sampling, evaluation, threads
    programs      the tables `made`, `refused` and `runs`: commands, and words of the answers
*/
#define NR_LIBRARY
#include "nr.c"
#include <sys/wait.h>
#ifdef _OPENMP
enum { OPENMP = 1 };
#else
enum { OPENMP = 0 };
#endif

#define COUNT_OF(list) (sizeof(list) / sizeof *(list))
enum { DOUBLE = sizeof(real) == sizeof(double) };
const double rounding = DOUBLE ? 1e-12 : 1e-5;  // the relative error that it alone may make

// -------------------------------------------------------------------------------------------------
// Helpers: groups of tests, comparisons, random values, and a folder with data.

// Writes a function's format and what follows it into an array.
#define FORMAT_INTO(text, format)                         \
    do {                                                  \
        va_list arguments;                                \
        va_start(arguments, format);                      \
        vsnprintf(text, sizeof text, format, arguments);  \
        va_end(arguments);                                \
    } while (0)

struct {
    char name[128], where[96];
    size_t compared, facts, redrawn;
    double worst;
    bool failed;
} group;
int passed, failed;
void *kept[4096];  // memory that lives until the next group
size_t n_kept;

void *keep(void *memory) {
    if (n_kept == COUNT_OF(kept)) die("too much memory is kept");
    return kept[n_kept++] = memory;
}

// A fact. The rest says what is wrong if it does not hold.
void expect(bool holds, const char *format, ...) {
    static char text[16384];
    group.facts++;
    if (holds) return;
    group.failed = true;
    FORMAT_INTO(text, format);
    printf("    %s\n", text);
}

// Ends a group with its line, and begins the next; NULL: there is none.
void begin(const char *format, ...) {
    if (*group.name) {
        if (group.compared + group.facts == 0) expect(false, "nothing was checked");
        printf("%s  %s:", group.failed ? "FAIL" : "ok", group.name);
        if (group.compared)
            printf(" %zu tensors, worst %.1e (%s),", group.compared, group.worst, group.where);
        printf(" %zu facts, %zu drawn again\n", group.facts, group.redrawn);
        fflush(stdout);
        *(group.failed ? &failed : &passed) += 1;
    }
    while (n_kept) free(kept[--n_kept]);
    memset(&group, 0, sizeof group);
    if (format) FORMAT_INTO(group.name, format);
}

// The relative error of `got` must be below the tolerance; the rest names the tensor.
void compare(double tolerance, const real *got, const real *right, size_t n, const char *format,
             ...) {
    double error = 0, norm = 0;
    char what[sizeof group.where];
    FORMAT_INTO(what, format);
    for (size_t i = 0; i < n; i++) {
        double difference = (double)got[i] - right[i];
        error += difference * difference;
        norm += (double)right[i] * right[i];
    }
    error = sqrt(error / norm);
    if (!group.compared++ || !(error <= group.worst))
        group.worst = error, memcpy(group.where, what, sizeof what);
    if (!(error < tolerance))
        expect(false, "%s: relative error %.1e of %zu values, expected below %.0e", what, error, n,
               tolerance);
}

void compare_number(double tolerance, double got, double right, const char *what) {
    compare(tolerance, (real[]){got}, (real[]){right}, 1, "%s", what);
}

Random dice = 1;

// Random values that float holds exactly, so that files keep them and both builds start alike.
real *drawn(size_t n) {
    real *x = keep(allocate(n, sizeof(real)));
    for (size_t i = 0; i < n; i++) x[i] = (float)random_normal(&dice);
    return x;
}

void draw_tokens(int *tokens, size_t n, size_t V) {
    for (size_t i = 0; i < n; i++) tokens[i] = random_bits(&dice) % V;
}

real *copied(const real *x, size_t n) {
    return memcpy(keep(allocate(n, sizeof(real))), x, n * sizeof(real));
}

// Are they the same bits, and numbers?
bool same(const real *a, const real *b, size_t n) {
    bool numbers = n > 0;
    for (size_t i = 0; i < n; i++) numbers &= !!isfinite(a[i]);
    return numbers && !memcmp(a, b, n * sizeof(real));
}

// Is `count` of `all` draws what a probability makes, but for noise of four deviations?
bool likely(int count, int all, double p) {
    return fabs(count - p * all) <= 4 * sqrt(p * (1 - p) * all);
}

// What every shell command begins with: it runs in the folder $D, finds the programs, and has these
// to go on with. A command that refuses may only write what is called *broken*.
const char prelude[] =
    "PATH=$PWD:$PATH; cd $D\n"
    "tiny='--layers 2 --heads 2 --channels 16 --context 16 --pretrain-steps 5 --batch 2'\n"
    "run='nr run --data data --known en'\n"
    "pretrain='nr pretrain --data data --known en'\n"
    "extend='nr extend -i model --data data --batch 2'\n"
    "eval='nr eval --data data --domains en,fr --csv kept'\n"
    "sample='nr sample -i model -x neutral.safetensors -n 60'\n"
    // JSON: the third of three items
    "items() { { cat items; echo \"$*\"; } >broken.items; $eval -i model $broken_items; }\n"
    "broken_items='--choices broken.items'\n"
    "broken='nr pretrain --data data --known broken --context 16 -o out'\n"
    "bent=\"$eval -i model -x broken.safetensors\"\n"
    // SCRIPT NAME: broken.safetensors is that extension, edited by sed
    "bend() { LC_ALL=C sed \"$1\" $2.safetensors >broken.safetensors &&\n"
    "    ! cmp -s $2.safetensors broken.safetensors; }\n"
    // OFFSET BYTES: data/broken_train.bin is a file of tokens with other bytes there
    "tokens() { cp data/en_train.bin data/broken_train.bin && printf \"$2\" |\n"
    "    dd of=data/broken_train.bin bs=1 seek=$1 conv=notrunc 2>/dev/null; }\n"
    // HEADER [LENGTH]: broken.safetensors has this header, this length of it, and 16 bytes of data
    "header() { { printf \"${2-\\\\$(printf %o ${#1})\\0\\0\\0\\0\\0\\0\\0}\"; printf %s \"$1\"\n"
    "    head -c 16 /dev/zero; } >broken.safetensors; }\n"
    // FILE SCRIPT: evaluates the model with one file edited by sed
    "edit() { rm -rf broken; cp -r model broken && LC_ALL=C sed \"$2\" model/$1 >broken/$1 &&\n"
    "    ! cmp -s model/$1 broken/$1 && $eval -i broken; }\n"
    "sums() { find . ! -path '*broken*'\n"
    "    find . -type f ! -path '*broken*' -exec cat {} + | cksum; }\n";

// Runs a shell command: it must exit with `status` and say `words` on stdout or, if the status is
// 1, in one line on stderr, and then no file may have changed since the first such command.
void shell(int status, const char *words, const char *format, ...) {
    static char line[8192], said[8192];
    char command[4096];
    FORMAT_INTO(command, format);
    snprintf(line, sizeof line, status == 1
             ? "%s{ [ -e broken.sums ] || sums >broken.sums\n%s\nstatus=$?\n"
               "sums | cmp -s - broken.sums || echo files changed >&2; exit $status\n"
               "} 2>&1 >/dev/null"
             : "%s{ %s\n} 2>/dev/null", prelude, command);
    FILE *pipe = popen(line, "r");
    if (!pipe) die("sh: %s", strerror(errno));
    said[fread(said, 1, sizeof said - 1, pipe)] = 0;
    int end = pclose(pipe), exited = WIFEXITED(end) ? WEXITSTATUS(end) : -1;
    const char *newline = strchr(said, '\n');
    expect(exited == status && strstr(said, words) && (status != 1 || (newline && !newline[1])),
           "%s\n        exits with %d and says, expected \"%s\": %s", command, exited, words, said);
}

char folder[512];  // $D: `data` in it has a tokenizer and the domains en and fr

void remove_folder(void) {
    if (system("rm -rf $D")) perror(folder);
}

void make_data(void) {
    const char *temporary = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/test_nr_XXXXXX", temporary ? temporary : "/tmp");
    if (!mkdtemp(folder)) die("%s: %s", folder, strerror(errno));
    setenv("D", folder, 1);
    atexit(remove_folder);
    begin("data for the tests");
    shell(0, "made", "seq 300 | sed 's/.*/the dog sees & cats ./' >en.txt\n"
          "seq 300 | sed 's/.*/le chien voit & chats ./' >fr.txt\n"
          "seq 300 | sed 's/.*/der Hund sieht & Katzen ./' >de.txt\n"
          "tokenizer train -v 300 --lines -o data en.txt && for l in en fr de; do\n"
          "    tokenizer encode -m data --lines -o data/${l}_train.bin $l.txt &&\n"
          "        cp data/${l}_train.bin data/${l}_val.bin || exit 1; done; echo made");
    if (group.failed) exit(1);
}

// Returns the name of a file in the folder.
char *path_of(const char *name) { return keep(join(folder, "/", name)); }

// -------------------------------------------------------------------------------------------------
// Numbers, and the multiply against three loops.

void test_numbers(void) {
    begin("exponential, sigmoid, dot, total, largest");
    real infinite = INFINITY, none = NAN, *a = drawn(200), *b = drawn(200);
    double worst = 0;
    for (int i = -87 * 4096; i <= 87 * 4096; i++) {
        double x = (float)i / 4096 + (float)(i % 7) * 1e-5f;
        double error = fabs(exponential(x) / exp(x) - 1);
        if (!(error <= worst)) worst = error;
    }
    expect(worst < 3e-7, "e^x on [-87, 87]: relative error %.1e", worst);
    expect(exponential(0) == 1, "e^0 is not 1");
    expect(exponential(-infinite) == 0 && exponential(-1000) == 0, "e^-inf or e^-1000 is not 0");
    expect(exponential(infinite) == infinite && exponential(1000) == infinite,
           "e^inf or e^1000 is not infinite");
    expect(isnan(exponential(none)) && isnan(sigmoid(none)), "NaN is lost");
    expect(sigmoid(0) == 0.5 && sigmoid(1000) == 1 && sigmoid(-1000) == 0,
           "sigmoid of 0, 1000 or -1000 is wrong");
    expect(sigmoid(infinite) == 1 && sigmoid(-infinite) == 0, "sigmoid of inf or -inf is wrong");
    for (size_t n = 1; n <= 200; n++) {
        double products = 0, sum = 0, all = 0, max = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            double x = a[i], product = x * b[i];
            products += product, sum += x;
            all += fabs(x) + fabs(product);  // the sums themselves may cancel
            max = fmax(max, x);
        }
        compare_number(rounding, all + dot(n, a, b), all + products, "dot");
        compare_number(rounding, all + total(n, a), all + sum, "total");
        expect(largest(n, a) == max, "the largest of %zu is wrong", n);
    }
}

// One product in one layout, with or without a bias and a matrix to add. What lies between the rows
// of the result must stay.
void try_matmul(size_t M, size_t N, size_t K, bool a_turned, bool b_turned, bool with_bias,
                bool with_add, bool in_place) {
    size_t row = N + 2, wide_a = (a_turned ? M : K) + 3, wide_b = (b_turned ? K : N) + 1;
    const real *at = drawn(wide_a * (a_turned ? K : M)), *bt = drawn(wide_b * (b_turned ? N : K));
    const real *bias = drawn(N), *add = drawn(M * row);
    Matrix a = a_turned ? transposed(at, wide_a) : plain(at, wide_a);
    Matrix b = b_turned ? transposed(bt, wide_b) : plain(bt, wide_b);
    real *c = copied(add, M * row), *right = copied(add, M * row);
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            double sum = with_add || in_place ? add[i * row + j] : 0;
            if (with_bias) sum += bias[j];
            for (size_t k = 0; k < K; k++)
                sum += (double)at[a_turned ? k * wide_a + i : i * wide_a + k]
                     * bt[b_turned ? j * wide_b + k : k * wide_b + j];
            right[i * row + j] = sum;
        }
    matmul(c, row, M, N, K, a, b, with_bias ? bias : NULL, in_place ? c : with_add ? add : NULL);
    compare(rounding, c, right, M * row, "%zu x %zu x %zu, %d%d%d%d%d", M, N, K, a_turned, b_turned,
            with_bias, with_add, in_place);
}

void test_matmul(void) {
    static const size_t shapes[][3] = {  // M, N, K: single rows, edges of tiles and of blocks
        {1, 1, 1}, {1, 50, 7}, {1, 200, 100}, {7, 1, 5}, {2, 3, 4}, {MR, PANEL, 8},
        {MR + 1, PANEL + 1, 9}, {3 * MR - 1, 2 * PANEL - 1, 3}, {MC + 5, 21, KC + 9},
        {5, NC + 3, 10}, {13, 5, 2 * KC + 1}};
    begin("matmul");
    for (size_t s = 0; s < COUNT_OF(shapes); s++)
        for (int k = 0; k < 32; k++)
            try_matmul(shapes[s][0], shapes[s][1], shapes[s][2], k & 1, k & 2, k & 4, k & 8,
                       k & 16);
}

// -------------------------------------------------------------------------------------------------
// Central differences. A loss must be smooth within the step. Its kinks are where a ReLU gate
// opens, and where A changes sign while |r| counts: each loss notes on which side of all of them it
// was computed, and a draw whose sides differ is drawn again. So is one that would show little:
// whose gates are all open, or all closed.

uint64_t sides;
bool telling;

// Notes the sides of a residue's kinks over n tokens, and whether its gates are worth a test.
void note_residue(Residue r, GateKind gate, LocalKind local, const int *is_old, size_t n,
                  size_t C) {
    size_t open[2] = {0, 0}, closed = 0;  // open: on new text and on old
    for (size_t t = 0; t < n && gate == GATE_RELU; t++) {
        sides = hash_bits(sides, r.gate[t] > 0);
        open[is_old[t]] += r.gate[t] > 0, closed += r.gate[t] == 0;
    }
    int rows[256];
    size_t m = open_rows(rows, r.gate, gate, n);
    for (size_t i = 0; i < m * C && local == LOCAL_L1; i++)
        if (is_old[rows[i / C]] && r.gate[rows[i / C]] > 0)
            sides = hash_bits(sides, r.adapter[i] > 0);
    if (gate == GATE_RELU && (!open[1] || (n > 1 && (!open[0] || !closed)))) telling = false;
}

void list_add(StoredList *list, const char *name, real *data, size_t n) {
    stored_add(list, name, 0, "F32", 0, n, data);
}

// Compares the gradients d that backward made with central differences of the loss in x. False, and
// nothing said, if the draw has to be drawn again.
bool gradients_hold(StoredList x, StoredList d, double (*loss)(void)) {
    real step = 1e-5;
    real *slopes[128];
    bool smooth = (loss(), telling);
    uint64_t here = sides;
    for (size_t k = 0; k < x.count && smooth; k++) {
        slopes[k] = keep(allocate(stored_size(&x.at[k]), sizeof(real)));
        for (size_t i = 0; i < stored_size(&x.at[k]); i++) {
            real *value = (real *)x.at[k].data + i, middle = *value;
            double at[2];
            for (int up = 0; up < 2; up++) {
                *value = up ? middle + step : middle - step;
                at[up] = loss();
                smooth &= sides == here;
            }
            *value = middle;
            slopes[k][i] = (at[1] - at[0]) / (2 * step);
        }
    }
    for (size_t k = 0; k < x.count && smooth; k++)
        compare(1e-6, d.at[k].data, slopes[k], stored_size(&x.at[k]), "d%s", x.at[k].name);
    if (!smooth && ++group.redrawn == 100) expect(false, "drawn 100 times, never smooth");
    return smooth || group.redrawn == 100;
}

// -------------------------------------------------------------------------------------------------
// The ways of training, as options of `nr extend`; without --method it is neutral.

const char *const ways[] = {
    "--method=finetune", "--method=lora", "--method=adapter", "--gate=relu", "--gate-input=prefix",
    "--local=none", "--gate=sigmoid", "--gate=sigmoid --local=ce", "--gate=sigmoid --local=none",
    "--gate=none", "--gate=none --local=none", "--gate=sigmoid --local=ce --gate-input=prefix"};
enum { WAYS = COUNT_OF(ways), FIRST_EXTENSION = 1, FIRST_NEUTRAL = 3, FEW_WAYS = 5 };

// Returns the config that these options make.
TrainConfig config_of(const char *options) {
    char text[256], *words[16];
    int count = 0;
    Settings s = initial;
    snprintf(text, sizeof text, "%s", options);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) words[count++] = word;
    settings_read(&s, settings, SETTINGS, &s.given, EXTEND, "extend", count, words);
    return train_config(&s, s.train.method);
}

// -------------------------------------------------------------------------------------------------
// The layers. Each has a list of tensors t, the first its output and the others its inputs, all
// random. Without d it computes the output t[0]; given d[0], it computes the gradients d[1], d[2],
// ... of the loss sum(d[0] t[0]) + penalty.

enum { MOST = 8, ROOM_SIZE = 1 << 14, PENALTY = 3 };  // PENALTY: the weight of l_local's sum
size_t B, T, n, NH, C, H, R, V, P, N, G;  // the sizes of this trial; n = B T, N rows of wte
int tokens[256], targets[256], is_old[256], ids[256];
size_t n_targets;
real room[9][ROOM_SIZE];                  // what the layer keeps or works in
TrainConfig way;                          // of the residue
double penalty;

// out = x w + bias + add
void linear(real **t, real **d) {
    if (!d) {
        linear_forward(t[0], t[1], t[2], t[3], t[4], n, C, H);
        return;
    }
    linear_backward(d[1], d[2], d[3], d[0], t[1], t[2], d[1], n, C, H);
    memcpy(d[4], d[0], n * H * sizeof(real));
}

void layernorm(real **t, real **d) {
    if (!d) layernorm_forward(t[0], room[0], t[1], t[2], t[3], n, C);
    else layernorm_backward(d[1], d[2], d[3], d[0], t[1], room[0], t[2], n, C);
}

void gelu(real **t, real **d) {
    if (!d) gelu_forward(t[0], t[1], n * H);
    else gelu_backward(d[1], d[0], t[1], n * H);
}

void attention(real **t, real **d) {
    if (!d) attention_forward(t[0], room[0], t[1], B, T, 0, NH, C);
    else attention_backward(d[1], d[0], room[0], t[1], B, T, NH, C);
}

void embedding(real **t, real **d) {
    if (!d) embedding_forward(t[0], tokens, t[1], t[2], B, T, 0, C);
    else embedding_backward(d[1], d[2], d[0], tokens, B, T, P, C);
}

// The mean over targets, some of which are -1.
void crossentropy(real **t, real **d) {
    if (!d) {
        memcpy(room[0], t[1], n * V * sizeof(real));
        crossentropy_forward(room[1], room[0], targets, n, V);
        t[0][0] = total(n, room[1]) / n_targets;
        return;
    }
    crossentropy_backward(room[0], targets, d[0][0] / n_targets, n, V);
    memcpy(d[1], room[0], n * V * sizeof(real));
}

void swiglu(real **t, real **d) {
    if (!d) swiglu_forward(t[0], t[1], t[2], n * H);
    else swiglu_backward(d[1], d[2], d[0], t[1], t[2], n * H);
}

// backward sums in what it is given, so it gets a copy.
void prefix(real **t, real **d) {
    if (!d) prefix_forward(t[0], t[1], B, T, 0, C);
    else prefix_backward(d[1], memcpy(room[0], d[0], n * 2 * C * sizeof(real)), B, T, C);
}

// Rows of wte for the tokens in ids, where tokens are read and where they are predicted:
// logits = x wte^T with x the embedding of the tokens. All other rows are 1.
void new_rows(real **t, real **d) {
    real *wte = room[0], *x = room[1], *dx = room[2];
    if (!d) {
        for (size_t i = 0; i < ROOM_SIZE; i++) wte[i] = 1;
        new_rows_forward(wte, t[1], ids, N, C);
        embedding_forward(x, tokens, wte, room[3], B, T, 0, C);
        matmul(t[0], V, n, V, C, plain(x, C), transposed(wte, C), NULL, NULL);
        return;
    }
    matmul(dx, C, n, C, V, plain(d[0], V), plain(wte, C), NULL, NULL);
    new_rows_backward(d[1], room[4], d[0], x, dx, tokens, ids, N, n, V, C);
}

// t: the output, u, wi, wg, wo, the gate's w and b, and what it reads if that is not u.
void residue(real **t, real **d) {
    bool l1 = way.local == LOCAL_L1, reads_u = way.gate_input == INPUT_LAYER;
    ResidueTensors w = {t[2], t[3], t[4], t[5], t[6]};
    Residue r = {room[0], room[1], room[2], room[3], room[4], room[5], room[6], room[8],
                 t[reads_u ? 1 : 7]};
    if (d) {
        ResidueTensors dw = {d[2], d[3], d[4], d[5], d[6]};
        residue_backward(d[1], d[reads_u ? 1 : 7], dw, d[0], r, w, way.gate, way.local,
                         l1 ? PENALTY / (real)C : PENALTY, is_old, room[7], n, C, H, G);
        return;
    }
    memset(t[0], 0, n * C * sizeof(real));
    residue_forward(t[0], r, t[1], w, way.gate, n, C, H, G);
    for (size_t i = 0; i < n; i++) {
        if (l1 && is_old[i]) penalty += PENALTY * r.l1[i];
        if (way.local == LOCAL_CE) penalty += PENALTY * gate_crossentropy(r.z[i], is_old[i]);
    }
    note_residue(r, way.gate, way.local, is_old, n, C);
}

// A residue beside one that runs every row, because all of its gates are open: on rows where they
// are not in the first, it has dout 0. n goes beyond where matmul cuts a sum over rows.
void try_closed(size_t n, size_t one_of, size_t first) {
    enum { C = 20, H = 24, SIZE = 3 * C * H };
    real *weights = drawn(SIZE), gate_w = 1, gate_b = 0, *dw[2], *out[2], *du[2];
    const real *u = drawn(n * C), *before = drawn(n * C), *slopes = drawn(n * C);
    ResidueTensors w = {weights, weights + C * H, weights + 2 * C * H, &gate_w, &gate_b};
    int *is_open = keep(allocate(n, sizeof *is_open));
    for (size_t t = 0; t < n; t++) is_open[t] = one_of && t % one_of == first;
    for (int k = 0; k < 2; k++) {
        real *input = drawn(n), *dout = copied(slopes, n * C), *d = dw[k] = drawn(SIZE + 2);
        out[k] = copied(before, n * C), du[k] = copied(before, n * C);
        for (size_t t = 0; t < n; t++) {
            input[t] = is_open[t] || k ? 1 + t % 7 : -1.;
            if (!is_open[t] && k) memset(dout + t * C, 0, C * sizeof(real));
        }
        Residue r = {drawn(n * C), drawn(n * H), drawn(n * H), drawn(n * H), drawn(n * C),
                     drawn(n), drawn(n), drawn(n), input};
        residue_forward(out[k], r, u, w, GATE_RELU, n, C, H, 1);
        residue_backward(du[k], NULL, (ResidueTensors){d, d + C * H, d + 2 * C * H, d + SIZE,
                         d + SIZE + 1}, dout, r, w, GATE_RELU, LOCAL_L1, 0.1, is_open,
                         drawn(n * H), n, C, H, 1);
        for (size_t t = 0; t < n; t++) {
            if (is_open[t]) continue;
            expect((r.l1[t] == 0) == !k, "row %zu of %zu: |r| is %g", t, n, r.l1[t]);
            if (k) memcpy(out[k] + t * C, before + t * C, C * sizeof(real));
        }
    }
    expect(same(out[0], out[1], n * C), "%zu rows, one of %zu: the outputs differ", n, one_of);
    expect(same(du[0], du[1], n * C), "%zu rows, one of %zu: du differs", n, one_of);
    expect(same(dw[0], dw[1], SIZE + 2), "%zu rows, one of %zu: dw differs", n, one_of);
}

void test_closed(void) {
    static const size_t patterns[][2] = {{0, 0}, {5000, 0}, {5000, 998}, {9, 2}, {2, 1}, {1, 0}};
    begin("rows whose gates are closed are left out, and no bit differs");
    for (size_t k = 0; k < COUNT_OF(patterns); k++)
        for (size_t n = 1; n < 3 * KC; n = 5 * n + 3) {
            omp_set_num_threads(OPENMP ? 1 + k % 3 : 1);
            try_closed(n, patterns[k][0], patterns[k][1]);
        }
    omp_set_num_threads(1);
}

// tensors: NAME:SIZE of each; a size is a product of letters as in nr.c's table, and of n. +:
// backward adds to what is there.
typedef struct {
    const char *name;
    void (*compute)(real **t, real **d);
    const char *tensors;
} TestedLayer;

const TestedLayer layers[] = {
    {"linear", linear, "out:nH x:+nC w:CH bias:H add:nH"},
    {"layernorm", layernorm, "out:nC x:+nC w:C b:C"},
    {"gelu", gelu, "out:nH x:nH"},
    {"attention", attention, "y:nC qkv:n3"},
    {"embedding", embedding, "x:nC wte:+VC wpe:PC"},
    {"crossentropy", crossentropy, "loss:1 logits:nV"},
    {"swiglu", swiglu, "hidden:nH wi_u:nH wg_u:nH"},
    {"prefix", prefix, "prefix:n2C u:+nC"},
    {"new_rows", new_rows, "logits:nV rows:NC"},
};

TestedLayer on_trial;
real *value[MOST], *gradient[MOST];  // its tensors
size_t output_size;

double layer_loss(void) {
    sides = 0, telling = true, penalty = 0;
    on_trial.compute(value, NULL);
    return dot(output_size, value[0], gradient[0]) + penalty;
}

// One draw of a layer at the sizes of this trial.
bool try_layer(void) {
    Dims d = {1, NH, C, P, V, H, R, N, G};
    StoredList inputs = {0}, gradients = {0};
    real *before[MOST];
    char name[32], letters[8];
    int length;
    size_t count = 0;
    for (const char *c = on_trial.tensors; sscanf(c, " %31[^:]:%7s%n", name, letters, &length) == 2;
         c += length, count++) {
        size_t size = 1;
        for (const char *l = letters; *l; l++) size *= *l == 'n' ? n : size_of(*l, &d);
        value[count] = drawn(size), gradient[count] = drawn(size);
        before[count] = copied(gradient[count], size);
        for (size_t i = 0; i < size && count && *letters != '+'; i++)
            gradient[count][i] = NAN, before[count][i] = 0;  // to be overwritten
        if (!count) output_size = size;
        else {
            list_add(&inputs, name, value[count], size);
            list_add(&gradients, name, gradient[count], size);
        }
    }
    keep(inputs.at), keep(gradients.at);
    layer_loss();
    on_trial.compute(value, gradient);
    for (size_t k = 1; k < count; k++)
        for (size_t i = 0; i < stored_size(&inputs.at[k - 1]); i++) gradient[k][i] -= before[k][i];
    return gradients_hold(inputs, gradients, layer_loss);
}

// A layer at several sizes: of one token, beyond a block of attention's queries, beyond a strip.
void test_layer(TestedLayer layer) {
    static const size_t shapes[][4] = {
        {1, 1, 1, 3}, {2, 5, 3, 6}, {1, QUERIES + 6, 2, 4}, {2, 2, 2, STRIP + 2}};  // B, T, NH, C
    begin("%s_backward", layer.name);
    on_trial = layer;
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        B = shapes[s][0], T = shapes[s][1], NH = shapes[s][2], C = shapes[s][3], n = B * T;
        H = 5, R = 2, V = 11, P = T + 2, N = 5, n_targets = 0;
        G = way.gate_input == INPUT_PREFIX ? 2 * C : C;
        for (size_t t = 0; t < n; t++) {
            tokens[t] = (7 * t + 1) % V, is_old[t] = t % 2 == 0;
            targets[t] = t % 3 == 1 ? -1 : (int)(5 * t % V), n_targets += t % 3 != 1;
        }
        for (size_t v = 0; v < N; v++) ids[v] = 2 * v + 1;
        while (!try_layer()) {}
    }
}

void test_layers(void) {
    for (size_t l = 0; l < COUNT_OF(layers); l++) test_layer(layers[l]);
    for (int w = FIRST_NEUTRAL; w < WAYS; w++) {
        char name[128], tensors[128];
        way = config_of(ways[w]);
        snprintf(name, sizeof name, "%s: residue", ways[w]);
        snprintf(tensors, sizeof tensors, "x:nC u:+nC wi:CH wg:CH wo:HC%s%s",
                 way.gate == GATE_NONE ? "" : " gate_w:G gate_b:1",
                 way.gate_input == INPUT_LAYER ? "" : " gate_input:+nG");
        test_layer((TestedLayer){name, residue, tensors});
    }
}

// -------------------------------------------------------------------------------------------------
// The whole model, in every way of training it, and in extensions upon extensions.

const Dims tiny = {.layers = 2, .heads = 2, .channels = 6, .positions = 6, .vocab = 11};

// Draws every value anew, none zero, as an extension is when it has learnt. Wi, Wg and LoRA's A
// keep their values, as float.
void randomize(const Tensors *t, const Dims *d) {
    for (int id = 0; id < TENSORS; id++) {
        int init = table[id].init;
        bool embeds = id == WTE || id == WPE || id == NEW_ROWS, vector = table[id].rows == '1';
        double fan_in = id == GATE_W ? d->gate_in : tensor_rows(id, d);
        double deviation = embeds ? 0.5 : vector && id != GATE_W ? 0.1 : 1 / sqrt(fan_in);
        bool keeps = init == INIT_ADAPTER || init == INIT_FAN_IN;
        for (size_t i = 0; t->at[id] && i < tensor_layers(id, d) * t->layer_size[id]; i++) {
            double drawn = (init == INIT_ONE) + deviation * random_normal(&dice);
            t->at[id][i] = (float)(keeps ? t->at[id][i] : drawn);
        }
    }
}

// A random backbone that never saw tokens 1, 4 and 9. Without a size its vocabulary is the tests'.
Model *random_model(Dims d) {
    Tokenizer *tokenizer = tokenizer_load(path_of("data"));
    if (!d.vocab) d.vocab = tokenizer->size;
    Model *m = model_new(&d, &initial.train, tokenizer);
    randomize(&m->w, &d);
    model_hash(m);
    memset(m->unseen, false, d.vocab);
    m->unseen[1] = m->unseen[4] = m->unseen[9] = true;
    return m;
}

// Plugs in an extension as `nr extend` makes it, fresh or randomized; finetune has none.
Extension *plug(Model *m, bool fresh, const char *format, ...) {
    char options[256];
    FORMAT_INTO(options, format);
    TrainConfig c = config_of(options);
    if (methods[c.method].uses & SET_BACKBONE) return NULL;
    c.seed = random_bits(&dice) % 1000;
    Extension *x = extension_new(m, &c, NULL);
    if (!fresh) randomize(&x->w, &x->dims);
    embedding_derive(m);
    model_hash(m);
    return x;
}

// A training of m on a batch of random tokens, in which every other sequence is of the old domain,
// and only the penalty sees the third.
Training training(Model *m, size_t B, size_t T) {
    Training t = training_new(m, B, T);
    draw_tokens(t.batch.tokens, B * T, m->dims.vocab);
    draw_tokens(t.batch.targets, B * T, m->dims.vocab);
    t.batch.targets[1] = -1;
    for (size_t i = 0; i < B * T; i++) {
        t.batch.is_old[i] = i / T % 2 == 0;
        if (i / T == 2) t.batch.targets[i] = -1;
    }
    return t;
}

void training_end(Training *t) {
    training_free(t);
    model_free(t->m);
}

Loss losses(Training *t) {
    model_forward(t->m, &t->a, t->batch.tokens, t->batch.B, t->batch.T, 0);
    return model_loss(t);
}

// What is minimised.
double weighed(const Training *t, Loss loss) {
    const Extension *x = last_extension(t->m);
    return loss.lm + (x ? x->config.alpha * loss.local : 0);
}

// The tensors by name, without the ids of new rows.
StoredList listed(const Tensors *t, const Dims *d) {
    StoredList list = tensors_list(t, d, NULL);
    list.count -= d->new_rows > 0;
    keep(list.at);
    return list;
}

Training trial;

double model_trial_loss(void) {
    const Model *m = trial.m;
    Loss loss = losses(&trial);
    sides = 0, telling = true;
    for (size_t k = 0; k < m->n_extensions * m->dims.layers; k++) {
        size_t e = k / m->dims.layers, l = k % m->dims.layers;
        const Extension *x = m->extension[e];
        if (x->sets & SET_ADAPTER)
            note_residue(residue_at(m, &trial.a, e, l), x->config.gate,
                         x == last_extension(m) ? x->config.local : LOCAL_NONE, trial.batch.is_old,
                         trial.a.n, m->dims.channels);
    }
    return weighed(&trial, loss);
}

// One draw of the gradients of a model with one extension, or with `below` under it, which is wider
// and trains a row less.
bool try_model(const char *below, const char *above, const char *init, int rows) {
    Model *m = random_model(tiny);
    m->unseen[9] = false;
    if (below) plug(m, false, "%s%s --hidden=9 --rank=3 --new-rows=%d", below, init, rows);
    m->unseen[9] = true;
    plug(m, false, "%s%s --hidden=7 --rank=2 --new-rows=%d --alpha=2", above, init, rows);
    trial = training(m, 3, 5);
    for (size_t i = 0; i < trial.grad.size; i++) trial.grad.memory[i] = NAN;  // to be overwritten
    model_backward(&trial, losses(&trial));
    bool done = gradients_hold(listed(trial.w, trial.dims), listed(&trial.grad, trial.dims),
                                     model_trial_loss);
    training_end(&trial);
    return done;
}

void test_model(void) {
    static const char *const stacks[][2] = {
        {"--method=lora", "--gate=relu"}, {"--gate=relu", "--gate=relu"},
        {"--gate=relu", "--method=lora"}, {"--gate=sigmoid --local=ce", "--method=adapter"},
        {"--method=adapter", "--gate=sigmoid --local=ce"}, {"--method=lora", "--method=lora"},
        {"--gate-input=prefix", "--gate-input=prefix"}, {"--gate-input=prefix", "--method=lora"},
        {"--gate=relu", "--gate-input=prefix"}};
    for (int w = 0; w < WAYS; w++) {
        begin("model, %s", ways[w]);
        for (int k = 0; k < (w ? 4 : 1); k++)
            while (!try_model(NULL, ways[w], k & 1 ? " --init=he" : "", k / 2)) {}
    }
    for (size_t s = 0; s < COUNT_OF(stacks); s++) {
        begin("model, %s upon %s", stacks[s][1], stacks[s][0]);
        for (int rows = 0; rows < 2; rows++)
            while (!try_model(stacks[s][0], stacks[s][1], "", rows)) {}
    }
}

// -------------------------------------------------------------------------------------------------
// The reference: what PyTorch computes from the same numbers. dev/reference.py wrote it and says in
// its metadata what it holds.

Safetensors file;

// What the reference has under a name, whole numbers too; dies unless it is `n` values.
real *referred(size_t n, const char *format, ...) {
    char name[128];
    FORMAT_INTO(name, format);
    const Json *x = json_get(file.header, name);
    const Json *at = x ? json_get(x, "data_offsets")->child : NULL;
    if (!at || at->next->number - at->number != 4.0 * n)
        die("dev/reference.safetensors: has no %s of %zu values", name, n);
    real *values = keep(allocate(n, sizeof(real)));
    fseek(file.file, file.start + at->number, SEEK_SET);
    for (size_t i = 0; i < n; i++) {
        union { float real; int32_t whole; } one = {0};
        if (!fread(&one, 4, 1, file.file)) die("dev/reference.safetensors: ends early");
        values[i] = *json_get(x, "dtype")->string == 'I' ? one.whole : one.real;
    }
    return values;
}

// Compares tensors with WAY/KIND/NAME of the reference; with a tolerance of 0 sets them to that.
void refer(const char *way, const char *kind, const Tensors *t, const Dims *d, double tolerance) {
    StoredList list = listed(t, d);
    for (const Stored *x = list.at; x < list.at + list.count; x++) {
        size_t n = stored_size(x);
        const real *right = referred(n, "%s%s%s", way, kind, x->name);
        if (tolerance > 0) compare(tolerance, x->data, right, n, "%s%s", kind + 1, x->name);
        else memcpy(x->data, right, n * sizeof(real));
    }
}

double referred_number(const char *key) { return strtod(metadata_text(&file, key), NULL); }

// What the metadata say of a way of training.
const char *said_of(const char *way, const char *key) {
    char name[128];
    snprintf(name, sizeof name, "%s.%s", way, key);
    return metadata_text(&file, name);
}

// The reference's model, with an extension and a batch if it has them for this way.
Training training_of_reference(const char *way) {
    size_t B = referred_number("batch"), T = referred_number("time");
    Dims d = {.layers = referred_number("layers"), .heads = referred_number("heads"),
                    .channels = referred_number("channels"), .vocab = referred_number("vocab"),
                    .positions = referred_number("positions")};
    char hash[32], ids[64];
    Model *m = random_model(d);
    refer("model", "/", &m->w, &d, 0);
    model_hash(m);
    snprintf(hash, sizeof hash, "%016" PRIx64, m->hash[0]);
    expect(!strcmp(hash, metadata_text(&file, "backbone")), "the backbone's hash is %s", hash);
    snprintf(ids, sizeof ids, "%s/weight/wte.ids", way);
    bool rows = json_get(file.header, ids);
    memset(m->unseen, false, d.vocab);
    for (int i = 0; rows && i < 3; i++) m->unseen[(int)referred(3, "%s", ids)[i]] = true;
    const Extension *x = plug(
        m, true, "--method=%s --gate=%s --gate-input=%s --local=%s --alpha=%s --hidden=%s "
        "--rank=%s", said_of(way, "method"), said_of(way, "gate"), said_of(way, "gate_input"),
        said_of(way, "local"), said_of(way, "alpha"), metadata_text(&file, "hidden"),
        metadata_text(&file, "rank"));
    if (x) refer(way, "/weight/", &x->w, &x->dims, 0);
    Training t = training(m, B, T);
    for (size_t i = 0; i < B * T; i++) {
        t.batch.tokens[i] = referred(B * T, "tokens")[i];
        t.batch.targets[i] = referred(B * T, "targets")[i];
        t.batch.is_old[i] = referred(B, "domains")[i / T] == 0;
    }
    return t;
}

// Values and gradients; and training, in double: in float the rounding noise in the gradients of
// the keys' biases becomes whole steps.
void check_reference(const char *way) {
    double tolerance = DOUBLE ? 1e-6 : 1e-4;
    Training t = training_of_reference(way);
    const Model *m = t.m;
    const Extension *x = last_extension(m);
    size_t n = t.batch.B * t.batch.T, V = m->dims.vocab, C = m->dims.channels;
    model_forward(m, &t.a, t.batch.tokens, t.batch.B, t.batch.T, 0);
    compare(tolerance, t.a.own.at[A_LOGITS], referred(n * V, "%s/logits", way), n * V, "logits");
    for (size_t l = 0; l < m->dims.layers; l++) {
        const real *right = referred(n * C, "%s/x/%zu", way, l);
        compare(tolerance, layer_of(&t.a.own, A_X, l + 1), right, n * C, "x/%zu", l);
        if (!x || !(x->sets & SET_ADAPTER)) continue;
        Residue r = residue_at(m, &t.a, 0, l);
        if (x->sets & SET_GATE)
            compare(tolerance, r.gate, referred(n, "%s/gate/%zu", way, l), n, "gate/%zu", l);
        real *residue = keep(allocate(n * C, sizeof(real)));
        int rows[256];
        size_t open = open_rows(rows, r.gate, x->config.gate, n);
        for (size_t i = 0; i < open * C; i++)
            residue[rows[i / C] * C + i % C] = r.gate[rows[i / C]] * r.adapter[i];
        right = referred(n * C, "%s/residue/%zu", way, l);
        compare(tolerance, residue, right, n * C, "residue/%zu", l);
    }
    Loss loss = model_loss(&t);
    const real *right = referred(2, "%s/losses", way);
    compare_number(tolerance, loss.lm, right[0], "l_LM");
    if (right[1] > 0) compare_number(tolerance, loss.local, right[1], "l_local");
    else expect(loss.local == 0, "l_local is %g", loss.local);
    model_backward(&t, loss);
    refer(way, "/grad/", &t.grad, t.dims, tolerance);
    real steps[20];
    for (int i = 0; i < 10 && DOUBLE; i++) {
        steps[2 * i] = weighed(&t, training_step(&t, referred_number("lr"),
                                                 referred_number("weight_decay")));
        steps[2 * i + 1] = t.norm;
    }
    if (DOUBLE) compare(tolerance, steps, referred(20, "%s/steps", way), 20, "steps");
    if (DOUBLE) refer(way, "/adamw/", t.w, t.dims, tolerance);
    training_end(&t);
}

void test_reference(void) {
    char way[64];
    int count = 0, length;
    file = safetensors_open("dev/reference.safetensors");
    for (const char *c = metadata_text(&file, "cases"); sscanf(c, "%63s%n", way, &length) == 1;
         c += length, count++) {
        begin("reference, %s", way);
        check_reference(way);
    }
    expect(count == 11, "%d cases, expected 11", count);
    safetensors_close(&file);
}

// -------------------------------------------------------------------------------------------------
// How an extension begins, and what it leaves as it was: everything at step 0, and what is below it
// for good.

// Logits (B T, V) of a model.
real *logits_of(const Model *m, const int *text, size_t B, size_t T) {
    Activations a = activations_new(m, B, T, B * T, false);
    model_forward(m, &a, text, B, T, 0);
    real *logits = copied(a.own.at[A_LOGITS], B * T * m->dims.vocab);
    free(a.memory);
    return logits;
}

// Initial values: their mean and deviation, but for noise of four deviations.
void test_start(void) {
    static const struct { const char *options; int id; double mean, variance; } starts[] = {
        {"--method=finetune", WTE, 0, 0.0004 * 768 / 64},
        {"--method=finetune", PROJ_W, 0, 0.0004 * 768 / 64 / 4}, {"--method=finetune", LN1_W, 1, 0},
        {"--gate=relu", WI, 0, 1 / 128.}, {"--init=he", WG, 0, 2 / 64.}, {"--gate=relu", WO, 0, 0},
        {"--gate=relu", GATE_W, 0, 0}, {"--gate=relu", GATE_B, 1, 0},
        {"--gate=sigmoid", GATE_B, 0, 0}, {"--gate-init=closed", GATE_B, 0, 0},
        {"--gate-init=random", GATE_W, 0, 1 / 64.}, {"--gate-init=random", GATE_B, 0, 0},
        {"--method=adapter", WI, 0, 2 / 64.}, {"--method=lora", QKV_A, 0, 1 / 64.},
        {"--method=lora", FCPROJ_A, 0, 1 / 256.}, {"--method=lora", FC_B, 0, 0}};
    begin("initial values");
    Dims d = {.layers = 2, .heads = 2, .channels = 64, .positions = 8, .vocab = 300};
    for (size_t s = 0; s < COUNT_OF(starts); s++) {
        Model *m = model_new(&d, &initial.train, NULL);
        const Extension *x = plug(m, true, starts[s].options);
        const Tensors *w = x ? &x->w : &m->w;
        int id = starts[s].id;
        size_t size = tensor_layers(id, x ? &x->dims : &d) * w->layer_size[id];
        double mean = total(size, w->at[id]) / size, right = starts[s].variance;
        double variance = dot(size, w->at[id], w->at[id]) / size - mean * mean;
        expect(fabs(mean - starts[s].mean) <= 4 * sqrt(right / size)
               && fabs(variance - right) <= 4 * right * sqrt(2. / size),
               "%s: %s has mean %g and variance %g", starts[s].options, table[id].name, mean,
               variance);
        if (x && x->dims.hidden)
            expect(fabs(3. * x->dims.hidden * 128 / m->w.size - 0.2) < 0.02, "H is %zu",
                   x->dims.hidden);
        model_free(m);
    }
}

// Extends a random model, alone or upon another extension, without or with new rows.
void try_frozen(const char *options, bool upon, bool rows) {
    enum { FEW = 4, LONG = 6 };
    size_t V = tiny.vocab, C = tiny.channels, n = FEW * LONG * V;
    Model *m = random_model(tiny);
    m->unseen[9] = false;
    bool is_lora = strstr(options, "lora");
    const Extension *below = upon ? plug(m, false, "%s --hidden=9 --rank=4 --new-rows=%d",
                                         is_lora ? "--gate=relu" : "--method=lora", rows) : NULL;
    m->unseen[9] = true;
    int text[FEW * LONG];
    draw_tokens(text, FEW * LONG, V);
    const real *before = logits_of(m, text, FEW, LONG);
    const Extension *x = plug(m, true, "%s --hidden=7 --rank=3 --new-rows=%d", options, rows);
    expect(same(before, logits_of(m, text, FEW, LONG), n), "the logits differ at step 0");

    Training t = training(m, FEW, LONG);
    const real *backbone = copied(m->w.memory, m->w.size), *wte = copied(m->wte, V * C);
    const real *under = below ? copied(below->w.memory, below->w.size) : NULL;
    const real *trained = copied(t.w->memory, t.w->size);
    for (int i = 0; i < 5; i++) training_step(&t, 1e-2, 0.1);
    expect(same(m->w.memory, backbone, m->w.size), "the backbone changed");
    expect(!below || same(below->w.memory, under, below->w.size), "the extension below changed");
    StoredList list = listed(t.w, t.dims);
    for (const Stored *s = list.at; s < list.at + list.count; s++)
        expect(!same(s->data, trained + ((real *)s->data - t.w->memory), stored_size(s)),
               "%s did not move", s->name);
    const real *after = logits_of(m, text, FEW, LONG);
    for (size_t v = 0; v < V; v++) {
        bool trains = false;
        for (size_t i = 0; i < x->dims.new_rows; i++) trains |= x->ids[i] == (int)v;
        expect(same(m->wte + v * C, wte + v * C, C) == !trains, "row %zu of wte", v);
    }
    expect(x->dims.new_rows == (rows ? upon ? 1 : 3 : 0), "%zu rows train", x->dims.new_rows);
    expect(!same(before, after, n), "the logits never differ");
    training_end(&t);
}

void test_frozen(void) {
    for (int w = FIRST_EXTENSION; w < WAYS; w++) {
        begin("at step 0 nothing changes, later only what trains: %s", ways[w]);
        for (int k = 0; k < 8; k++) {
            char options[128];
            const char *more = k & 1 ? " --init=he" : "";
            snprintf(options, sizeof options, "%s%s", ways[w], more);
            try_frozen(options, k & 2, k & 4);
        }
    }
}

// -------------------------------------------------------------------------------------------------
// Training: the loader, AdamW, and learning by heart.

// Token i of file k is k * APART + i, so that a sequence tells where it is from: two old files, one
// that only the penalty sees, and a new one. From row to row of `fractions` the same sequences are
// drawn, and only become old, or the penalty's, that were new.
void test_loader(void) {
    enum { DRAWS = 20000, T = 8, COUNT = 60, APART = 1000, FILES = 4, PENALTY_ONLY = 2 };
    static const double fractions[][3] = {  // p, q, and whether all is learnt
        {0, 0, 0}, {0.1, 0, 0}, {0.1, 0.3, 0}, {0.5, 0.2, 1}, {1, 0, 0}};
    static int kind[DRAWS], first[DRAWS];
    Training t = {.m = NULL};
    Tokens from[FILES];
    int memory[3 * T];
    begin("loader");
    for (int k = 0; k < FILES; k++) {
        from[k] = (Tokens){.ids = keep(allocate(COUNT, sizeof(uint16_t))), .count = COUNT};
        for (int i = 0; i < COUNT; i++) from[k].ids[i] = k * APART + i;
    }
    t.batch = (Batch){1, T, memory, memory + T, memory + 2 * T};
    for (size_t f = 0; f < COUNT_OF(fractions); f++) {
        double p = fractions[f][0], q = fractions[f][1], all = fractions[f][2];
        Loader loader = {.kept = {from[0], from[1], from[2]}, .n_old = 2, .n_penalty_only = 1,
                         .new = from[3], .p = p, .q = q, .learn_all = all,
                         .random = random_stream(7, STREAM_LOADER)};
        int count[FILES] = {0}, starts[COUNT] = {0}, wrong = 0, differ = 0, covered = 0;
        for (int n = 0; n < DRAWS; n++) {
            loader_next(&loader, &t.batch);
            const int *x = t.batch.tokens, *y = t.batch.targets, is = *x / APART, at = *x % APART;
            for (int i = 0; i < T; i++)
                wrong += x[i] != x[0] + i || y[i] != (is == PENALTY_ONLY && !all ? -1 : x[i] + 1)
                      || t.batch.is_old[i] != (is <= PENALTY_ONLY);
            if (f) differ += at != first[n] || (is > kind[n] && is > 1);
            first[n] = at, kind[n] = is;
            count[is]++, starts[at]++;
        }
        for (int i = 0; i < COUNT; i++) covered += starts[i] > DRAWS / (COUNT - T) / 2;
        double share[FILES] = {p / 2, p / 2, q, 1 - p - q};
        for (int k = 0; k < FILES; k++)
            expect(likely(count[k], DRAWS, share[k]), "p %g, q %g: %d, file %d", p, q, count[k], k);
        expect(wrong == 0, "p %g, q %g: %d tokens, targets or marks are wrong", p, q, wrong);
        expect(differ == 0, "p %g, q %g: %d draws are not those of the row before", p, q, differ);
        expect(covered == COUNT - T, "p %g, q %g: %d of %d starts occur", p, q, covered, COUNT - T);
    }
}

void test_adamw(void) {
    Dims d = tiny;
    double lr = 0.01, decay = 0.1;
    Tensors t[5];
    begin("AdamW and its schedule");
    for (int i = 0; i < 5; i++) t[i] = tensors_allocate(SET_BACKBONE, &d), keep(t[i].memory);
    const Tensors *w = &t[0], *g = &t[1], *m = &t[2], *v = &t[3], *right = &t[4];
    size_t size = w->size, bytes = size * sizeof(real);
    randomize(w, &d);
    memcpy(right->memory, w->memory, bytes);  // a constant gradient moves by lr at every step
    memcpy(g->memory, drawn(size), bytes);
    for (int step = 1; step <= 10; step++) {
        adamw_step(w, g, m, v, &d, step, lr, 0, 1e9);
        for (size_t i = 0; i < size; i++)
            right->memory[i] -= lr * g->memory[i] / (fabs(g->memory[i]) + 1e-8);
        compare(rounding, w->memory, right->memory, size, "w, %d", step);
    }
    memcpy(right->memory, w->memory, bytes);  // without a gradient matrices shrink, vectors stay
    memset(g->memory, 0, bytes), memset(m->memory, 0, bytes), memset(v->memory, 0, bytes);
    adamw_step(w, g, m, v, &d, 1, lr, decay, 1);
    for (int id = WTE; id <= LNF_B; id++) {
        size_t n = tensor_layers(id, &d) * w->layer_size[id];
        bool vector = tensor_rows(id, &d) == 1;
        for (size_t i = 0; i < n && !vector; i++) right->at[id][i] *= 1 - lr * decay;
        if (vector) expect(same(w->at[id], right->at[id], n), "%s decays", table[id].name);
        else compare(rounding, w->at[id], right->at[id], n, "%s, decayed", table[id].name);
    }
    memcpy(g->memory, drawn(size), bytes);  // of a gradient five times too long a fifth counts
    double norm = adamw_step(w, g, m, v, &d, 1, lr, 0, 1e9);
    memset(m->memory, 0, bytes), memset(v->memory, 0, bytes);
    adamw_step(w, g, m, v, &d, 1, lr, 0, norm / 5);
    for (size_t i = 0; i < size; i++) right->memory[i] = 0.1 * g->memory[i] / 5;
    compare(rounding, m->memory, right->memory, size, "m of a clipped gradient");
    for (size_t i = 0; i < size; i++) right->memory[i] = 0.05 * g->memory[i] * g->memory[i] / 25;
    compare(rounding, v->memory, right->memory, size, "v of a clipped gradient");

    // up to 2 in 10 steps, then down to a tenth of it at step 110
    static const double schedule[][2] = {{1, 0.2}, {5, 1}, {10, 2}, {60, 1.1}, {110, 0.2}};
    TrainConfig c = {.lr = 2, .steps = 110, .warmup = 10, .floor = 0.1};
    for (size_t i = 0; i < COUNT_OF(schedule); i++)
        compare_number(1e-6, learning_rate(&c, schedule[i][0]), schedule[i][1], "learning rate");
    c.warmup = 0;
    expect(learning_rate(&c, 1) > 1.9, "without warmup it begins with %g", learning_rate(&c, 1));
}

void test_overfit(void) {
    static const char *const runs[] = {"--method=finetune --lr=0.01 --steps=150",
                                       "--method=adapter --lr=0.02 --steps=300 --hidden=32"};
    begin("one batch is learnt by heart");
    for (size_t r = 0; r < COUNT_OF(runs); r++) {
        TrainConfig c = config_of(runs[r]);
        Dims d = tiny;
        d.channels = 16, d.positions = 8;
        Model *m = random_model(d);
        plug(m, true, runs[r]);
        Training t = training(m, 4, 8);
        for (int b = 0; b < 4; b++) t.batch.tokens[b * 8] = b;  // told apart from the first on
        double before = losses(&t).lm;
        for (long i = 1; i <= c.steps; i++) training_step(&t, learning_rate(&c, i), 0);
        double after = losses(&t).lm;
        expect(before > 1 && after < 0.05, "%s: loss %.3f, then %.3f", runs[r], before, after);
        training_end(&t);
    }
}

// -------------------------------------------------------------------------------------------------
// Use: words, files, decoding, sampling, evaluation, threads.

// Returns a text, in which ~ stands for a byte of 0.
char *text_of(const char *source, size_t *size) {
    char *text = keep(join(source, "", ""));
    *size = strlen(text);
    for (char *c = text; *c; c++)
        if (*c == '~') *c = 0;
    return text;
}

void test_words(void) {
    static const char *const cuts[] = {  // where Python's regex, given GPT-2's pattern, puts each |
        "it|'s| we|'re| I|'ve| I|'m| they|'ll| she|'d| don|'t",
        "IT|'|S| WE|'|RE| I|'|VE| DON|'|T| '|Twas",
        "'s|'t|'re|'ve|'m|'ll|'d|'|x| '", "rock|'|n|'|roll| '|tis| dog|'s|'| ''|s",
        "l|'|été| d|'|un| l|’|été", "Ça| brûle| déjà", "cafe|\u0301| e|\u0301\u0301| \u0301|x",
        "नमस|्|त|े", "a|\u200d|b| \u00ad|c", "x|²| ½| ①|a| 10³", "١٢٣| १२३| ৪| Ⅷ〇| 9",
        "3|.|14| 1|,|000| -|7| 2|nd", "漢字かなカナ| 한국어|。|ok", "中文|123|中文",
        "👩\u200d👩\u200d👧| 👍🏽!", "a|👍|b", "a|\u00a0|b| \u00a0| c|\u00a0|\u00a0|d",
        "a|\u2003|b|\u3000|c|\u2028|d|\u2029| e| |\u202f|x", "a|\u200b|b| \ufeff|c",
        "a|\302\205|b|\u180e|c", "\034|a|\037| b", "a| | b|  | c|   | d", "  | a", "a|   ", " ",
        "  ", "\n", "a|\n|\n|b|\n", "a| \n| b", "\t|\t|a|\t| b| \t", " \r\n \r\n", "a|\013|\014|b",
        "snake|_|case| __|init|__| _", "Hello|,| world|!| (|yes|?)| ...|end|--",
        "a|+|b|=|c|;| x|->|y|[|0|]| !=| \"|q|\"", " !|a| !|1| !| a",
        "http|://|x|.|org|/?|q|=|1|&|r|=|2", "a|\xff|b| \xff\xfe| c|\xc3", "\xe2\x82| €\x80",
        "\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80|x", "\xc2| a|\xa0", "a|~|b| ~~|c", "\xf0\x9f\x98|a",
        "𝒜|𝟙| 𐍈| \U000e0001\U0010ffff", "ªº| ʰ| ǅ| ʼn", "İıſK| ß|'|S"};
    Tokenizer *t = tokenizer_load(path_of("data"));  // opens the tables
    begin("tokenizer: words end where GPT-2's do");
    for (size_t i = 0; i < COUNT_OF(cuts); i++) {
        char text[128], cut[128];
        size_t size = 0, length = 0, whole;
        const char *right = text_of(cuts[i], &whole);
        for (size_t k = 0; k < whole; k++) text[size] = right[k], size += right[k] != '|';
        for (size_t at = 0, n; at < size; at += n) {
            if (at) cut[length++] = '|';
            n = word_length(text + at, size - at);
            memcpy(cut + length, text + at, n), length += n;
        }
        expect(length == whole && !memcmp(cut, right, length), "%s: cut as %.*s", cuts[i],
               (int)length, cut);
    }
    tokenizer_free(t);
}

// Texts, and random bytes of two kinds: any, and what trips readers of UTF-8.
void test_tokenizer(void) {
    static const char *const texts[] = {
        "", "the dog sees & cats ", "the~dog~~", "\xff\xfe\x80\xc3",
        "\xc3\xa9\xe2\x82\xac \xf0\x9f\x98\x80", "<|endoftext|>", "  \n\t  x\r\n\n",
        "it's 12'345, isn't it?"};
    const char *tricky = "\0\n a\x80\xbf\xc3\xe2\xf0\xff";
    Tokenizer *t = tokenizer_load(path_of("data"));
    begin("tokenizer: any bytes come back");
    for (size_t i = 0; i < COUNT_OF(texts) + 100; i++) {
        size_t size = 3 * i, count, at = 0, length;
        char random[400], *text = random;
        for (size_t k = 0; k < size; k++)
            text[k] = i % 2 ? (char)random_bits(&dice) : tricky[random_bits(&dice) % 10];
        if (i < COUNT_OF(texts)) text = text_of(texts[i], &size);
        int *ids = tokenizer_encode(t, text, size, &count);
        bool back = count <= size;
        for (size_t k = 0; k < count && back; at += length, k++) {
            const char *bytes = tokenizer_bytes(t, ids[k], &length);
            back = ids[k] < t->size - 1 && at + length <= size && !memcmp(text + at, bytes, length);
        }
        expect(back && at == size, "text %zu of %zu bytes does not come back", i, size);
        if (i == 1) expect(count < size / 2, "%zu tokens for %zu bytes", count, size);
        free(ids);
    }
    tokenizer_free(t);
}

void test_files(void) {
    enum { FEW = 2, LONG = 6 };
    Loader loader = {.p = 0};
    char metadata[1024];
    int text[FEW * LONG];
    for (int k = 0; k < 2 * WAYS; k++) {
        bool rows = k % 2;
        begin("files come back bit for bit: %s", ways[k / 2]);
        const char *path = path_of("saved"), *name = path_of("saved.safetensors");
        input_count = 0;  // they were read, and are written anew
        make_folder(path);
        Model *m = random_model((Dims){.layers = 2, .heads = 3, .channels = 6, .positions = 8});
        size_t V = m->dims.vocab;
        if (!rows) memset(m->unseen, false, V);
        draw_tokens(text, FEW * LONG, V), text[0] = 4;
        model_save(m, path, "");
        const Extension *x = plug(m, false, "%s --hidden=7 --rank=3 --alpha=0.1", ways[k / 2]);
        if (x) config_describe(metadata, &x->config, m, &loader), extension_save(m, name, metadata);
        Model *back = model_load(path);
        expect(!memcmp(m->unseen, back->unseen, V) == !(x && rows), "the unseen tokens differ");
        if (x) extension_load(back, name);
        const Extension *y = last_extension(back);
        expect(same(m->w.memory, back->w.memory, m->w.size), "the weights differ");
        expect(!memcmp(&m->dims, &back->dims, sizeof m->dims) && m->hash[0] == back->hash[0],
               "the sizes or the hash differ");
        expect(tokenizer_hash(m->tokenizer) == tokenizer_hash(back->tokenizer), "other tokenizers");
        const real *logits = logits_of(m, text, FEW, LONG);
        expect(same(logits, logits_of(back, text, FEW, LONG), FEW * LONG * V), "the logits differ");
        if (x)
            expect(same(x->w.memory, y->w.memory, x->w.size) && x->sets == y->sets
                   && !memcmp(&x->dims, &y->dims, sizeof x->dims)
                   && x->dims.new_rows == (rows ? 3 : 0)
                   && !memcmp(x->ids, y->ids, x->dims.new_rows * sizeof(int)), "tensors differ");
        if (x) expect(!memcmp(&x->config, &y->config, sizeof x->config), "the configs differ");
        expect(back->hash[back->n_extensions] == m->hash[m->n_extensions], "the hashes differ");
        model_free(m), model_free(back);
    }
}

// dev/tiny_gpt2: a random GPT-2 as transformers saves one, and what it computes there. Made by
// make_tiny_gpt2.py in that folder.
void test_hugging_face(void) {
    size_t count, n = 0, V = 0;
    int text[16];
    real right[300];
    begin("a GPT-2 of transformers computes the same here");
    Json *expected = json_read("dev/tiny_gpt2/expected.json");
    for (Json *x = json_get(expected, "ids")->child; x; x = x->next) text[n++] = x->number;
    for (Json *x = json_get(expected, "logits")->child; x; x = x->next) right[V++] = x->number;
    Model *m = model_load("dev/tiny_gpt2");
    const Json *said = json_get(expected, "text");
    int *ids = tokenizer_encode(m->tokenizer, said->string, strlen(said->string), &count);
    expect(count == n && !memcmp(ids, text, n * sizeof(int)), "the text becomes other tokens");
    expect(V == m->dims.vocab, "%zu logits", V);
    compare(DOUBLE ? 1e-5 : 1e-4, logits_of(m, text, 1, n) + (n - 1) * V, right, V, "logits");
    model_free(m), json_free(expected), free(ids);
}

// With the cache of keys and values, one token at a time and several; and what a sampler draws at
// temperature 0, computed without a cache: past the positions the last half is kept.
void test_cache(void) {
    enum { T = 72, V = 37 };
    static const size_t chunks[] = {1, 3, 8, 36};
    int text[2 * T];
    for (int w = 0; w < FEW_WAYS; w++) {
        begin("decoding with cached keys and values is the forward pass: %s", ways[w]);
        Dims d = {.layers = 2, .heads = 2, .channels = 12, .positions = T, .vocab = V};
        Model *m = random_model(d);
        plug(m, false, "%s --hidden=7 --rank=3", ways[w]);
        draw_tokens(text, T, V);
        const real *whole = logits_of(m, text, 1, T);
        Activations a = activations_new(m, 1, T, 1, false);
        for (size_t c = 0; c < COUNT_OF(chunks); c++)
            for (size_t end = chunks[c]; end <= T; end += chunks[c]) {
                model_forward(m, &a, text + end - chunks[c], 1, end, end - chunks[c]);
                compare(rounding, a.own.at[A_LOGITS], whole + (end - 1) * V, V,
                        "%zu at a time, position %zu", chunks[c], end - 1);
            }
        free(a.memory);
        size_t count = 5;
        Sampler s = sampler_new(m, text, count, 0, dice);
        for (int i = 0; i < 2 * T; i++) {
            if (count > T) memmove(text, text + count - T / 2, T / 2 * sizeof(int)), count = T / 2;
            const real *logits = logits_of(m, text, 1, count) + (count - 1) * V;
            int token = text[count++] = sampler_next(&s);
            expect(logits[token] > largest(V, logits) - 1e-4, "token %d drawn at %d", token, i);
        }
        free(s.a.memory), free(s.tokens);
        model_free(m);
    }
}

void test_sampling(void) {
    enum { V = 5, DRAWS = 20000 };
    real logits[V] = {0.5, -1, 2, 1, -0.25};
    double p[V], sum = 0;
    int counts[V] = {0}, greedy = 0, repeats = 0;
    begin("sampling");
    Random random = random_stream(5, STREAM_SAMPLING), twin = random, other = random_stream(6, 4);
    for (int i = 0; i < V; i++) sum += p[i] = exp(logits[i] / 0.7);
    for (int i = 0; i < DRAWS; i++) {
        int token = sample_token(logits, V, 0.7, &random);
        counts[token]++;
        repeats += token == sample_token(logits, V, 0.7, &twin);
        greedy += sample_token(logits, V, 0, &other) == 2;
        greedy += sample_token(logits, V, 1e-9, &other) == 2;
    }
    expect(repeats == DRAWS, "the same seed draws otherwise");
    expect(greedy == 2 * DRAWS, "temperature 0 or almost 0 is not greedy");
    for (int i = 0; i < V; i++)
        expect(likely(counts[i], DRAWS, p[i] / sum), "token %d is drawn %d times", i, counts[i]);
}

// The score of a file by its definition, one window of T predictions after the other.
Score evaluate_by_hand(const Model *m, const Tokens *from, size_t T) {
    size_t V = m->dims.vocab, L = m->dims.layers, count = from->count - 1;
    Score s = {.tokens = count};
    for (size_t first = 0; first < count; first += T) {
        size_t n = min_size(T, count - first);
        const uint16_t *ids = from->ids + first;
        int text[16];
        for (size_t t = 0; t < n; t++) text[t] = ids[t];
        Activations a = activations_new(m, 1, n, n, false);
        model_forward(m, &a, text, 1, n, 0);
        for (size_t t = 0; t < n; t++) {
            const real *logits = a.own.at[A_LOGITS] + t * V;
            double sum = 0;
            size_t length;
            for (size_t i = 0; i < V; i++) sum += exp(logits[i]);
            s.loss += (log(sum) - logits[ids[t + 1]]) / count;
            tokenizer_bytes(m->tokenizer, ids[t + 1], &length);
            s.bytes += length;
            for (size_t l = 0; l < L && m->n_extensions; l++) {
                Residue r = residue_at(m, &a, 0, l);
                s.gate += r.gate[t], s.closed += r.gate[t] == 0;
            }
        }
        free(a.memory);
    }
    s.bpb = s.loss * count / log(2) / s.bytes;
    s.gate /= L * count, s.closed /= L * count;
    return s;
}

void test_evaluate(void) {
    enum { T = 8 };
    static const size_t counts[] = {2, T, T + 1, T + 2, 53, 1024, 1025, 1026, 1100};
    uint16_t ids[1100];
    Model *m = random_model((Dims){.layers = 2, .heads = 2, .channels = 6, .positions = 16});
    begin("evaluation of a whole file");
    for (size_t i = 0; i < COUNT_OF(ids); i++) ids[i] = random_bits(&dice) % m->dims.vocab;
    for (size_t k = 0; k < 2 * COUNT_OF(counts); k++) {
        Tokens from = {.ids = ids, .count = counts[k % COUNT_OF(counts)]};
        if (k == COUNT_OF(counts)) plug(m, false, "--hidden=7");
        Score got = evaluate(m, &from, T), right = evaluate_by_hand(m, &from, T);
        compare_number(rounding, got.loss, right.loss, "loss");
        compare_number(rounding, got.bpb, right.bpb, "bits per byte");
        expect(got.tokens == right.tokens && got.bytes == right.bytes, "%zu tokens", got.tokens);
        compare_number(rounding, 1 + got.gate, 1 + right.gate, "gate");
        compare_number(rounding, 1 + got.closed, 1 + right.closed, "closed");
    }
    model_free(m);
}

// Items of random tokens, against every ending run by itself from the start.
void test_choices(void) {
    enum { P = 16, ITEMS = 200 };
    Model *m = random_model((Dims){.layers = 2, .heads = 2, .channels = 6, .positions = P});
    plug(m, false, "--hidden=7 --gate-input=prefix");
    Activations a = activations_new(m, 1, P, P, false), b = activations_new(m, 1, P, P, false);
    int context[P], V = m->dims.vocab;
    begin("multiple choice");
    for (size_t i = 0; i < ITEMS; i++) {
        Item item = {.endings = 2 + i % 3, .label = i % 2};
        double least[2] = {INFINITY, INFINITY};
        size_t best[2] = {0};
        item.context = 1 + random_bits(&dice) % 9;
        size_t right[2] = {0};
        draw_tokens(context, P, V);
        for (size_t k = 0; k < item.endings; k++) {
            size_t n = item.count[k] = item.context + 1 + random_bits(&dice) % 7;
            int *ids = item.ids[k] = allocate(P, sizeof *ids);
            draw_tokens(ids, P, V);
            memcpy(ids, context, item.context * sizeof *ids);
            item.characters[k] = 1 + random_bits(&dice) % 9;
            b.n_logits = n - 1;
            model_forward(m, &b, ids, 1, n - 1, 0);
            crossentropy_forward(b.own.at[A_LOSSES], b.own.at[A_LOGITS], ids + 1, n - 1, V);
            double sum = 0;
            for (size_t t = item.context; t < n; t++) sum += b.own.at[A_LOSSES][t - 1];
            for (int i = 0; i < 2; i++, sum /= item.characters[k])
                if (sum < least[i]) least[i] = sum, best[i] = k;
        }
        item_answer(m, &item, &a, right);
        compare(rounding, a.own.at[A_LOGITS] + (a.n_logits - 1) * V,
                b.own.at[A_LOGITS] + (b.n_logits - 1) * V, V, "the last token");
        for (int k = 0; k < 2; k++)
            expect(right[k] == (best[k] == item.label), "item %zu: the answer is %zu", i, best[k]);
    }
    free(a.memory), free(b.memory);
    model_free(m);
}

// A step of training, then a token decoded, of a model large enough for everything that threads
// divide. Returns a hash of the weights, the gradients, the losses and the logits.
uint32_t hash_of_step(const char *options) {
    enum { V = 3000, T = 70 };
    dice = 99;
    Dims d = {.layers = 1, .heads = 3, .channels = 48, .positions = T, .vocab = V};
    Model *m = random_model(d);
    plug(m, false, "%s --hidden=40 --rank=6", options);
    Training t = training(m, 2, T);
    Activations a = activations_new(m, 1, T, 1, false);
    Loss loss = training_step(&t, 1e-2, 0.1);
    model_forward(m, &a, t.batch.tokens, 1, T - 1, 0);
    model_forward(m, &a, t.batch.tokens + T - 1, 1, T, T - 1);
    expect(isfinite(t.norm) && t.norm > 0 && isfinite(a.own.at[A_LOGITS][0]), "no numbers");
    uint32_t hash = fnv1a(FNV_START, t.w->memory, t.w->size * sizeof(real));
    hash = fnv1a(hash, t.grad.memory, t.grad.size * sizeof(real));
    hash = fnv1a(fnv1a(hash, &loss, sizeof loss), a.own.at[A_LOGITS], V * sizeof(real));
    free(a.memory);
    training_end(&t);
    return hash;
}

// Rising numbers: threads that end would leave their scratch memory behind.
void test_threads(void) {
    static const int threads[] = {1, 2, 3, 7};
    uint32_t hash[COUNT_OF(threads)][FEW_WAYS];
    begin("the same bits for 1, 2, 3 and 7 threads");
    for (size_t k = 0; k < COUNT_OF(threads) * FEW_WAYS; k++) {
        size_t i = k / FEW_WAYS, w = k % FEW_WAYS;
        omp_set_num_threads(threads[i]);
        hash[i][w] = hash_of_step(ways[w]);
        expect(hash[i][w] == hash[0][w], "%s: %d threads differ", ways[w], threads[i]);
    }
    threads_adapt(now() - 1, clock());  // a second without the processor: another program has it
    expect(omp_get_max_threads() == 1, "it does not give way");
}

// -------------------------------------------------------------------------------------------------
// The programs, in the folder $D and with the commands of `prelude`.

typedef struct { const char *command, *words; } Command;

// Each does its work, and says the words on stdout.
const Command made[] = {
    {"echo kept >kept; echo one line >line.txt; echo made", "made"},
    {"$pretrain $tiny -o model", "model written"},
    {"$pretrain $tiny --seed 2 -o other", "other written"},
    {"$extend --steps 5 -o neutral.safetensors", "neutral.safetensors written"},
    {"head -c 999 neutral.safetensors | tr -cd ' -~'",
     "\"method\":\"neutral\",\"context\":\"16\",\"steps\":\"5\",\"batch\":\"2\",\"lr\":\"0.005\""},
    {"$extend --steps=5 --method adapter --new-rows 0 -o adapter.safetensors",
     "adapter.safetensors w"},
    {"$extend --steps 5e0 --method lora -x neutral.safetensors -o lora.safetensors",
     "lora.safetensors w"},
    {"mkdir far && ln -s far/c.csv near && nr eval -i model --data data --domains en --csv near &&"
     " test -L near && cat far/c.csv", "\nbackbone,1,0,en,,"},
    {"mkfifo way && { cat way >got & } && nr eval -i model --data data --domains en --csv way &&"
     " wait && test -p way && cat got", "method,seed,stage,domain,role,split,"},
    {"$extend --steps 5 --method finetune -o tuned", "tuned written"},
    {"$extend --steps 5 --gate-input prefix --negatives de -o prefix.safetensors",
     "prefix.safetensors w"},
    {"$eval -i model -x neutral.safetensors -x lora.safetensors && cat kept",
     "\nlora,1,2,fr,,val,"},
    {"$eval -i model -x neutral.safetensors -x prefix.safetensors",
     "gate  closed\n"},
    {"$extend --steps 5 --method replay --replay 50 -o replay.safetensors",
     "replay.safetensors written"},
    {"$eval -i tuned", "bits/byte"},
    {"test $(wc -c <tuned/config.json) -lt $(wc -c <model/config.json) && echo fewer are unseen",
     "fewer are unseen"},
    {"for i in 1 2 3; do nr eval -i model --data data --domains en --csv one & done; wait;"
     " cmp one far/c.csv && ls one*", "one\n"},
    {"nr gates -i model -x neutral.safetensors 'é'", " .\n"},
    {"nr --version && nr help sample", "nr 2.0: "},
    {"seq 300000 | tokenizer encode -m data -o data/long_val.bin - &&"
     " { nr eval -i model --data data --domains long >table & sleep 0.2; kill $!; wait $!;"
     " test $? = 130; } && rm data/long_val.bin && echo stopped", "stopped"},
    {"seq 400 >-dash.txt && seq 500 900 >numbers.txt && mkdir real && ln -s real link &&"
     " prepare_data.sh files --lines -v 300 en=numbers.txt fr=-dash.txt -o link && test -L link &&"
     " ls real", "vocab.json"},
    {"printf '%s\n' '{\"ctx\": \"the dog\", \"endings\": [\" ran\", \" s\\u00e9\"], \"label\": 1}'"
     " '{\"query\": \"a cat \", \"label\": 0, \"choices\": [\"x\", \"y\", \"z\", \"w\"]}' >items &&"
     " $eval -i model -x prefix.safetensors --choices items --choices items && cat kept",
     "\nitems,2,"},
    {"cat kept", ",0.375000\nitems,2,"},
    {"nr eval -i model --choices items --csv new/folder/csv && cat new/folder/csv", "items,2,"},
    {"$extend --steps 1 -o slash.safetensors/ && test -f slash.safetensors && echo a file",
     "a file"},
    {"$run -o run $tiny --steps 5 >table && cat run/results.csv", "\nneutral,1,1,fr,new,"},
    {"$run -o run $tiny --steps 5 --methods naive",
     "run: has adapter.safetensors, backbone, finetune,"},
    {"$pretrain --layers 1 --channels 256 --context 32 --pretrain-steps 1 -o wide >table &&"
     " OMP_DISPLAY_AFFINITY=true OMP_AFFINITY_FORMAT='level %L.%n' OMP_MAX_ACTIVE_LEVELS=4"
     " OMP_NUM_THREADS=3 nr extend -i wide --data data --method replay --replay 99 --steps 1"
     " -o x.safetensors 2>&1 >table | grep 'level 2.[1-9]' | wc -l", "0\n"},
    {"$run -o chain $tiny --steps 5 --new fr,de --methods finetune,lora,neutral >table &&"
     " cat chain/results.csv", "\nneutral,1,2,de,new,"},
    {"$eval -i chain/backbone -x chain/neutral-fr.safetensors -x chain/neutral-de.safetensors",
     "bits/"},
    {"$eval -i chain/backbone -x chain/lora-fr.safetensors -x chain/lora-de.safetensors",
     "bits/byte"},
    {"$eval -i chain/finetune-de", "bits/byte"},
    {"nr gates -i model -x neutral.safetensors the dog", " the\n"},
    {"$sample -p 'the dog' --seed 3 >a && $sample the dog --seed 3 >b && cmp a b && cat a",
     "the dog"},
    {"$sample -p 'the dog' --seed 4 >b && ! cmp -s a b && cat b", "the dog"},
    {"$sample --temperature 0 >a && $sample --temperature 1e-9 >b && cmp a b && echo same", "same"},
    {"tokenizer decode -m data data/fr_train.bin | cmp - fr.txt && echo as it was", "as it was"},
    {"seq 2000 | tokenizer train -v 999 -o numbers -;"
     " seq 1995 2000 | tokenizer encode -m numbers - | wc -l",
     "1\n"},
    {"nr extend --help && nr --help && tokenizer --help", "[400]"},
};

// Each is answered by one line on stderr that has the words, by exit status 1, and by nothing
// written.
const Command refused[] = {
    // what is no option, or none of this command or method
    {"nr fly", "fly: not a command, expected run, pretrain"},
    {"$extend -o kept --colour red", "--colour: not an option of extend"},
    {"$extend -o kept surplus", "surplus: not an option of extend"},
    {"$pretrain -o out --steps 5", "--steps: not an option of pretrain"},
    {"$extend -o kept --steps", "--steps: a value is missing"},
    {"$extend -o kept --resume=1", "--resume: takes no value"},
    {"$eval -i model -x neutral.safetensors -x neutral.safetensors", "safetensors: given twice"},
    {"$extend --old en --new en -o kept", "--new en: is among the old domains"},
    {"nr eval -i model --data data --domains en --csv model/config.json", "also an input of this"},
    {"$extend -x neutral.safetensors -o neutral.safetensors", "is also an input of this command"},
    {"tokenizer encode -m data -o en.txt en.txt", "en.txt: is also an input of this command"},
    {"$extend --resume --steps 6 -o neutral.safetensors", "but no interrupted training is"},
    {"$extend -o kept --steps 5 --steps=5", "--steps: given twice"},
    {"$eval -i model $(for i in 1 2 3 4 5 6 7 8 9; do echo -x neutral.safetensors; done)",
     "more than 8 times"},
    {"$extend -o kept --method lora --gate relu", "--gate: is not for lora"},
    {"$extend -o kept --method naive --p 0.1", "--p: is not for naive"},
    {"$extend -o kept --method adapter --gate-input prefix", "--gate-input: is not for adapter"},
    {"$run -o out --methods lora,adapter --alpha 1", "--alpha: is not for lora,adapter"},
    // values
    {"$pretrain -o out --layers -1", "--layers -1: expected a whole number from 1"},
    {"$pretrain -o out --layers 99999999999999999999",
     "--layers 99999999999999999999: expected a whole number"},
    {"$pretrain -o out --channels 99999999", "--channels 99999999: expected a whole number from 1"},
    {"$pretrain -o out --pretrain-steps 0", "--pretrain-steps 0: expected a whole number from 1"},
    {"$pretrain -o out --batch 1.5",
     "--batch 1.5: expected a whole number from 1"},
    {"$pretrain -o ''", "--out: its value is empty"},
    {"$extend -o kept --p 1.5", "--p 1.5: expected a number from 0 to 1"},
    {"$extend -o kept --p -0.1", "--p -0.1: expected a number from 0 to 1"},
    {"$extend -o kept --p nan", "--p nan: expected a number from 0 to 1"},
    {"$extend -o kept --p abc", "--p abc: expected a number from 0 to 1"},
    {"$extend -o kept --p ''", "--p : expected a number from 0 to 1"},
    {"$extend -o kept --alpha -1", "--alpha -1: expected a number from 0"},
    {"$extend -o kept --lr inf", "--lr inf: expected a number"},
    {"$extend -o kept --method magic",
     "--method magic: not known, expected backbone|naive|finetune|lora|"},
    {"$extend -o kept --gate tanh", "--gate tanh: not known, expected relu|sigmoid|none"},
    {"$extend -o kept --gate-init shut",
     "--gate-init shut: not known, expected open|closed|random"},
    {"$run -o out --methods neutral,magic", "--methods neutral,magic: expected some of naive|"},
    {"$run -o out --methods lora,lora", "--methods lora,lora: expected some of"},
    // what does not go together, or is missing
    {"$pretrain -o out --channels 65536 --layers 1024", "these sizes make"},
    {"$pretrain -o out --heads 3 --channels 16", "3 heads do not divide 16 channels"},
    {"$pretrain -o model --batch 65536 --context 1024 --heads 16 --channels 16 --layers 1024",
     "out of memory: 1024 activations of"},
    {"$pretrain", "-o is missing: the folder or the file"},
    {"$extend", "-o is missing: the folder or the file"},
    {"$extend -o kept --local ce", "--local ce: needs --gate sigmoid"},
    {"$extend -o kept --method lora --replay 9", "--replay: lora has no penalty to see it"},
    {"$extend -o kept --gate none --gate-input prefix", "--gate-input prefix: needs a --gate"},
    {"$extend -o kept --p 0.6 --q 0.6", "--p 0.6 --q 0.6: more than 1 together"},
    {"$extend -o kept --context 17", "--context 17: the model has 16 positions"},
    {"$extend -o kept --method backbone", "--method backbone: nr pretrain does that"},
    {"$extend -o out --method naive -x neutral.safetensors",
     "--method naive: takes no -x"},
    {"$extend -o kept/out", "kept: is a file, not a folder"},
    {"rm -rf broken; $pretrain --layers 1 --channels 8 --pretrain-steps 9999 -o broken >brokens"
     " 2>&1 &\n while kill -0 $! && ! grep -qs trains brokens; do :; done\n"
     " $pretrain $tiny -o broken/; s=$?; kill $!; wait; exit $s",
     "broken: another process is writing there"},
    {"$pretrain -o kept/out", "kept: is a file, not a folder"},
    {"nr gates -i model -x neutral.safetensors", "1 to 16 tokens, here 0"},
    {"nr gates -i model 'the dog'", "gates: expected -x FILE that has gates, and a"},
    {"nr gates -i model -x adapter.safetensors 'the dog'", "-x FILE that has gates, and a text"},
    {"nr gates -i model -x neutral.safetensors $(seq 20)",
     "a text of 1 to 16 tokens, here 20"},
    {"tokenizer train -v 5 -o out en.txt", "--vocab 5: expected a whole number from 257 to 65535"},
    {"tokenizer train -v 300 en.txt", "train: expected --output and --vocab"},
    {"tokenizer encode -m", "-m: a value is missing"},
    {"tokenizer decode -m data -o out line.txt", "-o: not an option of decode"},
    // texts
    {"nr --data none -o out", "none: has no vocab.json or tokenizer.json"},
    {"nr pretrain --data none -o out", "none: has no vocab.json or tokenizer.json"},
    {"nr pretrain --data data --known xx -o out", "data/xx_train.bin: not there (what is: de_"},
    {"$extend --negatives xx -o kept", "data/xx_train.bin: not there (what is: de_"},
    {"cp items broken.items && nr eval -i model $broken_items --csv broken.items",
     "broken.items: is also an input"},
    {"$run --new en -o out", "domains en,en: en is there twice"},
    {"$pretrain --context 100000 -o out", "en_train.bin: "},
    {"prepare_data.sh files en=line.txt fr=fr.txt -o out", "has 1 line"},
    {"prepare_data.sh files --lines en=line.txt fr=fr.txt -o out", "has 1 line"},
    {": >broken.txt; prepare_data.sh files en=en.txt fr=broken.txt -o out", "broken.txt"},
    {"echo >broken.txt; prepare_data.sh files --lines en=en.txt fr=broken.txt -o out",
     "broken.txt"},
    {"head -c 1500 data/en_train.bin >data/broken_train.bin; $broken",
     "tokens, but 476 bytes follow it"},
    {"(cat data/en_train.bin; echo) >data/broken_train.bin; $broken", "bytes follow it"},
    {"tokens 8 '\\377\\377\\377\\377'; $broken", "broken_train.bin: header says 4294967295 tokens"},
    {"tokens 0 '\\7\\0\\0\\0'; $broken",
     "broken_train.bin: is not a file of tokens: begins with 7 1"},
    {"tokens 4 '\\2'; $broken",
     "is not a file of tokens: begins with 20240520 2, expected 20240520 1"},
    {"tokens 1024 '\\352\\352'; $broken", "token 0 is 60138, beyond the vocabulary of 300"},
    {"tokens 12 '\\115\\0\\0\\0'; $broken",
     "made with another tokenizer (its vocabulary has hash 0000004d"},
    {"echo the dog | tokenizer encode -m data -o data/broken_train.bin - && $broken",
     "expected at least 17"},
    {"tokenizer decode -m data line.txt", "line.txt: 9 bytes, expected a file of tokens"},
    {"tokenizer decode -m numbers data/en_train.bin", "en_train.bin: made with another tokenizer"},
    // items
    {"items '{\"endings\": [\"a\"], \"label\": 0}'", "broken.items: line 3: expected \"ctx\" (or"},
    {"items '{\"ctx\": \"a\", \"label\": 0}'",
     "broken.items: line 3: expected \"ctx\" (or \"query\"), a text, and"},
    {"items '{\"ctx\": \"a\", \"endings\": [], \"label\": 0}'", "that counts the 0 endings"},
    {"items '{\"ctx\": \"a\", \"endings\": [\"b\"], \"label\": 1}'",
     "that counts the 1 endings from 0"},
    {"items '{\"ctx\": \"a\", \"endings\": [\"b\", 7], \"label\": 0}'",
     "ending 1: expected a text"},
    {"items '{\"ctx\": \"a\", \"endings\": [\"'$(seq 20)'\"], \"label\": 0}'",
     "the context's, at most 16"},
    {"items the dog", "broken.items: line 3: JSON: expected a value at byte 0"},
    {": >broken.items; $eval -i model $broken_items", "broken.items: is empty, expected items"},
    // extensions
    {"$eval -i other -x neutral.safetensors",
     "neutral.safetensors: trained upon a model with hash"},
    {"$eval -i model -x lora.safetensors", "lora.safetensors: trained upon a model with hash"},
    {"$eval -i model -x adapter.safetensors -x lora.safetensors", "lora.safetensors: trained upon"},
    {"$eval -i model -x model/model.safetensors",
     "model.safetensors: is a model, not an extension"},
    {"$eval -i model -x model", "model: is a folder, not a file"},
    {"$eval -i model -x line.txt", "line.txt: says its header has"},
    {"head -c 1000 neutral.safetensors >broken.safetensors; $eval -i model -x broken.safetensors",
     "broken.safetensors: says its header has"},
    {"bend 's/\\x3f/\\x3e/' neutral && $bent", "broken.safetensors: damaged"},
    {"bend 's/\"gate\":\"relu\"/\"gate\":\"rule\"/' neutral && $bent",
     "metadata gate rule: not known"},
    {"bend 's/\"upon\"/\"open\"/' neutral && $bent", "its metadata has no \"upon\""},
    {"printf short >broken.safetensors; $bent", "broken.safetensors: shorter than the 8 bytes"},
    {"header '{}' '\\0\\0\\20\\0\\0\\0\\0\\0'; $bent", "says its header has 1048576 bytes"},
    {"header '{}' '\\0\\0\\0\\200\\0\\0\\0\\0'; $bent", "says its header has 2147483648 bytes"},
    {"header '{}' '\\0\\0\\0\\0\\0\\0\\0\\200'; $bent",
     "says its header has 9223372036854775808 bytes"},
    {"header '{}' '\\373\\377\\377\\377\\377\\377\\377\\377'; $bent",
     "its header has 18446744073709551611 bytes"},
    {"header '{\"x\":'; $bent", "broken.safetensors: JSON: expected"},
    {"header '[1, 2]'; $bent", "broken.safetensors: the header is not a JSON object"},
    {"header \"$(printf %0100d | tr 0 '[')\"; $bent",
     "JSON: expected no deeper nesting at byte 64"},
    {"header '{\"\\x41\":{}}'; $bent", "broken.safetensors: JSON: expected an escape at byte 3"},
    {"header '{\"x\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}'; $bent",
     "has no \"method\""},
    // models
    {"$eval -i none", "none/config.json: No such file"},
    {"rm -rf broken; cp -r model broken;"
     " head -c 5000 model/model.safetensors >broken/model.safetensors; $eval -i broken",
     "broken/model.safetensors: "},
    {"edit model.safetensors 's/shape\":\\[300/shape\":\\[301/'",
     "wte.weight: side 0 of its shape is 301"},
    {"edit model.safetensors 's/F32/F16/'",
     "wte.weight is stored as F16, expected F32 (in Python: model.f"},
    {"edit model.safetensors 's/wte.weight/wte.wait__/'",
     "model.safetensors: has no tensor wte.weight"},
    {"edit model.safetensors 's/offsets\":\\[0,/offsets\":[4,/'",
     "wte.weight: its data_offsets are not"},
    {"edit model.safetensors 's/:\"pt\"/:\"p\"/; s/offsets\":\\[0,/offsets\":[-4,/'",
     "its data_offsets are"},
    {"edit model.safetensors 's/offsets\":\\[0,/offsetz\":[0,/'",
     "wte.weight: its data_offsets are not"},
    {"edit model.safetensors 's/\\(ln_f.bias.*s\":\\[[0-9]*,\\)[0-9]/\\19/'",
     "ln_f.bias: its data_offsets are"},
    {"edit model.safetensors "
     "'s/\\(f.weight.*s\":\\)\\(\\[[0-9,]*\\]\\)\\(.*f.bias.*s\":\\)\\[[0-9,]*\\]/\\1\\2\\3\\2/'",
     "share bytes"},
    {"rm -rf broken; cp -r model broken; mv broken/model.safetensors broken/pytorch_model.bin;"
     " $eval -i broken", "broken/model.safetensors: not there (shards or a pytorch_model.bin"},
    {"edit config.json '1s/{/(/'", "config.json: JSON: expected a value at byte 0, found '('"},
    {"edit config.json 's/\"gelu_new\"/\"\\\\q\"/'", "config.json: JSON: expected an escape"},
    {"edit config.json 's/\"gelu_new\"/\"relu\"/'",
     "\"activation_function\" is relu, but nr computes with gelu_new|"},
    {"edit config.json 's/1e-05/1e-06/'",
     "\"layer_norm_epsilon\" is 1e-06, but nr computes with 1e-05 only"},
    {"edit config.json 's/true/false/'",
     "\"tie_word_embeddings\" is false, but nr computes with true only"},
    {"edit config.json 's/\"gpt2\"/\"bert\"/'", "config.json: \"model_type\" is bert"},
    {"edit config.json '/model_type/d'", "config.json: \"model_type\" is missing"},
    {"edit config.json '/n_layer/d'", "config.json: \"n_layer\" is missing or not a whole number"},
    {"edit config.json 's/_layer\": 2/_layer\": 1e30/'",
     "\"n_layer\" is missing or not a whole number"},
    {"edit config.json 's/_layer\": 2/_layer\": -1/'",
     "\"n_layer\" is missing or not a whole number"},
    {"edit config.json 's/_layer\": 2/_layer\": 2.5/'",
     "\"n_layer\" is missing or not a whole number"},
    {"edit config.json 's/_layer\": 2/_layer\": 1, \"n_layer\": 2/'",
     "JSON: the key \"n_layer\" is there twice"},
    {"edit config.json 's/_layer\": 2/_layer\": 1/'", "has 12 tensors that do not belong to it"},
    {"edit config.json 's/_layer\": 2/_layer\": 3/'", "model.safetensors: has no tensor h.2."},
    {"edit config.json 's/_head\": 2/_head\": 3/'",
     "config.json: 3 heads do not divide 16 channels"},
    {"edit config.json 's/_head\": 2/_head\": 0/'", "\"n_head\" is missing or not a whole number"},
    {"edit config.json 's/_head\": 2/_head\": 2, \"n_inner\": 63/'",
     "\"n_inner\" is 63, but nr computes with 64|null"},
    {"edit config.json 's/_embd\": 16/_embd\": 18/'",
     "wte.weight: side 1 of its shape is 16, expected 18"},
    {"edit config.json 's/_layer\": 2/_layer\": 256/; s/_embd\": 16/_embd\": 1024/'",
     "shape is 16, expected 1024"},
    {"edit config.json 's/b_size\": /b_size\": 1/'", "config.json: \"vocab_size\" is 1"},
    {"edit config.json 's/tokens\": \\[/tokens\": [999999, /'",
     "\"unseen_tokens\" has what is no id below 300"},
    {"edit config.json 's/tokens\": \\[.*/tokens\": 7/'",
     "config.json: \"unseen_tokens\" is not a list"},
    {"edit vocab.json 's/{/{{/'", "vocab.json: JSON: expected '\"' at byte 1, found '{'"},
    {"edit vocab.json 's/: 7,/: 8,/'", "vocab.json: id 8 is both"},
    {"edit merges.txt '2s/$/?/'", "merges.txt: merge 1: "},
    {"edit merges.txt '2s/ //'", "merges.txt: merge 1: \"at\": expected two tokens"},
    {"edit merges.txt 2d", "merges.txt: "},
    {"edit merges.txt '$p'", "merges.txt: more than "},
};

void test_programs(void) {
    begin("the programs work");
    for (size_t i = 0; i < COUNT_OF(made); i++) shell(0, made[i].words, "%s", made[i].command);
    begin("the programs refuse, in one line");
    setenv("LSAN_OPTIONS", "detect_leaks=0", 0);  // a program that dies frees nothing
    for (size_t i = 0; i < COUNT_OF(refused); i++)
        shell(1, refused[i].words, "%s", refused[i].command);
}

// Trains in one go on one thread. Then again: interrupted as soon as there is a state (by SIGTERM,
// for shells have what runs in their background ignore SIGINT; once more if a busy machine notices
// it too late), refused under other settings, resumed.
void test_resume(void) {
    static const Command runs[] = {
        {"pretrained", "$pretrain --layers 2 --channels 16 --context 16 --pretrain-steps 60"},
        {"neutral.st", "$extend --steps 60"},
        {"replay.st", "$extend --steps 60 --method replay --replay 50 -x neutral.safetensors"},
        {"lora.st", "$extend --steps 60 --method lora -x neutral.safetensors"},
        {"adapter.st", "$extend --steps 60 --method adapter"},
        {"naive", "$extend --steps 60 --method naive"},
        {"tuned", "$extend --steps 60 --method finetune"}};
    begin("interrupted on two or three threads and resumed on seven: the same bits as on one");
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        const char *name = runs[i].command, *command = runs[i].words;
        shell(0, "written", "%s -o whole/%s --threads 1", command, name);
        shell(130, "", "for try in 1 2 3 4 5 6 7 8 9; do\n"
              "    %s -o part/%s --threads %zu --save-every 1 &\n"
              "    while ! [ -e part/%s.state ] && kill -0 $!; do :; done; kill $!; wait $!\n"
              "    [ $? = 130 ] && [ -e part/%s.state ] && exit 130; done", command, name,
              OPENMP ? 2 + i % 2 : 1, name, name);
        shell(0, ".state: saved under other settings: seed 1, and now 9",
              "! %s -o part/%s --resume --seed 9 2>&1", command, name);
        shell(0, "goes on from step", "%s -o part/%s%s --threads %d --resume", command, name,
              strchr(name, '.') ? "" : "//", OPENMP ? 7 : 1);
    }
    shell(0, "", "diff -r whole part");
}

int main(int argc, char **argv) {
    program = "test_nr";
    if (argc && !getenv("OMP_WAIT_POLICY")) {  // read when a program starts: who waits shall sleep
        setenv("OMP_WAIT_POLICY", "passive", 1);
        execvp(argv[0], argv);
    }
    omp_set_num_threads(1);  // the models are tiny
    make_data();
    test_numbers();
    test_matmul();
    if (DOUBLE) test_layers(), test_model();
    test_closed();
    test_reference();
    test_start();
    test_frozen();
    test_loader();
    test_adamw();
    test_overfit();
    test_words();
    test_tokenizer();
    test_files();
    test_hugging_face();
    test_cache();
    test_sampling();
    test_evaluate();
    test_choices();
    if (!DOUBLE) test_programs(), test_resume();
    if (OPENMP) test_threads();
    begin(NULL);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

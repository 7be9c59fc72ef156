/*
test_nr: does nr.c compute what it says? `make test` builds this file twice, and runs both.

    ./test_nr_double    every gradient against central differences, to 1e-6; ten steps of training against PyTorch's
    ./test_nr_float     nr as it is used: values and gradients against PyTorch's, and what the programs do and refuse

Each prints a line for every group of tests, with the worst relative error and where it was, and at the end `N passed, N failed`.
A relative error is that of a whole tensor, |a - b| / |b|. A tensor that is all zero fails: nothing was compared. Run it where
nr.c is: it reads dev/reference.safetensors and dev/tiny_gpt2, and runs ./nr, ./tokenizer and ./prepare_data.sh.

How to read it: the helpers; small numbers and the multiply; the layers (the table `layers`) and the whole model (the table
`ways`, the ways of training it) against central differences; the reference; what stays as it was; the loader, AdamW, learning
by heart; words, files, decoding, threads, evaluation; last the programs, with the tables `made`, `damaged`, `refused`, `edited` and
`runs`.
*/
#define NR_LIBRARY
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"  // the command line's: this file has a main of its own
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-const-variable"
#include "nr.c"
#pragma GCC diagnostic pop
#include <sys/wait.h>
#ifdef _OPENMP
enum { OPENMP = 1 };
#else
enum { OPENMP = 0 };
#endif

#define COUNT_OF(list) (sizeof(list) / sizeof *(list))
enum { DOUBLE = sizeof(real) == sizeof(double) };
static const double rounding = DOUBLE ? 1e-12 : 1e-5;  // the relative error that rounding alone may make

// ---------------------------------------------------------------------------------------------------------------------
// Helpers: groups of tests, comparisons, random values, and a folder with data.

// Writes a function's format and what follows it into an array.
#define FORMAT_INTO(text, format) \
    do { va_list arguments; va_start(arguments, format); vsnprintf(text, sizeof text, format, arguments); va_end(arguments); } while (0)

static struct { char name[96], where[96]; size_t compared, facts, redrawn; double worst; bool failed; } group;
static int passed, failed;
static void *kept[4096];  // memory that lives until the next group
static size_t n_kept;

static void *keep(void *memory)
{
    if (n_kept == COUNT_OF(kept)) die("too much memory is kept");
    return kept[n_kept++] = memory;
}

// A fact. The rest says what is wrong if it does not hold.
static void expect(bool holds, const char *format, ...)
{
    static char text[16384];
    group.facts++;
    if (holds) return;
    group.failed = true;
    FORMAT_INTO(text, format);
    printf("    %s\n", text);
}

// Ends a group with its line, and begins the next; NULL: there is none.
static void begin(const char *format, ...)
{
    if (*group.name) {
        if (group.compared + group.facts == 0) expect(false, "nothing was checked");
        printf("%s  %s:", group.failed ? "FAIL" : "ok", group.name);
        if (group.compared) printf(" %zu tensors, worst %.1e (%s)", group.compared, group.worst, group.where);
        if (group.facts) printf("%s %zu facts", group.compared ? "," : "", group.facts);
        if (group.redrawn) printf(", %zu drawn again", group.redrawn);
        printf("\n"), fflush(stdout);
        *(group.failed ? &failed : &passed) += 1;
    }
    while (n_kept) free(kept[--n_kept]);
    memset(&group, 0, sizeof group);
    if (format) FORMAT_INTO(group.name, format);
}

// The relative error of `got` must be below the tolerance; the rest names the tensor.
static void compare(double tolerance, const real *got, const real *right, size_t n, const char *format, ...)
{
    double error = 0, norm = 0;
    char what[sizeof group.where];
    FORMAT_INTO(what, format);
    for (size_t i = 0; i < n; i++) {
        error += ((double)got[i] - (double)right[i]) * ((double)got[i] - (double)right[i]);
        norm += (double)right[i] * (double)right[i];
    }
    error = sqrt(error / norm);
    if (!group.compared++ || !(error <= group.worst)) group.worst = error, memcpy(group.where, what, sizeof what);
    if (!(error < tolerance)) expect(false, "%s: relative error %.1e of %zu values, expected below %.0e", what, error, n, tolerance);
}

static void compare_number(double tolerance, double got, double right, const char *what)
{
    compare(tolerance, (real[]){(real)got}, (real[]){(real)right}, 1, "%s", what);
}

static Random dice = {1};

// Random values that float holds exactly, so that files keep them and both builds start from the same.
static real *drawn(size_t n)
{
    real *x = keep(allocate(n, sizeof(real)));
    for (size_t i = 0; i < n; i++) x[i] = (real)(float)random_normal(&dice);
    return x;
}

static void draw_tokens(int *tokens, size_t n, size_t V)
{
    for (size_t i = 0; i < n; i++) tokens[i] = (int)(random_bits(&dice) % V);
}

static real *copied(const real *x, size_t n) { return memcpy(keep(allocate(n, sizeof(real))), x, n * sizeof(real)); }

// Are they the same bits, and numbers?
static bool same(const real *a, const real *b, size_t n)
{
    bool numbers = n > 0;
    for (size_t i = 0; i < n; i++) numbers &= isfinite(a[i]) != 0;
    return numbers && !memcmp(a, b, n * sizeof(real));
}

static char folder[512], data[600];  // of the tests, and DATA in it: a tokenizer and the domains en and fr

// Runs a shell command, in which $D is the folder. Returns what it says on stdout (1) or stderr (2), and its exit status.
static const char *shell(const char *command, int stream, int *status)
{
    static char line[4096], said[8192];
    snprintf(line, sizeof line, "{ %s ; } %s", command, stream == 1 ? "2>/dev/null" : "2>&1 >/dev/null");
    FILE *pipe = popen(line, "r");
    if (!pipe) die("sh: %s", strerror(errno));
    said[fread(said, 1, sizeof said - 1, pipe)] = 0;
    *status = pclose(pipe);
    *status = WIFEXITED(*status) ? WEXITSTATUS(*status) : -1;
    return said;
}

static void remove_folder(void) { if (system("rm -rf $D")) perror(folder); }

static void make_data(void)
{
    int status;
    snprintf(folder, sizeof folder, "%s/test_nr_XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(folder)) die("%s: %s", folder, strerror(errno));
    setenv("D", folder, 1);
    atexit(remove_folder);
    snprintf(data, sizeof data, "%s/data", folder);
    const char *said = shell("cd $D && seq 300 | sed 's/.*/the dog sees & cats ./' > en.txt && seq 300 | sed 's/.*/le chien voit & chats ./' > fr.txt"
        " && cd - && ./tokenizer train -v 300 --lines -o $D/data $D/en.txt && for l in en fr; do ./tokenizer encode -m $D/data --lines"
        " -o $D/data/${l}_train.bin $D/$l.txt && cp $D/data/${l}_train.bin $D/data/${l}_val.bin || exit 1; done", 2, &status);
    if (status) die("the tests' data cannot be made: %s", said);
}

// ---------------------------------------------------------------------------------------------------------------------
// Small numbers, and the multiply against three loops.

static void test_numbers(void)
{
    begin("exponential, sigmoid, dot, total, largest");
    const real infinite = (real)INFINITY, none = (real)NAN, *a = drawn(200), *b = drawn(200);
    double worst = 0;
    for (int i = -87 * 4096; i <= 88 * 4096; i++) {
        const double x = (double)((float)i / 4096 + (float)(i % 7) * 1e-5f), error = fabs((double)exponential((real)x) / exp(x) - 1);
        if (x >= -87 && x <= 88 && !(error <= worst)) worst = error;
    }
    expect(worst < 3e-7, "e^x on [-87, 88]: relative error %.1e", worst);
    expect(exponential(0) == 1, "e^0 is not 1");
    expect(exponential(-infinite) == 0 && exponential(-1000) == 0, "e^-inf or e^-1000 is not 0");
    expect(exponential(infinite) == infinite && exponential(1000) == infinite, "e^inf or e^1000 is not infinite");
    expect(isnan(exponential(none)) && isnan(sigmoid(none)), "NaN is lost");
    expect(sigmoid(0) == (real)0.5 && sigmoid(1000) == 1 && sigmoid(-1000) == 0, "sigmoid of 0, 1000 or -1000 is wrong");
    expect(sigmoid(infinite) == 1 && sigmoid(-infinite) == 0, "sigmoid of inf or -inf is wrong");
    for (size_t n = 1; n <= 200; n++) {
        double products = 0, sum = 0, size = 0, max = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            products += (double)a[i] * (double)b[i], sum += (double)a[i];
            size += fabs((double)a[i]) + fabs((double)a[i] * (double)b[i]);  // the sums themselves may cancel
            max = fmax(max, (double)a[i]);
        }
        compare_number(rounding, size + (double)dot(n, a, b), size + products, "dot");
        compare_number(rounding, size + (double)total(n, a), size + sum, "total");
        expect((double)largest(n, a) == max, "the largest of %zu is wrong", n);
    }
}

static void test_matmul(void)
{
    static const size_t shapes[][3] = {  // M, N, K: single rows and columns, around a tile, beyond each block
        {1, 1, 1}, {1, 50, 7}, {1, 200, 100}, {7, 1, 5}, {2, 3, 4}, {MR, PANEL, 8}, {MR + 1, PANEL + 1, 9}, {3 * MR - 1, 2 * PANEL - 1, 3},
        {MC + 5, 21, KC + 9}, {5, NC + 3, 10}, {13, 5, 2 * KC + 1}};
    begin("matmul");
    for (size_t s = 0; s < COUNT_OF(shapes); s++)
        for (int layout = 0; layout < 4; layout++)     // 1: a is transposed; 2: b is
            for (int extra = 0; extra < 6; extra++) {  // 1: a bias; 2: a matrix to add; 4: which is where the result goes
                const size_t M = shapes[s][0], N = shapes[s][1], K = shapes[s][2], row = N + 2;
                const size_t wide_a = (layout & 1 ? M : K) + 3, wide_b = (layout & 2 ? K : N) + 1;
                const real *a = drawn(wide_a * (layout & 1 ? K : M)), *b = drawn(wide_b * (layout & 2 ? N : K)), *bias = drawn(N);
                const real *add = drawn(M * row);
                real *c = copied(add, M * row), *right = copied(add, M * row);  // what lies between the rows must stay
                for (size_t i = 0; i < M; i++)
                    for (size_t j = 0; j < N; j++) {
                        double sum = (extra & 1 ? (double)bias[j] : 0) + (extra & 6 ? (double)add[i * row + j] : 0);
                        for (size_t k = 0; k < K; k++)
                            sum += (double)a[layout & 1 ? k * wide_a + i : i * wide_a + k] * (double)b[layout & 2 ? j * wide_b + k : k * wide_b + j];
                        right[i * row + j] = (real)sum;
                    }
                matmul(c, row, M, N, K, layout & 1 ? transposed(a, wide_a) : plain(a, wide_a), layout & 2 ? transposed(b, wide_b) : plain(b, wide_b),
                       extra & 1 ? bias : NULL, extra & 4 ? c : extra & 2 ? add : NULL);
                compare(rounding, c, right, M * row, "%zu x %zu x %zu, layout %d, extra %d", M, N, K, layout, extra);
            }
}

// ---------------------------------------------------------------------------------------------------------------------
// Central differences. A loss must be smooth within the step. Its kinks are where a ReLU gate opens, and where A changes sign
// while |r| counts: each loss notes on which side of all of them it was computed, and a draw whose sides differ is drawn again.
// So is one that would show little: whose gates are all open, or all closed.

static uint64_t sides;
static bool telling;

static void note_side(bool positive) { sides = sides * 0x9E3779B97F4A7C15u + 1 + positive; }

// Notes the sides of a residue's kinks over n tokens, and whether its gates are worth a test.
static void note_residue(Residue r, Gate gate, Local local, const int *old, size_t n, size_t C)
{
    size_t open[2] = {0, 0}, closed = 0;  // open: on the new domain and on the old
    for (size_t t = 0; t < n && gate == GATE_RELU; t++) note_side(r.gate[t] > 0), open[old[t]] += r.gate[t] > 0, closed += r.gate[t] == 0;
    for (size_t i = 0; i < n * C && local == LOCAL_L1; i++)
        if (old[i / C] && r.gate[i / C] > 0) note_side(r.adapter[i] > 0);
    if (gate == GATE_RELU && (!open[1] || (n > 1 && (!open[0] || !closed)))) telling = false;
}

// A tensor x (n) and the gradient d that backward says it has.
typedef struct { char name[64]; real *x, *d; size_t n; } Pair;

// Compares all gradients with central differences; false, and nothing said, if the draw has to be drawn again.
static bool gradients_hold(const Pair *pairs, size_t count, double (*loss)(void *), void *of)
{
    const real step = (real)1e-5;
    real *slopes[128];
    bool smooth = (loss(of), telling);
    const uint64_t here = sides;
    for (size_t p = 0; p < count && smooth; p++) {
        slopes[p] = keep(allocate(pairs[p].n, sizeof(real)));
        for (size_t i = 0; i < pairs[p].n; i++) {
            real *x = &pairs[p].x[i], middle = *x;
            double at[2];
            for (int up = 0; up < 2; up++) {
                *x = up ? middle + step : middle - step;
                at[up] = loss(of);
                smooth &= sides == here;
            }
            *x = middle;
            slopes[p][i] = (real)((at[1] - at[0]) / (2 * (double)step));
        }
    }
    for (size_t p = 0; p < count && smooth; p++) compare(1e-6, pairs[p].d, slopes[p], pairs[p].n, "%s", pairs[p].name);
    if (!smooth && ++group.redrawn == 100) expect(false, "drawn 100 times, never smooth");
    return smooth;
}

// ---------------------------------------------------------------------------------------------------------------------
// The layers. Each has a list of tensors, the first its output and the others its inputs, all random. forward computes the output
// t[0]; backward, given d[0], the gradients d[1], d[2], ... of the loss sum(d[0] t[0]) + penalty.

static struct { size_t B, T, n, NH, C, H, R, V, P, N; } z;  // the sizes of this trial; n = B T, P positions, N rows of wte
static int tokens[256], targets[256], old[256], row_of[256];
static size_t n_targets;
static real room[12][1 << 14];  // what the layer keeps or works in
static Gate gate;
static Local local;
static GateFrom from;
static double penalty;
enum { PENALTY = 3 };           // the weight of l_local's sum

static void linear_f(real **t) { linear_forward(t[0], t[1], t[2], t[3], NULL, z.n, z.C, z.H); }
static void linear_b(real **d, real **t) { linear_backward(d[1], d[2], d[3], d[0], t[1], t[2], NULL, z.n, z.C, z.H); }
static void add_f(real **t) { linear_forward(t[0], t[1], t[2], NULL, t[3], z.n, z.C, z.H); }
static void add_b(real **d, real **t)
{
    linear_backward(d[1], d[2], NULL, d[0], t[1], t[2], d[1], z.n, z.C, z.H);
    memcpy(d[3], d[0], z.n * z.H * sizeof(real));
}
static void layernorm_f(real **t) { layernorm_forward(t[0], room[0], t[1], t[2], t[3], z.n, z.C); }
static void layernorm_b(real **d, real **t) { layernorm_backward(d[1], d[2], d[3], d[0], t[1], room[0], t[2], z.n, z.C); }
static void gelu_f(real **t) { gelu_forward(t[0], t[1], z.n * z.H); }
static void gelu_b(real **d, real **t) { gelu_backward(d[1], d[0], t[1], z.n * z.H); }
static void attention_f(real **t) { attention_forward(t[0], room[0], t[1], z.B, z.T, 0, z.NH, z.C); }
static void attention_b(real **d, real **t) { attention_backward(d[1], d[0], room[0], t[1], z.B, z.T, z.NH, z.C); }
static void embedding_f(real **t) { embedding_forward(t[0], tokens, t[1], t[2], z.B, z.T, 0, z.C); }
static void embedding_b(real **d, real **t) { (void)t, embedding_backward(d[1], d[2], d[0], tokens, NULL, z.B, z.T, z.P, z.C); }
static void rows_f(real **t)  // room[0] is wte: constant but for the rows of odd tokens
{
    for (size_t i = 0; i < z.V * z.C; i++) room[0][i] = row_of[i / z.C] < 0 ? 1 : t[1][(size_t)row_of[i / z.C] * z.C + i % z.C];
    embedding_forward(t[0], tokens, room[0], room[1], z.B, z.T, 0, z.C);
}
static void rows_b(real **d, real **t) { (void)t, embedding_backward(d[1], NULL, d[0], tokens, row_of, z.B, z.T, z.P, z.C); }
static void crossentropy_f(real **t)
{
    memcpy(room[0], t[1], z.n * z.V * sizeof(real));
    crossentropy_forward(room[1], room[0], targets, z.n, z.V);
    t[0][0] = total(z.n, room[1]) / (real)n_targets;
}
static void crossentropy_b(real **d, real **t)
{
    (void)t, crossentropy_backward(room[0], targets, n_targets ? 1 / (real)n_targets : 0, z.n, z.V);
    for (size_t i = 0; i < z.n * z.V; i++) d[1][i] = d[0][0] * room[0][i];
}
static void swiglu_f(real **t) { swiglu_forward(t[0], t[1], t[2], z.n * z.H); }
static void swiglu_b(real **d, real **t) { swiglu_backward(d[1], d[2], d[0], t[1], t[2], z.n * z.H); }
static void lora_f(real **t)
{
    memset(t[0], 0, z.n * z.H * sizeof(real));
    lora_forward(t[0], room[0], t[1], t[2], t[3], z.n, z.C, z.H, z.R);
}
static void lora_b(real **d, real **t) { lora_backward(d[1], d[2], d[3], room[1], d[0], room[0], t[1], t[2], t[3], z.n, z.C, z.H, z.R); }
static void context_f(real **t) { context_forward(t[0], t[1], z.B, z.T, 0, z.C); }
static void context_b(real **d, real **t)
{
    (void)t, memcpy(room[0], d[0], z.n * 2 * z.C * sizeof(real));  // it sums there
    context_backward(d[1], room[0], z.B, z.T, z.C);
}
static Residue residue_room(real **t)
{
    return (Residue){room[0], room[1], room[2], room[3], room[4], room[5], from == FROM_FIRST ? t[7] : t[1]};
}
static void residue_f(real **t)
{
    const Residue r = residue_room(t);
    memset(t[0], 0, z.n * z.C * sizeof(real));
    residue_forward(t[0], r, t[1], (ResidueTensors){t[2], t[3], t[4], t[5], t[6]}, gate, local, old, z.n, z.C, z.H,
                    from == FROM_FIRST ? 2 * z.C : z.C);
    for (size_t i = 0; i < z.n; i++)
        if (local == LOCAL_CE || (local == LOCAL_L1 && old[i])) penalty += PENALTY * (double)r.local[i];
    note_residue(r, gate, local, old, z.n, z.C);
}
static void residue_b(real **d, real **t)
{
    residue_backward(d[1], from == FROM_FIRST ? d[7] : d[1], (ResidueTensors){d[2], d[3], d[4], d[5], d[6]}, d[0], residue_room(t), t[1],
                     (ResidueTensors){t[2], t[3], t[4], t[5], t[6]}, gate, local, local == LOCAL_L1 ? PENALTY / (real)z.C : PENALTY, old,
                     room[7], z.n, z.C, z.H, from == FROM_FIRST ? 2 * z.C : z.C);
}

enum { MOST = 8 };
typedef struct {
    const char *name;
    void (*forward)(real **t), (*backward)(real **d, real **t);
    struct { const char *name, *size; } tensor[MOST];  // size: a product of z's letters; +: backward adds to what is there
    Gate gate;
    Local local;
    GateFrom from;
} Layer;

#define RESIDUE residue_f, residue_b, {{"x", "nC"}, {"u", "+nC"}, {"wi", "CH"}, {"wg", "CH"}, {"wo", "HC"}
#define GATED RESIDUE, {"gate_w", "C"}, {"gate_b", ""}}
#define GATED_FIRST RESIDUE, {"gate_w", "2C"}, {"gate_b", ""}, {"from", "+n2C"}}
static const Layer layers[] = {
    {"linear_backward", linear_f, linear_b, {{"out", "nH"}, {"x", "nC"}, {"w", "CH"}, {"bias", "H"}}, 0, 0, 0},
    {"linear_backward, add", add_f, add_b, {{"out", "nH"}, {"x", "+nC"}, {"w", "CH"}, {"add", "nH"}}, 0, 0, 0},
    {"layernorm_backward", layernorm_f, layernorm_b, {{"out", "nC"}, {"x", "+nC"}, {"w", "C"}, {"b", "C"}}, 0, 0, 0},
    {"gelu_backward", gelu_f, gelu_b, {{"out", "nH"}, {"x", "nH"}}, 0, 0, 0},
    {"attention_backward", attention_f, attention_b, {{"y", "nC"}, {"qkv", "n3C"}}, 0, 0, 0},
    {"embedding_backward", embedding_f, embedding_b, {{"x", "nC"}, {"wte", "+VC"}, {"wpe", "PC"}}, 0, 0, 0},
    {"embedding_backward, row_of", rows_f, rows_b, {{"x", "nC"}, {"rows", "+NC"}}, 0, 0, 0},
    {"crossentropy_backward", crossentropy_f, crossentropy_b, {{"loss", ""}, {"logits", "nV"}}, 0, 0, 0},
    {"swiglu_backward", swiglu_f, swiglu_b, {{"hidden", "nH"}, {"wi_u", "nH"}, {"wg_u", "nH"}}, 0, 0, 0},
    {"lora_backward", lora_f, lora_b, {{"out", "nH"}, {"x", "+nC"}, {"a", "CR"}, {"b", "RH"}}, 0, 0, 0},
    {"residue_backward, relu, l1", GATED, GATE_RELU, LOCAL_L1, FROM_LAYER},
    {"residue_backward, relu, none", GATED, GATE_RELU, LOCAL_NONE, FROM_LAYER},
    {"residue_backward, sigmoid, l1", GATED, GATE_SIGMOID, LOCAL_L1, FROM_LAYER},
    {"residue_backward, sigmoid, ce", GATED, GATE_SIGMOID, LOCAL_CE, FROM_LAYER},
    {"residue_backward, sigmoid, none", GATED, GATE_SIGMOID, LOCAL_NONE, FROM_LAYER},
    {"residue_backward, relu, l1, from first", GATED_FIRST, GATE_RELU, LOCAL_L1, FROM_FIRST},
    {"residue_backward, sigmoid, ce, from first", GATED_FIRST, GATE_SIGMOID, LOCAL_CE, FROM_FIRST},
    {"context_backward", context_f, context_b, {{"context", "n2C"}, {"u", "+nC"}}, 0, 0, 0},
    {"residue_backward, none, l1", RESIDUE}, GATE_NONE, LOCAL_L1, FROM_LAYER},
    {"residue_backward, none, none", RESIDUE}, GATE_NONE, LOCAL_NONE, FROM_LAYER},
};

static size_t size_from(const char *letters)
{
    size_t size = 1;
    for (const char *c = letters; *c; c++)
        size *= *c == 'n' ? z.n : *c == 'C' ? z.C : *c == '2' ? 2 : *c == '3' ? 3 : *c == 'H' ? z.H : *c == 'R' ? z.R : *c == 'V' ? z.V : *c == 'P' ? z.P
              : *c == 'N' ? z.N : 1;
    return size;
}

static real *value[MOST], *gradient[MOST];  // the tensors of the layer on trial

static double layer_loss(void *of)
{
    sides = 0, telling = true, penalty = 0;
    ((const Layer *)of)->forward(value);
    return (double)dot(size_from(((const Layer *)of)->tensor[0].size), value[0], gradient[0]) + penalty;
}

// One draw of a layer at the sizes z.
static bool try_layer(const Layer *layer)
{
    Pair pairs[MOST];
    real *before[MOST];
    size_t count = 0;
    for (; count < MOST && layer->tensor[count].name; count++) {
        const size_t n = size_from(layer->tensor[count].size);
        value[count] = drawn(n), gradient[count] = drawn(n), before[count] = copied(gradient[count], n);
        for (size_t i = 0; i < n && count && layer->tensor[count].size[0] != '+'; i++) gradient[count][i] = (real)NAN, before[count][i] = 0;
        pairs[count] = (Pair){"", value[count], gradient[count], n};
        snprintf(pairs[count].name, sizeof pairs->name, "d%s", layer->tensor[count].name);
    }
    layer_loss((void *)layer);
    layer->backward(gradient, value);
    for (size_t k = 1; k < count; k++)
        for (size_t i = 0; i < pairs[k].n; i++) gradient[k][i] -= before[k][i];
    return gradients_hold(pairs + 1, count - 1, layer_loss, (void *)layer);
}

static void test_layers(void)
{
    static const struct { size_t B, T, NH, C; } shapes[] = {{1, 1, 1, 3}, {2, 5, 3, 6}, {1, QUERIES + 6, 2, 4}, {2, 2, 2, STRIP + 2}};
    for (size_t l = 0; l < COUNT_OF(layers); l++) {
        begin("%s", layers[l].name);
        gate = layers[l].gate, local = layers[l].local, from = layers[l].from;
        for (size_t s = 0; s < COUNT_OF(shapes); s++) {
            z.B = shapes[s].B, z.T = shapes[s].T, z.n = z.B * z.T, z.NH = shapes[s].NH, z.C = shapes[s].C;
            z.H = 5, z.R = 2, z.V = 11, z.P = z.T + 2, z.N = 5, n_targets = 0;
            for (size_t t = 0; t < z.n; t++) {
                tokens[t] = (int)((7 * t + 1) % z.V), old[t] = t % 2 == 0;
                targets[t] = t % 3 == 1 ? -1 : (int)((5 * t) % z.V), n_targets += t % 3 != 1;
            }
            for (size_t v = 0; v < z.V; v++) row_of[v] = v % 2 ? (int)v / 2 : -1;
            while (!try_layer(&layers[l]) && group.redrawn < 100) {}
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The whole model. `ways` are the ways of training it, by the names nr gives them.

typedef struct { const char *method, *gate, *from, *local; } Way;
static const Way ways[] = {
    {"finetune", "none", "layer", "none"}, {"lora", "none", "layer", "none"},       {"adapter", "none", "layer", "none"},
    {"neutral", "relu", "layer", "l1"},    {"neutral", "relu", "first", "l1"},      {"neutral", "relu", "layer", "none"},
    {"neutral", "sigmoid", "layer", "l1"}, {"neutral", "sigmoid", "layer", "ce"},   {"neutral", "sigmoid", "layer", "none"},
    {"neutral", "none", "layer", "l1"},    {"neutral", "none", "layer", "none"},    {"neutral", "sigmoid", "first", "ce"},
};
enum { WAYS = COUNT_OF(ways), FINETUNE = 0, LORA, ADAPTER, NEUTRAL, CONTEXT, SIGMOID_CE = 7 };
static const Dims tiny = {.layers = 2, .heads = 2, .channels = 6, .context = 6, .vocab = 11};

// Draws every value anew, none zero, as an extension is when it has learnt. Wi, Wg and LoRA's A keep their variance.
static void randomize(Tensors *t, const Dims *d)
{
    for (int id = 0; id < TENSORS; id++) {
        const bool embedding = id == WTE || id == WPE || id == ROWS, vector = table[id].rows == '1' && id != GATE_W;
        const double fan_in = (double)(id == GATE_W ? d->gate : tensor_rows(id, d)), one = table[id].init == INIT_ONE;
        const bool keeps = table[id].init == INIT_ADAPTER || table[id].init == INIT_FAN_IN;
        for (size_t i = 0; t->at[id] && i < tensor_layers(id, d) * t->layer_size[id]; i++) {
            const double value = one + (embedding ? 0.5 : vector ? 0.1 : 1 / sqrt(fan_in)) * random_normal(&dice);
            t->at[id][i] = (real)(float)(keeps ? (double)t->at[id][i] : value);
        }
    }
}

// A random backbone that never saw tokens 1, 4 and 9.
static Model *random_model(Dims d)
{
    Model *m = allocate(1, sizeof *m);
    m->tokenizer = tokenizer_load(data);
    if (!d.vocab) d.vocab = (size_t)m->tokenizer->size;
    m->dims = d;
    m->w = tensors_allocate(SET_BACKBONE, &d);
    m->wte = m->w.at[WTE];
    randomize(&m->w, &d);
    m->fingerprint = fingerprint(&m->w);
    m->unseen = allocate(d.vocab, sizeof *m->unseen);
    m->unseen[1] = m->unseen[4] = m->unseen[9] = true;
    return m;
}

// Plugs in an extension as `nr extend` makes it, fresh or randomized; finetune has none.
static Extension *plug(Model *m, Way way, const char *init, long hidden, long rank, bool rows, bool fresh)
{
    if (!strcmp(way.method, "finetune")) return NULL;
    opt.gate = way.gate, opt.gate_from = way.from, opt.local = way.local, opt.init = init, opt.hidden = hidden, opt.rank = rank, opt.new_rows = rows, opt.alpha = 2;
    opt.seed = (long)(random_bits(&dice) % 1000);
    Extension *x = extension_new(m, method_find(way.method, strlen(way.method)), true, NULL);
    if (!fresh) randomize(&x->w, &x->dims);
    embedding_refresh(m);
    return x;
}

// A model in training: its last extension, or the backbone if it has none; a batch, every other sequence of the old domain.
typedef struct {
    Model *m;
    Extension *x;
    const Dims *dims;
    Tensors *w, grad, m1, m2;
    Activations a;
    int *tokens, *targets;
    size_t B, T;
    long step;
} Trainee;

static Trainee trainee(Model *m, size_t B, size_t T)
{
    Trainee s = {.m = m, .x = m->n_extensions ? m->extension[m->n_extensions - 1] : NULL, .B = B, .T = T};
    const int sets = s.x ? s.x->sets : SET_BACKBONE;
    s.w = s.x ? &s.x->w : &m->w, s.dims = s.x ? &s.x->dims : &m->dims;
    s.grad = tensors_allocate(sets, s.dims), s.m1 = tensors_allocate(sets, s.dims), s.m2 = tensors_allocate(sets, s.dims);
    s.a = activations_allocate(m, B, T, B * T, &s.grad, false);
    s.tokens = keep(allocate(B * T, sizeof(int))), s.targets = keep(allocate(B * T, sizeof(int)));
    draw_tokens(s.tokens, B * T, m->dims.vocab);
    draw_tokens(s.targets, B * T, m->dims.vocab);
    s.targets[1] = -1;
    for (size_t t = 0; t < B * T; t++) s.a.old[t] = t / T % 2 == 0;
    return s;
}

static void trainee_free(Trainee *s)
{
    activations_free(&s->a);
    free(s->grad.memory), free(s->m1.memory), free(s->m2.memory);
    model_free(s->m);
}

static Loss losses(Trainee *s)
{
    embedding_refresh(s->m);
    model_forward(s->m, &s->a, s->tokens, s->B, s->T, 0);
    return model_loss(s->m, &s->a, s->targets);
}

static double weighed(const Trainee *s, Loss loss) { return loss.lm + (s->x ? s->x->alpha * loss.local : 0); }

static Loss learn(Trainee *s, double lr, double decay)
{
    const Loss loss = losses(s);
    model_backward(s->m, &s->a, &s->grad, s->tokens, s->targets);
    adamw_step(s->w, &s->grad, &s->m1, &s->m2, s->dims, ++s->step, lr, decay, 1);
    embedding_refresh(s->m);
    return loss;
}

static double trainee_loss(void *of)
{
    Trainee *s = of;
    const Loss loss = losses(s);
    sides = 0, telling = true;
    for (size_t e = 0; e < s->m->n_extensions; e++)
        for (size_t l = 0; l < s->m->dims.layers && s->m->extension[e]->sets & SET_ADAPTER; l++)
            note_residue(residue_at(s->m, &s->a, e, l), s->m->extension[e]->gate, s->m->extension[e] == s->x ? s->x->local : LOCAL_NONE,
                         s->a.old, s->a.n, s->m->dims.channels);
    return weighed(s, loss);
}

static StoredList listed(const Tensors *t, const Dims *d)
{
    StoredList e = {0};
    entries_add(&e, "", t, d);
    keep(e.at);
    return e;
}

// One draw of the gradients of a model with one extension, or with `below` under it: which is wider, and trains rows of its own.
static bool try_model(const Way *below, Way way, const char *init, bool rows)
{
    Model *m = random_model(tiny);
    m->unseen[9] = false;
    if (below) plug(m, *below, init, 9, 3, rows, false);
    m->unseen[9] = true;
    plug(m, way, init, 7, 2, rows, false);
    Trainee s = trainee(m, 3, 5);
    const StoredList w = listed(s.w, s.dims), grad = listed(&s.grad, s.dims);
    Pair pairs[128];
    for (size_t i = 0; i < w.count; i++) {
        pairs[i] = (Pair){"", w.at[i].data, grad.at[i].data, stored_size(&w.at[i])};
        memcpy(pairs[i].name, w.at[i].name, sizeof pairs[i].name);
    }
    for (size_t i = 0; i < s.grad.size; i++) s.grad.memory[i] = (real)NAN;  // to be overwritten
    trainee_loss(&s);
    model_backward(m, &s.a, &s.grad, s.tokens, s.targets);
    const bool hold = gradients_hold(pairs, w.count, trainee_loss, &s);
    trainee_free(&s);
    return hold;
}

static void test_model(void)
{
    static const int stacks[][2] = {{LORA, NEUTRAL}, {NEUTRAL, NEUTRAL}, {NEUTRAL, LORA}, {SIGMOID_CE, ADAPTER}, {ADAPTER, SIGMOID_CE},
                                    {LORA, LORA}, {CONTEXT, CONTEXT}, {CONTEXT, LORA}, {NEUTRAL, CONTEXT}};
    for (int w = 0; w < WAYS; w++) {
        begin("model, %s, gate %s from %s, local %s", ways[w].method, ways[w].gate, ways[w].from, ways[w].local);
        for (int k = 0; k < (w ? 4 : 1); k++)
            while (!try_model(NULL, ways[w], k % 2 ? "he" : "low", k / 2) && group.redrawn < 100) {}
    }
    for (size_t s = 0; s < COUNT_OF(stacks); s++) {
        const Way *below = &ways[stacks[s][0]], *above = &ways[stacks[s][1]];
        begin("model, %s gate %s from %s upon %s gate %s", above->method, above->gate, above->from, below->method, below->gate);
        for (int rows = 0; rows < 2; rows++)
            while (!try_model(below, *above, "low", rows) && group.redrawn < 100) {}
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The reference: what PyTorch computes from the same numbers. dev/reference.py wrote it and says in its metadata what it holds.

static Safetensors file;
static StoredList reference;

// Reads all of the file. safetensors_read knows vectors and matrices: of (B, T, C) the first two sides become one.
static void read_reference(void)
{
    reference.count = 0;
    for (const Json *x = file.header->child; x; x = x->next) reference.count++;
    reference.at = keep(allocate(reference.count, sizeof(Stored)));
    reference.count = 0;
    for (const Json *x = file.header->child; x; x = x->next) {
        if (!strcmp(x->key, "__metadata__")) continue;
        Json *shape = json_get(x, "shape"), *first = shape->child, *second = first->next;
        if (second && second->next) {
            second->number *= first->number;
            shape->child = second, first->next = NULL;
            json_free(first);
            first = second, second = first->next;
        }
        Stored *entry = &reference.at[reference.count++];
        *entry = (Stored){"", json_get(x, "dtype")->string[0] == 'I' ? "I32" : "F32", second ? 2 : 1,
                          {(size_t)first->number, second ? (size_t)second->number : 1}, NULL, 0};
        snprintf(entry->name, sizeof entry->name, "%s", x->key);
        entry->data = keep(allocate(stored_size(entry), sizeof(real)));
    }
    safetensors_find(&file, &reference);
    safetensors_read(&file, &reference);
}

// What the reference has under a name; dies unless it is `n` values.
static void *referred(size_t n, const char *format, ...)
{
    char name[128];
    FORMAT_INTO(name, format);
    for (size_t i = 0; i < reference.count; i++)
        if (!strcmp(reference.at[i].name, name) && stored_size(&reference.at[i]) == n) return reference.at[i].data;
    die("dev/reference.safetensors: has no %s of %zu values", name, n);
}

// Compares tensors with WAY/KIND/NAME of the reference; with a tolerance of 0 sets them to that.
static void refer(const char *way, const char *kind, const Tensors *t, const Dims *d, double tolerance)
{
    const StoredList e = listed(t, d);
    for (size_t i = 0; i < e.count; i++) {
        const size_t n = stored_size(&e.at[i]);
        const real *right = referred(n, "%s%s%s", way, kind, e.at[i].name);
        if (tolerance > 0) compare(tolerance, e.at[i].data, right, n, "%s%s", kind + 1, e.at[i].name);
        else memcpy(e.at[i].data, right, n * sizeof(real));
    }
}

static const char *said_of(const char *way, const char *key)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", way, key);
    return metadata_text(&file, name);
}

static size_t size_of_reference(const char *key) { return (size_t)metadata_number(&file, key, 1000); }

static void check_reference(const char *way)
{
    const double tolerance = DOUBLE ? 1e-6 : 1e-4, lr = metadata_number(&file, "lr", 1), decay = metadata_number(&file, "weight_decay", 1);
    const Dims d = {.layers = size_of_reference("layers"), .heads = size_of_reference("heads"), .channels = size_of_reference("channels"),
                    .context = size_of_reference("positions"), .vocab = size_of_reference("vocab")};
    const size_t B = size_of_reference("batch"), T = size_of_reference("time"), n = B * T, C = d.channels;
    const Way as = {said_of(way, "method"), said_of(way, "gate"), said_of(way, "gate_from"), said_of(way, "local")};
    char backbone[32], ids[64];
    snprintf(ids, sizeof ids, "%s/weight/wte.ids", way);
    const bool rows = json_get(file.header, ids) != NULL;

    Model *m = random_model(d);  // the backbone, the extension and the batch
    refer("model", "/", &m->w, &d, 0);
    m->fingerprint = fingerprint(&m->w);
    snprintf(backbone, sizeof backbone, "%016" PRIx64, m->fingerprint);
    expect(!strcmp(backbone, metadata_text(&file, "backbone")), "the backbone's fingerprint is %s", backbone);
    if (rows) memset(m->unseen, false, d.vocab);
    for (size_t i = 0; rows && i < 3; i++) m->unseen[((int *)referred(3, "%s", ids))[i]] = true;
    plug(m, as, "low", (long)size_of_reference("hidden"), (long)size_of_reference("rank"), rows, true);
    Trainee s = trainee(m, B, T);
    if (s.x) s.x->alpha = strtod(said_of(way, "alpha"), NULL), refer(way, "/weight/", s.w, s.dims, 0);
    memcpy(s.tokens, referred(n, "tokens"), n * sizeof(int));
    memcpy(s.targets, referred(n, "targets"), n * sizeof(int));
    for (size_t t = 0; t < n; t++) s.a.old[t] = ((int *)referred(B, "domains"))[t / T] == 0;

    embedding_refresh(m);  // forward and backward
    model_forward(m, &s.a, s.tokens, B, T, 0);
    compare(tolerance, s.a.logits.at, referred(n * d.vocab, "%s/logits", way), n * d.vocab, "logits");
    for (size_t l = 0; l < d.layers; l++) {
        compare(tolerance, rows_of(&s.a, s.a.x, l + 1), referred(n * C, "%s/x/%zu", way, l), n * C, "x/%zu", l);
        if (!s.x || !(s.x->sets & SET_ADAPTER)) continue;
        const Residue r = residue_at(m, &s.a, 0, l);
        if (s.x->gate != GATE_NONE) compare(tolerance, r.gate, referred(n, "%s/gate/%zu", way, l), n, "gate/%zu", l);
        real *residue = copied(r.adapter, n * C);
        for (size_t i = 0; i < n * C; i++) residue[i] *= r.gate[i / C];
        compare(tolerance, residue, referred(n * C, "%s/residue/%zu", way, l), n * C, "residue/%zu", l);
    }
    const Loss loss = model_loss(m, &s.a, s.targets);
    const real *right = referred(2, "%s/losses", way);
    compare_number(tolerance, loss.lm, (double)right[0], "l_LM");
    if (strcmp(as.local, "none")) compare_number(tolerance, loss.local, (double)right[1], "l_local");
    else expect(loss.local == 0, "l_local is %g", loss.local);
    model_backward(m, &s.a, &s.grad, s.tokens, s.targets);
    refer(way, "/grad/", &s.grad, s.dims, tolerance);

    real steps[20];  // training, in double: in float the rounding noise in the gradients of the keys' biases becomes whole steps
    for (int i = 0; i < 10 && DOUBLE; i++) steps[2 * i] = (real)weighed(&s, learn(&s, lr, decay)), steps[2 * i + 1] = (real)tensors_norm(&s.grad);
    if (DOUBLE) compare(tolerance, steps, referred(20, "%s/steps", way), 20, "steps"), refer(way, "/adamw/", s.w, s.dims, tolerance);
    trainee_free(&s);
}

static void test_reference(void)
{
    char way[64];
    int count = 0, length;
    file = safetensors_open("dev/reference.safetensors");
    for (const char *c = metadata_text(&file, "cases"); sscanf(c, "%63s%n", way, &length) == 1; c += length, count++) {
        begin("reference, %s: gate %s from %s, local %s", way, said_of(way, "gate"), said_of(way, "gate_from"), said_of(way, "local"));
        read_reference();
        check_reference(way);
    }
    expect(count == 11, "%d cases, expected 11", count);
    safetensors_close(&file);
}

// ---------------------------------------------------------------------------------------------------------------------
// What an extension leaves as it was: everything at step 0, and the backbone for good.

// Logits (B T, V) of a model.
static real *logits_of(const Model *m, const int *text, size_t B, size_t T)
{
    Activations a = activations_allocate(m, B, T, B * T, NULL, false);
    model_forward(m, &a, text, B, T, 0);
    real *logits = copied(a.logits.at, B * T * m->dims.vocab);
    activations_free(&a);
    return logits;
}

static void test_frozen(void)
{
    enum { B = 4, T = 6 };
    const size_t V = tiny.vocab, C = tiny.channels, n = B * T * V;
    for (int w = LORA; w < WAYS; w++) {
        begin("at step 0 nothing changes, later only what trains: %s, gate %s from %s, local %s", ways[w].method, ways[w].gate, ways[w].from,
              ways[w].local);
        for (int k = 0; k < 8; k++) {  // low or he, without or with new rows, alone or upon another extension
            const char *init = k & 1 ? "he" : "low";
            const bool rows = k & 2, stacked = k & 4;
            Model *m = random_model(tiny);
            m->unseen[9] = false;
            Extension *below = stacked ? plug(m, ways[w == LORA ? NEUTRAL : LORA], init, 9, 4, rows, false) : NULL;
            m->unseen[9] = true;
            int text[B * T];
            draw_tokens(text, B * T, V);
            const real *before = logits_of(m, text, B, T);
            plug(m, ways[w], init, 7, 3, rows, true);
            expect(same(before, logits_of(m, text, B, T), n), "the logits differ at step 0");

            Trainee s = trainee(m, B, T);
            const real *backbone = copied(m->w.memory, m->w.size), *under = below ? copied(below->w.memory, below->w.size) : NULL;
            const real *trained = copied(s.w->memory, s.w->size), *wte = copied(m->wte, V * C);
            for (int i = 0; i < 5; i++) learn(&s, 1e-2, 0.1);
            expect(same(m->w.memory, backbone, m->w.size) && fingerprint(&m->w) == m->fingerprint, "the backbone changed");
            if (below) expect(same(below->w.memory, under, below->w.size), "the extension below changed");
            const StoredList e = listed(s.w, s.dims);
            for (size_t i = 0; i < e.count; i++)
                expect(!same(e.at[i].data, trained + ((real *)e.at[i].data - s.w->memory), stored_size(&e.at[i])), "%s did not move", e.at[i].name);
            for (size_t v = 0; v < V; v++)
                expect(same(m->wte + v * C, wte + v * C, C) == (s.a.row_of[v] < 0), "row %zu of wte moved, or should have", v);
            expect(s.x->dims.rows == (rows ? stacked ? 1 : 3 : 0), "%zu rows train", s.x->dims.rows);
            expect(!same(before, logits_of(m, text, B, T), n), "the logits never differ");
            trainee_free(&s);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The loader, AdamW, and learning by heart.

static void test_loader(void)
{
    enum { N = 20000, T = 8, COUNT = 60, APART = 1000 };  // token i of file k is k * APART + i: a sequence tells where it is from
    static const double fractions[4] = {0, 0.1, 0.5, 1};
    static int first[4][N];                               // the first token of every sequence drawn
    begin("loader");
    for (int f = 0; f < 4; f++) {
        Loader loader = {.n_old = 2, .p = fractions[f], .random = random_stream(7, 3)};
        for (int k = 0; k < 3; k++) {
            Tokens *from = k < 2 ? &loader.old[k] : &loader.new;
            *from = (Tokens){.ids = allocate(COUNT, sizeof(uint16_t)), .count = COUNT};
            for (int t = 0; t < COUNT; t++) from->ids[t] = (uint16_t)(k * APART + t);
        }
        int domain[3] = {0}, starts[COUNT] = {0}, wrong = 0, mislabelled = 0, differ = 0, covered = 0, x[T], y[T], is_old[T];
        for (int n = 0; n < N; n++) {
            loader_next(&loader, x, y, is_old, 1, T);
            for (int t = 0; t < T; t++) wrong += x[t] != x[0] + t || y[t] != x[t] + 1, mislabelled += is_old[t] != (x[t] / APART < 2);
            first[f][n] = x[0];
            domain[x[0] / APART]++;
            starts[x[0] % APART]++;
            differ += x[0] % APART != first[0][n] % APART || (f && first[f - 1][n] / APART < 2 && x[0] / APART == 2);
        }
        for (int t = 0; t < COUNT; t++) covered += starts[t] > N / (COUNT - T) / 2;
        const double p = fractions[f];
        for (int k = 0; k < 3; k++) {
            const double share = k < 2 ? p / 2 : 1 - p, noise = 4 * sqrt(share * (1 - share) / N);
            expect(fabs((double)domain[k] / N - share) <= noise, "p %g: %d of %d sequences are of domain %d", p, domain[k], N, k);
        }
        expect(wrong == 0, "p %g: %d tokens or targets are not the file's next", p, wrong);
        expect(mislabelled == 0, "p %g: %d tokens are said to be of the other domain", p, mislabelled);
        expect(differ == 0, "p %g: %d draws are not those of a smaller p", p, differ);
        expect(covered == COUNT - T, "p %g: %d of the %d starts occur as often as they should", p, covered, COUNT - T);
        loader_free(&loader);
    }
}

// Negative domains take as many sequences as old ones, as old ones to l_local, but without targets.
static void test_negatives(void)
{
    enum { N = 20000, T = 8, COUNT = 60 };
    uint16_t ids[3][COUNT];
    int domain[3] = {0}, wrong = 0, x[T], y[T], is_old[T];
    begin("loader, negatives");
    for (int k = 0; k < 3; k++)
        for (int t = 0; t < COUNT; t++) ids[k][t] = (uint16_t)k;
    Loader loader = {.n_old = 1, .n_negative = 1, .p = 0.2, .random = random_stream(7, 3), .old = {{.ids = ids[0], .count = COUNT}},
                     .negative = {{.ids = ids[1], .count = COUNT}}, .new = {.ids = ids[2], .count = COUNT}};
    for (int n = 0; n < N; n++) {
        loader_next(&loader, x, y, is_old, 1, T);
        for (int t = 0; t < T; t++) wrong += (y[t] < 0) != (x[0] == 1) || is_old[t] != (x[0] < 2);
        domain[x[0]]++;
    }
    expect(wrong == 0, "%d tokens have other targets or another domain", wrong);
    for (int k = 0; k < 3; k++) {
        const double share = k < 2 ? 0.2 : 0.6;
        expect(fabs((double)domain[k] / N - share) <= 4 * sqrt(share * (1 - share) / N), "%d of %d are of domain %d", domain[k], N, k);
    }
}

// A LoRA put into the weights computes what it computed beside them, and its tokens count as seen.
static void test_merge(void)
{
    enum { B = 2, T = 6 };
    int text[B * T];
    begin("a merged LoRA computes the same");
    Model *m = random_model(tiny);
    plug(m, ways[LORA], "low", 7, 3, true, false);
    draw_tokens(text, B * T, tiny.vocab), text[0] = 4;
    const real *before = logits_of(m, text, B, T);
    lora_merge(m);
    compare(rounding, logits_of(m, text, B, T), before, B * T * tiny.vocab, "logits");
    expect(m->n_extensions == 0 && !m->unseen[1] && !m->unseen[4] && !m->unseen[9] && m->fingerprint == fingerprint(&m->w), "it is not a model like any other");
    model_free(m);
}

static void test_adamw(void)
{
    const Dims d = tiny;
    const double lr = 0.01, decay = 0.1;
    Tensors t[5];
    begin("AdamW and its schedule");
    for (int i = 0; i < 5; i++) t[i] = tensors_allocate(SET_BACKBONE, &d), keep(t[i].memory);
    const Tensors *w = &t[0], *g = &t[1], *m = &t[2], *v = &t[3], *right = &t[4];
    const size_t size = w->size, bytes = size * sizeof(real);
    randomize(&t[0], &d);
    memcpy(right->memory, w->memory, bytes);  // a constant gradient moves by lr at every step
    memcpy(g->memory, drawn(size), bytes);
    for (int step = 1; step <= 10; step++) {
        adamw_step(w, g, m, v, &d, step, lr, 0, 1e9);
        for (size_t i = 0; i < size; i++) right->memory[i] -= (real)(lr * (double)g->memory[i] / (fabs((double)g->memory[i]) + 1e-8));
        if (step == 1 || step == 10) compare(rounding, w->memory, right->memory, size, "w after %d steps", step);
    }
    memcpy(right->memory, w->memory, bytes);  // without a gradient matrices shrink, vectors stay
    memset(g->memory, 0, bytes), memset(m->memory, 0, bytes), memset(v->memory, 0, bytes);
    adamw_step(w, g, m, v, &d, 1, lr, decay, 1);
    for (int id = WTE; id <= LNF_B; id++) {
        const size_t n = tensor_layers(id, &d) * tensor_size(id, &d);
        if (tensor_rows(id, &d) == 1) expect(same(w->at[id], right->at[id], n), "%s decays", table[id].name);
        for (size_t i = 0; i < n; i++) right->at[id][i] *= (real)(1 - lr * decay);
        if (tensor_rows(id, &d) > 1) compare(rounding, w->at[id], right->at[id], n, "%s, decayed", table[id].name);
    }
    memcpy(g->memory, drawn(size), bytes);  // of a gradient five times as long as allowed a fifth counts
    adamw_step(w, g, m, v, &d, 1, lr, 0, tensors_norm(g) / 5);
    for (size_t i = 0; i < size; i++) right->memory[i] = (real)0.1 * g->memory[i] / 5;
    compare(rounding, m->memory, right->memory, size, "m of a clipped gradient");
    for (size_t i = 0; i < size; i++) right->memory[i] = (real)0.05 * (g->memory[i] / 5) * (g->memory[i] / 5);
    compare(rounding, v->memory, right->memory, size, "v of a clipped gradient");

    static const struct { long step; double rate; } schedule[] = {{1, 0.2}, {5, 1}, {10, 2}, {60, 1.1}, {110, 0.2}};
    for (size_t i = 0; i < COUNT_OF(schedule); i++) {  // up to 2 in 10 steps, then down to a tenth of it at step 110
        const double rate = learning_rate(2, schedule[i].step, 110, 10, 0.1);
        expect(fabs(rate - schedule[i].rate) < 1e-12, "the rate at step %ld is %g, expected %g", schedule[i].step, rate, schedule[i].rate);
    }
    expect(fabs(learning_rate(2, 50, 50, 0, 0.1) - 0.2) < 1e-12 && learning_rate(2, 1, 50, 0, 0.1) > 1.9, "without warmup the rate is wrong");
}

static void test_overfit(void)
{
    static const struct { int way; double lr; int steps; } runs[] = {{FINETUNE, 1e-2, 150}, {ADAPTER, 2e-2, 300}};
    begin("one batch is learnt by heart");
    for (size_t r = 0; r < COUNT_OF(runs); r++) {
        Model *m = random_model((Dims){.layers = 2, .heads = 2, .channels = 16, .context = 8, .vocab = 11});
        plug(m, ways[runs[r].way], "he", 32, 0, false, true);
        Trainee s = trainee(m, 4, 8);
        for (int b = 0; b < 4; b++) s.tokens[b * 8] = b;  // told apart from the first token on
        const double before = losses(&s).lm;
        for (int i = 1; i <= runs[r].steps; i++) learn(&s, learning_rate(runs[r].lr, i, runs[r].steps, 10, 0.1), 0);
        const double after = losses(&s).lm;
        expect(before > 1 && after < 0.05, "%s: the loss went from %.3f to %.3f, expected less than 0.05", ways[runs[r].way].method, before, after);
        trainee_free(&s);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Files, decoding, threads, evaluation.

#define CUT(text) {sizeof text - 1, text}

static void test_words(void)
{
    static const struct { size_t size; const char *text; } cuts[] = {  // where Python's regex, given GPT-2's pattern, puts each |
        CUT("it|'s| we|'re| I|'ve| I|'m| they|'ll| she|'d| don|'t"), CUT("IT|'|S| WE|'|RE| I|'|VE| DON|'|T| '|Twas"),
        CUT("'s|'t|'re|'ve|'m|'ll|'d|'|x| '"), CUT("rock|'|n|'|roll| '|tis| dog|'s|'| ''|s"), CUT("l|'|été| d|'|un| l|’|été"),
        CUT("Ça| brûle| déjà"), CUT("cafe|\u0301| e|\u0301\u0301| \u0301|x"), CUT("नमस|्|त|े"), CUT("a|\u200d|b| \u00ad|c"),
        CUT("x|²| ½| ①|a| 10³"), CUT("١٢٣| १२३| ৪| Ⅷ〇| 9"), CUT("3|.|14| 1|,|000| -|7| 2|nd"), CUT("漢字かなカナ| 한국어|。|ok"),
        CUT("中文|123|中文"), CUT("👩\u200d👩\u200d👧| 👍🏽!"), CUT("a|👍|b"), CUT("a|\u00a0|b| \u00a0| c|\u00a0|\u00a0|d"),
        CUT("a|\u2003|b|\u3000|c|\u2028|d|\u2029| e| |\u202f|x"), CUT("a|\u200b|b| \ufeff|c"), CUT("a|\302\205|b|\u180e|c"),
        CUT("\034|a|\037| b"), CUT("a| | b|  | c|   | d"), CUT("  | a"), CUT("a|   "), CUT(" "), CUT("  "), CUT("\n"),
        CUT("a|\n|\n|b|\n"), CUT("a| \n| b"), CUT("\t|\t|a|\t| b| \t"), CUT(" \r\n \r\n"), CUT("a|\013|\014|b"),
        CUT("snake|_|case| __|init|__| _"), CUT("Hello|,| world|!| (|yes|?)| ...|end|--"),
        CUT("a|+|b|=|c|;| x|->|y|[|0|]| !=| \"|q|\""), CUT(" !|a| !|1| !| a"), CUT("http|://|x|.|org|/?|q|=|1|&|r|=|2"),
        CUT("a|\xff|b| \xff\xfe| c|\xc3"), CUT("\xe2\x82| €\x80"), CUT("\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80|x"),
        CUT("\xc2| a|\xa0"), CUT("a|\000|b| \000\000|c"), CUT("\xf0\x9f\x98|a"), CUT("𝒜|𝟙| 𐍈| \U000e0001\U0010ffff"),
        CUT("ªº| ʰ| ǅ| ʼn"), CUT("İıſK| ß|'|S")};
    Tokenizer *t = tokenizer_load(data);  // opens the tables
    begin("tokenizer: words end where GPT-2's do");
    for (size_t i = 0; i < COUNT_OF(cuts); i++) {
        char text[128], cut[128];
        size_t size = 0, length = 0;
        for (size_t k = 0; k < cuts[i].size; k++) text[size] = cuts[i].text[k], size += cuts[i].text[k] != '|';
        for (size_t at = 0, n; at < size; at += n) {
            if (at) cut[length++] = '|';
            n = word_length(text + at, size - at);
            memcpy(cut + length, text + at, n), length += n;
        }
        expect(length == cuts[i].size && !memcmp(cut, cuts[i].text, length), "%s: cut as %.*s", cuts[i].text, (int)length, cut);
    }
    tokenizer_free(t);
}

static void test_tokenizer(void)
{
    static const struct { size_t size; const char *text; } texts[] = {
        {0, ""}, {20, "the dog sees & cats "}, {9, "the\0dog\0\0"}, {4, "\xff\xfe\x80\xc3"}, {10, "\xc3\xa9\xe2\x82\xac \xf0\x9f\x98\x80"},
        {13, "<|endoftext|>"}, {11, "  \n\t  x\r\n\n"}, {22, "it's 12'345, isn't it?"}};
    Tokenizer *t = tokenizer_load(data);
    begin("tokenizer: any bytes come back");
    for (size_t i = 0; i < COUNT_OF(texts) + 100; i++) {
        const bool random = i >= COUNT_OF(texts);
        size_t size = random ? 3 * (i - COUNT_OF(texts)) : texts[i].size, count, at = 0, length;
        char text[300];
        for (size_t k = 0; k < size; k++)  // random bytes of two kinds: any, and what trips readers of UTF-8
            text[k] = !random ? texts[i].text[k] : i % 2 ? (char)random_bits(&dice) : "\0\n a\x80\xbf\xc3\xe2\xf0\xff"[random_bits(&dice) % 10];
        int *ids = tokenizer_encode(t, text, size, &count);
        bool back = count <= size;
        for (size_t k = 0; k < count && back; at += length, k++) {
            const char *bytes = tokenizer_bytes(t, ids[k], &length);
            back = ids[k] < t->size - 1 && at + length <= size && !memcmp(text + at, bytes, length);
        }
        expect(back && at == size, "text %zu of %zu bytes does not come back", i, size);
        if (i == 1) expect(count < size / 2, "%zu tokens for %zu bytes: merges are not used", count, size);
        free(ids);
    }
    tokenizer_free(t);
}

static void test_files(void)
{
    enum { B = 2, T = 6 };
    char path[700], name[700];
    int text[B * T];
    const Recipe recipe = {.steps = 1};
    const Loader loader = {.p = 0};
    snprintf(path, sizeof path, "%s/saved", folder), snprintf(name, sizeof name, "%s/saved.safetensors", folder);
    make_folders(path, true);
    begin("models and extensions come back from their files, bit for bit");
    for (int w = 0; w < WAYS; w++)
        for (int known = 0; known < 2; known++) {
            Model *m = random_model((Dims){.layers = 2, .heads = 3, .channels = 6, .context = 8});
            if (!known) memset(m->unseen, false, m->dims.vocab);
            draw_tokens(text, B * T, m->dims.vocab), text[0] = 4;
            Extension *x = plug(m, ways[w], w % 2 ? "low" : "he", 7, 3, known, false), *y = NULL;
            if (x) describe(x->metadata, ways[w].method, m, x, &recipe, &loader), x->fingerprint = fingerprint(&x->w), extension_save(m, name);
            model_save(m, path);
            Model *back = model_load(path);
            if (x) extension_load(back, name), y = back->extension[0];
            expect(same(m->w.memory, back->w.memory, m->w.size), "the weights differ");
            expect(!memcmp(&m->dims, &back->dims, sizeof m->dims) && m->fingerprint == back->fingerprint, "the sizes or the fingerprint differ");
            expect(tokenizer_hash(m->tokenizer) == tokenizer_hash(back->tokenizer), "the tokenizers differ");
            expect(!memcmp(m->unseen, back->unseen, m->dims.vocab), "the record of unseen tokens differs");
            expect(same(logits_of(m, text, B, T), logits_of(back, text, B, T), B * T * m->dims.vocab), "%s: the logits differ", ways[w].method);
            if (x) expect(same(x->w.memory, y->w.memory, x->w.size) && x->sets == y->sets && !memcmp(&x->dims, &y->dims, sizeof x->dims)
                          && x->dims.rows == (known ? 3 : 0) && !memcmp(x->ids, y->ids, x->dims.rows * sizeof(int)), "%s: the tensors differ", ways[w].method);
            if (x) expect(x->gate == y->gate && x->from == y->from && x->local == y->local, "%s: the metadata differ", ways[w].method);
            model_free(m), model_free(back);
        }
}

// dev/tiny_gpt2: a random GPT-2 as transformers saves one, and what it computes there. Made by make_tiny_gpt2.py in that folder.
static void test_hugging_face(void)
{
    size_t size, count, n = 0;
    int text[16];
    real right[300];
    begin("a GPT-2 of transformers computes the same here");
    char *json = read_file("dev/tiny_gpt2/expected.json", &size);
    Json *expected = json_parse("expected.json", json, size);
    for (const Json *x = json_get(expected, "ids")->child; x && n < COUNT_OF(text); x = x->next) text[n++] = (int)x->number;
    Model *m = model_load("dev/tiny_gpt2");
    const Json *said = json_get(expected, "text"), *logits = json_get(expected, "logits")->child;
    int *ids = tokenizer_encode(m->tokenizer, said->string, said->length, &count);
    expect(count == n && !memcmp(ids, text, n * sizeof(int)), "the text becomes other tokens");
    for (size_t v = 0; v < COUNT_OF(right) && logits; logits = logits->next) right[v++] = (real)logits->number;
    compare(DOUBLE ? 1e-5 : 1e-4, logits_of(m, text, 1, n) + (n - 1) * m->dims.vocab, right, COUNT_OF(right), "logits");
    model_free(m), json_free(expected), free(ids), free(json);
}

static void test_cache(void)
{
    enum { T = 72, V = 37 };
    static const size_t chunks[] = {1, 3, 8, 36};
    int text[T];
    begin("decoding with cached keys and values is the forward pass");
    for (int w = FINETUNE; w <= CONTEXT; w++) {
        Model *m = random_model((Dims){.layers = 2, .heads = 2, .channels = 12, .context = T, .vocab = V});
        plug(m, ways[w], "low", 7, 3, true, false);
        draw_tokens(text, T, V);
        const real *whole = logits_of(m, text, 1, T);
        Activations a = activations_allocate(m, 1, T, 1, NULL, true);
        for (size_t c = 0; c < COUNT_OF(chunks); c++)
            for (size_t end = chunks[c]; end <= T; end += chunks[c]) {
                model_forward(m, &a, text + end - chunks[c], 1, end, end - chunks[c]);
                compare(rounding, a.logits.at, whole + (end - 1) * V, V, "%s, %zu at a time, position %zu", ways[w].method, chunks[c], end - 1);
            }
        activations_free(&a);
        model_free(m);
    }
}

static void test_sampling(void)
{
    enum { V = 5, DRAWS = 20000 };
    const real logits[V] = {(real)0.5, -1, 2, 1, (real)-0.25};
    double p[V], sum = 0;
    int counts[V] = {0}, greedy = 0, repeats = 0;
    begin("sampling");
    Random random = random_stream(5, 4), twin = random, other = random_stream(6, 4);
    for (int i = 0; i < V; i++) sum += p[i] = exp((double)logits[i] / 0.7);
    for (int i = 0; i < DRAWS; i++) {
        const int token = sample_token(logits, V, 0.7, &random);
        counts[token]++;
        repeats += token == sample_token(logits, V, 0.7, &twin);
        greedy += sample_token(logits, V, 0, &other) == 2 && sample_token(logits, V, 1e-9, &other) == 2;
    }
    expect(repeats == DRAWS, "the same seed draws otherwise");
    expect(greedy == DRAWS, "temperature 0 or almost 0 is not greedy");
    for (int i = 0; i < V; i++)
        expect(fabs(counts[i] - p[i] / sum * DRAWS) < 4 * sqrt(p[i] / sum * DRAWS), "token %d is drawn %d times", i, counts[i]);
}

// A step of training, then a token decoded. Returns a hash of the weights, the gradients, the losses and the logits.
static uint32_t hash_of_step(Way way)
{
    enum { V = 3000, T = 70 };  // large enough for everything that threads divide
    dice.state = 99;
    Model *m = random_model((Dims){.layers = 1, .heads = 3, .channels = 48, .context = T, .vocab = V});
    plug(m, way, "low", 40, 6, true, false);
    Trainee s = trainee(m, 2, T);
    Activations a = activations_allocate(m, 1, T, 1, NULL, true);
    const Loss loss = learn(&s, 1e-2, 0.1);
    model_forward(m, &a, s.tokens, 1, T - 1, 0);
    model_forward(m, &a, s.tokens + T - 1, 1, T, T - 1);
    expect(isfinite(tensors_norm(&s.grad)) && tensors_norm(&s.grad) > 0 && isfinite(a.logits.at[0]), "no numbers");
    uint32_t hash = fnv1a(fnv1a(FNV_START, s.w->memory, s.w->size * sizeof(real)), s.grad.memory, s.grad.size * sizeof(real));
    hash = fnv1a(fnv1a(hash, &loss, sizeof loss), a.logits.at, V * sizeof(real));
    activations_free(&a);
    trainee_free(&s);
    return hash;
}

static void test_threads(void)
{
    static const int threads[] = {1, 2, 3, 7};  // rising: threads that end would leave their scratch memory behind
    uint32_t hash[4][CONTEXT + 1];
    begin("the same bits for 1, 2, 3 and 7 threads");
    for (int i = 0; i < 4; i++)
        for (int w = FINETUNE; w <= CONTEXT; w++) {
            omp_set_num_threads(threads[i]);
            hash[i][w] = hash_of_step(ways[w]);
            expect(hash[i][w] == hash[0][w], "%s: %d threads compute something else", ways[w].method, threads[i]);
        }
}

// The score of a file by its definition, one window of T predictions after the other.
static Score evaluate_by_hand(const Model *m, const Tokens *from, size_t T)
{
    Score s = {0};
    size_t gates = 0, length, n_early = 0, n_late = 0;
    for (size_t first = 0; first + 1 < from->count; first += T) {
        const size_t n = least(T, from->count - 1 - first), V = m->dims.vocab;
        const uint16_t *ids = from->ids + first;
        int text[16];
        for (size_t t = 0; t < n; t++) text[t] = ids[t];
        Activations a = activations_allocate(m, 1, n, n, NULL, false);
        model_forward(m, &a, text, 1, n, 0);
        for (size_t t = 0; t < n; t++, s.tokens++) {
            double sum = 0;
            for (size_t i = 0; i < V; i++) sum += exp((double)a.logits.at[t * V + i]);
            const double loss = log(sum) - (double)a.logits.at[t * V + ids[t + 1]];
            s.loss += loss;
            if (t < (T + 7) / 8) s.early += loss, n_early++;
            if (t >= T / 2) s.late += loss, n_late++;
            tokenizer_bytes(m->tokenizer, ids[t + 1], &length);
            s.bytes += length;
            for (size_t l = 0; l < m->dims.layers && m->n_extensions; l++, gates++)
                s.gates[0].residue += (double)residue_at(m, &a, 0, l).local[t], s.gates[0].gate += (double)residue_at(m, &a, 0, l).gate[t], s.gates[0].closed += residue_at(m, &a, 0, l).gate[t] == 0;
        }
        activations_free(&a);
    }
    s.bpb = s.loss / log(2) / (double)s.bytes;
    s.loss /= (double)s.tokens, s.gates[0].gate /= (double)gates, s.gates[0].closed /= (double)gates;
    s.early /= (double)n_early, s.late /= (double)n_late, s.gates[0].residue /= (double)gates;
    return s;
}

static void test_evaluate(void)
{
    enum { T = 8 };
    static const size_t counts[] = {2, T, T + 1, T + 2, 53, 1024, 1025, 1026, 1100};  // evaluate takes 1024 at a time
    uint16_t ids[1100];
    Model *m = random_model((Dims){.layers = 2, .heads = 2, .channels = 6, .context = 16});
    begin("evaluation of a whole file");
    for (size_t i = 0; i < COUNT_OF(ids); i++) ids[i] = (uint16_t)(random_bits(&dice) % m->dims.vocab);
    for (int extended = 0; extended < 2; extended++) {
        if (extended) plug(m, ways[NEUTRAL], "low", 7, 0, true, false);
        for (size_t c = 0; c < COUNT_OF(counts); c++) {
            const Tokens from = {.ids = ids, .count = counts[c]};
            const Score got = evaluate(m, &from, T, NULL), right = evaluate_by_hand(m, &from, T);
            compare_number(rounding, got.loss, right.loss, "loss");
            compare_number(rounding, got.bpb, right.bpb, "bits per byte");
            compare_number(rounding, got.early, right.early, "loss of the first eighth");
            if (counts[c] > T) compare_number(rounding, got.late, right.late, "loss of the last half");
            if (extended) compare_number(rounding, 1 + got.gates[0].residue, 1 + right.gates[0].residue, "residue");
            expect(got.tokens == from.count - 1 && got.bytes == right.bytes, "of %zu tokens %zu are predicted", from.count, got.tokens);
            if (extended) compare_number(rounding, 1 + got.gates[0].gate, 1 + right.gates[0].gate, "gate");
            if (extended) compare_number(rounding, 1 + got.gates[0].closed, 1 + right.gates[0].closed, "closed");
            else expect(isnan(got.gates[0].gate) && isnan(got.gates[0].closed), "there are gates without an extension");
        }
    }
    model_free(m);
}

// ---------------------------------------------------------------------------------------------------------------------
// The programs. $D is the tests' folder: `made` fills it, `damaged` adds what `refused` refuses.

#define PRETRAIN_ON(folder) "./nr pretrain --data $D/" folder " --layers 1 --heads 2 --channels 16 --context 16 --steps 5 --batch 2 "
#define EXTEND_TO(out) "./nr extend -i $D/model --data $D/data --old en --new fr --steps 5 --batch 2 -o $D/" out " "
#define EVAL_OF(model) "./nr eval --data $D/data --domains en,fr --csv $D/kept -i $D/" model " "
#define SAMPLE_OF "./nr sample -i $D/model -x $D/neutral.safetensors -p 'the dog' -n 60 "

static const struct { const char *command, *words; } made[] = {
    {"echo kept > $D/kept", ""},
    {PRETRAIN_ON("data") "-o $D/model", "model written"},
    {PRETRAIN_ON("data") "--seed 2 -o $D/other", "other written"},
    {EXTEND_TO("neutral.safetensors") "--method neutral", "neutral.safetensors written"},
    {"head -c 999 $D/neutral.safetensors | tr -cd ' -~'", "\"method\":\"neutral\",\"step\":\"5\",\"batch\":\"2\",\"context\":\"16\",\"lr\":\"0.005\","},
    {EXTEND_TO("adapter.safetensors") "--method adapter --new-rows 0", "adapter.safetensors written"},
    {EXTEND_TO("lora.safetensors") "--method lora -x $D/neutral.safetensors", "lora.safetensors written"},
    {EXTEND_TO("tuned") "--method finetune", "tuned written"},
    {EVAL_OF("model") "-x $D/neutral.safetensors -x $D/lora.safetensors && cat $D/kept", "\nfr,val,"},
    {EVAL_OF("tuned"), "bits/byte"},
    {"./nr run --data $D/data -o $D/run --layers 1 --heads 2 --channels 16 --context 16 --pretrain-steps 5 --steps 5 > $D/table &&"
     " cat $D/run/results.csv", "\nneutral,"},
    {EXTEND_TO("context.safetensors") "--method neutral --gate-from first --negatives fr", "context.safetensors written"},
    {EVAL_OF("model") "-x $D/neutral.safetensors -x $D/context.safetensors && cat $D/kept", "closed_1,gate_2,closed_2\nen,val,"},
    {"./nr run --data $D/data -o $D/chain --new fr,en --methods finetune,lora,neutral --layers 1 --heads 2 --channels 16 --context 16"
     " --pretrain-steps 5 --steps 5 > $D/table && cat $D/chain/chain.csv", "\nneutral,1,en,fr,"},
    {EVAL_OF("chain/backbone") "-x $D/chain/neutral-fr.safetensors -x $D/chain/neutral-en.safetensors", "bits/byte"},
    {EVAL_OF("chain/lora-en"), "bits/byte"},
    {"./nr gates -i $D/model -x $D/neutral.safetensors 'the dog' --data $D/data", "|residue|\n1     |"},
    {SAMPLE_OF "--seed 3 > $D/a && " SAMPLE_OF "--seed 3 > $D/b && cmp $D/a $D/b && cat $D/a", "the dog"},
    {SAMPLE_OF "--seed 4 > $D/b && ! cmp -s $D/a $D/b && cat $D/b", "the dog"},
    {SAMPLE_OF "--temperature 0 > $D/a && " SAMPLE_OF "--temperature 1e-9 > $D/b && cmp $D/a $D/b && cat $D/a", "the dog"},
    {"./tokenizer decode -m $D/data $D/data/fr_train.bin | cmp - $D/fr.txt && echo as it was", "as it was"},
    {"seq 2000 | ./tokenizer train -v 999 -o $D/numbers - && seq 1995 2000 | ./tokenizer encode -m $D/numbers - | wc -l", "1\n"},
};

// Files that are not what they seem: of tokens, `start` and the ids, all of one byte; of safetensors, a header, its length (0: as
// long as it is) and 16 bytes of data.
static const struct { const char *name; int32_t start[4]; const char *header; uint64_t length; int byte; size_t bytes; } damaged[] = {
    {"data/cut_train.bin", {20240520, 1, 900, 0}, NULL, 0, 0, 1008 + 1000},
    {"data/foreign_train.bin", {7, 1, 900, 0}, NULL, 0, 0, 1008 + 1800},
    {"data/newer_train.bin", {20240520, 2, 900, 0}, NULL, 0, 0, 1008 + 1800},
    {"data/less_train.bin", {20240520, 1, -1, 0}, NULL, 0, 0, 1008},
    {"data/beyond_train.bin", {20240520, 1, 900, 0}, NULL, 0, 0xEA, 1008 + 1800},
    {"data/others_train.bin", {20240520, 1, 900, 77}, NULL, 0, 0, 1008 + 1800},
    {"data/few_train.bin", {20240520, 1, 16, 0}, NULL, 0, 0, 1008 + 32},
    {"short.safetensors", {0}, "{}", 1 << 20, 0, 16},
    {"long.safetensors", {0}, "{}", UINT64_MAX - 4, 0, 16},
    {"garbled.safetensors", {0}, "{\"x\":", 0, 0, 16},
    {"list.safetensors", {0}, "[1, 2]", 0, 0, 16},
    {"signed.safetensors", {0}, "{}", (uint64_t)1 << 63, 0, 16},
    {"2gb.safetensors", {0}, "{}", (uint64_t)2 << 30, 0, 16},
    {"deep.safetensors", {0}, "", 1000, '[', 1000},
    {"escape.safetensors", {0}, "{\"\\x41\":{}}", 0, 0, 16},
    {"strange.safetensors", {0}, "{\"x\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 0, 0, 16},
    {"shape/model.safetensors", {0}, "{\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 0, 0, 16},
    {"half/model.safetensors", {0}, "{\"wte.weight\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,16]}}", 0, 0, 16},
    {"without/model.safetensors", {0}, "{}", 0, 0, 16},
};

// Each is answered by one line on stderr that has these words, by exit status 1, and by nothing written.
static const struct { const char *command, *words; } refused[] = {
    {"./nr --data $D/none -o $D/out", "none/vocab.json: No such file"},
    {PRETRAIN_ON("none") "-o $D/out", "none/vocab.json: No such file"},
    {PRETRAIN_ON("empty") "-o $D/out", "empty/vocab.json: No such file"},
    {PRETRAIN_ON("line") "-o $D/out", "line/en_train.bin: "},
    {PRETRAIN_ON("data") "-o $D/out --domain xx", "data/xx_train.bin: No such file"},
    {PRETRAIN_ON("data") "-o $D/out --domain cut", "cut_train.bin: header says 900 tokens, but 1000 bytes"},
    {PRETRAIN_ON("data") "-o $D/out --domain less", "less_train.bin: header says -1 tokens"},
    {PRETRAIN_ON("data") "-o $D/out --domain foreign", "foreign_train.bin: magic and version 7 1"},
    {PRETRAIN_ON("data") "-o $D/out --domain newer", "newer_train.bin: magic and version 20240520 2"},
    {PRETRAIN_ON("data") "-o $D/out --domain beyond", "beyond_train.bin: token 0 is 60138, beyond the vocabulary"},
    {PRETRAIN_ON("data") "-o $D/out --domain others", "others_train.bin: made with another tokenizer"},
    {PRETRAIN_ON("data") "-o $D/out --domain few", "few_train.bin: 16 tokens, expected more than the context of 16"},
    {PRETRAIN_ON("data") "-o $D/out --context 100000", "en_train.bin: "},
    {PRETRAIN_ON("data") "-o $D/out --layers -1", "--layers -1: expected a whole number from 1"},
    {PRETRAIN_ON("data") "-o $D/out --layers 99999999999999999999", "--layers 99999999999999999999: expected a whole number from 1"},
    {PRETRAIN_ON("data") "-o $D/out --channels 99999999", "--channels 99999999: expected a whole number from 1"},
    {PRETRAIN_ON("data") "-o $D/out --channels 65536 --layers 1024", "these sizes make"},
    {PRETRAIN_ON("data") "-o $D/out --steps 0", "--steps 0: expected a whole number from 1"},
    {PRETRAIN_ON("data") "-o $D/out --batch 1.5", "--batch 1.5: expected a whole number from 1"},
    {PRETRAIN_ON("data") "-o $D/out --heads 3", "3 heads do not divide 16 channels"},
    {PRETRAIN_ON("data") "-o $D/kept/out", "kept: is a file, not a folder"},
    {PRETRAIN_ON("data") "-o ''", "--out: its value is empty"},
    {PRETRAIN_ON("data") "-o $D/model --batch 65536 --context 1024 --heads 16 --layers 1024", "out of memory: activations of 1024 layers"},
    {PRETRAIN_ON("data"), "pretrain: -o FOLDER is missing"},
    {"./prepare_data.sh files en=$D/line.txt fr=$D/fr.txt -o $D/out", "has 1 line"},
    {"./prepare_data.sh files --lines en=$D/line.txt fr=$D/fr.txt -o $D/out", "has 1 line"},
    {EXTEND_TO("kept/out"), "kept: is a file, not a folder"},
    {EXTEND_TO("kept") "--p 1.5", "--p 1.5: expected a number from 0 to 1"},
    {EXTEND_TO("kept") "--p -0.1", "--p -0.1: expected a number from 0 to 1"},
    {EXTEND_TO("kept") "--p nan", "--p nan: expected a number from 0 to 1"},
    {EXTEND_TO("kept") "--p abc", "--p abc: expected a number from 0 to 1"},
    {EXTEND_TO("kept") "--p ''", "--p : expected a number from 0 to 1"},
    {EXTEND_TO("kept") "--alpha -1", "--alpha -1: expected a number from 0"},
    {EXTEND_TO("kept") "--lr inf", "--lr inf: expected a number"},
    {EXTEND_TO("kept") "--context 17", "--context 17: the model has 16 positions"},
    {EXTEND_TO("kept") "--method magic", "--method magic: not known, expected naive|finetune|lora|adapter|neutral"},
    {EXTEND_TO("kept") "--gate tanh", "--gate tanh: not known, expected relu|sigmoid|none"},
    {EXTEND_TO("kept") "--gate relu --local ce", "--local ce: needs --gate sigmoid"},
    {EXTEND_TO("kept") "--method lora --gate relu", "--method lora: --gate"},
    {EXTEND_TO("kept") "--colour red", "--colour: not an option of extend"},
    {EXTEND_TO("kept") "surplus", "surplus: not an option of extend"},
    {EXTEND_TO("kept") "--steps", "--steps: a value is missing"},
    {"./nr run --data $D/data -o $D/out --methods neutral,magic", "method magic: not known, expected naive, finetune"},
    {"./nr fly", "fly: not a command, expected run, pretrain"},
    {"./tokenizer train -v 5 -o $D/out $D/en.txt", "--vocab 5: expected a whole number from 257 to 65535"},
    {"./tokenizer train -v 300 $D/en.txt", "train: expected --output; --help"},
    {"./tokenizer encode -m", "-m: expected a value behind it"},
    {"./tokenizer decode -m $D/data -o $D/out $D/line.txt", "decode has no option -o; --help"},
    {"./tokenizer decode -m $D/data $D/line.txt", "line.txt: is not a file of tokens"},
    {"./tokenizer decode -m $D/data $D/data/others_train.bin", "others_train.bin: was made with another vocabulary than that of"},
    {EVAL_OF("none"), "none/config.json: No such file"},
    {EVAL_OF("other") "-x $D/neutral.safetensors", "neutral.safetensors: made for the backbone with fingerprint"},
    {EVAL_OF("model") "-x $D/lora.safetensors", "lora.safetensors: trained on extensions"},
    {EVAL_OF("model") "-x $D/neutral.safetensors -x $D/ce.safetensors", "ce.safetensors: metadata \"local\" is \"ce\", but it has no gates"},
    {EVAL_OF("model") "-x $D/adapter.safetensors -x $D/lora.safetensors", "lora.safetensors: trained on extensions"},
    {EXTEND_TO("kept") "--method lora --gate-from first", "--gate-from"},
    {EXTEND_TO("kept") "--method adapter --gate-from first", "--gate-from first: needs a --gate"},
    {EXTEND_TO("kept") "--negatives en --p 0.6", "--p 0.6: with --negatives, which take as much, expected"},
    {EXTEND_TO("kept") "--negatives en --p 0", "--p 0: with --negatives"},
    {EXTEND_TO("kept") "--negatives xx", "data/xx_train.bin: No such file"},
    {"./nr gates -i $D/model -x $D/neutral.safetensors", "gates: expected a text, or --data"},
    {"./nr gates -i $D/model 'the dog'", "gates: -x FILE is missing"},
    {"./nr gates -i $D/model -x $D/lora.safetensors 'the dog'", "lora.safetensors: trained on extensions"},
    {"./nr gates -i $D/model -x $D/adapter.safetensors 'the dog'", "adapter.safetensors: has no gates"},
    {"./nr gates -i $D/model -x $D/neutral.safetensors 'the dog the dog the dog the dog the dog the dog'", "the model's context 16"},
    {EVAL_OF("model") "-x $D/model/model.safetensors", "model.safetensors: its metadata has no \"backbone\""},
    {EVAL_OF("model") "-x $D/strange.safetensors", "strange.safetensors: its metadata has no \"backbone\""},
    {EVAL_OF("model") "-x $D/cut.safetensors", "cut.safetensors: "},
    {EVAL_OF("model") "-x $D/flipped.safetensors", "flipped.safetensors: damaged"},
    {EVAL_OF("model") "-x $D/ids.safetensors", "ids.safetensors: "},
    {EVAL_OF("model") "-x $D/model", "model: is a folder, not a file"},
    {EVAL_OF("model") "-x $D/line.txt", "line.txt: says its header has"},
    {EVAL_OF("model") "-x $D/short.safetensors", "short.safetensors: says its header has 1048576 bytes"},
    {EVAL_OF("model") "-x $D/long.safetensors", "long.safetensors: says its header has 18446744073709551611 bytes"},
    {EVAL_OF("model") "-x $D/garbled.safetensors", "garbled.safetensors: JSON: expected"},
    {EVAL_OF("model") "-x $D/list.safetensors", "list.safetensors: the header is not a JSON object"},
    {EVAL_OF("model") "-x $D/few.safetensors", "few.safetensors: shorter than the 8 bytes"},
    {EVAL_OF("model") "-x $D/signed.safetensors", "signed.safetensors: says its header has 9223372036854775808 bytes"},
    {EVAL_OF("model") "-x $D/2gb.safetensors", "2gb.safetensors: says its header has 2147483648 bytes"},
    {EVAL_OF("model") "-x $D/deep.safetensors", "deep.safetensors: JSON: expected no deeper nesting at byte 64"},
    {EVAL_OF("model") "-x $D/escape.safetensors", "escape.safetensors: JSON: expected an escape at byte 3"},
    {EVAL_OF("cut"), "cut/model.safetensors: "},
    {EVAL_OF("shape"), "shape/model.safetensors: wte.weight"},
    {EVAL_OF("half"), "half/model.safetensors: wte.weight is stored as F16, expected F32 (in Python: model.float()"},
    {EVAL_OF("without"), "without/model.safetensors: has no tensor wte.weight"},
};

// Models with one file edited by sed, and the words that refuse each: $D/edited/0 and so on, whose other files are links.
static const struct { const char *file, *script, *words; } edited[] = {
    {"config.json", "1s/{/(/", "config.json: JSON: expected a value at byte 0, found '('"},
    {"config.json", "s/\"gelu_new\"/\"\\\\q\"/", "config.json: JSON: expected an escape"},
    {"config.json", "s/\"gelu_new\"/\"relu\"/", "config.json: \"activation_function\" is relu, but nr computes with gelu_new|"},
    {"config.json", "s/1e-05/1e-06/", "config.json: \"layer_norm_epsilon\" is 1e-06, but nr computes with 1e-05 only"},
    {"config.json", "s/true/false/", "config.json: \"tie_word_embeddings\" is false, but nr computes with true only"},
    {"config.json", "s/\"gpt2\"/\"bert\"/", "config.json: \"model_type\" is bert"},
    {"config.json", "/model_type/d", "config.json: \"model_type\" is missing"},
    {"config.json", "/n_layer/d", "config.json: \"n_layer\" is missing or not a whole number"},
    {"config.json", "s/_layer\": 2/_layer\": 1e30/", "config.json: \"n_layer\" is missing or not a whole number"},
    {"config.json", "s/_layer\": 2/_layer\": -1/", "config.json: \"n_layer\" is missing or not a whole number"},
    {"config.json", "s/_layer\": 2/_layer\": 2.5/", "config.json: \"n_layer\" is missing or not a whole number"},
    {"config.json", "s/_layer\": 2/_layer\": 1, \"n_layer\": 2/", "JSON: the key \"n_layer\" is there twice"},
    {"config.json", "s/_layer\": 2/_layer\": 1/", "model.safetensors: has 12 tensors that do not belong to it"},
    {"config.json", "s/_layer\": 2/_layer\": 3/", "model.safetensors: has no tensor h.2."},
    {"config.json", "s/_head\": 2/_head\": 3/", "config.json: 3 heads do not divide 16 channels"},
    {"config.json", "s/_head\": 2/_head\": 0/", "config.json: \"n_head\" is missing or not a whole number"},
    {"config.json", "s/_head\": 2/_head\": 2, \"n_inner\": 63/", "config.json: \"n_inner\" is 63, but nr computes with 64|null only"},
    {"config.json", "s/_embd\": 16/_embd\": 18/", "model.safetensors: wte.weight: side 1 of its shape is 16, expected 18"},
    {"config.json", "s/_layer\": 2/_layer\": 256/; s/_embd\": 16/_embd\": 1024/", "wte.weight: side 1 of its shape is 16, expected 1024"},
    {"config.json", "s/b_size\": /b_size\": 1/", "config.json: \"vocab_size\" is 1"},
    {"config.json", "s/tokens\": \\[/tokens\": [999999, /", "config.json: \"unseen_tokens\" has what is no id below"},
    {"config.json", "s/tokens\": \\[.*/tokens\": 7/", "config.json: \"unseen_tokens\" is not a list"},
    {"model.safetensors", "s/offsets\":\\[0,/offsets\":[4,/", "wte.weight: its data_offsets are not those of"},
    {"model.safetensors", "s/:\"pt\"/:\"p\"/; s/offsets\":\\[0,/offsets\":[-4,/", "wte.weight: its data_offsets are not those of"},
    {"model.safetensors", "s/offsets\":\\[0,/offsetz\":[0,/", "wte.weight: its data_offsets are not those of"},
    {"model.safetensors", "s/\\(ln_f.bias.*s\":\\[[0-9]*,\\)[0-9]/\\19/", "ln_f.bias: its data_offsets are not those of"},
    {"model.safetensors", "s/\\(f.weight.*s\":\\)\\(\\[[0-9,]*\\]\\)\\(.*f.bias.*s\":\\)\\[[0-9,]*\\]/\\1\\2\\3\\2/", "ln_f.weight and ln_f.bias share bytes"},
    {"vocab.json", "s/{/{{/", "vocab.json: JSON: expected '\"' at byte 1, found '{'"},
    {"vocab.json", "s/: 7,/: 8,/", "vocab.json: id 8 is both"},
    {"merges.txt", "2s/$/?/", "merges.txt: line 2: "},
    {"merges.txt", "2s/ //", "merges.txt: line 2: expected two tokens and a space between"},
    {"merges.txt", "2d", "merges.txt: "},
    {"merges.txt", "$p", "merges.txt: more than "},
};

static void make_damaged(void)
{
    int status;
    for (size_t i = 0; i < COUNT_OF(edited); i++) {
        char command[700];
        const char *f = edited[i].file;
        snprintf(command, sizeof command, "e=$D/edited/%zu && mkdir -p $e && ln -s $D/random/* $e && rm $e/%s"
                 " && LC_ALL=C sed '%s' $D/random/%s > $e/%s && ! cmp -s $D/random/%s $e/%s", i, f, edited[i].script, f, f, f, f);
        if (shell(command, 2, &status), status) die("%s is not edited by %s", f, edited[i].script);
    }
    const char *said = shell("cd $D && mkdir empty && echo one line > line.txt && printf short > few.safetensors &&"
        " head -c 1000 neutral.safetensors > cut.safetensors &&"
        " for m in cut shape half without; do cp -r model $m; done && head -c 5000 model/model.safetensors > cut/model.safetensors &&"
        " { head -c 3000 neutral.safetensors; printf X; tail -c +3002 neutral.safetensors; } > flipped.safetensors &&"
        " LC_ALL=C sed 's/\"none\",\"alpha\"/\"ce\"  ,\"alpha\"/' lora.safetensors > ce.safetensors && ! cmp -s ce.safetensors lora.safetensors &&"
        " { head -c $(($(wc -c < neutral.safetensors) - 4)) neutral.safetensors; head -c 4 /dev/zero; } > ids.safetensors && cd - &&"
        " ./tokenizer train -v 300 -o $D/line $D/line.txt && ./tokenizer encode -m $D/line -o $D/line/en_train.bin $D/line.txt", 2, &status);
    if (status) die("damaged files cannot be made: %s", said);
    for (size_t i = 0; i < COUNT_OF(damaged); i++) {
        char path[700];
        snprintf(path, sizeof path, "%s/%s", folder, damaged[i].name);
        FILE *out = output_open(path);
        const char *header = damaged[i].header;
        const uint64_t length = header && !damaged[i].length ? strlen(header) : damaged[i].length;
        if (header) fwrite(&length, 8, 1, out), fputs(header, out);
        else fwrite(damaged[i].start, 16, 1, out);
        for (size_t k = 0; k < damaged[i].bytes; k++) fputc(damaged[i].byte, out);
        output_close(out);
    }
}

// What `nr sample` must print at temperature 0, computed without a cache: past the context of 16 the last 8 tokens are kept.
static void check_greedy(void)
{
    char path[700], right[4096] = "the dog";
    size_t count, length = strlen(right), n;
    int text[32], status;
    Model *m = random_model((Dims){.layers = 2, .heads = 2, .channels = 16, .context = 16});
    snprintf(path, sizeof path, "%s/random", folder);
    make_folders(path, true);
    model_save(m, path);
    int *ids = keep(tokenizer_encode(m->tokenizer, right, length, &count));
    memcpy(text, ids, count * sizeof(int));
    for (int i = 0; i < 60; i++) {
        if (count > 16) memmove(text, text + count - 8, 8 * sizeof(int)), count = 8;
        const real *logits = logits_of(m, text, 1, count) + (count - 1) * m->dims.vocab;
        text[count] = 0;
        for (int v = 1; v < m->tokenizer->size; v++) text[count] = logits[v] > logits[text[count]] ? v : text[count];
        const char *bytes = tokenizer_bytes(m->tokenizer, text[count++], &n);
        for (size_t k = 0; k < n; k++) right[length] = bytes[k], length += bytes[k] != 0;
    }
    memcpy(right + length, "\n", 2);
    const char *said = shell("./nr sample -i $D/random -p 'the dog' -n 60 --temperature 0 | tr -d '\\000'", 1, &status);
    expect(!strcmp(said, right), "sampled\n%s        instead of\n%s", said, right);
    model_free(m);
}

static void test_programs(void)
{
    int status;
    char before[64], after[64];
    begin("the programs work");
    for (size_t i = 0; i < COUNT_OF(made); i++) {
        const char *said = shell(made[i].command, 1, &status);
        expect(status == 0 && strstr(said, made[i].words), "%s\n        exits with %d and prints, expected \"%s\": %s", made[i].command,
               status, made[i].words, said);
    }
    check_greedy();
    begin("the programs refuse, in one line");
    setenv("LSAN_OPTIONS", "detect_leaks=0", 0);  // a program that dies frees nothing
    make_damaged();
    for (size_t i = 0; i < COUNT_OF(refused) + COUNT_OF(edited); i++, memcpy(before, after, sizeof before)) {
        const size_t e = i - COUNT_OF(refused);
        char eval[256];
        snprintf(eval, sizeof eval, "e=%zu; " EVAL_OF("edited/$e"), e);
        const char *command = i < COUNT_OF(refused) ? refused[i].command : eval;
        const char *words = i < COUNT_OF(refused) ? refused[i].words : edited[e].words;
        const char *all = "{ find $D; find $D -type f -exec cat {} + ; } | cksum";
        if (i == 0) memcpy(before, shell(all, 1, &status), sizeof before);
        const char *said = shell(command, 2, &status), *line = strchr(said, '\n');
        expect(status == 1 && line && !line[1] && strstr(said, words), "%s\n        exits with %d and says, expected \"%s\": %s",
               command, status, words, said);
        memcpy(after, shell(all, 1, &status), sizeof after);
        expect(!strcmp(before, after), "%s\n        changed files", command);
    }
}

// Sends SIGINT to a command once it has saved a state. False if it ended before, as it may on a busy machine.
static bool interrupt(const char *command, const char *state)
{
    int status;
    const pid_t child = fork();
    if (child < 0) die("fork: %s", strerror(errno));
    if (child == 0) execl("/bin/sh", "sh", "-c", command, (char *)NULL), _exit(127);
    pid_t ended = 0;
    while (access(state, F_OK) && !(ended = waitpid(child, &status, WNOHANG))) nanosleep(&(struct timespec){0, 100000}, NULL);
    if (!ended) kill(child, SIGINT), waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 130 && !access(state, F_OK);
}

static void test_resume(void)
{
    static const struct { const char *name, *command; } runs[] = {
        {"pretrained", PRETRAIN_ON("data") "-o $D/"},
        {"neutral.st", EXTEND_TO("") "--method neutral -o $D/"},
        {"lora.st", EXTEND_TO("") "--method lora -x $D/neutral.safetensors -o $D/"},
        {"adapter.st", EXTEND_TO("") "--method adapter -o $D/"},
        {"naive", EXTEND_TO("") "--method naive -o $D/"},
        {"finetuned", EXTEND_TO("") "--method finetune -o $D/"}};
    begin("interrupted on two or three threads and resumed on seven: the same bits as on one");
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        char command[4][512], state[600];
        int status, tries = 0;
        const char *name = runs[i].name;
        snprintf(state, sizeof state, "%s/part/%s.state", folder, name);
        snprintf(command[0], sizeof *command, "%swhole/%s --steps 60 --threads 1", runs[i].command, name);
        snprintf(command[1], sizeof *command, "exec %spart/%s --steps 60 --threads %zu --save-every 1 >/dev/null 2>&1", runs[i].command,
                 name, OPENMP ? 2 + i % 2 : 1);
        snprintf(command[2], sizeof *command, "%spart/%s --steps 60 --threads %d --resume", runs[i].command, name, OPENMP ? 7 : 1);
        snprintf(command[3], sizeof *command, "%spart/%s --steps 60 --resume --lr 0.004", runs[i].command, name);
        const char *said = shell(command[0], 2, &status);
        expect(status == 0, "%s\n        exits with %d: %s", command[0], status, said);
        while (!interrupt(command[1], state) && tries < 20) tries++;
        expect(tries < 20, "%s\n        cannot be interrupted", command[1]);
        said = shell(command[3], 2, &status);
        expect(status == 1 && strstr(said, ".state: saved under other settings"), "%s\n        exits with %d and says: %s", command[3],
               status, said);
        said = shell(command[2], 1, &status);
        expect(status == 0 && strstr(said, "goes on from step"), "%s\n        exits with %d and prints: %s", command[2], status,
               said);
        expect(access(state, F_OK), "%s is left behind", state);
    }
    int status;
    const char *said = shell("diff -r $D/whole $D/part", 1, &status);
    expect(status == 0, "the resumed differ: %s", said);
}

int main(int argc, char **argv)
{
    program = "test_nr";
    if (argc && !getenv("OMP_WAIT_POLICY")) {  // read when a program starts: threads that wait shall sleep, others need the machine
        setenv("OMP_WAIT_POLICY", "passive", 1);
        execvp(argv[0], argv);
    }
    omp_set_num_threads(1);  // the models are tiny
    make_data();
    test_numbers();
    test_matmul();
    if (DOUBLE) test_layers(), test_model();
    test_reference();
    test_frozen();
    test_loader();
    test_negatives();
    test_merge();
    test_adamw();
    test_overfit();
    test_words();
    test_tokenizer();
    test_files();
    test_hugging_face();
    test_cache();
    test_sampling();
    test_evaluate();
    if (!DOUBLE) test_programs(), test_resume();
    if (OPENMP) test_threads();
    begin(NULL);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

/*
bench: what this machine can do, and how near to it nr comes.

    bench                    all of it, about five minutes
    bench matmul             the matrix multiply, in the shapes that training uses
    bench step               a training step of a 12.3M-parameter GPT by every method
    bench decode             text from a 124M-parameter GPT, token by token
    bench closed             what extensions cost whose gates are closed
    bench busy               a training step beside a program that never rests
    bench step METHOD N      only the times of N steps in ms, a line each, and on stderr the memory they need;
                             METHOD is finetune, lora, adapter or neutral; +300 behind it trains 300 rows of wte too

Two limits are measured, and everything is set against them: how many float32 multiply-adds a second the processor does out of its
registers, and how fast it reads memory that no cache holds. A machine's clock and its other users come and go, so the limits are
measured again before and after every figure, which is compared with the higher of the two. Times are medians, the shortest beside.

Weights and tokens are random: no file is needed.
*/
#define NR_LIBRARY
#include "../nr.c"
#include <sys/wait.h>

_Static_assert(sizeof(real) == 4, "the bench is of float32");

static int all_threads;

static int fewer(int threads) { return threads > 1 ? 1 : 0; }  // all of them, then one, then enough

// ---------------------------------------------------------------------------------------------------------------------
// Times.

typedef struct { double at[1024]; size_t count; } Times;  // in seconds

static void times_add(Times *t, double seconds) { if (t->count < sizeof t->at / sizeof *t->at) t->at[t->count++] = seconds; }

static int compare_times(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double shortest(Times *t)
{
    qsort(t->at, t->count, sizeof *t->at, compare_times);
    return t->at[0];
}

static double median(Times *t)
{
    qsort(t->at, t->count, sizeof *t->at, compare_times);
    return (t->at[(t->count - 1) / 2] + t->at[t->count / 2]) / 2;
}

// ---------------------------------------------------------------------------------------------------------------------
// The two limits of the machine, for as many threads as are in use. A disturbance only ever slows, so the best of a few counts.

enum { TRIES = 10 };

// As many sums as the multiply's tile has: they fit the registers, and each waits for its own last value only, so that the latency of
// a multiply-add is hidden. x and y are not known when this is compiled, and sum * x + y leaves nothing to take out of the loop.
static real multiply_adds(size_t count, vec x, vec y)
{
    vec sum[MR][NR];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NR; j++) sum[i][j] = x + (real)(i * NR + j);
    for (size_t k = 0; k < count; k++)
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NR; j++) sum[i][j] = sum[i][j] * x + y;
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NR; j++) y += sum[i][j];
    return y[0];
}

static volatile real half = 0.5, sink;  // volatile: the compiler may neither foresee what is read nor drop what is written

static double multiply_limit(void)  // FLOP/s
{
    enum { COUNT = 1 << 18 };
    double best = INFINITY;
    for (int i = 0; i < TRIES; i++) {
        const real x = half;
        real sum = 0;
        const double start = now();
        #pragma omp parallel reduction(+: sum)
        sum += multiply_adds(COUNT, (vec){0} + x, (vec){0} + x);
        best = fmin(best, now() - start);
        sink = sum;
    }
    return 2.0 * COUNT * MR * NR * LANES * omp_get_max_threads() / best;
}

// One instruction, one rounding? (1 + e)^2 - (1 + 2 e) is e^2, unless the square was rounded first: then e^2 is lost.
static bool multiply_adds_are_fused(void)
{
    const real e = half / 2048, x = 1 + e;
    return x * x - (1 + 2 * e) != 0;
}

// Reads 1 MB; eight sums, so that no read waits for an addition.
enum { PIECE = 1 << 18 };
static real read_piece(const real *x)
{
    vec sum[8] = {{0}};
    for (size_t i = 0; i < PIECE; i += 8 * LANES)
        for (int j = 0; j < 8; j++) sum[j] += load(x + i + j * LANES);
    for (int j = 1; j < 8; j++) sum[0] += sum[j];
    return sum[0][0];  // every lane had to be added for it
}

static double read_limit(void)  // bytes/s
{
    enum { PIECES = 256 };  // 256 MB
    const size_t size = (size_t)PIECES * PIECE;
    double best = INFINITY;
    real *x = aligned_alloc(64, size * sizeof(real));
    if (!x) die("out of memory: %zu bytes to read", size * sizeof(real));
    // Written first, by the thread that will read it: memory that was never written is one page of zeros over and over.
    #pragma omp parallel for schedule(static)
    for (size_t i = 0; i < PIECES; i++)
        for (size_t k = 0; k < PIECE; k++) x[i * PIECE + k] = 1;
    for (int i = 0; i < TRIES; i++) {
        real sum = 0;
        const double start = now();
        #pragma omp parallel for schedule(static) reduction(+: sum)
        for (size_t k = 0; k < PIECES; k++) sum += read_piece(x + k * PIECE);
        best = fmin(best, now() - start);
        sink = sum;
    }
    free(x);
    return (double)size * sizeof(real) / best;
}

static void print_limits(const char *when)
{
    for (int threads = all_threads; threads; threads = fewer(threads)) {
        omp_set_num_threads(threads);
        printf("%-10s %2d thread%s  %8.1f GFLOP/s multiply-adds, %6.1f GB/s reading memory\n", when, threads, threads > 1 ? "s" : " ",
               multiply_limit() / 1e9, read_limit() / 1e9);
        when = "";
    }
    omp_set_num_threads(all_threads);
}

// ---------------------------------------------------------------------------------------------------------------------
// The matrix multiply.

typedef struct { const char *name; bool a, b; } Layout;  // which of the two is stored transposed

// Times C (M, N) = A (M, K) B (K, N); prints ms, shortest ms, the rate, the limit and the rate's share of it. A single row uses each
// number of B once, so that its limit is the memory.
static void time_matmul(real *c, const real *a, const real *b, size_t M, size_t K, size_t N, Layout layout)
{
    double (*const limit)(void) = M == 1 ? read_limit : multiply_limit;
    const double work = M == 1 ? (double)(K * N * sizeof(real)) : 2.0 * (double)(M * K * N);
    double most = limit();
    Times times = {.count = 0};
    const double begin = now();
    for (int i = 0; i < 8 || (now() - begin < 0.15 && i < 200); i++) {
        const double start = now();
        matmul(c, N, M, N, K, layout.a ? transposed(a, M) : plain(a, K), layout.b ? transposed(b, K) : plain(b, N), NULL, NULL);
        if (i) times_add(&times, now() - start);  // the first warms up
    }
    most = fmax(most, limit());
    printf(" %8.3f %8.3f %7.1f %6.1f %4.0f%% ", 1e3 * median(&times), 1e3 * shortest(&times), work / median(&times) / 1e9, most / 1e9,
           100 * work / median(&times) / most);
    fflush(stdout);
}

static void bench_matmul(void)
{
    static const size_t shapes[][3] = {{2048, 384, 1536}, {2048, 384, 4096}, {2048, 1536, 384}, {1024, 1024, 1024}, {2048, 384, 77},
                                       {1, 768, 50257}};
    static const Layout layouts[] = {{"A B", false, false}, {"A B^T", false, true}, {"A^T B", true, false}};
    Random random = random_stream(1, 1);
    char title[32];
    snprintf(title, sizeof title, "%d thread%s", all_threads, all_threads > 1 ? "s" : "");
    printf("\nmatmul             %39s ", title);
    if (all_threads > 1) printf("%39s", "1 thread");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const size_t M = shapes[s][0], K = shapes[s][1], N = shapes[s][2];
        if (s == 0 || M == 1) {
            printf("\n%-19s", "M x K x N");
            for (int i = 0; i < 1 + (all_threads > 1); i++)
                printf(" %8s %8s %7s %6s %5s ", "ms", "min", M == 1 ? "GB/s" : "GFLOP/s", "limit", "share");
            printf("\n");
        }
        real *a = allocate(M * K, sizeof(real)), *b = allocate(K * N, sizeof(real)), *c = allocate(M * N, sizeof(real));
        for (size_t i = 0; i < M * K; i++) a[i] = (real)random_uniform(&random) - (real)0.5;
        for (size_t i = 0; i < K * N; i++) b[i] = (real)random_uniform(&random) - (real)0.5;
        for (size_t k = 0; k < 3; k++) {
            if (M == 1 && layouts[k].a) continue;  // one row is one column
            char name[64];
            snprintf(name, sizeof name, "%zux%zux%zu", M, K, N);
            printf("%-14s%-5s", k ? "" : name, layouts[k].name);
            for (int threads = all_threads; threads; threads = fewer(threads)) {
                omp_set_num_threads(threads);
                time_matmul(c, a, b, M, K, N, layouts[k]);
            }
            printf("\n");
        }
        free(a), free(b), free(c);
    }
    omp_set_num_threads(all_threads);
}

// ---------------------------------------------------------------------------------------------------------------------
// A training step.

enum { BATCH = 8, TIME = 256, ROWS = 300 };
static const Dims small = {.layers = 6, .heads = 6, .channels = 384, .positions = TIME,  // 12.3M
                           .vocab = 4096};
static const Dims gpt2 = {.layers = 12, .heads = 12, .channels = 768, .positions = 1024,  // 124M
                          .vocab = 50257};

static Model *model_random(const Dims *d)
{
    Model *m = model_new(d, &initial.train, NULL);
    memset(m->unseen, 0, d->vocab);
    return m;
}

// Begins to train m by a method: its name, and perhaps "+300" for the rows of wte.
static Training training_begin(Model *m, const char *name)
{
    const size_t length = strcspn(name, "+");
    char plain_name[32];
    snprintf(plain_name, sizeof plain_name, "%.*s", (int)length, name);
    const int method = choice_index(METHOD_NAMES, '|', plain_name);
    if (method < 0 || (name[length] && strcmp(name + length, "+300")))
        die("method %s: expected one of %s, and perhaps +300 behind it", name, METHOD_NAMES);
    Random random = random_stream(1, 3);
    if (!(methods[method].uses & SET_BACKBONE)) {
        const TrainConfig c = train_config(&initial, method);
        for (int i = 0; i < ROWS; i++) m->unseen[13 * i] = name[length];  // as if no text had these
        extension_new(m, &c, NULL);
    }
    Training t = training_new(m, BATCH, TIME);
    for (size_t i = 0; i < BATCH * TIME; i++) {
        t.batch.tokens[i] = (int)(random_bits(&random) % m->dims.vocab);
        t.batch.targets[i] = (int)(random_bits(&random) % m->dims.vocab);
        t.batch.is_old[i] = i < TIME;  // the first sequence is of the old domain
    }
    return t;
}

static double timed_step(Training *t)  // -> seconds
{
    const double start = now();
    const Loss loss = training_step(t, 1e-4, 0);
    const double seconds = now() - start;
    if (!isfinite(loss.lm + loss.local)) die("the loss is %g", loss.lm + loss.local);
    return seconds;
}

// Weights, gradients, moments, activations. Left out: the multiply's packed blocks, 3 MB a thread,
// and the program itself.
static double training_bytes(const Training *t)
{
    const Model *m = t->m;
    const size_t copy = m->wte == m->w.at[WTE] ? 0 : m->dims.vocab * m->dims.channels;
    const size_t own = m->n_extensions ? t->w->size : 0;
    const size_t reals = m->w.size + own + copy + 3 * t->grad.size + t->a.size;
    return (double)(reals * sizeof(real) + 3 * BATCH * TIME * sizeof(int));
}

// m is as new afterwards, but for what finetune has done to its weights.
static void training_end(Training *t)
{
    Model *m = t->m;
    training_free(t);
    if (m->n_extensions) extension_drop(m);
    if (m->wte != m->w.at[WTE]) free(m->wte);
    m->wte = m->w.at[WTE];
}

typedef struct { double forward, back, weights; } Flops;

// Gives the extension gates that are open on a share of the tokens. Their input, a row that is normal with variance 1, makes
// z = w . u + b normal, too: with mean b, and of the size of w.
static void open_share(const Extension *x, const Dims *d, double share)
{
    static const struct { double share, quantile; } table_of_normal[] = {{0, -9}, {0.05, -1.6449}, {0.9, 1.2816}, {1, 9}};
    Random random = random_stream(1, 3);
    int k = 0;
    while (table_of_normal[k].share < share) k++;
    for (size_t l = 0; l < d->layers; l++) {
        real *w = tensor(&x->w, GATE_W, l), *b = tensor(&x->w, GATE_B, l);
        for (size_t i = 0; i < d->channels; i++) w[i] = (real)(random_normal(&random) / sqrt((double)d->channels));
        real size = (real)sqrt(dot(d->channels, w, w));
        *b = (real)table_of_normal[k].quantile * size;
    }
}

// What a step has to multiply and add: a product of (n, I) and (I, O) is 2 n I O. Not counted: elementwise work, and the gate.
static Flops step_flops(const Dims *d, bool finetune)
{
    const double n = BATCH * TIME, C = (double)d->channels, L = (double)d->layers;
    const double block = 2 * n * C * (3 + 1 + 4 + 4) * C;                     // qkv, proj, fc, fcproj
    // q k^T and a v; causal: the query at position t needs t + 1 of the T keys.
    const double attention = 2 * 2 * C * BATCH * TIME * (TIME + 1) / 2;
    const double adapter = 2 * n * 3 * C * (double)d->hidden;                 // wi, wg, wo
    const double lora = 2 * n * (4 + 2 + 5 + 5) * C * (double)d->rank;        // a and b beside each of the four
    const double head = 2 * n * C * (double)d->vocab, rows = 2 * n * C * (double)d->new_rows;
    Flops f = {.forward = L * (block + attention + adapter + lora) + head};
    // Back through a product to either of its factors is as much again. Both factors of attention's products are activations.
    f.back = f.forward + L * attention;
    f.weights = (finetune ? L * block + head : 0) + L * (adapter + lora) + rows;
    // If wte is frozen nothing is needed of what lies below the first trained tensor, in layer 0: adapters train wi and wg, which read
    // the u that all of the block's frozen part leads to; LoRA trains qkv's a.
    if (!finetune && !d->new_rows)
        f.back -= d->hidden ? block + 2 * attention + adapter * 2 / 3 : 2 * n * C * (3 * C + (double)d->rank);
    return f;
}

static void bench_step(void)
{
    enum { METHODS_TIMED = 7, ROUNDS = 3, STEPS = 3 };
    struct { const char *name; int threads; double open; Times times; double limit, bytes, gflop; size_t trained; Flops flops; } r[] = {
        {.name = "finetune"}, {.name = "lora"}, {.name = "adapter"}, {.name = "neutral"}, {.name = "neutral+300"},
        {.name = "neutral", .open = 0.9}, {.name = "finetune", .threads = 1},
    };
    const int rows = METHODS_TIMED - (all_threads == 1);
    Model *m = model_random(&small);
    printf("\ntraining step: %.3fM parameters, B=%d T=%d L=%zu NH=%zu C=%zu V=%zu; adapters, LoRA: 20%%\n", 1e-6 * (double)m->w.size, BATCH, TIME,
           small.layers, small.heads, small.channels, small.vocab);
    // The methods take turns, so that a slow minute of the machine falls on all of them.
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < rows; i++) {
            if (isatty(STDERR_FILENO)) fprintf(stderr, "\rround %d of %d: %-12s\r", round + 1, ROUNDS, r[i].name);
            omp_set_num_threads(r[i].threads ? r[i].threads : all_threads);
            r[i].limit = fmax(r[i].limit, multiply_limit());
            Training t = training_begin(m, r[i].name);
            if (r[i].open > 0) open_share(m->extension[0], &small, r[i].open);
            timed_step(&t);  // touches all memory
            for (int k = 0; k < STEPS; k++) times_add(&r[i].times, timed_step(&t));
            r[i].flops = step_flops(t.dims, !m->n_extensions);
            r[i].trained = t.w->size;
            r[i].bytes = training_bytes(&t);
            training_end(&t);
            r[i].limit = fmax(r[i].limit, multiply_limit());
        }
    printf("%-11s %10s %6s %6s %5s %5s %5s %5s %7s %6s %5s %6s %4s\n", "", "trained", "ms", "min", "fwd", "back", "dW", "GFLOP",
           "GFLOP/s", "limit", "share", "tok/s", "MB");
    for (int i = 0; i < rows; i++) {
        const Flops f = r[i].flops;
        const double seconds = median(&r[i].times);
        r[i].gflop = (f.forward + f.back + f.weights) / 1e9;
        char name[32];
        snprintf(name, sizeof name, "%s%s", r[i].name, r[i].threads ? ", 1" : r[i].open > 0 ? ", 90%" : "");
        printf("%-11s %9.3fM %6.1f %6.1f %5.1f %5.1f %5.1f %5.1f %7.1f %6.1f %4.0f%% %6.0f %4.0f\n", name, 1e-6 * (double)r[i].trained,
               1e3 * seconds, 1e3 * shortest(&r[i].times), f.forward / 1e9, f.back / 1e9, f.weights / 1e9, r[i].gflop, r[i].gflop / seconds,
               r[i].limit / 1e9, 100e9 * r[i].gflop / seconds / r[i].limit, BATCH * TIME / seconds, r[i].bytes / 1e6);
    }
    printf("GFLOP: fwd forward, back to activations, dW to trained weights; of attention the causal half.\n");
    printf("+300: 300 rows of wte train too. 90%%: a tenth of the gates are closed, as in a real run; else none. \", 1\": one thread.\n");
    for (int i = 3; i < 5; i++)
        printf("%s takes %.3f of finetune's time, for %.3f of its FLOP\n", r[i].name, median(&r[i].times) / median(&r[0].times),
               r[i].gflop / r[0].gflop);
    if (all_threads > 1)
        printf("finetune: %d threads are %.2f times as fast as 1\n", all_threads, median(&r[METHODS_TIMED - 1].times) / median(&r[0].times));
    omp_set_num_threads(all_threads);
    model_free(m);
}

// For bench_torch.py, which calls this between its own steps.
static void print_steps(const char *method, const char *count)
{
    char *end;
    const long steps = strtol(count, &end, 10);
    if (!*count || *end || steps < 1 || steps > 100000) die("step %s %s: expected a number of steps", method, count);
    Model *m = model_random(&small);
    Training t = training_begin(m, method);
    fprintf(stderr, "%s: %.0f bytes\n", method, training_bytes(&t));
    timed_step(&t);
    for (long i = 0; i < steps; i++) printf("%.3f\n", 1e3 * timed_step(&t));
    training_end(&t);
    model_free(m);
}

// ---------------------------------------------------------------------------------------------------------------------
// Decoding: one token at a time every weight is read once for two operations, so memory is the limit.

static void bench_decode(void)
{
    enum { FIRST = 64, TOKENS = 32 };
    Model *m = model_random(&gpt2);
    Activations a = activations_new(m, 1, gpt2.positions, 1, false);
    int tokens[FIRST + TOKENS];
    Random random = random_stream(1, 3);
    for (size_t i = 0; i < FIRST + TOKENS; i++) tokens[i] = (int)(random_bits(&random) % gpt2.vocab);
    // Of the positions one row is read, of wte all: it is the head.
    const double bytes = (double)((m->w.size - gpt2.positions * gpt2.channels) * sizeof(real));
    printf("\ndecoding: %.3fM parameters, L=%zu NH=%zu C=%zu V=%zu, %d tokens one by one from position %d; %.0f MB a token\n",
           1e-6 * (double)m->w.size, gpt2.layers, gpt2.heads, gpt2.channels, gpt2.vocab, TOKENS, FIRST, bytes / 1e6);
    printf("%-12s %9s %9s %9s %9s %9s %6s\n", "", "tokens/s", "ms", "min", "GB/s", "limit", "share");
    for (int threads = all_threads; threads; threads = fewer(threads)) {
        omp_set_num_threads(threads);
        double limit = read_limit();
        Times times = {.count = 0};
        model_forward(m, &a, tokens, 1, FIRST, 0);
        for (size_t t = FIRST; t < FIRST + TOKENS; t++) {
            const double start = now();
            model_forward(m, &a, tokens + t, 1, t + 1, t);
            times_add(&times, now() - start);
        }
        limit = fmax(limit, read_limit());
        const double seconds = median(&times);
        printf("%2d thread%-3s %9.1f %9.2f %9.2f %9.1f %9.1f %5.0f%%\n", threads, threads > 1 ? "s" : "", 1 / seconds, 1e3 * seconds,
               1e3 * shortest(&times), bytes / seconds / 1e9, limit / 1e9, 100 * bytes / seconds / limit);
        fflush(stdout);
    }
    omp_set_num_threads(all_threads);
    free(a.memory);
    model_free(m);
}

// ---------------------------------------------------------------------------------------------------------------------
// Closed gates: what a model with extensions costs, over what its backbone costs.

enum { SETTINGS_TIMED = 9, MOST_ROUNDS = 9 };
static const struct { int extensions; double first, others; const char *gates; } cases[SETTINGS_TIMED] = {
    {0, 0, 0, "the backbone"},
    {1, 0.05, 0, "5% open"}, {2, 0.05, 0.05, "5% open"}, {4, 0.05, 0.05, "5% open"}, {8, 0.05, 0.05, "5% open"},
    {1, 1, 0, "all open"}, {2, 1, 0.05, "all of one open, 5% of the others"}, {4, 1, 0.05, "the same"}, {8, 1, 0.05, "the same"},
};

// Times passes of a model with up to eight extensions: `rows` tokens at once, each with logits, or token by token.
static void time_cases(const char *what, const Dims *d, size_t rows)
{
    enum { FIRST = 64, FEW = 8 };
    static Times times[SETTINGS_TIMED];
    Model *m = model_random(d);
    int tokens[2048];
    Random random = random_stream(1, 3);
    const TrainConfig c = train_config(&initial, NEUTRAL);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) tokens[i] = (int)(random_bits(&random) % d->vocab);
    for (int e = 0; e < MAX_EXTENSIONS; e++) extension_new(m, &c, NULL);
    Activations a = activations_new(m, rows ? rows / TIME : 1, rows ? TIME : 256, rows ? rows : 1, false);
    for (int round = 0; round <= MOST_ROUNDS; round++)
        for (int k = 0; k < SETTINGS_TIMED; k++) {
            m->n_extensions = (size_t)cases[k].extensions;
            for (int e = 0; e < cases[k].extensions; e++)
                open_share(m->extension[e], d, e ? cases[k].others : cases[k].first);
            model_forward(m, &a, tokens, rows ? rows / TIME : 1, rows ? TIME : FIRST, 0);
            for (size_t t = FIRST; t < FIRST + FEW; t++) {
                const double start = now();
                if (rows) model_forward(m, &a, tokens, rows / TIME, TIME, 0);
                else model_forward(m, &a, tokens + t, 1, t + 1, t);
                if (round) times_add(&times[k], now() - start);
                if (rows) break;
            }
        }
    m->n_extensions = MAX_EXTENSIONS;
    printf("\n%s, %.1fM parameters and 20%% each extension\n%-12s %-34s %9s %9s %9s\n", what, 1e-6 * (double)m->w.size, "extensions",
           "gates", "ms", "min", "time over");
    for (int k = 0; k < SETTINGS_TIMED; k++)
        printf("%-12d %-34s %9.2f %9.2f %8.3fx\n", cases[k].extensions, cases[k].gates, 1e3 * median(&times[k]), 1e3 * shortest(&times[k]),
               median(&times[k]) / median(&times[0]));
    for (int k = 0; k < SETTINGS_TIMED; k++) times[k].count = 0;
    free(a.memory);
    model_free(m);
}

static void bench_closed(void)
{
    time_cases("evaluation, 1024 tokens at once", &small, 1024);
    time_cases("decoding, token by token", &gpt2, 0);
}

// ---------------------------------------------------------------------------------------------------------------------
// Beside a program that never rests: all threads as they are, all threads that give way, and one.

// Trains for some seconds. Returns tokens a second.
static double training_rate(const Dims *d, size_t batch, size_t length, int threads, bool gives_way, bool busy)
{
    enum { SECONDS = 8 };
    Model *m = model_random(d);
    Training t = training_new(m, batch, length);
    Random random = random_stream(1, 3);
    pid_t child = -1;
    for (size_t i = 0; i < batch * length; i++) t.batch.tokens[i] = t.batch.targets[i] = (int)(random_bits(&random) % d->vocab);
    fflush(stdout);
    if (busy && (child = fork()) == 0)
        for (;;) sink += half;
    omp_set_num_threads(threads);
    double begin = now();
    long steps = 0;
    for (int warm = 0; now() - begin < SECONDS; steps++) {
        const double wall = now(), cpu = (double)clock();
        if (!warm && wall - begin > 2) begin = wall, steps = 0, warm = 1;  // the first two seconds do not count
        timed_step(&t);
        if (gives_way) threads_adapt(wall, cpu);
    }
    const double seconds = now() - begin;
    if (child > 0) kill(child, SIGKILL), waitpid(child, NULL, 0);
    omp_set_num_threads(all_threads);
    training_free(&t);
    model_free(m);
    return (double)steps * (double)(batch * length) / seconds;
}

static void bench_busy(void)
{
    static const Dims tiny = {.layers = 4, .heads = 4, .channels = 128, .positions = 128, .vocab = 1024};
    const struct { const Dims *d; size_t batch, length; } sizes[] = {{&tiny, 8, 128}, {&small, BATCH, TIME}};
    printf("\ntraining all weights, tokens/s              %d threads  giving way    1 thread\n", all_threads);
    for (int k = 0; k < 2; k++)
        for (int busy = 0; busy < 2; busy++) {
            const int parameters = (int)(tensors_lay_out(NULL, SET_BACKBONE, sizes[k].d).size / 10000);
            printf("%5.2fM parameters, %-24s", parameters / 100., busy ? "beside a busy program" : "alone");
            for (int i = 0; i < 3; i++)
                printf(" %10.0f ", training_rate(sizes[k].d, sizes[k].batch, sizes[k].length, i < 2 ? all_threads : 1, i == 1, busy));
            printf("\n");
        }
}

int main(int argc, char **argv)
{
    program = "bench";
    all_threads = omp_get_max_threads();
    if (argc == 4 && !strcmp(argv[1], "step")) {
        print_steps(argv[2], argv[3]);
        return 0;
    }
    static const struct { const char *name; void (*run)(void); } parts[] = {
        {"matmul", bench_matmul}, {"step", bench_step}, {"decode", bench_decode}, {"closed", bench_closed}, {"busy", bench_busy},
    };
    enum { PARTS = sizeof parts / sizeof *parts };
    bool known = argc == 1;
    for (int i = 0; i < PARTS && argc == 2; i++) known |= !strcmp(argv[1], parts[i].name);
    if (!known) die("expected matmul, step, decode, closed, busy, step METHOD N, or nothing for all");
    printf("float32, %d thread%s, vectors of %d bytes, multiply-adds %s, compiler %s\n", all_threads,
           all_threads > 1 ? "s" : "", (int)VECTOR_BYTES, multiply_adds_are_fused() ? "fused" : "in two steps", __VERSION__);
    print_limits("at first");
    for (int i = 0; i < PARTS; i++)
        if (argc == 1 || !strcmp(argv[1], parts[i].name)) parts[i].run();
    printf("\n");
    print_limits("at the end");
    return 0;
}

/*
nr: teach a GPT a new language without forgetting the old one.

The method of "Neutral Residues: Revisiting Adapters for Model Extension" (Signe Talla, Grave, Jegou, ICML 2025) in one
file of C: the model, the method and its rivals, training, evaluation, sampling. `make && ./nr` shows it at work.

The backbone is a pretrained model of GPT-2's kind and stays frozen. In every transformer block one small gated block is
added beside the feed-forward network (FFN). With u = LayerNorm2(x), the vector of C channels that the FFN reads, and *
the product of elements:

    adapter   A(u) = Wo (SiLU(Wg u) * (Wi u))      Wi, Wg: C -> H    Wo: H -> C    no biases
    gate      g(u) = ReLU(w . u + b)               one number a token and layer
    residue   r(u) = g(u) A(u)
    block     x <- x + FFN(u) + r(u)

    local     l_local = 1/(L N_old) sum over layers l and old-domain tokens t of |r_l(u_t)|_1 / C
    training  l = l_LM + alpha l_local             l_LM: mean cross-entropy over all tokens, old and new

l_local asks the residues to be neutral: to vanish on text of the old domain, so that there the network computes what
the backbone computed. It sees the batch's N_old old-domain tokens only. A training sequence is of the old domain with
probability p: l_LM rehearses the old language on it; without it the penalty sees nothing. The ReLU lets a gate be
exactly zero.

At the start Wo = 0, so that the extended model is the backbone, bit for bit. Wi and Wg are drawn at random, with
variance 1/(C L) where He's would be 2/C, so that the sum of L residues grows no faster than one; were Wi and Wg 0 too,
SiLU(Wg u) * Wi u would be 0 and no matrix would ever receive a gradient. w = 0 and b = 1 open every gate, for a gate
that is closed on every token receives no gradient.

Rivals: naive and finetune (train all weights; naive on new text alone), lora (W + A B beside every linear layer, A B of
low rank), adapter (A(u) alone, with He's variance: no gate, no penalty).

Ours, not the paper's. Rows of the token embedding that the backbone never trained, because its text lacked the token,
are trained with any extension whose text has it (--new-rows 1). Extensions add up: x + FFN(u) + r_1(u) + r_2(u) + ...,
all but the last frozen; the penalty on the last sees the tokens of every domain before it. A gate may read the context
(--gate-from first), which is the first block's u, before any adapter acts, and its mean over the positions so far:
g = ReLU(w . [u_1; mean u_1] + b) in every layer. And text of domains that others will add (--negatives) may be shown to
the penalty alone.

Conventions. A token is a row: activations are (rows, channels), a linear layer is x W + b with W (in, out), as in
Hugging Face's GPT-2; so Wi u above is u Wi below. B sequences of T tokens make n = B T rows. C channels, NH heads, L
layers, V tokens in the vocabulary. Each x_forward is followed by its x_backward; dx is the gradient of the loss with
respect to x, and NULL for a gradient that nobody needs. A backward pass overwrites the gradients of weights, since each
weight is used once a step, and adds to the gradient of the residual stream.
*/
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

#define TOKENIZER_LIBRARY  // die, allocate, read_file, output_open, the JSON reader and the tokenizer
#include "tokenizer.c"

// ---------------------------------------------------------------------------------------------------------------------
// Numbers. `real` is float; the gradient tests compile everything in double. A `vec` is one register full of reals.

#ifndef REAL
#define REAL float
#endif
typedef REAL real;
_Static_assert(sizeof(size_t) == 8 && sizeof(long) == 8, "nr is written for 64 bits");

// The multiply keeps MR rows by NR vectors of sums in registers; NR more hold a row of B, 1 an element of A.
#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, MR = 12, NR = 2 };  // 24 sums in 32 registers
#elif defined(__AVX__)
enum { VECTOR_BYTES = 32, MR = 6, NR = 2 };   // 12 sums in 16 registers
#elif defined(__aarch64__)
enum { VECTOR_BYTES = 16, MR = 8, NR = 3 };   // 24 sums in 32 registers
#else
enum { VECTOR_BYTES = 16, MR = 6, NR = 2 };   // SSE2 and anything else: 12 sums in 16 registers
#endif
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
enum { LANES = VECTOR_BYTES / sizeof(real) };

static inline vec load(const real *x) { vec v; memcpy(&v, x, sizeof v); return v; }
static inline void store(real *x, vec v) { memcpy(x, &v, sizeof v); }
static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t most(size_t a, size_t b) { return a > b ? a : b; }

// Seconds on a clock that never goes back.
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
static void omp_set_num_threads(int n) { if (n > 1) die("--threads %d: built without OpenMP", n); }
#endif

// e^x, in a form that compilers vectorise (libm's expf is a call for each value). In float: e^x = 2^n e^r with n the
// integer nearest to x / ln 2; adding 1.5 * 2^23 rounds to it and leaves it in the low bits of the sum. On |r| <= ln 2
// / 2 the Taylor series is good to 1e-8 after its r^7. 2^n is applied in two halves, so that results beyond the range
// of float become infinite or vanish gradually. NaN stays NaN: it fails both comparisons.
static inline real exponential(real x) {
    if (sizeof(real) == sizeof(double)) return (real)exp((double)x);
    float y = (float)x;
    y = y < -104 ? -104 : y;
    y = y > 89 ? 89 : y;
    union { float value; uint32_t bits; } round = {y * 1.44269504f + 12582912.0f}, low, high;
    float n = round.value - 12582912.0f, r = y - n * 0.693145752f - n * 1.42860677e-6f;
    float e = 1 / 120.f + r * (1 / 720.f + r * (1 / 5040.f));
    e = 1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * e))));
    int32_t power = (int32_t)(round.bits - 0x4B400000u);
    low.bits = (uint32_t)((power >> 1) + 127) << 23;
    high.bits = (uint32_t)(power - (power >> 1) + 127) << 23;
    return (real)(e * low.value * high.value);
}

static inline real sigmoid(real x) { return 1 / (1 + exponential(-x)); }

// Sums of many lanes at once, in an order that depends on the length only.
static real dot(size_t n, const real *a, const real *b) {
    real sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static real total(size_t n, const real *a) {
    real sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += a[i];
    return sum;
}

// |a|_1.
static real total_size(size_t n, const real *a) {
    real sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += a[i] < 0 ? -a[i] : a[i];
    return sum;
}

// Lane by lane in plain C: clang does not vectorise reduction(max).
static real largest(size_t n, const real *a) {
    real top[LANES], max = a[0];
    for (int l = 0; l < LANES; l++) top[l] = a[0];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) top[l] = a[i + (size_t)l] > top[l] ? a[i + (size_t)l] : top[l];
    for (int l = 0; l < LANES; l++) max = top[l] > max ? top[l] : max;
    for (; i < n; i++) max = a[i] > max ? a[i] : max;
    return max;
}

// Random numbers: splitmix64, whose state is one counter. Streams for different purposes start from different states.
typedef struct { uint64_t state; } Random;
enum { FOR_BACKBONE = 1, FOR_EXTENSION, FOR_LOADER, FOR_SAMPLING };

static Random random_stream(uint64_t seed, uint64_t purpose) {
    return (Random){(seed * 64 + purpose) * 0xD1342543DE82EF95u};
}

static uint64_t random_bits(Random *r) {
    uint64_t z = r->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static double random_uniform(Random *r) { return (double)(random_bits(r) >> 11) * 0x1p-53; }  // [0, 1)

// Normal with mean 0 and variance 1 (Box-Muller).
static double random_normal(Random *r) {
    double radius = sqrt(-2 * log(1 - random_uniform(r)));
    return radius * cos(6.283185307179586 * random_uniform(r));
}

// ---------------------------------------------------------------------------------------------------------------------
// Matrix multiply: nearly all of the time goes here; who ports nr replaces it first. One routine for every layout: a Matrix
// has a step for rows and one for columns, and a transpose only swaps them.
//
// An element of C needs 2 K numbers, but a processor can load far fewer numbers than it can multiply: each number loaded
// must be used many times.
//   registers  A tile of C, MR rows by NR vectors, stays in registers while k runs. A step of k loads MR numbers of A and
//              NR vectors of B, and uses each NR or MR times.
//   caches     Loads are fast if they are consecutive, so B is packed first, in panels of NR vectors, k by k. A panel, KC
//              deep, stays in the second cache while the MC rows of a block of A pass over it. A is packed in panels of MR
//              rows only if its rows do not lie along k: if they do, a tile's MR rows are MR streams as they are.
//   threads    They share the packed B and divide the rows of C. An element is summed in the same order whoever computes
//              it: the same bits for any number of threads.

enum { KC = 768, MC = 48, NC = 3072, PANEL = NR * LANES };  // MC is a multiple of every MR

typedef struct { const real *at; size_t row, col; } Matrix;  // element (i, j) is at[i * row + j * col]

static Matrix plain(const real *x, size_t width) { return (Matrix){x, width, 1}; }       // rows of `width` numbers
static Matrix transposed(const real *x, size_t width) { return (Matrix){x, 1, width}; }

static size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

// `size` reals of scratch memory, kept from call to call; each thread has its own in every slot.
static real *scratch(int slot, size_t size) {
    static _Thread_local struct { real *at; size_t size; } slots[3];
    if (slots[slot].size < size) {
        free(slots[slot].at);
        slots[slot].at = allocate(size, sizeof(real));
        slots[slot].size = size;
    }
    return slots[slot].at;
}

// Packs `count` rows or columns of x, which lie `across` apart and whose elements lie `along` apart, into panels of
// `size`, k by k; the last panel is filled up with 0. Whichever way x lies in memory, it is read as it lies. (size is a
// constant to the compiler, once this is inlined.)
static inline void pack(real *out, size_t size, size_t count, size_t K, const real *x, size_t across, size_t along) {
    const size_t whole = count / size * size, rest = count - whole;
    if (rest) memset(out + whole * K, 0, size * K * sizeof(real));
    if (across == 1) {
        for (size_t k = 0; k < K; k++) {
            for (size_t i = 0; i < whole; i += size) memcpy(out + i * K + k * size, x + k * along + i, size * sizeof(real));
            for (size_t i = 0; i < rest; i++) out[whole * K + k * size + i] = x[k * along + whole + i];
        }
        return;
    }
    for (size_t i = 0; i < count; i++) {
        real *o = out + i / size * size * K + i % size;
        for (size_t k0 = 0; k0 < K; k0 += 16) {  // a cache line
            __builtin_prefetch(x + (i + 4) * across + k0 * along);
            for (size_t k = k0; k < least(k0 + 16, K); k++) o[k * size] = x[i * across + k * along];
        }
    }
}

// c (height, width; rows c_row apart) = MR rows of a (packed, or as they lie) times a packed panel of B, + add (as c) +
// bias (width), on the first `vectors` vectors of B's panel. The compiler unrolls i and j, whose bounds are constants, and
// keeps `sum` in registers. add and bias may be NULL.
static inline __attribute__((always_inline))
void multiply_tile(real *c, size_t c_row, size_t height, size_t width, size_t K, Matrix a, const real *b, const real *bias,
                   const real *add, const int vectors) {
    vec sum[MR][NR] = {{{0}}};
    for (size_t i = 0; i < height; i++) __builtin_prefetch((add ? add : c) + i * c_row);  // needed at the end
    for (size_t k = 0; k < K; k++, a.at += a.col, b += PANEL)
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < vectors; j++) sum[i][j] += a.at[(size_t)i * a.row] * load(b + j * LANES);
    if (height == MR && width == (size_t)(vectors * LANES)) {
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < vectors; j++) {
                if (add) sum[i][j] += load(add + (size_t)i * c_row + j * LANES);
                if (bias) sum[i][j] += load(bias + j * LANES);
                store(c + (size_t)i * c_row + j * LANES, sum[i][j]);
            }
        return;
    }
    real tile[MR * PANEL];  // at the edges of C
    memcpy(tile, sum, sizeof tile);
    for (size_t i = 0; i < height; i++)
        for (size_t j = 0; j < width; j++)
            c[i * c_row + j] = tile[i * PANEL + j] + (add ? add[i * c_row + j] : 0) + (bias ? bias[j] : 0);
}

// The tile in four versions, each with its constants: A packed (row is 1) or with its rows along k (col is 1; if both are,
// K is 1 and either will do), and B's panel whole or a narrow one, at the right edge, of which the first vector will do.
static void multiply_panels(real *c, size_t c_row, size_t height, size_t width, size_t K, Matrix a, const real *b,
                            const real *bias, const real *add) {
    const Matrix packed = {a.at, 1, MR}, along = {a.at, a.row, 1};
    if (a.row == 1 && width <= LANES) multiply_tile(c, c_row, height, width, K, packed, b, bias, add, 1);
    else if (a.row == 1) multiply_tile(c, c_row, height, width, K, packed, b, bias, add, NR);
    else if (width <= LANES) multiply_tile(c, c_row, height, width, K, along, b, bias, add, 1);
    else multiply_tile(c, c_row, height, width, K, along, b, bias, add, NR);
}

// c (N) = a B + add + bias for a single row: every weight is used once, so the memory's speed is the limit, and packing
// would read each twice. Columns are divided among the threads.
static void multiply_row(real *c, size_t N, size_t K, Matrix a, Matrix b, const real *bias, const real *add) {
    const size_t threads = (size_t)omp_get_max_threads(), chunk = b.col == 1 ? round_up((N + threads - 1) / threads, 64) : 64;
    #pragma omp parallel for if (N * K > 1 << 17)
    for (size_t j0 = 0; j0 < N; j0 += chunk) {
        const size_t j1 = least(j0 + chunk, N);
        for (size_t j = j0; j < j1; j++) c[j] = (add ? add[j] : 0) + (bias ? bias[j] : 0);
        if (b.col == 1) {
            size_t k = 0;
            for (; k + 4 <= K; k += 4) {  // four rows of B at a time: memory is fastest in several streams
                const real *x = a.at + k * a.col, *w = b.at + k * b.row;
                const real x0 = x[0], x1 = x[a.col], x2 = x[2 * a.col], x3 = x[3 * a.col];
                for (size_t j = j0; j < j1; j++)
                    c[j] += x0 * w[j] + x1 * w[b.row + j] + x2 * w[2 * b.row + j] + x3 * w[3 * b.row + j];
            }
            for (; k < K; k++)
                for (size_t j = j0; j < j1; j++) c[j] += a.at[k * a.col] * b.at[k * b.row + j];
        } else
            for (size_t j = j0; j < j1; j++) c[j] += dot(K, a.at, b.at + j * b.col);
    }
}

// c (M, N; rows c_row apart) = a (M, K) b (K, N) + add (as c; may be c itself) + bias (N). add and bias may be NULL.
static void matmul(real *c, size_t c_row, size_t M, size_t N, size_t K, Matrix a, Matrix b, const real *bias,
                   const real *add) {
    if (M == 1 && (b.col == 1 || (b.row == 1 && a.col == 1))) { multiply_row(c, N, K, a, b, bias, add); return; }
    real *packed_b = scratch(0, KC * round_up(least(N, NC), PANEL));
    const size_t threads = (size_t)omp_get_max_threads();
    #pragma omp parallel if (M * N * K > 1 << 18)
    {
        real *packed_a = scratch(1, MC * KC);
        for (size_t j0 = 0; j0 < N; j0 += NC)
            for (size_t k0 = 0; k0 < K; k0 += KC) {
                const size_t cols = least(NC, N - j0), depth = least(KC, K - k0);
                const size_t share = round_up((cols + threads - 1) / threads, PANEL);  // of B, to pack
                #pragma omp for
                for (size_t j = 0; j < cols; j += share)
                    pack(packed_b + j * depth, PANEL, least(share, cols - j), depth,
                         b.at + k0 * b.row + (j0 + j) * b.col, b.col, b.row);
                #pragma omp for schedule(dynamic)
                for (size_t i0 = 0; i0 < M; i0 += MC) {
                    const real *block = a.at + i0 * a.row + k0 * a.col;
                    // The first `along` rows are read where they lie; of the rest, a last panel must be filled up with 0.
                    const size_t rows = least(MC, M - i0), along = a.col == 1 ? rows / MR * MR : 0;
                    if (along < rows) pack(packed_a, MR, rows - along, depth, block + along * a.row, a.row, a.col);
                    for (size_t j = 0; j < cols; j += PANEL)
                        for (size_t i = 0; i < rows; i += MR) {
                            const Matrix panel = i < along ? (Matrix){block + i * a.row, a.row, 1}
                                                           : (Matrix){packed_a + (i - along) * depth, 1, MR};
                            const size_t at = (i0 + i) * c_row + j0 + j;
                            multiply_panels(c + at, c_row, least(MR, rows - i), least(PANEL, cols - j), depth, panel,
                                            packed_b + j * depth, k0 || !bias ? NULL : bias + j0 + j,
                                            k0 ? c + at : add ? add + at : NULL);
                        }
                }
            }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The layers. n is the number of rows (tokens). Rows, columns or heads are divided among the threads, and sums over
// rows run in order within a column: the same bits for any number of threads.

enum { STRIP = 64 };  // columns that one thread sums over all rows at a time

// out (n, O) = x (n, I) w (I, O) + bias (O) + add (n, O). bias and add may be NULL; add may be out.
static void linear_forward(real *out, const real *x, const real *w, const real *bias, const real *add,
                           size_t n, size_t I, size_t O) {
    matmul(out, O, n, O, I, plain(x, I), plain(w, O), bias, add);
}

// out = x w + bias, so dx = dout w^T (+ add), dw = x^T dout, dbias = the sum of dout's rows.
static void linear_backward(real *dx, real *dw, real *dbias, const real *dout, const real *x, const real *w,
                            const real *add, size_t n, size_t I, size_t O) {
    if (dx) matmul(dx, I, n, I, O, plain(dout, O), transposed(w, O), NULL, add);
    if (dw) matmul(dw, O, I, O, n, transposed(x, I), plain(dout, O), NULL, NULL);
    if (!dbias) return;
    #pragma omp parallel for
    for (size_t j0 = 0; j0 < O; j0 += STRIP) {
        const size_t j1 = least(j0 + STRIP, O);
        memset(dbias + j0, 0, (j1 - j0) * sizeof(real));
        for (size_t t = 0; t < n; t++)
            for (size_t j = j0; j < j1; j++) dbias[j] += dout[t * O + j];
    }
}

// out (n, C) = z * w + b with z = (x - mean) rstd: each row of x to mean 0 and variance 1. stats (n, 2): its mean and rstd.
static void layernorm_forward(real *out, real *stats, const real *x, const real *w, const real *b, size_t n, size_t C) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        const real *xt = x + t * C;
        real *o = out + t * C, m = total(C, xt) / (real)C;
        for (size_t i = 0; i < C; i++) o[i] = xt[i] - m;
        const real r = 1 / (real)sqrt((double)(dot(C, o, o) / (real)C + (real)1e-5));
        for (size_t i = 0; i < C; i++) o[i] = o[i] * r * w[i] + b[i];
        stats[2 * t] = m, stats[2 * t + 1] = r;
    }
}

// With g = dout * w, dz = g, and z has mean 0 and variance 1 whatever x is: dx += rstd (g - mean(g) - z mean(g * z)).
// dw = sum over rows of dout * z, db = sum over rows of dout; dw and db may be NULL.
static void layernorm_backward(real *dx, real *dw, real *db, const real *dout, const real *x, const real *stats,
                               const real *w, size_t n, size_t C) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        const real *d = dout + t * C, *xt = x + t * C, m = stats[2 * t], r = stats[2 * t + 1];
        const real mean_g = dot(C, d, w) / (real)C;
        real *z = scratch(2, 2 * C), *g = z + C;
        for (size_t i = 0; i < C; i++) z[i] = (xt[i] - m) * r, g[i] = d[i] * w[i];
        const real mean_gz = dot(C, g, z) / (real)C;
        for (size_t i = 0; i < C; i++) dx[t * C + i] += r * (g[i] - mean_g - z[i] * mean_gz);
    }
    if (!dw) return;
    #pragma omp parallel for
    for (size_t j0 = 0; j0 < C; j0 += STRIP) {
        const size_t j1 = least(j0 + STRIP, C);
        for (size_t j = j0; j < j1; j++) dw[j] = db[j] = 0;
        for (size_t t = 0; t < n; t++)
            for (size_t j = j0; j < j1; j++) {
                dw[j] += dout[t * C + j] * (x[t * C + j] - stats[2 * t]) * stats[2 * t + 1];
                db[j] += dout[t * C + j];
            }
    }
}

// GELU in GPT-2's tanh form: x (1 + tanh(k (x + a x^3))) / 2. Because (1 + tanh y) / 2 = sigmoid(2 y), it is x s with
// s = sigmoid(2 k (x + a x^3)), k = sqrt(2 / pi), a = 0.044715: a sibling of SiLU.
#define GELU_2K ((real)1.5957691216057308)
#define GELU_A ((real)0.044715)

static void gelu_forward(real *out, const real *x, size_t size) {
    #pragma omp parallel for simd
    for (size_t i = 0; i < size; i++) out[i] = x[i] * sigmoid(GELU_2K * (x[i] + GELU_A * x[i] * x[i] * x[i]));
}

// d(x s)/dx = s + x s (1 - s) 2 k (1 + 3 a x^2). dx may be dout.
static void gelu_backward(real *dx, const real *dout, const real *x, size_t size) {
    #pragma omp parallel for simd
    for (size_t i = 0; i < size; i++) {
        const real square = x[i] * x[i], s = sigmoid(GELU_2K * x[i] * (1 + GELU_A * square));
        dx[i] = dout[i] * (s + x[i] * s * (1 - s) * GELU_2K * (1 + 3 * GELU_A * square));
    }
}

enum { QUERIES = 64 };  // attention handles so many positions at once, and no keys beyond the last of them

// Causal multi-head attention over qkv (B, T, 3C), each head with hs = C/NH channels: y (B, T, C) = att v with the weights
// att (B, NH, T, T) = softmax(q k^T / sqrt(hs)), for positions start..T-1; those before are there as keys and values.
static void attention_forward(real *y, real *att, const real *qkv, size_t B, size_t T, size_t start,
                              size_t NH, size_t C) {
    const size_t hs = C / NH;
    const real scale = 1 / (real)sqrt((double)hs);
    #pragma omp parallel for
    for (size_t head = 0; head < B * NH; head++) {
        const size_t b = head / NH, h = head % NH;
        const real *q = qkv + b * T * 3 * C + h * hs, *k = q + C, *v = k + C;
        for (size_t t0 = start; t0 < T; t0 += QUERIES) {
            const size_t t1 = least(t0 + QUERIES, T);
            real *a = att + (head * T + t0) * T;  // (t1 - t0, t1), rows T apart
            matmul(a, T, t1 - t0, t1, hs, plain(q + t0 * 3 * C, 3 * C), transposed(k, 3 * C), NULL, NULL);
            for (size_t t = t0; t < t1; t++) {
                real *row = a + (t - t0) * T;
                const real max = largest(t + 1, row);
                for (size_t i = 0; i <= t; i++) row[i] = exponential((row[i] - max) * scale);
                const real norm = 1 / total(t + 1, row);
                for (size_t i = 0; i <= t; i++) row[i] *= norm;
                memset(row + t + 1, 0, (t1 - t - 1) * sizeof(real));
            }
            matmul(y + (b * T + t0) * C + h * hs, C, t1 - t0, hs, t1, plain(a, T), plain(v, 3 * C), NULL, NULL);
        }
    }
}

// y = a v: da = dy v^T, dv = a^T dy. Softmax: ds = a * (da - sum(a * da)). s = scale q k^T: dq = scale ds k, dk = scale
// ds^T q. The last block of queries sees all keys: it goes first, writes all of dk and dv, and the others add.
static void attention_backward(real *dqkv, const real *dy, const real *att, const real *qkv, size_t B, size_t T,
                               size_t NH, size_t C) {
    const size_t hs = C / NH;
    const real scale = 1 / (real)sqrt((double)hs);
    #pragma omp parallel for
    for (size_t head = 0; head < B * NH; head++) {
        const size_t b = head / NH, h = head % NH, first = b * T * 3 * C + h * hs;
        const real *q = qkv + first, *k = q + C, *v = k + C;
        real *dq = dqkv + first, *dk = dq + C, *dv = dk + C, *ds = scratch(2, QUERIES * T);
        for (size_t t1 = T, t0; t1 > 0; t1 = t0) {
            t0 = (t1 - 1) / QUERIES * QUERIES;
            const size_t rows = t1 - t0;
            const real *a = att + (head * T + t0) * T, *d = dy + (b * T + t0) * C + h * hs;
            matmul(ds, t1, rows, t1, hs, plain(d, C), transposed(v, 3 * C), NULL, NULL);
            matmul(dv, 3 * C, t1, hs, rows, transposed(a, T), plain(d, C), NULL, t1 < T ? dv : NULL);
            for (size_t t = 0; t < rows; t++) {
                const real *at = a + t * T, sum = dot(t1, at, ds + t * t1);
                for (size_t i = 0; i < t1; i++) ds[t * t1 + i] = at[i] * (ds[t * t1 + i] - sum) * scale;
            }
            matmul(dq + t0 * 3 * C, 3 * C, rows, hs, t1, plain(ds, t1), plain(k, 3 * C), NULL, NULL);
            matmul(dk, 3 * C, t1, hs, rows, transposed(ds, t1), plain(q + t0 * 3 * C, 3 * C), NULL, t1 < T ? dk : NULL);
        }
    }
}

// x (B, T - start, C) = wte[token] + wpe[position], for positions start..T-1; tokens (B, T - start).
static void embedding_forward(real *x, const int *tokens, const real *wte, const real *wpe, size_t B, size_t T,
                              size_t start, size_t C) {
    #pragma omp parallel for
    for (size_t t = 0; t < B * (T - start); t++) {
        const real *token = wte + (size_t)tokens[t] * C, *position = wpe + (start + t % (T - start)) * C;
        for (size_t i = 0; i < C; i++) x[t * C + i] = token[i] + position[i];
    }
}

// Every row of dx goes to its token's row of dwte (added: the head wrote there first) and to its position's of dwpe (P,
// C), which may be NULL. row_of (V) maps a token to its row in dwte, -1: has none; NULL: every token has its own.
static void embedding_backward(real *dwte, real *dwpe, const real *dx, const int *tokens, const int *row_of,
                               size_t B, size_t T, size_t P, size_t C) {
    #pragma omp parallel for
    for (size_t i0 = 0; i0 < C; i0 += STRIP) {
        const size_t i1 = least(i0 + STRIP, C);
        for (size_t t = 0; t < P && dwpe; t++) memset(dwpe + t * C + i0, 0, (i1 - i0) * sizeof(real));
        for (size_t t = 0; t < B * T; t++) {
            const int row = row_of ? row_of[tokens[t]] : tokens[t];
            for (size_t i = i0; i < i1 && row >= 0; i++) dwte[(size_t)row * C + i] += dx[t * C + i];
            for (size_t i = i0; i < i1 && dwpe; i++) dwpe[t % T * C + i] += dx[t * C + i];
        }
    }
}

// losses (n) = -log softmax(logits)[target], 0 where the target is -1; logits (n, V) become probabilities.
static void crossentropy_forward(real *losses, real *logits, const int *targets, size_t n, size_t V) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        real *p = logits + t * V;
        const real max = largest(V, p), target = targets[t] < 0 ? 0 : p[targets[t]] - max;
        for (size_t i = 0; i < V; i++) p[i] = exponential(p[i] - max);
        const real sum = total(V, p), norm = 1 / sum;
        for (size_t i = 0; i < V; i++) p[i] *= norm;
        losses[t] = targets[t] < 0 ? 0 : (real)log((double)sum) - target;
    }
}

// Of the losses' sum times scale: dlogits = scale (probabilities - 1 at the target), in place; 0 where there is no target.
static void crossentropy_backward(real *probabilities, const int *targets, real scale, size_t n, size_t V) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        real *p = probabilities + t * V;
        const real keep = targets[t] < 0 ? 0 : scale;
        for (size_t i = 0; i < V; i++) p[i] *= keep;
        if (targets[t] >= 0) p[targets[t]] -= scale;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The heart: the gated neutral adapter, and LoRA beside it.

typedef enum { GATE_RELU, GATE_SIGMOID, GATE_NONE } Gate;
typedef enum { LOCAL_L1, LOCAL_CE, LOCAL_NONE } Local;
typedef enum { FROM_LAYER, FROM_FIRST } GateFrom;  // what the gate reads: u, or the context of the first block's

// What one layer's adapter computes for n tokens, kept for backward.
typedef struct {
    real *wi_u, *wg_u, *hidden;  // (n, H): Wi u, Wg u, and SiLU(Wg u) * (Wi u)
    real *adapter;               // (n, C): A(u)
    real *gate;                  // (n):    g(u), 1 without a gate
    real *local;                 // (n):    the token's term of l_local: |r|_1 / C, or the gate's cross-entropy
    const real *from;            // (n, G): what the gate reads, u itself or the context
} Residue;

typedef struct { real *wi, *wg, *wo, *gate_w, *gate_b; } ResidueTensors;  // of one layer: weights, or their gradients

// hidden (size) = SiLU(wg_u) * wi_u, with SiLU(x) = x sigmoid(x).
static void swiglu_forward(real *hidden, const real *wi_u, const real *wg_u, size_t size) {
    #pragma omp parallel for simd
    for (size_t i = 0; i < size; i++) hidden[i] = wg_u[i] * sigmoid(wg_u[i]) * wi_u[i];
}

// dwi = dhidden SiLU(wg_u); dwg = dhidden wi_u SiLU'(wg_u), with SiLU'(x) = s + x s (1 - s). dwi may be dhidden, dwg wg_u.
static void swiglu_backward(real *dwi, real *dwg, const real *dhidden, const real *wi_u, const real *wg_u, size_t size) {
    #pragma omp parallel for simd
    for (size_t i = 0; i < size; i++) {
        const real x = wg_u[i], s = sigmoid(x), d = dhidden[i];
        dwg[i] = d * wi_u[i] * (s + x * s * (1 - s));
        dwi[i] = d * x * s;
    }
}

// out (n, C) += r(u) with u (n, C) = LayerNorm2(x); fills `r` (paper, section 3). old (n): 1 where the token is of the old
// domain. The sigmoid gate's cross-entropy is -log g on new-domain tokens, -log(1 - g) on old ones.
static void residue_forward(real *out, Residue r, const real *u, ResidueTensors w, Gate gate, Local local, const int *old,
                            size_t n, size_t C, size_t H, size_t G) {
    linear_forward(r.wi_u, u, w.wi, NULL, NULL, n, C, H);
    linear_forward(r.wg_u, u, w.wg, NULL, NULL, n, C, H);
    swiglu_forward(r.hidden, r.wi_u, r.wg_u, n * H);
    linear_forward(r.adapter, r.hidden, w.wo, NULL, NULL, n, H, C);
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        const real *a = r.adapter + t * C;
        const real z = gate == GATE_NONE ? 0 : dot(G, w.gate_w, r.from + t * G) + w.gate_b[0];
        const real g = gate == GATE_NONE ? 1 : gate == GATE_SIGMOID ? sigmoid(z) : z <= 0 ? 0 : z;  // NaN stays NaN
        for (size_t i = 0; i < C; i++) out[t * C + i] += g * a[i];
        r.gate[t] = g;
        r.local[t] = local == LOCAL_CE ? (real)log1p(exp(-fabs((double)z))) + (z > 0 ? z : 0) - (old[t] ? 0 : z)
                   : g * total_size(C, a) / (real)C;
    }
}

// dout (n, C) is the gradient at the block's output, hence at r = g A; on old-domain tokens the penalty adds its own,
// weight * sign(r) with weight = alpha / (L N_old C). For each token:
//     dr = dout + weight sign(A)        (old, g > 0)       dA = g dr        dg = dr . A
//     dz = dg where g > 0, else 0       (z = w . from + b) dw = sum dz from db = sum dz        dfrom = dz w
// and du from A's three matrices (dfrom is du too, unless the gate reads the context). So the penalty pushes dg up by
// weight |A|_1: it closes gates on old text. Where a gate is closed, dA and dz are 0: the token is left alone; and a gate
// that is closed on every token is dead: no gradient reaches it. The gate's cross-entropy adds weight (g - target) to dz of
// every token, with weight = alpha / (L N). Adds to du and dfrom, which may be NULL. What r has kept becomes its gradient:
// A dA, g dz, Wg u dwg_u. dhidden (n, H): room to work in.
static void residue_backward(real *du, real *dfrom, ResidueTensors d, const real *dout, Residue r, const real *u,
                             ResidueTensors w, Gate gate, Local local, real weight, const int *old, real *dhidden,
                             size_t n, size_t C, size_t H, size_t G) {
    real *da = r.adapter, *dz = r.gate, *dwg_u = r.wg_u;
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        real *a = r.adapter + t * C, *dr = scratch(2, C);
        const real g = r.gate[t], penalty = local == LOCAL_L1 && old[t] && g > 0 ? weight : 0;
        for (size_t i = 0; i < C; i++) dr[i] = dout[t * C + i] + penalty * (real)((a[i] > 0) - (a[i] < 0));
        const real dg = dot(C, dr, a);
        for (size_t i = 0; i < C; i++) a[i] = g * dr[i];
        dz[t] = gate == GATE_RELU ? (g > 0 ? dg : 0) : gate == GATE_SIGMOID ? dg * g * (1 - g) : 0;
        if (local == LOCAL_CE) dz[t] += weight * (g - (old[t] ? 0 : 1));
    }
    linear_backward(dhidden, d.wo, NULL, da, r.hidden, w.wo, NULL, n, H, C);
    swiglu_backward(dhidden, dwg_u, dhidden, r.wi_u, r.wg_u, n * H);
    linear_backward(du, d.wi, NULL, dhidden, u, w.wi, du, n, C, H);
    linear_backward(du, d.wg, NULL, dwg_u, u, w.wg, du, n, C, H);
    if (gate != GATE_NONE) linear_backward(dfrom, d.gate_w, d.gate_b, dz, r.from, w.gate_w, dfrom, n, G, 1);
}

// What a gate with --gate-from first reads in every layer (ours, not the paper's): context (B, T - start, 2C) = the first
// block's u, which no adapter has acted on, beside its mean over the positions so far, at 0..t. With start > 0 (and B = 1)
// the mean at start - 1 lies before context.
static void context_forward(real *context, const real *u, size_t B, size_t T, size_t start, size_t C) {
    #pragma omp parallel for
    for (size_t b = 0; b < B; b++)
        for (size_t t = start; t < T; t++) {
            const real *ut = u + (b * (T - start) + t - start) * C, count = (real)(t + 1);
            real *out = context + (b * (T - start) + t - start) * 2 * C, *mean = out + C;
            const real *before = t ? mean - 2 * C : ut;  // mean(t) = mean(t - 1) + (u - mean(t - 1)) / (t + 1)
            for (size_t i = 0; i < C; i++) out[i] = ut[i], mean[i] = before[i] + (ut[i] - before[i]) / count;
        }
}

// The mean at s has u at every t <= s with weight 1 / (s + 1): du(t) += dcontext's first half at t + the sum over s >= t of
// its second half at s / (s + 1), from the last position on. Sums in dcontext.
static void context_backward(real *du, real *dcontext, size_t B, size_t T, size_t C) {
    #pragma omp parallel for
    for (size_t b = 0; b < B; b++)
        for (size_t t = T; t-- > 0;) {
            real *d = dcontext + (b * T + t) * 2 * C, *dmean = d + C;
            for (size_t i = 0; i < C; i++) {
                dmean[i] = dmean[i] / (real)(t + 1) + (t + 1 < T ? dmean[2 * C + i] : 0);
                du[(b * T + t) * C + i] += d[i] + dmean[i];
            }
        }
}

// LoRA: out (n, O) += low b with low (n, R) = x (n, I) a; a: (I, R), b: (R, O) (Hu et al. 2021, without its scale).
static void lora_forward(real *out, real *low, const real *x, const real *a, const real *b,
                         size_t n, size_t I, size_t O, size_t R) {
    linear_forward(low, x, a, NULL, NULL, n, I, R);
    linear_forward(out, low, b, NULL, out, n, R, O);
}

// dlow = dout b^T, db = low^T dout, da = x^T dlow, dx += dlow a^T. dlow (n, R) is room; dx, da, db may be NULL.
static void lora_backward(real *dx, real *da, real *db, real *dlow, const real *dout, const real *low, const real *x,
                          const real *a, const real *b, size_t n, size_t I, size_t O, size_t R) {
    linear_backward(dlow, db, NULL, dout, low, b, NULL, n, R, O);
    linear_backward(dx, da, NULL, dlow, x, a, dx, n, I, R);
}

// ---------------------------------------------------------------------------------------------------------------------
// Tensors. This table names each one once; memory, files, AdamW, error messages and tests all go by it.

typedef struct { size_t layers, heads, channels, context, vocab, hidden, rank, rows, gate; } Dims;  // gate: the width it reads

enum {
    WTE, WPE, LN1_W, LN1_B, QKV_W, QKV_BIAS, PROJ_W, PROJ_BIAS, LN2_W, LN2_B, FC_W, FC_BIAS, FCPROJ_W, FCPROJ_BIAS,
    LNF_W, LNF_B,
    WI, WG, WO, GATE_W, GATE_B,
    QKV_LORA_A, QKV_LORA_B, PROJ_LORA_A, PROJ_LORA_B, FC_LORA_A, FC_LORA_B, FCPROJ_LORA_A, FCPROJ_LORA_B,
    ROWS, TENSORS
};

// Which tensors a model or an extension has is a sum of these sets.
enum { SET_BACKBONE = 1, SET_ADAPTER = 2, SET_GATE = 4, SET_LORA = 8, SET_ROWS = 16 };

// Initial values: normal with a variance, or constant. GPT-2's deviation is 0.02 at its 768 channels, and 1/sqrt(2 L)
// of that for what writes into the residual stream; other widths get the same variance of a sum: 0.02 sqrt(768 / C).
enum { INIT_ZERO, INIT_ONE, INIT_GPT2, INIT_GPT2_PROJ, INIT_ADAPTER, INIT_FAN_IN, INIT_GATE_B, INIT_ROWS };

// A name with %d (Hugging Face's, for GPT-2) is one tensor a layer. rows, cols: letters of size_of; rows '1': a vector.
static const struct { const char *name; char rows, cols; int set, init; } table[TENSORS] = {
    [WTE]           = {"wte.weight",               'V', 'C', SET_BACKBONE, INIT_GPT2},
    [WPE]           = {"wpe.weight",               'P', 'C', SET_BACKBONE, INIT_GPT2},
    [LN1_W]         = {"h.%d.ln_1.weight",         '1', 'C', SET_BACKBONE, INIT_ONE},
    [LN1_B]         = {"h.%d.ln_1.bias",           '1', 'C', SET_BACKBONE, INIT_ZERO},
    [QKV_W]         = {"h.%d.attn.c_attn.weight",  'C', '3', SET_BACKBONE, INIT_GPT2},
    [QKV_BIAS]      = {"h.%d.attn.c_attn.bias",    '1', '3', SET_BACKBONE, INIT_ZERO},
    [PROJ_W]        = {"h.%d.attn.c_proj.weight",  'C', 'C', SET_BACKBONE, INIT_GPT2_PROJ},
    [PROJ_BIAS]     = {"h.%d.attn.c_proj.bias",    '1', 'C', SET_BACKBONE, INIT_ZERO},
    [LN2_W]         = {"h.%d.ln_2.weight",         '1', 'C', SET_BACKBONE, INIT_ONE},
    [LN2_B]         = {"h.%d.ln_2.bias",           '1', 'C', SET_BACKBONE, INIT_ZERO},
    [FC_W]          = {"h.%d.mlp.c_fc.weight",     'C', '4', SET_BACKBONE, INIT_GPT2},
    [FC_BIAS]       = {"h.%d.mlp.c_fc.bias",       '1', '4', SET_BACKBONE, INIT_ZERO},
    [FCPROJ_W]      = {"h.%d.mlp.c_proj.weight",   '4', 'C', SET_BACKBONE, INIT_GPT2_PROJ},
    [FCPROJ_BIAS]   = {"h.%d.mlp.c_proj.bias",     '1', 'C', SET_BACKBONE, INIT_ZERO},
    [LNF_W]         = {"ln_f.weight",              '1', 'C', SET_BACKBONE, INIT_ONE},
    [LNF_B]         = {"ln_f.bias",                '1', 'C', SET_BACKBONE, INIT_ZERO},
    [WI]            = {"h.%d.adapter.wi",          'C', 'H', SET_ADAPTER, INIT_ADAPTER},
    [WG]            = {"h.%d.adapter.wg",          'C', 'H', SET_ADAPTER, INIT_ADAPTER},
    [WO]            = {"h.%d.adapter.wo",          'H', 'C', SET_ADAPTER, INIT_ZERO},
    [GATE_W]        = {"h.%d.gate.w",              '1', 'G', SET_GATE, INIT_ZERO},
    [GATE_B]        = {"h.%d.gate.b",              '1', '1', SET_GATE, INIT_GATE_B},
    [QKV_LORA_A]    = {"h.%d.attn.c_attn.lora_a",  'C', 'R', SET_LORA, INIT_FAN_IN},
    [QKV_LORA_B]    = {"h.%d.attn.c_attn.lora_b",  'R', '3', SET_LORA, INIT_ZERO},
    [PROJ_LORA_A]   = {"h.%d.attn.c_proj.lora_a",  'C', 'R', SET_LORA, INIT_FAN_IN},
    [PROJ_LORA_B]   = {"h.%d.attn.c_proj.lora_b",  'R', 'C', SET_LORA, INIT_ZERO},
    [FC_LORA_A]     = {"h.%d.mlp.c_fc.lora_a",     'C', 'R', SET_LORA, INIT_FAN_IN},
    [FC_LORA_B]     = {"h.%d.mlp.c_fc.lora_b",     'R', '4', SET_LORA, INIT_ZERO},
    [FCPROJ_LORA_A] = {"h.%d.mlp.c_proj.lora_a",   '4', 'R', SET_LORA, INIT_FAN_IN},
    [FCPROJ_LORA_B] = {"h.%d.mlp.c_proj.lora_b",   'R', 'C', SET_LORA, INIT_ZERO},
    [ROWS]          = {"wte.rows",                 'N', 'C', SET_ROWS, INIT_ROWS},
};

// What a letter of the table means.
static size_t size_of(char letter, const Dims *d) {
    switch (letter) {
    case 'V': return d->vocab;
    case 'P': return d->context;
    case 'C': return d->channels;
    case '3': return 3 * d->channels;  // queries, keys and values
    case '4': return 4 * d->channels;  // GPT-2's FFN
    case 'H': return d->hidden;
    case 'R': return d->rank;
    case 'N': return d->rows;
    case 'G': return d->gate;
    default: return 1;
    }
}

static size_t tensor_rows(int id, const Dims *d) { return size_of(table[id].rows, d); }
static size_t tensor_cols(int id, const Dims *d) { return size_of(table[id].cols, d); }
static size_t tensor_size(int id, const Dims *d) { return tensor_rows(id, d) * tensor_cols(id, d); }
static size_t tensor_layers(int id, const Dims *d) { return strchr(table[id].name, '%') ? d->layers : 1; }

// Some of the table's tensors in one piece of memory, in table order, each with all its layers together. Parameters are
// held so, their gradients and AdamW's moments too.
typedef struct { real *at[TENSORS], *memory; size_t size, layer_size[TENSORS]; } Tensors;  // NULL and 0 if not in the set

// The tensors of `sets`, in `memory` (NULL: there is none yet, only their sizes).
static Tensors tensors_lay_out(real *memory, int sets, const Dims *d) {
    Tensors t = {.memory = memory};
    for (int id = 0; id < TENSORS; id++) {
        if (!(table[id].set & sets)) continue;
        if (memory) t.at[id] = memory + t.size;
        t.layer_size[id] = tensor_size(id, d);
        t.size += tensor_layers(id, d) * t.layer_size[id];
    }
    return t;
}

// The tensors of `sets`, all zero.
static Tensors tensors_allocate(int sets, const Dims *d) {
    return tensors_lay_out(allocate(tensors_lay_out(NULL, sets, d).size, sizeof(real)), sets, d);
}

// Layer l of a tensor, or NULL if it is not in the set: a gradient nobody asked for.
static real *tensor(const Tensors *t, int id, size_t l) { return t->at[id] ? t->at[id] + l * t->layer_size[id] : NULL; }

// ---------------------------------------------------------------------------------------------------------------------
// The model: a backbone and the extensions plugged into it.

typedef enum { VARIANCE_LOW, VARIANCE_HE } Init;
enum { MAX_EXTENSIONS = 8 };

// One extension: adapters or LoRA, perhaps with a gate, perhaps with rows of wte.
typedef struct {
    Gate gate;
    GateFrom from;
    Local local;
    Dims dims;             // the backbone's, with hidden, rank, rows and gate of its own
    int sets, *ids;        // ids (rows): the tokens whose rows of wte are replaced
    Tensors w;
    uint64_t fingerprint;  // of w, once it is trained
    Init init;             // this and alpha matter in training only
    double alpha;
    char metadata[1024];   // how it was trained, for its file: see describe
} Extension;

typedef struct {
    Dims dims;
    Tensors w;
    Tokenizer *tokenizer;
    uint64_t fingerprint;          // of the backbone's weights
    bool *unseen;                  // (V): tokens that neither pretraining nor an extension's rows have met, as far as recorded
    Extension *extension[MAX_EXTENSIONS];
    size_t n_extensions;
    real *wte;                     // (V, C): the embedding in use: the backbone's or, with rows replaced, a copy
} Model;

#define HASH_FACTOR 0x9E3779B97F4A7C15u

// Continues a hash over `count` values: a polynomial over their bits as float32, modulo 2^64. Any one change alters it.
static uint64_t hash_values(uint64_t hash, const real *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        union { float value; uint32_t bits; } as = {(float)values[i]};
        hash = hash * HASH_FACTOR + as.bits + 1;
    }
    return hash;
}

// Identifies a backbone, or an extension, by all its values in table order.
static uint64_t fingerprint(const Tensors *w) { return hash_values(0, w->memory, w->size); }

// Puts every extension's rows into the embedding in use. Called when an extension is plugged in and after each step.
static void embedding_refresh(Model *m) {
    const size_t C = m->dims.channels;
    for (size_t e = 0; e < m->n_extensions; e++) {
        const Extension *x = m->extension[e];
        if (!x->w.at[ROWS]) continue;
        if (m->wte == m->w.at[WTE]) {
            m->wte = allocate(m->dims.vocab * C, sizeof(real));
            memcpy(m->wte, m->w.at[WTE], m->dims.vocab * C * sizeof(real));
        }
        for (size_t i = 0; i < x->dims.rows; i++)
            memcpy(m->wte + (size_t)x->ids[i] * C, x->w.at[ROWS] + i * C, C * sizeof(real));
    }
}

// Plugs x in, upon those that are there; m owns it then.
static void extension_attach(Model *m, Extension *x) {
    if (m->n_extensions == MAX_EXTENSIONS) die("-x: at most %d extensions on one model", MAX_EXTENSIONS);
    m->extension[m->n_extensions++] = x;
    for (size_t i = 0; i < x->dims.rows; i++) m->unseen[x->ids[i]] = false;
    embedding_refresh(m);
}

// Frees an extension that is plugged in nowhere; NULL: nothing.
static void extension_free(Extension *x) {
    if (!x) return;
    free(x->w.memory);
    free(x->ids);
    free(x);
}

// Frees a model, its extensions and its tokenizer.
static void model_free(Model *m) {
    for (size_t e = 0; e < m->n_extensions; e++) extension_free(m->extension[e]);
    if (m->wte != m->w.at[WTE]) free(m->wte);
    free(m->w.memory);
    free(m->unseen);
    tokenizer_free(m->tokenizer);
    free(m);
}

// Draws initial values for every tensor in t, in table order.
static void tensors_init(Tensors *t, const Dims *d, Init init, Gate gate, Random *random) {
    for (int id = 0; id < TENSORS; id++) {
        double deviation = 0, constant = 0;
        switch (table[id].init) {
        case INIT_ONE: constant = 1; break;
        case INIT_GPT2: deviation = 0.02 * sqrt(768 / (double)d->channels); break;
        case INIT_GPT2_PROJ: deviation = 0.02 * sqrt(768 / (double)d->channels / (2 * (double)d->layers)); break;
        case INIT_ADAPTER: deviation = sqrt((init == VARIANCE_HE ? 2 : 1 / (double)d->layers) / (double)d->channels); break;
        case INIT_FAN_IN: deviation = 1 / sqrt((double)tensor_rows(id, d)); break;
        case INIT_GATE_B: constant = gate == GATE_RELU ? 1 : 0; break;
        default: break;  // zero; rows are copied from the backbone
        }
        for (size_t i = 0; t->at[id] && i < tensor_layers(id, d) * t->layer_size[id]; i++)
            t->at[id][i] = (real)(constant + (deviation > 0 ? deviation * random_normal(random) : 0));
    }
}

// What follows from an extension's dims and gate: how much the gate reads, and which tensors there are.
static void extension_sets(Extension *x) {
    x->dims.gate = (x->from == FROM_FIRST ? 2 : 1) * x->dims.channels;
    x->sets = (x->dims.hidden ? SET_ADAPTER : 0) | (x->dims.hidden && x->gate != GATE_NONE ? SET_GATE : 0)
            | (x->dims.rank ? SET_LORA : 0) | (x->dims.rows ? SET_ROWS : 0);
}

// ---------------------------------------------------------------------------------------------------------------------
// Activations: what forward leaves for backward, and room to work in. A buffer that backward will not read, because
// what it would be needed for is frozen, is shared by all layers: its stride is 0.

typedef struct { real *at; size_t stride, width; } Buffer;  // layer l: (rows, width) at `at + l * stride`

typedef struct { Buffer wi_u, wg_u, hidden, adapter, gate, local, low[4]; } ExtensionActivations;

typedef struct {
    size_t B, T, start, n;         // this pass: B sequences, positions start..T-1, n = B (T - start) rows
    size_t n_logits;               // the last n_logits rows get logits
    Buffer x, ln1, stats1, qkv, att, y, mid, u, stats2, fc, gelu, lnf, statsf, logits, losses, context;
    ExtensionActivations extension[MAX_EXTENSIONS];
    Buffer dx, du, dqkv, dfc, dhidden, dlow, dcontext, picked;  // gradients, one layer at a time
    real *memory;
    size_t size;
    int *old, *row_of;             // (n): 1 where a row is of the old domain; (V): a token's row in ROWS or -1
    double lm_scale, local_scale;  // what the sums of l_LM's and l_local's terms are multiplied by
} Activations;

// A buffer at the end of the activations' memory or, while that is not there yet, its size.
static Buffer buffer(Activations *a, size_t layers, size_t rows, size_t width, bool keep) {
    if ((double)layers * (double)rows * (double)width > 0x1p48)  // sums of these are far from overflow
        die("out of memory: activations of %zu layers, %zu x %zu numbers each", layers, rows, width);
    const size_t size = round_up(rows * width, 16);
    Buffer b = {a->memory ? a->memory + a->size : NULL, keep ? size : 0, width};
    a->size += keep ? layers * size : size;
    return b;
}

// Does any gate of m's read the context?
static bool reads_context(const Model *m) {
    for (size_t e = 0; e < m->n_extensions; e++)
        if (m->extension[e]->from == FROM_FIRST) return true;
    return false;
}

// Lays out the buffers for B sequences of T tokens. grad: of the tensors to be trained, NULL for forward only; cache: keep
// keys and values, so that forward can continue at a later start.
static void activations_lay_out(Activations *a, const Model *m, size_t B, size_t T, size_t n_logits,
                                const Tensors *grad, bool cache) {
    const Dims *d = &m->dims;
    const size_t L = d->layers, C = d->channels, n = B * T;
    const bool train = grad != NULL;
    #define TRAINED(id) (train && grad->at[id])
    a->size = 0;
    a->x = buffer(a, L + 1, n, C, train);
    a->ln1 = buffer(a, L, n, C, TRAINED(QKV_W) || TRAINED(QKV_LORA_A));
    a->stats1 = buffer(a, L, n, 2, train);
    a->qkv = buffer(a, L, n, 3 * C, train || cache);
    a->att = buffer(a, L, n * d->heads, T, train);
    a->y = buffer(a, L, n, C, TRAINED(PROJ_W) || TRAINED(PROJ_LORA_A));
    a->mid = buffer(a, L, n, C, train);
    a->u = buffer(a, L, n, C, train);
    a->stats2 = buffer(a, L, n, 2, train);
    a->fc = buffer(a, L, n, 4 * C, train);
    a->gelu = buffer(a, L, n, 4 * C, TRAINED(FCPROJ_W) || TRAINED(FCPROJ_LORA_A));
    a->lnf = buffer(a, 1, n_logits, C, train);
    a->statsf = buffer(a, 1, n_logits, 2, train);
    a->logits = buffer(a, 1, n_logits, d->vocab, train);
    a->losses = buffer(a, 1, n_logits, 1, train);
    a->context = buffer(a, 1, reads_context(m) ? n : 0, 2 * C, true);
    size_t hidden = 0, rank = 0, rows = 0;  // of the widest extension
    for (size_t e = 0; e < m->n_extensions; e++) {
        const Extension *x = m->extension[e];
        ExtensionActivations *s = &a->extension[e];
        hidden = most(hidden, x->dims.hidden), rank = most(rank, x->dims.rank), rows = most(rows, x->dims.rows);
        if (x->sets & SET_ADAPTER) {
            s->wi_u = buffer(a, L, n, x->dims.hidden, train);
            s->wg_u = buffer(a, L, n, x->dims.hidden, train);
            s->hidden = buffer(a, L, n, x->dims.hidden, train);
            s->adapter = buffer(a, L, n, C, train);
            s->gate = buffer(a, L, n, 1, true);
            s->local = buffer(a, L, n, 1, true);
        }
        for (int k = 0; k < 4 && x->sets & SET_LORA; k++) s->low[k] = buffer(a, L, n, x->dims.rank, train);
    }
    if (!train) return;
    a->dx = buffer(a, 1, n, C, true);
    a->du = buffer(a, 1, n, C, true);
    a->dqkv = buffer(a, 1, n, 3 * C, true);
    a->dfc = buffer(a, 1, n, 4 * C, true);
    a->dhidden = buffer(a, 1, n, hidden, true);
    a->dlow = buffer(a, 1, n, rank, true);
    a->dcontext = buffer(a, 1, reads_context(m) ? n : 0, 2 * C, true);
    a->picked = buffer(a, 1, n, rows, true);
    #undef TRAINED
}

// Lays them out twice: for their size, and in memory. row_of is that of the last extension.
static Activations activations_allocate(const Model *m, size_t B, size_t T, size_t n_logits, const Tensors *grad,
                                        bool cache) {
    Activations a = {.n_logits = n_logits};
    activations_lay_out(&a, m, B, T, n_logits, grad, cache);
    a.memory = allocate(a.size, sizeof(real));
    activations_lay_out(&a, m, B, T, n_logits, grad, cache);
    a.old = allocate(B * T, sizeof *a.old);
    a.row_of = allocate(m->dims.vocab, sizeof *a.row_of);
    for (size_t v = 0; v < m->dims.vocab; v++) a.row_of[v] = -1;
    const Extension *x = m->n_extensions ? m->extension[m->n_extensions - 1] : NULL;
    for (size_t i = 0; x && i < x->dims.rows; i++) a.row_of[x->ids[i]] = (int)i;
    return a;
}

// Frees what activations_allocate made.
static void activations_free(Activations *a) {
    free(a->memory);
    free(a->old);
    free(a->row_of);
}

// Layer l of a buffer, from the first row of this pass on.
static real *rows_of(const Activations *a, Buffer b, size_t l) {
    return b.at ? b.at + l * b.stride + a->start * b.width : NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward and backward through the whole model.

// The four linear layers of a block: where in the table they are, and which LoRA buffer goes with them.
typedef struct { int w, bias, lora_a, lora_b, low; } Linear;
static const Linear QKV = {QKV_W, QKV_BIAS, QKV_LORA_A, QKV_LORA_B, 0};
static const Linear PROJ = {PROJ_W, PROJ_BIAS, PROJ_LORA_A, PROJ_LORA_B, 1};
static const Linear FC = {FC_W, FC_BIAS, FC_LORA_A, FC_LORA_B, 2};
static const Linear FCPROJ = {FCPROJ_W, FCPROJ_BIAS, FCPROJ_LORA_A, FCPROJ_LORA_B, 3};

// out = x W + bias (+ add), and every LoRA beside it.
static void block_linear_forward(const Model *m, const Activations *a, Linear k, size_t l, real *out, const real *x,
                                 const real *add) {
    const size_t I = tensor_rows(k.w, &m->dims), O = tensor_cols(k.w, &m->dims);
    linear_forward(out, x, tensor(&m->w, k.w, l), tensor(&m->w, k.bias, l), add, a->n, I, O);
    for (size_t e = 0; e < m->n_extensions; e++) {
        const Tensors *w = &m->extension[e]->w;
        if (w->at[k.lora_a])
            lora_forward(out, rows_of(a, a->extension[e].low[k.low], l), x, tensor(w, k.lora_a, l),
                         tensor(w, k.lora_b, l), a->n, I, O, m->extension[e]->dims.rank);
    }
}

static const Tensors nothing;      // the gradients of an extension that is frozen

// dx (+= if add, may be NULL) from dout, and the gradients of what of this layer is in grad.
static void block_linear_backward(const Model *m, const Activations *a, const Tensors *grad, Linear k, size_t l,
                                  real *dx, bool add, const real *dout, const real *x) {
    const size_t I = tensor_rows(k.w, &m->dims), O = tensor_cols(k.w, &m->dims);
    linear_backward(dx, tensor(grad, k.w, l), tensor(grad, k.bias, l), dout, x, tensor(&m->w, k.w, l),
                    add ? dx : NULL, a->n, I, O);
    for (size_t e = 0; e < m->n_extensions; e++) {
        const Tensors *w = &m->extension[e]->w, *own = e == m->n_extensions - 1 ? grad : &nothing;
        if (w->at[k.lora_a])
            lora_backward(dx, tensor(own, k.lora_a, l), tensor(own, k.lora_b, l), a->dlow.at, dout,
                          rows_of(a, a->extension[e].low[k.low], l), x, tensor(w, k.lora_a, l), tensor(w, k.lora_b, l),
                          a->n, I, O, m->extension[e]->dims.rank);
    }
}

// Puts m's last extension, a LoRA, into the backbone: W += A B, and its rows into wte. m is a model like any other again.
static void lora_merge(Model *m) {
    const Linear linears[4] = {QKV, PROJ, FC, FCPROJ};
    Extension *x = m->extension[--m->n_extensions];
    const size_t R = x->dims.rank;
    for (int k = 0; k < 4; k++)
        for (size_t l = 0; l < m->dims.layers; l++) {
            const size_t I = tensor_rows(linears[k].w, &m->dims), O = tensor_cols(linears[k].w, &m->dims);
            real *w = tensor(&m->w, linears[k].w, l);
            matmul(w, O, I, O, R, plain(tensor(&x->w, linears[k].lora_a, l), R), plain(tensor(&x->w, linears[k].lora_b, l), O),
                   NULL, w);
        }
    if (m->wte != m->w.at[WTE]) {
        memcpy(m->w.at[WTE], m->wte, m->dims.vocab * m->dims.channels * sizeof(real));
        free(m->wte);
        m->wte = m->w.at[WTE];
    }
    m->fingerprint = fingerprint(&m->w);
    extension_free(x);
}

// What extension e keeps in layer l, from the first row of this pass on.
static Residue residue_at(const Model *m, const Activations *a, size_t e, size_t l) {
    const ExtensionActivations *s = &a->extension[e];
    return (Residue){rows_of(a, s->wi_u, l), rows_of(a, s->wg_u, l), rows_of(a, s->hidden, l), rows_of(a, s->adapter, l),
                     rows_of(a, s->gate, l), rows_of(a, s->local, l),
                     m->extension[e]->from == FROM_FIRST ? rows_of(a, a->context, 0) : rows_of(a, a->u, l)};
}

// Layer l of an extension's weights, or of their gradients.
static ResidueTensors residue_tensors(const Tensors *t, size_t l) {
    return (ResidueTensors){tensor(t, WI, l), tensor(t, WG, l), tensor(t, WO, l), tensor(t, GATE_W, l), tensor(t, GATE_B, l)};
}

// Runs tokens (B, T - start) at positions start..T-1 through the model, up to the logits of the last a->n_logits rows.
// With start > 0 (and B = 1) the positions before it must have been run: the qkv they left are the keys and values.
// a->old must say which rows are of the old domain if the last extension's l_local is wanted.
static void model_forward(const Model *m, Activations *a, const int *tokens, size_t B, size_t T, size_t start) {
    const Dims *d = &m->dims;
    const Tensors *w = &m->w;
    const size_t C = d->channels, n = B * (T - start);
    a->B = B, a->T = T, a->start = start, a->n = n;
    embedding_forward(rows_of(a, a->x, 0), tokens, m->wte, w->at[WPE], B, T, start, C);
    for (size_t l = 0; l < d->layers; l++) {
        real *x = rows_of(a, a->x, l), *ln1 = rows_of(a, a->ln1, l), *y = rows_of(a, a->y, l);
        real *mid = rows_of(a, a->mid, l), *u = rows_of(a, a->u, l), *fc = rows_of(a, a->fc, l);
        real *gelu = rows_of(a, a->gelu, l), *out = rows_of(a, a->x, l + 1), *qkv = a->qkv.at + l * a->qkv.stride;
        layernorm_forward(ln1, rows_of(a, a->stats1, l), x, tensor(w, LN1_W, l), tensor(w, LN1_B, l), n, C);
        block_linear_forward(m, a, QKV, l, qkv + start * 3 * C, ln1, NULL);
        attention_forward(a->y.at + l * a->y.stride, a->att.at + l * a->att.stride, qkv, B, T, start, d->heads, C);
        block_linear_forward(m, a, PROJ, l, mid, y, x);
        layernorm_forward(u, rows_of(a, a->stats2, l), mid, tensor(w, LN2_W, l), tensor(w, LN2_B, l), n, C);
        if (l == 0 && reads_context(m)) context_forward(rows_of(a, a->context, 0), u, B, T, start, C);
        block_linear_forward(m, a, FC, l, fc, u, NULL);
        gelu_forward(gelu, fc, n * 4 * C);
        block_linear_forward(m, a, FCPROJ, l, out, gelu, mid);
        for (size_t e = 0; e < m->n_extensions; e++) {
            const Extension *own = m->extension[e];
            if (own->sets & SET_ADAPTER)
                residue_forward(out, residue_at(m, a, e, l), u, residue_tensors(&own->w, l), own->gate, own->local, a->old,
                                n, C, own->dims.hidden, own->dims.gate);
        }
    }
    const real *last = rows_of(a, a->x, d->layers) + (n - a->n_logits) * C;
    layernorm_forward(a->lnf.at, a->statsf.at, last, w->at[LNF_W], w->at[LNF_B], a->n_logits, C);
    matmul(a->logits.at, d->vocab, a->n_logits, d->vocab, C, plain(a->lnf.at, C), transposed(m->wte, C), NULL, NULL);
}

typedef struct { double lm, local; } Loss;  // l_LM and l_local, in nats and in units of the residual stream

// After model_forward with logits for all rows: both losses against targets (B, T), -1 meaning none; logits become
// probabilities. l_LM is a mean over targets, l_local over layers and old-domain tokens (the gate's cross-entropy: over all).
static Loss model_loss(const Model *m, Activations *a, const int *targets) {
    const size_t L = m->dims.layers, e = m->n_extensions - 1;
    const Local local = m->n_extensions ? m->extension[e]->local : LOCAL_NONE;
    size_t n_targets = 0, n_local = 0;
    Loss loss = {0, 0};
    crossentropy_forward(a->losses.at, a->logits.at, targets, a->n, m->dims.vocab);
    for (size_t t = 0; t < a->n; t++) {
        n_targets += targets[t] >= 0;
        loss.lm += (double)a->losses.at[t];
        if (local == LOCAL_NONE || (local == LOCAL_L1 && !a->old[t])) continue;
        n_local += L;
        for (size_t l = 0; l < L; l++) loss.local += (double)rows_of(a, a->extension[e].local, l)[t];
    }
    a->lm_scale = n_targets ? 1 / (double)n_targets : 0;  // a batch may be of negative domains only
    a->local_scale = n_local ? 1 / (double)n_local : 0;
    return (Loss){loss.lm * a->lm_scale, loss.local * a->local_scale};
}

// After model_loss: the gradients, in grad, of l_LM + alpha l_local with respect to its tensors, which are the
// backbone's or those of the last extension. Nothing is computed below the first of them.
static void model_backward(const Model *m, Activations *a, const Tensors *grad, const int *tokens, const int *targets) {
    const Dims *d = &m->dims;
    const Tensors *w = &m->w;
    const size_t C = d->channels, V = d->vocab, L = d->layers, n = a->n, last = m->n_extensions - 1;
    const bool rows = grad->at[ROWS] != NULL, embedding = rows || grad->at[WTE];
    const bool attention = grad->at[QKV_W] || grad->at[QKV_LORA_A];
    const bool context = reads_context(m) && (embedding || attention);  // does anything that trains lie below it?
    real *dx = a->dx.at, *du = a->du.at, *logits = a->logits.at;
    crossentropy_backward(logits, targets, (real)a->lm_scale, n, V);

    // The head: logits = lnf wte^T. Of its gradient the rows that train need only their columns of dlogits.
    matmul(du, C, n, C, V, plain(logits, V), plain(m->wte, C), NULL, NULL);
    if (grad->at[WTE]) matmul(grad->at[WTE], C, V, C, n, transposed(logits, V), plain(a->lnf.at, C), NULL, NULL);
    if (rows) {
        const Extension *x = m->extension[last];
        const size_t N = x->dims.rows;
        #pragma omp parallel for
        for (size_t t = 0; t < n; t++)
            for (size_t i = 0; i < N; i++) a->picked.at[t * N + i] = logits[t * V + (size_t)x->ids[i]];
        matmul(grad->at[ROWS], C, N, C, n, transposed(a->picked.at, N), plain(a->lnf.at, C), NULL, NULL);
    }
    memset(dx, 0, n * C * sizeof(real));
    if (context) memset(a->dcontext.at, 0, n * 2 * C * sizeof(real));
    layernorm_backward(dx, grad->at[LNF_W], grad->at[LNF_B], du, rows_of(a, a->x, L), a->statsf.at, w->at[LNF_W], n, C);

    for (size_t l = L; l-- > 0;) {
        // dx, the gradient at the block's output, becomes that at its input, down to the first tensor that trains.
        const bool below = l > 0 || embedding, inside = below || attention;
        memset(du, 0, n * C * sizeof(real));
        for (size_t e = 0; e < m->n_extensions; e++) {
            const Extension *x = m->extension[e];
            if (!(x->sets & SET_ADAPTER)) continue;
            const Tensors *own = e == last ? grad : &nothing;
            const Local penalty = e == last ? x->local : LOCAL_NONE;
            const double weight = x->alpha * a->local_scale / (penalty == LOCAL_L1 ? (double)C : 1);
            real *to_u = inside ? du : NULL, *to_gate = x->from == FROM_LAYER ? to_u : context ? a->dcontext.at : NULL;
            residue_backward(to_u, to_gate, residue_tensors(own, l), dx, residue_at(m, a, e, l), rows_of(a, a->u, l),
                             residue_tensors(&x->w, l), x->gate, penalty, (real)weight, a->old, a->dhidden.at,
                             n, C, x->dims.hidden, x->dims.gate);
        }
        if (!inside) break;
        if (l == 0 && context) context_backward(du, a->dcontext.at, a->B, a->T, C);
        block_linear_backward(m, a, grad, FCPROJ, l, a->dfc.at, false, dx, rows_of(a, a->gelu, l));
        gelu_backward(a->dfc.at, a->dfc.at, rows_of(a, a->fc, l), n * 4 * C);
        block_linear_backward(m, a, grad, FC, l, du, true, a->dfc.at, rows_of(a, a->u, l));
        layernorm_backward(dx, tensor(grad, LN2_W, l), tensor(grad, LN2_B, l), du, rows_of(a, a->mid, l),
                           rows_of(a, a->stats2, l), tensor(w, LN2_W, l), n, C);
        block_linear_backward(m, a, grad, PROJ, l, du, false, dx, rows_of(a, a->y, l));
        attention_backward(a->dqkv.at, du, rows_of(a, a->att, l), rows_of(a, a->qkv, l), a->B, a->T, d->heads, C);
        block_linear_backward(m, a, grad, QKV, l, below ? du : NULL, false, a->dqkv.at, rows_of(a, a->ln1, l));
        if (below)
            layernorm_backward(dx, tensor(grad, LN1_W, l), tensor(grad, LN1_B, l), du, rows_of(a, a->x, l),
                               rows_of(a, a->stats1, l), tensor(w, LN1_W, l), n, C);
    }
    if (embedding)
        embedding_backward(rows ? grad->at[ROWS] : grad->at[WTE], grad->at[WPE], dx, tokens, rows ? a->row_of : NULL,
                           a->B, a->T, d->context, C);
}

// ---------------------------------------------------------------------------------------------------------------------
// AdamW (Loshchilov and Hutter, 2019).

// Learning rate at a step, from 1 on: a linear rise over `warmup` steps, then half a cosine, down to floor * peak.
static double learning_rate(double peak, long step, long steps, long warmup, double floor) {
    if (step <= warmup) return peak * (double)step / (double)warmup;
    const double progress = (double)(step - warmup) / (double)(steps - warmup);
    return peak * (floor + (1 - floor) * 0.5 * (1 + cos(3.141592653589793 * progress)));
}

// The norm of all of t together. Short sums are taken in real, and added in double.
static double tensors_norm(const Tensors *t) {
    enum { CHUNK = 4096 };
    double sum = 0;
    for (size_t i = 0; i < t->size; i += CHUNK)
        sum += (double)dot(least(CHUNK, t->size - i), t->memory + i, t->memory + i);
    return sqrt(sum);
}

// One step on w with gradients g: first and second moments m and v, corrected for their start at zero; a gradient
// longer than `clip` is scaled to it; matrices (not biases, LayerNorms, gates) shrink by lr * decay, apart from the
// gradient. Returns the gradient's norm: if that is not finite, w no longer holds numbers.
static double adamw_step(const Tensors *w, const Tensors *g, const Tensors *m, const Tensors *v, const Dims *d, long step,
                         double lr, double decay, double clip) {
    const double norm = tensors_norm(g), beta1 = 0.9, beta2 = 0.95;
    const real scale = (real)(norm > clip ? clip / norm : 1), b1 = (real)beta1, b2 = (real)beta2, epsilon = (real)1e-8;
    const real rate = (real)(lr / (1 - pow(beta1, (double)step)));
    const real correction = (real)(1 / (1 - pow(beta2, (double)step)));
    for (int id = 0; id < TENSORS; id++) {
        if (!g->at[id]) continue;
        const real keep = (real)(table[id].rows == '1' ? 1 : 1 - lr * decay);
        real *wt = w->at[id], *mt = m->at[id], *vt = v->at[id];
        const real *gt = g->at[id];
        const size_t size = tensor_layers(id, d) * g->layer_size[id];
        #pragma omp parallel for simd
        for (size_t i = 0; i < size; i++) {
            const real gi = gt[i] * scale;
            mt[i] = b1 * mt[i] + (1 - b1) * gi;
            vt[i] = b2 * vt[i] + (1 - b2) * gi * gi;
            wt[i] = wt[i] * keep - rate * mt[i] / ((real)sqrt((double)(vt[i] * correction)) + epsilon);  // in real's width
        }
    }
    return norm;
}

// ---------------------------------------------------------------------------------------------------------------------
// Data: token files, and the loader that mixes two domains.

enum { MAX_DOMAINS = 8 };

typedef struct { char domain[32]; uint16_t *ids; size_t count; uint64_t hash; } Tokens;  // hash: of all ids

// Reads FOLDER/DOMAIN_SPLIT.bin, a file of tokens as llm.c has them: see tokenizer.c. Dies unless it is whole, made with
// this tokenizer, and has more than `context` tokens.
static Tokens tokens_load(const char *folder, const char *domain, const char *split, const Tokenizer *tokenizer,
                          size_t context) {
    enum { HEADER = TOKENS_HEADER * 4 };
    Tokens t = {.count = 0};
    if (strlen(domain) >= sizeof t.domain) die("domain %s: expected a name of less than %zu bytes", domain, sizeof t.domain);
    strcpy(t.domain, domain);
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s_%s.bin", folder, domain, split) >= (int)sizeof path)
        die("%s: path too long", folder);
    size_t size;
    char *bytes = read_file(path, &size);
    int32_t header[4];
    if (size < HEADER) die("%s: %zu bytes, expected a token file with a header of %d", path, size, HEADER);
    memcpy(header, bytes, sizeof header);
    if (header[0] != TOKENS_MAGIC || header[1] != TOKENS_VERSION)
        die("%s: magic and version %d %d, expected a token file's %d %d", path, header[0], header[1], TOKENS_MAGIC,
            TOKENS_VERSION);
    if (header[2] < 0 || (size - HEADER) / 2 != (size_t)header[2] || size % 2)
        die("%s: header says %d tokens, but %zu bytes follow it", path, header[2], size - HEADER);
    if (header[3] && (uint32_t)header[3] != tokenizer_hash(tokenizer))
        die("%s: made with another tokenizer (its vocabulary has hash %08x, the model's %08x)", path, (unsigned)header[3],
            (unsigned)tokenizer_hash(tokenizer));
    t.count = (size_t)header[2];
    t.ids = memmove(bytes, bytes + HEADER, size - HEADER);
    for (size_t i = 0; i < t.count; i++) {
        if (t.ids[i] >= tokenizer->size)
            die("%s: token %zu is %d, beyond the vocabulary of %d", path, i, t.ids[i], tokenizer->size);
        t.hash = t.hash * HASH_FACTOR + t.ids[i] + 1;
    }
    if (t.count <= context) die("%s: %zu tokens, expected more than the context of %zu", path, t.count, context);
    return t;
}

// Loads the domains of a list separated by commas into `files`, which has room for MAX_DOMAINS; returns how many.
static size_t domains_load(Tokens *files, const char *folder, const char *list, const char *split,
                           const Tokenizer *tokenizer, size_t context) {
    size_t count = 0;
    for (const char *name = list; name; name = strchr(name, ',') ? strchr(name, ',') + 1 : NULL) {
        char domain[64];
        snprintf(domain, sizeof domain, "%.*s", (int)least(strcspn(name, ","), sizeof domain - 1), name);
        if (count == MAX_DOMAINS) die("%s: more than %d domains", list, MAX_DOMAINS);
        files[count++] = tokens_load(folder, domain, split, tokenizer, context);
    }
    return count;
}

typedef struct {
    Tokens old[MAX_DOMAINS], negative[MAX_DOMAINS], new;
    size_t n_old, n_negative;
    double p;                      // the fraction of sequences from the old domains, and that from the negative ones
    uint64_t seed;
    Random random;
} Loader;

// The domain among `count`, all as likely, that a uniform x in [0, 1) falls on.
static const Tokens *pick(const Tokens *domains, size_t count, double x) {
    return &domains[least((size_t)(x * (double)count), count - 1)];
}

// Draws B sequences of T tokens: tokens and targets, the next token of each, (B, T); old (B, T) is 1 where the sequence
// is of an old domain. Each sequence starts anywhere in its file. The same draws are made whatever p is. Sequences of a
// negative domain are as old ones to l_local, but have no targets: nothing of their language is learnt.
static void loader_next(Loader *loader, int *tokens, int *targets, int *old, size_t B, size_t T) {
    for (size_t b = 0; b < B; b++) {
        const double domain = random_uniform(&loader->random), start = random_uniform(&loader->random), p = loader->p;
        const bool is_old = domain < p, is_negative = !is_old && loader->n_negative && domain < 2 * p;
        const Tokens *from = is_old      ? pick(loader->old, loader->n_old, domain / p)
                           : is_negative ? pick(loader->negative, loader->n_negative, domain / p - 1) : &loader->new;
        const uint16_t *ids = from->ids + (size_t)(start * (double)(from->count - T));
        for (size_t t = 0; t < T; t++) {
            tokens[b * T + t] = ids[t];
            targets[b * T + t] = is_negative ? -1 : ids[t + 1];
            old[b * T + t] = is_old || is_negative;
        }
    }
}

// Frees the text of all domains.
static void loader_free(Loader *loader) {
    for (size_t i = 0; i < loader->n_old; i++) free(loader->old[i].ids);
    for (size_t i = 0; i < loader->n_negative; i++) free(loader->negative[i].ids);
    free(loader->new.ids);
}

// ---------------------------------------------------------------------------------------------------------------------
// Files: safetensors, models as Hugging Face folders, extensions. What a file holds is a StoredList, to read and to write.

// data: reals for dtype F32, int32 for I32; it lies at `start` of the file's data.
typedef struct { char name[64]; const char *dtype; size_t rank, shape[2]; void *data; uint64_t start; } Stored;
typedef struct { Stored *at; size_t count; } StoredList;

static size_t stored_size(const Stored *x) { return x->shape[0] * x->shape[1]; }

// Adds the tensors of t, their names after `prefix`, to a list, which has room for three sets and one list of numbers.
static void entries_add(StoredList *e, const char *prefix, const Tensors *t, const Dims *d) {
    if (!e->at) e->at = allocate(3 * TENSORS * d->layers + 1, sizeof(Stored));
    for (int id = 0; id < TENSORS; id++)
        for (size_t l = 0; t->layer_size[id] && l < tensor_layers(id, d); l++) {
            Stored *entry = &e->at[e->count++];
            const int length = snprintf(entry->name, sizeof entry->name, "%s", prefix);
            snprintf(entry->name + length, sizeof entry->name - (size_t)length, table[id].name, (int)l);
            entry->dtype = "F32";
            entry->rank = table[id].rows == '1' ? 1 : 2;
            entry->shape[0] = entry->rank == 1 ? tensor_cols(id, d) : tensor_rows(id, d);
            entry->shape[1] = entry->rank == 1 ? 1 : tensor_cols(id, d);
            entry->data = tensor(t, id, l);
        }
}

// Adds whole numbers, if there are any.
static void entries_add_numbers(StoredList *e, const char *name, int *numbers, size_t count) {
    if (!count) return;
    Stored *entry = &e->at[e->count++];
    *entry = (Stored){.dtype = "I32", .rank = 1, .shape = {count, 1}, .data = numbers};
    snprintf(entry->name, sizeof entry->name, "%s", name);
}

// Over the values of all entries, as 16 digits, for the metadata: a file whose bytes have changed is noticed.
static void entries_hash(char digits[17], const StoredList *e) {
    uint64_t hash = 0;
    for (size_t i = 0; i < e->count; i++) {
        const size_t count = stored_size(&e->at[i]);
        if (e->at[i].dtype[0] == 'F') hash = hash_values(hash, e->at[i].data, count);
        else
            for (size_t k = 0; k < count; k++) hash = hash * HASH_FACTOR + ((uint32_t *)e->at[i].data)[k] + 1;
    }
    snprintf(digits, 17, "%016" PRIx64, hash);
}

// A pair of __metadata__, in a format of printf's: both are strings of plain characters.
#define PAIR(key, format) ",\"" key "\":\"" format "\""

// Writes a safetensors file. metadata: PAIRs.
static void safetensors_write(const char *path, const StoredList *e, const char *metadata) {
    char hash[17];
    entries_hash(hash, e);
    FILE *file = output_open(path);
    uint64_t length = 0;  // of the header: known when it is written
    size_t offset = 0;
    fwrite(&length, sizeof length, 1, file);
    fprintf(file, "{\"__metadata__\":{\"format\":\"pt\"" PAIR("hash", "%s") "%s}", hash, metadata);
    for (size_t i = 0; i < e->count; i++) {
        const Stored *x = &e->at[i];
        const size_t bytes = 4 * stored_size(x);
        fprintf(file, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%zu", x->name, x->dtype, x->shape[0]);
        if (x->rank == 2) fprintf(file, ",%zu", x->shape[1]);
        fprintf(file, "],\"data_offsets\":[%zu,%zu]}", offset, offset + bytes);
        offset += bytes;
    }
    fputc('}', file);
    long end = ftell(file);
    for (; end % 8 > 0; end++) fputc(' ', file);  // so that the data is aligned
    length = (uint64_t)end - sizeof length;
    if (end < 0 || fseek(file, 0, SEEK_SET) || !fwrite(&length, sizeof length, 1, file) || fseek(file, 0, SEEK_END))
        die("%s: not written: %s", path, strerror(errno));
    for (size_t i = 0; i < e->count; i++) {
        const Stored *x = &e->at[i];
        if (sizeof(real) == 4 || x->dtype[0] == 'I') fwrite(x->data, 4, stored_size(x), file);
        else
            for (size_t k = 0; k < stored_size(x); k++) fwrite(&(float){(float)((real *)x->data)[k]}, 4, 1, file);
    }
    output_close(file);
}

// A file that is being read: its tensors' data are the `size` bytes from `start` on.
typedef struct { const char *path; FILE *file; uint64_t start, size; Json *header; const Json *metadata; } Safetensors;

// Opens a file and reads its header.
static Safetensors safetensors_open(const char *path) {
    Safetensors s = {.path = path, .file = open_file(path)};
    uint64_t length = 0;
    if (fseeko(s.file, 0, SEEK_END)) die("%s: %s", path, strerror(errno));
    const uint64_t whole = (uint64_t)ftello(s.file);
    rewind(s.file);
    if (fread(&length, sizeof length, 1, s.file) != 1)
        die("%s: shorter than the 8 bytes a safetensors file starts with", path);
    if (length > whole - 8 || length > 100 << 20)
        die("%s: says its header has %" PRIu64 " bytes, but the file has %" PRIu64, path, length, whole);
    char *text = allocate(length + 1, 1);
    if (fread(text, 1, length, s.file) != length) die("%s: %s", path, strerror(errno));
    s.header = json_parse(path, text, length);
    free(text);
    if (s.header->type != '{') die("%s: the header is not a JSON object", path);
    s.metadata = json_get(s.header, "__metadata__");
    s.start = 8 + length;
    s.size = whole - s.start;
    return s;
}

// Ends the reading of a file.
static void safetensors_close(Safetensors *s) {
    fclose(s->file);
    json_free(s->header);
}

// Finds every entry in the header, with or without Hugging Face's "transformer." before its name. Dies unless each is there
// with its dtype and shape and bytes of its own within the file, and nothing else except Hugging Face's causal masks and the
// copy of the tied head.
static void safetensors_find(const Safetensors *s, StoredList *e) {
    size_t tensors = 0;
    for (size_t i = 0; i < e->count; i++) {
        Stored *x = &e->at[i];
        char longer[128];
        snprintf(longer, sizeof longer, "transformer.%s", x->name);
        const Json *found = json_get(s->header, x->name);
        if (!found) found = json_get(s->header, longer);
        if (!found) die("%s: has no tensor %s", s->path, x->name);
        const Json *dtype = json_get(found, "dtype"), *shape = json_get(found, "shape"), *offsets = json_get(found, "data_offsets");
        const Json *side = shape && shape->type == '[' ? shape->child : NULL;
        const Json *begin = offsets && offsets->type == '[' ? offsets->child : NULL;
        const size_t bytes = 4 * stored_size(x);
        if (!dtype || dtype->type != '"' || strcmp(dtype->string, x->dtype))
            die("%s: %s is stored as %s, expected %s (in Python: model.float().save_pretrained(folder))", s->path, x->name,
                dtype && dtype->type == '"' ? dtype->string : "nothing", x->dtype);
        for (size_t k = 0; k < x->rank; k++, side = side->next)
            if (!side || side->type != '0' || side->number != (double)x->shape[k])
                die("%s: %s: side %zu of its shape is %g, expected %zu", s->path, x->name, k, side ? side->number : 0,
                    x->shape[k]);
        if (side) die("%s: %s has more than %zu dimensions", s->path, x->name, x->rank);
        if (!json_whole(begin, s->size) || !json_whole(begin->next, s->size) || begin->next->next
            || begin->next->number - begin->number != (double)bytes)
            die("%s: %s: its data_offsets are not those of %zu bytes among the file's %" PRIu64, s->path, x->name, bytes, s->size);
        x->start = (uint64_t)begin->number;
        for (size_t k = 0; k < i; k++)
            if (x->start < e->at[k].start + 4 * stored_size(&e->at[k]) && e->at[k].start < x->start + bytes)
                die("%s: %s and %s share bytes", s->path, e->at[k].name, x->name);
    }
    for (const Json *x = s->header->child; x; x = x->next)
        tensors += !strstr(x->key, ".attn.bias") && !strstr(x->key, ".attn.masked_bias") && strcmp(x->key, "lm_head.weight")
                && strcmp(x->key, "__metadata__");
    if (tensors > e->count) die("%s: has %zu tensors that do not belong to it", s->path, tensors - e->count);
}

// After safetensors_find: fills every entry's data. All of them must have the hash that the metadata say, if they say one.
static void safetensors_read(const Safetensors *s, const StoredList *e) {
    for (size_t i = 0; i < e->count; i++) {
        const Stored *x = &e->at[i];
        const size_t count = stored_size(x);
        if (fseeko(s->file, (off_t)(s->start + x->start), SEEK_SET) || fread(x->data, 4, count, s->file) != count)
            die("%s: %s cannot be read: %s", s->path, x->name, strerror(errno));
        for (size_t k = sizeof(real) == 4 || x->dtype[0] == 'I' ? 0 : count; k-- > 0;) {  // widen in place, from the end
            float value;
            memcpy(&value, (char *)x->data + 4 * k, 4);
            ((real *)x->data)[k] = (real)value;
        }
    }
    const Json *hash = json_get(s->metadata, "hash");
    char digits[17];
    entries_hash(digits, e);
    if (hash && (hash->type != '"' || strcmp(hash->string, digits)))
        die("%s: damaged: its values have hash %s, its metadata says %.16s", s->path, digits,
            hash->type == '"' ? hash->string : "?");
}

// Reads the tensors of `sets` and, into ids (d->rows), the tokens of the rows among them. They get memory only once the
// header, and so the size of the file, agrees.
static Tensors tensors_load(const Safetensors *s, int sets, const Dims *d, int *ids) {
    Tensors t = tensors_lay_out(NULL, sets, d);
    StoredList entries = {0};
    size_t at = 0;
    entries_add(&entries, "", &t, d);
    entries_add_numbers(&entries, "wte.ids", ids, d->rows);
    safetensors_find(s, &entries);
    t = tensors_allocate(sets, d);
    for (Stored *x = entries.at; at < t.size; at += stored_size(x++)) x->data = t.memory + at;
    safetensors_read(s, &entries);
    free(entries.at);
    return t;
}

// Is `text` one of the choices, which are separated by "|"?
static bool choice_known(const char *choices, const char *text) {
    for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL)
        if (strcspn(c, "|") == strlen(text) && !strncmp(c, text, strlen(text))) return true;
    return false;
}

// A whole number of config.json between 1 and `most`; dies on anything else.
static size_t config_size(const char *path, const Json *config, const char *key, size_t most) {
    const Json *x = json_get(config, key);
    if (!json_whole(x, most) || x->number < 1)
        die("%s: \"%s\" is missing or not a whole number from 1 to %zu", path, key, most);
    return (size_t)x->number;
}

// Dies if config.json has `key` with a value that is not among `expected`, as texts separated by "|".
static void config_expect(const char *path, const Json *config, const char *key, const char *expected) {
    const Json *x = json_get(config, key);
    if (!x) return;
    char found[64];
    if (x->type == '0') snprintf(found, sizeof found, "%g", x->number);
    else snprintf(found, sizeof found, "%.60s", x->type == '"' ? x->string : x->type == 't' ? "true" : x->type == 'f' ? "false"
                  : x->type == 'n' ? "null" : "?");
    if (!choice_known(expected, found)) die("%s: \"%s\" is %s, but nr computes with %s only", path, key, found, expected);
}

enum { LARGEST = 1 << 20 };  // of any dimension; their products fit 64 bits

// Dies unless the sizes make a model. `source` names what set them.
static void dims_check(const char *source, const Dims *d) {
    if (d->channels % d->heads) die("%s: %zu heads do not divide %zu channels", source, d->heads, d->channels);
    const size_t size = tensors_lay_out(NULL, SET_BACKBONE, d).size, most = (size_t)4 << 30;
    if (size > most) die("%s: these sizes make %zu parameters, expected at most %zu", source, size, most);
}

// Loads a folder as on the Hugging Face hub: config.json, model.safetensors in float32, vocab.json, merges.txt.
static Model *model_load(const char *folder) {
    char *path = join(folder, "/", "config.json"), *weights = join(folder, "/", "model.safetensors");
    Json *config = json_read(path);
    if (!json_get(config, "model_type")) die("%s: \"model_type\" is missing, expected gpt2", path);
    config_expect(path, config, "model_type", "gpt2");
    config_expect(path, config, "activation_function", "gelu_new|gelu_pytorch_tanh");
    config_expect(path, config, "layer_norm_epsilon", "1e-05");
    config_expect(path, config, "tie_word_embeddings", "true");
    config_expect(path, config, "scale_attn_weights", "true");
    config_expect(path, config, "scale_attn_by_inverse_layer_idx", "false");
    config_expect(path, config, "add_cross_attention", "false");
    Model *m = allocate(1, sizeof *m);
    m->dims = (Dims){
        .layers = config_size(path, config, "n_layer", 1024), .heads = config_size(path, config, "n_head", LARGEST),
        .channels = config_size(path, config, "n_embd", LARGEST), .vocab = config_size(path, config, "vocab_size", 65536),
        .context = config_size(path, config, "n_positions", LARGEST)};
    dims_check(path, &m->dims);
    char inner[32];
    snprintf(inner, sizeof inner, "%zu|null", 4 * m->dims.channels);
    config_expect(path, config, "n_inner", inner);
    const Json *unseen = json_get(config, "unseen_tokens");
    m->unseen = allocate(m->dims.vocab, sizeof *m->unseen);
    if (unseen && unseen->type != '[') die("%s: \"unseen_tokens\" is not a list of token ids", path);
    for (const Json *x = unseen ? unseen->child : NULL; x; x = x->next) {
        if (!json_whole(x, m->dims.vocab - 1)) die("%s: \"unseen_tokens\" has what is no id below %zu", path, m->dims.vocab);
        m->unseen[(size_t)x->number] = true;
    }
    json_free(config);
    m->tokenizer = tokenizer_load(folder);
    if ((size_t)m->tokenizer->size != m->dims.vocab)
        die("%s: \"vocab_size\" is %zu, but vocab.json has %d tokens", path, m->dims.vocab, m->tokenizer->size);

    Safetensors file = safetensors_open(weights);
    m->w = tensors_load(&file, SET_BACKBONE, &m->dims, NULL);
    safetensors_close(&file);
    free(path), free(weights);
    m->wte = m->w.at[WTE];
    m->fingerprint = fingerprint(&m->w);
    return m;
}

// Saves a folder that model_load and transformers read; the files in it are replaced one by one.
static void model_save(const Model *m, const char *folder) {
    char *path = join(folder, "/", "config.json"), *weights = join(folder, "/", "model.safetensors");
    const Dims *d = &m->dims;
    StoredList entries = {0};
    entries_add(&entries, "", &m->w, d);
    safetensors_write(weights, &entries, "");
    tokenizer_save(m->tokenizer, folder);
    FILE *file = output_open(path);
    fprintf(file, "{\n  \"architectures\": [\"GPT2LMHeadModel\"],\n  \"model_type\": \"gpt2\",\n  \"torch_dtype\": \"float32\",\n"
            "  \"activation_function\": \"gelu_new\",\n  \"layer_norm_epsilon\": 1e-05,\n  \"tie_word_embeddings\": true,\n");
    fprintf(file, "  \"n_layer\": %zu,\n  \"n_head\": %zu,\n  \"n_embd\": %zu,\n  \"n_positions\": %zu,\n  \"n_ctx\": %zu,\n"
            "  \"vocab_size\": %zu,\n  \"bos_token_id\": %zu,\n  \"eos_token_id\": %zu,\n  \"unseen_tokens\": [", d->layers,
            d->heads, d->channels, d->context, d->context, d->vocab, d->vocab - 1, d->vocab - 1);
    const char *between = "";
    for (size_t v = 0; v < d->vocab; v++)
        if (m->unseen[v]) fprintf(file, "%s%zu", between, v), between = ", ";
    fprintf(file, "]\n}\n");
    output_close(file);
    free(path), free(weights), free(entries.at);
}

static const char *const gate_names[] = {"relu", "sigmoid", "none", NULL};
static const char *const local_names[] = {"l1", "ce", "none", NULL};
static const char *const init_names[] = {"low", "he", NULL};
static const char *const from_names[] = {"layer", "first", NULL};

// The place of a name in a list that NULL ends, -1 if it is not there.
static int name_index(const char *const *names, const char *name) {
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], name)) return i;
    return -1;
}

// Saves m's last extension.
static void extension_save(const Model *m, const char *path) {
    const Extension *x = m->extension[m->n_extensions - 1];
    StoredList entries = {0};
    entries_add(&entries, "", &x->w, &x->dims);
    entries_add_numbers(&entries, "wte.ids", x->ids, x->dims.rows);
    safetensors_write(path, &entries, x->metadata);
    free(entries.at);
}

// A string of __metadata__; dies if it is missing.
static const char *metadata_text(const Safetensors *s, const char *key) {
    const Json *x = json_get(s->metadata, key);
    if (!x || x->type != '"') die("%s: its metadata has no \"%s\": not made by this version of nr", s->path, key);
    return x->string;
}

// A number of __metadata__ from 0 to `most`; dies if it is none.
static double metadata_number(const Safetensors *s, const char *key, double most) {
    const char *text = metadata_text(s, key);
    char *end;
    const double x = strtod(text, &end);
    if (!*text || *end || !(x >= 0) || !(x <= most))
        die("%s: metadata \"%s\" is \"%.40s\", expected a number from 0 to %g", s->path, key, text, most);
    return x;
}

// The place in `names` of a string of __metadata__; dies if it is not there.
static int metadata_choice(const Safetensors *s, const char *key, const char *const *names) {
    const int i = name_index(names, metadata_text(s, key));
    if (i < 0) die("%s: metadata \"%s\" is \"%.40s\", which is not known", s->path, key, metadata_text(s, key));
    return i;
}

// The fingerprints of m's first extensions, until the next call.
static const char *extension_names(const Model *m, size_t count) {
    static char text[MAX_EXTENSIONS * 17 + 1];
    *text = 0;
    for (size_t e = 0; e < count; e++) snprintf(text + 17 * e, 18, "%016" PRIx64 " ", m->extension[e]->fingerprint);
    return text;
}

// Loads an extension and plugs it in. Dies if it was trained on another backbone, or on extensions that are not those
// plugged in first (further ones may follow them: extensions that were trained apart add up).
static void extension_load(Model *m, const char *path) {
    Safetensors s = safetensors_open(path);
    Extension *x = allocate(1, sizeof *x);
    char expected[32];
    snprintf(expected, sizeof expected, "%016" PRIx64, m->fingerprint);
    if (strcmp(metadata_text(&s, "backbone"), expected))
        die("%s: made for the backbone with fingerprint %.16s, this one has %s", path, metadata_text(&s, "backbone"),
            expected);
    const char *below = metadata_text(&s, "extensions"), *here = extension_names(m, m->n_extensions);
    if (strncmp(here, below, strlen(below)))
        die("%s: trained on extensions %.136s, but those before it are %s: -x in the order of training", path, below,
            *here ? here : "none");
    x->gate = (Gate)metadata_choice(&s, "gate", gate_names);
    x->from = (GateFrom)metadata_choice(&s, "gate_from", from_names);
    x->local = (Local)metadata_choice(&s, "local", local_names);
    x->dims = m->dims;
    x->dims.hidden = (size_t)metadata_number(&s, "hidden", LARGEST);
    x->dims.rank = (size_t)metadata_number(&s, "rank", LARGEST);
    x->dims.rows = (size_t)metadata_number(&s, "rows", (double)m->dims.vocab);
    extension_sets(x);
    if (x->local == LOCAL_CE && !(x->sets & SET_GATE)) die("%s: metadata \"local\" is \"ce\", but it has no gates", path);
    x->ids = allocate(x->dims.rows, sizeof(int));
    x->w = tensors_load(&s, x->sets, &x->dims, x->ids);
    for (size_t i = 0; i < x->dims.rows; i++)
        if (x->ids[i] < 0 || (size_t)x->ids[i] >= m->dims.vocab)
            die("%s: wte.ids has %d, beyond the vocabulary of %zu", path, x->ids[i], m->dims.vocab);
    safetensors_close(&s);
    x->fingerprint = fingerprint(&x->w);
    extension_attach(m, x);
}

// ---------------------------------------------------------------------------------------------------------------------
// Training and evaluation.

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

// Prints a line of progress on `stderr`: over the last one on a terminal, at every tenth of the way elsewhere. start: when
// it began, by now(); tokens: how many each step handles.
static void progress(const char *label, long step, long steps, const char *state, double start, double tokens) {
    static double last;
    const bool terminal = isatty(STDERR_FILENO), final = step == steps;
    if (terminal ? !final && now() - last < 0.1 : step * 10 / steps == (step - 1) * 10 / steps) return;
    last = now();
    const double a_step = (last - start) / (double)step;
    const long left = (long)(a_step * (double)(steps - step));
    fprintf(stderr, "%s%-9s %5ld/%ld  %s  %.0f tokens/s  %ld:%02ld left%s", terminal ? "\r\033[K" : "", label, step, steps,
            state, tokens / a_step, left / 60, left % 60, terminal && !final ? "" : "\n");
    fflush(stderr);
}

typedef struct {
    long steps, batch, context, warmup;
    double lr, floor, decay;
    const char *state;             // the file that keeps the state of the training
    long save_every;               // in steps; it is also saved at the end and when interrupted
    bool resume;                   // go on from that file if it is there
} Recipe;

// All that a training depends on, as metadata of its state and of the extension it makes: backbone and extensions say from
// which weights it starts, with the seed, and data is a hash of the text and of which rows train.
static void describe(char text[1024], const char *label, const Model *m, const Extension *x, const Recipe *r,
                     const Loader *loader) {
    const Dims *d = x ? &x->dims : &m->dims;
    uint64_t data = loader->new.hash;
    for (size_t i = 0; i < loader->n_old; i++) data = data * HASH_FACTOR + loader->old[i].hash;
    for (size_t i = 0; i < loader->n_negative; i++) data = data * HASH_FACTOR + ~loader->negative[i].hash;  // in another role
    for (size_t i = 0; i < d->rows; i++) data = data * HASH_FACTOR + (uint64_t)x->ids[i] + 1;
    snprintf(text, 1024, PAIR("method", "%s") PAIR("step", "%ld") PAIR("batch", "%ld") PAIR("context", "%ld") PAIR("lr", "%.15g")
             PAIR("warmup", "%ld") PAIR("floor", "%g") PAIR("decay", "%g") PAIR("p", "%.15g") PAIR("gate", "%s")
             PAIR("gate_from", "%s") PAIR("local", "%s") PAIR("alpha", "%.15g") PAIR("init", "%s") PAIR("heads", "%zu")
             PAIR("hidden", "%zu") PAIR("rank", "%zu") PAIR("rows", "%zu") PAIR("seed", "%" PRIu64) PAIR("data", "%016" PRIx64)
             PAIR("backbone", "%016" PRIx64) PAIR("extensions", "%s"),
             label, r->steps, r->batch, r->context, r->lr, r->warmup, r->floor, r->decay, loader->p,
             x ? gate_names[x->gate] : "", x ? from_names[x->from] : "", x ? local_names[x->local] : "", x ? x->alpha : 0,
             x ? init_names[x->init] : "", d->heads, d->hidden, d->rank, d->rows, loader->seed, data, m->fingerprint,
             extension_names(m, m->n_extensions - (x != NULL)));
}

// Loads the state of a training described so. Dies, naming the first thing that differs, if it was another.
static void state_load(const char *path, StoredList *entries, const char *description) {
    char text[1100];
    const int length = snprintf(text, sizeof text, "{\"format\":\"pt\"%s}", description);
    Json *here = json_parse(path, text, (size_t)length);
    Safetensors s = safetensors_open(path);
    for (const Json *x = here->child; x; x = x->next) {
        const char *saved = metadata_text(&s, x->key);
        if (strcmp(saved, x->string))
            die("%s: saved under other settings: %s %.80s, and now %s", path, x->key, saved, x->string);
    }
    safetensors_find(&s, entries);
    safetensors_read(&s, entries);
    safetensors_close(&s);
    json_free(here);
}

// Trains extension x, the last of m's, or the backbone if x is NULL, on what the loader draws. Returns the seconds it took,
// over all sittings. When interrupted, saves the state and ends the program; dies on a loss that is not finite, or if the
// backbone of an extension does not come out as it went in.
static double train(const char *label, Model *m, Extension *x, const Recipe *r, Loader *loader) {
    const size_t B = (size_t)r->batch, T = (size_t)r->context;
    const Tensors *w = x ? &x->w : &m->w;
    const Dims *d = x ? &x->dims : &m->dims;
    const int sets = x ? x->sets : SET_BACKBONE;
    printf("%-9s trains %.3fM parameters, %ld steps of %zu x %zu tokens, lr %g\n", label, 1e-6 * (double)w->size, r->steps,
           B, T, r->lr);
    fflush(stdout);  // before memory is asked for
    const Tensors grad = tensors_allocate(sets, d), m1 = tensors_allocate(sets, d), m2 = tensors_allocate(sets, d);
    Activations a = activations_allocate(m, B, T, B * T, &grad, false);
    int *tokens = allocate(B * T, sizeof(int)), *targets = allocate(B * T, sizeof(int));
    printf("%-9s %.1f MB of gradients and moments, %.1f of activations\n", "", 3e-6 * (double)(w->size * sizeof(real)),
           1e-6 * (double)(a.size * sizeof(real)));

    // A state: what trains, its moments, and how far it is: the step, the tenths of seconds so far, the loader's random state.
    int place[4] = {0};
    StoredList entries = {0};
    entries_add(&entries, "w.", w, d);
    entries_add(&entries, "m.", &m1, d);
    entries_add(&entries, "v.", &m2, d);
    entries_add_numbers(&entries, "place", place, 4);
    char text[1024], *description = x ? x->metadata : text;
    describe(description, label, m, x, r, loader);
    if (r->resume && !access(r->state, F_OK)) {
        state_load(r->state, &entries, description);
        if (place[0] < 1 || place[0] > r->steps) die("%s: says it was saved at step %d of %ld", r->state, place[0], r->steps);
        memcpy(&loader->random.state, place + 2, sizeof loader->random.state);
        embedding_refresh(m);
        printf("%-9s goes on from step %d of %s\n", label, place[0], r->state);
    }
    fflush(stdout);
    const double start = now(), before = 0.1 * place[1];
    long step = place[0];
    const long first = step;
    for (bool stop = step == r->steps; !stop;) {
        loader_next(loader, tokens, targets, a.old, B, T);
        model_forward(m, &a, tokens, B, T, 0);
        const Loss loss = model_loss(m, &a, targets);
        step++;
        if (!isfinite(loss.lm + loss.local))
            die("%s: the loss is %g at step %ld; a lower --lr may help", label, loss.lm + loss.local, step);
        model_backward(m, &a, &grad, tokens, targets);
        const double lr = learning_rate(r->lr, step, r->steps, r->warmup, r->floor);
        const double norm = adamw_step(w, &grad, &m1, &m2, d, step, lr, r->decay, 1);
        if (!isfinite(norm)) die("%s: the gradient's norm is %g at step %ld; a lower --lr may help", label, norm, step);
        embedding_refresh(m);
        char state[64];
        snprintf(state, sizeof state, x && x->local != LOCAL_NONE ? "loss %.3f + %.4f local" : "loss %.3f", loss.lm,
                 loss.local);
        progress(label, step - first, r->steps - first, state, start, (double)(B * T));
        stop = interrupted || step == r->steps;  // read once: a signal may come at any time
        if (stop || (r->save_every && step % r->save_every == 0)) {
            place[0] = (int)step;
            place[1] = (int)(10 * (before + now() - start));
            memcpy(place + 2, &loader->random.state, sizeof loader->random.state);
            safetensors_write(r->state, &entries, description);
        }
    }
    if (step < r->steps) {
        fprintf(stderr, "\n%s: interrupted at step %ld of %s: --resume goes on from %s\n", program, step, label, r->state);
        exit(130);
    }
    const uint64_t backbone = fingerprint(&m->w);
    if (x && backbone != m->fingerprint) die("%s: the frozen backbone changed: a defect of nr", label);
    m->fingerprint = backbone;
    if (x) x->fingerprint = fingerprint(&x->w);
    activations_free(&a);
    free(tokens), free(targets), free(grad.memory), free(m1.memory), free(m2.memory), free(entries.at);
    return before + now() - start;
}

// What evaluation says of one file: mean loss in nats a token, over all and over the first eighth and the last half of a
// window's positions; bits a byte of text; and of every extension's gates, over tokens and layers, or in one layer: the mean,
// the share that is exactly 0, and the mean of |r|_1 / C (all NAN where there are none).
typedef struct { double gate, closed, residue; } GateScore;
typedef struct { double loss, early, late, bpb; size_t tokens, bytes; GateScore gates[MAX_EXTENSIONS]; } Score;

// Over the whole file: windows of T predictions, T apart, the last one partial. layers (extensions, L), which may be NULL:
// receives the gates' scores in each layer.
static Score evaluate(const Model *m, const Tokens *file, size_t T, GateScore *layers) {
    const size_t rows = T < 1024 ? 1024 / T * T : T, count = file->count - 1;  // every token but the first is predicted
    const size_t L = m->dims.layers, n_gates = m->n_extensions * L;
    Activations a = activations_allocate(m, rows / T, T, rows, NULL, false);
    int *tokens = allocate(rows, sizeof(int)), *targets = allocate(rows, sizeof(int));
    GateScore *sums = allocate(n_gates, sizeof *sums);
    Score s = {.tokens = count};
    size_t n_early = 0, n_late = 0;
    const double start = now();
    for (size_t first = 0; first < count; first += rows) {
        const size_t n = least(rows, count - first);
        for (size_t i = 0; i < rows; i++) {
            tokens[i] = i < n ? file->ids[first + i] : 0;
            targets[i] = i < n ? file->ids[first + i + 1] : -1;
        }
        if (interrupted) die("interrupted");
        model_forward(m, &a, tokens, rows / T, T, 0);
        model_loss(m, &a, targets);
        for (size_t i = 0; i < n; i++) {
            const double loss = (double)a.losses.at[i];
            size_t length;
            tokenizer_bytes(m->tokenizer, targets[i], &length);
            s.bytes += length;
            s.loss += loss;
            if (i % T < (T + 7) / 8) s.early += loss, n_early++;
            if (i % T >= T / 2) s.late += loss, n_late++;
        }
        for (size_t k = 0; k < n_gates; k++) {
            const Residue r = residue_at(m, &a, k / L, k % L);
            for (size_t i = 0; r.gate && i < n; i++) {
                sums[k].gate += (double)r.gate[i];
                sums[k].closed += r.gate[i] == 0;
                sums[k].residue += (double)r.local[i];
            }
        }
        if (now() - start > 2)
            progress("eval", (long)(first / rows + 1), (long)((count - 1) / rows + 1), file->domain, start, (double)rows);
    }
    s.bpb = s.loss / 0.6931471805599453 / (double)s.bytes;
    s.loss /= (double)count;
    s.early /= (double)n_early;
    s.late /= (double)n_late;
    for (size_t e = m->n_extensions; e < MAX_EXTENSIONS; e++) s.gates[e] = (GateScore){NAN, NAN, NAN};
    for (size_t k = 0; k < n_gates; k++) {
        const Extension *x = m->extension[k / L];
        GateScore *mean = &s.gates[k / L], *g = &sums[k];
        if (!(x->sets & SET_GATE)) g->gate = g->closed = NAN;
        if (!(x->sets & SET_ADAPTER) || x->local == LOCAL_CE) g->residue = NAN;
        *g = (GateScore){g->gate / (double)count, g->closed / (double)count, g->residue / (double)count};
        mean->gate += g->gate / (double)L;
        mean->closed += g->closed / (double)L;
        mean->residue += g->residue / (double)L;
    }
    if (layers) memcpy(layers, sums, n_gates * sizeof *sums);
    activations_free(&a);
    free(tokens), free(targets), free(sums);
    return s;
}

// ---------------------------------------------------------------------------------------------------------------------
// Sampling.

// Draws a token from softmax(logits / temperature); temperature 0 takes the most likely.
static int sample_token(const real *logits, size_t V, double temperature, Random *random) {
    const real max = largest(V, logits);
    double sum = 0;
    size_t token = 0;
    if (temperature == 0) {
        while (token < V - 1 && logits[token] < max) token++;
        return (int)token;
    }
    for (size_t i = 0; i < V; i++) sum += exp((double)(logits[i] - max) / temperature);
    double target = random_uniform(random) * sum;
    while (token < V - 1 && (target -= exp((double)(logits[token] - max) / temperature)) >= 0) token++;
    return (int)token;
}

// Continues `count` tokens by up to n more and prints each as it is drawn; stops at an end of text if `stop`. The keys and
// values that forward keeps are the cache; positions are absolute, so past the context the last half is kept and run again.
// Returns how many tokens were drawn.
static size_t sample(const Model *m, const int *prompt, size_t count, size_t n, double temperature, uint64_t seed,
                     bool stop) {
    const size_t T = m->dims.context, half = (T + 1) / 2;
    Activations a = activations_allocate(m, 1, T, 1, NULL, true);
    int *tokens = allocate(most(count, T) + 1, sizeof(int));
    Random random = random_stream(seed, FOR_SAMPLING);
    size_t drawn = 0, start = 0;
    bool moved = false;  // past the context
    memcpy(tokens, prompt, count * sizeof(int));
    while (drawn < n && !interrupted) {
        if (count > T) {
            if (!moved) fprintf(stderr, "[past the context of %zu tokens: the last %zu are kept, from now on]\n", T, half);
            memmove(tokens, tokens + count - half, half * sizeof(int));
            count = half;
            start = 0;
            moved = true;
        }
        model_forward(m, &a, tokens + start, 1, count, start);
        start = count;
        const int token = tokens[count++] = sample_token(a.logits.at, m->dims.vocab, temperature, &random);
        drawn++;
        if (stop && token == m->tokenizer->size - 1) break;
        size_t length;
        const char *bytes = tokenizer_bytes(m->tokenizer, token, &length);
        fwrite(bytes, 1, length, stdout);
        fflush(stdout);
    }
    activations_free(&a);
    free(tokens);
    return drawn;
}

// ---------------------------------------------------------------------------------------------------------------------
// The command line: one table of options drives parsing, checking and --help.

enum { RUN = 1, PRETRAIN = 2, EXTEND = 4, EVAL = 8, SAMPLE = 16, GATES = 32, ALL = 63 };
enum { TRAIN = RUN | PRETRAIN | EXTEND, LOAD = EXTEND | EVAL | SAMPLE | GATES };

// A method's defaults; options given explicitly override them. sets: what it trains, beside a gate.
typedef struct { const char *name; int sets; Gate gate; Local local; Init init; double p, lr; const char *about; } Method;
static const Method methods[] = {
    {"naive",    SET_BACKBONE, GATE_NONE, LOCAL_NONE, VARIANCE_LOW, 0,   1e-3, "finetuning on new text alone"},
    {"finetune", SET_BACKBONE, GATE_NONE, LOCAL_NONE, VARIANCE_LOW, 0.1, 1e-3, "all weights"},
    {"lora",     SET_LORA,     GATE_NONE, LOCAL_NONE, VARIANCE_LOW, 0.1, 1e-2, "low-rank updates beside frozen weights"},
    {"adapter",  SET_ADAPTER,  GATE_NONE, LOCAL_NONE, VARIANCE_HE,  0.1, 5e-3, "adapters beside the frozen FFN"},
    {"neutral",  SET_ADAPTER,  GATE_RELU, LOCAL_L1,   VARIANCE_LOW, 0.1, 5e-3, "gated adapters, to vanish on old text"},
};
enum { METHODS = sizeof methods / sizeof *methods };

static struct {
    const char *data, *old, *new, *domain, *domains, *split, *in, *out, *csv, *prompt, *method, *methods, *gate, *gate_from;
    const char *local, *init, *negatives;
    const char *extension[MAX_EXTENSIONS + 1];
    long layers, heads, channels, context, pretrain_steps, pretrain_batch, steps, batch, hidden, rank, new_rows;
    long seed, count, threads, save_every, resume;
    double pretrain_lr, lr, alpha, p, temperature;
} opt = {
    .data = "data/toy", .old = "en", .new = "fr", .domain = "en", .domains = "en,fr", .split = "val", .method = "neutral",
    .methods = "naive,finetune,lora,adapter,neutral", .prompt = "", .in = "out/backbone",
    .layers = 4, .heads = 4, .channels = 128, .context = 128, .pretrain_steps = 1600, .pretrain_batch = 8, .steps = 400, .batch = 8,
    .new_rows = 1, .seed = 1, .count = 100, .pretrain_lr = 2e-3, .lr = NAN, .alpha = NAN, .p = NAN, .temperature = 0.8,
};

typedef struct {
    const char *name;
    char letter, type;             // 'i' whole number, 'r' number, 's' text, 'x' text, several times, 'f' no value
    void *value;
    double least, most;            // of numbers
    const char *choices;           // of text: "a|b"
    int commands;                  // the subcommands that take it
    const char *help;
} Option;

static const Option options[] = {
    {"data", 0, 's', &opt.data, 0, 0, NULL, ALL & ~SAMPLE, "folder of DOMAIN_{train,val,test}.bin and their tokenizer"},
    {"old", 0, 's', &opt.old, 0, 0, NULL, RUN | EXTEND, "the domain(s) to keep, separated by commas"},
    {"new", 0, 's', &opt.new, 0, 0, NULL, RUN | EXTEND, "the domain to learn; run: or several, learnt one after the other"},
    {"negatives", 0, 's', &opt.negatives, 0, 0, NULL, EXTEND, "domains that only the local loss sees, a fraction p too"},
    {"domain", 0, 's', &opt.domain, 0, 0, NULL, PRETRAIN, "the domain to train on"},
    {"domains", 0, 's', &opt.domains, 0, 0, NULL, EVAL | GATES, "the domains to evaluate on, separated by commas"},
    {"split", 0, 's', &opt.split, 0, 0, "val|test", RUN | EVAL | GATES, "the files that are evaluated"},
    {"in", 'i', 's', &opt.in, 0, 0, NULL, LOAD, "the model: a folder as on the Hugging Face hub"},
    {"extension", 'x', 'x', opt.extension, 0, 0, NULL, LOAD, "an extension of the model (several: in order)"},
    {"out", 'o', 's', &opt.out, 0, 0, NULL, TRAIN, "where results go: run, pretrain, finetune: a folder; else a file"},
    {"method", 0, 's', &opt.method, 0, 0, "naive|finetune|lora|adapter|neutral", EXTEND, "how; sets the defaults below"},
    {"methods", 0, 's', &opt.methods, 0, 0, NULL, RUN, "the methods to compare, separated by commas"},
    {"layers", 0, 'i', &opt.layers, 1, 1024, NULL, RUN | PRETRAIN, "transformer blocks (L)"},
    {"heads", 0, 'i', &opt.heads, 1, 1024, NULL, RUN | PRETRAIN, "attention heads (NH), a divisor of the channels"},
    {"channels", 0, 'i', &opt.channels, 1, 65536, NULL, RUN | PRETRAIN, "width of the residual stream (C)"},
    {"context", 0, 'i', &opt.context, 1, LARGEST, NULL, ALL & ~SAMPLE, "tokens a sequence (T)"},
    {"pretrain-steps", 0, 'i', &opt.pretrain_steps, 1, 1e9, NULL, RUN, "training steps of the backbone"},
    {"pretrain-batch", 0, 'i', &opt.pretrain_batch, 1, 65536, NULL, RUN, "sequences a step of the backbone"},
    {"pretrain-lr", 0, 'r', &opt.pretrain_lr, 0, 10, NULL, RUN, "peak learning rate of the backbone"},
    {"steps", 0, 'i', &opt.pretrain_steps, 1, 1e9, NULL, PRETRAIN, "training steps"},
    {"batch", 0, 'i', &opt.pretrain_batch, 1, 65536, NULL, PRETRAIN, "sequences a step"},
    {"lr", 0, 'r', &opt.pretrain_lr, 0, 10, NULL, PRETRAIN, "peak learning rate"},
    {"steps", 0, 'i', &opt.steps, 1, 1e9, NULL, RUN | EXTEND, "training steps of an extension"},
    {"batch", 0, 'i', &opt.batch, 1, 65536, NULL, RUN | EXTEND, "sequences a step"},
    {"lr", 0, 'r', &opt.lr, 0, 10, NULL, RUN | EXTEND, "peak learning rate of an extension"},
    {"p", 0, 'r', &opt.p, 0, 1, NULL, RUN | EXTEND, "fraction of training sequences from the old domains"},
    {"alpha", 0, 'r', &opt.alpha, 0, 1e6, NULL, RUN | EXTEND, "weight of the local loss, 1 if not given"},
    {"gate", 0, 's', &opt.gate, 0, 0, "relu|sigmoid|none", RUN | EXTEND, "the adapter's gate (run: neutral's)"},
    {"gate-from", 0, 's', &opt.gate_from, 0, 0, "layer|first", RUN | EXTEND, "what it reads: u, or the first layer's and its mean"},
    {"local", 0, 's', &opt.local, 0, 0, "l1|ce|none", RUN | EXTEND, "loss: |r| on old text, or the gate's cross-entropy"},
    {"init", 0, 's', &opt.init, 0, 0, "low|he", RUN | EXTEND, "variance of Wi and Wg: 1/(C L) or 2/C (run: neutral's)"},
    {"hidden", 0, 'i', &opt.hidden, 0, 65536, NULL, RUN | EXTEND, "width of an adapter (H); 0: a fifth of the parameters"},
    {"rank", 0, 'i', &opt.rank, 0, 65536, NULL, RUN | EXTEND, "rank of LoRA (R); 0: as many parameters as adapters have"},
    {"new-rows", 0, 'i', &opt.new_rows, 0, 1, NULL, RUN | EXTEND, "1: also train wte's rows of tokens that only the new text has"},
    {"seed", 0, 'i', &opt.seed, 0, 1e15, NULL, TRAIN | SAMPLE, "of everything random"},
    {"save-every", 0, 'i', &opt.save_every, 0, 1e9, NULL, TRAIN, "save the state every so many steps; 0: when interrupted"},
    {"resume", 0, 'f', &opt.resume, 0, 0, NULL, TRAIN, "go on from the saved state of the same command"},
    {"prompt", 'p', 's', &opt.prompt, 0, 0, NULL, SAMPLE | GATES, "the text (also without --prompt)"},
    {"count", 'n', 'i', &opt.count, 1, 1e9, NULL, SAMPLE, "tokens to draw at most"},
    {"temperature", 0, 'r', &opt.temperature, 0, 100, NULL, SAMPLE, "0: always the most likely token"},
    {"csv", 0, 's', &opt.csv, 0, 0, NULL, EVAL, "also write the figures to this file"},
    {"threads", 0, 'i', &opt.threads, 0, 1024, NULL, ALL, "0: as many as there are cores"},
};
enum { OPTIONS = sizeof options / sizeof *options };

// Makes the folders on the way to a file or, if `whole`, to a folder, and that too. Dies before the work, not after it, if
// one cannot be made, if the last cannot be written to, or if the file's name is taken by something else.
static void make_folders(const char *path, bool whole) {
    char *folder = join(path, whole ? "/" : "", ""), *slash = strrchr(folder, '/');
    for (char *c = folder + 1; *c; c++)
        if (*c == '/') *c = 0, make_folder(folder), *c = '/';
    struct stat s;
    if (!whole && !stat(folder, &s) && !S_ISREG(s.st_mode)) die("%s: is not a plain file", folder);
    if (slash) slash[slash == folder] = 0;
    if (access(slash ? folder : ".", W_OK)) die("%s: cannot be written: %s", slash ? folder : ".", strerror(errno));
    free(folder);
}

// The method of a name of `length` bytes; dies if there is none.
static const Method *method_find(const char *name, size_t length) {
    for (int i = 0; i < METHODS; i++)
        if (strlen(methods[i].name) == length && !strncmp(methods[i].name, name, length)) return &methods[i];
    die("method %.*s: not known, expected naive, finetune, lora, adapter or neutral", (int)length, name);
}

// A loader over the training files of the --old domains (none: NULL) and the new one.
static Loader loader_open(const char *old, const char *new, const Tokenizer *tokenizer, size_t context) {
    Loader loader = {.seed = (uint64_t)opt.seed, .random = random_stream((uint64_t)opt.seed, FOR_LOADER)};
    if (old) loader.n_old = domains_load(loader.old, opt.data, old, "train", tokenizer, context);
    loader.new = tokens_load(opt.data, new, "train", tokenizer, context);
    return loader;
}

// What is about to run, on what, how: printed first by every subcommand that computes for long.
static void print_settings(const char *command, const Model *m) {
    const Dims *d = &m->dims;
    printf("nr %s: seed %ld, threads: %d\n", command, opt.seed, omp_get_max_threads());
    printf("model: %zu layers, %zu heads, %zu channels, context %zu, vocabulary %zu: %.3fM parameters\n", d->layers,
           d->heads, d->channels, d->context, d->vocab, 1e-6 * (double)m->w.size);
}

// Sets the marks (V) of all tokens that a text has.
static void tokens_mark(bool *marks, const Tokens *text, bool mark) {
    for (size_t i = 0; i < text->count; i++) marks[text->ids[i]] = mark;
}

// A backbone of random weights for the options' sizes and the data's tokenizer. Tokens that `text` lacks are its unseen.
static Model *model_new(const Tokens *text, Tokenizer *tokenizer) {
    Model *m = allocate(1, sizeof *m);
    m->tokenizer = tokenizer;
    m->dims = (Dims){.layers = (size_t)opt.layers, .heads = (size_t)opt.heads, .channels = (size_t)opt.channels,
                     .context = (size_t)opt.context, .vocab = (size_t)m->tokenizer->size};
    dims_check("--heads, --channels, --layers", &m->dims);
    m->w = tensors_allocate(SET_BACKBONE, &m->dims);
    m->wte = m->w.at[WTE];
    Random random = random_stream((uint64_t)opt.seed, FOR_BACKBONE);
    tensors_init(&m->w, &m->dims, VARIANCE_LOW, GATE_NONE, &random);
    m->fingerprint = fingerprint(&m->w);
    m->unseen = allocate(m->dims.vocab, sizeof *m->unseen);
    memset(m->unseen, true, m->dims.vocab);
    tokens_mark(m->unseen, text, false);
    return m;
}

// Pretrains m on what the loader draws. Returns the seconds it took.
static double pretrain(Model *m, Loader *loader, const char *state) {
    const long warmup = opt.pretrain_steps / 10 < 100 ? opt.pretrain_steps / 10 : 100;
    const Recipe recipe = {opt.pretrain_steps, opt.pretrain_batch, (long)m->dims.context, warmup, opt.pretrain_lr,
                           .floor = 0.05, .decay = 0.1, state, opt.save_every, opt.resume};
    return train("backbone", m, NULL, &recipe, loader);
}

// The extension that a method and the options describe, plugged into m. ablate: --gate, --gate-from, --local and --init
// apply. Its rows are those of tokens that are unseen and that are among those to learn (V; NULL: all).
static Extension *extension_new(Model *m, const Method *method, bool ablate, const bool *learn) {
    Extension *x = allocate(1, sizeof *x);
    const size_t C = m->dims.channels, L = m->dims.layers;
    const double fifth = 0.2 * (double)m->w.size / (3.0 * (double)(C * L));
    const size_t hidden = opt.hidden ? (size_t)opt.hidden : fifth < 16 ? 16 : 16 * (size_t)(fifth / 16 + 0.5);
    x->gate = ablate && opt.gate ? (Gate)name_index(gate_names, opt.gate) : method->gate;
    x->from = ablate && opt.gate_from ? (GateFrom)name_index(from_names, opt.gate_from) : FROM_LAYER;
    x->local = ablate && opt.local ? (Local)name_index(local_names, opt.local) : method->local;
    x->init = ablate && opt.init ? (Init)name_index(init_names, opt.init) : method->init;
    x->alpha = x->local == LOCAL_NONE ? 0 : isnan(opt.alpha) ? 1 : opt.alpha;
    x->dims = m->dims;
    x->dims.hidden = method->sets & SET_ADAPTER ? hidden : 0;
    x->dims.rank = method->sets & SET_LORA ? opt.rank ? (size_t)opt.rank : (3 * hidden + 15) / 16 : 0;  // 16 C R = 3 C H
    x->ids = allocate(m->dims.vocab, sizeof *x->ids);
    for (size_t v = 0; v < m->dims.vocab && opt.new_rows; v++)
        if (m->unseen[v] && (!learn || learn[v])) x->ids[x->dims.rows++] = (int)v;
    if (x->local == LOCAL_CE && x->gate != GATE_SIGMOID) die("--local ce: needs --gate sigmoid");
    if (x->from == FROM_FIRST && x->gate == GATE_NONE) die("--gate-from first: needs a --gate");
    extension_sets(x);
    x->w = tensors_allocate(x->sets, &x->dims);
    Random random = random_stream((uint64_t)opt.seed, FOR_EXTENSION);
    tensors_init(&x->w, &x->dims, x->init, x->gate, &random);
    for (size_t i = 0; i < x->dims.rows; i++)
        memcpy(x->w.at[ROWS] + i * C, m->wte + (size_t)x->ids[i] * C, C * sizeof(real));
    extension_attach(m, x);
    return x;
}

// Extends m by a method, on what the loader draws. ablate: see extension_new. Returns the seconds it took.
static double extend(Model *m, const Method *method, Loader *loader, bool ablate, const char *state) {
    const long warmup = opt.steps / 10 < 20 ? opt.steps / 10 : 20;
    const Recipe recipe = {opt.steps, opt.batch, opt.context, warmup, isnan(opt.lr) ? method->lr : opt.lr,
                           .floor = 0.1, .decay = 0, state, opt.save_every, opt.resume};
    loader->p = strcmp(method->name, "naive") && !isnan(opt.p) ? opt.p : method->p;
    if (loader->n_negative && !(loader->p > 0 && loader->p <= 0.5))
        die("--p %g: with --negatives, which take as much, expected more than 0 and at most 0.5", loader->p);
    bool *learn = allocate(m->dims.vocab, sizeof *learn);
    tokens_mark(learn, &loader->new, true);  // an extension that others shall be added to keeps to its own rows
    for (size_t i = 0; i < loader->n_negative; i++) tokens_mark(learn, &loader->negative[i], false);
    Extension *x = method->sets == SET_BACKBONE ? NULL : extension_new(m, method, ablate, learn);
    free(learn);
    return train(method->name, m, x, &recipe, loader);
}

// The end of a training: m's extension or, if it has none, the model is saved, and the state not needed any more.
static void save_trained(Model *m, Loader *loader, char *state) {
    if (m->n_extensions) extension_save(m, opt.out);
    else model_save(m, opt.out);
    remove(state);
    printf("%s written\n", opt.out);
    free(state);
    loader_free(loader);
    model_free(m);
}

// Trains a backbone and saves its folder.
static void command_pretrain(void) {
    if (!opt.out) die("pretrain: -o FOLDER is missing");
    Tokenizer *tokenizer = tokenizer_load(opt.data);
    Loader loader = loader_open(NULL, opt.domain, tokenizer, (size_t)opt.context);
    Model *m = model_new(&loader.new, tokenizer);
    char *state = join(opt.out, "", ".state");
    make_folders(opt.out, true);
    print_settings("pretrain", m);
    pretrain(m, &loader, state);
    save_trained(m, &loader, state);
}

// Loads -i and every -x. Without --context, opt.context becomes the model's.
static Model *model_of_options(void) {
    Model *m = model_load(opt.in);
    for (int i = 0; opt.extension[i]; i++) extension_load(m, opt.extension[i]);
    if ((size_t)opt.context > m->dims.context) die("--context %ld: the model has %zu positions", opt.context, m->dims.context);
    if (!opt.context) opt.context = (long)m->dims.context;
    return m;
}

// Extends a model by one method and saves the extension; of finetuning, the model.
static void command_extend(void) {
    const Method *method = method_find(opt.method, strlen(opt.method));
    if (!opt.out) die("extend: -o is missing: the file (finetune: the folder) to write");
    if (!(method->sets & SET_ADAPTER)
        && (opt.gate || opt.gate_from || opt.local || opt.init || opt.hidden || !isnan(opt.alpha) || opt.negatives))
        die("--method %s: --gate, --gate-from, --local, --init, --alpha, --hidden and --negatives are for adapter and neutral",
            method->name);
    if (!strcmp(method->name, "naive") && !isnan(opt.p)) die("--method naive: --p is not for it, its p is 0");
    if (!(method->sets & SET_LORA) && opt.rank) die("--method %s: --rank is for lora", method->name);
    Model *m = model_of_options();
    if (method->sets == SET_BACKBONE && m->n_extensions) die("--method %s: the model cannot have extensions (-x)", method->name);
    Loader loader = loader_open(opt.old, opt.new, m->tokenizer, (size_t)opt.context);
    if (opt.negatives)
        loader.n_negative = domains_load(loader.negative, opt.data, opt.negatives, "train", m->tokenizer, (size_t)opt.context);
    char *state = join(opt.out, "", ".state");
    make_folders(opt.out, method->sets == SET_BACKBONE);
    print_settings("extend", m);
    extend(m, method, &loader, true, state);
    save_trained(m, &loader, state);
}

// A figure for a csv field: nothing where there is none.
static void csv_number(FILE *file, const char *format, double x) {
    fputc(',', file);
    if (!isnan(x)) fprintf(file, format, x);
}

// How well whole files are predicted, and how far the gates open on them.
static void command_eval(void) {
    Model *m = model_of_options();
    Tokens files[MAX_DOMAINS];
    const size_t count = domains_load(files, opt.data, opt.domains, opt.split, m->tokenizer, 1);
    const size_t gates = m->n_extensions ? m->n_extensions : 1;
    FILE *csv = NULL;
    if (opt.csv) {
        make_folders(opt.csv, false);
        csv = output_open(opt.csv);
        fprintf(csv, "domain,split,tokens,loss,perplexity,bpb%s", gates == 1 ? ",gate,closed" : "");
        for (size_t e = 1; e <= gates && gates > 1; e++) fprintf(csv, ",gate_%zu,closed_%zu", e, e);
        fputc('\n', csv);
    }
    print_settings("eval", m);
    printf("\n%-8s %10s %9s %11s %10s", opt.split, "tokens", "nats", "perplexity", "bits/byte");
    for (size_t e = 0; e < gates; e++) printf(" %8s %7s", "gate", "closed");
    printf("\n");
    for (size_t i = 0; i < count; i++) {
        const Score s = evaluate(m, &files[i], (size_t)opt.context, NULL);
        printf("%-8s %10zu %9.4f %11.3f %10.4f", files[i].domain, s.tokens, s.loss, exp(s.loss), s.bpb);
        if (csv) fprintf(csv, "%s,%s,%zu,%.6f,%.6f,%.6f", files[i].domain, opt.split, s.tokens, s.loss, exp(s.loss), s.bpb);
        for (size_t e = 0; e < gates; e++) {
            const GateScore g = s.gates[e];
            if (isnan(g.gate)) printf(" %8s %7s", "-", "-");
            else printf(" %8.3f %6.1f%%", g.gate, 100 * g.closed);
            if (csv) csv_number(csv, "%.6f", g.gate), csv_number(csv, "%.6f", g.closed);
        }
        printf("\n");
        if (csv) fputc('\n', csv);
        free(files[i].ids);
    }
    if (csv) output_close(csv);
    model_free(m);
}

// Continues a text.
static void command_sample(void) {
    Model *m = model_of_options();
    size_t count;
    int *prompt = tokenizer_encode(m->tokenizer, opt.prompt, strlen(opt.prompt), &count);
    const int end = m->tokenizer->size - 1;
    printf("%s", opt.prompt);
    const double start = now();
    const size_t drawn = sample(m, count ? prompt : &end, count ? count : 1, (size_t)opt.count, opt.temperature,
                                (uint64_t)opt.seed, false);
    printf("\n");
    fprintf(stderr, "[%zu tokens, %.0f tokens/s]\n", drawn, (double)drawn / (now() - start));
    free(prompt);
    model_free(m);
}

// A token as one line of text: what is not printable becomes a dot.
static void print_token(const Model *m, int token) {
    size_t length;
    const char *bytes = tokenizer_bytes(m->tokenizer, token, &length);
    for (size_t i = 0; i < length; i++) putchar((unsigned char)bytes[i] < 32 || bytes[i] == 127 ? '.' : bytes[i]);
}

// The text, and how far extension e's gates open at each token: on a terminal each token shaded by the mean over the
// layers, from closed (as it is) to twice open (orange); elsewhere a line a token, with the gate of every layer.
static void print_gates(const Model *m, const Activations *a, const int *tokens, size_t count, size_t e) {
    static const int shades[] = {230, 229, 222, 215, 208};  // of the 256 colours of terminals: pale yellow to orange
    enum { SHADES = sizeof shades / sizeof *shades };
    const bool terminal = isatty(STDOUT_FILENO);
    if (m->n_extensions > 1) printf("extension %zu\n", e + 1);
    if (!terminal) printf("%-6s %-6s %s\n", "gate", "layers", "token");
    for (size_t t = 0; t < count; t++) {
        double mean = 0;
        for (size_t l = 0; l < m->dims.layers; l++)
            mean += (double)residue_at(m, a, e, l).gate[t] / (double)m->dims.layers;
        if (terminal) {
            if (mean > 0) printf("\033[30;48;5;%dm", shades[mean < 2 ? (int)(mean * SHADES / 2) : SHADES - 1]);
            print_token(m, tokens[t]);
            printf("\033[0m");
            continue;
        }
        printf("%.3f ", mean);
        for (size_t l = 0; l < m->dims.layers; l++) printf(" %.3f", (double)residue_at(m, a, e, l).gate[t]);
        printf("  ");
        print_token(m, tokens[t]);
        printf("\n");
    }
    if (terminal) printf("\n");
}

// A mixed text shows the gates switch; below it, how they behave on whole files.
static void command_gates(void) {
    Model *m = model_of_options();
    const size_t L = m->dims.layers;
    for (size_t e = 0; e < m->n_extensions; e++)
        if (!(m->extension[e]->sets & SET_GATE)) die("%s: has no gates", opt.extension[e]);
    if (!m->n_extensions) die("gates: -x FILE is missing: the extension whose gates are shown");
    if (!*opt.prompt && !opt.data) die("gates: expected a text, or --data");
    if (*opt.prompt) {
        size_t count;
        int *tokens = tokenizer_encode(m->tokenizer, opt.prompt, strlen(opt.prompt), &count);
        if (count > m->dims.context)
            die("the text has %zu tokens, the model's context %zu", count, m->dims.context);
        Activations a = activations_allocate(m, 1, count, 1, NULL, false);
        model_forward(m, &a, tokens, 1, count, 0);
        for (size_t e = 0; e < m->n_extensions; e++) print_gates(m, &a, tokens, count, e);
        activations_free(&a);
        free(tokens);
    }
    Tokens files[MAX_DOMAINS];
    const size_t n_files = opt.data ? domains_load(files, opt.data, opt.domains, opt.split, m->tokenizer, 1) : 0;
    GateScore *layers = allocate(m->n_extensions * L, sizeof *layers);
    for (size_t i = 0; i < n_files; i++) {
        const Score s = evaluate(m, &files[i], (size_t)opt.context, layers);
        printf("\n%s: %.4f nats a token; %.4f in the first eighth of a window, %.4f in its last half\nlayer", files[i].domain,
               s.loss, s.early, s.late);
        for (size_t e = 0; e < m->n_extensions; e++) printf(" | mean gate  closed |residue|");
        for (size_t l = 0; l <= L; l++) {
            if (l < L) printf("\n%-5zu", l + 1);
            else printf("\nall  ");
            for (size_t e = 0; e < m->n_extensions; e++) {
                const GateScore g = l < L ? layers[e * L + l] : s.gates[e];
                printf(" | %9.4f %6.1f%% %9.5f", g.gate, 100 * g.closed, g.residue);
            }
        }
        printf("\n");
        free(files[i].ids);
    }
    free(layers);
    model_free(m);
}

// What the experiment finds of a model that has learnt the languages 0 (by pretraining) to `stage`; at: how well it does in
// each of all languages.
typedef struct {
    const char *method;
    size_t stage, trained;
    double lr, alpha, p, seconds;
    char *state;                   // where its training is kept until all is done
    Score at[MAX_DOMAINS];
} Result;

enum { MAX_METHODS = 16 };

typedef struct {
    Tokens text[MAX_DOMAINS], files[MAX_DOMAINS];  // to train and to evaluate on, by language
    size_t languages, count;
    Result results[1 + MAX_METHODS * MAX_DOMAINS];  // the backbone first, then the stages of each method
} Experiment;

// How the loss of a language has changed since the method of result r learnt it; before that, since the backbone.
static double change(const Experiment *x, const Result *r, size_t language) {
    const Result *since = language && r->stage > language ? r - (r->stage - language) : x->results;
    return r->at[language].loss - since->at[language].loss;
}

// The csv of a single new language: a line a method.
static void write_results(const char *path, const Experiment *x) {
    FILE *file = output_open(path);
    fprintf(file, "method,lr,seed,trainable_params,old_loss,new_loss,old_bpb,new_bpb,"
                  "gate_old,gate_new,closed_old,closed_new,alpha,p,new_rows,seconds\n");
    for (const Result *r = x->results; r < x->results + x->count; r++) {
        fprintf(file, "%s,%g,%ld,%zu,%.6f,%.6f,%.6f,%.6f", r->method, r->lr, opt.seed, r->trained, r->at[0].loss,
                r->at[1].loss, r->at[0].bpb, r->at[1].bpb);
        for (int i = 0; i < 2; i++) csv_number(file, "%.6f", r->at[i].gates[0].gate);
        for (int i = 0; i < 2; i++) csv_number(file, "%.6f", r->at[i].gates[0].closed);
        csv_number(file, "%g", r->alpha);
        csv_number(file, "%g", r->p);
        fprintf(file, ",%ld,%.1f\n", opt.new_rows, r->seconds);
    }
    output_close(file);
}

// The csv of a chain of languages: a line for every stage of a method and language.
static void write_chain(const char *path, const Experiment *x) {
    FILE *file = output_open(path);
    fprintf(file, "method,seed,stage,language,loss,bpb,forgets\n");
    for (const Result *r = x->results; r < x->results + x->count; r++)
        for (size_t i = 0; i < x->languages; i++) {
            fprintf(file, "%s,%ld,%s,%s,%.6f,%.6f", r->method, opt.seed, x->files[r->stage].domain, x->files[i].domain,
                    r->at[i].loss, r->at[i].bpb);
            csv_number(file, "%.6f", r->stage > i ? change(x, r, i) : (double)NAN);
            fputc('\n', file);
        }
    output_close(file);
}

// The table, 80 columns, from a result on: of every language the loss in nats and its change; of a single new one also bits a
// byte, the mean gate and the share of closed ones in both.
static void print_table(const Experiment *x, size_t first) {
    const bool chain = x->languages > 2;
    printf("%-8s %9s", "method", chain ? "learnt" : "trained");
    for (size_t i = 0; i < x->languages; i++) printf(" | %-5.5s change%s", x->files[i].domain, chain ? "" : " bits/B");
    printf("%s\n", chain ? "" : " | gates   closed%");
    for (const Result *r = x->results + first; r < x->results + x->count; r++) {
        if (chain) printf("%-8s %9.9s", r->method, x->files[r->stage].domain);
        else printf("%-8s %8.3fM", r->method, 1e-6 * (double)r->trained);
        for (size_t i = 0; i < x->languages; i++) {
            printf(" | %5.3f %+6.3f", r->at[i].loss, change(x, r, i));
            if (!chain) printf("  %5.3f", r->at[i].bpb);
        }
        const GateScore *old = r->at[0].gates, *new = r->at[1].gates;
        if (!chain && !isnan(old->gate))
            printf(" | %3.1f %3.1f %3.0f %3.0f", old->gate, new->gate, 100 * old->closed, 100 * new->closed);
        printf("\n");
    }
}

// The first words of a file, and how a model continues them, on one line.
static void print_sample(const Model *m, const Tokens *file) {
    enum { FEWEST = 4, MOST = 16 };  // tokens of the file, to the end of a word
    int prompt[MOST + 1] = {m->tokenizer->size - 1};
    size_t count = 1, length;
    printf("%9s %.8s: ", "", file->domain);
    for (; count <= MOST && count < file->count; count++) {
        const char *bytes = tokenizer_bytes(m->tokenizer, file->ids[count - 1], &length);
        if (count > FEWEST && bytes[0] == ' ') break;
        fwrite(bytes, 1, length, stdout);
        prompt[count] = file->ids[count - 1];
    }
    printf(" |");
    sample(m, prompt, count, 40, 0.5, (uint64_t)opt.seed, true);
    printf("\n");
}

// Evaluates m, adds it to the results and the csv, and shows it at work.
static void result_add(Experiment *x, Result r, const Model *m) {
    const Extension *own = m->n_extensions ? m->extension[m->n_extensions - 1] : NULL;
    const bool chain = x->languages > 2;
    char *csv = join(opt.out, "/", chain ? "chain.csv" : "results.csv");
    r.trained = own ? own->w.size : m->w.size;
    r.alpha = own && own->local != LOCAL_NONE ? own->alpha : (double)NAN;
    for (size_t i = 0; i < x->languages; i++) r.at[i] = evaluate(m, &x->files[i], (size_t)opt.context, NULL);
    x->results[x->count++] = r;
    if (chain) write_chain(csv, x);
    else write_results(csv, x);
    for (size_t i = 0; i < x->languages; i++) print_sample(m, &x->files[i]);
    printf("\n");
    if (chain) print_table(x, x->count - 1), printf("\n");
    free(csv);
}

// The experiment: a backbone of the old language, extended from the same weights with the same data by each method; to
// several new languages one after the other, all before being old ones.
static void command_run(void) {
    static Experiment x;
    const Method *chosen[MAX_METHODS];
    size_t n_chosen = 0, unseen = 0;
    for (const char *name = opt.methods; name; name = strchr(name, ',') ? strchr(name, ',') + 1 : NULL) {
        if (n_chosen == MAX_METHODS) die("--methods: more than %d", MAX_METHODS);
        chosen[n_chosen++] = method_find(name, strcspn(name, ","));
    }
    if (!opt.out) opt.out = "out";
    if (strchr(opt.old, ',')) die("--old %s: run takes one old domain", opt.old);
    Tokenizer *tokenizer = tokenizer_load(opt.data);
    char *languages = join(opt.old, ",", opt.new), *backbone = join(opt.out, "/", "backbone");
    x.languages = domains_load(x.text, opt.data, languages, "train", tokenizer, (size_t)opt.context);
    domains_load(x.files, opt.data, languages, opt.split, tokenizer, 1);
    Model *m = model_new(&x.text[0], tokenizer);
    make_folders(backbone, true);
    print_settings("run", m);
    printf("data: %s; training tokens:", opt.data);
    for (size_t i = 0; i < x.languages; i++)
        printf("%s %s %.3fM", i ? "," : "", x.text[i].domain, 1e-6 * (double)x.text[i].count);
    for (size_t v = 0; v < m->dims.vocab; v++) unseen += m->unseen[v];
    printf("; %zu of the vocabulary never occur in %s\n\n", unseen, opt.old);

    // A training's last state stays until all is done: --resume takes finished ones from there.
    Loader loader = {.new = x.text[0], .seed = (uint64_t)opt.seed, .random = random_stream((uint64_t)opt.seed, FOR_LOADER)};
    Result r = {.method = "backbone", .lr = opt.pretrain_lr, .p = NAN, .state = join(backbone, "", ".state")};
    r.seconds = pretrain(m, &loader, r.state);
    model_save(m, backbone);
    result_add(&x, r, m);
    model_free(m);
    for (size_t i = 0; i < n_chosen; i++) {
        const Method *method = chosen[i];
        m = model_load(backbone);
        for (size_t stage = 1; stage < x.languages; stage++) {
            const bool chain = x.languages > 2;
            char *name = chain ? join(method->name, "-", x.text[stage].domain) : join(method->name, "", "");
            char *path = join(opt.out, "/", name), *file = join(path, "", ".safetensors");
            memcpy(loader.old, x.text, stage * sizeof *x.text);
            loader.n_old = stage;
            loader.new = x.text[stage];
            loader.random = random_stream((uint64_t)opt.seed, FOR_LOADER);
            r = (Result){.method = method->name, .stage = stage, .lr = isnan(opt.lr) ? method->lr : opt.lr,
                         .state = join(path, "", ".state")};
            r.seconds = extend(m, method, &loader, !strcmp(method->name, "neutral"), r.state);
            r.p = loader.p;
            result_add(&x, r, m);
            if (chain && method->sets == SET_LORA) lora_merge(m);
            if (m->n_extensions) extension_save(m, file);
            else make_folders(path, true), model_save(m, path);
            free(name), free(path), free(file);
        }
        model_free(m);
    }
    print_table(&x, 0);
    printf("in nats a token; change: since the language was learnt or, before that, since the backbone\n");
    printf("\n%s/%s written\n", opt.out, x.languages > 2 ? "chain.csv" : "results.csv");
    for (size_t i = 0; i < x.count; i++) remove(x.results[i].state), free(x.results[i].state);
    for (size_t i = 0; i < x.languages; i++) free(x.text[i].ids), free(x.files[i].ids);
    free(backbone), free(languages);
}

static const struct { const char *name; int command; void (*run)(void); const char *about, *example; } commands[] = {
    {"run", RUN, command_run, "pretrain on the old domain, extend to the new one by each method, compare (the default)",
     "nr run --data data/multi30k --old en --new fr"},
    {"pretrain", PRETRAIN, command_pretrain, "train a backbone", "nr pretrain --data data/multi30k --domain en -o models/en"},
    {"extend", EXTEND, command_extend, "teach a model a new domain by one method",
     "nr extend -i models/en --data data/multi30k --old en --new fr -o fr.safetensors"},
    {"eval", EVAL, command_eval, "loss, perplexity and bits per byte over whole files",
     "nr eval -i models/en -x fr.safetensors --data data/multi30k --domains en,fr"},
    {"gates", GATES, command_gates, "where, token by token, the gates of an extension open",
     "nr gates -i models/en -x fr.safetensors \"A man who sings. Un homme qui chante.\""},
    {"sample", SAMPLE, command_sample, "continue a text", "nr sample -i models/en -x fr.safetensors -p \"Un homme\" -n 40"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

// Prints words after a heading, `indent` columns wide, in lines of at most 80 columns.
static void print_wrapped(const char *heading, size_t indent, const char *text) {
    size_t at = indent;
    printf("%-*s", (int)indent, heading);
    for (size_t length; *text; text += length + (text[length] == ' ')) {
        length = strcspn(text, " ");
        if (at > indent && at + 1 + length > 80) printf("\n%*s", (int)indent, ""), at = indent;
        at += (size_t)printf("%s%.*s", at > indent ? " " : "", (int)length, text);
    }
    printf("\n");
}

// The manual of a command; of all of them, if command is 0.
static void print_help(int command) {
    if (!command) printf("nr: teach a GPT a new language without forgetting the old one (neutral residues)\n\n");
    for (int i = 0; i < COMMANDS; i++) {
        char heading[32];
        snprintf(heading, sizeof heading, command ? "nr %s: " : "  nr %-9s ", commands[i].name);
        if (!command || commands[i].command == command) print_wrapped(heading, strlen(heading), commands[i].about);
        if (commands[i].command == command) printf("\n  %s\n\n", commands[i].example);
    }
    if (!command) {
        printf("\nnr COMMAND --help lists the options of a command. nr alone is nr run.\n");
        return;
    }
    for (const Option *o = options; o < options + OPTIONS; o++) {
        if (!(o->commands & command)) continue;
        char name[64], value[128] = "", text[512];
        snprintf(name, sizeof name, "  --%s%s%c", o->name, o->letter ? ", -" : "", o->letter ? o->letter : ' ');
        if (o->type == 'i' && (double)*(long *)o->value >= o->least) snprintf(value, sizeof value, " [%ld]", *(long *)o->value);
        else if (o->type == 'r' && !isnan(*(double *)o->value)) snprintf(value, sizeof value, " [%g]", *(double *)o->value);
        else if (o->type == 's' && *(char **)o->value) snprintf(value, sizeof value, " [%s]", *(char **)o->value);
        snprintf(text, sizeof text, "%s%s%s%s", o->help, o->choices ? ": " : "", o->choices ? o->choices : "", value);
        print_wrapped(name, 20, text);
    }
    if (!(command & (RUN | EXTEND))) return;
    printf("\nMethods, and the defaults they set:\n");
    for (int i = 0; i < METHODS; i++) {
        const Method *method = &methods[i];
        printf("  %-9s %s\n            --lr %g --p %g", method->name, method->about, method->lr, method->p);
        if (method->sets & SET_ADAPTER)
            printf(" --gate %s --local %s --init %s", gate_names[method->gate], local_names[method->local],
                   init_names[method->init]);
        printf("\n");
    }
}

// Checks a value and stores it where the option's entry says.
static void option_set(const Option *o, const char *value) {
    char *end;
    if (o->type == 's' || o->type == 'x') {
        if (!*value && o->value != &opt.prompt) die("--%s: its value is empty", o->name);
        if (o->choices && !choice_known(o->choices, value)) die("--%s %s: not known, expected %s", o->name, value, o->choices);
        if (o->type == 's') { *(const char **)o->value = value; return; }
        int i = 0;
        while (((const char **)o->value)[i]) i++;
        if (i == MAX_EXTENSIONS) die("--%s: given more than %d times", o->name, MAX_EXTENSIONS);
        ((const char **)o->value)[i] = value;
        return;
    }
    errno = 0;
    const double x = o->type == 'i' ? (double)strtoll(value, &end, 10) : strtod(value, &end);
    if (!*value || *end || errno || !(x >= o->least) || !(x <= o->most))
        die("--%s %s: expected a %s from %.15g to %.15g", o->name, value, o->type == 'i' ? "whole number" : "number",
            o->least, o->most);
    if (o->type == 'i') *(long *)o->value = (long)x;
    else *(double *)o->value = x;
}

#ifndef NR_LIBRARY
// Finds the command, sets its options, runs it. Ctrl-C is noted, and seen to where it is safe to stop.
int main(int argc, char **argv) {
    program = "nr";
    int file;  // takes the place of a closed standard stream, or the next file opened would get what is printed
    while ((file = open("/dev/null", O_RDONLY)) >= 0 && file <= STDERR_FILENO) {}
    close(file);
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    int c = 0;
    const bool named = argc > 1 && argv[1][0] != '-';
    if (named)
        for (c = 0; c < COMMANDS && strcmp(commands[c].name, argv[1]); c++) {}
    if (c == COMMANDS) die("%s: not a command, expected run, pretrain, extend, eval, gates or sample (nr --help)", argv[1]);
    if (commands[c].command & LOAD) opt.context = 0;    // the model's
    if (commands[c].command == GATES) opt.data = NULL;  // no files, unless asked for
    for (int i = 1 + named; i < argc;) {
        const char *word = argv[i++];
        if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
            print_help(named ? commands[c].command : 0);
            finish_stdout();
            return 0;
        }
        if (*word != '-' && commands[c].command & (SAMPLE | GATES)) { opt.prompt = word; continue; }
        const Option *found = NULL;
        for (int o = 0; o < OPTIONS; o++)
            if ((options[o].commands & commands[c].command) && ((!strncmp(word, "--", 2) && !strcmp(word + 2, options[o].name))
                || (word[0] == '-' && word[1] == options[o].letter && word[1] && !word[2]))) found = &options[o];
        if (!found) die("%s: not an option of %s (nr %s --help lists them)", word, commands[c].name, commands[c].name);
        if (found->type == 'f') { *(long *)found->value = 1; continue; }
        if (i == argc) die("%s: a value is missing", word);
        option_set(found, argv[i++]);
    }
    if (opt.threads) omp_set_num_threads((int)opt.threads);
    commands[c].run();
    finish_stdout();
    return interrupted ? 130 : 0;
}
#endif

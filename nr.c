/*
nr: teach a GPT a new language without forgetting the old one.

This is the method of "Neutral Residues: Revisiting Adapters for Model Extension" (Signe Talla,
Grave, Jegou, ICML 2025) in one file of C: the model, the method and its rivals, training,
evaluation, sampling. `make && ./nr` shows it at work.

THE METHOD. The backbone is a pretrained model of GPT-2's kind, and it stays frozen. In every
transformer block one small gated block is added beside the feed-forward network (FFN). Let x be the
residual stream behind the attention (`mid` in the code), and u = LayerNorm2(x) the vector of C
channels that the FFN reads; * is the product of elements.

    adapter   A(u) = Wo (SiLU(Wg u) * (Wi u))      Wi, Wg: C -> H    Wo: H -> C    no biases
    gate      g(u) = ReLU(w . u + b)               one number for each token and layer
    residue   r(u) = g(u) A(u)
    block     x <- x + FFN(u) + r(u)

    local     l_local = 1/(L N_old) sum over layers l, old-domain tokens t of |r_l(u_t)|_1 / C
    training  l = l_LM + alpha l_local             l_LM: mean cross-entropy over all targets

l_local is a penalty that asks the residues to be neutral: to vanish on text of the old domain, so
that each block computes there what the backbone's did. It sees only the N_old old-domain tokens of
a batch. A training sequence is of the old domain with probability p; l_LM rehearses the old
language on it. At p = 0.1 and 8 sequences, 43 of 100 batches hold no old text at all. The ReLU lets
a gate be exactly zero.

At the start Wo = 0, so that the extended model is the backbone, bit for bit. Of adapter and gate
only Wo has a gradient in the first step. Wi and Wg are drawn at random with variance 1/(C L), where
He's would be 2/C: the more layers there are, the less each begins to say. Were Wi and Wg 0, too,
SiLU(Wg u) * Wi u would be 0, and no matrix would ever receive a gradient. w = 0 and b = 1 open
every gate, for a gate that is closed on every token receives no gradient.

The rivals: naive and finetune (they train all weights; naive on new text alone), lora (W + A B
beside every linear layer, with A B of low rank), adapter (A(u) alone, with He's variance, without
gate and penalty).

HOW TO READ THIS FILE. Rooms 1 to 8 are the lecture; the line where it ends says so.

     1  Numbers             what matmul, dot and exponential promise; skim it
     2  The layers          of a GPT, each with its backward pass; skip it if you know llm.c
     3  The heart           adapter, gate, penalty. Read this first, and slowly
     4  Ours                what is not the paper's: the prefix gate, new rows
     5  Tensors, methods    which tensors there are, what makes a method and an extension
     6  The model           forward, loss, backward: how the residues sit in a GPT
     7  Training            AdamW, the loader that mixes domains, the loop
     8  Evaluation          losses of whole files, sampling, replay: text that a model writes itself
     9  Memory and files    for reference, as are text, JSON and safetensors in tokenizer.c
    10  The engine          how matmul is made fast. To port nr to other hardware, start here
    11  The program         settings, the experiment, the commands: for reference

CONVENTIONS. A token is a row: activations are (rows, channels), and a linear layer is x W + b with
W (in, out), as in Hugging Face's GPT-2; so Wi u above is u Wi below. B sequences of T tokens make n
= B T rows. C channels, NH heads, L layers, V tokens in the vocabulary. Each x_forward is followed
by its x_backward. dx is the gradient of the loss with respect to x; it is NULL where nobody needs
it, as that of a frozen tensor. A backward pass adds to the gradient of the residual stream, which
many share, and overwrites those of weights, which are used once in a step (but the embedding,
twice: the second use adds).
*/
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#ifndef REAL
#define REAL float  // the gradient tests compile everything in double
#endif
typedef REAL real;

#define TOKENIZER_LIBRARY  // utilities, JSON, the tokenizer, files of tokens, safetensors
#include "tokenizer.c"

// -------------------------------------------------------------------------------------------------
// 1. Numbers, and what matmul promises. The functions that are only declared here are in room 10.

_Static_assert(sizeof(size_t) == 8 && sizeof(long) == 8, "nr is written for 64 bits");

size_t min_size(size_t a, size_t b) { return a < b ? a : b; }
size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

static inline real exponential(real x);  // e^x
static inline real sigmoid(real x) { return 1 / (1 + exponential(-x)); }

// Of n numbers: a . b, the sum, the largest. A sum's order depends on n only.
real dot(size_t n, const real *a, const real *b);
real total(size_t n, const real *a);
real largest(size_t n, const real *a);

// Element (i, j) of a matrix is at[i * row + j * col]: to transpose it, swap the two steps.
typedef struct { const real *at; size_t row, col; } Matrix;

Matrix plain(const real *x, size_t width) { return (Matrix){x, width, 1}; }
Matrix transposed(const real *x, size_t width) { return (Matrix){x, 1, width}; }

// c (M, N; its rows lie c_row apart) = a (M, K) b (K, N) + add (as c; may be c itself) + bias (N).
// add and bias may be NULL, K not 0. Products are summed in order, KC at a time (M = 1: in another
// order): the same bits on any number of threads. To port nr to other hardware, start with this.
enum { KC = 768 };
void matmul(real *c, size_t c_row, size_t M, size_t N, size_t K, Matrix a, Matrix b,
            const real *bias, const real *add);

// Returns `size` reals to work in, this thread's own. The next call for the slot overwrites them.
enum { SLOT_PACKED_B, SLOT_PACKED_A, SLOT_LAYER, SLOT_ROWS, SLOTS };
real *scratch(int slot, size_t size);

// Random numbers: splitmix64, whose state is one counter. Each purpose has a stream of its own.
typedef uint64_t Random;
enum { STREAM_BACKBONE = 1, STREAM_EXTENSION, STREAM_LOADER, STREAM_SAMPLING, STREAM_REPLAY };

Random random_stream(uint64_t seed, uint64_t purpose);
uint64_t random_bits(Random *r);
double random_uniform(Random *r);  // in [0, 1)
double random_normal(Random *r);   // of mean 0 and variance 1

// -------------------------------------------------------------------------------------------------
// 2. The layers. n is the number of rows, which are tokens. Rows, columns or heads are divided
// among the threads, and a sum over rows runs in order: the same bits on any number of threads.

enum { STRIP = 64 };  // columns that one thread sums over all rows at a time

// out (n, O) = x (n, I) w (I, O) + bias (O) + add (n, O). bias and add may be NULL; add may be out.
void linear_forward(real *out, const real *x, const real *w, const real *bias, const real *add,
                    size_t n, size_t I, size_t O) {
    matmul(out, O, n, O, I, plain(x, I), plain(w, O), bias, add);
}

// dx = dout w^T + add;  dw = x^T dout;  dbias = the sum of dout's rows. add may be dx.
void linear_backward(real *dx, real *dw, real *dbias, const real *dout, const real *x,
                     const real *w, const real *add, size_t n, size_t I, size_t O) {
    if (dx) matmul(dx, I, n, I, O, plain(dout, O), transposed(w, O), NULL, add);
    if (dw) matmul(dw, O, I, O, n, transposed(x, I), plain(dout, O), NULL, NULL);
    if (!dbias) return;
    memset(dbias, 0, O * sizeof(real));
    #pragma omp parallel for
    for (size_t j0 = 0; j0 < O; j0 += STRIP)
        for (size_t t = 0; t < n; t++)
            for (size_t j = j0; j < min_size(j0 + STRIP, O); j++) dbias[j] += dout[t * O + j];
}

// out (n, C) = z * w + b with z = (x - mean) rstd: each row of x brought to mean 0 and variance 1.
// stats (n, 2) keeps mean and rstd.
void layernorm_forward(real *out, real *stats, const real *x, const real *w, const real *b,
                       size_t n, size_t C) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        const real *xt = x + t * C;
        real *o = out + t * C, mean = total(C, xt) / C;
        for (size_t i = 0; i < C; i++) o[i] = xt[i] - mean;
        real rstd = 1 / (real)sqrt(dot(C, o, o) / C + (real)1e-5);
        for (size_t i = 0; i < C; i++) o[i] = o[i] * rstd * w[i] + b[i];
        stats[2 * t] = mean, stats[2 * t + 1] = rstd;
    }
}

// dz = dout * w, and z has mean 0 and variance 1 whatever x is, so that
//     dx += rstd (dz - mean(dz) - z mean(dz * z))
//     dw  = sum over rows of dout * z
//     db  = sum over rows of dout
void layernorm_backward(real *dx, real *dw, real *db, const real *dout, const real *x,
                        const real *stats, const real *w, size_t n, size_t C) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        const real *d = dout + t * C, *xt = x + t * C, mean = stats[2 * t], rstd = stats[2 * t + 1];
        real mean_dz = dot(C, d, w) / C;
        real *z = scratch(SLOT_LAYER, 2 * C), *dz = z + C;
        for (size_t i = 0; i < C; i++) z[i] = (xt[i] - mean) * rstd, dz[i] = d[i] * w[i];
        real mean_dzz = dot(C, dz, z) / C;
        for (size_t i = 0; i < C; i++)
            dx[t * C + i] += rstd * (dz[i] - mean_dz - z[i] * mean_dzz);
    }
    if (!dw) return;
    memset(dw, 0, C * sizeof(real));
    memset(db, 0, C * sizeof(real));
    #pragma omp parallel for
    for (size_t j0 = 0; j0 < C; j0 += STRIP)
        for (size_t t = 0; t < n; t++)
            for (size_t j = j0; j < min_size(j0 + STRIP, C); j++) {
                dw[j] += dout[t * C + j] * (x[t * C + j] - stats[2 * t]) * stats[2 * t + 1];
                db[j] += dout[t * C + j];
            }
}

// GELU in GPT-2's tanh form, x (1 + tanh(k (x + a x^3))) / 2 with k = sqrt(2 / pi), a = 0.044715.
// Because (1 + tanh y) / 2 = sigmoid(2 y), it is a sibling of SiLU:
//     GELU(x) = x s    with    s = sigmoid(2 k (x + a x^3))
#define GELU_2K ((real)1.5957691216057308)
#define GELU_A ((real)0.044715)

void gelu_forward(real *out, const real *x, size_t size) {
    #pragma omp parallel for simd
    for (size_t i = 0; i < size; i++)
        out[i] = x[i] * sigmoid(GELU_2K * (x[i] + GELU_A * x[i] * x[i] * x[i]));
}

// d(x s)/dx = s + x s (1 - s) 2 k (1 + 3 a x^2). dx may be dout.
void gelu_backward(real *dx, const real *dout, const real *x, size_t size) {
    #pragma omp parallel for simd
    for (size_t i = 0; i < size; i++) {
        real square = x[i] * x[i], s = sigmoid(GELU_2K * x[i] * (1 + GELU_A * square));
        dx[i] = dout[i] * (s + x[i] * s * (1 - s) * GELU_2K * (1 + 3 * GELU_A * square));
    }
}

// x (n) = e^(scale (x - max)) / sum = softmax(scale x). max, its largest, is taken off so that no
// power overflows. Returns the sum of the powers.
real softmax(real *x, size_t n, real scale, real max) {
    for (size_t i = 0; i < n; i++) x[i] = exponential((x[i] - max) * scale);
    real sum = total(n, x), norm = 1 / sum;
    for (size_t i = 0; i < n; i++) x[i] *= norm;
    return sum;
}

enum { QUERIES = 64 };  // so many at once in attention, with the keys up to the last of them

// Causal attention of NH heads over qkv (B, T, 3C), each head with hs = C/NH channels:
//     att (B, NH, T, T) = softmax(q k^T / sqrt(hs))        y (B, T, C) = att v
// for positions start..T-1; those before are there as keys and values.
void attention_forward(real *y, real *att, const real *qkv, size_t B, size_t T, size_t start,
                       size_t NH, size_t C) {
    size_t hs = C / NH;
    real scale = 1 / (real)sqrt(hs);
    #pragma omp parallel for
    for (size_t head = 0; head < B * NH; head++) {
        size_t b = head / NH, h = head % NH;
        const real *q = qkv + b * T * 3 * C + h * hs, *k = q + C, *v = k + C;
        for (size_t t0 = start; t0 < T; t0 += QUERIES) {
            size_t t1 = min_size(t0 + QUERIES, T);
            Matrix queries = plain(q + t0 * 3 * C, 3 * C), keys = transposed(k, 3 * C);
            real *a = att + (head * T + t0) * T;  // (t1 - t0, t1), its rows T apart
            matmul(a, T, t1 - t0, t1, hs, queries, keys, NULL, NULL);
            for (size_t t = t0; t < t1; t++) {
                real *row = a + (t - t0) * T;
                softmax(row, t + 1, scale, largest(t + 1, row));
                memset(row + t + 1, 0, (t1 - t - 1) * sizeof(real));
            }
            real *out = y + (b * T + t0) * C + h * hs;
            matmul(out, C, t1 - t0, hs, t1, plain(a, T), plain(v, 3 * C), NULL, NULL);
        }
    }
}

// From y = att v:              datt = dy v^T               dv = att^T dy
// through the softmax:         ds = att * (datt - sum(att * datt))
// from s = scale q k^T:        dq = scale ds k             dk = scale ds^T q
// Each block of queries adds to dk and dv of the keys that it sees.
void attention_backward(real *dqkv, const real *dy, const real *att, const real *qkv, size_t B,
                        size_t T, size_t NH, size_t C) {
    size_t hs = C / NH;
    real scale = 1 / (real)sqrt(hs);
    memset(dqkv, 0, B * T * 3 * C * sizeof(real));
    #pragma omp parallel for
    for (size_t head = 0; head < B * NH; head++) {
        size_t b = head / NH, h = head % NH, first = b * T * 3 * C + h * hs;
        const real *q = qkv + first, *k = q + C, *v = k + C;
        real *dq = dqkv + first, *dk = dq + C, *dv = dk + C, *ds = scratch(SLOT_LAYER, QUERIES * T);
        for (size_t t0 = 0; t0 < T; t0 += QUERIES) {
            size_t t1 = min_size(t0 + QUERIES, T), rows = t1 - t0;
            const real *a = att + (head * T + t0) * T, *d = dy + (b * T + t0) * C + h * hs;
            matmul(ds, t1, rows, t1, hs, plain(d, C), transposed(v, 3 * C), NULL, NULL);
            matmul(dv, 3 * C, t1, hs, rows, transposed(a, T), plain(d, C), NULL, dv);
            for (size_t t = 0; t < rows; t++) {
                const real *at = a + t * T;
                real *dst = ds + t * t1, sum = dot(t1, at, dst);
                for (size_t i = 0; i < t1; i++) dst[i] = at[i] * (dst[i] - sum) * scale;
            }
            Matrix queries = plain(q + t0 * 3 * C, 3 * C), keys = plain(k, 3 * C);
            matmul(dq + t0 * 3 * C, 3 * C, rows, hs, t1, plain(ds, t1), keys, NULL, NULL);
            matmul(dk, 3 * C, t1, hs, rows, transposed(ds, t1), queries, NULL, dk);
        }
    }
}

// x (B, T - start, C) = wte[token] + wpe[position] at positions start..T-1. tokens (B, T - start).
void embedding_forward(real *x, const int *tokens, const real *wte, const real *wpe, size_t B,
                       size_t T, size_t start, size_t C) {
    #pragma omp parallel for
    for (size_t t = 0; t < B * (T - start); t++) {
        const real *token = wte + tokens[t] * C;
        const real *position = wpe + (start + t % (T - start)) * C;
        for (size_t i = 0; i < C; i++) x[t * C + i] = token[i] + position[i];
    }
}

// Adds every row of dx to its token's row of dwte, where the head has written already, and to its
// position's row of dwpe (P, C).
void embedding_backward(real *dwte, real *dwpe, const real *dx, const int *tokens, size_t B,
                        size_t T, size_t P, size_t C) {
    memset(dwpe, 0, P * C * sizeof(real));
    #pragma omp parallel for
    for (size_t i0 = 0; i0 < C; i0 += STRIP)
        for (size_t t = 0; t < B * T; t++)
            for (size_t i = i0; i < min_size(i0 + STRIP, C); i++) {
                dwte[tokens[t] * C + i] += dx[t * C + i];
                dwpe[t % T * C + i] += dx[t * C + i];
            }
}

// losses (n) = -log softmax(logits)[target], 0 for target -1. logits (n, V) become probabilities.
void crossentropy_forward(real *losses, real *logits, const int *targets, size_t n, size_t V) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        real *p = logits + t * V, max = largest(V, p), target = targets[t] < 0 ? 0 : p[targets[t]];
        real sum = softmax(p, V, 1, max);
        losses[t] = targets[t] < 0 ? 0 : (real)log(sum) - (target - max);
    }
}

// The gradient of the losses' sum times `scale`, in place of the probabilities:
//     dlogits = scale (probabilities - 1 at the target)        0 where there is no target
void crossentropy_backward(real *probabilities, const int *targets, real scale, size_t n,
                           size_t V) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        real *p = probabilities + t * V;
        real keep = targets[t] < 0 ? 0 : scale;
        for (size_t i = 0; i < V; i++) p[i] *= keep;
        if (targets[t] >= 0) p[targets[t]] -= scale;
    }
}

// -------------------------------------------------------------------------------------------------
// 3. The heart: the gated neutral adapter (paper, section 3).

typedef enum { GATE_RELU, GATE_SIGMOID, GATE_NONE } GateKind;
typedef enum { LOCAL_L1, LOCAL_CE, LOCAL_NONE } LocalKind;  // of l_local: |r|_1, cross-entropy

// What one layer's adapter keeps of n tokens for its backward pass, which leaves gradients in some.
// From open_u to adapter only the first m rows are in use, for the m tokens whose gates are open.
typedef struct {
    real *open_u;           // (n, C): the rows of u that A reads
    real *wi_u, *wg_u;      // (n, H): Wi u, and Wg u; afterwards wg_u holds its gradient
    real *hidden;           // (n, H): SiLU(Wg u) * (Wi u)
    real *adapter;          // (n, C): A(u); afterwards its gradient dA, then du
    real *z, *gate;         // (n):    w . input + b, and g; afterwards z holds its gradient
    real *l1;               // (n):    |r|_1 / C, the token's term of l_local
    const real *gate_input; // (n, G): what the gate reads: u, or what room 4 makes of it
} Residue;

// One layer's weights, or their gradients.
typedef struct { real *wi, *wg, *wo, *gate_w, *gate_b; } ResidueTensors;

// hidden = SiLU(wg_u) * wi_u    with    SiLU(x) = x sigmoid(x)
void swiglu_forward(real *hidden, const real *wi_u, const real *wg_u, size_t size) {
    #pragma omp parallel for simd
    for (size_t i = 0; i < size; i++) hidden[i] = wg_u[i] * sigmoid(wg_u[i]) * wi_u[i];
}

// dwi = dhidden SiLU(wg_u)
// dwg = dhidden wi_u SiLU'(wg_u)    with    SiLU'(x) = s + x s (1 - s),  s = sigmoid(x)
// dwi may be dhidden, and dwg may be wg_u.
void swiglu_backward(real *dwi, real *dwg, const real *dhidden, const real *wi_u, const real *wg_u,
                     size_t size) {
    #pragma omp parallel for simd
    for (size_t i = 0; i < size; i++) {
        real x = wg_u[i], s = sigmoid(x), d = dhidden[i];
        dwg[i] = d * wi_u[i] * (s + x * s * (1 - s));
        dwi[i] = d * x * s;
    }
}

// A closed gate costs nothing: where g is exactly 0, so are r, dA and dz, and A need not be run. So
// the rows whose gates are open are gathered, and what A makes of them is scattered back: the price
// of an extension follows the text that it is for. It takes a ReLU, whose gates close.
// Lists the open rows and returns their number m. (Skip at first: matmul sums one row in another
// order, and no bit shall tell that rows were left out. So a closed row joins a single open one.)
size_t open_rows(int *rows, const real *gate, GateKind kind, size_t n) {
    size_t m = 0;
    for (size_t t = 0; t < n; t++)
        if (gate[t] != 0 || kind != GATE_RELU) rows[m++] = t;
    if (m == 1 && n > 1) rows[m++] = rows[0] ? 0 : 1;
    return m;
}

// to (m, C) = those rows of from (n, C)
void gather(real *to, const real *from, const int *rows, size_t m, size_t C) {
    #pragma omp parallel for
    for (size_t k = 0; k < m; k++) memcpy(to + k * C, from + rows[k] * C, C * sizeof(real));
}

// Those rows of to (n, C) = from (m, C)
void scatter(real *to, const real *from, const int *rows, size_t m, size_t C) {
    #pragma omp parallel for
    for (size_t k = 0; k < m; k++) memcpy(to + rows[k] * C, from + k * C, C * sizeof(real));
}

// out (n, C) += g(u) A(u) for the rows of u (n, C), and fills `r`.
void residue_forward(real *out, Residue r, const real *u, ResidueTensors w, GateKind kind, size_t n,
                     size_t C, size_t H, size_t G) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++) {
        real z = kind == GATE_NONE ? 0 : dot(G, w.gate_w, r.gate_input + t * G) + w.gate_b[0];
        real relu = z <= 0 ? 0 : z;  // NaN stays NaN
        r.z[t] = z;
        r.gate[t] = kind == GATE_RELU ? relu : kind == GATE_SIGMOID ? sigmoid(z) : 1;
        r.l1[t] = 0;
    }
    int *rows = (void *)scratch(SLOT_ROWS, n);
    size_t m = open_rows(rows, r.gate, kind, n);
    gather(r.open_u, u, rows, m, C);
    linear_forward(r.wi_u, r.open_u, w.wi, NULL, NULL, m, C, H);
    linear_forward(r.wg_u, r.open_u, w.wg, NULL, NULL, m, C, H);
    swiglu_forward(r.hidden, r.wi_u, r.wg_u, m * H);
    linear_forward(r.adapter, r.hidden, w.wo, NULL, NULL, m, H, C);
    #pragma omp parallel for
    for (size_t k = 0; k < m; k++) {
        const real *a = r.adapter + k * C, g = r.gate[rows[k]];
        real *o = out + rows[k] * C, l1 = 0;
        #pragma omp simd reduction(+ : l1)
        for (size_t i = 0; i < C; i++) o[i] += g * a[i], l1 += a[i] < 0 ? -a[i] : a[i];
        r.l1[rows[k]] = g * l1 / C;
    }
}

// The other local loss, of a sigmoid gate: the cross-entropy of g against "this token is new",
//     -log g on new tokens    -log(1 - g) on old ones,    from z, so that neither log overflows.
double gate_crossentropy(double z, bool is_old) {
    return log1p(exp(-fabs(z))) + (z > 0 ? z : 0) - (is_old ? 0 : z);
}

// linear_backward of open rows. (Skip: dw is summed in the pieces in which matmul sums all rows.)
void open_rows_backward(real *dx, real *dw, const real *dout, const real *x, const real *w,
                        const real *add, const int *rows, size_t m, size_t I, size_t O) {
    linear_backward(dx, NULL, NULL, dout, x, w, add, m, I, O);
    if (dw) memset(dw, 0, I * O * sizeof(real));
    for (size_t k = 0, end; dw && k < m; k = end) {
        for (end = k; end < m && rows[end] / KC == rows[k] / KC;) end++;
        matmul(dw, O, I, O, end - k, transposed(x + k * I, I), plain(dout + k * O, O), NULL, dw);
    }
}

// dout (n, C) is the gradient at the block's output, hence at r = g A. It holds already what the
// losses of later layers ask for; here this layer's penalty adds its own. For each token
//     dr = dout + weight sign(A)    on an old token with g > 0;  weight = alpha / (L N_old C)
//     dA = g dr
//     dg = dr . A
//     dz = dg                       where g > 0, else 0;         z = w . input + b
//     dw = sum over tokens of dz input
//     db = sum over tokens of dz
//     dinput = dz w
// and du from A's three matrices. So on old text the penalty raises dg by weight |A|_1, and a step
// against it closes gates. Where a gate is closed, dA and dz are 0: that token asks for nothing. A
// gate that is closed on every token is dead: no gradient reaches it. (The cross-entropy adds
// weight (g - target) to dz of every token; there weight = alpha / (L N).)
// Adds to du and dinput, which may be the same and may be NULL. dhidden (n, H) is room to work in.
void residue_backward(real *du, real *dinput, ResidueTensors dw, const real *dout, Residue r,
                      ResidueTensors w, GateKind kind, LocalKind local, real weight,
                      const int *is_old, real *dhidden, size_t n, size_t C, size_t H, size_t G) {
    int *rows = (void *)scratch(SLOT_ROWS, n);
    size_t m = open_rows(rows, r.gate, kind, n);
    memset(r.z, 0, n * sizeof(real));
    #pragma omp parallel for
    for (size_t k = 0; k < m; k++) {
        size_t t = rows[k];
        real *a = r.adapter + k * C, *dr = scratch(SLOT_LAYER, C), g = r.gate[t];
        real penalty = local == LOCAL_L1 && is_old[t] && g > 0 ? weight : 0;
        for (size_t i = 0; i < C; i++)
            dr[i] = dout[t * C + i] + penalty * ((a[i] > 0) - (a[i] < 0));
        real dg = dot(C, dr, a);
        for (size_t i = 0; i < C; i++) a[i] = g * dr[i];
        real dz = kind == GATE_RELU && g > 0 ? dg : kind == GATE_SIGMOID ? dg * g * (1 - g) : 0;
        if (local == LOCAL_CE) dz += weight * (g - (is_old[t] ? 0 : 1));
        r.z[t] = dz;
    }
    const real *dadapter = r.adapter, *dz = r.z, *dwi_u = dhidden, *dwg_u = r.wg_u;
    open_rows_backward(dhidden, dw.wo, dadapter, r.hidden, w.wo, NULL, rows, m, H, C);
    swiglu_backward(dhidden, r.wg_u, dhidden, r.wi_u, r.wg_u, m * H);
    real *open_du = du ? r.adapter : NULL;
    if (du) gather(open_du, du, rows, m, C);
    open_rows_backward(open_du, dw.wi, dwi_u, r.open_u, w.wi, open_du, rows, m, C, H);
    open_rows_backward(open_du, dw.wg, dwg_u, r.open_u, w.wg, open_du, rows, m, C, H);
    if (du) scatter(du, open_du, rows, m, C);
    if (kind == GATE_NONE) return;
    linear_backward(dinput, dw.gate_w, dw.gate_b, dz, r.gate_input, w.gate_w, dinput, n, G, 1);
}

// -------------------------------------------------------------------------------------------------
// 4. Ours, not the paper's: the prefix gate, and new rows of the embedding.

// The prefix gate. The paper's gate reads its layer's u, which earlier adapters have moved. With
// --gate-input prefix the gates of all layers read, at position t, what no adapter has touched: the
// first block's u, and beside it the mean of u over the window so far, positions 0..t, whatever
// documents it holds. (LoRA and new rows may have touched u: hence its backward pass.)
//     prefix (B, T - start, 2C) = [u_t ; mean(t)]
//     mean(t) = mean(t - 1) + (u_t - mean(t - 1)) / (t + 1)
// With start > 0 (and B = 1) the mean at start - 1 lies before `prefix`.
void prefix_forward(real *prefix, const real *u, size_t B, size_t T, size_t start, size_t C) {
    #pragma omp parallel for
    for (size_t b = 0; b < B; b++)
        for (size_t t = start; t < T; t++) {
            size_t row = b * (T - start) + t - start;
            const real *ut = u + row * C, count = t + 1;
            real *out = prefix + row * 2 * C, *mean = out + C;
            const real *before = t ? mean - 2 * C : ut;
            for (size_t i = 0; i < C; i++)
                out[i] = ut[i], mean[i] = before[i] + (ut[i] - before[i]) / count;
        }
}

// The mean at s holds u_t for every t <= s, with weight 1 / (s + 1):
//     du(t) += first half of dprefix(t) + sum over s >= t of second half of dprefix(s) / (s + 1)
// summed from the last position on, in dprefix.
void prefix_backward(real *du, real *dprefix, size_t B, size_t T, size_t C) {
    #pragma omp parallel for
    for (size_t b = 0; b < B; b++)
        for (size_t t = T; t-- > 0;) {
            real *d = dprefix + (b * T + t) * 2 * C, *dmean = d + C;
            for (size_t i = 0; i < C; i++) {
                dmean[i] = dmean[i] / (t + 1) + (t + 1 < T ? dmean[2 * C + i] : 0);
                du[(b * T + t) * C + i] += d[i] + dmean[i];
            }
        }
}

// New rows. A token that the backbone's text lacked has a row of wte that was never trained. An
// extension whose text has such tokens trains N rows of its own for them. ids (N): which tokens.
//     wte (V, C), the embedding in use, receives the rows (N, C)
// Rows that are there are not written: threads that only run a model (room 8) may share it.
void new_rows_forward(real *wte, const real *rows, const int *ids, size_t N, size_t C) {
    for (size_t i = 0; i < N; i++) {
        real *to = wte + ids[i] * C;
        const real *from = rows + i * C;
        if (memcmp(to, from, C * sizeof(real))) memcpy(to, from, C * sizeof(real));
    }
}

// Of the head, logits = lnf wte^T, the rows need the N columns of dlogits (n, V) that are theirs,
// and of the first layer's dx (n, C) the tokens that are theirs:
//     drows (N, C) = picked^T lnf + sums of dx        picked (n, N): room to work in
void new_rows_backward(real *drows, real *picked, const real *dlogits, const real *lnf,
                       const real *dx, const int *tokens, const int *ids, size_t N, size_t n,
                       size_t V, size_t C) {
    #pragma omp parallel for
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < N; i++) picked[t * N + i] = dlogits[t * V + ids[i]];
    matmul(drows, C, N, C, n, transposed(picked, N), plain(lnf, C), NULL, NULL);
    #pragma omp parallel for
    for (size_t i = 0; i < N; i++)
        for (size_t t = 0; t < n; t++)
            for (size_t c = 0; c < C && tokens[t] == ids[i]; c++) drows[i * C + c] += dx[t * C + c];
}

// -------------------------------------------------------------------------------------------------
// 5. Tensors, methods, extensions.

// The sizes of a model, and of one extension. gate_in: how many numbers its gate reads (G); of a
// model 2C if the gate of any extension reads the prefix, else 0.
typedef struct {
    size_t layers, heads, channels, positions, vocab, hidden, rank, new_rows, gate_in;
} Dims;
enum {
    WTE, WPE, LN1_W, LN1_B, QKV_W, QKV_BIAS, PROJ_W, PROJ_BIAS, LN2_W, LN2_B,
    FC_W, FC_BIAS, FCPROJ_W, FCPROJ_BIAS, LNF_W, LNF_B,
    WI, WG, WO, GATE_W, GATE_B,
    QKV_A, QKV_B, PROJ_A, PROJ_B, FC_A, FC_B, FCPROJ_A, FCPROJ_B,
    NEW_ROWS, TENSORS
};
// Which tensors a model or an extension has is a sum of these sets.
enum { SET_BACKBONE = 1, SET_ADAPTER = 2, SET_GATE = 4, SET_LORA = 8, SET_ROWS = 16 };

// Initial values (tensors_init, room 9): three are constants, the others random. GPT-2's deviation
// is 0.02 sqrt(768 / C), and 1/sqrt(2 L) of it for what writes into the residual stream.
enum { INIT_ZERO, INIT_ONE, INIT_GATE_B, INIT_GPT2, INIT_GPT2_PROJ, INIT_ADAPTER, INIT_FAN_IN,
       INIT_GATE_W };

// Every tensor once, in the order of the enumeration: memory, files, AdamW, messages and tests go
// by this table. A name with %d is one tensor for each layer, named as in Hugging Face's GPT-2.
// rows and cols: letters of size_of. rows '1': a vector.
const struct { const char *name; char rows, cols; int set, init; } table[TENSORS] = {
    {"wte.weight",               'V', 'C', SET_BACKBONE, INIT_GPT2},
    {"wpe.weight",               'P', 'C', SET_BACKBONE, INIT_GPT2},
    {"h.%d.ln_1.weight",         '1', 'C', SET_BACKBONE, INIT_ONE},
    {"h.%d.ln_1.bias",           '1', 'C', SET_BACKBONE, INIT_ZERO},
    {"h.%d.attn.c_attn.weight",  'C', '3', SET_BACKBONE, INIT_GPT2},
    {"h.%d.attn.c_attn.bias",    '1', '3', SET_BACKBONE, INIT_ZERO},
    {"h.%d.attn.c_proj.weight",  'C', 'C', SET_BACKBONE, INIT_GPT2_PROJ},
    {"h.%d.attn.c_proj.bias",    '1', 'C', SET_BACKBONE, INIT_ZERO},
    {"h.%d.ln_2.weight",         '1', 'C', SET_BACKBONE, INIT_ONE},
    {"h.%d.ln_2.bias",           '1', 'C', SET_BACKBONE, INIT_ZERO},
    {"h.%d.mlp.c_fc.weight",     'C', '4', SET_BACKBONE, INIT_GPT2},
    {"h.%d.mlp.c_fc.bias",       '1', '4', SET_BACKBONE, INIT_ZERO},
    {"h.%d.mlp.c_proj.weight",   '4', 'C', SET_BACKBONE, INIT_GPT2_PROJ},
    {"h.%d.mlp.c_proj.bias",     '1', 'C', SET_BACKBONE, INIT_ZERO},
    {"ln_f.weight",              '1', 'C', SET_BACKBONE, INIT_ONE},
    {"ln_f.bias",                '1', 'C', SET_BACKBONE, INIT_ZERO},
    {"h.%d.adapter.wi",          'C', 'H', SET_ADAPTER, INIT_ADAPTER},
    {"h.%d.adapter.wg",          'C', 'H', SET_ADAPTER, INIT_ADAPTER},
    {"h.%d.adapter.wo",          'H', 'C', SET_ADAPTER, INIT_ZERO},
    {"h.%d.gate.w",              '1', 'G', SET_GATE, INIT_GATE_W},
    {"h.%d.gate.b",              '1', '1', SET_GATE, INIT_GATE_B},
    {"h.%d.attn.c_attn.lora_a",  'C', 'R', SET_LORA, INIT_FAN_IN},
    {"h.%d.attn.c_attn.lora_b",  'R', '3', SET_LORA, INIT_ZERO},
    {"h.%d.attn.c_proj.lora_a",  'C', 'R', SET_LORA, INIT_FAN_IN},
    {"h.%d.attn.c_proj.lora_b",  'R', 'C', SET_LORA, INIT_ZERO},
    {"h.%d.mlp.c_fc.lora_a",     'C', 'R', SET_LORA, INIT_FAN_IN},
    {"h.%d.mlp.c_fc.lora_b",     'R', '4', SET_LORA, INIT_ZERO},
    {"h.%d.mlp.c_proj.lora_a",   '4', 'R', SET_LORA, INIT_FAN_IN},
    {"h.%d.mlp.c_proj.lora_b",   'R', 'C', SET_LORA, INIT_ZERO},
    {"wte.rows",                 'N', 'C', SET_ROWS, INIT_ZERO},  // then copied from wte
};

// What a letter of the table means.
size_t size_of(char letter, const Dims *d) {
    switch (letter) {
    case 'V': return d->vocab;         case 'P': return d->positions;
    case 'H': return d->hidden;        case 'G': return d->gate_in;
    case 'R': return d->rank;          case 'N': return d->new_rows;
    case 'C': return d->channels;      case '2': return 2;  // mean and rstd
    case '3': return 3 * d->channels;  // queries, keys and values
    case '4': return 4 * d->channels;  // GPT-2's FFN
    default: return 1;
    }
}

size_t tensor_rows(int id, const Dims *d) { return size_of(table[id].rows, d); }
size_t tensor_cols(int id, const Dims *d) { return size_of(table[id].cols, d); }
size_t tensor_layers(int id, const Dims *d) {
    return strchr(table[id].name, '%') ? d->layers : 1;
}

// Some of the table's tensors in one piece of memory, in table order, each with its layers
// together: parameters, gradients, AdamW's moments. NULL and size 0 for what is not there.
typedef struct { real *at[TENSORS], *memory; size_t size, layer_size[TENSORS]; } Tensors;
Tensors tensors_allocate(int sets, const Dims *d);  // those of `sets`, all zero

// Layer l of a tensor. NULL if it is not in the set: a gradient that nobody asked for.
real *tensor(const Tensors *t, int id, size_t l) {
    return t->at[id] ? t->at[id] + l * t->layer_size[id] : NULL;
}

// How something is trained. Every field is a setting: room 11 checks, explains and saves it.
typedef struct {
    long method, gate, gate_input, gate_init, local, init, replay_as;  // of an enumeration each
    long steps, batch, seq_len, warmup, hidden, rank, new_rows, replay, seed;
    double lr, floor, decay, p, q, alpha, temperature;
} TrainConfig;
enum { INPUT_LAYER, INPUT_PREFIX };                                   // gate_input
enum { START_OPEN, START_CLOSED, START_RANDOM };                      // gate_init
enum { VARIANCE_LOW, VARIANCE_HE, REPLAY_AS_PENALTY = 0, REPLAY_AS_TEXT };  // init, replay_as

// The methods: what each trains (an extension new rows as well), and settings that differ from room
// 11's defaults. USES_OLD: may take old text, or replay.
enum { USES_OLD = 32 };
enum { BACKBONE, NAIVE, FINETUNE, LORA, ADAPTER, NEUTRAL, REPLAY, METHODS };
#define METHOD_NAMES "backbone|naive|finetune|lora|adapter|neutral|replay"
const struct { const char *name; int uses; const char *defaults, *about; } methods[METHODS] = {
    // by default: gate=none local=none init=low p=0.1 q=0.1 alpha=1
    {"backbone", SET_BACKBONE, "p=0 warmup=100 floor=0.05 decay=0.1", "pretraining"},
    {"naive", SET_BACKBONE, "p=0 lr=0.001", "finetuning on new text alone"},
    {"finetune", SET_BACKBONE | USES_OLD, "lr=0.001", "all weights"},
    {"lora", SET_LORA | USES_OLD, "lr=0.01", "low-rank updates beside frozen weights"},
    {"adapter", SET_ADAPTER | USES_OLD, "lr=0.005 init=he", "adapters beside the frozen FFN"},
    {"neutral", SET_ADAPTER | SET_GATE | USES_OLD, "lr=0.005 gate=relu local=l1",
     "gated adapters, to vanish on old text"},
    {"replay", SET_ADAPTER | SET_GATE | USES_OLD,
     "lr=0.005 gate=relu gate_input=prefix local=l1 alpha=3 p=0 replay=20000",
     "neutral, without old text: see room 8"},
};

// One extension of a model.
typedef struct {
    TrainConfig config;
    Dims dims;             // the backbone's, with hidden, rank, new_rows and gate_in of its own
    int sets, *ids;        // ids (new_rows): the tokens whose rows of wte it trains
    uint64_t hash;         // that its file says, if it is from one
    Tensors w;
} Extension;
enum { MAX_EXTENSIONS = 8 };

// A backbone and the extensions upon it. hash[k] identifies it with its first k extensions: it is
// one hash that continues over all their values. A file says upon which hash its values stand.
typedef struct {
    Dims dims;
    Tensors w;
    real *wte;             // (V, C): the embedding in use, the backbone's or a copy with new rows
    Tokenizer *tokenizer;
    bool *unseen;          // (V): tokens that, as far as recorded, no text has had in training
    Extension *extension[MAX_EXTENSIONS];
    size_t n_extensions;
    uint64_t hash[MAX_EXTENSIONS + 1];
} Model;

// Continues the hash over the values of m's last extension or, if it has none, of its backbone.
void model_hash(Model *m);

// The last extension, the one that trains; NULL if there is none.
Extension *last_extension(const Model *m) {
    return m->n_extensions ? m->extension[m->n_extensions - 1] : NULL;
}

// -------------------------------------------------------------------------------------------------
// 6. The model. First its activations: what forward leaves for backward, and room to work in.

// Every buffer once, in the order of the enumeration, with a row for each token of the pass. width:
// a letter of size_of. copies: SHARED by all layers, or one for each: ALWAYS, or FOR_BACKWARD where
// a backward pass follows (else shared). ROOM, to work in, is shared, and there for backward only.
enum { SHARED, FOR_BACKWARD, ALWAYS, ROOM };
enum {
    A_X, A_LN1, A_STATS1, A_QKV, A_ATT, A_Y, A_MID, A_U, A_STATS2, A_FC, A_GELU,
    A_LNF, A_STATSF, A_LOGITS, A_LOSSES, A_PREFIX,
    A_DX, A_DNORM, A_DY, A_DQKV, A_DFC, A_DPREFIX, MODEL_BUFFERS,
    A_OPEN_U = MODEL_BUFFERS, A_WI_U, A_WG_U, A_HIDDEN, A_ADAPTER, A_Z, A_GATE, A_L1, A_DHIDDEN,
    A_LOW, A_DLOW = A_LOW + 4, A_PICKED, BUFFERS
};
const struct { char width; int copies; } buffers[BUFFERS] = {
    {'C', FOR_BACKWARD},                       // A_X: the residual stream where a block begins
    {'C', FOR_BACKWARD}, {'2', FOR_BACKWARD},  // A_LN1, A_STATS1: mean and rstd
    {'3', ALWAYS}, {'A', FOR_BACKWARD},        // A_QKV, whose keys and values are a cache; A_ATT
    {'C', FOR_BACKWARD}, {'C', FOR_BACKWARD},  // A_Y, A_MID: the stream behind attention
    {'C', FOR_BACKWARD}, {'2', FOR_BACKWARD},  // A_U, A_STATS2
    {'4', FOR_BACKWARD}, {'4', FOR_BACKWARD},  // A_FC, A_GELU
    {'C', SHARED}, {'2', SHARED},              // A_LNF, A_STATSF, and
    {'V', SHARED}, {'1', SHARED},              // A_LOGITS, A_LOSSES: n_logits rows
    {'G', SHARED},                             // A_PREFIX: see room 4
    {'C', ROOM}, {'C', ROOM}, {'C', ROOM},     // A_DX, A_DNORM (dlnf, du, dln1 in turn), A_DY
    {'3', ROOM}, {'4', ROOM}, {'G', ROOM},     // A_DQKV, A_DFC, A_DPREFIX
    {'C', FOR_BACKWARD}, {'H', FOR_BACKWARD}, {'H', FOR_BACKWARD},  // of extensions, see Residue
    {'H', FOR_BACKWARD}, {'C', FOR_BACKWARD}, {'1', ALWAYS}, {'1', ALWAYS},
    {'1', ALWAYS}, {'H', ROOM},
    {'R', FOR_BACKWARD}, {'R', FOR_BACKWARD}, {'R', FOR_BACKWARD}, {'R', FOR_BACKWARD},
    {'R', ROOM}, {'N', ROOM},
};

// Layer l of a buffer is at[id] + l * stride[id].
typedef struct { real *at[BUFFERS]; size_t stride[BUFFERS]; } Buffers;

typedef struct {
    size_t B, T, start, n;   // this pass: positions start..T-1 of B sequences, n rows
    size_t n_logits;         // the last n_logits rows get logits
    Buffers own, extension[MAX_EXTENSIONS];
    real *memory;
    size_t size;
} Activations;

// Makes room for B sequences of T tokens. backward: for a backward pass, too. In room 9.
Activations activations_new(const Model *m, size_t B, size_t T, size_t n_logits, bool backward);
real *layer_of(const Buffers *b, int id, size_t l) { return b->at[id] + l * b->stride[id]; }
// Layer l of all buffers.
void layer_at(real *s[BUFFERS], const Buffers *b, size_t l) {
    for (int id = 0; id < BUFFERS; id++) s[id] = layer_of(b, id, l);
}

// What extension e keeps in layer l.
Residue residue_at(const Model *m, const Activations *a, size_t e, size_t l) {
    real *s[BUFFERS], *input = layer_of(&a->own, A_U, l);
    layer_at(s, &a->extension[e], l);
    if (m->extension[e]->config.gate_input == INPUT_PREFIX)
        input = a->own.at[A_PREFIX] + a->start * 2 * m->dims.channels;
    return (Residue){s[A_OPEN_U], s[A_WI_U], s[A_WG_U], s[A_HIDDEN], s[A_ADAPTER], s[A_Z],
                     s[A_GATE], s[A_L1], input};
}

// Layer l of an extension's adapter and gate: weights, or their gradients.
ResidueTensors residue_tensors(const Tensors *t, size_t l) {
    return (ResidueTensors){tensor(t, WI, l), tensor(t, WG, l), tensor(t, WO, l),
                            tensor(t, GATE_W, l), tensor(t, GATE_B, l)};
}

// The four linear layers of a block, and where in the table their W is; the bias is behind it.
enum { QKV, PROJ, FC, FCPROJ };
const int linear_w[] = {QKV_W, PROJ_W, FC_W, FCPROJ_W};

// out = x W + bias + add, and beside it every LoRA (Hu et al. 2021, without its scale), of R
// numbers a row. add may be NULL.
//     low (n, R) = x a        out (n, O) += low b        a: (I, R)    b: (R, O)
void block_linear_forward(const Model *m, const Activations *a, int k, size_t l, real *out,
                          const real *x, const real *add) {
    int w = linear_w[k], bias = w + 1, lora_a = QKV_A + 2 * k, lora_b = lora_a + 1;
    size_t I = tensor_rows(w, &m->dims), O = tensor_cols(w, &m->dims);
    linear_forward(out, x, tensor(&m->w, w, l), tensor(&m->w, bias, l), add, a->n, I, O);
    for (size_t e = 0; e < m->n_extensions; e++) {
        const Extension *own = m->extension[e];
        real *low = layer_of(&a->extension[e], A_LOW + k, l);
        size_t R = own->dims.rank;
        if (!R) continue;
        linear_forward(low, x, tensor(&own->w, lora_a, l), NULL, NULL, a->n, I, R);
        linear_forward(out, low, tensor(&own->w, lora_b, l), NULL, out, a->n, R, O);
    }
}

const Tensors no_tensors;  // the gradients of an extension that is frozen

// From dout: dx, which may be NULL and is added to if `add`, and the gradients in grad. LoRA:
//     dlow = dout b^T     db = low^T dout     da = x^T dlow     dx += dlow a^T
void block_linear_backward(const Model *m, const Activations *a, const Tensors *grad, int k,
                           size_t l, real *dx, bool add, const real *dout, const real *x) {
    int w = linear_w[k], bias = w + 1, lora_a = QKV_A + 2 * k, lora_b = lora_a + 1;
    size_t I = tensor_rows(w, &m->dims), O = tensor_cols(w, &m->dims);
    linear_backward(dx, tensor(grad, w, l), tensor(grad, bias, l), dout, x,
                    tensor(&m->w, w, l), add ? dx : NULL, a->n, I, O);
    for (size_t e = 0; e < m->n_extensions; e++) {
        const Extension *own = m->extension[e];
        const Tensors *d = own == last_extension(m) ? grad : &no_tensors;
        real *low = layer_of(&a->extension[e], A_LOW + k, l), *dlow = a->extension[e].at[A_DLOW];
        size_t R = own->dims.rank;
        if (!R) continue;
        linear_backward(dlow, tensor(d, lora_b, l), NULL, dout, low, tensor(&own->w, lora_b, l),
                        NULL, a->n, R, O);
        linear_backward(dx, tensor(d, lora_a, l), NULL, dlow, x, tensor(&own->w, lora_a, l),
                        dx, a->n, I, R);
    }
}

// Makes the embedding in use anew: the backbone's, with every extension's new rows.
void embedding_derive(const Model *m) {
    if (m->wte != m->w.at[WTE]) memcpy(m->wte, m->w.at[WTE], m->w.layer_size[WTE] * sizeof(real));
    for (size_t e = 0; e < m->n_extensions; e++) {
        const Extension *x = m->extension[e];
        new_rows_forward(m->wte, x->w.at[NEW_ROWS], x->ids, x->dims.new_rows, m->dims.channels);
    }
}

// Runs tokens (B, T - start) at positions start..T-1 through the model, up to the logits of the
// last a->n_logits rows. With start > 0 (and B = 1) the positions before must have been run: what
// they left in qkv and prefix is needed.
void model_forward(const Model *m, Activations *a, const int *tokens, size_t B, size_t T,
                   size_t start) {
    const Tensors *w = &m->w;
    size_t C = m->dims.channels, L = m->dims.layers, V = m->dims.vocab, n = B * (T - start);
    size_t rows = a->n_logits;
    a->B = B, a->T = T, a->start = start, a->n = n;
    const Extension *top = last_extension(m);  // the rows of those below it are there already
    if (top) new_rows_forward(m->wte, top->w.at[NEW_ROWS], top->ids, top->dims.new_rows, C);
    embedding_forward(a->own.at[A_X], tokens, m->wte, w->at[WPE], B, T, start, C);
    for (size_t l = 0; l < L; l++) {
        real *s[BUFFERS], *out = layer_of(&a->own, A_X, l + 1);
        layer_at(s, &a->own, l);
        layernorm_forward(s[A_LN1], s[A_STATS1], s[A_X], tensor(w, LN1_W, l), tensor(w, LN1_B, l),
                          n, C);
        block_linear_forward(m, a, QKV, l, s[A_QKV] + start * 3 * C, s[A_LN1], NULL);
        attention_forward(s[A_Y], s[A_ATT], s[A_QKV], B, T, start, m->dims.heads, C);
        block_linear_forward(m, a, PROJ, l, s[A_MID], s[A_Y] + start * C, s[A_X]);
        layernorm_forward(s[A_U], s[A_STATS2], s[A_MID], tensor(w, LN2_W, l), tensor(w, LN2_B, l),
                          n, C);
        if (l == 0 && m->dims.gate_in)
            prefix_forward(s[A_PREFIX] + start * 2 * C, s[A_U], B, T, start, C);
        block_linear_forward(m, a, FC, l, s[A_FC], s[A_U], NULL);
        gelu_forward(s[A_GELU], s[A_FC], n * 4 * C);
        block_linear_forward(m, a, FCPROJ, l, out, s[A_GELU], s[A_MID]);
        for (size_t e = 0; e < m->n_extensions; e++) {
            const Extension *x = m->extension[e];
            if (x->sets & SET_ADAPTER)
                residue_forward(out, residue_at(m, a, e, l), s[A_U], residue_tensors(&x->w, l),
                                x->config.gate, n, C, x->dims.hidden, x->dims.gate_in);
        }
    }
    real *lnf = a->own.at[A_LNF], *last = layer_of(&a->own, A_X, L) + (n - rows) * C;
    layernorm_forward(lnf, a->own.at[A_STATSF], last, w->at[LNF_W], w->at[LNF_B], rows, C);
    matmul(a->own.at[A_LOGITS], V, rows, V, C, plain(lnf, C), transposed(m->wte, C), NULL, NULL);
}

// B sequences of T tokens to train on; all are (B, T).
typedef struct {
    size_t B, T;
    int *tokens, *targets;  // targets: the next token of each, -1: none
    int *is_old;            // 1: counts as old for l_local
} Batch;

// A training under way: what trains, and all that a step needs.
typedef struct {
    Model *m;
    const Tensors *w;      // of m's last extension or, if it has none, of its backbone
    const Dims *dims;
    Tensors grad, adam_m, adam_v;
    Activations a;
    Batch batch;
    long step;             // how many have been taken
    double norm;           // of the last gradient
} Training;

// l_LM and l_local, and by how much each token's term counts in them: one over their number.
typedef struct { double lm, local, lm_scale, local_scale; } Loss;

// After model_forward with logits for all rows: the losses of the batch, in nats and in units of
// the residual stream; the logits become probabilities. l_LM is a mean over targets, l_local over
// the last extension's layers and the old-domain tokens (a gate's cross-entropy: over all tokens).
Loss model_loss(const Training *t) {
    const Model *m = t->m;
    const Activations *a = &t->a;
    const Batch *batch = &t->batch;
    const Extension *x = last_extension(m);
    LocalKind kind = x && x->sets & SET_ADAPTER ? x->config.local : LOCAL_NONE;
    real *losses = a->own.at[A_LOSSES];
    Loss loss = {0};
    crossentropy_forward(losses, a->own.at[A_LOGITS], batch->targets, a->n, m->dims.vocab);
    for (size_t i = 0; i < a->n; i++) {
        bool is_old = batch->is_old[i];
        loss.lm_scale += batch->targets[i] >= 0;  // counted first
        loss.lm += losses[i];
        if (kind == LOCAL_NONE || (kind == LOCAL_L1 && !is_old)) continue;
        for (size_t l = 0; l < m->dims.layers; l++, loss.local_scale++) {
            Residue r = residue_at(m, a, m->n_extensions - 1, l);
            loss.local += kind == LOCAL_L1 ? r.l1[i] : gate_crossentropy(r.z[i], is_old);
        }
    }
    if (loss.lm_scale > 0) loss.lm_scale = 1 / loss.lm_scale;
    if (loss.local_scale > 0) loss.local_scale = 1 / loss.local_scale;
    loss.lm *= loss.lm_scale;
    loss.local *= loss.local_scale;
    return loss;
}

// Layer l: dx, the gradient at the block's output, becomes that at its input. The first block goes
// back only as far as something trains: `inside` it, where u comes from (LoRA), or `below` it (the
// embedding, new rows).
void block_backward(const Training *t, Loss loss, size_t l) {
    const Model *m = t->m;
    const Activations *a = &t->a;
    const Tensors *w = &m->w, *grad = &t->grad;
    real *s[BUFFERS];
    layer_at(s, &a->own, l);
    size_t C = m->dims.channels, n = a->n;
    bool below = l > 0 || grad->at[WTE] || grad->at[NEW_ROWS], inside = below || grad->at[QKV_A];
    real *dx = s[A_DX], *dqkv = s[A_DQKV], *dy = s[A_DY], *dfc = s[A_DFC];
    real *du = s[A_DNORM], *dln1 = s[A_DNORM];  // in turn
    memset(du, 0, n * C * sizeof(real));
    for (size_t e = 0; e < m->n_extensions; e++) {
        const Extension *x = m->extension[e];
        bool last = x == last_extension(m), prefix = x->config.gate_input == INPUT_PREFIX;
        if (!x->dims.hidden) continue;
        LocalKind local = last ? x->config.local : LOCAL_NONE;
        real weight = x->config.alpha * loss.local_scale / (local == LOCAL_L1 ? C : 1);
        residue_backward(inside ? du : NULL, inside ? prefix ? s[A_DPREFIX] : du : NULL,
                         residue_tensors(last ? grad : &no_tensors, l), dx, residue_at(m, a, e, l),
                         residue_tensors(&x->w, l), x->config.gate, local, weight, t->batch.is_old,
                         a->extension[e].at[A_DHIDDEN], n, C, x->dims.hidden, x->dims.gate_in);
    }
    if (!inside) return;
    if (l == 0 && m->dims.gate_in) prefix_backward(du, s[A_DPREFIX], a->B, a->T, C);
    block_linear_backward(m, a, grad, FCPROJ, l, dfc, false, dx, s[A_GELU]);
    gelu_backward(dfc, dfc, s[A_FC], n * 4 * C);
    block_linear_backward(m, a, grad, FC, l, du, true, dfc, s[A_U]);
    layernorm_backward(dx, tensor(grad, LN2_W, l), tensor(grad, LN2_B, l), du, s[A_MID],
                       s[A_STATS2], tensor(w, LN2_W, l), n, C);
    block_linear_backward(m, a, grad, PROJ, l, dy, false, dx, s[A_Y]);
    attention_backward(dqkv, dy, s[A_ATT], s[A_QKV], a->B, a->T, m->dims.heads, C);
    block_linear_backward(m, a, grad, QKV, l, below ? dln1 : NULL, false, dqkv, s[A_LN1]);
    if (below)
        layernorm_backward(dx, tensor(grad, LN1_W, l), tensor(grad, LN1_B, l), dln1, s[A_X],
                           s[A_STATS1], tensor(w, LN1_W, l), n, C);
}

// After model_loss, which returned `loss`: the gradients of l_LM + alpha l_local, in grad.
void model_backward(const Training *t, Loss loss) {
    const Model *m = t->m;
    const Activations *a = &t->a;
    const Tensors *grad = &t->grad;
    const Buffers *s = &a->own;
    const Extension *x = last_extension(m);
    size_t C = m->dims.channels, V = m->dims.vocab, L = m->dims.layers, n = a->n;
    real *dwte = grad->at[WTE], *drows = grad->at[NEW_ROWS];
    real *dlogits = s->at[A_LOGITS], *lnf = s->at[A_LNF], *dlnf = s->at[A_DNORM], *dx = s->at[A_DX];
    memset(s->at[A_DPREFIX], 0, n * m->dims.gate_in * sizeof(real));
    crossentropy_backward(dlogits, t->batch.targets, loss.lm_scale, n, V);

    // The head, logits = lnf wte^T, and the last LayerNorm: from dlogits to dx.
    matmul(dlnf, C, n, C, V, plain(dlogits, V), plain(m->wte, C), NULL, NULL);
    memset(dx, 0, n * C * sizeof(real));
    layernorm_backward(dx, grad->at[LNF_W], grad->at[LNF_B], dlnf, layer_of(s, A_X, L),
                       s->at[A_STATSF], m->w.at[LNF_W], n, C);
    for (size_t l = L; l-- > 0;) block_backward(t, loss, l);
    const int *tokens = t->batch.tokens;
    if (dwte) {  // wte is both the head and the embedding
        matmul(dwte, C, V, C, n, transposed(dlogits, V), plain(lnf, C), NULL, NULL);
        embedding_backward(dwte, grad->at[WPE], dx, tokens, a->B, a->T, m->dims.positions, C);
    }
    if (drows)
        new_rows_backward(drows, a->extension[m->n_extensions - 1].at[A_PICKED], dlogits, lnf, dx,
                          tokens, x->ids, x->dims.new_rows, n, V, C);
}

// -------------------------------------------------------------------------------------------------
// 7. Training: AdamW (Loshchilov and Hutter 2019), the loader, the loop.

// The learning rate at a step, from 1 on: a linear rise over `warmup` steps to the peak, then half
// a cosine down to floor * peak.
double learning_rate(const TrainConfig *c, long step) {
    if (step <= c->warmup) return c->lr * step / c->warmup;
    double progress = (double)(step - c->warmup) / (c->steps - c->warmup);
    return c->lr * (c->floor + (1 - c->floor) * 0.5 * (1 + cos(3.141592653589793 * progress)));
}

// One step on w with gradients g: first and second moments m and v, corrected for their start at
// zero. A gradient longer than `clip` is scaled to it. Matrices (not biases, LayerNorms and gates)
// shrink by lr * decay, apart from the gradient. Returns the gradient's norm.
double adamw_step(const Tensors *w, const Tensors *g, const Tensors *m, const Tensors *v,
                  const Dims *d, long step, double lr, double decay, double clip) {
    enum { CHUNK = 4096 };  // so many squares are summed in real, and the sums in double
    double norm = 0, beta1 = 0.9, beta2 = 0.95;
    for (size_t i = 0; i < g->size; i += CHUNK)
        norm += dot(min_size(CHUNK, g->size - i), g->memory + i, g->memory + i);
    norm = sqrt(norm);
    real scale = norm > clip ? clip / norm : 1, epsilon = 1e-8;
    real b1 = beta1, b2 = beta2;
    real rate = lr / (1 - pow(beta1, step)), correction = 1 / (1 - pow(beta2, step));
    for (int id = 0; id < TENSORS; id++) {
        if (!g->at[id]) continue;
        real keep = table[id].rows == '1' ? 1 : 1 - lr * decay;
        real *wt = w->at[id], *mt = m->at[id], *vt = v->at[id];
        const real *gt = g->at[id];
        size_t size = tensor_layers(id, d) * g->layer_size[id];
        #pragma omp parallel for simd
        for (size_t i = 0; i < size; i++) {
            real gi = gt[i] * scale;
            mt[i] = b1 * mt[i] + (1 - b1) * gi;
            vt[i] = b2 * vt[i] + (1 - b2) * gi * gi;
            real deviation = sqrt(vt[i] * correction);  // in real's width
            wt[i] = wt[i] * keep - rate * mt[i] / (deviation + epsilon);
        }
    }
    return norm;
}

// Where training sequences come from: a fraction p from the old domains, which are learnt and seen
// by the penalty; a fraction q, if there are such, from domains that only the penalty sees; the
// rest from the new domain. Inside a kind all domains are as likely.
typedef struct {
    Tokens new, kept[3 * MAX_DOMAINS];  // n_old old ones, then n_penalty_only: negatives, replay
    size_t n_old, n_penalty_only;
    double p, q;
    bool learn_all;        // those that only the penalty sees are learnt, too
    Random random;
} Loader;

// The domain among `count` that a uniform x in [0, 1) falls on.
const Tokens *pick(const Tokens *domains, size_t count, double x) {
    return &domains[min_size(x * count, count - 1)];
}

// Draws a batch: of each sequence its text and its start, by two random numbers whatever p is, so
// that all methods meet the same new text.
void loader_next(Loader *loader, Batch *batch) {
    size_t T = batch->T;
    double p = loader->n_old ? loader->p : 0, q = loader->n_penalty_only ? loader->q : 0;
    for (size_t b = 0; b < batch->B; b++) {
        double x = random_uniform(&loader->random), start = random_uniform(&loader->random);
        bool is_old = x < p, penalty_only = !is_old && x < p + q;
        const Tokens *from = &loader->new;
        if (is_old) from = pick(loader->kept, loader->n_old, x / p);
        if (penalty_only)
            from = pick(loader->kept + loader->n_old, loader->n_penalty_only, (x - p) / q);
        const uint16_t *ids = from->ids + (size_t)(start * (from->count - T));
        for (size_t t = 0; t < T; t++) {
            batch->tokens[b * T + t] = ids[t];
            batch->targets[b * T + t] = penalty_only && !loader->learn_all ? -1 : ids[t + 1];
            batch->is_old[b * T + t] = is_old || penalty_only;
        }
    }
}

// Begins to train m's last extension or, if it has none, its backbone.
Training training_new(Model *m, size_t B, size_t T) {
    const Extension *x = last_extension(m);
    Training t = {.m = m, .w = x ? &x->w : &m->w, .dims = x ? &x->dims : &m->dims};
    int sets = x ? x->sets : SET_BACKBONE;
    t.grad = tensors_allocate(sets, t.dims);
    t.adam_m = tensors_allocate(sets, t.dims);
    t.adam_v = tensors_allocate(sets, t.dims);
    t.a = activations_new(m, B, T, B * T, true);
    int *memory = allocate(3 * B * T, sizeof(int));
    t.batch = (Batch){B, T, memory, memory + B * T, memory + 2 * B * T};
    return t;
}

// Frees all that training_new made; m stays.
void training_free(Training *t) {
    free(t->a.memory);
    free(t->grad.memory), free(t->adam_m.memory), free(t->adam_v.memory), free(t->batch.tokens);
}

// One step on the batch that is there. Returns its losses, as they were before the step.
Loss training_step(Training *t, double lr, double decay) {
    model_forward(t->m, &t->a, t->batch.tokens, t->batch.B, t->batch.T, 0);
    Loss loss = model_loss(t);
    model_backward(t, loss);
    t->norm = adamw_step(t->w, &t->grad, &t->adam_m, &t->adam_v, t->dims, ++t->step, lr, decay, 1);
    return loss;
}

// The file that keeps the state of a training, and how it is dealt with.
typedef struct {
    char *path;
    const char *metadata;  // what the training depends on, as text
    long save_every;       // in steps; 0: when interrupted
    bool resume;
} StateFile;

void state_save(const StateFile *file, const Training *t, const Loader *loader, double seconds);
double state_load(const StateFile *file, Training *t, Loader *loader);  // -> seconds so far
volatile sig_atomic_t interrupted;  // by Ctrl-C
_Noreturn void end_interrupted(const char *what, const char *how_to_go_on);
void threads_adapt(double wall, double cpu);  // after each step, to what the processor has free

// Trains m's last extension or, if it has none, its backbone, on what the loader draws. Returns the
// seconds it took, over all sittings. When interrupted, saves the state and ends the program. Dies
// on a loss that is not finite.
double train(Model *m, const TrainConfig *c, Loader *loader, const StateFile *file) {
    Training t = training_new(m, c->batch, c->seq_len);
    const char *name = methods[c->method].name;
    printf("%-9s trains %.3fM parameters, %ld steps of %ld x %ld tokens, lr %g\n", name,
           1e-6 * t.w->size, c->steps, c->batch, c->seq_len, c->lr);
    fflush(stdout);
    double before = state_load(file, &t, loader), start = now();
    long first = t.step;
    while (t.step < c->steps) {
        loader_next(loader, &t.batch);
        double wall = now(), cpu = clock();
        Loss loss = training_step(&t, learning_rate(c, t.step + 1), c->decay);
        threads_adapt(wall, cpu);
        if (!isfinite(loss.lm + loss.local + t.norm))
            die("%s: at step %ld the loss is %g, the gradient's norm %g; a lower --lr may help",
                name, t.step, loss.lm + loss.local, t.norm);
        char text[64];
        snprintf(text, sizeof text, c->local == LOCAL_NONE ? "loss %.3f" : "loss %.3f + %.4f local",
                 loss.lm, loss.local);
        progress(name, t.step - first, c->steps - first, text, start, c->batch * c->seq_len);
        bool more = t.step < c->steps, stop = more && interrupted;  // may come any time
        if (stop || (more && file->save_every && t.step % file->save_every == 0))
            state_save(file, &t, loader, before + now() - start);
        if (stop) end_interrupted(name, join("--resume goes on from", " ", file->path));
    }
    model_hash(m);
    training_free(&t);
    return before + now() - start;
}

// -------------------------------------------------------------------------------------------------
// 8. Evaluation, sampling, replay.

// Mean loss in nats a token, bits a byte of text; how far the last extension's gates open, and how
// often they are exactly 0, in the mean over tokens and layers.
typedef struct { double loss, bpb, gate, closed; size_t tokens, bytes; } Score;

// Scores a whole file, in windows of T predictions. When interrupted, ends the program.
Score evaluate(const Model *m, const Tokens *file, size_t T) {
    size_t rows = T < 1024 ? 1024 / T * T : T;
    size_t count = file->count - 1;  // every token but the first is predicted
    const Extension *x = last_extension(m);
    Activations a = activations_new(m, rows / T, T, rows, false);
    int *tokens = allocate(rows + 1, sizeof(int));  // the targets begin at the second
    Score s = {.tokens = count};
    double start = now();
    for (size_t first = 0; first < count; first += rows) {
        size_t n = min_size(rows, count - first);
        for (size_t i = 0; i <= n; i++) tokens[i] = file->ids[first + i];
        double wall = now(), cpu = clock();
        model_forward(m, &a, tokens, rows / T, T, 0);
        threads_adapt(wall, cpu);
        crossentropy_forward(a.own.at[A_LOSSES], a.own.at[A_LOGITS], tokens + 1, n, m->dims.vocab);
        for (size_t i = 0; i < n; i++) {
            size_t length;
            tokenizer_bytes(m->tokenizer, tokens[i + 1], &length);
            s.bytes += length;
            s.loss += a.own.at[A_LOSSES][i];
        }
        for (size_t l = 0; l < m->dims.layers && x && x->sets & SET_ADAPTER; l++) {
            const real *gate = residue_at(m, &a, m->n_extensions - 1, l).gate;
            for (size_t i = 0; i < n; i++) s.gate += gate[i], s.closed += gate[i] == 0;
        }
        progress("eval", first / rows + 1, (count - 1) / rows + 1, file->name, start, rows);
        if (interrupted) end_interrupted("evaluation", "start it again");
    }
    s.bpb = s.loss / 0.6931471805599453 / s.bytes;
    double gates = count * m->dims.layers;
    s.loss /= count, s.gate /= gates, s.closed /= gates;
    free(a.memory);
    free(tokens);
    return s;
}

// Draws a token from softmax(logits / temperature). At temperature 0, or almost, the most likely.
int sample_token(const real *logits, size_t V, double temperature, Random *random) {
    double max = largest(V, logits), sum = 0;
    size_t token = 0;
    temperature = fmax(temperature, 1e-9);
    for (size_t i = 0; i < V; i++) sum += exp((logits[i] - max) / temperature);
    double target = random_uniform(random) * sum;
    while (token < V - 1 && (target -= exp((logits[token] - max) / temperature)) >= 0) token++;
    return token;
}

// A text that a model continues. The keys and values that forward keeps are the cache: `done`
// tokens have been run. Positions are absolute, so past the model's positions the last half of the
// tokens is kept, and run again.
typedef struct {
    const Model *m;
    Activations a;
    int *tokens;           // (positions + 1): those that are kept
    size_t count, done;
    double temperature;
    Random random;
} Sampler;

// Begins with a prompt of at least one token.
Sampler sampler_new(const Model *m, const int *prompt, size_t count, double temperature,
                    Random random) {
    size_t T = m->dims.positions;
    Sampler s = {.m = m, .count = count, .temperature = temperature, .random = random};
    s.a = activations_new(m, 1, T, 1, false);
    s.tokens = memcpy(allocate(max_size(count, T) + 1, sizeof(int)), prompt, count * sizeof(int));
    return s;
}

// Draws the next token.
int sampler_next(Sampler *s) {
    size_t T = s->m->dims.positions, half = (T + 1) / 2;
    if (s->count > T) {
        memmove(s->tokens, s->tokens + s->count - half, half * sizeof(int));
        s->count = half;
        s->done = 0;
    }
    model_forward(s->m, &s->a, s->tokens + s->done, 1, s->count, s->done);
    s->done = s->count;
    return s->tokens[s->count++] = sample_token(s->a.own.at[A_LOGITS], s->m->dims.vocab,
                                                s->temperature, &s->random);
}

// Replay (ours). What a model is not shown again it loses, gate or no gate: a gate that saw
// captions and French learns "caption or not", and opens on plays. But the model can be asked for
// what it knows: before it learns something new it writes text, at temperature 1 from <|endoftext|>
// on, and the penalty, and nothing else, is shown that text among the new. (Rivals have no penalty,
// and can only learn it: --replay-as text.) To rehearse on a model's own samples is an old idea
// (Robins 1995; Shin et al. 2017; Sun et al. 2020; Huang et al. 2024). That only a gate's penalty
// sees them we have found nowhere. Here m, with its first `age` extensions alone, writes c->replay
// tokens or some more: pieces of T, each with random numbers of its own, whatever the threads.
Tokens replay_write(Model *m, size_t age, const TrainConfig *c) {
    size_t T = m->dims.positions, pieces = (c->replay + T - 1) / T, done = 0, n = m->n_extensions;
    int end = m->tokenizer->size - 1;
    Tokens text = {.name = "replay", .count = pieces * T + 1};
    text.ids = allocate(text.count, sizeof *text.ids);
    text.ids[pieces * T] = end;
    double start = now();
    m->n_extensions = age;
    embedding_derive(m);
    #pragma omp parallel for schedule(dynamic)
    for (size_t k = 0; k < pieces; k++) {
        uint64_t seed = hash_bits(hash_bits(c->seed, age), k);
        Sampler s = sampler_new(m, &end, 1, c->temperature, random_stream(seed, STREAM_REPLAY));
        for (size_t t = 0; t < T && !interrupted; t++) text.ids[k * T + t] = sampler_next(&s);
        free(s.a.memory), free(s.tokens);
        #pragma omp critical
        progress("replay", ++done, pieces, "written by the model", start, T);
    }
    if (interrupted) end_interrupted("replay", "start it again");
    for (size_t i = 0; i < text.count; i++) text.hash = hash_bits(text.hash, text.ids[i]);
    m->n_extensions = n;
    return text;
}

// ------------------------------------ Here the lecture ends. -------------------------------------
// What follows is for reference: how all this is stored, made fast and asked for. Of the method it
// has the initial values (tensors_init, extension_new) and, in room 11, how settings make a method
// (train_config) and how text is gathered, a model taught and the result kept (teach).

// -------------------------------------------------------------------------------------------------
// 9. Memory and files: activations, models as folders of Hugging Face, extensions, states. The
// bytes of the files are written and read in tokenizer.c. (extension_load needs the settings: it is
// in room 11.)

// Lays out the buffers: while there is no memory yet, only to know their size. One that its owner,
// the model or an extension, has no use for gets no rows.
void activations_lay_out(Activations *a, const Model *m, size_t B, size_t T, bool backward) {
    a->size = 0;
    for (size_t e = 0; e <= m->n_extensions; e++) {
        Buffers *s = e ? &a->extension[e - 1] : &a->own;
        const Dims *d = e ? &m->extension[e - 1]->dims : &m->dims;
        for (int id = 0; id < BUFFERS; id++) {
            size_t width = id == A_ATT ? T * d->heads : size_of(buffers[id].width, d);
            size_t rows = id >= A_LNF && id <= A_LOSSES ? a->n_logits : B * T;
            int kind = buffers[id].copies;
            bool each = kind == ALWAYS || (kind == FOR_BACKWARD && backward);
            size_t copies = each ? d->layers + (id == A_X) : 1;
            if (e ? id < (d->hidden ? MODEL_BUFFERS : A_LOW) : id >= MODEL_BUFFERS) rows = 0;
            if (kind == ROOM && !backward) rows = 0;
            if ((double)copies * rows * width > 0x1p48)  // sums of these fit 64 bits
                die("out of memory: %zu activations of %zu x %zu numbers", copies, rows, width);
            size_t size = round_up(rows * width, 16);
            s->at[id] = a->memory ? a->memory + a->size : NULL;
            s->stride[id] = copies > 1 ? size : 0;
            a->size += copies * size;
        }
    }
}

Activations activations_new(const Model *m, size_t B, size_t T, size_t n_logits, bool backward) {
    Activations a = {.n_logits = n_logits};
    activations_lay_out(&a, m, B, T, backward);
    a.memory = allocate(a.size, sizeof(real));
    activations_lay_out(&a, m, B, T, backward);
    return a;
}

// Lays out the tensors of `sets` in memory; if that is NULL, only their sizes are known.
Tensors tensors_lay_out(real *memory, int sets, const Dims *d) {
    Tensors t = {.memory = memory};
    for (int id = 0; id < TENSORS; id++) {
        if (!(table[id].set & sets)) continue;
        if (memory) t.at[id] = memory + t.size;
        t.layer_size[id] = tensor_rows(id, d) * tensor_cols(id, d);
        t.size += tensor_layers(id, d) * t.layer_size[id];
    }
    return t;
}

Tensors tensors_allocate(int sets, const Dims *d) {
    size_t size = tensors_lay_out(NULL, sets, d).size;
    return tensors_lay_out(allocate(size, sizeof(real)), sets, d);
}

// Draws initial values for every tensor of t, in table order.
void tensors_init(const Tensors *t, const Dims *d, const TrainConfig *c, uint64_t purpose) {
    Random random = random_stream(c->seed, purpose);
    double C = d->channels, L = d->layers;
    bool open = c->gate == GATE_RELU && c->gate_init == START_OPEN;
    for (int id = 0; id < TENSORS; id++) {
        const double deviations[] = {
            [INIT_GPT2] = 0.02 * sqrt(768 / C), [INIT_GPT2_PROJ] = 0.02 * sqrt(768 / C / (2 * L)),
            [INIT_ADAPTER] = sqrt((c->init == VARIANCE_HE ? 2 : 1 / L) / C),
            [INIT_FAN_IN] = 1 / sqrt(tensor_rows(id, d)),
            [INIT_GATE_W] = c->gate_init == START_RANDOM ? 1 / sqrt(C) : 0};
        double deviation = deviations[table[id].init];
        bool one = table[id].init == INIT_ONE || (table[id].init == INIT_GATE_B && open);
        for (size_t i = 0; t->at[id] && i < tensor_layers(id, d) * t->layer_size[id]; i++)
            t->at[id][i] = one + (deviation > 0 ? deviation * random_normal(&random) : 0);
    }
}

// What a file holds of a model's or an extension's tensors, and of the tokens (ids) whose rows are
// among them.
StoredList tensors_list(const Tensors *t, const Dims *d, int *ids) {
    StoredList list = {0};
    for (int id = 0; id < TENSORS; id++)
        for (size_t l = 0; t->layer_size[id] && l < tensor_layers(id, d); l++) {
            size_t rows = table[id].rows == '1' ? 0 : tensor_rows(id, d);
            stored_add(&list, table[id].name, l, "F32", rows, tensor_cols(id, d), tensor(t, id, l));
        }
    if (d->new_rows) stored_add(&list, "wte.ids", 0, "I32", 0, d->new_rows, ids);
    return list;
}

// What a file holds of m's last extension or, if it has none, of its backbone.
StoredList model_list(const Model *m) {
    const Extension *x = last_extension(m);
    return x ? tensors_list(&x->w, &x->dims, x->ids) : tensors_list(&m->w, &m->dims, NULL);
}

void model_hash(Model *m) {
    StoredList list = model_list(m);
    size_t n = m->n_extensions;
    m->hash[n] = stored_hash(n ? m->hash[n - 1] : 0, &list);
    free(list.at);
}

// The sizes and sets of an extension, from its config and the sizes of the model.
void extension_complete(Extension *x, const Dims *d) {
    const TrainConfig *c = &x->config;
    x->dims = *d;
    x->dims.hidden = c->hidden, x->dims.rank = c->rank, x->dims.new_rows = c->new_rows;
    x->dims.gate_in = (c->gate_input == INPUT_PREFIX ? 2 : 1) * d->channels;
    x->sets = (c->hidden ? SET_ADAPTER : 0) | (c->rank ? SET_LORA : 0)
            | (c->hidden && c->gate != GATE_NONE ? SET_GATE : 0) | (c->new_rows ? SET_ROWS : 0);
}

// Plugs x in; from then on it is m's.
void extension_attach(Model *m, Extension *x) {
    m->extension[m->n_extensions++] = x;
    model_hash(m);
    if (x->config.gate_input == INPUT_PREFIX) m->dims.gate_in = x->dims.gate_in;
    for (size_t i = 0; i < x->dims.new_rows; i++) m->unseen[x->ids[i]] = false;
    if (x->dims.new_rows && m->wte == m->w.at[WTE])
        m->wte = allocate(m->w.layer_size[WTE], sizeof(real));
    embedding_derive(m);
}

// Makes the extension that c describes and plugs it into m. Its new rows are those of tokens that
// are unseen and among those to learn (V; NULL: all). Sizes: a fifth of the backbone's parameters,
// 3 C H L = N / 5, and for LoRA as many, 16 C R L = 3 C H L.
Extension *extension_new(Model *m, const TrainConfig *c, const bool *learn) {
    Extension *x = allocate(1, sizeof *x);
    size_t C = m->dims.channels, V = m->dims.vocab;
    double fifth = 0.2 * m->w.size / (3.0 * C * m->dims.layers);
    TrainConfig *own = &x->config;
    int uses = methods[c->method].uses;
    *own = *c;
    own->new_rows = 0;
    if (!own->hidden) own->hidden = 16 * max_size(1, fifth / 16 + 0.5);
    if (!own->rank) own->rank = (3 * own->hidden + 15) / 16;
    if (!(uses & SET_ADAPTER)) own->hidden = 0;
    if (!(uses & SET_LORA)) own->rank = 0;
    x->ids = allocate(V, sizeof *x->ids);
    for (size_t v = 0; v < V && c->new_rows; v++)
        if (m->unseen[v] && (!learn || learn[v])) x->ids[own->new_rows++] = v;
    extension_complete(x, &m->dims);
    x->w = tensors_allocate(x->sets, &x->dims);
    tensors_init(&x->w, &x->dims, c, STREAM_EXTENSION);
    for (size_t i = 0; i < x->dims.new_rows; i++)
        memcpy(x->w.at[NEW_ROWS] + i * C, m->wte + x->ids[i] * C, C * sizeof(real));
    extension_attach(m, x);
    return x;
}

// Unplugs m's last extension and frees it.
void extension_drop(Model *m) {
    Extension *x = m->extension[--m->n_extensions];
    free(x->w.memory), free(x->ids), free(x);
}

// Makes a backbone of random weights. The tokenizer is m's from then on; all tokens are unseen.
Model *model_new(const Dims *d, const TrainConfig *c, Tokenizer *tokenizer) {
    Model *m = allocate(1, sizeof *m);
    *m = (Model){.dims = *d, .tokenizer = tokenizer, .w = tensors_allocate(SET_BACKBONE, d)};
    m->wte = m->w.at[WTE];
    m->unseen = memset(allocate(d->vocab, sizeof *m->unseen), true, d->vocab);
    tensors_init(&m->w, d, c, STREAM_BACKBONE);
    model_hash(m);
    return m;
}

// Frees a model, its extensions and its tokenizer.
void model_free(Model *m) {
    while (m->n_extensions) extension_drop(m);
    if (m->wte != m->w.at[WTE]) free(m->wte);
    if (m->tokenizer) tokenizer_free(m->tokenizer);
    free(m->w.memory), free(m->unseen), free(m);
}

enum { LARGEST = 1 << 20 };  // of any size; their products fit 64 bits

// Dies unless the sizes make a model. `source` names what set them.
void dims_check(const char *source, const Dims *d) {
    if (d->channels % d->heads)
        die("%s: %zu heads do not divide %zu channels", source, d->heads, d->channels);
    size_t size = tensors_lay_out(NULL, SET_BACKBONE, d).size, most = 4ul << 30;
    if (size > most) die("%s: these sizes make %zu parameters, at most %zu", source, size, most);
}

// Reads config.json: the sizes of m, and its record of unseen tokens.
void config_load(Model *m, const char *path) {
    static const char *const expected[][2] = {
        {"model_type", "gpt2"}, {"activation_function", "gelu_new|gelu_pytorch_tanh"},
        {"layer_norm_epsilon", "1e-05"}, {"tie_word_embeddings", "true"},
        {"scale_attn_weights", "true"}, {"scale_attn_by_inverse_layer_idx", "false"},
        {"add_cross_attention", "false"}};
    Json *config = json_read(path);
    if (!json_get(config, "model_type")) die("%s: \"model_type\" is missing, expected gpt2", path);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        json_expect(path, config, expected[i][0], expected[i][1]);
    m->dims = (Dims){.layers = json_size(path, config, "n_layer", 1024),
                     .heads = json_size(path, config, "n_head", LARGEST),
                     .channels = json_size(path, config, "n_embd", LARGEST),
                     .vocab = json_size(path, config, "vocab_size", 65536),
                     .positions = json_size(path, config, "n_positions", LARGEST)};
    dims_check(path, &m->dims);
    char inner[32];
    snprintf(inner, sizeof inner, "%zu|null", 4 * m->dims.channels);
    json_expect(path, config, "n_inner", inner);
    const Json *unseen = json_get(config, "unseen_tokens");
    m->unseen = allocate(m->dims.vocab, sizeof *m->unseen);
    if (unseen && unseen->type != '[')
        die("%s: \"unseen_tokens\" is not a list of token ids", path);
    for (const Json *x = unseen ? unseen->child : NULL; x; x = x->next) {
        if (!json_whole(x, m->dims.vocab - 1))
            die("%s: \"unseen_tokens\" has what is no id below %zu", path, m->dims.vocab);
        m->unseen[(size_t)x->number] = true;
    }
    json_free(config);
}

// Reads a list from an open file, and closes it.
void list_load(Safetensors *s, StoredList list) {
    safetensors_find(s, &list);
    safetensors_read(s, &list);
    safetensors_close(s);
    free(list.at);
}

// Reads tensors, and the ids of rows, and closes the file. They get memory only once the header,
// and so the file's size, agrees.
Tensors tensors_load(Safetensors *s, int sets, const Dims *d, int *ids) {
    Tensors t = tensors_lay_out(NULL, sets, d);
    StoredList list = tensors_list(&t, d, ids);
    safetensors_find(s, &list);
    free(list.at);
    t = tensors_allocate(sets, d);
    list_load(s, tensors_list(&t, d, ids));
    return t;
}

// Loads a folder: config.json, model.safetensors in float32, the tokenizer's files.
Model *model_load(const char *folder) {
    char *path = join(folder, "/", "config.json");
    char *weights = join(folder, "/", "model.safetensors");
    Model *m = allocate(1, sizeof *m);
    config_load(m, path);
    m->tokenizer = tokenizer_load(folder);
    if ((size_t)m->tokenizer->size != m->dims.vocab)
        die("%s: \"vocab_size\" is %zu, but the tokenizer has %d tokens", path, m->dims.vocab,
            m->tokenizer->size);
    if (access(weights, F_OK))
        die("%s: not there (shards or a pytorch_model.bin are to be saved as this one file first)",
            weights);
    Safetensors file = safetensors_open(weights);
    m->w = tensors_load(&file, SET_BACKBONE, &m->dims, NULL);
    free(path), free(weights);
    m->wte = m->w.at[WTE];
    model_hash(m);
    return m;
}

// Saves a folder that model_load and transformers read; its files are replaced one by one.
// metadata: how the weights were trained.
void model_save(const Model *m, const char *folder, const char *metadata) {
    char *path = join(folder, "/", "config.json");
    char *weights = join(folder, "/", "model.safetensors");
    const Dims *d = &m->dims;
    StoredList list = model_list(m);
    tokenizer_save(m->tokenizer, folder);
    FILE *file = output_open(path);
    fprintf(file, "{\n  \"architectures\": [\"GPT2LMHeadModel\"],\n  \"model_type\": \"gpt2\",\n"
            "  \"torch_dtype\": \"float32\",\n  \"activation_function\": \"gelu_new\",\n"
            "  \"layer_norm_epsilon\": 1e-05,\n  \"tie_word_embeddings\": true,\n"
            "  \"n_layer\": %zu,\n  \"n_head\": %zu,\n  \"n_embd\": %zu,\n"
            "  \"n_positions\": %zu,\n  \"n_ctx\": %zu,\n  \"vocab_size\": %zu,\n"
            "  \"bos_token_id\": %zu,\n  \"eos_token_id\": %zu,\n  \"unseen_tokens\": [", d->layers,
            d->heads, d->channels, d->positions, d->positions, d->vocab, d->vocab - 1,
            d->vocab - 1);
    const char *between = "";
    for (size_t v = 0; v < d->vocab; v++)
        if (m->unseen[v]) fprintf(file, "%s%zu", between, v), between = ", ";
    fprintf(file, "]\n}\n");
    output_close(file);
    safetensors_write(weights, &list, 0, metadata);  // last: then the folder is whole
    free(path), free(weights), free(list.at);
}

// Saves m's last extension.
void extension_save(const Model *m, const char *path, const char *metadata) {
    StoredList list = model_list(m);
    safetensors_write(path, &list, m->hash[m->n_extensions - 1], metadata);
    free(list.at);
}

// Fills what was to be trained, m's last extension or its backbone, from the file of a finished
// training. Returns false if there is none, or only one of other settings.
bool result_load(Model *m, const char *path, const char *metadata) {
    if (access(path, F_OK)) return false;
    Safetensors s = safetensors_open(path);
    bool same = metadata_compare(&s, metadata, false);
    if (same) {
        list_load(&s, model_list(m));
        model_hash(m);
    } else safetensors_close(&s), input_count--;  // it is written anew
    return same;
}

// What a state holds: what trains, and its moments.
StoredList state_list(const Training *t) {
    const Tensors *const parts[] = {t->w, &t->adam_m, &t->adam_v};
    static const char *const names[] = {"w", "adam_m", "adam_v"};
    StoredList list = {0};
    for (int i = 0; i < 3; i++)
        stored_add(&list, names[i], 0, "F32", 0, t->w->size, parts[i]->memory);
    return list;
}

void state_save(const StateFile *file, const Training *t, const Loader *loader, double seconds) {
    char text[2048];
    snprintf(text, sizeof text, "%s,\"place\":\"%ld %.1f %" PRIu64 "\"", file->metadata, t->step,
             seconds, loader->random);
    StoredList list = state_list(t);
    safetensors_write(file->path, &list, 0, text);
    free(list.at);
}

double state_load(const StateFile *file, Training *t, Loader *loader) {
    if (access(file->path, F_OK)) return 0;
    if (!file->resume)
        die("%s: an interrupted training is there: --resume goes on, or remove it", file->path);
    Safetensors s = safetensors_open(file->path);
    double seconds;
    metadata_compare(&s, file->metadata, true);
    const char *place = metadata_text(&s, "place");
    if (sscanf(place, "%ld %lf %" SCNu64, &t->step, &seconds, &loader->random) != 3 || t->step < 1)
        die("%s: metadata \"place\" is %.60s, expected step, seconds, random state", file->path,
            place);
    list_load(&s, state_list(t));
    input_count--;  // it is written again
    printf("%-9s goes on from step %ld of %s\n", "", t->step, file->path);
    return seconds;
}

// -------------------------------------------------------------------------------------------------
// 10. The engine: e^x, sums, the matrix multiply, where nearly all of the time goes.

#ifdef _OPENMP
#include <omp.h>
#else
int omp_get_max_threads(void) { return 1; }
void omp_set_num_threads(int n) {
    if (n > 1) die("--threads %d: built without OpenMP", n);
}
void omp_set_max_active_levels(int n) { (void)n; }
#endif

// Beside another program, threads that wait for each other at every product can be slower than one.
// A step that began at `wall`, when `cpu` had been used, tells by its share of the processor if it
// had to share it. Then one thread tries, and goes on alone while it is faster: for eight steps'
// time at first, for longer if the other is still there. (No bit depends on the number of threads.)
void threads_adapt(double wall, double cpu) {
    static double rest, until, shared;  // shared: what all threads took for a step
    static int all;
    int threads = omp_get_max_threads();
    double end = now(), seconds = end - wall;
    all = max_size(all, threads);
    if (threads < all && (seconds > shared || end > until)) omp_set_num_threads(all);
    if (threads < all || end < until) return;
    bool alone = clock() - cpu > 0.8 * all * seconds * CLOCKS_PER_SEC;
    rest = alone ? 0 : fmin(2 * rest + 8 * seconds, 60);
    until = end + rest;
    shared = seconds;
    omp_set_num_threads(alone ? all : 1);
}

// A `vec` is one register full of reals. The multiply keeps MR rows by NR vectors of sums in
// registers; NR more hold a row of B, and 1 an element of A.
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

// In a form that compilers vectorise (libm's expf is a call for each value). In float: e^x = 2^n
// e^r with n the integer nearest to x / ln 2. Adding 1.5 * 2^23 rounds to it, and leaves it in the
// low bits of the sum. On |r| <= ln 2 / 2 the Taylor series is good to 1e-8 after its r^7. 2^n is
// applied in two halves, so that results beyond the range of float become infinite or vanish
// gradually. NaN stays NaN: it fails both comparisons.
static inline real exponential(real x) {
    if (sizeof(real) == sizeof(double)) return exp(x);
    float y = x;
    y = y < -104 ? -104 : y;
    y = y > 89 ? 89 : y;
    union { float value; uint32_t bits; } round = {y * 1.44269504f + 12582912.0f}, low, high;
    float n = round.value - 12582912.0f, r = y - n * 0.693145752f - n * 1.42860677e-6f;
    float e = 1 / 120.f + r * (1 / 720.f + r * (1 / 5040.f));
    e = 1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * e))));
    int32_t power = round.bits - 0x4B400000u;
    low.bits = (uint32_t)((power >> 1) + 127) << 23;
    high.bits = (uint32_t)(power - (power >> 1) + 127) << 23;
    return e * low.value * high.value;
}

real dot(size_t n, const real *a, const real *b) {
    real sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

real total(size_t n, const real *a) {
    real sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += a[i];
    return sum;
}

real largest(size_t n, const real *a) {
    real max = a[0];
    #ifndef __clang__  // which does not vectorise it
    #pragma omp simd reduction(max : max)
    #endif
    for (size_t i = 1; i < n; i++) max = a[i] > max ? a[i] : max;
    return max;
}

real *scratch(int slot, size_t size) {
    static _Thread_local real *at[SLOTS];
    static _Thread_local size_t sizes[SLOTS];
    if (sizes[slot] < size) {
        free(at[slot]);
        at[slot] = allocate(size, sizeof(real));
        sizes[slot] = size;
    }
    return at[slot];
}

Random random_stream(uint64_t seed, uint64_t purpose) {
    return (seed * 64 + purpose) * 0xD1342543DE82EF95u;
}

uint64_t random_bits(Random *r) {
    uint64_t z = *r += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

double random_uniform(Random *r) { return (random_bits(r) >> 11) * 0x1p-53; }

double random_normal(Random *r) {  // Box and Muller
    double radius = sqrt(-2 * log(1 - random_uniform(r)));
    return radius * cos(6.283185307179586 * random_uniform(r));
}

// One routine multiplies in every layout, because a transpose only swaps a Matrix's two steps. An
// element of C needs 2 K numbers, but a processor can load far fewer numbers than it can multiply:
// each number that is loaded must be used many times.
//   registers  A tile of C, MR rows by NR vectors, stays in registers while k runs. A step of k
//              loads MR numbers of A and NR vectors of B, and uses each NR or MR times.
//   caches     Loads are fast if they are consecutive, so B is packed first, in panels of NR
//              vectors, k by k. A panel, KC deep, stays in the second cache while the MC rows of a
//              block of A pass over it. A is packed in panels of MR rows only if its rows do not
//              lie along k: if they do, a tile's MR rows are MR streams as they are.
//   threads    They share the packed B and divide the rows of C. An element is summed in the same
//              order whoever computes it: the same bits for any number of threads.
enum { MC = 48, NC = 3072, PANEL = NR * LANES };  // MC is a multiple of every MR

// Packs `count` rows or columns of x, which lie `across` apart and whose elements lie `along`
// apart, into panels of `size`, k by k; the last panel is filled up with 0. Whichever way x lies in
// memory, it is read as it lies. (size is a constant to the compiler, once this is inlined.)
static inline void pack(real *out, size_t size, size_t count, size_t K, const real *x,
                        size_t across, size_t along) {
    size_t whole = count / size * size, rest = count - whole;
    if (rest) memset(out + whole * K, 0, size * K * sizeof(real));
    if (across == 1) {
        for (size_t k = 0; k < K; k++) {
            const real *row = x + k * along;
            for (size_t i = 0; i < whole; i += size)
                memcpy(out + i * K + k * size, row + i, size * sizeof(real));
            for (size_t i = 0; i < rest; i++) out[whole * K + k * size + i] = row[whole + i];
        }
        return;
    }
    for (size_t i = 0; i < count; i++) {
        real *o = out + i / size * size * K + i % size;
        for (size_t k = 0; k < K; k++) o[k * size] = x[i * across + k * along];
    }
}

// c (height, width; rows c_row apart) = MR rows of a (packed, or as they lie) times a packed panel
// of B, + add (as c) + bias (width). The compiler unrolls i and j, whose bounds are constants, and
// keeps `sum` in registers. add and bias may be NULL.
void multiply_tile(real *c, size_t c_row, size_t height, size_t width, size_t K, Matrix a,
                   const real *b, const real *bias, const real *add) {
    vec sum[MR][NR] = {{{0}}};
    for (size_t i = 0; i < height; i++)
        __builtin_prefetch((add ? add : c) + i * c_row);  // needed at the end
    for (size_t k = 0; k < K; k++, a.at += a.col, b += PANEL)
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NR; j++)
                sum[i][j] += a.at[i * a.row] * load(b + j * LANES);
    if (height == MR && width == PANEL) {
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NR; j++) {
                size_t at = i * c_row + j * LANES;
                if (add) sum[i][j] += load(add + at);
                if (bias) sum[i][j] += load(bias + j * LANES);
                memcpy(c + at, &sum[i][j], sizeof(vec));
            }
        return;
    }
    real tile[MR * PANEL];  // at the edges of C
    memcpy(tile, sum, sizeof tile);
    for (size_t i = 0; i < height; i++)
        for (size_t j = 0; j < width; j++) {
            real more = add ? add[i * c_row + j] : 0;
            c[i * c_row + j] = tile[i * PANEL + j] + more + (bias ? bias[j] : 0);
        }
}

// c (N) = a B + add + bias for a single row: every weight is used once, so the memory's speed is
// the limit, and packing would read each twice. Columns are divided among the threads.
void multiply_row(real *c, size_t N, size_t K, const real *a, Matrix b, const real *bias,
                  const real *add) {
    size_t threads = omp_get_max_threads();
    size_t chunk = round_up((N + threads - 1) / threads, 64);
    #pragma omp parallel for if (N * K > 1 << 17)
    for (size_t j0 = 0; j0 < N; j0 += chunk) {
        size_t j1 = min_size(j0 + chunk, N);
        for (size_t j = j0; j < j1; j++) c[j] = (add ? add[j] : 0) + (bias ? bias[j] : 0);
        if (b.col != 1) {
            for (size_t j = j0; j < j1; j++) c[j] += dot(K, a, b.at + j * b.col);
            continue;
        }
        size_t k = 0;
        for (; k + 4 <= K; k += 4) {  // four rows of B: memory is fastest in several streams
            const real *x = a + k, *w = b.at + k * b.row, *v = w + 2 * b.row;
            for (size_t j = j0; j < j1; j++)
                c[j] += x[0] * w[j] + x[1] * w[b.row + j] + x[2] * v[j] + x[3] * v[b.row + j];
        }
        for (; k < K; k++)
            for (size_t j = j0; j < j1; j++) c[j] += a[k] * b.at[k * b.row + j];
    }
}

void matmul(real *c, size_t c_row, size_t M, size_t N, size_t K, Matrix a, Matrix b,
            const real *bias, const real *add) {
    if (M == 0) return;
    if (M == 1 && a.row != 1 && (b.col == 1 || b.row == 1)) {  // not a column, transposed
        multiply_row(c, N, K, a.at, b, bias, add);
        return;
    }
    real *packed_b = scratch(SLOT_PACKED_B, KC * round_up(min_size(N, NC), PANEL));
    size_t threads = omp_get_max_threads();
    #pragma omp parallel if (M * N * K > 1 << 18)
    {
        real *packed_a = scratch(SLOT_PACKED_A, MC * KC);
        for (size_t j0 = 0; j0 < N; j0 += NC)
            for (size_t k0 = 0; k0 < K; k0 += KC) {
                size_t cols = min_size(NC, N - j0), depth = min_size(KC, K - k0);
                size_t share = round_up((cols + threads - 1) / threads, PANEL);  // to pack
                #pragma omp for
                for (size_t j = 0; j < cols; j += share)
                    pack(packed_b + j * depth, PANEL, min_size(share, cols - j), depth,
                         b.at + k0 * b.row + (j0 + j) * b.col, b.col, b.row);
                #pragma omp for schedule(dynamic)
                for (size_t i0 = 0; i0 < M; i0 += MC) {
                    const real *block = a.at + i0 * a.row + k0 * a.col;
                    size_t rows = min_size(MC, M - i0);
                    bool packed = a.col != 1 || rows % MR;  // a last panel is filled up with 0
                    if (packed) pack(packed_a, MR, rows, depth, block, a.row, a.col);
                    for (size_t j = 0; j < cols; j += PANEL)
                        for (size_t i = 0; i < rows; i += MR) {
                            Matrix part = {block + i * a.row, a.row, 1};
                            if (packed) part = (Matrix){packed_a + i * depth, 1, MR};
                            real *at = c + (i0 + i) * c_row + j0 + j;
                            const real *sum = k0 ? at : add ? add + (at - c) : NULL;
                            multiply_tile(at, c_row, min_size(MR, rows - i),
                                          min_size(PANEL, cols - j), depth, part,
                                          packed_b + j * depth, k0 || !bias ? NULL : bias + j0 + j,
                                          sum);
                        }
                }
            }
    }
}

// -------------------------------------------------------------------------------------------------
// 11. The program: settings, the experiment, the commands.

enum { RUN = 1, PRETRAIN = 2, EXTEND = 4, EVAL = 8, SAMPLE = 16, GATES = 32, ALL = 63 };
enum { BOTH = RUN | EXTEND, TRAIN = BOTH | PRETRAIN, LOAD = EXTEND | EVAL | SAMPLE | GATES };

// All that a person can set. train comes first: a setting has the same place in a TrainConfig.
typedef struct {
    TrainConfig train;
    const char *data, *known, *old, *new, *negatives, *domains, *split, *in, *out, *csv, *prompt;
    const char *methods, *extensions[MAX_EXTENSIONS], *choices[MAX_DOMAINS + 1];
    long layers, heads, channels, pretrain_steps, count, threads, save_every, resume;
    double pretrain_lr, temperature;
    uint64_t given;  // a bit for each setting of the table below
    bool quiet;
} Settings;

const Settings initial = {
    .train = {.method = NEUTRAL, .gate = GATE_NONE, .local = LOCAL_NONE, .steps = 400, .batch = 8,
              .seq_len = 128, .warmup = 20, .new_rows = 1, .seed = 1, .floor = 0.1, .p = 0.1,
              .q = 0.1, .alpha = 1, .temperature = 1},
    .data = "data/toy", .known = "en,plays", .old = "en", .new = "fr", .domains = "en,plays,fr",
    .split = "val", .methods = "naive,finetune,lora,adapter,neutral,replay", .prompt = "",
    .in = "out/backbone",
    .layers = 4, .heads = 4, .channels = 128, .pretrain_steps = 1600,
    .pretrain_lr = 2e-3, .count = 100, .temperature = 0.8,
};

#define AT(field) offsetof(Settings, field)
// A setting has the name of its field, with - for _.
#define S_TEXT(f) #f, 0, TEXT, AT(f), 0, 0, NULL
#define S_WHOLE(f, least, most) #f, 0, WHOLE, AT(f), least, most, NULL
#define T_WHOLE(f, least, most) #f, 0, WHOLE, AT(train.f), least, most, NULL
#define T_FRACTION(f, most) #f, 0, FRACTION, AT(train.f), 0, most, NULL
#define T_CHOICE(f, choices) #f, 0, CHOICE, AT(train.f), 0, 0, choices

// The commands that take it, and for which methods it is: OF * the sets that they use, 0: for all.
// What no command takes is only saved with what was trained, as all of TrainConfig is.
enum { OF = 256, GATED = BOTH + OF * SET_GATE, REHEARSED = BOTH + OF * USES_OLD };
const Setting settings[] = {
    {S_TEXT(data), TRAIN | EVAL, "folder of DOMAIN_{train,val,test}.bin, tokenizer"},
    {S_TEXT(known), RUN | PRETRAIN, "domains that the backbone learns, together"},
    {S_TEXT(old), BOTH, "known domains to keep, that are trained on too"},
    {S_TEXT(new), BOTH, "domain to learn (run: or several, one by one)"},
    {S_TEXT(negatives), EXTEND + OF * SET_GATE, "domains only the local loss sees"},
    {S_TEXT(domains), EVAL, "domains to evaluate on"},
    {"choices", 0, TEXTS, AT(choices), 0, MAX_DOMAINS, NULL, EVAL,
     "instead: multiple-choice items, JSON lines (several: again)"},
    {S_TEXT(split), RUN | EVAL, "the files to evaluate on, val or test"},
    {"in", 'i', TEXT, AT(in), 0, 0, NULL, LOAD, "the model, a folder as on the Hugging Face hub"},
    {"extension", 'x', TEXTS, AT(extensions), 0, MAX_EXTENSIONS, NULL, LOAD,
     "its extension (several: in the order of training)"},
    {"out", 'o', TEXT, AT(out), 0, 0, NULL, TRAIN, "where the result goes: a folder or a file"},
    {T_CHOICE(method, METHOD_NAMES), EXTEND, "how"},
    {S_TEXT(methods), RUN, "the methods to compare"},
    {S_WHOLE(layers, 1, 1024), RUN | PRETRAIN, "transformer blocks (L)"},
    {S_WHOLE(heads, 1, 1024), RUN | PRETRAIN, "attention heads (NH)"},
    {S_WHOLE(channels, 1, 65536), RUN | PRETRAIN, "the residual stream's (C)"},
    {"context", 0, WHOLE, AT(train.seq_len), 1, LARGEST, NULL, TRAIN | EVAL,
     "tokens a sequence (T); extend, eval: the model's, if not given"},
    {S_WHOLE(pretrain_steps, 1, 1e9), RUN | PRETRAIN, "the backbone's"},
    {"pretrain_lr", 0, FRACTION, AT(pretrain_lr), 0, 10, NULL, RUN | PRETRAIN,
     "its peak learning rate"},
    {T_WHOLE(steps, 1, 1e9), BOTH, "training steps of an extension"},
    {T_WHOLE(batch, 1, 65536), TRAIN, "sequences a step (B)"},
    {T_FRACTION(lr, 10), BOTH, "peak learning rate of an extension"},
    {T_WHOLE(warmup, 0, 1e9), 0, ""},
    {T_FRACTION(floor, 1), 0, ""},
    {T_FRACTION(decay, 1), 0, ""},
    {T_FRACTION(p, 1), REHEARSED, "fraction of sequences of old domains"},
    {T_FRACTION(q, 1), REHEARSED, "and of those only the local loss sees"},
    {T_FRACTION(alpha, 1e6), GATED, "weight of the local loss"},
    {T_CHOICE(gate, "relu|sigmoid|none"), GATED, "the gate"},
    {T_CHOICE(gate_input, "layer|prefix"), GATED,
     "it reads the layer's u, or the first layer's and its mean so far"},
    {T_CHOICE(gate_init, "open|closed|random"), GATED,
     "w = 0, b = 1 (sigmoid: 0); w = b = 0; w random, b = 0"},
    {T_CHOICE(local, "l1|ce|none"), GATED,
     "local loss: |r| on old text, the gate's cross-entropy"},
    {T_CHOICE(init, "low|he"), GATED,
     "variance of Wi and Wg: 1/(C L), 2/C"},
    {T_WHOLE(hidden, 0, 65536), BOTH + OF * SET_ADAPTER,
     "width of an adapter (H); 0: a fifth of the parameters"},
    {T_WHOLE(rank, 0, 65536), BOTH + OF * SET_LORA,
     "LoRA's rank (R); 0: as many parameters as adapters have"},
    {T_WHOLE(new_rows, 0, 65536), BOTH,
     "1: train rows of wte, of tokens that only the new text has; 0: none"},
    {T_WHOLE(replay, 0, 1e9), REHEARSED,
     "tokens each age of the model writes, for the local loss"},
    {T_CHOICE(replay_as, "penalty|text"), REHEARSED,
     "whether they are also text to learn"},
    {T_FRACTION(temperature, 100), REHEARSED, "of what it writes"},
    {T_WHOLE(seed, 0, 1e15), TRAIN | SAMPLE, "of everything random"},
    {S_WHOLE(save_every, 0, 1e9), TRAIN, "steps; 0: save when interrupted"},
    {"resume", 0, FLAG, AT(resume), 0, 0, NULL, TRAIN, "go on from what the same command saved"},
    {"prompt", 'p', TEXT, AT(prompt), 0, 0, NULL, SAMPLE | GATES, "the text (or without --prompt)"},
    {"count", 'n', WHOLE, AT(count), 1, 1e9, NULL, SAMPLE, "tokens to draw"},
    {"temperature", 0, FRACTION, AT(temperature), 0, 100, NULL, SAMPLE,
     "0: always the most likely token"},
    {S_TEXT(csv), EVAL, "also write the figures to this file"},
    {S_WHOLE(threads, 0, 1024), ALL, "0: all cores (beside a busy program one, if faster)"},
};
enum { SETTINGS = sizeof settings / sizeof *settings };
_Static_assert(SETTINGS <= 64, "Settings.given has a bit for each");

// Returns the config of a method: its defaults, and what was given for it. Dies if that contradicts
// itself.
TrainConfig train_config(const Settings *s, long method) {
    Settings own = initial;
    TrainConfig *c = &own.train;
    settings_apply(&own, sizeof own.train, settings, methods[method].defaults);
    for (int i = 0; i < SETTINGS; i++) {
        const Setting *o = &settings[i];
        int uses = o->commands / OF;
        if (o->at < sizeof *c && s->given >> i & 1 && (!uses || uses & methods[method].uses))
            memcpy((char *)&own + o->at, (const char *)s + o->at, sizeof(long));
    }
    c->method = method;
    c->seq_len = s->train.seq_len;
    if (method == BACKBONE) c->steps = s->pretrain_steps, c->lr = s->pretrain_lr;
    c->warmup = min_size(c->warmup, c->steps / 10);
    if (c->local == LOCAL_CE && c->gate != GATE_SIGMOID) die("--local ce: needs --gate sigmoid");
    if (c->gate_input == INPUT_PREFIX && c->gate == GATE_NONE)
        die("--gate-input prefix: needs a --gate");
    if (c->p + c->q > 1) die("--p %g --q %g: more than 1 together", c->p, c->q);
    if (c->replay && c->local == LOCAL_NONE && c->replay_as == REPLAY_AS_PENALTY)
        die("--replay: %s has no penalty to see it (--replay-as text)", methods[method].name);
    return *c;
}

// Dies if a setting was given that none of the chosen methods uses. uses: of all of them together.
void settings_check(const Settings *s, const char *chosen, int uses) {
    for (int i = 0; i < SETTINGS; i++)
        if (s->given >> i & 1 && settings[i].commands >= OF && !(settings[i].commands / OF & uses))
            die("--%s: is not for %s", setting_name(&settings[i]), chosen);
}

// Writes all that a training depends on, for its files: the config, and a hash of the weights that
// it begins with, what they stand upon, and the texts in their roles.
void config_describe(char text[1024], const TrainConfig *c, const Model *m, const Loader *loader) {
    uint64_t data = hash_bits(m->hash[m->n_extensions], m->dims.heads) + loader->new.hash;
    for (size_t i = 0; i < loader->n_old + loader->n_penalty_only; i++)
        data = hash_bits(data, i < loader->n_old) + loader->kept[i].hash;
    text += settings_write(text, c, sizeof *c, settings, SETTINGS);
    sprintf(text, ",\"data\":\"%016" PRIx64 "\"", data);
}

void on_interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

_Noreturn void end_interrupted(const char *what, const char *how_to_go_on) {
    fprintf(stderr, "\n%s: %s interrupted: %s\n", program, what, how_to_go_on);
    if (output_temporary) unlink(output_temporary);
    exit(130);
}

// Printed first by every command that computes for long.
void print_settings(const Settings *s, const Model *m) {
    const Dims *d = &m->dims;
    printf("nr: seed %ld, threads: %d\nmodel: %zu layers, %zu heads, %zu channels, "
           "context %zu, vocabulary %zu: %.3fM parameters\n", s->train.seed, omp_get_max_threads(),
           d->layers, d->heads, d->channels, d->positions, d->vocab, 1e-6 * m->w.size);
}

// Loads an extension and plugs it in. Dies unless it was trained upon m as it is, or as it was with
// fewer extensions: those that were trained apart add up.
void extension_load(Model *m, const char *path) {
    Safetensors s = safetensors_open(path);
    Extension *x = allocate(1, sizeof *x);
    settings_load(&x->config, sizeof x->config, settings, SETTINGS, &s);
    if (methods[x->config.method].uses & SET_BACKBONE)
        die("%s: is a model, not an extension", path);
    uint64_t upon = metadata_hash(&s, "upon");
    size_t k = 0;
    x->hash = metadata_hash(&s, "hash");
    for (size_t e = 0; e < m->n_extensions; e++)
        if (m->extension[e]->hash == x->hash) die("%s: given twice", path);
    while (k < m->n_extensions && m->hash[k] != upon) k++;
    if (m->hash[k] != upon)
        die("%s: trained upon a model with hash %016" PRIx64 ", this one has %016" PRIx64
            " (-x in the order of training)", path, upon, m->hash[m->n_extensions]);
    extension_complete(x, &m->dims);
    x->ids = allocate(x->dims.new_rows, sizeof(int));
    x->w = tensors_load(&s, x->sets, &x->dims, x->ids);  // closes s
    for (size_t i = 0; i < x->dims.new_rows; i++)
        if (x->ids[i] < 0 || (size_t)x->ids[i] >= m->dims.vocab)
            die("%s: wte.ids has %d, beyond the vocabulary of %zu", path, x->ids[i], m->dims.vocab);
    extension_attach(m, x);
}

// Loads -i and every -x. Without --context, seq_len becomes the model's.
Model *model_of_settings(Settings *s) {
    Model *m = model_load(s->in);
    for (int i = 0; i < MAX_EXTENSIONS && s->extensions[i]; i++)
        extension_load(m, s->extensions[i]);
    long positions = m->dims.positions;
    if (s->train.seq_len > positions)
        die("--context %ld: the model has %ld positions", s->train.seq_len, positions);
    if (!s->train.seq_len) s->train.seq_len = positions;
    return m;
}

// Loads the texts of a training: those to learn, of a list of domains, and those to keep.
Loader loader_open(const Settings *s, const TrainConfig *c, const char *learnt,
                   const Tokenizer *t) {
    Loader loader = {.p = c->p, .q = c->q, .learn_all = c->replay_as == REPLAY_AS_TEXT,
                     .random = random_stream(c->seed, STREAM_LOADER)};
    size_t least = c->seq_len + 1;
    const char *old = c->p > 0 ? s->old : NULL;
    Tokens texts[MAX_DOMAINS], *kept = loader.kept;
    size_t n = domains_load(texts, s->data, learnt, "train", t, least);
    loader.new = tokens_join(texts, n);
    tokens_free(texts, n);
    loader.n_old = n = domains_load(kept, s->data, old, "train", t, least);
    loader.n_penalty_only = domains_load(kept + n, s->data, s->negatives, "train", t, least);
    for (n += loader.n_penalty_only; n > 0; n--)
        if (choice_index(learnt, ',', kept[n - 1].name) >= 0)
            die("--new %s: is among the old domains or the negatives", learnt);
    return loader;
}

// Trains what the settings say by a method and saves it at --out: a backbone's folder or, of the
// model -i with -x, the folder or an extension's file. Returns the model, and the seconds it took.
Model *teach(Settings *s, long method, double *seconds) {
    bool pretrain = method == BACKBONE, whole = methods[method].uses & SET_BACKBONE;
    Model *m = pretrain ? NULL : model_of_settings(s);
    TrainConfig c = train_config(s, method);
    if (pretrain) {
        Tokenizer *t = tokenizer_load(s->data);
        Dims d = {s->layers, s->heads, s->channels, c.seq_len, t->size, 0, 0, 0, 0};
        dims_check("--heads, --channels, --layers", &d);
        m = model_new(&d, &c, t);
    }
    if (whole && m->n_extensions) die("--method %s: takes no -x", methods[method].name);
    if (m->n_extensions == MAX_EXTENSIONS)
        die("at most %d extensions on one model", MAX_EXTENSIONS);
    Loader loader = loader_open(s, &c, pretrain ? s->known : s->new, m->tokenizer);
    char metadata[1024], *out = join(s->out, "", "");
    for (char *end = strchr(out, 0); end > out + 1 && end[-1] == '/';) *--end = 0;
    make_folders(out, whole);
    if (!s->quiet || pretrain) print_settings(s, m);
    Tokens *penalty_only = loader.kept + loader.n_old;
    bool *rows = allocate(m->dims.vocab, sizeof *rows);
    tokens_mark(rows, &loader.new, 1, true);
    tokens_mark(rows, penalty_only, loader.n_penalty_only, false);  // those keep their rows
    for (size_t age = 0; c.replay && age <= m->n_extensions; age++)
        penalty_only[loader.n_penalty_only++] = replay_write(m, age, &c);
    if (!whole) c = extension_new(m, &c, rows)->config;
    else tokens_mark(m->unseen, &loader.new, 1, false);

    StateFile file = {join(out, "", ".state"), metadata, s->save_every, s->resume};
    char *weights = join(out, whole ? "/model.safetensors" : "", "");
    config_describe(metadata, &c, m, &loader);
    *seconds = 0;
    bool fresh = s->resume && access(file.path, F_OK);  // no state to go on from
    if (fresh && result_load(m, weights, metadata)) {
        printf("%-9s is finished: %s\n", methods[method].name, out);
    } else if (fresh && !s->quiet) {
        die("%s: --resume, but no interrupted training is there", file.path);
    } else {
        *seconds = train(m, &c, &loader, &file);
        if (whole) model_save(m, out, metadata);
        else extension_save(m, out, metadata);
    }
    remove(file.path);
    tokens_free(loader.kept, loader.n_old + loader.n_penalty_only), free(loader.new.ids);
    free(weights), free(file.path), free(out), free(rows);
    return m;
}

// What one model does on one file. change: of the loss, since the method learnt the domain or,
// before that, since the backbone.
typedef struct {
    TrainConfig config;
    size_t stage, trained;
    double seconds, change;
    Score score;
} Result;

enum { MAX_RESULTS = (1 + METHODS * MAX_DOMAINS) * MAX_DOMAINS };

// The files that are evaluated, first those the backbone knows, and the results: for each model,
// one on each file.
typedef struct {
    const char *split;
    Tokens files[MAX_DOMAINS];
    const char *role[MAX_DOMAINS];  // old: rehearsed, known: never shown again, new
    size_t n_files, n_known, count;
    Result results[MAX_RESULTS];
} Results;

// Evaluates m, which has learnt `stage` new domains, and adds what it does.
void results_add(Results *all, const Model *m, const TrainConfig *c, size_t stage, double seconds) {
    const Extension *x = last_extension(m);
    size_t trained = x ? x->w.size : m->w.size, first = all->count;
    for (size_t i = 0; i < all->n_files; i++) {
        size_t learnt = i < all->n_known ? 0 : i - all->n_known + 1;
        size_t back = learnt && stage > learnt ? (stage - learnt) * all->n_files : first;
        Score score = evaluate(m, &all->files[i], c->seq_len);
        Result *r = &all->results[all->count++];
        *r = (Result){*c, stage, trained, seconds, 0, score};
        r->change = score.loss - (r - back)->score.loss;
    }
}

// Writes all results, a line for each model and domain; what there is not is empty.
void results_write(const Results *all, const char *path) {
    FILE *file = output_open(path);
    fprintf(file, "method,seed,stage,domain,role,split,tokens,loss,bpb,change,gate,closed,lr,alpha,"
                  "p,q,trained,seconds\n");
    for (size_t k = 0; k < all->count; k++) {
        const Result *r = &all->results[k];
        const TrainConfig *c = &r->config;
        size_t i = k % all->n_files;
        fprintf(file, "%s,%ld,%zu,%s,%s,%s,%zu,%.6f,%.6f,", methods[c->method].name, c->seed,
                r->stage, all->files[i].name, all->role[i], all->split, r->score.tokens,
                r->score.loss, r->score.bpb);
        if (k >= all->n_files) fprintf(file, "%.6f", r->change);
        if (c->gate == GATE_NONE) fprintf(file, ",,,%g,,%g,,", c->lr, c->p);
        else fprintf(file, ",%.6f,%.6f,%g,%g,%g,%g,", r->score.gate, r->score.closed, c->lr,
                     c->alpha, c->p, c->q);
        fprintf(file, "%zu,%.1f\n", r->trained, r->seconds);
    }
    output_close(file);
}

// Prints all results, in 80 columns: of every domain the loss and its change; of up to three
// domains also how many of a hundred gates are closed.
void results_print(const Results *all) {
    bool closed = all->n_files <= 3;
    printf("method     trained");
    for (size_t i = 0; i < all->n_files; i++) printf(" | %-6.6schange", all->files[i].name);
    printf("%s\n", closed ? " | closed%" : "");
    for (const Result *r = all->results; r < all->results + all->count; r += all->n_files) {
        printf("%-8s %8.3fM", methods[r->config.method].name, 1e-6 * r->trained);
        for (size_t i = 0; i < all->n_files; i++)
            printf(" | %5.3f %+6.3f", r[i].score.loss, r[i].change);
        for (size_t i = 0; closed && i < all->n_files && r->config.gate != GATE_NONE; i++)
            printf("%s%4.0f", i ? "" : " |", 100 * r[i].score.closed);
        printf("\n");
    }
}

// Continues tokens by n more at most, and prints each as it is drawn; stops at an end of text if
// `stop`. Returns how many were drawn.
long continue_text(const Model *m, const int *tokens, size_t count, long n, double temperature,
                   long seed, bool stop) {
    Sampler s = sampler_new(m, tokens, count, temperature, random_stream(seed, STREAM_SAMPLING));
    long drawn = 0;
    for (; drawn < n && !interrupted; drawn++) {
        int token = sampler_next(&s);
        if (stop && token == m->tokenizer->size - 1) break;
        print_bytes(m->tokenizer, token);
        fflush(stdout);
    }
    free(s.a.memory), free(s.tokens);
    return drawn;
}

// Prints how a file begins and how a model goes on, on one line.
void print_sample(const Model *m, const Tokens *file, long seed) {
    int prompt[9] = {m->tokenizer->size - 1};
    size_t shown = min_size(8, file->count);
    printf("          %.8s: ", file->name);
    for (size_t i = 0; i < shown; i++) print_bytes(m->tokenizer, prompt[i + 1] = file->ids[i]);
    printf(" |");
    continue_text(m, prompt, 1 + shown, 40, 0.5, seed, true);
    printf("\n");
}

// Checks the methods of --methods and their settings, before anything is trained.
void methods_check(const Settings *s) {
    int uses = 0, found = 0;
    for (long i = NAIVE; i < METHODS; i++) {
        if (choice_index(s->methods, ',', methods[i].name) < 0) continue;
        train_config(s, i);
        uses |= methods[i].uses;
        found++;
    }
    if (found != list_length(s->methods))
        die("--methods %s: expected some of %s, each once", s->methods,
            strchr(METHOD_NAMES, '|') + 1);
    settings_check(s, s->methods, uses);
}

// Loads the files that a run evaluates on, and says what they are to it. Those that it trains on
// must be there, too.
void results_open(Results *all, const Settings *s) {
    Tokenizer *t = tokenizer_load(s->data);
    char *domains = join(s->known, ",", s->new);
    int n_old = 0;
    all->split = s->split;
    all->n_known = list_length(s->known);
    all->n_files = domains_load(all->files, s->data, domains, "train", t, s->train.seq_len + 1);
    tokens_free(all->files, all->n_files);
    domains_load(all->files, s->data, domains, s->split, t, 2);
    for (size_t i = 0; i < all->n_files; i++) {
        bool is_old = i < all->n_known && choice_index(s->old, ',', all->files[i].name) >= 0;
        all->role[i] = i >= all->n_known ? "new" : is_old ? "old" : "known";
        n_old += is_old;
    }
    if (n_old < list_length(s->old)) die("--old %s: expected some of --known %s", s->old, s->known);
    tokenizer_free(t), free(domains);
}

// The experiment: a backbone of the known domains, extended from the same weights with the same
// data by each method, to one new domain or to several, where each is an old one to those behind
// it.
void command_run(Settings *s) {
    static Results all;
    methods_check(s);
    results_open(&all, s);
    if (!s->out) s->out = "out";
    s->quiet = true;
    make_folders(s->out, true);
    char *csv = join(s->out, "/", "results.csv"), *before = folder_list(s->out, "");
    if (*before) printf("%s: has %s; what this run makes anew is replaced\n", s->out, before);
    for (long method = BACKBONE; method < METHODS; method++) {
        Settings own = *s;
        bool whole = methods[method].uses & SET_BACKBONE;
        int chosen = choice_index(s->methods, ',', methods[method].name) >= 0;
        int stages = method == BACKBONE ? 1 : chosen * list_length(s->new);
        char *strings[1 + 2 * MAX_DOMAINS];
        size_t n = 0;
        own.in = strings[n++] = join(s->out, "/", "backbone");
        for (int i = 0; i < stages; i++) {
            char name[128];
            double seconds;
            own.new = all.files[all.n_known + i].name;
            snprintf(name, sizeof name, "/%s%s%.40s%s", methods[method].name, stages > 1 ? "-" : "",
                     stages > 1 ? own.new : "", whole ? "" : ".safetensors");
            own.out = strings[n++] = join(s->out, "", name);
            Model *m = teach(&own, method, &seconds);
            TrainConfig c = train_config(s, method);
            results_add(&all, m, &c, method == BACKBONE ? 0 : i + 1, seconds);
            results_write(&all, csv);
            for (size_t k = 0; k < all.n_files; k++) print_sample(m, &all.files[k], c.seed);
            printf("\n");
            if (whole) own.in = own.out;
            else own.extensions[i] = own.out;
            own.old = strings[n++] = join(own.old, ",", own.new);
            model_free(m);
        }
        while (n > 0) free(strings[--n]);
    }
    results_print(&all);
    printf("in nats a token; change: since the domain was learnt, before since the backbone\n\n"
           "%s written; make figure RESULTS=%s draws it\n", csv, csv);
    tokens_free(all.files, all.n_files), free(csv), free(before);
}

// Trains a backbone, or extends a model by one method.
void command_train(Settings *s, long method) {
    double seconds;
    if (!s->out) die("-o is missing: the folder or the file to write");
    settings_check(s, methods[method].name, methods[method].uses);
    model_free(teach(s, method, &seconds));
    printf("%s written after %.0f s\n", s->out, seconds);
}

void command_pretrain(Settings *s) { command_train(s, BACKBONE); }
void command_extend(Settings *s) {
    if (s->train.method == BACKBONE) die("--method backbone: nr pretrain does that");
    command_train(s, s->train.method);
}

// Answers a multiple-choice item as lm-evaluation-harness does: by the ending that is likeliest
// after the context, in all (acc) or for each of its characters (acc_norm), and counts in `right`
// which of the two is. The context is run once, but for its last token, which predicts the endings'
// first. a is for one sequence.
void item_answer(const Model *m, const Item *item, Activations *a, size_t right[2]) {
    double least[2] = {INFINITY, INFINITY};
    size_t best[2] = {0}, start = item->context - 1;
    a->n_logits = 0;
    model_forward(m, a, item->ids[0], 1, start, 0);
    for (size_t k = 0; k < item->endings; k++) {
        int *tokens = item->ids[k] + start;
        size_t n = a->n_logits = item->count[k] - item->context;
        real *losses = a->own.at[A_LOSSES];
        model_forward(m, a, tokens, 1, start + n, start);
        crossentropy_forward(losses, a->own.at[A_LOGITS], tokens + 1, n, m->dims.vocab);
        double loss = total(n, losses), of[] = {loss, loss / item->characters[k]};
        for (int i = 0; i < 2; i++)
            if (of[i] < least[i]) least[i] = of[i], best[i] = k;
    }
    for (int i = 0; i < 2; i++) right[i] += best[i] == item->label;
    for (size_t k = 0; k < item->endings; k++) free(item->ids[k]);
}

// Answers the items of files. Prints the share of right answers, and what it would be by chance.
void eval_choices(const Settings *s, const Model *m) {
    size_t P = m->dims.positions, count;
    Activations a = activations_new(m, 1, P, P, false);
    FILE *csv = s->csv ? output_open(s->csv) : NULL;
    if (csv) fprintf(csv, "file,items,acc,acc_norm,chance\n");
    printf("\n   items     acc  acc_norm   chance\n");
    for (const char *const *path = s->choices; *path; path++) {
        Item *items = items_load(*path, m->tokenizer, P, &count);
        size_t right[2] = {0};
        double start = now(), chance = 0, n = count;
        for (size_t i = 0; i < count; i++) {
            item_answer(m, &items[i], &a, right);
            chance += 1 / n / items[i].endings;
            progress("choices", i + 1, count, *path, start, P);
            if (interrupted) end_interrupted("evaluation", "start it again");
        }
        printf("%8zu %7.4f %9.4f %8.4f  %s\n", count, right[0] / n, right[1] / n, chance, *path);
        if (csv)
            fprintf(csv, "%s,%zu,%f,%f,%f\n", *path, count, right[0] / n, right[1] / n, chance);
        free(items);
    }
    if (csv) output_close(csv);
    free(a.memory);
}

// Prints how well whole files are predicted, and how far the gates open on them.
void command_eval(Settings *s) {
    static Results all;
    Model *m = model_of_settings(s);
    const Extension *x = last_extension(m);
    TrainConfig c = x ? x->config : train_config(s, BACKBONE);
    bool gated = x && x->sets & SET_GATE;
    if (s->csv) make_folders(s->csv, false);
    print_settings(s, m);
    if (*s->choices) {
        eval_choices(s, m);
        model_free(m);
        return;
    }
    c.seq_len = s->train.seq_len;
    all.split = s->split;
    all.n_files = all.n_known = domains_load(all.files, s->data, s->domains, s->split,
                                             m->tokenizer, 2);
    for (size_t i = 0; i < all.n_files; i++) all.role[i] = "";
    results_add(&all, m, &c, m->n_extensions, 0);
    printf("\n%-8s     tokens      nats  perplexity  bits/byte", s->split);
    if (gated) printf("    gate  closed");
    for (size_t i = 0; i < all.n_files; i++) {
        const Score *at = &all.results[i].score;
        printf("\n%-8s %10zu %9.4f %11.3f %10.4f", all.files[i].name, at->tokens, at->loss,
               exp(at->loss), at->bpb);
        if (gated) printf("%8.3f %6.1f%%", at->gate, 100 * at->closed);
    }
    printf("\n");
    if (s->csv) results_write(&all, s->csv);
    tokens_free(all.files, all.n_files);
    model_free(m);
}

// Continues a text.
void command_sample(Settings *s) {
    Model *m = model_of_settings(s);
    size_t count;
    int *prompt = tokenizer_encode(m->tokenizer, s->prompt, strlen(s->prompt), &count);
    int end = m->tokenizer->size - 1;
    printf("%s", s->prompt);
    double start = now();
    long drawn = continue_text(m, count ? prompt : &end, count ? count : 1, s->count,
                               s->temperature, s->train.seed, false);
    printf("\n");
    fprintf(stderr, "[%ld tokens, %.0f tokens/s]\n", drawn, drawn / (now() - start));
    free(prompt);
    model_free(m);
}

// Shows on a text where the gates of the last extension open: a line for each token, with the mean
// over the layers. (Of a character that is several tokens dots are shown.)
void command_gates(Settings *s) {
    Model *m = model_of_settings(s);
    const Extension *x = last_extension(m);
    size_t count, length;
    int *tokens = tokenizer_encode(m->tokenizer, s->prompt, strlen(s->prompt), &count);
    if (!x || !(x->sets & SET_GATE) || !count || count > m->dims.positions)
        die("gates: expected -x FILE that has gates, and a text of 1 to %zu tokens, here %zu",
            m->dims.positions, count);
    Activations a = activations_new(m, 1, count, 1, false);
    model_forward(m, &a, tokens, 1, count, 0);
    for (size_t t = 0; t < count; t++) {
        double mean = 0;
        const char *bytes = tokenizer_bytes(m->tokenizer, tokens[t], &length);
        for (size_t l = 0; l < m->dims.layers; l++)
            mean += residue_at(m, &a, m->n_extensions - 1, l).gate[t] / m->dims.layers;
        printf("%6.3f %-20.*s ", mean, (int)(10 * mean), "####################");
        print_visible(bytes, length);
        printf("\n");
    }
    free(a.memory), free(tokens);
    model_free(m);
}

const struct {
    const char *name;
    void (*run)(Settings *s);
    const char *about, *example;
} commands[] = {  // in the order of their bits
    {"run", command_run, "train a backbone, extend it by each method, compare (the default)",
     "nr run --data data/multi30k --old en --new fr"},
    {"pretrain", command_pretrain, "train a backbone",
     "nr pretrain --data data/multi30k --known en -o models/en"},
    {"extend", command_extend, "teach a model a new domain by one method",
     "nr extend -i models/en --data data/multi30k --old en --new fr -o fr.safetensors"},
    {"eval", command_eval, "losses and gates on whole files",
     "nr eval -i models/en -x fr.safetensors --data data/multi30k --domains en,fr"},
    {"sample", command_sample, "continue a text",
     "nr sample -i models/en -x fr.safetensors -n 40 \"Un homme\""},
    {"gates", command_gates, "where, token by token, the gates of an extension open",
     "nr gates -i models/en -x fr.safetensors \"A man who sings. Un homme qui chante.\""},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

// Prints the manual of command c, with the values in s; of none: what commands there are.
void print_help(const Settings *s, int c) {
    if (c < 0) {
        printf("nr 2.0: teach a GPT a new language without forgetting the old\n\n");
        for (int i = 0; i < COMMANDS; i++)
            printf("  nr %-9s %s\n", commands[i].name, commands[i].about);
        printf("\nnr help COMMAND lists the options of a command. nr alone is nr run.\n");
        return;
    }
    printf("nr %s: %s\n\n  %s\n\n", commands[c].name, commands[c].about, commands[c].example);
    settings_print(s, settings, SETTINGS, 1 << c);
    if (!(1 << c & BOTH)) return;
    printf("\nMethods, and the defaults they set:\n");
    for (int i = NAIVE; i < METHODS; i++)
        printf("  %-9s %-40s  %s\n", methods[i].name, methods[i].about, methods[i].defaults);
}

#ifndef NR_LIBRARY
// Finds the command, reads its settings, runs it. Ctrl-C is noted, and seen to where it is safe.
int main(int argc, char **argv) {
    program = "nr";
    int file, c = 0;  // file takes the place of a closed standard stream, which none else shall get
    while ((file = open("/dev/null", O_RDONLY)) >= 0 && file <= STDERR_FILENO) {}
    close(file);
    struct sigaction action = {.sa_handler = on_interrupt,
                               .sa_flags = SA_RESETHAND | SA_RESTART};
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (int i = 0; i < 3; i++) {
        struct sigaction before;
        sigaction(signals[i], NULL, &before);
        if (before.sa_handler != SIG_IGN) sigaction(signals[i], &action, NULL);  // nohup stays
    }
    int asks = argc > 1 && !strcmp(argv[1], "help");
    argv += asks, argc -= asks;
    int named = argc > 1 && *argv[1] != '-';
    while (named && c < COMMANDS && strcmp(commands[c].name, argv[1])) c++;
    if (c == COMMANDS)
        die("%s: not a command, expected run, pretrain, extend, eval, sample or gates (nr --help)",
            argv[1]);
    Settings s = initial;
    if (1 << c & LOAD) s.train.seq_len = 0;  // the model's
    char **words = argv + 1 + named;
    int count = asks ? -1 : settings_read(&s, settings, SETTINGS, &s.given, 1 << c,
                                          commands[c].name, argc - 1 - named, words);
    if (count > 0 && !(1 << c & (SAMPLE | GATES)))
        die("%s: not an option of %s (nr %s --help)", words[0], commands[c].name, commands[c].name);
    char *prompt = join(s.prompt, "", ""), *shorter;
    for (int i = 0; i < count; i++, free(shorter))
        prompt = join(shorter = prompt, *prompt ? " " : "", words[i]);
    s.prompt = prompt;
    if (s.threads) omp_set_num_threads(s.threads);
    omp_set_max_active_levels(1);  // threads inside threads would each have a scratch of their own
    if (count < 0) print_help(&s, named ? c : -1);
    else commands[c].run(&s);
    free(prompt);
    finish_stdout();
    return interrupted ? 130 : 0;
}
#endif

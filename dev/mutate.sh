#!/bin/sh
# dev/mutate.sh [N [SEED]]: would the tests notice? Breaks one term of a forward or backward pass at a time (a sign, a factor, an
# index) and runs the gradient tests on the broken copy: they must fail. All of the list below, or N of it drawn at random.
#
# A line is  WHAT STANDS IN nr.c => WHAT IT BECOMES; the left side must be there (the first place counts), so that the list cannot
# fall behind the code.
set -u
cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

cat >"$work/list" <<'END'
if (dx) matmul(dx, I, n, I, O, plain(dout, O), transposed(w, O), NULL, add); => if (dx) matmul(dx, I, n, I, O, plain(dout, O), transposed(w, O), NULL, NULL);
dbias[j] += dout[t * O + j]; => dbias[j] += dout[j];
c[i * c_row + j] = tile[i * PANEL + j] + (add ? => c[i * c_row + j] = tile[i * PANEL + j] - (add ?
k0 ? c + at : add ? add + at : NULL); => k0 > KC ? c + at : add ? add + at : NULL);
if (bias) sum[i][j] += load(bias + j * LANES); => if (bias) sum[i][j] += load(bias);
c[j] += x0 * w[j] + x1 * w[b.row + j] => c[j] += x0 * w[j] - x1 * w[b.row + j]
o[i] = o[i] * r * w[i] + b[i]; => o[i] = o[i] * r * w[i] - b[i];
(real)1e-5) => (real)1e-2)
r * (g[i] - mean_g - z[i] * mean_gz); => r * (g[i] + mean_g - z[i] * mean_gz);
r * (g[i] - mean_g - z[i] * mean_gz); => r * (g[i] - mean_g - mean_gz);
r * (g[i] - mean_g - z[i] * mean_gz); => g[i] - mean_g - z[i] * mean_gz;
dw[j] += dout[t * C + j] * (x[t * C + j] - stats[2 * t]) * stats[2 * t + 1]; => dw[j] += dout[t * C + j] * (x[t * C + j] - stats[2 * t]);
db[j] += dout[t * C + j]; => db[j] -= dout[t * C + j];
x[i] * sigmoid(GELU_2K * (x[i] + GELU_A => x[i] * sigmoid(GELU_2K * (x[i] - GELU_A
(1 + 3 * GELU_A * square) => (1 + 2 * GELU_A * square)
(s + x[i] * s * (1 - s) * GELU_2K => (s - x[i] * s * (1 - s) * GELU_2K
exponential((row[i] - max) * scale) => exponential((row[i] - max))
const real norm = 1 / total(t + 1, row); => const real norm = 1 / total(t + 1, row) * (real)1.01;
at[i] * (ds[t * t1 + i] - sum) * scale; => at[i] * (ds[t * t1 + i] - sum);
at[i] * (ds[t * t1 + i] - sum) * scale; => at[i] * (ds[t * t1 + i]) * scale;
plain(q + t0 * 3 * C, 3 * C), NULL, t1 < T ? dk : NULL); => plain(q + t0 * 3 * C, 3 * C), NULL, NULL);
plain(d, C), NULL, t1 < T ? dv : NULL); => plain(d, C), NULL, NULL);
plain(ds, t1), plain(k, 3 * C) => plain(ds, t1), plain(v, 3 * C)
plain(d, C), transposed(v, 3 * C) => plain(d, C), transposed(k, 3 * C)
const real *q = qkv + first, *k = q + C, => const real *q = qkv + first, *k = q + 2 * C,
*position = wpe + (start + t % (T - start)) * C => *position = wpe + (start + t % (T - start) / 2) * C
dwte[(size_t)row * C + i] += dx[t * C + i]; => dwte[(size_t)row * C + i] = dx[t * C + i];
dwpe[t % T * C + i] += dx[t * C + i]; => dwpe[t % T * C + i] = dx[t * C + i];
if (targets[t] >= 0) p[targets[t]] -= scale; => if (targets[t] >= 0) p[targets[t]] += scale;
const real keep = targets[t] < 0 ? 0 : scale; => const real keep = scale;
n_targets ? 1 / (double)n_targets : 0; => n_targets ? 1 / (double)a->n : 0;
hidden[i] = wg_u[i] * sigmoid(wg_u[i]) * wi_u[i]; => hidden[i] = wg_u[i] * sigmoid(wi_u[i]) * wi_u[i];
dwg[i] = d * wi_u[i] * (s + x * s * (1 - s)); => dwg[i] = d * wi_u[i] * (s - x * s * (1 - s));
dwi[i] = d * x * s; => dwi[i] = d * s;
out[t * C + i] += g * a[i]; => out[t * C + i] += a[i];
: g * total_size(C, a) / (real)C; => : total_size(C, a) / (real)C;
- (old[t] ? 0 : z) => - (old[t] ? z : 0)
penalty = local == LOCAL_L1 && old[t] && g > 0 ? weight : 0; => penalty = local == LOCAL_L1 && g > 0 ? weight : 0;
dr[i] = dout[t * C + i] + penalty * => dr[i] = dout[t * C + i] - penalty *
a[i] = g * dr[i]; => a[i] = dr[i];
(g > 0 ? dg : 0) => dg
dg * g * (1 - g) : 0; => dg * g : 0;
weight * (g - (old[t] ? 0 : 1)); => weight * (g - (old[t] ? 1 : 0));
linear_backward(du, d.wg, NULL, dwg_u, u, w.wg, du, n, C, H); => linear_backward(du, d.wg, NULL, dwg_u, u, w.wi, du, n, C, H);
dz, r.from, w.gate_w, dfrom, n, G, 1); => dz, r.from, w.gate_w, NULL, n, G, 1);
dz, r.from, w.gate_w, dfrom, n, G, 1); => dz, u, w.gate_w, dfrom, n, G, 1);
linear_backward(dfrom, d.gate_w, d.gate_b, dz, => linear_backward(dfrom, d.gate_w, NULL, dz,
mean[i] = before[i] + (ut[i] - before[i]) / count; => mean[i] = before[i] + (ut[i] + before[i]) / count;
dmean[i] = dmean[i] / (real)(t + 1) + => dmean[i] = dmean[i] / (real)(t + 2) +
du[(b * T + t) * C + i] += d[i] + dmean[i]; => du[(b * T + t) * C + i] += d[i];
if (l == 0 && context) context_backward => if (l == 1 && context) context_backward
if (context) memset(a->dcontext.at, => if (!context) memset(a->dcontext.at,
plain(tensor(&x->w, linears[k].lora_b, l), O), => plain(tensor(&x->w, linears[k].lora_b, 0), O),
linear_backward(dlow, db, NULL, dout, low, b, NULL, n, R, O); => linear_backward(dlow, NULL, NULL, dout, low, b, NULL, n, R, O);
linear_backward(dx, da, NULL, dlow, x, a, dx, n, I, R); => linear_backward(dx, da, NULL, dlow, x, a, NULL, n, I, R);
n_local += L; => n_local += 1;
(penalty == LOCAL_L1 ? (double)C : 1) => (penalty == LOCAL_L1 ? 1 : 1)
block_linear_backward(m, a, grad, FC, l, du, true, => block_linear_backward(m, a, grad, FC, l, du, false,
block_linear_backward(m, a, grad, PROJ, l, du, false, dx, => block_linear_backward(m, a, grad, PROJ, l, du, true, dx,
const bool below = l > 0 || embedding, inside => const bool below = l > 0, inside
logits[t * V + (size_t)x->ids[i]] => logits[t * V + i]
mt[i] = b1 * mt[i] + (1 - b1) * gi; => mt[i] = b1 * mt[i] + gi;
vt[i] = b2 * vt[i] + (1 - b2) * gi * gi; => vt[i] = b2 * vt[i] + (1 - b2) * gi;
wt[i] = wt[i] * keep - => wt[i] = wt[i] -
(table[id].rows == '1' ? 1 : 1 - lr * decay) => (1 - lr * decay)
(norm > clip ? clip / norm : 1) => 1
END
total=$(wc -l <"$work/list")
awk -v n="${1:-$total}" -v seed="${2:-$(date +%s)}" 'BEGIN { srand(seed) } { line[NR] = $0 }
    END { for (i = NR; i > 1; i--) { j = int(rand() * i) + 1; t = line[i]; line[i] = line[j]; line[j] = t }
          for (i = 1; i <= NR && i <= n; i++) print line[i] }' "$work/list" >"$work/some"

noticed=0 missed=0
cp tokenizer.c test_nr.c "$work/" && mkdir "$work/dev" && cp -r dev/reference.safetensors dev/tiny_gpt2 "$work/dev/" || exit 1
while IFS= read -r line; do
    awk -v line="$line" 'BEGIN { at = index(line, " => "); old = substr(line, 1, at - 1); new = substr(line, at + 4) }
        !done && (i = index($0, old)) { $0 = substr($0, 1, i - 1) new substr($0, i + length(old)); done = 1 }
        { print } END { exit !done }' nr.c >"$work/nr.c" || { echo "not in nr.c any more: ${line%% =>*}"; missed=$((missed + 1)); continue; }
    if ! (cd "$work" && $CC -O2 -march=native -std=c11 -w -ffp-contract=fast -fno-math-errno -DREAL=double -o test test_nr.c -lm) 2>"$work/log"; then
        echo "does not compile: $line"; missed=$((missed + 1))
    elif (cd "$work" && ./test) >"$work/log" 2>&1; then
        echo "NOT NOTICED: $line"; missed=$((missed + 1))
    else
        echo "noticed: $line"; noticed=$((noticed + 1))
    fi
done <"$work/some"
echo "$noticed noticed, $missed missed, of $total in the list"
[ "$missed" = 0 ]

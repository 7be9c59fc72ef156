#!/bin/sh
# dev/mutate.sh [N [SEED]]: would the tests notice? Breaks one term at a time (a sign, a factor, an
# index, a role of the loader) and runs the tests in double on the broken copy: they must fail. All
# of the list below, or N of it drawn at random.
#
# A line is  WHAT STANDS IN nr.c => WHAT IT BECOMES; the left side must be there (the first place
# counts), so that the list cannot fall behind the code.
set -u
cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

cat >"$work/list" <<'END'
if (dx) matmul(dx, I, n, I, O, plain(dout, O), transposed(w, O), NULL, add); => if (dx) matmul(dx, I, n, I, O, plain(dout, O), transposed(w, O), NULL, NULL);
dbias[j] += dout[t * O + j]; => dbias[j] += dout[j];
tile[i * PANEL + j] + more + => tile[i * PANEL + j] - more +
sum = k0 ? at : add ? add + (at - c) : NULL; => sum = k0 > KC ? at : add ? add + (at - c) : NULL;
if (bias) sum[i][j] += load(bias + j * LANES); => if (bias) sum[i][j] += load(bias);
c[j] += x[0] * w[j] + x[1] * => c[j] += x[0] * w[j] - x[1] *
of[] = {loss, loss / item->characters[k]}; => of[] = {loss, loss};
model_forward(m, a, tokens, 1, start + n, start); => model_forward(m, a, tokens, 1, start + n, 0);
right[i] += best[i] == item->label; => right[i] += best[0] == item->label;
s.gate += gate[i], s.closed += gate[i] == 0; => s.gate += gate[i], s.closed += gate[i] > 0;
o[i] = o[i] * rstd * w[i] + b[i]; => o[i] = o[i] * rstd * w[i] - b[i];
(real)1e-5) => (real)1e-2)
rstd * (dz[i] - mean_dz - z[i] * mean_dzz); => rstd * (dz[i] + mean_dz - z[i] * mean_dzz);
rstd * (dz[i] - mean_dz - z[i] * mean_dzz); => rstd * (dz[i] - mean_dz - mean_dzz);
rstd * (dz[i] - mean_dz - z[i] * mean_dzz); => dz[i] - mean_dz - z[i] * mean_dzz;
dw[j] += dout[t * C + j] * (x[t * C + j] - stats[2 * t]) * stats[2 * t + 1]; => dw[j] += dout[t * C + j] * (x[t * C + j] - stats[2 * t]);
db[j] += dout[t * C + j]; => db[j] -= dout[t * C + j];
x[i] * sigmoid(GELU_2K * (x[i] + GELU_A => x[i] * sigmoid(GELU_2K * (x[i] - GELU_A
(1 + 3 * GELU_A * square) => (1 + 2 * GELU_A * square)
(s + x[i] * s * (1 - s) * GELU_2K => (s - x[i] * s * (1 - s) * GELU_2K
exponential((x[i] - max) * scale); => exponential(x[i] - max);
sum = total(n, x), norm = 1 / sum; => sum = total(n, x), norm = 1 / sum * (real)1.01;
at[i] * (dst[i] - sum) * scale; => at[i] * (dst[i] - sum);
at[i] * (dst[i] - sum) * scale; => at[i] * dst[i] * scale;
queries, NULL, dk); => queries, NULL, NULL);
transposed(a, T), plain(d, C), NULL, dv); => transposed(a, T), plain(d, C), NULL, NULL);
plain(ds, t1), keys, NULL, NULL); => plain(ds, t1), plain(v, 3 * C), NULL, NULL);
plain(d, C), transposed(v, 3 * C) => plain(d, C), transposed(k, 3 * C)
*q = qkv + first, *k = q + C, => *q = qkv + first, *k = q + 2 * C,
*position = wpe + (start + t % (T - start)) * C => *position = wpe + (start + t % (T - start) / 2) * C
dwte[tokens[t] * C + i] += dx[t * C + i]; => dwte[tokens[t] * C + i] = dx[t * C + i];
dwpe[t % T * C + i] += dx[t * C + i]; => dwpe[t % T * C + i] = dx[t * C + i];
if (targets[t] >= 0) p[targets[t]] -= scale; => if (targets[t] >= 0) p[targets[t]] += scale;
keep = targets[t] < 0 ? 0 : scale; => keep = scale;
loss.lm_scale += batch->targets[i] >= 0; => loss.lm_scale += 1;
hidden[i] = wg_u[i] * sigmoid(wg_u[i]) * wi_u[i]; => hidden[i] = wg_u[i] * sigmoid(wi_u[i]) * wi_u[i];
dwg[i] = d * wi_u[i] * (s + x * s * (1 - s)); => dwg[i] = d * wi_u[i] * (s - x * s * (1 - s));
dwi[i] = d * x * s; => dwi[i] = d * s;
o[i] += g * a[i], => o[i] += a[i],
r.l1[rows[k]] = g * l1 / C; => r.l1[rows[k]] = l1 / C;
if (m == 1 && n > 1) rows[m++] = rows[0] ? 0 : 1; => 
end < m && rows[end] / KC == rows[k] / KC;) end++; => end < m;) end++;
scatter(du, open_du, rows, m, C); => scatter(du, open_du, rows, m / 2, C);
if (du) gather(open_du, du, rows, m, C); => if (du) gather(open_du, r.open_u, rows, m, C);
memset(r.z, 0, n * sizeof(real)); => 
- (is_old ? 0 : z); => - (is_old ? z : 0);
log1p(exp(-fabs(z))) + (z > 0 ? z : 0) => log1p(exp(-fabs(z))) + (z > 0 ? 0 : z)
penalty = local == LOCAL_L1 && is_old[t] && g > 0 ? weight : 0; => penalty = local == LOCAL_L1 && g > 0 ? weight : 0;
dr[i] = dout[t * C + i] + penalty * => dr[i] = dout[t * C + i] - penalty *
a[i] = g * dr[i]; => a[i] = dr[i];
GATE_RELU && g > 0 ? dg => GATE_RELU ? dg
dg * g * (1 - g) : 0; => dg * g : 0;
weight * (g - (is_old[t] ? 0 : 1)); => weight * (g - (is_old[t] ? 1 : 0));
open_rows_backward(open_du, dw.wg, dwg_u, r.open_u, w.wg, open_du, rows, m, C, H); => open_rows_backward(open_du, dw.wg, dwg_u, r.open_u, w.wi, open_du, rows, m, C, H);
dz, r.gate_input, w.gate_w, dinput, n, G, 1); => dz, r.gate_input, w.gate_w, NULL, n, G, 1);
dz, r.gate_input, w.gate_w, dinput, n, G, 1); => dz, r.open_u, w.gate_w, dinput, n, G, 1);
linear_backward(dinput, dw.gate_w, dw.gate_b, dz, => linear_backward(dinput, dw.gate_w, NULL, dz,
mean[i] = before[i] + (ut[i] - before[i]) / count; => mean[i] = before[i] + (ut[i] + before[i]) / count;
*before = t ? mean - 2 * C : ut; => *before = t > start ? mean - 2 * C : ut;
dmean[i] = dmean[i] / (t + 1) + => dmean[i] = dmean[i] / (t + 2) +
du[(b * T + t) * C + i] += d[i] + dmean[i]; => du[(b * T + t) * C + i] += d[i];
if (l == 0 && m->dims.gate_in) prefix_backward => if (l == 1 && m->dims.gate_in) prefix_backward
memset(s->at[A_DPREFIX], 0, n * m->dims.gate_in * => memset(s->at[A_DPREFIX], 0, 0 * n * m->dims.gate_in *
dlogits[t * V + ids[i]]; => dlogits[t * V + i];
matmul(drows, C, N, C, n, transposed(picked, N), plain(lnf, C), NULL, NULL); => matmul(drows, C, N, C, n, transposed(picked, N), plain(lnf, C), NULL, drows);
real *to = wte + ids[i] * C; => real *to = wte + i * C;
c < C && tokens[t] == ids[i]; c++) => c < C && tokens[t] == ids[0]; c++)
linear_forward(out, low, tensor(&own->w, lora_b, l), NULL, out, => linear_forward(out, low, tensor(&own->w, lora_b, 0), NULL, out,
NULL, dout, low, tensor(&own->w, lora_b, l), => NULL, dout, low, tensor(&own->w, lora_b, 0),
linear_backward(dx, tensor(d, lora_a, l), NULL, dlow, x, => linear_backward(dx, tensor(d, lora_a, l), NULL, dlow, low,
l++, loss.local_scale++) => l++, loss.local_scale += 2)
kind == LOCAL_NONE || (kind == LOCAL_L1 && !is_old) => kind == LOCAL_NONE || !is_old
loss.local_scale / (local == LOCAL_L1 ? C : 1); => loss.local_scale;
x->config.alpha * loss.local_scale => x->config.alpha * loss.lm_scale
local = last ? x->config.local : LOCAL_NONE; => local = x->config.local;
block_linear_backward(m, a, grad, FC, l, du, true, => block_linear_backward(m, a, grad, FC, l, du, false,
block_linear_backward(m, a, grad, PROJ, l, dy, false, dx, => block_linear_backward(m, a, grad, PROJ, l, dy, true, dx,
bool below = l > 0 || grad->at[WTE] || grad->at[NEW_ROWS], => bool below = l > 0,
mt[i] = b1 * mt[i] + (1 - b1) * gi; => mt[i] = b1 * mt[i] + gi;
vt[i] = b2 * vt[i] + (1 - b2) * gi * gi; => vt[i] = b2 * vt[i] + (1 - b2) * gi;
wt[i] = wt[i] * keep - => wt[i] = wt[i] -
keep = table[id].rows == '1' ? 1 : 1 - lr * decay => keep = 1 - lr * decay
scale = norm > clip ? clip / norm : 1 => scale = 1
return c->lr * (c->floor + (1 - c->floor) => return c->lr * (c->floor + 1
is_old = x < p, => is_old = x < q,
pick(loader->kept, loader->n_old, x / p) => pick(loader->kept, loader->n_old, x)
pick(loader->kept + loader->n_old, => pick(loader->kept,
penalty_only && !loader->learn_all ? -1 => !loader->learn_all ? -1
= is_old || penalty_only; => = is_old;
[INIT_GATE_W] = c->gate_init == START_RANDOM => [INIT_GATE_W] = c->gate_init == START_CLOSED
c->gate == GATE_RELU && c->gate_init == START_OPEN => c->gate_init == START_OPEN
(c->init == VARIANCE_HE ? 2 : 1 / L) => (c->init == VARIANCE_HE ? 2 : 1)
END
total=$(wc -l <"$work/list")
awk -v n="${1:-$total}" -v seed="${2:-$(date +%s)}" 'BEGIN { srand(seed) } { line[NR] = $0 }
    END { for (i = NR; i > 1; i--) { j = int(rand() * i) + 1; t = line[i]; line[i] = line[j]; line[j] = t }
          for (i = 1; i <= NR && i <= n; i++) print line[i] }' "$work/list" >"$work/some"

noticed=0 missed=0
cp tokenizer.c test_nr.c "$work/" && mkdir "$work/dev" || exit 1
cp -r dev/reference.safetensors dev/tiny_gpt2 "$work/dev/" || exit 1
$CC -O1 -std=c11 -o "$work/tokenizer" tokenizer.c || exit 1  # the tests' data are made with it

build() { (cd "$work" && $CC -O1 -march=native -std=c11 -w -ffp-contract=fast -fno-math-errno \
    -DREAL=double -o test test_nr.c -lm) 2>"$work/log"; }
run() { (cd "$work" && ./test) >"$work/log" 2>&1; }

cp nr.c "$work/" || exit 1
if ! build || ! run; then cat "$work/log"; echo "fails before anything is broken"; exit 1; fi
while IFS= read -r line; do
    awk -v line="$line" 'BEGIN { at = index(line, " => "); old = substr(line, 1, at - 1); new = substr(line, at + 4) }
        !done && (i = index($0, old)) { $0 = substr($0, 1, i - 1) new substr($0, i + length(old)); done = 1 }
        { print } END { exit !done }' nr.c >"$work/nr.c" ||
        { echo "not in nr.c any more: ${line%% =>*}"; missed=$((missed + 1)); continue; }
    if ! build; then echo "does not compile: $line"; missed=$((missed + 1))
    elif run; then echo "NOT NOTICED: $line"; missed=$((missed + 1))
    else echo "noticed: $line"; noticed=$((noticed + 1)); fi
done <"$work/some"
echo "$noticed noticed, $missed missed, of $total in the list"
[ "$missed" = 0 ]

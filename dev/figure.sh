#!/bin/sh
# dev/figure.sh [CSV]: draws what dev/results.sh found (dev/results.csv, or another file of its making), as an SVG on standard
# output: loss on the old language against loss on the new one, a curve a method over its learning rates. `make figure` puts it
# into dev/figure.svg. Losses are of the test split: the rates were chosen on val.
set -eu
cd "$(dirname "$0")/.."

# shellcheck disable=SC2016  # the dollars are awk's
LC_ALL=C ${AWK:-awk} -F, -v split_name=test '
function x(loss) { return left + (loss - x_low) / (x_high - x_low) * width }
function y(loss) { return top + (y_high - loss) / (y_high - y_low) * height }
function least(a, b) { return a < b ? a : b }
function most(a, b) { return a > b ? a : b }

# A step for the marks of an axis that is `span` long: 1, 2 or 5 times a power of ten, four to ten of them.
function step(span,   s) {
    for (s = 1; s * 4 > span; s /= 10) {}
    return s * 5 * 4 <= span ? s * 5 : s * 2 * 4 <= span ? s * 2 : s
}
function mark(loss, s) { return sprintf(s < 0.1 ? "%.2f" : "%.1f", loss) }

# What labels must keep away from: points along the curves, and boxes.
function dot(px, py) { dots++; dot_x[dots] = px; dot_y[dots] = py }
function line_of_dots(x1, y1, x2, y2,   i, n) {
    n = int((x2 - x1 > 0 ? x2 - x1 : x1 - x2) / 3 + (y2 - y1 > 0 ? y2 - y1 : y1 - y2) / 3) + 1
    for (i = 0; i <= n; i++) dot(x1 + (x2 - x1) * i / n, y1 + (y2 - y1) * i / n)
}
function box(bx, by, w, h) { boxes++; box_x[boxes] = bx; box_y[boxes] = by; box_w[boxes] = w; box_h[boxes] = h }
function crowding(bx, by, w, h,   i, cost) {
    if (bx < left || bx + w > left + width || by < top || by + h > y(base_old) - 3) cost = 1000
    for (i = 1; i <= dots; i++)
        if (dot_x[i] > bx - 9 && dot_x[i] < bx + w + 9 && dot_y[i] > by - 9 && dot_y[i] < by + h + 9)
            cost += dot_x[i] > bx && dot_x[i] < bx + w && dot_y[i] > by && dot_y[i] < by + h ? 5 : 0.2
    for (i = 1; i <= boxes; i++)
        if (bx < box_x[i] + box_w[i] && box_x[i] < bx + w && by < box_y[i] + box_h[i] && box_y[i] < by + h) cost += 50
    return cost
}

# Of sixteen places around each of n points, near before far, the one where a label of w by h pixels is least in the way.
# Sets at_x, at_y: its left end, its base.
function place(n, w, h,   i, u, v, r, cx, cy, cost, best) {
    best = -1
    for (r = 0; r < 3; r++) for (i = 1; i <= n; i++) for (u = -2; u <= 2; u++) for (v = -2; v <= 2; v++) {
        if (u * u < 4 && v * v < 4) continue
        cx = near_x[i] + (w / 2 + 9 + 8 * r) * u / 2 - w / 2
        cy = near_y[i] + (h / 2 + 7 + 8 * r) * v / 2 - h / 2
        cost = crowding(cx, cy, w, h) + 3 * r + (u * u + v * v) / 8
        if (best < 0 || cost < best) { best = cost; at_x = cx; at_y = cy }
    }
    box(at_x, at_y, w, h)
    at_y += h * 0.78
}

function text(class, px, py, anchor, words) {
    printf "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", class, px, py, anchor, words
}
function segment(class, x1, y1, x2, y2) {
    printf "<path class=\"%s\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", class, x1, y1, x2, y2
}
# A method has a shape as well as a colour and a dash.
function marker(m, class, px, py, r) {
    printf "<path class=\"%s %s\" d=\"M%.1f %.1f", m, class, px, py
    if (m == "finetune") printf "m%.1f %.1fh%.1fv%.1fh%.1fz\"/>\n", -r * 0.9, -r * 0.9, r * 1.8, r * 1.8, -r * 1.8
    else if (m == "lora") printf "m0 %.1fl%.1f %.1fh%.1fz\"/>\n", -r * 1.2, r * 1.15, r * 2, -r * 2.3
    else if (m == "adapter") { r *= 1.25; printf "m0 %.1fl%.1f %.1fl%.1f %.1fl%.1f %.1fz\"/>\n", -r, r, r, -r, r, -r, -r }
    else printf "m%.1f 0a%.1f %.1f 0 1 0 %.1f 0a%.1f %.1f 0 1 0 %.1f 0z\"/>\n", -r, r, r, 2 * r, r, r, -2 * r
}

$5 != split_name { next }
$1 == "backbone" && $4 == 1 { base_old = $6; base_new = $7 }
$1 == "grid" && $2 == "naive" { naive_old = $6; naive_new = $7; next }
$1 == "grid" { n[$2]++; rate[$2, n[$2]] = $3; old[$2, n[$2]] = $6; new[$2, n[$2]] = $7 }
$1 == "best" {
    chosen[$2, $3] = 1
    if (!($2 in seeds) || $6 < old_least[$2]) old_least[$2] = $6
    if (!($2 in seeds) || $6 > old_most[$2]) old_most[$2] = $6
    if (!($2 in seeds) || $7 < new_least[$2]) new_least[$2] = $7
    if (!($2 in seeds) || $7 > new_most[$2]) new_most[$2] = $7
    seeds[$2]++
}

END {
    left = 64; top = 34; width = 636; height = 388
    methods = split("finetune lora adapter neutral", method, " ")
    label["finetune"] = "finetuning"; label["lora"] = "LoRA"
    label["adapter"] = "adapters"; label["neutral"] = "neutral residues"
    # A rate at which a method comes to grief, worse by half a nat in both languages than at the one before: said, not drawn.
    for (j = 1; j <= methods; j++) {
        i = n[m = method[j]]
        if (old[m, i] < old[m, i - 1] + 0.5 || new[m, i] < new[m, i - 1] + 0.5) continue
        beyond[m] = sprintf("%s at %s: English %.2f, French %.2f &#8599;", label[m], rate[m, i], old[m, i], new[m, i])
        n[m]--
    }
    x_low = x_high = naive_new; y_high = base_old
    for (j = 1; j <= methods; j++) for (i = 1; i <= n[m = method[j]]; i++) {
        x_low = least(x_low, new[m, i]); x_high = most(x_high, new[m, i]); y_high = most(y_high, old[m, i])
    }
    span = x_high - x_low; x_low -= span * 0.05; x_high += span * 0.05
    span = y_high - base_old; y_low = base_old - span * 0.07; y_high += span * 0.09

    print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 480\" width=\"720\" height=\"480\" role=\"img\"" \
        " aria-labelledby=\"title desc\">"
    print "<title id=\"title\">What a language costs: English loss against French loss, by method and learning rate</title>"
    printf "<desc id=\"desc\">The backbone has an English loss of %.2f nats per token and a French loss of %.2f." \
        " Extended to French, English and French losses are, at the best learning rate of each method: ", base_old, base_new
    for (j = 1; j <= methods; j++) for (i = 1; i <= n[m = method[j]]; i++)
        if ((m, rate[m, i]) in chosen) printf "%s %.2f and %.2f%s", label[m], old[m, i], new[m, i], (j < methods ? "; " : ".")
    print "</desc>"
    print "<style>"
    print "text { font: 12px system-ui, -apple-system, Helvetica, Arial, sans-serif; fill: #1f2328 } .quiet { fill: #59636e }"
    print "path { fill: none; stroke-width: 1.6 } .paper, .point { fill: #ffffff } .mark { stroke: #d1d9e0; stroke-width: 1 }"
    print ".base { stroke: #1f2328 } .name { font-size: 14px; font-weight: 600 } .curve { stroke-width: 2 }"
    print ".finetune { stroke: #d55e00 } .lora { stroke: #cc79a7 } .adapter { stroke: #009e73 } .neutral { stroke: #0072b2 }"
    print ".best.finetune { fill: #d55e00 } .best.lora { fill: #cc79a7 } .best.adapter { fill: #009e73 }"
    print ".best.neutral { fill: #0072b2 } .curve.neutral { stroke-width: 3 } .curve.finetune { stroke-dasharray: 9 3 }"
    print ".curve.lora { stroke-dasharray: 2 3 } .curve.adapter { stroke-dasharray: 9 3 2 3 }"
    print "text { stroke: none !important } text.finetune { fill: #a84a00 } text.lora { fill: #a04a78 }"
    print "text.adapter { fill: #007656 } text.neutral { fill: #0067a1 }"
    print "@media (prefers-color-scheme: dark) {"
    print "text { fill: #e6edf3 } .quiet { fill: #9198a1 } .paper, .point { fill: #0d1117 } .mark { stroke: #2d333b }"
    print ".base { stroke: #e6edf3 } .neutral { stroke: #56b4e9 } .best.neutral { fill: #56b4e9 }"
    print "text.finetune { fill: #f08a3c } text.lora { fill: #dd9dc0 }"
    print "text.adapter { fill: #2fbf95 } text.neutral { fill: #56b4e9 }"
    print "}"
    print "</style>"
    print "<rect class=\"paper\" width=\"720\" height=\"480\" rx=\"6\"/>"

    s = step(x_high - x_low)
    for (i = int(x_low / s) + 1; i * s <= x_high; i++) {
        segment("mark", x(i * s), top, x(i * s), top + height)
        text("quiet", x(i * s), top + height + 18, "middle", mark(i * s, s))
    }
    s = step(y_high - y_low)
    for (i = int(y_low / s) + 1; i * s <= y_high; i++) {
        segment("mark", left, y(i * s), left + width, y(i * s))
        text("quiet", left - 8, y(i * s) + 4, "end", mark(i * s, s))
    }
    text("", left + width / 2, top + height + 42, "middle", "French loss, the language learnt (nats per token)")
    print "<text x=\"0\" y=\"0\" text-anchor=\"middle\" transform=\"translate(20 " top + height / 2 ") rotate(-90)\">" \
        "English loss, the language to keep (nats per token)</text>"

    segment("base", left, y(base_old), left + width, y(base_old))
    text("", left + 6, y(base_old) + 17, "start", sprintf("the backbone: English %.2f, nothing forgotten ...", base_old))
    text("", left + width - 6, y(base_old) + 17, "end", sprintf("... and French %.2f &#8594;", base_new))
    text("finetune", x(naive_new), top + 16, "start", sprintf("&#8593; finetuning without English text: %.2f", naive_old))
    box(x(naive_new), top, 260, 20)
    for (m in beyond) text(m, left + width - 6, top + 16, "end", beyond[m])
    box(left + width - 260, top, 260, 20)
    text("", left, top - 14, "start", sprintf("A point a learning rate, %s to %s; filled: the best, with the range of" \
        " %d seeds. Better is lower left.", rate["neutral", 1], rate["neutral", n["neutral"]], seeds["neutral"]))
    for (j = 1; j <= methods; j++) {
        m = method[j]
        printf "<path class=\"%s curve\" d=\"", m
        for (i = 1; i <= n[m]; i++) {
            printf "%s%.1f %.1f", (i == 1 ? "M" : "L"), x(new[m, i]), y(old[m, i])
            if (i > 1) line_of_dots(x(new[m, i - 1]), y(old[m, i - 1]), x(new[m, i]), y(old[m, i]))
            box(x(new[m, i]) - 5, y(old[m, i]) - 5, 10, 10)
        }
        print "\"/>"
    }
    for (j = 1; j <= methods; j++) for (i = 1; i <= n[m = method[j]]; i++) if (!((m, rate[m, i]) in chosen))
        marker(m, "point", x(new[m, i]), y(old[m, i]), 4)
    for (j = 1; j <= methods; j++) for (i = 1; i <= n[m = method[j]]; i++) if ((m, rate[m, i]) in chosen) {
        segment(m, x(new_least[m]), y(old[m, i]), x(new_most[m]), y(old[m, i]))
        segment(m, x(new[m, i]), y(old_least[m]), x(new[m, i]), y(old_most[m]))
        marker(m, "best", x(new[m, i]), y(old[m, i]), 6)
        s = most(x(new[m, i]) - x(new_least[m]), x(new_most[m]) - x(new[m, i]))
        box(x(new[m, i]) - most(s, 9), y(old[m, i]) - 9, 2 * most(s, 9), 18)
    }

    # The rates of the ends and of the best go to their points, then the names anywhere along their curve.
    for (j = 1; j <= methods; j++) for (i = 1; i <= n[m = method[j]]; i++) {
        if (i > 1 && i < n[m] && !((m, rate[m, i]) in chosen)) continue
        near_x[1] = x(new[m, i]); near_y[1] = y(old[m, i])
        place(1, 30, 13)
        text(m, at_x + 1, at_y, "start", rate[m, i])
    }
    for (j = 1; j <= methods; j++) {
        m = method[j]
        for (i = 1; i <= n[m]; i++) { near_x[i] = x(new[m, i]); near_y[i] = y(old[m, i]) }
        place(n[m], 8 * length(label[m]) + 16, 17)
        text(m " name", at_x + 8, at_y, "start", label[m])
    }
    print "</svg>"
}' "${1:-dev/results.csv}"

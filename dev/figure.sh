#!/bin/sh
# dev/figure.sh: draws RESULTS (dev/results.csv, or the csv of `nr run`) as an SVG on standard output: what is forgotten of text
# that is rehearsed, and of known text never shown again, against the loss on the new one. `make figure` writes dev/figure.svg.
# dev/results.sh's csv begins with `what` and has two splits: rates were chosen on val, test is drawn.
set -eu

# shellcheck disable=SC2016  # the dollars are awk's
LC_ALL=C ${AWK:-awk} -F, '
function text(class, px, py, anchor, s) {
    gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s)
    printf "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", class, px, py, anchor, s
}
function segment(class, x1, y1, x2, y2) {
    printf "<path class=\"%s\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", class, x1, y1, x2, y2
}
# A method has a shape as well as a colour: square, triangle, diamond, circle, triangle on its head.
function marker(class, m, px, py, r,   k, i, corner) {
    if (m == "neutral") {
        printf "<circle class=\"%s %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>\n", class, m, px, py, r * 1.1
        return
    }
    k = split(m == "finetune" ? "-1 -1 1 -1 1 1 -1 1" : m == "lora" ? "0 -1.3 1.2 .8 -1.2 .8" : \
        m == "adapter" ? "0 -1.4 1.4 0 0 1.4 -1.4 0" : "0 1.3 1.2 -.8 -1.2 -.8", corner, " ")
    printf "<path class=\"%s %s\" d=\"", class, m
    for (i = 1; i < k; i += 2) printf "%s%.1f %.1f", (i > 1 ? "L" : "M"), px + r * corner[i], py + r * corner[i + 1]
    print "z\"/>"
}

# The ends of an axis, a little beyond all points (and zero): low, high. Its marks: step apart (1, 2 or 5 times a power of ten,
# four to ten of them), with so many digits.
function scale(role, zero,   i, v) {
    low = high = zero ? 0 : at[role, 1]
    for (i = 1; i <= points; i++) { v = at[role, i]; if (v < low) low = v; if (v > high) high = v }
    v = high > low ? high - low : 0.1
    low -= v * 0.06; high += v * 0.06
    v = high - low
    digits = 0
    for (step = 1; step * 4 > v; step /= 10) digits++
    if (step * 5 * 4 <= v) step *= 5
    else if (step * 2 * 4 <= v) step *= 2
}
function x(loss) { return left + (loss - x_low) / (x_high - x_low) * width }
function y(change) { return top + (high - change) / (high - low) * height }
function name(role,   d) {
    d = domain[role]
    return d == "en" ? whole ? "captions" : "English" : d == "fr" ? "French" : d == "de" ? "German" : d
}

NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; whole = "what" in column; next }
{
    what = whole ? $column["what"] : "best"; m = $column["method"]; seed = $column["seed"]; rate = $column["lr"]
    role = $column["role"]
}
whole && $column["split"] != "test" || m == "backbone" || $column["stage"] > 1 { next }
what != "best" && (what != "grid" || seed != 1) { next }
!(role in domain) { domain[role] = $column["domain"] }
$column["domain"] != domain[role] { next }
{ v = role == "new" ? $column["loss"] : $column["change"] }
m == "naive" { if (what == "best") { naive[role] += v; naives[role]++ }; next }
!(m in met) { met[m] = 1; method[++methods] = m }
!((what, m, seed, rate) in point) {
    i = point[what, m, seed, rate] = ++points
    of[i] = m; is_best[i] = what == "best"; lr[i] = rate
    if (what == "best" && !(seed in seeds)) { seeds[seed] = 1; n_seeds++ }
    if (slowest == "" || rate + 0 < slowest + 0) slowest = rate
    if (fastest == "" || rate + 0 > fastest + 0) fastest = rate
    # Of a whole model (stage 0) nr eval does not know p.
    if ($column["stage"] && $column["p"] == 0 && !(m in without)) { without[m] = 1; none = none (none == "" ? "" : " and ") m }
}
{ at[role, point[what, m, seed, rate]] = v + 0 }

END {
    n = split("old" in domain ? "known" in domain ? "old known" : "old" : "known", panel, " ")
    bad = !points
    for (i = 1; i <= points; i++) for (k = 0; k <= n; k++) bad = bad || !((k ? panel[k] : "new", i) in at)
    if (bad) {
        print "figure.sh: expected methods, each with known text and new text, in this csv" | "cat >&2"
        exit 1
    }
    top = 82; height = 300; width = (900 - 74 * n) / n
    scale("new", 0); x_low = low; x_high = high; x_step = step; x_digits = digits

    print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 480\" width=\"900\" height=\"480\" role=\"img\">"
    print "<title>What each method forgets, against what it learns</title>"
    print "<style>"
    print "svg { color: #1f2328 } text { font: 13px system-ui, -apple-system, Helvetica, Arial, sans-serif; fill: #1f2328 }"
    print "path, circle { fill: none; stroke: currentColor; stroke-width: 2 } .paper, .point { fill: #ffffff }"
    print ".mark { color: #d8dee4; stroke-width: 1 } .zero { color: #818b98 } .best { fill: currentColor; fill-opacity: 0.6 }"
    print "text.quiet { fill: #59636e } .finetune { color: #d55e00 } .lora { color: #cc79a7 } .adapter { color: #009e73 }"
    print ".neutral { color: #0072b2 }"
    print "@media (prefers-color-scheme: dark) {"
    print "svg { color: #e6edf3 } text { fill: #e6edf3 } .paper, .point { fill: #0d1117 } .mark { color: #2d333b }"
    print "text.quiet { fill: #9198a1 } .neutral { color: #56b4e9 }"
    print "}"
    print "</style>"
    print "<rect class=\"paper\" width=\"900\" height=\"480\" rx=\"6\"/>"

    for (j = 1; j <= methods; j++) {
        m = method[j]; v = 56 + (j - 1) * 110
        segment(m, v, 24, v + 28, 24)
        marker("best", m, v + 14, 24, 5)
        text("", v + 36, 28.5, "start", m)
    }
    for (k = 1; k <= n; k++) {
        role = panel[k]; left = 56 + (k - 1) * (width + 74)
        scale(role, 1)
        if (role in naive) {
            naive[role] /= naives[role]
            left_out = left_out sprintf("%s %+.2f of %s", k == 1 ? "," : " and", naive[role], name(role))
            if (naive[role] > high) off = ", off the scale"
        }
        text("", left, top - 14, "start", "forgotten of " name(role) ", " (role == "old" ? "rehearsed" : "never shown again") \
            " (nats a token)")
        for (i = int(x_low / x_step) - 1; i * x_step <= x_high; i++) if (i * x_step >= x_low) {
            segment("mark", x(i * x_step), top, x(i * x_step), top + height)
            text("quiet", x(i * x_step), top + height + 18, "middle", sprintf("%." x_digits "f", i * x_step))
        }
        for (i = int(low / step) - 1; i * step <= high; i++) if (i * step >= low) {
            segment(i ? "mark" : "zero", left, y(i * step), left + width, y(i * step))
            text("quiet", left - 8, y(i * step) + 4.5, "end", sprintf("%." digits "f", i * step))
        }
        text("", left + width / 2, top + height + 40, "middle", name("new") " loss (nats a token)")
        for (j = 1; j <= methods; j++) {
            # The grid in order of rate.
            count = 0
            for (i = 1; i <= points; i++) if (of[i] == method[j] && !is_best[i]) {
                for (v = count++; v && lr[order[v]] + 0 > lr[i] + 0; v--) order[v + 1] = order[v]
                order[v + 1] = i
            }
            if (count) printf "<path class=\"%s\" d=\"", method[j]
            for (v = 1; v <= count; v++)
                printf "%s%.1f %.1f", (v == 1 ? "M" : "L"), x(at["new", order[v]]), y(at[role, order[v]])
            if (count) print "\"/>"
            for (v = 1; v <= count; v++) marker("point", method[j], x(at["new", order[v]]), y(at[role, order[v]]), \
                2.2 + 2.2 * (v - 1) / count)
        }
        for (i = 1; i <= points; i++) if (is_best[i]) marker("best", of[i], x(at["new", i]), y(at[role, i]), 5.5)
    }
    v = "Lower left is better."
    if (whole) v = v " Small to large: learning rate " slowest " to " fastest \
        (n_seeds ? "; filled: the one chosen, seeds: " n_seeds : "") ". Test text."
    text("quiet", 56, top + height + 66, "start", v)
    v = ""
    if ("new" in naive)
        v = sprintf("Left out%s: naive%s at %s %.2f. ", off, left_out, name("new"), naive["new"] / naives["new"])
    if (none != "" && "old" in domain) v = v none ": shown no " name("old") " at all."
    text("quiet", 56, top + height + 84, "start", v)
    print "</svg>"
}' <"${RESULTS:-$(dirname "$0")/results.csv}"

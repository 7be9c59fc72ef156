#!/usr/bin/env python3
"""
`nr eval --choices` beside lm-eval: of each question, the same choice. Needs torch, transformers and
lm_eval; run it at the top of the repository after `make`. Nothing is downloaded.

    dev/check_choices.py                          a tiny model with a prefix gate, on questions of data/toy
    dev/check_choices.py MODEL [EXT...] FOLDER    FOLDER has en_choices.jsonl, fr_choices.jsonl or both

lm-eval runs the model as dev/export_hf.py writes it. The check writes each file twice more, its labels
being lm-eval's choices by log-likelihood (FILE.sum) and by log-likelihood a character (FILE.norm). By
these labels nr is right on every question.
"""
import csv, glob, json, os, subprocess, sys, tempfile
from importlib.metadata import version

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
temp = tempfile.TemporaryDirectory()
folder = temp.name
print(", ".join(f"{name} {version(name)}" for name in ("lm_eval", "transformers", "torch")), flush=True)


def run(*words, **more):
    done = subprocess.run(words, capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(words[:3])} ... failed:\n{done.stderr[-3000:]}")
    return done.stdout

def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]

def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")

def scores_of(exported, task, rows):
    """Runs lm-eval -> of each question, in order, the log-likelihoods of its endings."""
    where = f"{folder}/{task}"
    os.makedirs(where)
    write_lines(f"{where}/{task}.jsonl", rows)
    offline = dict(HF_HOME=f"{folder}/home", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    run(sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args",
        f"pretrained={exported},trust_remote_code=True,dtype=float32", "--device", "cpu", "--batch_size", "8",
        "--include_path", f"{ROOT}/dev/lm_eval", "--tasks", task, "--log_samples",
        "--output_path", f"{where}/out", cwd=where, env={**os.environ, **offline})
    [results], [samples] = (glob.glob(f"{where}/out/**/{name}", recursive=True)
                            for name in ("results*.json", "samples*.jsonl"))
    with open(results, encoding="utf-8") as f:
        scores = json.load(f)["results"][task]
    print(f"     {task}: lm-eval", " ".join(f"{name} {scores[name + ',none']:.4f}"
                                            for name in ("acc", "acc_norm")), flush=True)
    logged = sorted(read_lines(samples), key=lambda sample: sample["doc_id"])
    return [[float(loglikelihood) for loglikelihood, _ in sample["filtered_resps"]] for sample in logged]

def best(scores):
    return max(range(len(scores)), key=scores.__getitem__)


if len(sys.argv) > 2:
    model, *extensions, questions = sys.argv[1:]
    most = None
elif len(sys.argv) == 1:
    model, extensions, questions, most = f"{folder}/model", [f"{folder}/fr.safetensors"], "data/toy", 100
    run("./nr", "pretrain", "--data", "data/toy", "--known", "en", "--pretrain-steps", "100", "--layers", "2",
        "--channels", "64", "--context", "128", "-o", model)
    run("./nr", "extend", "-i", model, "--data", "data/toy", "--gate-input", "prefix",
        "--gate-init", "random", "--steps", "60", "-o", extensions[0])
else:
    sys.exit("usage: check_choices.py [MODEL [EXT...] FOLDER]")
run(sys.executable, f"{ROOT}/dev/export_hf.py", model, *extensions, f"{folder}/exported")
copies = []
for task in "en_choices", "fr_choices":
    path = f"{questions}/{task}.jsonl"
    if os.path.exists(path):
        rows = read_lines(path)[:most]
        scores = scores_of(f"{folder}/exported", task, rows)
        norm = [[s / len(ending) for s, ending in zip(own, row["endings"])] for own, row in zip(scores, rows)]
        for kind, column, by in ("sum", "acc", scores), ("norm", "acc_norm", norm):
            copies.append((f"{folder}/{task}.jsonl.{kind}", column, len(rows)))
            write_lines(copies[-1][0], [{**row, "label": best(own)} for row, own in zip(rows, by)])
if not copies:
    sys.exit(f"{questions}: has no en_choices.jsonl or fr_choices.jsonl")
run("./nr", "eval", "-i", model, *(w for x in extensions for w in ("-x", x)),
    *(w for path, _, _ in copies for w in ("--choices", path)), "--csv", f"{folder}/nr.csv")
failed = 0
with open(f"{folder}/nr.csv", encoding="utf-8") as f:
    for (path, column, count), row in zip(copies, csv.DictReader(f), strict=True):
        good = float(row[column]) == 1 and int(row["items"]) == count
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {os.path.basename(path):24} of {row['items']} questions "
              f"nr chooses as lm-eval: {row[column]}")
sys.exit(failed > 0)

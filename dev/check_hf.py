#!/usr/bin/env python3
"""
nr beside transformers: the same folders, the same numbers. Needs torch and transformers; run it at the top of the repository after
`make`. Data: data/toy. Prints a line a check; exit 1 if one does not hold to 1e-4.

    dev/check_hf.py            tiny models
    dev/check_hf.py gpt2 DIR   also ten steps of `nr extend` on random models of GPT-2's shapes, with the vocabulary in DIR
"""
import csv, os, shutil, subprocess, sys, tempfile, time
import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

sys.path.insert(0, os.path.dirname(__file__))
from hf_neutral import Neutral, read_tokens

folder = tempfile.mkdtemp()
failed = 0


def nr(*words):
    return subprocess.run(["./nr", *words], check=True, capture_output=True, text=True).stdout


def say(what, ours, theirs):
    global failed
    error = abs(ours / theirs - 1)
    failed += error > 1e-4
    print(f"{'ok  ' if error <= 1e-4 else 'FAIL'} {what:58} nr {ours:.6f}  transformers {theirs:.6f}  {error:.1e}")


def nr_loss(model, domain, T, *words):
    nr("eval", "-i", model, "--data", "data/toy", "--domains", domain, "--context", str(T), "--csv", f"{folder}/e.csv", *words)
    return float(next(csv.DictReader(open(f"{folder}/e.csv")))["loss"])


def hf_loss(model, domain, T):
    """Mean over the whole file, in windows of T predictions, T apart, the last one partial."""
    ids, total, count = torch.tensor(read_tokens(f"data/toy/{domain}_val.bin")[0].astype(np.int64)), 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, T * 16):
            rows = [ids[s:s + T + 1] for s in range(start, min(start + 16 * T, len(ids) - 1), T)]
            for same in ([r for r in rows if len(r) == T + 1], [r for r in rows if len(r) <= T]):
                if same:
                    x = torch.stack(same)
                    logits = model(x[:, :-1]).logits
                    total += F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten(), reduction="sum").item()
                    count += x[:, 1:].numel()
    return total / count


def with_vocabulary(config, source, name):
    torch.manual_seed(0)
    path = f"{folder}/{name}"
    GPT2LMHeadModel(config).save_pretrained(path)
    for file in "vocab.json", "merges.txt":
        shutil.copy(f"{source}/{file}", path)
    return path


# A model that transformers made.
theirs = with_vocabulary(GPT2Config(n_layer=3, n_head=4, n_embd=64, n_positions=64, vocab_size=512, initializer_range=0.2,
                                    bos_token_id=511, eos_token_id=511), "data/toy", "theirs")
say("random GPT-2 from save_pretrained: loss", nr_loss(theirs, "fr", 64), hf_loss(GPT2LMHeadModel.from_pretrained(theirs).eval(), "fr", 64))

# A model that nr made, and its tokenizer.
ours = f"{folder}/ours"
nr("pretrain", "--data", "data/toy", "--known", "en", "--pretrain-steps", "40",
   "--layers", "2", "--channels", "64", "--context", "64", "-o", ours)
model = GPT2LMHeadModel.from_pretrained(ours).eval()
say("nr pretrain, loaded by from_pretrained: loss", nr_loss(ours, "en", 64), hf_loss(model, "en", 64))
tokenizer = GPT2Tokenizer.from_pretrained(ours)
lines = open("data/toy/fr_val.txt", encoding="utf-8").read().split("\n")[:300]
text = subprocess.run(["./tokenizer", "encode", "-m", ours, "--lines", "-"], input="\n".join(lines), check=True, capture_output=True, text=True)
same = sum(x.split() == [str(i) for i in tokenizer.encode(line)] for x, line in zip(text.stdout.split("\n"), lines))
failed += same != len(lines)
print(f"{'ok  ' if same == len(lines) else 'FAIL'} GPT2Tokenizer on nr's vocabulary: {same} of {len(lines)} lines the same")

# A model that nr finetuned, and extensions that nr trained.
nr("extend", "-i", ours, "--data", "data/toy", "--method", "finetune", "--steps", "20", "-o", f"{folder}/tuned")
say("nr extend --method finetune: loss", nr_loss(f"{folder}/tuned", "fr", 64),
    hf_loss(GPT2LMHeadModel.from_pretrained(f"{folder}/tuned").eval(), "fr", 64))
x, y = f"{folder}/x.safetensors", f"{folder}/y.safetensors"
for words in (["neutral"], ["adapter"], ["neutral", "--new-rows", "0"],
              ["neutral", "--gate", "sigmoid", "--local", "ce"]):
    nr("extend", "-i", ours, "--data", "data/toy", "--steps", "20", "-o", x, "--method", *words)
    model = GPT2LMHeadModel.from_pretrained(ours).eval()
    Neutral(model, x)
    say(f"extension {' '.join(words)}: loss", nr_loss(ours, "fr", 64, "-x", x),
        hf_loss(model, "fr", 64))

# Two extensions, the second upon the first; without the first it is refused, in one line.
nr("extend", "-i", ours, "-x", x, "--data", "data/toy", "--new", "plays", "--steps", "20", "-o", y)
Neutral(model, y)
say("two extensions: loss", nr_loss(ours, "fr", 64, "-x", x, "-x", y), hf_loss(model, "fr", 64))
try:
    Neutral(GPT2LMHeadModel.from_pretrained(ours), y)
    said = "nothing"
except SystemExit as refusal:
    said = str(refusal)
refused = "trained upon a model with hash" in said and "\n" not in said
failed += not refused
print(f"{'ok  ' if refused else 'FAIL'} the second without the first is refused: {said}")

# The shapes of distilgpt2, GPT-2 and GPT-2 medium, with random weights and GPT-2's vocabulary.
for name, layers, channels, heads in (("distilgpt2", 6, 768, 12), ("gpt2", 12, 768, 12), ("gpt2-medium", 24, 1024, 16)):
    if sys.argv[1:2] != ["gpt2"]:
        break
    big = with_vocabulary(GPT2Config(n_layer=layers, n_embd=channels, n_head=heads), sys.argv[2], name)
    data = f"{folder}/data"
    if not os.path.exists(data):
        subprocess.run(["./prepare_data.sh", "files", "en=data/toy/en_val.txt", "fr=data/toy/fr_val.txt", "--lines", "--tokenizer", big,
                        "-o", data], check=True, capture_output=True)
    start = time.time()
    process = subprocess.Popen(["./nr", "extend", "-i", big, "--data", data, "--steps", "10", "--batch", "4", "--context", "256",
                                "-o", f"{folder}/big.safetensors"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    good = status == 0 and (name != "gpt2" or usage.ru_maxrss < 4 << 20)
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} {name}'s shape, B=4, T=256: ten steps in {time.time() - start:.1f} s with loading, "
          f"at most {usage.ru_maxrss / 1024:.0f} MB")
    shutil.rmtree(big)
shutil.rmtree(folder)
sys.exit(failed > 0)

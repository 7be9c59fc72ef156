#!/usr/bin/env python3
"""
nr beside transformers: the same folders, the same numbers. Needs torch, transformers and peft; run it at
the top of the repository after `make`. Data: data/toy. Prints a line a check; exit 1 if one does not hold
to 1e-4.

    dev/check_hf.py            tiny models
    dev/check_hf.py gpt2 DIR   also ten steps of `nr extend` on random models of GPT-2's shapes, with the
                               vocabulary in DIR

Logits are compared with dev/reference.py's, and losses and greedy texts with nr's own.
"""
import csv, os, shutil, subprocess, sys, tempfile, time, warnings
folder = tempfile.mkdtemp()
os.environ.update(HF_HOME=f"{folder}/home", HF_HUB_OFFLINE="1")            # before transformers is imported
import numpy as np
import peft
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

sys.path.insert(0, os.path.dirname(__file__))
import hf_neutral, reference
from hf_neutral import read_tokens

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
warnings.simplefilter("ignore", FutureWarning)
DATA, T, DRAWN = "data/toy", 64, 40
failed = 0
print(f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}, "
      f"Python {sys.version.split()[0]}")


def nr(*words):
    return subprocess.run(["./nr", *words], check=True, capture_output=True).stdout

def dev(script, *words, processes=0):
    """Runs one of ours -> what it printed, or, if it failed, what it said on stderr."""
    torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes else []
    done = subprocess.run([sys.executable, *torchrun, f"dev/{script}", *words],
                          capture_output=True, text=True)
    return done.stderr if done.returncode else done.stdout

def hold(what, good, detail=""):
    global failed
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} {what:58} {detail}", flush=True)

def say(what, ours, theirs):
    error = abs(ours / theirs - 1)
    hold(what, error <= 1e-4, f"nr {ours:.6f}  transformers {theirs:.6f}  {error:.1e}")

def distance(a, b):
    return ((a - b).norm() / b.norm()).item()

def nr_loss(model, domain, *words):
    nr("eval", "-i", model, "--data", DATA, "--domains", domain, "--context", str(T),
       "--csv", f"{folder}/e.csv", *words)
    return float(next(csv.DictReader(open(f"{folder}/e.csv")))["loss"])

@torch.no_grad()
def hf_loss(model, domain):
    """Mean over the whole file, in windows of T predictions, T apart, the last one partial."""
    ids, total, count = torch.tensor(read_tokens(f"{DATA}/{domain}_val.bin")[0].astype(np.int64)), 0.0, 0
    for start in range(0, len(ids) - 1, T * 16):
        rows = [ids[s:s + T + 1] for s in range(start, min(start + 16 * T, len(ids) - 1), T)]
        for same in ([r for r in rows if len(r) == T + 1], [r for r in rows if len(r) <= T]):
            if same:
                x = torch.stack(same)
                logits = model(x[:, :-1], use_cache=False).logits
                total += F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten(), reduction="sum").item()
                count += x[:, 1:].numel()
    return total / count

def decode(tokens, model):
    """The bytes of tokens, as nr prints them."""
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, len(tokens)
    with open(f"{folder}/ids.bin", "wb") as f:
        f.write(header.tobytes() + np.array(tokens, np.uint16).tobytes())
    return subprocess.run(["./tokenizer", "decode", "-m", model, f"{folder}/ids.bin"], check=True,
                          capture_output=True).stdout

def greedy(model, tokens, **settings):
    model.generation_config.eos_token_id = None                            # nr does not stop there
    return model.generate(tokens, do_sample=False, max_new_tokens=DRAWN, pad_token_id=0, **settings)

@torch.no_grad()
def check_exported(what, model_folder, *files, domain="fr"):
    """The folder that export_hf.py writes, loaded by transformers: losses, logits, generation, tokenizer."""
    out = f"{folder}/exported"
    shutil.rmtree(out, ignore_errors=True)
    said = dev("export_hf.py", model_folder, *files, out)
    if said:
        return hold(what, False, said)
    model = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    extensions = [w for f in files for w in ("-x", f)]
    say(f"{what}: loss", nr_loss(model_folder, domain, *extensions), hf_loss(model, domain))

    same = reference.load_model(model_folder)
    for f in files:
        reference.load_extension(same, f)
    text = torch.tensor(read_tokens(f"{DATA}/{domain}_val.bin")[0].astype(np.int64))
    x = torch.stack([text[:T], text[T:2 * T], torch.randint(len(same.weights["wte.weight"]), (T,))])
    expected, whole, cached, cache = same.forward(x)[0], model(x, use_cache=False).logits, [], {}
    for part in x.split([10, 5] + [1] * (T - 15), dim=1):
        output = model(part, use_cache=True, **cache)
        name = "cache" if "cache" in output else "past_key_values"
        cache = {name: output[name]}
        cached.append(output.logits)
    whole, cached = distance(whole, expected), distance(torch.cat(cached, 1), expected)
    hold(f"{what}: logits, whole and cached", max(whole, cached) <= 1e-4, f"{whole:.1e}  {cached:.1e}")

    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    lines = open(f"{DATA}/{domain}_val.txt", encoding="utf-8").read().split("\n")
    cut = lines[1][:12]
    prompt = torch.tensor([tokenizer.encode(cut)])
    plain, without = (greedy(model, prompt, use_cache=u) for u in (True, False))
    theirs = decode(plain[0].tolist(), model_folder)
    ours = nr("sample", "-i", model_folder, *extensions, "-p", cut, "-n", str(DRAWN), "--temperature", "0")
    hold(f"{what}: greedy text, cached or not, is nr's",
         torch.equal(plain, without) and theirs + b"\n" == ours, repr(ours.decode(errors="replace")[:40]))
    beams = [greedy(model, prompt, use_cache=u, num_beams=3) for u in (True, False)]
    padding = torch.zeros((1, 4), dtype=torch.int64)                       # beside a text that has text there
    both = torch.cat([torch.cat([padding, prompt], 1), torch.cat([prompt[:, :4], prompt], 1)])
    mask = torch.ones_like(both)
    mask[0, :4] = 0
    padded = greedy(model, both, attention_mask=mask, use_cache=True)[0, 4:]
    hold(f"{what}: beams cached or not, padded on the left",
         torch.equal(*beams) and torch.equal(padded, plain[0]))

def extend(file, *words):
    nr("extend", "--data", DATA, "--steps", "20", "-o", file, *words)


# A model that transformers made.
torch.manual_seed(0)
def with_vocabulary(config, source, name):
    path = f"{folder}/{name}"
    GPT2LMHeadModel(config).save_pretrained(path)
    for file in "vocab.json", "merges.txt":
        shutil.copy(f"{source}/{file}", path)
    return path

def hf(path):
    return GPT2LMHeadModel.from_pretrained(path).eval()

theirs = with_vocabulary(GPT2Config(n_layer=3, n_head=4, n_embd=64, n_positions=T, initializer_range=0.2,
                                    vocab_size=512, bos_token_id=511, eos_token_id=511), DATA, "theirs")
say("random GPT-2 from save_pretrained: loss", nr_loss(theirs, "fr"), hf_loss(hf(theirs), "fr"))

# A model that nr made, and its tokenizer.
ours = f"{folder}/ours"
nr("pretrain", "--data", DATA, "--known", "en", "--pretrain-steps", "60", "--layers", "2", "--channels", "64",
   "--context", str(T), "-o", ours)
model = hf(ours)
say("nr pretrain, loaded by from_pretrained: loss", nr_loss(ours, "en"), hf_loss(model, "en"))
lines = open(f"{DATA}/fr_val.txt", encoding="utf-8").read().split("\n")[:300]
def check_tokenizer(what, tokenizer):
    text = subprocess.run(["./tokenizer", "encode", "-m", ours, "--lines", "-"], input="\n".join(lines),
                          check=True, capture_output=True, text=True).stdout
    same = sum(x.split() == [str(i) for i in tokenizer.encode(line)]
               for x, line in zip(text.split("\n"), lines))
    hold(what, same == len(lines), f"{same} of {len(lines)} lines the same")
check_tokenizer("GPT2Tokenizer on nr's vocabulary", GPT2Tokenizer.from_pretrained(ours))

# The tokenizer in one tokenizer.json, as transformers 5 saves it: there, in nr, and back.
saved = f"{folder}/saved"
model.save_pretrained(saved)
AutoTokenizer.from_pretrained(ours).save_pretrained(saved)
for file in "vocab.json", "merges.txt":
    if os.path.exists(f"{saved}/{file}"):
        os.remove(f"{saved}/{file}")
say("saved by transformers, tokenizer.json only: loss", nr_loss(saved, "fr"), hf_loss(model, "fr"))
extend(f"{folder}/back", "-i", saved, "--method", "finetune")
say("and back, finetuned by nr: loss", nr_loss(f"{folder}/back", "fr"), hf_loss(hf(f"{folder}/back"), "fr"))
check_tokenizer("and back: the tokenizer", AutoTokenizer.from_pretrained(f"{folder}/back"))

# Exported: models alone, every method, gate and input, and two extensions.
check_exported("backbone", ours, domain="en")
check_exported("finetune", f"{folder}/back")
x, y = f"{folder}/x.safetensors", f"{folder}/y.safetensors"
prefix = ["--gate-input", "prefix", "--gate-init", "random"]
for words in (["lora"], ["adapter"], ["neutral"], ["neutral", "--new-rows", "0"],
              ["neutral", "--gate", "none"], ["neutral", "--gate", "sigmoid", "--local", "ce"],
              ["neutral", *prefix], ["neutral", "--gate", "sigmoid", "--local", "ce", *prefix],
              ["replay", "--replay", "1000"]):
    extend(x, "-i", ours, "--method", *words)
    check_exported(" ".join(words).replace("--", ""), ours, x)
extend(x, "-i", saved, "--method", "replay", "--replay", "1000")
check_exported("replay on tokenizer.json", saved, x)
for first, second in ((["lora"], ["neutral", *prefix]), (["neutral", *prefix], ["lora"]),
                      (["neutral"], ["neutral", *prefix])):
    extend(x, "-i", ours, "--method", *first)
    extend(y, "-i", ours, "-x", x, "--new", "plays", "--method", *second)
    check_exported(f"{first[0]}, then {second[0]}", ours, x, y, domain="plays")

# Saved again by transformers; and trained with its gradient checkpointing, which runs blocks twice.
model = AutoModelForCausalLM.from_pretrained(f"{folder}/exported", trust_remote_code=True)
model.save_pretrained(f"{folder}/again")
again = AutoModelForCausalLM.from_pretrained(f"{folder}/again", trust_remote_code=True)
tokens = torch.arange(99).view(3, 33)
far = distance(again(tokens).logits, model(tokens).logits)
hold("saved again by transformers: logits", far <= 1e-6, f"{far:.1e}")
for module in again.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
model(tokens, labels=tokens, use_cache=False).loss.backward()
again.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
again(tokens, labels=tokens).loss.backward()
far = max(distance(b.grad, a.grad) for a, b in zip(model.parameters(), again.parameters())
          if a.grad.norm() > 1e-6)
hold("gradient checkpointing: gradients", far <= 1e-4, f"{far:.1e}")

# What is refused, in one line.
def refused(what, why, said):
    hold(what, why in said and said.count("\n") == 1, said.strip().replace(folder + "/", ""))
upon, no = "trained upon a model with hash", f"{folder}/no"
refused("the second without the first", upon, dev("export_hf.py", ours, y, no))
refused("upon another model", upon, dev("export_hf.py", theirs, x, no))
refused("training upon another model", upon,
        dev("hf_neutral.py", "train", theirs, x, "--data", DATA, "--new", "fr", "-o", no))
refused("a neutral extension for PEFT", "PEFT", dev("export_hf.py", "--peft", ours, x, no))
refused("an exported folder in nr", "model_type",
        subprocess.run(["./nr", "sample", "-i", f"{folder}/exported"], capture_output=True, text=True).stderr)

# LoRA for PEFT.
for words in [], ["--new-rows", "0"]:
    extend(x, "-i", ours, "--method", "lora", *words)
    dev("export_hf.py", "--peft", ours, x, f"{folder}/peft")
    model = peft.PeftModel.from_pretrained(hf(ours), f"{folder}/peft").eval()
    say(f"PEFT: {' '.join(['lora', *words])}: loss", nr_loss(ours, "fr", "-x", x), hf_loss(model, "fr"))
    shutil.rmtree(f"{folder}/peft")

# Training that goes on under torchrun, beside the same steps of dev/reference.py.
new, known, only = (f"{DATA}/{domain}_train.bin" for domain in ("fr", "en", "plays"))
for words, p, q in ((["replay", "--replay", "1000"], 0, 0.4), (["lora"], 0.3, 0),
                    (["neutral", "--gate", "sigmoid", "--local", "ce"], 0.3, 0.3)):
    extend(x, "-i", ours, "--method", *words, "--p", str(p), "--q", str(q))
    same = reference.load_model(ours)
    extension = reference.load_extension(same, x)
    params, moments, random, expected = extension.trained(), {}, np.random.RandomState(1), []
    for w in params.values():
        w.requires_grad_(True)
    for step in range(1, 6):
        files = [[(file, *read_tokens(file))] for file in (known, only, new)]
        tokens, is_old, learnt = hf_neutral.draw(random, p, q, *files, 6, T)
        targets = torch.where(learnt[:, None], tokens[:, 1:], -1)
        lm, local, _, _ = reference.losses(same, tokens[:, :-1], targets, (~is_old).long())
        grads = torch.autograd.grad(lm + float(extension.about["alpha"]) * local, list(params.values()))
        reference.adamw(params, dict(zip(params, grads)), moments, step, 1e-3, 0.0)
        expected += [lm.item(), local.item()]
    for processes in 0, 2:
        said = dev("hf_neutral.py", "train", ours, x, "--data", DATA, "--new", "fr", "--steps", "5",
                   "--batch", "6", "--context", str(T), "-o", y, *(["--old", "en"] if p else []),
                   *(["--negatives", only] if q else []), processes=processes)
        found = [float(w) for line in said.split("\n") for w in line.split()[3::2]]
        good = len(found) == 10 and np.allclose(found, expected, rtol=1e-4, atol=2e-6)
        hold(f"{words[0]} trains on, {max(1, processes)} process(es): losses", good,
             f"step 5: {found[-2:]}" if good else said)
    check_exported(f"{words[0]} trained on", ours, y)

# The shapes of distilgpt2, GPT-2 and GPT-2 medium, with random weights and GPT-2's vocabulary.
for name, layers, channels, heads in (("distilgpt2", 6, 768, 12), ("gpt2", 12, 768, 12),
                                      ("gpt2-medium", 24, 1024, 16)):
    if sys.argv[1:2] != ["gpt2"]:
        break
    big = with_vocabulary(GPT2Config(n_layer=layers, n_embd=channels, n_head=heads), sys.argv[2], name)
    data = f"{folder}/data"
    if not os.path.exists(data):
        subprocess.run(["./prepare_data.sh", "files", "en=data/toy/en_val.txt", "fr=data/toy/fr_val.txt",
                        "--lines", "--tokenizer", big, "-o", data], check=True, capture_output=True)
    start = time.time()
    process = subprocess.Popen(["./nr", "extend", "-i", big, "--data", data, "--steps", "10", "--batch", "4",
                                "--context", "256", "-o", f"{folder}/big.safetensors"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    hold(f"{name}'s shape, B=4, T=256: ten steps",
         status == 0 and (name != "gpt2" or usage.ru_maxrss < 4 << 20),
         f"{time.time() - start:.1f} s with loading, at most {usage.ru_maxrss / 1024:.0f} MB")
    shutil.rmtree(big)
shutil.rmtree(folder)
sys.exit(failed > 0)

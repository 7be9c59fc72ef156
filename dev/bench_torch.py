#!/usr/bin/env python3
"""
nr's training step against PyTorch's: the same model, methods, sizes and threads, float32.

    bench_torch.py BENCH [METHOD ...]      BENCH is the program that dev/bench.c makes

The two take turns, a few steps each, so that a slow moment of the machine falls on both;
the times are medians over all turns, and a ratio is PyTorch's time over ours. The model
is written as one would for speed in eager PyTorch, with what the version at hand has:
fused attention (2.0), fused AdamW (2.4). dev/reference.py is the one to read.
PyTorch's memory is the peak of a fresh process above what it held before the model was
built; ours is what bench says it allocates.
"""
import math, os, re, statistics, subprocess, sys, time

# One count of threads for everything, and before PyTorch is loaded: its libraries ask then.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
THREADS = int(os.environ.get("OMP_NUM_THREADS") or CORES)
for library in "OMP", "OPENBLAS", "MKL":
    os.environ[library + "_NUM_THREADS"] = str(THREADS)

import torch
import torch.nn as nn
import torch.nn.functional as F

B, T, L, NH, C, V = 8, 256, 6, 6, 384, 4096            # 12.3M parameters, as in bench.c
HIDDEN, RANK, NEW_ROWS, ALPHA = 352, 66, 300, 2.0      # adapters and LoRA of a fifth of that
METHODS = "finetune", "lora", "adapter", "neutral", "neutral+300"
TURNS, STEPS = 5, 3


# ---- the model -----------------------------------------------------------------------

class Linear(nn.Linear):
    """x W^T + b and, with a rank, LoRA beside it. x: (n, in)"""
    def __init__(self, fan_in, fan_out, rank=0):
        super().__init__(fan_in, fan_out)
        self.lora = rank > 0
        if self.lora:
            self.a = nn.Parameter(torch.randn(fan_in, rank) / math.sqrt(fan_in))
            self.b = nn.Parameter(torch.zeros(rank, fan_out))

    def forward(self, x):
        y = super().forward(x)
        return torch.addmm(y, x @ self.a, self.b) if self.lora else y


class Adapter(nn.Module):
    """Wo (SiLU(Wg u) * (Wi u)), behind a ReLU gate if there is one; Wg and Wi in one product."""
    def __init__(self, gated):
        super().__init__()
        self.wgi, self.wo = nn.Linear(C, 2 * HIDDEN, bias=False), nn.Linear(HIDDEN, C, bias=False)
        self.gate = nn.Linear(C, 1) if gated else None
        nn.init.normal_(self.wgi.weight, std=math.sqrt((1 / L if gated else 2) / C))
        nn.init.zeros_(self.wo.weight)
        if gated:
            nn.init.zeros_(self.gate.weight)
            nn.init.ones_(self.gate.bias)

    def forward(self, u):
        g, i = self.wgi(u).chunk(2, dim=-1)
        r = self.wo(F.silu(g) * i)
        return torch.relu(self.gate(u)) * r if self.gate else r


class Block(nn.Module):
    def __init__(self, rank, adapter, gated):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.proj = Linear(C, 3 * C, rank), Linear(C, C, rank)
        self.fc, self.fcproj = Linear(C, 4 * C, rank), Linear(4 * C, C, rank)
        self.adapter = Adapter(gated) if adapter else None
        if not hasattr(F, "scaled_dot_product_attention"):
            self.register_buffer("future", torch.full((T, T), -math.inf).triu(1), persistent=False)

    def attention(self, u):
        q, k, v = self.qkv(u).view(B, T, 3, NH, C // NH).permute(2, 0, 3, 1, 4)        # (B, NH, T, C/NH)
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q * (C // NH) ** -0.5) @ k.transpose(-1, -2)
            y = scores.add_(self.future).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(B * T, C))

    def forward(self, x):                                                              # (B T, C)
        x = x + self.attention(self.ln1(x))
        u = self.ln2(x)
        r = self.adapter(u) if self.adapter else None
        x = x + self.fcproj(F.gelu(self.fc(u), approximate="tanh"))
        return (x + r if r is not None else x), r


class GPT(nn.Module):
    """A backbone and what a method adds to it; requires_grad is set on what the method trains."""
    def __init__(self, method):
        super().__init__()
        method, _, rows = method.partition("+")
        self.neutral = method == "neutral"
        self.wte, self.wpe, self.lnf = nn.Embedding(V, C), nn.Embedding(T, C), nn.LayerNorm(C)
        self.blocks = nn.ModuleList(Block(RANK if method == "lora" else 0, method in ("adapter", "neutral"), self.neutral)
                                    for _ in range(L))
        for name, w in self.named_parameters():
            if ".adapter." in name or name.endswith((".a", ".b")):
                continue
            if w.dim() == 2:
                nn.init.normal_(w, std=0.02 / math.sqrt(2 * L) if "proj" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(w)
            w.requires_grad_(method == "finetune")
        self.rows = None
        if rows:
            self.register_buffer("ids", torch.arange(NEW_ROWS) * 13)
            self.rows = nn.Parameter(self.wte.weight.detach()[self.ids])

    def forward(self, tokens):
        """tokens (B,T) -> logits (B T, V), the residues of the layers"""
        wte, residues = self.wte.weight, []
        if self.rows is not None:
            wte = wte.index_copy(0, self.ids, self.rows)
        x = (F.embedding(tokens, wte) + self.wpe.weight).view(B * T, C)
        for block in self.blocks:
            x, r = block(x)
            residues.append(r)
        x = self.lnf(x)
        logits = x @ self.wte.weight.t()
        if self.rows is not None:               # their gradient is all that is needed of the head's
            logits.index_copy_(1, self.ids, x @ self.rows.t())
        return logits, residues


class Trainer:
    def __init__(self, method):
        torch.manual_seed(1)
        self.model = GPT(method)
        self.trained = [w for w in self.model.parameters() if w.requires_grad]
        self.tokens, targets = torch.randint(V, (2, B, T))
        self.targets = targets.flatten()
        self.adamw = adamw(self.trained)

    def step(self):
        start = time.perf_counter()
        logits, residues = self.model(self.tokens)
        loss = F.cross_entropy(logits, self.targets)
        if self.model.neutral:                  # the first sequence is of the old domain
            loss = loss + ALPHA / (L * T * C) * sum(r[:T].abs().sum() for r in residues)
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.adamw.step()
        return (time.perf_counter() - start) * 1e3


def adamw(parameters):
    """The fastest AdamW that this version has for the processor."""
    for faster in {"fused": True}, {"foreach": True}, {}:
        try:
            return torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, **faster)
        except (TypeError, RuntimeError):       # not known, or for other hardware only
            pass


# ---- what PyTorch multiplies with ------------------------------------------------------

def blas():
    """Its name, or None for the reference implementation. Debian's PyTorch calls whatever libblas is set
    to, so what counts is what is loaded."""
    torch.ones(64, 64) @ torch.ones(64, 64)
    config = torch.__config__.show()
    if "Math Kernel Library" in config:         # linked in, not to be seen among the loaded
        return "MKL " + "".join(re.findall(r"Math Kernel Library Version (\S+)", config)[:1])
    try:
        with open("/proc/self/maps") as f:
            loaded = sorted({line.split(None, 5)[5].strip() for line in f if ".so" in line})
    except OSError:
        loaded = []
    loaded = [file for file in loaded if "numpy" not in file and "scipy" not in file]      # who have their own
    for file in loaded:
        if "openblas" in os.path.basename(file):
            import ctypes
            get_config = ctypes.CDLL(file).openblas_get_config
            get_config.restype = ctypes.c_char_p
            return get_config().decode()
    for name in "mkl", "blis", "atlas", "armpl":
        if any(name in file for file in loaded):
            return name
    if any(os.path.basename(file).startswith("libblas.so") for file in loaded):
        return None
    return "BLAS " + "".join(re.findall(r"BLAS_INFO=(\w+)", config)[:1])


# ---- taking turns ----------------------------------------------------------------------

def ours(bench, method):
    """-> times in ms, bytes"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    run = subprocess.run([bench, "step", method, str(STEPS)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         universal_newlines=True)
    if run.returncode:
        sys.exit(run.stderr.strip())
    return [float(line) for line in run.stdout.split()], int(re.search(r"(\d+) bytes", run.stderr).group(1))

def status(key):
    """Bytes of this process: VmRSS now, VmHWM at most; nan where there is no /proc. (ru_maxrss would not do: a
    process inherits it from the one that started it.)"""
    try:
        with open("/proc/self/status") as f:
            return 1024 * int(re.search(key + r":\s+(\d+) kB", f.read()).group(1))
    except OSError:
        return math.nan

def peak_memory(method):
    run = subprocess.run([sys.executable, __file__, "--memory", method], stdout=subprocess.PIPE, universal_newlines=True, check=True)
    return float(run.stdout)

def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__.strip())
    torch.set_num_threads(THREADS)
    multiplies = blas()
    # An OpenBLAS with threads of its own competes for the cores with PyTorch's, which spin while they wait. Asleep
    # they leave it the cores: to be fair to PyTorch, start again so.
    if multiplies and "OpenBLAS" in multiplies and "USE_OPENMP" not in multiplies and "OMP_WAIT_POLICY" not in os.environ:
        os.execve(sys.executable, [sys.executable] + sys.argv, {**os.environ, "OMP_WAIT_POLICY": "passive"})
    if sys.argv[1] == "--memory":
        before = status("VmRSS")
        trainer = Trainer(sys.argv[2])
        for _ in range(3):
            trainer.step()
        print(status("VmHWM") - before)
        return
    if multiplies is None:
        sys.exit("this PyTorch multiplies with the reference BLAS, which says nothing about PyTorch: install OpenBLAS "
                 "(Debian: apt install libopenblas0-pthread, or libopenblas-dev)")
    bench, methods = sys.argv[1], sys.argv[2:] or METHODS
    for method in methods:
        if method not in METHODS:
            sys.exit(f"{method}: not a method, expected {' '.join(METHODS)}")
    optimizer = adamw([nn.Parameter(torch.zeros(1))]).defaults
    print(f"PyTorch {torch.__version__}, {multiplies}")
    print("attention", "fused" if hasattr(F, "scaled_dot_product_attention") else "plain", "and AdamW",
          "fused" if optimizer.get("fused") else "foreach" if optimizer.get("foreach") else "plain")
    for key, value in os.environ.items():
        if key == "OMP_WAIT_POLICY" or key.startswith("OPENBLAS") and key != "OPENBLAS_NUM_THREADS":
            print(f"{key}={value} is set")
    size = sum(w.numel() for w in GPT("finetune").parameters())
    print(f"{size:,} parameters, B={B} T={T} L={L} NH={NH} C={C} V={V}, "
          f"{THREADS} thread{'s' * (THREADS > 1)}, float32; {TURNS} turns of {STEPS} steps\n")
    print(f"{'':12} {'PyTorch ms':>10} {'min':>8} {'nr ms':>10} {'min':>8} {'PyTorch MB':>12} {'nr MB':>8}")
    ratios = []
    for method in methods:
        trainer, theirs, mine = Trainer(method), [], []
        trainer.step()
        for _ in range(TURNS):
            theirs += [trainer.step() for _ in range(STEPS)]
            times, size = ours(bench, method)
            mine += times
        del trainer
        ratios.append((method, statistics.median(theirs) / statistics.median(mine)))
        print(f"{method:12} {statistics.median(theirs):10.1f} {min(theirs):8.1f} {statistics.median(mine):10.1f} {min(mine):8.1f} "
              f"{peak_memory(method) / 1e6:12.0f} {size / 1e6:8.0f}", flush=True)
    print()
    for method, ratio in ratios:
        print(f"ratio {method} {ratio:.2f}")

if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""
The method of nr a second time: the same GPT and the same ways of extending it,
in plain PyTorch with autograd. It shares no line with nr.c, so where both agree
both are right. Gradients come from autograd; everything else is written out.

    reference.py state FILE      write the reference state that the C tests check against
    reference.py compare FILE    regenerate it and compare, to 1e-5 of every tensor's norm
    reference.py logits MODEL [-x EXT]... --tokens "1 2 3"
                                 load a model folder and extensions, print the mean loss of
                                 the tokens, then the logits after the last one

Shapes: B sequences of T tokens, C channels, V words, L layers, NH heads, H hidden units
of an adapter, r the rank of LoRA, n new rows. Tokens are rows, so a linear layer is
x W + b with W stored (in, out), as in GPT-2's own files.
"""
import argparse, json, math, os, struct, sys
import numpy as np
import torch
import torch.nn.functional as F


# ---- safetensors: 8 bytes of header length, a JSON header, the raw tensors ------------

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}

def read_safetensors(file):
    """-> ({name: array}, {key: string})"""
    with open(file, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    metadata = header.pop("__metadata__", {})
    return {name: np.frombuffer(data[slice(*t["data_offsets"])], DTYPES[t["dtype"]]).reshape(t["shape"])
            for name, t in header.items()}, metadata

def write_safetensors(file, tensors, metadata):
    """Floating point tensors go out as F32, integers as I32."""
    header, blobs, end = {"__metadata__": {"format": "pt", **metadata}}, [], 0
    for name, t in tensors.items():
        t = np.asarray(t)
        dtype = "I32" if t.dtype.kind == "i" else "F32"
        blobs.append(t.astype(DTYPES[dtype]).tobytes())
        begin, end = end, end + len(blobs[-1])
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [begin, end]}
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    with open(file, "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header + b"".join(blobs))


# ---- the tensors, each named once -----------------------------------------------------

def linear_shapes(C):
    """The four linear layers of a block: name -> (in, out)"""
    return {"attn.c_attn": (C, 3*C), "attn.c_proj": (C, C), "mlp.c_fc": (C, 4*C), "mlp.c_proj": (4*C, C)}

def backbone_shapes(config):
    """name -> shape, in table order: kind first, layer inside."""
    L, C = config["n_layer"], config["n_embd"]
    block = {}
    for norm, layers in ("ln_1", ("attn.c_attn", "attn.c_proj")), ("ln_2", ("mlp.c_fc", "mlp.c_proj")):
        block[norm + ".weight"] = block[norm + ".bias"] = (C,)
        for name in layers:
            block[name + ".weight"] = linear_shapes(C)[name]
            block[name + ".bias"] = linear_shapes(C)[name][1:]
    return {"wte.weight": (config["vocab_size"], C), "wpe.weight": (config["n_positions"], C),
            **{f"h.{l}.{kind}": shape for kind, shape in block.items() for l in range(L)},
            "ln_f.weight": (C,), "ln_f.bias": (C,)}

def extension_shapes(config, method, gate, gate_input, H, r, n):
    L, C = config["n_layer"], config["n_embd"]
    block = {}
    if method == "lora":
        for name, (fan_in, fan_out) in linear_shapes(C).items():
            block[name + ".lora_a"], block[name + ".lora_b"] = (fan_in, r), (r, fan_out)
    else:
        block = {"adapter.wi": (C, H), "adapter.wg": (C, H), "adapter.wo": (H, C)}
        if gate != "none":
            block.update({"gate.w": (2*C if gate_input == "prefix" else C,), "gate.b": (1,)})
    shapes = {f"h.{l}.{kind}": shape for kind, shape in block.items() for l in range(L)}
    return {**shapes, "wte.rows": (n, C)} if n else shapes

def values_hash(h, tensors):
    """The hash by which nr knows values, continued from h: h <- h K + w + 1 mod 2^64 over the bits w of each
    float32 or int32. Taken a chunk at a time: h K^n + the sum of (w[i] + 1) K^(n-1-i)."""
    K, chunk = 0x9E3779B97F4A7C15, 1 << 16
    powers = np.multiply.accumulate(np.array([1] + [K] * (chunk - 1), np.uint64))[::-1]
    for t in tensors:
        w = np.ascontiguousarray(t, np.int32 if np.asarray(t).dtype.kind == "i" else np.float32).reshape(-1).view(np.uint32)
        for i in range(0, len(w), chunk):
            c = w[i:i+chunk].astype(np.uint64) + np.uint64(1)
            h = (h * pow(K, len(c), 1 << 64) + int((c * powers[chunk-len(c):]).sum())) % (1 << 64)
    return h

def fingerprint(weights, config):
    """The hash of a backbone, in table order."""
    return f"{values_hash(0, (weights[name] for name in backbone_shapes(config))):016x}"


# ---- an extension: what is added to a backbone, and trained in its place ---------------

class Extension:
    """tensors: name -> tensor, those of extension_shapes and wte.ids. about: method, gate, gate_input, local,
    init, alpha, p, hidden, rank, step, and the fingerprint of its backbone, all strings."""
    def __init__(self, tensors, about):
        self.tensors, self.about = tensors, about

    def trained(self):
        return {name: t for name, t in self.tensors.items() if name != "wte.ids"}

    def residue(self, l, u, prefix):
        """r(u) = g(u) A(u), with A(u) = Wo (SiLU(Wg u) * (Wi u)) -> r (B,T,C), z (B,T), g (B,T),
        where z = w . u + b is what the gate sees, or w . prefix + b. LoRA has no residue, a bare adapter no gate."""
        if self.about["method"] == "lora":
            return None, None, None
        wi, wg, wo = (self.tensors[f"h.{l}.adapter.{w}"] for w in ("wi", "wg", "wo"))
        a = (F.silu(u @ wg) * (u @ wi)) @ wo
        if self.about["gate"] == "none":
            return a, None, None
        seen = prefix if self.about["gate_input"] == "prefix" else u
        z = seen @ self.tensors[f"h.{l}.gate.w"] + self.tensors[f"h.{l}.gate.b"]
        g = {"relu": torch.relu, "sigmoid": torch.sigmoid}[self.about["gate"]](z)
        return g[..., None] * a, z, g

def new_extension(model, method="neutral", gate=None, local=None, init=None, alpha=1.0, p=0.1,
                  hidden=None, rank=None, new_ids=(), generator=None, gate_input="layer"):
    """An extension as training starts it: the extended model computes what the backbone does."""
    L, C = model.config["n_layer"], model.config["n_embd"]
    default = {"neutral": ("relu", "l1", "low"), "adapter": ("none", "none", "he"), "lora": ("none",) * 3}[method]
    gate, local, init = gate or default[0], local or default[1], init or default[2]
    size = sum(w.numel() for w in model.weights.values())
    hidden = hidden or max(16, round(0.2 * size / (3 * C * L) / 16) * 16)      # 20% of the backbone
    rank = rank or 3 * hidden // 16                                            # and as much for LoRA
    tensors = {}
    for name, shape in extension_shapes(model.config, method, gate, gate_input, hidden, rank, len(new_ids)).items():
        variance = 0.0                                                         # wo, lora_b, gate.w
        if name.endswith((".wi", ".wg")): variance = 2 / C if init == "he" else 1 / (C * L)
        if name.endswith(".lora_a"):      variance = 1 / shape[0]
        tensors[name] = torch.randn(shape, generator=generator) * math.sqrt(variance)
        if name.endswith("gate.b") and gate == "relu":                         # which starts open
            tensors[name].fill_(1.0)
    if len(new_ids):
        tensors["wte.ids"] = torch.tensor(new_ids)
        tensors["wte.rows"] = model.weights["wte.weight"].detach()[tensors["wte.ids"]].clone()
    lora = method == "lora"
    about = dict(method=method, gate=gate, gate_input=gate_input, local=local, init=init, alpha=alpha, p=p, hidden=0 if lora else hidden,
                 rank=rank if lora else 0, step=0, backbone=fingerprint(model.weights, model.config), extensions="")
    return Extension(tensors, {key: str(value) for key, value in about.items()})

def save_extension(extension, file):
    about = {key: value for key, value in extension.about.items() if key != "hash"}    # that is of other values
    write_safetensors(file, {name: t.detach() for name, t in extension.tensors.items()}, about)

def load_extension(model, file):
    """Read an extension and put it on the model, after those that are there."""
    tensors, about = read_safetensors(file)
    upon = model.extensions[-1].about["hash"] if model.extensions else fingerprint(model.weights, model.config)
    if about.get("upon") != upon:
        sys.exit(f"{file}: trained upon {about.get('upon')}, this model has {upon}")
    dtype = model.weights["wte.weight"].dtype
    tensors = {name: torch.tensor(t.astype(np.int64)) if name == "wte.ids" else torch.tensor(t).to(dtype)
               for name, t in tensors.items()}
    model.extensions.append(Extension(tensors, about))
    return model.extensions[-1]


# ---- the model: GPT-2, and the extensions on it ------------------------------------------

class Model:
    """config as in config.json; weights: name -> tensor, those of backbone_shapes (a new GPT-2's
    if not given). With several extensions residues and LoRA's updates add up, later rows of wte
    replace earlier ones, and the last extension is the one in training."""
    def __init__(self, config, weights=None):
        self.config, self.extensions = config, []
        self.weights = weights or {
            name: torch.randn(shape) * (0.02 / math.sqrt(2 * config["n_layer"]) if "c_proj" in name else 0.02)
            if len(shape) == 2 else torch.full(shape, float(name.endswith("weight")))
            for name, shape in backbone_shapes(config).items()}

    def embedding(self):                                                       # (V, C), and the head
        wte = self.weights["wte.weight"]
        for e in self.extensions:
            if "wte.ids" in e.tensors:
                wte = wte.index_copy(0, e.tensors["wte.ids"], e.tensors["wte.rows"])
        return wte

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.weights[name + ".bias"], 1e-5)

    def linear(self, x, name):                                                 # x W + b + (x A) B
        y = x @ self.weights[name + ".weight"] + self.weights[name + ".bias"]
        for e in self.extensions:
            if name + ".lora_a" in e.tensors:
                y = y + (x @ e.tensors[name + ".lora_a"]) @ e.tensors[name + ".lora_b"]
        return y

    def attention(self, u, name):
        B, T, C = u.shape
        NH = self.config["n_head"]
        q, k, v = (t.reshape(B, T, NH, C // NH).transpose(1, 2)                # (B, NH, T, C/NH)
                   for t in self.linear(u, name + ".c_attn").split(C, dim=-1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(C // NH)
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        y = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        return self.linear(y.transpose(1, 2).reshape(B, T, C), name + ".c_proj")

    def ffn(self, u, name):
        f = self.linear(u, name + ".c_fc")
        gelu = 0.5 * f * (1 + torch.tanh(math.sqrt(2 / math.pi) * (f + 0.044715 * f**3)))
        return self.linear(gelu, name + ".c_proj")

    def forward(self, tokens):
        """tokens (B,T) -> logits (B,T,V), and a trace of every layer: x, the residual stream after
        it, and the last extension's residue, gate and z, the gate before its activation."""
        wte, trace = self.embedding(), {"x": [], "residue": [], "z": [], "gate": []}
        x = wte[tokens] + self.weights["wpe.weight"][:tokens.shape[1]]
        for l in range(self.config["n_layer"]):
            x = x + self.attention(self.norm(x, f"h.{l}.ln_1"), f"h.{l}.attn")
            u = self.norm(x, f"h.{l}.ln_2")
            if l == 0:                                                         # beside its mean over the positions so far
                positions = torch.arange(1, u.shape[1] + 1, dtype=u.dtype)[:, None]
                prefix = torch.cat([u, u.cumsum(1) / positions], -1)           # (B, T, 2C)
            x = x + self.ffn(u, f"h.{l}.mlp")
            r = z = g = None
            for e in self.extensions:
                r, z, g = e.residue(l, u, prefix)
                if r is not None:
                    x = x + r
            for key, value in zip(trace, (x, r, z, g)):
                if value is not None:
                    trace[key].append(value)
        return self.norm(x, "ln_f") @ wte.T, trace

def load_model(folder, dtype=torch.float32):
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    if (config.get("activation_function", "gelu_new") != "gelu_new" or config.get("layer_norm_epsilon", 1e-5) != 1e-5
            or config.get("n_inner") not in (None, 4 * config["n_embd"]) or not config.get("tie_word_embeddings", True)):
        sys.exit(f"{folder} is another architecture: GELU in its tanh form, eps 1e-5, 4 C and a tied head are read here")
    tensors, _ = read_safetensors(os.path.join(folder, "model.safetensors"))
    tensors = {name.replace("transformer.", ""): t for name, t in tensors.items()}
    return Model(config, {name: torch.tensor(tensors[name].reshape(shape)).to(dtype)
                          for name, shape in backbone_shapes(config).items()})


# ---- the loss, and AdamW -------------------------------------------------------------------

def losses(model, tokens, targets, domains):
    """tokens and targets (B,T), a target of -1 not being counted; domains (B), 0 for the old one
    -> l_LM, l_local, logits, trace. The loss is l_LM + alpha l_local."""
    logits, trace = model.forward(tokens)
    lm = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    local = model.extensions[-1].about["local"] if model.extensions else "none"
    old, l_local = domains == 0, torch.zeros((), dtype=logits.dtype)
    if local == "l1" and old.any():                        # old text shall leave no residue:
        r = torch.stack(trace["residue"])[:, old]          # (L, old sequences, T, C)
        l_local = r.abs().mean()                           # 1/(L N_old) sum |r|_1 / C
    if local == "ce":                                      # the gate shall tell the domains apart
        z = torch.stack(trace["z"])                        # (L, B, T)
        new = (~old).to(z.dtype)[:, None].expand(z.shape)
        l_local = F.binary_cross_entropy_with_logits(z, new)
    return lm, l_local, logits, trace

ADAMW = dict(lr=1e-2, weight_decay=0.1, beta1=0.9, beta2=0.95, eps=1e-8, clip=1.0)

@torch.no_grad()
def adamw(params, grads, moments, step, lr, weight_decay, beta1=0.9, beta2=0.95, eps=1e-8, clip=1.0):
    """One step, counted from 1, on params in place. moments is the state it keeps, empty at first.
    Only matrices decay. -> the norm of all gradients together, before they are clipped"""
    norm = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
    scale = min(1.0, clip / norm) if norm > 0 else 1.0
    for name, w in params.items():
        g = grads[name] * scale
        m, v = moments.setdefault(name, (torch.zeros_like(w), torch.zeros_like(w)))
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        update = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + eps)
        if w.dim() == 2:
            update = update + weight_decay * w
        w.sub_(lr * update)
    return norm


# ---- the reference state ---------------------------------------------------------------------
# Small, and ragged on purpose. Every tensor is random and none is zero, unlike a fresh
# extension's, so that every gradient is worth checking. Computed in double.

SEED, BATCH, TIME, HIDDEN, RANK, STEPS, NEW_IDS = 1337, 3, 9, 16, 4, 10, [7, 29, 40]
CONFIG = dict(n_layer=2, n_head=3, n_embd=24, n_positions=12, vocab_size=53)
CASES = {  # method, gate, gate_input, local, alpha, new rows
    "finetune":       ("finetune", "none", "layer", "none", 0, False),
    "lora":           ("lora", "none", "layer", "none", 0, True),
    "adapter":        ("adapter", "none", "layer", "none", 0, False),
    "neutral":        ("neutral", "relu", "layer", "l1", 1, True),
    "neutral_norows": ("neutral", "relu", "layer", "l1", 0.01, False),
    "none_l1":        ("neutral", "none", "layer", "l1", 1, True),
    "relu_none":      ("neutral", "relu", "layer", "none", 0, True),
    "sigmoid_ce":     ("neutral", "sigmoid", "layer", "ce", 1, True),
    "sigmoid_l1":     ("neutral", "sigmoid", "layer", "l1", 3, True),
    "prefix":         ("neutral", "relu", "prefix", "l1", 1, True),
    "prefix_ce":      ("neutral", "sigmoid", "prefix", "ce", 1, False),
}
ABOUT = {
    "about":
        "Reference state of nr, written by dev/reference.py: one small GPT-2, one batch, and for each case (a way of "
        "training it) forward activations, losses, gradients and ten AdamW steps, computed in double, stored as F32. "
        "Tokens are rows: a linear layer is x W + b, W stored (in, out). Block: x += attention(LN1(x)); u = LN2(x); "
        "x += FFN(u) + r(u), where r(u) = g(u) ((SiLU(u wg) * (u wi)) wo) and g(u) = gate(u . w + b), or 1 if the gate "
        "is none; where CASE.gate_input is prefix, w reads [v; mean of v over the positions so far], v being the first block's u, "
        "in every layer. LayerNorm eps 1e-5, GELU in its tanh form, causal attention scaled by 1/sqrt(head size), head tied "
        "to wte, no dropout.",
    "about.model":
        "model/NAME: the backbone, named as in Hugging Face's GPT-2, the same in every case. Key backbone is its "
        "fingerprint: h = h * 0x9E3779B97F4A7C15 + w + 1 mod 2^64 over the float32 bits w in the order of this file, "
        "from h = 0.",
    "about.batch":
        "tokens (B,T), targets (B,T), domains (B). Targets of -1 are left out of the mean of l_LM. Domain 0 is old, "
        "1 is new.",
    "about.weight":
        "CASE/weight/NAME: the extension. wte.rows replaces the rows wte.ids of wte, in the embedding and in the head. "
        "LoRA: x W + b + (x lora_a) lora_b.",
    "about.x": "CASE/x/LAYER (B,T,C): the residual stream after the block.",
    "about.gate": "CASE/gate/LAYER (B,T): g(u), where the case has a gate.",
    "about.residue": "CASE/residue/LAYER (B,T,C): r(u), where the case has an adapter.",
    "about.logits": "CASE/logits (B,T,V).",
    "about.losses":
        "CASE/losses (2): l_LM and l_local; the loss is l_LM + alpha l_local. l_local, by CASE.local: l1 is the mean of "
        "|r| over layers, all tokens of old sequences, and channels; ce the mean over layers and all tokens of the "
        "cross-entropy of the sigmoid gate against 'this sequence is new'; none is 0.",
    "about.grad":
        "CASE/grad/NAME: gradients of the loss before clipping, for all that the case trains (finetune: the backbone; "
        "others: the extension without wte.ids). No input of a ReLU gate is within 1e-4 of 0, nor, where l1 counts it, "
        "a residue of an open gate. The keys' biases have no gradient: theirs is rounding noise.",
    "about.steps":
        "CASE/steps (10,2): loss, and norm of all gradients together before clipping, at the start of each step.",
    "about.adamw":
        "CASE/adamw/NAME: what is trained, after ten steps on this batch. Gradients are scaled by min(1, clip/norm); "
        "m = beta1 m + (1-beta1) g; v = beta2 v + (1-beta2) g^2; w -= lr (m/(1-beta1^t) / (sqrt(v/(1-beta2^t)) + eps) "
        "+ weight_decay w), with decay on tensors of two dimensions only. Compare in double.",
}

def draw(random, name, shape):
    """Values that a float32 holds exactly, so that single and double start from the same."""
    t = random.randn(*shape)
    if "wte" in name or "wpe" in name:                 t *= 0.3
    elif name.endswith("gate.w") or len(shape) == 2:   t *= shape[0] ** -0.5
    else:                                              t *= 0.1
    if "ln_" in name and name.endswith("weight"):      t += 1
    return torch.tensor(t.astype(np.float32).astype(np.float64))

def well_drawn(extension, trace, domains, margin):
    """Is nothing so near a kink that rounding, or a step of finite differences, could cross it?
    And are some ReLU gates open, some closed, in every layer and domain?"""
    if extension is None:
        return True
    old, gate = domains == 0, extension.about["gate"]
    if gate == "relu":
        for z in trace["z"]:
            if z.abs().min() < margin or any((z[d] > 0).all() or (z[d] < 0).all() for d in (old, ~old)):
                return False
    if extension.about["local"] == "l1":
        for l, r in enumerate(trace["residue"]):
            opened = r[old][trace["gate"][l][old] > 0] if gate != "none" else r[old]
            if opened.abs().min() < margin:
                return False
    return True

def run_case(config, weights, extension, alpha, batch):
    """The tensors of a case, or None if its extension is to be drawn again."""
    model, out = Model(config, {name: w.clone() for name, w in weights.items()}), {}
    if extension:
        model.extensions = [extension]
        out.update({"weight/" + name: t.clone() for name, t in extension.tensors.items()})
    trained = extension.trained() if extension else model.weights
    for w in trained.values():
        w.requires_grad_(True)
    moments, history = {}, []
    for step in range(1, STEPS + 1):
        lm, local, logits, trace = losses(model, *batch)
        if not well_drawn(extension, trace, batch[2], 1e-4 if step == 1 else 1e-6):
            return None
        loss = lm + alpha * local
        grads = dict(zip(trained, torch.autograd.grad(loss, list(trained.values()))))
        if step == 1:
            out.update({f"{key}/{l}": t for key in ("x", "gate", "residue") for l, t in enumerate(trace[key])})
            out.update({"logits": logits, "losses": torch.stack([lm, local])})
            out.update({"grad/" + name: g for name, g in grads.items()})
        history.append([loss.item(), adamw(trained, grads, moments, step, **ADAMW)])
    out.update({"steps": torch.tensor(history), **{"adamw/" + name: w for name, w in trained.items()}})
    return out

def reference_state():
    """-> ({name: array}, {key: string})"""
    torch.set_num_threads(1)
    random = np.random.RandomState(SEED)                     # its stream is the same in every numpy
    weights = {name: draw(random, name, shape) for name, shape in backbone_shapes(CONFIG).items()}
    stream = random.randint(0, CONFIG["vocab_size"], BATCH * TIME + 1)
    stream[[3, 12, 16, 22, 25]] = [7, 7, 40, 29, 7]          # new words among tokens and targets
    tokens, targets = (torch.tensor(stream[i:i + BATCH * TIME].reshape(BATCH, TIME)) for i in (0, 1))
    targets[0, 5] = -1
    targets[2] = -1                                          # text that only the penalty sees
    domains = torch.tensor([0, 1, 0])
    state = {"model/" + name: w for name, w in weights.items()}
    state.update(tokens=tokens, targets=targets, domains=domains)
    about = dict(ABOUT, cases=" ".join(CASES), seed=SEED, backbone=fingerprint(weights, CONFIG),
                 layers=CONFIG["n_layer"], heads=CONFIG["n_head"], channels=CONFIG["n_embd"], vocab=CONFIG["vocab_size"],
                 positions=CONFIG["n_positions"], batch=BATCH, time=TIME, hidden=HIDDEN, rank=RANK, steps=STEPS, **ADAMW)
    for case, (method, gate, gate_input, local, alpha, rows) in CASES.items():
        tensors, extension = None, None
        while tensors is None:
            if method != "finetune":
                extension = new_extension(Model(CONFIG, weights), method, gate, local, hidden=HIDDEN, rank=RANK,
                                          new_ids=NEW_IDS if rows else (), gate_input=gate_input)
                for name, t in extension.trained().items():
                    extension.tensors[name] = draw(random, name, t.shape)
            tensors = run_case(CONFIG, weights, extension, alpha, (tokens, targets, domains))
        state.update({f"{case}/{name}": t for name, t in tensors.items()})
        about.update({f"{case}.method": method, f"{case}.gate": gate, f"{case}.gate_input": gate_input,
                      f"{case}.local": local, f"{case}.alpha": alpha})
    return ({name: t.detach().numpy() for name, t in state.items()},
            {key: str(value) for key, value in about.items()})


# ---- the command line ---------------------------------------------------------------------------

def command_state(args):
    write_safetensors(args.file, *reference_state())

def command_compare(args):
    (mine, mine_about), (theirs, theirs_about) = reference_state(), read_safetensors(args.file)
    theirs_about.pop("format", None)
    if mine_about != theirs_about or {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in theirs.items()}:
        sys.exit(f"{args.file} has other tensors, shapes or metadata: write it again with 'state'")
    def distance(name):
        a, b = mine[name].astype(np.float64), theirs[name].astype(np.float64)
        return np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30)
    worst = max(mine, key=distance)
    print(f"{len(mine)} tensors, the worst is {worst}: {distance(worst):.2e} of its norm")
    sys.exit(0 if distance(worst) <= 1e-5 else 1)

@torch.no_grad()
def command_logits(args):
    model = load_model(args.model, torch.float64 if args.double else torch.float32)
    for file in args.x:
        load_extension(model, file)
    tokens = torch.tensor([[int(t) for t in args.tokens.split()]])
    logits, _ = model.forward(tokens)
    if tokens.shape[1] > 1:
        print(f"loss {F.cross_entropy(logits[0, :-1], tokens[0, 1:]).item():.7f}")
    print("\n".join(f"{x:.7g}" for x in logits[0, -1].tolist()))

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in "state", "compare":
        commands.add_parser(name).add_argument("file", metavar="FILE")
    logits = commands.add_parser("logits")
    logits.add_argument("model", metavar="MODEL", help="a folder with config.json and model.safetensors")
    logits.add_argument("-x", action="append", default=[], metavar="EXT", help="an extension; may be given several times")
    logits.add_argument("--tokens", required=True, help='ids, as in "1 2 3"')
    logits.add_argument("--double", action="store_true", help="compute in double precision")
    args = parser.parse_args()
    globals()["command_" + args.command](args)

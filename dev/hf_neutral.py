#!/usr/bin/env python3
"""
nr's extensions on a `transformers` GPT-2. Needs torch and transformers.

    model = GPT2LMHeadModel.from_pretrained("MODEL").eval()
    neutral = Neutral(model, "fr.safetensors")      # from here on the model speaks French too

Forward hooks do it, so generate() and the rest of transformers work as before, and several
extensions can be put on one model. LoRA is not read here.

And training goes on, on as many processes or machines as torchrun starts. They share one
global batch, drawn alike everywhere, so their number changes nothing but rounding:

    torchrun --nproc_per_node 2 hf_neutral.py train MODEL fr.safetensors --data DIR --old en --new fr \\
             --steps 100 --batch 8 --context 128 --lr 1e-3 --seed 1 -o fr2.safetensors
"""
import argparse, os, sys
from functools import partial
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import GPT2LMHeadModel
from reference import adamw, backbone_shapes, read_safetensors, write_safetensors


def values_hash(h, tensors):
    """The hash by which nr knows values, continued from h: h <- h K + w + 1 mod 2^64 over the 32
    bits w of each. Taken a chunk at a time: h K^n + the sum of (w[i] + 1) K^(n-1-i)."""
    K, chunk = 0x9E3779B97F4A7C15, 1 << 16
    powers = np.multiply.accumulate(np.array([1] + [K] * (chunk - 1), np.uint64))[::-1]
    for t in tensors:
        w = np.ascontiguousarray(t).reshape(-1).view(np.uint32)
        for i in range(0, len(w), chunk):
            c = w[i:i+chunk].astype(np.uint64) + np.uint64(1)
            h = (h * pow(K, len(c), 1 << 64) + int((c * powers[chunk-len(c):]).sum())) % (1 << 64)
    return h


class Neutral(torch.nn.Module):
    """An extension, attached to a model when it is made. The backbone is frozen, the extension is not."""
    def __init__(self, model, file):
        super().__init__()
        tensors, self.about = read_safetensors(file)
        weights = {name.replace("transformer.", ""): t for name, t in model.state_dict().items()}
        before = [m for m in model.children() if isinstance(m, Neutral)]
        hashes = [values_hash(0, (weights[name].float().cpu().numpy()
                                  for name in backbone_shapes(model.config.to_dict())))]
        hashes += [m.hash for m in before]                                 # each continues the last
        if self.about.get("upon") not in [f"{h:016x}" for h in hashes]:
            sys.exit(f"{file}: trained upon a model with hash {self.about.get('upon')}, "
                     f"this one has {hashes[-1]:016x}")
        if self.about["rank"] != "0" or self.about["gate_input"] == "prefix":
            sys.exit(f"{file}: a LoRA, or its gate reads the prefix: "
                     "only adapters with the paper's gate are read here")
        self.hash = values_hash(hashes[-1], tensors.values())
        self.names = list(tensors)                                         # nr's order
        slot = torch.full((model.config.vocab_size,), -1)                  # token -> its new row, or -1
        ids = torch.tensor(tensors.pop("wte.ids", np.empty(0)).astype(np.int64))
        slot[ids] = torch.arange(len(ids))
        self.register_buffer("ids", ids)
        self.register_buffer("slot", slot)
        self.weights = torch.nn.ParameterDict({name.replace(".", "/"): torch.nn.Parameter(torch.tensor(t))
                                               for name, t in tensors.items()})
        self.residues, self.z = {}, {}                                     # of the last forward pass, by layer
        model.requires_grad_(False)
        model.add_module(f"extension{len(before)}", self)
        for l, block in enumerate(model.transformer.h):
            block.mlp.register_forward_hook(partial(self.add_residue, l))
        if len(ids):
            model.transformer.wte.register_forward_hook(self.embed)
            model.lm_head.register_forward_hook(self.head)

    def add_residue(self, l, mlp, inputs, output):                         # FFN(u) -> FFN(u) + r(u)
        u, (wi, wg, wo) = inputs[0], (self.weights[f"h/{l}/adapter/{w}"] for w in ("wi", "wg", "wo"))
        r = (F.silu(u @ wg) * (u @ wi)) @ wo
        if self.about["gate"] != "none":
            self.z[l] = u @ self.weights[f"h/{l}/gate/w"] + self.weights[f"h/{l}/gate/b"]
            r = getattr(torch, self.about["gate"])(self.z[l])[..., None] * r
        self.residues[l] = r
        return output + r

    def embed(self, wte, inputs, output):
        slot = self.slot[inputs[0]][..., None]
        return torch.where(slot >= 0, self.weights["wte/rows"][slot[..., 0].clamp(min=0)], output)

    def head(self, lm_head, inputs, output):
        return output.index_copy(-1, self.ids, inputs[0] @ self.weights["wte/rows"].T)

    def save(self, file):
        tensors = {name.replace("/", "."): w.detach().float().cpu() for name, w in self.weights.items()}
        tensors["wte.ids"] = self.ids.cpu()
        write_safetensors(file, {name: tensors[name] for name in self.names}, self.about)


def read_tokens(file):
    header = np.fromfile(file, np.int32, 256)
    if len(header) < 256 or header[0] != 20240520 or header[1] != 1:
        sys.exit(f"{file} is not a file of tokens")
    return np.fromfile(file, np.uint16, header[2], offset=1024), header[3]

def train(args):
    if "RANK" in os.environ:                                               # torchrun sets it
        dist.init_process_group("gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if args.batch < world:
        sys.exit(f"a batch of {args.batch} cannot be shared by {world} processes")
    model = GPT2LMHeadModel.from_pretrained(args.model).eval()             # eval: no dropout
    neutral = Neutral(model, args.extension)
    params, moments, random = dict(neutral.weights.items()), {}, np.random.RandomState(args.seed)
    files = [read_tokens(os.path.join(args.data, f"{d}_train.bin")) for d in args.old.split(",") + [args.new]]
    if len({vocabulary for _, vocabulary in files if vocabulary}) > 1:
        sys.exit("these files were not made by one tokenizer")
    B, T, L, C = args.batch, args.context, model.config.n_layer, model.config.n_embd
    p, alpha, local = float(neutral.about["p"]), float(neutral.about["alpha"]), neutral.about["local"]
    for step in range(1, args.steps + 1):
        old, batch = random.rand(B) < p, []                                # the global batch, alike in every process
        for is_old in old:
            tokens, _ = files[random.randint(len(files) - 1) if is_old else -1]
            start = random.randint(len(tokens) - T)
            batch.append(tokens[start:start + T + 1].astype(np.int64))
        mine, mine_old = torch.tensor(np.stack(batch))[rank::world], torch.tensor(old)[rank::world]
        logits = model(mine[:, :-1], use_cache=False).logits
        # every mean is a sum over this process's share, divided by the global batch's count
        lm = F.cross_entropy(logits.flatten(0, 1), mine[:, 1:].flatten(), reduction="sum") / (B * T)
        l_local = torch.zeros(())
        if local == "l1" and old.any():
            l_local = sum(r[mine_old].abs().sum() for r in neutral.residues.values()) / (L * old.sum() * T * C)
        if local == "ce":
            new = (~mine_old).float()[:, None].expand(-1, T)
            l_local = sum(F.binary_cross_entropy_with_logits(z, new, reduction="sum")
                          for z in neutral.z.values()) / (L * B * T)
        grads = torch.autograd.grad(lm + alpha * l_local, list(params.values()))
        flat = torch.cat([g.flatten() for g in grads] + [lm.detach()[None], l_local.detach()[None]])
        if world > 1:
            dist.all_reduce(flat)                                          # one message a step: gradients and losses
        parts = flat.split([g.numel() for g in grads] + [1, 1])
        adamw(params, {n: g.view_as(params[n]) for n, g in zip(params, parts)}, moments, step, args.lr, args.weight_decay)
        if rank == 0:
            print(f"step {step} loss {parts[-2].item():.6f} local {parts[-1].item():.6f}", flush=True)
    if rank == 0:
        neutral.about["steps"] = str(int(neutral.about["steps"]) + args.steps)
        neutral.save(args.o)
    if dist.is_initialized():
        dist.destroy_process_group()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command = parser.add_subparsers(required=True).add_parser("train")
    command.add_argument("model", metavar="MODEL")
    command.add_argument("extension", metavar="EXT")
    command.add_argument("--data", required=True, help="the folder of DOMAIN_train.bin")
    command.add_argument("--old", required=True, help="one domain, or several with commas between")
    command.add_argument("--new", required=True)
    for name, kind, default in (("steps", int, 100), ("batch", int, 8), ("context", int, 128), ("lr", float, 1e-3),
                                ("seed", int, 1), ("weight-decay", float, 0.0)):
        command.add_argument("--" + name, type=kind, default=default)
    command.add_argument("-o", required=True, metavar="OUT")
    train(parser.parse_args())

#!/usr/bin/env python3
"""
nr's extensions in transformers: loaded, and trained further. Needs torch and transformers.

    model = load("MODEL", "fr.safetensors")        # dev/modeling_nr.py's model, the backbone frozen

Training goes on, on as many processes or machines as torchrun starts. They share one global
batch, drawn alike everywhere, so their number changes nothing but rounding:

    torchrun --nproc_per_node 2 hf_neutral.py train MODEL fr.safetensors --data DIR --old en --new fr \\
             --steps 100 --batch 8 --context 128 --lr 1e-3 --seed 1 -o fr2.safetensors

Of several extensions the last one is trained. p, q, alpha and the local loss are those of its file.
Text that only the penalty sees, as method replay has it, is in files of tokens: --negatives FILE,...
"""
import argparse, os, sys
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from export_hf import assemble, tensor_shapes
from modeling_nr import NRConfig, NRForCausalLM
from reference import adamw, values_hash, write_safetensors


def load(folder, *files):
    """A model with extensions, in the order of training. The last one is to be trained, or the backbone
    if there is none."""
    config, tensors = assemble(folder, files)
    del config["auto_map"]
    model = NRForCausalLM(NRConfig(**config)).eval()                       # eval: no dropout
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]          # which is tied
    model.load_state_dict({name: torch.tensor(t) for name, t in tensors.items()})
    if files:
        model.requires_grad_(False)
        model.extensions[-1].requires_grad_(True)
    return model

def save(model, file, **changed):
    """Writes the last extension as nr reads it."""
    extension, about = model.extensions[-1], {**model.config.extensions[-1], **changed}
    own = extension.state_dict()
    tensors = {name: own[name].cpu().numpy() for name in tensor_shapes(model.config.to_dict(), about)}
    about["hash"] = f"{values_hash(int(about['upon'], 16), tensors.values()):016x}"
    write_safetensors(file, tensors, about)

def read_tokens(file):
    header = np.fromfile(file, np.int32, 256)
    if len(header) < 256 or header[0] != 20240520 or header[1] != 1:
        sys.exit(f"{file} is not a file of tokens")
    return np.fromfile(file, np.uint16, header[2], offset=1024), header[3]

def draw(random, p, q, old, negatives, new, B, T):
    """A global batch, alike in every process -> tokens (B,T+1), is_old (B), learnt (B): a fraction p is
    of the files `old`, learnt and seen by the penalty, a fraction q of `negatives`, only seen by it."""
    x, batch = random.rand(B), []
    for u in x:
        files = old if u < p else negatives if u < p + q else new
        _, tokens, _ = files[random.randint(len(files))]
        start = random.randint(len(tokens) - T)
        batch.append(tokens[start:start + T + 1].astype(np.int64))
    return torch.tensor(np.stack(batch)), torch.tensor(x < p + q), torch.tensor((x < p) | (x >= p + q))

def train(args):
    if "RANK" in os.environ:                                               # torchrun sets it
        dist.init_process_group("gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if args.batch < world:
        sys.exit(f"a batch of {args.batch} cannot be shared by {world} processes")
    model = load(args.model, *args.extension)
    extension, about = model.extensions[-1].train(), model.config.extensions[-1]
    params, moments, random = dict(extension.named_parameters()), {}, np.random.RandomState(args.seed)
    B, T, config = args.batch, args.context, model.config
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    if T > config.n_positions:
        sys.exit(f"--context is {T}, the model has {config.n_positions} positions")
    def read_all(paths):
        found = [(path, *read_tokens(path)) for path in paths]
        for file, tokens, _ in found:
            if len(tokens) <= T or tokens.max() >= V:
                sys.exit(f"{file}: {len(tokens)} tokens up to {max(tokens, default=0)}, "
                         f"expected more than {T}, below {V}")
        return found
    old, new = (read_all(os.path.join(args.data, d + "_train.bin") for d in domains.split(",") if d)
                for domains in (args.old, args.new))
    negatives = read_all(path for path in args.negatives.split(",") if path)
    if len({vocabulary for _, _, vocabulary in old + new + negatives if vocabulary}) > 1:
        sys.exit("these files were not made by one tokenizer")
    alpha, local = float(about["alpha"]), about["local"] if extension.has_adapter else "none"
    p, q = float(about["p"]) if old else 0, float(about["q"]) if negatives else 0
    for step in range(1, args.steps + 1):
        tokens, is_old, learnt = draw(random, p, q, old, negatives, new, B, T)
        mine, mine_old, mine_learnt = (t[rank::world] for t in (tokens, is_old, learnt))
        logits = model(mine[:, :-1], use_cache=False).logits
        # every mean is a sum over this process's share, divided by the global batch's count
        targets = torch.where(mine_learnt[:, None], mine[:, 1:], -100)     # what cross_entropy ignores
        lm = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        lm = lm / (learnt.sum().clamp(min=1) * T)
        l_local = torch.zeros(())
        if local == "l1" and is_old.any():
            l_local = sum(r[mine_old].abs().sum() for r in extension.residues.values())
            l_local = l_local / (L * is_old.sum() * T * C)
        if local == "ce":
            target = (~mine_old).float()[:, None].expand(-1, T)
            l_local = sum(F.binary_cross_entropy_with_logits(z, target, reduction="sum")
                          for z in extension.z.values()) / (L * B * T)
        grads = torch.autograd.grad(lm + alpha * l_local, list(params.values()))
        flat = torch.cat([g.flatten() for g in grads] + [lm.detach()[None], l_local.detach()[None]])
        if world > 1:
            dist.all_reduce(flat)                                          # one message: gradients and losses
        parts = flat.split([g.numel() for g in grads] + [1, 1])
        grads = {name: g.view_as(w) for (name, w), g in zip(params.items(), parts)}
        adamw(params, grads, moments, step, args.lr, args.weight_decay)
        if rank == 0:
            print(f"step {step} loss {parts[-2].item():.6f} local {parts[-1].item():.6f}", flush=True)
    if rank == 0:
        save(model, args.o, steps=str(int(about["steps"]) + args.steps))
    if dist.is_initialized():
        dist.destroy_process_group()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    command = parser.add_subparsers(required=True).add_parser("train")
    command.add_argument("model", metavar="MODEL")
    command.add_argument("extension", metavar="EXT", nargs="+")
    command.add_argument("--data", required=True, help="the folder of DOMAIN_train.bin")
    command.add_argument("--old", default="", help="one domain, or several with commas between")
    command.add_argument("--new", required=True)
    command.add_argument("--negatives", default="", metavar="FILE", help="text that only the penalty sees")
    for name, default in (("steps", 100), ("batch", 8), ("context", 128), ("seed", 1), ("lr", 1e-3),
                          ("weight-decay", 0.0)):
        command.add_argument("--" + name, type=type(default), default=default)
    command.add_argument("-o", required=True, metavar="OUT")
    try:
        train(parser.parse_args())
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")

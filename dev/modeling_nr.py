"""
GPT-2 with nr's extensions, for transformers 5 and 4.57. dev/export_hf.py copies this file into every
folder it writes, from where

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)

imports it. The model stays transformers' own GPT-2; what extensions add, forward hooks add, so
generate(), Trainer and lm-eval work as ever. The equations are those of nr.c, rooms 3 to 6.
"""
from functools import partial
import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import DynamicLayer


class NRConfig(GPT2Config):
    """GPT-2's, and extensions: the metadata of each extension's file, in the order of training.
    The type is not gpt2: whoever does not run this file shall not get the backbone alone, unasked."""
    model_type = "nr_gpt2"


class Extension(nn.Module):
    """One extension: its tensors, under the names they have in its file."""
    def __init__(self, config, about):
        super().__init__()
        self.gate, self.reads_prefix = about["gate"], about["gate_input"] == "prefix"
        self.residues, self.z = {}, {}                   # by layer, of the last pass in training
        C, H, R, N = config.n_embd, int(about["hidden"]), int(about["rank"]), int(about["new_rows"])
        linear = {"attn.c_attn": (C, 3*C), "attn.c_proj": (C, C),
                  "mlp.c_fc": (C, 4*C), "mlp.c_proj": (4*C, C)}
        for h in (f"h.{l}." for l in range(config.n_layer)):
            if H:
                self.add(h + "adapter.wi", C, H)
                self.add(h + "adapter.wg", C, H)
                self.add(h + "adapter.wo", H, C)
            if H and self.gate != "none":
                self.add(h + "gate.w", 2*C if self.reads_prefix else C)
                self.add(h + "gate.b", 1)
            for name, (fan_in, fan_out) in linear.items() if R else ():
                self.add(h + name + ".lora_a", fan_in, R)
                self.add(h + name + ".lora_b", R, fan_out)
        self.has_adapter, self.has_lora, self.has_rows = H > 0, R > 0, N > 0
        if N:
            self.add("wte.rows", N, C)
            self.wte.register_buffer("ids", torch.zeros(N, dtype=torch.int32))   # ascending

    def add(self, name, *shape):
        *path, last = name.split(".")
        module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(last, nn.Parameter(torch.zeros(shape)))

    def residue(self, l, u, prefix):                     # r(u) = g(u) ((SiLU(u wg) * (u wi)) wo)
        wi, wg, wo = (self.get_parameter(f"h.{l}.adapter.{w}") for w in ("wi", "wg", "wo"))
        r, z = (F.silu(u @ wg) * (u @ wi)) @ wo, None
        if self.gate != "none":
            seen = prefix if self.reads_prefix else u
            z = seen @ self.get_parameter(f"h.{l}.gate.w") + self.get_parameter(f"h.{l}.gate.b")
            r = {"relu": torch.relu, "sigmoid": torch.sigmoid}[self.gate](z)[..., None] * r
        if self.training:
            self.residues[l], self.z[l] = r, z
        return r


class Extensions(nn.ModuleList):
    """A model's extensions, in order, and the hooks through which the model computes with them."""
    def __init__(self, model, abouts):
        super().__init__(Extension(model.config, about) for about in abouts)
        self.layers = model.config.n_layer
        self.cache = self.mask = self.prefix = self.twice = None           # of the pass that is under way
        gpt = model.transformer
        if any(e.reads_prefix for e in self):
            gpt.register_forward_pre_hook(self.begin, with_kwargs=True)
            gpt.h[0].mlp.register_forward_pre_hook(self.look_back)
            gpt.register_forward_hook(self.end)
        for l, block in enumerate(gpt.h):
            if any(e.has_adapter for e in self):
                block.mlp.register_forward_hook(partial(self.add_residues, l))
            for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
                if any(e.has_lora for e in self):
                    block.get_submodule(name).register_forward_hook(partial(self.add_lora, f"h.{l}.{name}"))
        if any(e.has_rows for e in self):
            gpt.wte.register_forward_hook(self.embed)
            model.lm_head.register_forward_hook(self.head)

    def begin(self, gpt, args, kwargs):
        """Makes the cache, if there is to be one, for GPT2Model would make it where we do not see it."""
        name = "cache" if "cache" in kwargs else "past_key_values"         # as later and earlier versions say
        self.cache, self.mask = kwargs.get(name), kwargs.get("attention_mask")
        wanted = gpt.config.use_cache if kwargs.get("use_cache") is None else kwargs["use_cache"]
        self.twice = gpt.training and gpt.gradient_checkpointing           # blocks run again for gradients
        if self.twice:
            self.cache = None                            # transformers uses none then, either
        elif wanted and self.cache is None:
            self.cache = kwargs[name] = DynamicCache()
        if self.cache is not None and not isinstance(self.cache, DynamicCache):     # a static one has no room
            raise ValueError(f"nr's prefix gate: a {type(self.cache).__name__}, expected a DynamicCache")
        return args, kwargs

    def look_back(self, mlp, inputs):
        """prefix (B, T, 2C): the first block's u beside its mean over the positions so far. The mean
        needs every u since the first token. They lie in the cache, as the keys of one layer more than
        the model has: whatever generate() does to keys (beams, cropping) is done to them too."""
        u = inputs[0]
        seen, T = u, u.shape[1]
        if self.twice and not torch.is_grad_enabled():   # then no gradient would come back from other blocks
            raise ValueError("nr's prefix gate: gradient checkpointing is reentrant, expected "
                             "gradient_checkpointing_kwargs={'use_reentrant': False}")
        if self.cache is not None:
            while len(self.cache.layers) <= self.layers:
                self.cache.layers.append(DynamicLayer())
            keys, _ = self.cache.layers[self.layers].update(u[:, None], u[:, None, :, :0])
            seen = keys[:, 0]
            if seen.shape[1] != self.cache.get_seq_length():
                raise ValueError(f"nr's prefix gate: the cache holds {self.cache.get_seq_length()} tokens, "
                                 f"expected the {seen.shape[1]} that this model has seen")
        seen = seen.float()
        if self.mask is None:
            counted = torch.ones_like(seen[..., :1])
        elif self.mask.shape == seen.shape[:2]:
            counted = self.mask[..., None].float()       # padding is no text: it counts for nothing
        else:
            raise ValueError(f"nr's prefix gate: attention_mask is {tuple(self.mask.shape)}, "
                             f"expected {tuple(seen.shape[:2])}, a row a sequence")
        mean = (seen * counted).cumsum(1) / counted.cumsum(1).clamp(min=1)
        self.prefix = torch.cat([u, mean[:, -T:].to(u.dtype)], -1)

    def end(self, gpt, inputs, output):
        self.cache = None
        if not self.twice:
            self.mask = self.prefix = None

    def add_residues(self, l, mlp, inputs, output):      # FFN(u) -> FFN(u) + sum of r(u)
        for e in self:
            if e.has_adapter:
                output = output + e.residue(l, inputs[0], self.prefix)
        return output

    def add_lora(self, name, linear, inputs, output):    # x W + b -> x W + b + (x a) b'
        for e in self:
            if e.has_lora:
                a, b = e.get_parameter(name + ".lora_a"), e.get_parameter(name + ".lora_b")
                output = output + (inputs[0] @ a) @ b
        return output

    def embed(self, wte, inputs, output):                # later rows replace earlier ones
        for e in self:
            if e.has_rows:
                tokens, ids = inputs[0].contiguous(), e.wte.ids.to(inputs[0].dtype)
                row = torch.searchsorted(ids, tokens).clamp(max=len(ids) - 1)
                output = torch.where((ids[row] == tokens)[..., None], e.wte.rows[row], output)
        return output

    def head(self, lm_head, inputs, output):
        for e in self:
            if e.has_rows:
                output = output.index_copy(-1, e.wte.ids.long(), inputs[0] @ e.wte.rows.T)
        return output


class NRForCausalLM(GPT2LMHeadModel):
    config_class = NRConfig

    def __init__(self, config):
        super().__init__(config)
        self.extensions = Extensions(self, config.extensions)
        self.post_init()

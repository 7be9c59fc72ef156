#!/usr/bin/env python3
"""
A model of nr and its extensions as a folder that transformers loads. Needs numpy and torch.

    export_hf.py MODEL [EXTENSION...] OUT        then, in Python, with transformers:
        AutoModelForCausalLM.from_pretrained("OUT", trust_remote_code=True)
        AutoTokenizer.from_pretrained("OUT", trust_remote_code=True)
    export_hf.py --peft MODEL LORA OUT           a LoRA as a folder of PEFT:
        PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained("MODEL"), "OUT")

The extensions are given in the order of training. The folder's type is nr_gpt2, not gpt2: without
trust_remote_code transformers 5 asks, and then refuses the model rather than load the backbone alone;
the tokenizer, which is GPT-2's, it loads whatever the answer is.
"""
import json, os, shutil, struct, sys
import numpy as np
from reference import backbone_shapes, extension_shapes, read_safetensors, values_hash, write_safetensors

SIZES = {key: int for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")}
SETTINGS = {**dict.fromkeys(("method", "gate", "gate_input", "local", "upon", "hash"), str),
            **dict.fromkeys(("hidden", "rank", "new_rows", "steps"), int),
            **dict.fromkeys(("alpha", "p", "q"), float)}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


def check_settings(file, found, expected):
    for key, kind in expected.items():
        try:
            kind(found[key])
        except (KeyError, TypeError, ValueError):
            sys.exit(f"{file}: \"{key}\" is {found.get(key, 'missing')}, expected {kind.__name__}")

def read(file, shapes_of):
    """-> ({name: array}, metadata) of a file, whose tensors must be those that shapes_of(metadata) names."""
    try:
        tensors, about = read_safetensors(file)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
        sys.exit(f"{file}: is not a safetensors file, or has tensors other than F64, F32, F16, I64, I32")
    # GPT-2's tensors have either name.
    tensors = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    shapes = shapes_of(about)
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            found = list(tensors[name].shape) if name in tensors else "missing"
            sys.exit(f"{file}: {name} is {found}, expected {list(shape)}")
    return {name: tensors[name] for name in shapes}, about

def tensor_shapes(config, about):
    """name -> shape of an extension's tensors, in nr's order."""
    H, R, N = (int(about[key]) for key in ("hidden", "rank", "new_rows"))
    method = "lora" if R else about["method"]
    shapes = extension_shapes(config, method, about["gate"], about["gate_input"], H, R, N)
    return {**shapes, "wte.ids": (N,)} if N else shapes

def read_config(folder):
    file = os.path.join(folder, "config.json")
    try:
        with open(file, encoding="utf-8") as f:
            config = json.load(f)
        check_settings(file, config, SIZES)
    except (ValueError, AttributeError):
        sys.exit(f"{file}: is not a config of a model")
    if config.get("model_type") != "gpt2":
        sys.exit(f"{file}: \"model_type\" is {config.get('model_type')}, expected gpt2")
    return config

def read_model(folder, files):
    """-> config, {name: array}, [({name: array}, metadata) of each extension]. Refuses an extension that
    was trained upon other values: each file says the hash of what it stands upon."""
    config, extensions = read_config(folder), []
    weights, _ = read(os.path.join(folder, "model.safetensors"), lambda _: backbone_shapes(config))
    weights = {name: t.astype(np.float32) for name, t in weights.items()}
    hashes = [values_hash(0, weights.values())]

    def shapes_of(about):
        check_settings(file, about, SETTINGS)
        if about["method"] in ("backbone", "naive", "finetune"):
            sys.exit(f"{file}: is a model, expected an extension")
        for key, words in ("gate", ("relu", "sigmoid", "none")), ("gate_input", ("layer", "prefix")):
            if about[key] not in words:
                sys.exit(f"{file}: \"{key}\" is {about[key]}, expected {' or '.join(words)}")
        if about["upon"] not in [f"{h:016x}" for h in hashes]:
            sys.exit(f"{file}: trained upon a model with hash {about['upon']}, this one has "
                     f"{hashes[-1]:016x} (extensions in the order of training)")
        return tensor_shapes(config, about)

    for file in files:
        tensors, about = read(file, shapes_of)
        h = values_hash(int(about["upon"], 16), tensors.values())
        if about["hash"] != f"{h:016x}":
            sys.exit(f"{file}: damaged: its values have hash {h:016x}, its metadata says {about['hash']}")
        ids = tensors.get("wte.ids", np.zeros(0))
        if len(ids) and not (0 <= ids[0] and ids[-1] < config["vocab_size"] and (np.diff(ids) > 0).all()):
            sys.exit(f"{file}: wte.ids is not ascending, or beyond the vocabulary of {config['vocab_size']}")
        hashes.append(values_hash(hashes[-1], tensors.values()))
        extensions.append((tensors, about))
    return config, weights, extensions

def assemble(folder, files):
    """-> the config and the tensors of modeling_nr.py's model."""
    config, weights, extensions = read_model(folder, files)
    config.pop("unseen_tokens", None)                                      # nr's own record
    config.pop("torch_dtype", None)                                        # the former name of dtype
    config.update(model_type="nr_gpt2", architectures=["NRForCausalLM"], dtype="float32",
                  auto_map={"AutoConfig": "modeling_nr.NRConfig",
                            "AutoModelForCausalLM": "modeling_nr.NRForCausalLM"},
                  extensions=[about for _, about in extensions])
    tensors = {"transformer." + name: t for name, t in weights.items()}
    for e, (own, _) in enumerate(extensions):
        tensors.update({f"extensions.{e}.{name}": t for name, t in own.items()})
    return config, tensors

def write_json(file, value):
    with open(file, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")

def export(model, files, out):
    config, tensors = assemble(model, files)
    os.makedirs(out, exist_ok=True)
    if os.path.samefile(model, out):
        sys.exit(f"{out}: is the model itself, expected another folder")
    write_json(os.path.join(out, "config.json"), config)
    write_json(os.path.join(out, "tokenizer_config.json"),                 # unless the model has one
               {"tokenizer_class": "GPT2Tokenizer", "model_max_length": config["n_positions"],
                "add_prefix_space": False, "clean_up_tokenization_spaces": False,
                **{key: "<|endoftext|>" for key in ("bos_token", "eos_token", "unk_token")}})
    for name in TOKENIZER:
        if os.path.exists(os.path.join(model, name)):
            shutil.copyfile(os.path.join(model, name), os.path.join(out, name))
    shutil.copyfile(os.path.join(os.path.dirname(os.path.abspath(__file__)), "modeling_nr.py"),
                    os.path.join(out, "modeling_nr.py"))
    write_safetensors(os.path.join(out, "model.safetensors"), tensors, {})  # last: then the folder is whole

def export_peft(model, file, out):
    _, _, [(tensors, about)] = read_model(model, [file])
    if about["rank"] == "0":
        sys.exit(f"{file}: its method is {about['method']}, PEFT has a form for lora only")
    rank = int(about["rank"])
    # nr adds x A B without a scale: PEFT's, lora_alpha / r, is 1. GPT-2's layers have W (in, out).
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": model,
              "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "bias": "none", "inference_mode": True,
              "fan_in_fan_out": True, "target_modules": ["c_attn", "c_proj", "c_fc"]}
    out_tensors = {}
    for name, t in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind in ("lora_a", "lora_b"):
            out_tensors[f"base_model.model.transformer.{layer}.lora_{kind[-1].upper()}.weight"] = t.T
    if "wte.ids" in tensors:
        config["trainable_token_indices"] = tensors["wte.ids"].tolist()
        out_tensors["base_model.model.transformer.wte.token_adapter.trainable_tokens_delta"] = \
            tensors["wte.rows"]                                            # the rows, whatever the name
    os.makedirs(out, exist_ok=True)
    write_json(os.path.join(out, "adapter_config.json"), config)
    write_safetensors(os.path.join(out, "adapter_model.safetensors"), out_tensors, {})


if __name__ == "__main__":
    words = sys.argv[1:]
    peft = words[:1] == ["--peft"]
    if any(w.startswith("-") for w in words[peft:]) or (len(words) != 4 if peft else len(words) < 2):
        sys.exit("usage: export_hf.py MODEL [EXTENSION...] OUT, or export_hf.py --peft MODEL LORA OUT")
    try:
        export_peft(*words[1:]) if peft else export(words[0], words[1:-1], words[-1])
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")

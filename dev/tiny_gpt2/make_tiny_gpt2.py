#!/usr/bin/env python3
"""
Makes the random GPT-2 in this folder, as transformers saves one, and expected.json: a text, its token ids by transformers' tokenizer
and the logits of the last one by its model, in float32. Run once, after `make tokenizer`; needs torch and transformers.
"""
import json, os, subprocess, tempfile
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

here = os.path.dirname(os.path.abspath(__file__))
text = """The rain came down on the hill and ran along the road to the mill. The miller's children stood at the door and watched it.
"It won't last," said the eldest; "the wind is in the west, and the swallows are high." By noon the sun was out.
Then they went down to the river, all 3 of them, and the river was brown and loud and as wide as a field.
The children ran home and told the miller: "The river will come to the mill and the wheel will turn all night."
"""
with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    file.write(text), file.flush()
    subprocess.run([here + "/../../tokenizer", "train", "-v", "300", "-o", here, file.name], check=True)
torch.manual_seed(1)
model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=16, vocab_size=300, initializer_range=0.3,
                                   bos_token_id=299, eos_token_id=299)).eval()
with torch.no_grad():  # transformers starts these at 0 and 1, where a mistake would not be seen
    for name, w in model.named_parameters():
        if name.endswith("bias") or ".ln_" in name: w += 0.3 * torch.randn_like(w)
model.save_pretrained(here)
os.remove(here + "/generation_config.json")
os.chmod(here + "/model.safetensors", 0o644)
assert len(json.load(open(here + "/vocab.json"))) == 300
said = "The children's river\n ran 3."
ids = GPT2Tokenizer.from_pretrained(here)(said)["input_ids"]
logits = model(torch.tensor([ids])).logits[0, -1].tolist()
with open(here + "/expected.json", "w") as file:
    file.write(json.dumps({"text": said, "ids": ids, "logits": "@"}).replace('"@"', "[" + ",".join(f"{x:.6g}" for x in logits) + "]") + "\n")

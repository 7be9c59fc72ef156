#!/usr/bin/env python3
"""Checks tokenizer.c against tiktoken and Hugging Face's tokenizers: the same ids, the same merges, and how fast.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tiktoken tokenizers
    /tmp/venv/bin/python dev/check_tokenizer.py --gpt2 FOLDER [--train FILE] [--random N] [TEXT...]

FOLDER has GPT-2's vocab.json and merges.txt. Ids are compared on every TEXT (a .gz is unpacked), on the sources of
this repository, on every code point and on N strings (200000) drawn from many scripts, marks, digits, emoji, spaces.
Merges are compared on --train, a sentence a line. Exits with 1 if anything differs. Nothing is downloaded.
"""
import argparse
import ctypes
import glob
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time

import tiktoken
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# Static functions cannot be called from outside, so these are compiled around them.
WRAPPER = """#define TOKENIZER_LIBRARY
typedef float real;
#include "tokenizer.c"
Tokenizer *load(const char *folder) { return tokenizer_load(folder); }
int *encode(const Tokenizer *t, const char *s, size_t n, size_t *count) { return tokenizer_encode(t, s, n, count); }
void save(const Tokenizer *t, const char *folder) { tokenizer_save(t, folder); }
const char *bytes_of(const Tokenizer *t, int id, size_t *n) { return tokenizer_bytes(t, id, n); }
int size_of(const Tokenizer *t) { return t->size; }
void release(void *memory) { free(memory); }
"""


class Ours:
    """tokenizer.c as a shared library."""

    def __init__(self, build, gpt2):
        source, library = os.path.join(build, "wrapper.c"), os.path.join(build, "wrapper.so")
        with open(source, "w") as file:
            file.write(WRAPPER)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-I", ROOT, "-o", library, source], check=True)
        self.c = ctypes.CDLL(library)
        self.c.load.restype = ctypes.c_void_p
        self.c.encode.restype = ctypes.POINTER(ctypes.c_int)
        self.c.encode.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
        self.c.bytes_of.restype = ctypes.POINTER(ctypes.c_char)
        self.c.bytes_of.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_size_t)]
        self.c.save.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self.c.size_of.argtypes = [ctypes.c_void_p]
        self.c.release.argtypes = [ctypes.c_void_p]
        self.t = self.c.load(gpt2.encode())
        self.tokens = []
        length = ctypes.c_size_t()
        for i in range(self.c.size_of(self.t)):
            pointer = self.c.bytes_of(self.t, i, ctypes.byref(length))
            self.tokens.append(pointer[:length.value])

    def encode(self, data):
        count = ctypes.c_size_t()
        pointer = self.c.encode(self.t, data, len(data), ctypes.byref(count))
        ids = pointer[:count.value]
        self.c.release(pointer)
        return ids

    def seconds(self, data):
        count = ctypes.c_size_t()
        start = time.perf_counter()
        pointer = self.c.encode(self.t, data, len(data), ctypes.byref(count))
        taken = time.perf_counter() - start
        self.c.release(pointer)
        return taken

    def decode(self, ids):
        return b"".join(self.tokens[i] for i in ids)


def load_tiktoken(gpt2):
    """tiktoken's encoder, from the ids in vocab.json."""
    byte = {}
    seen = [b for b in range(256) if 33 <= b <= 126 or (b >= 161 and b != 173)]
    for b in seen:
        byte[chr(b)] = b
    for i, b in enumerate(b for b in range(256) if b not in seen):
        byte[chr(256 + i)] = b
    vocab = json.load(open(os.path.join(gpt2, "vocab.json"), encoding="utf-8"))
    end = vocab.pop("<|endoftext|>")
    ranks = {bytes(byte[c] for c in token): i for token, i in vocab.items()}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": end})


def load_huggingface(gpt2):
    """Hugging Face's encoder, from vocab.json and merges.txt."""
    model = models.BPE.from_file(os.path.join(gpt2, "vocab.json"), os.path.join(gpt2, "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


BLOCKS = [(0x20, 0x7e), (0x00, 0x20), (0x7f, 0x24f), (0x250, 0x36f), (0x370, 0x52f), (0x530, 0x6ff), (0x700, 0x8ff),
          (0x900, 0xdff), (0xe00, 0x11ff), (0x1200, 0x1aff), (0x1b00, 0x1fff), (0x2000, 0x206f), (0x2070, 0x2bff),
          (0x2c00, 0x2fff), (0x3000, 0x30ff), (0x3100, 0x4dff), (0x4e00, 0x9fff), (0xa000, 0xabff), (0xac00, 0xd7ff),
          (0xe000, 0xffff), (0x10000, 0x1ffff), (0x1d7ce, 0x1d7ff), (0x1f300, 0x1faff), (0x20000, 0x323af),
          (0xe0000, 0xe01ef), (0x100000, 0x10ffff)]
PIECES = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'", "''", " '", "\u2019s", "<|endoftext|>", " ", "  ",
          "    ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u001c", "\u200b",
          "\ufeff", "\u180e", " the", "The", " 1", "12", "3.14", "\u0660\u0661", "\u00bd", "\u2167", "\u00e9",
          "e\u0301", "\u0e01\u0e33", "\U0001f468\u200d\U0001f469", "\U0001f1eb\U0001f1f7", "a" * 40, " " * 70, "=" * 50,
          "!?", "...", "\x00", "aaaaab", "ing", "\u4eba\u4eba"]


def random_string(rng):
    parts = []
    for _ in range(rng.randint(1, 12)):
        if rng.random() < 0.4:
            parts.append(rng.choice(PIECES))
        else:
            low, high = rng.choice(BLOCKS)
            parts += [chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))]
        if rng.random() < 0.2:
            parts.append(" ")
    return "".join(parts)


def read(path):
    data = gzip.open(path).read() if path.endswith(".gz") else open(path, "rb").read()
    return data.decode("utf-8")


def best(seconds):
    return min(seconds() for _ in range(3))


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpt2", required=True, metavar="FOLDER")
    parser.add_argument("--train", metavar="FILE", action="append", default=[])
    parser.add_argument("--random", type=int, default=200000, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    options = parser.parse_args()
    build = tempfile.TemporaryDirectory()
    ours, tik, hf = Ours(build.name, options.gpt2), load_tiktoken(options.gpt2), load_huggingface(options.gpt2)
    failures = 0

    def compare(name, texts):
        """Counts the texts on which the ids differ, or do not decode to the text."""
        nonlocal failures
        wrong, tokens, size = 0, 0, 0
        for text in texts:
            data = text.encode("utf-8")
            ids = ours.encode(data)
            tokens, size = tokens + len(ids), size + len(data)
            same = ids == tik.encode_ordinary(text) and ids == hf.encode(text).ids and ours.decode(ids) == data
            if not same:
                wrong += 1
                if wrong <= 3:
                    print(f"  differs: {text[:60]!r}: ours {ids[:20]}, tiktoken {tik.encode_ordinary(text)[:20]}, "
                          f"tokenizers {hf.encode(text).ids[:20]}")
        failures += wrong
        print(f"{name:34s} {len(texts):7d} texts {size:10d} bytes {tokens:9d} tokens {wrong:3d} differ")

    print("ids, against tiktoken and tokenizers:")
    for path in options.texts:
        compare(os.path.basename(path), [read(path)])
    sources = [path for pattern in ("*", "dev/*", "docs/*") for path in glob.glob(os.path.join(ROOT, pattern))
               if os.path.isfile(path) and path.endswith((".c", ".h", ".py", ".md", ".sh", "Makefile"))]
    compare("the sources", [read(path) for path in sorted(sources)])
    points = [chr(code) for code in range(0x110000) if not 0xd800 <= code <= 0xdfff]
    for name, before in (("letter", "a"), ("digit", "1"), ("newline", "\n")):
        texts = ["".join(before + c for c in points[i:i + 64]) for i in range(0, len(points), 64)]
        compare(f"a {name} and each code point", texts)
    rng = random.Random(options.seed)
    compare("random strings", [random_string(rng) for _ in range(options.random)])

    wrong = 0
    for _ in range(20000):  # not UTF-8: only the round trip can be checked
        data = rng.randbytes(rng.randint(0, 60))
        wrong += ours.decode(ours.encode(data)) != data
    failures += wrong
    print(f"{'random bytes, encoded and decoded':34s} {20000:7d} texts {wrong:45d} differ")
    again = os.path.join(build.name, "again")
    ours.c.save(ours.t, again.encode())
    for name in ("vocab.json", "merges.txt"):
        same = open(os.path.join(again, name), "rb").read() == open(os.path.join(options.gpt2, name), "rb").read()
        failures += not same
        print(f"GPT-2's {name}, loaded and saved: {'the same bytes' if same else 'DIFFERS'}")

    if options.train:
        program, text = os.path.join(build.name, "tokenizer"), "".join(read(path) for path in options.train)
        subprocess.run(["cc", "-O2", "-o", program, os.path.join(ROOT, "tokenizer.c")], check=True)
        lines, data = text.splitlines(), text.encode("utf-8")
        path, trained = os.path.join(build.name, "train.txt"), os.path.join(build.name, "trained")
        open(path, "wb").write(data)
        print("\ntraining, against tokenizers' BpeTrainer (min_frequency 2), and seconds:")
        for size in (300, 1024, 4096, 16384, 50257):
            for by_line in (True, False):
                reference = Tokenizer(models.BPE())
                reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
                trainer = trainers.BpeTrainer(vocab_size=size - 1, min_frequency=2, special_tokens=[],
                                              show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
                theirs = timed(lambda: reference.train_from_iterator(lines if by_line else [text], trainer))
                command = [program, "train", "-v", str(size), "-o", trained, path] + ["--lines"] * by_line
                mine = timed(lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL))
                want = [" ".join(pair) for pair in json.loads(reference.to_str())["model"]["merges"]]
                got = open(os.path.join(trained, "merges.txt"), encoding="utf-8").read().split("\n")[1:-1]
                failures += got != want
                first = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
                print(f"size {size:6d}, a {'line' if by_line else 'file'} a document: {len(got):6d} merges, "
                      f"{'the same' if got == want else f'DIFFERS from merge {first} of {len(want)}'}; "
                      f"ours {mine:.3f} s, tokenizers {theirs:.3f} s")
        print("\nencoding with GPT-2's vocabulary, one thread:")
        hard = "".join(random_string(rng) for _ in range(100000))
        for name, text, parts in (("this text", text, lines), ("random strings", hard, None)):
            data = text.encode("utf-8")
            mb = len(data) / 1e6
            print(f"{name}: ours {mb / best(lambda: ours.seconds(data)):.1f} MB/s, "
                  f"tiktoken {mb / best(lambda: timed(lambda: tik.encode_ordinary(text))):.1f}", end="")
            if parts:
                print(f", tokenizers {mb / timed(lambda: hf.encode_batch_fast(parts)):.1f} (line by line)", end="")
            print()
    letters = bytes(rng.choices(range(97, 123), k=1000000))
    for name, data in (("one letter", b"a" * 1000000), ("spaces", b" " * 1000000), ("random letters", letters)):
        print(f"a word of a million bytes, {name}: {ours.seconds(data):.3f} s")
    print(f"\n{'no difference' if failures == 0 else f'{failures} DIFFERENCES'}")
    return failures != 0


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread each
    sys.exit(main())

#!/usr/bin/env python3
"""Prints the tables of letters and numbers in tokenizer.c: Unicode's general categories L* and N*.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install unicodedata2==16.0.0
    /tmp/venv/bin/python dev/unicode.py             prints the two tables
    /tmp/venv/bin/python dev/unicode.py --check     compares them with those in tokenizer.c

A table is a list of pairs: how many code points to skip after the last range, how many the next range has. The
version is Unicode 16.0, that of tiktoken 0.14 and tokenizers 0.23: another would cut some rare scripts otherwise
than they do. Without unicodedata2 Python's own unicodedata serves, if it is of that version.
"""
import os
import re
import sys

VERSION = "16.0.0"

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

if unicodedata.unidata_version != VERSION:
    sys.exit(f"unicode.py: this Python knows Unicode {unicodedata.unidata_version}, the tables are of {VERSION}: "
             f"pip install unicodedata2=={VERSION}")


def ranges(category):
    """The runs of code points whose general category starts with this letter, as (skipped, length) pairs."""
    pairs, end, code = [], 0, 0
    while code < 0x110000:
        if unicodedata.category(chr(code))[0] != category:
            code += 1
            continue
        start = code
        while code < 0x110000 and unicodedata.category(chr(code))[0] == category:
            code += 1
        pairs.append((start - end, code - start))
        end = code
    return pairs, end


def table(name, category):
    """The C text of one table, and the first code point after its last range."""
    pairs, end = ranges(category)
    lines, line = [], ""
    for skip, length in pairs:
        item = f"{skip},{length} "
        if len(line) + len(item) > 92:
            lines.append(line)
            line = ""
        line += item
    lines.append(line)
    body = "\n".join(f'    "{line}"' for line in lines)
    return f"static const char {name}[] =\n{body};\n", end


letters, letters_end = table("unicode_letters", "L")
numbers, numbers_end = table("unicode_numbers", "N")
limit = f"enum {{ UNICODE_END = 0x{max(letters_end, numbers_end):x} }};"
if sys.argv[1:] == ["--check"]:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tokenizer.c")
    source = open(path, encoding="ascii").read()
    for text in (letters, numbers, limit):
        if text not in source:
            sys.exit(f"unicode.py: tokenizer.c does not contain this:\n{text}")
    print(f"unicode.py: the tables in tokenizer.c are those of Unicode {VERSION}")
elif sys.argv[1:]:
    sys.exit(__doc__)
else:
    print(limit + "\n" + letters + numbers, end="")

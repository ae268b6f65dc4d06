#!/usr/bin/env python3
"""Prints server/text/tokenizer/unicode_delta.inc: the code points that Oniguruma (as in PyPI's `tokenizers`) puts into a
general category and PCRE2 10.42 (Unicode 14) leaves unassigned. Run in a virtual environment with `tokenizers`:

    python tests/server/tokenizer_unicode_delta.py > server/text/tokenizer/unicode_delta.inc
"""
import ctypes
import ctypes.util

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So").split()
UTF, UCP, ANCHORED = 0x00080000, 0x00020000, 0x80000000


def code_points():
    return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def by_onig(pattern):
    """The code points that the pattern matches: those that a removing split drops."""
    split = Split(Regex(pattern), "removed")
    matched = set()
    points = code_points()
    for i in range(0, len(points), 4096):
        chunk = points[i : i + 4096]
        kept = set()
        for piece, _ in split.pre_tokenize_str("".join(map(chr, chunk))):
            kept.update(map(ord, piece))
        matched.update(set(chunk) - kept)
    return matched


def by_pcre2(pattern):
    lib = ctypes.CDLL(ctypes.util.find_library("pcre2-8"))
    for name in ("pcre2_compile_8", "pcre2_match_data_create_8"):
        getattr(lib, name).restype = ctypes.c_void_p
    error, offset = ctypes.c_int(), ctypes.c_size_t()
    raw = pattern.encode()
    code = lib.pcre2_compile_8(raw, ctypes.c_size_t(len(raw)), ctypes.c_uint32(UTF | UCP | ANCHORED),
                               ctypes.byref(error), ctypes.byref(offset), None)
    data = lib.pcre2_match_data_create_8(ctypes.c_uint32(1), None)
    matched = set()
    for c in code_points():
        text = chr(c).encode()
        if lib.pcre2_match_8(ctypes.c_void_p(code), text, ctypes.c_size_t(len(text)), ctypes.c_size_t(0),
                             ctypes.c_uint32(0), ctypes.c_void_p(data), None) >= 0:
            matched.add(c)
    return matched


def main():
    rows = []
    for category in CATEGORIES:
        pattern = "\\p{%s}" % category
        missing = sorted(by_onig(pattern) - by_pcre2(pattern))
        for c in missing:
            if rows and rows[-1][2] == category and rows[-1][1] == c - 1:
                rows[-1][1] = c
            else:
                rows.append([c, c, category])
    print("// Made by tests/server/tokenizer_unicode_delta.py: {first, last, general category}.")
    print("// clang-format off")
    for i in range(0, len(rows), 4):
        print(" ".join('{0x%x, 0x%x, "%s"},' % tuple(row) for row in rows[i : i + 4]))
    print("// clang-format on")


main()

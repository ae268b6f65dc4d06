#!/usr/bin/env python3
"""Tests that compiler and linker have hardened the release binaries, from their ELF files (readelf).

    hardening_test.py BINARY...
"""
import re
import subprocess
import sys
import unittest

BINARIES = []


def readelf(option, path):
    return subprocess.run(["readelf", "-W", option, path], capture_output=True, text=True, check=True).stdout


class HardeningTest(unittest.TestCase):
    def for_each(self, option, *patterns):
        for path in BINARIES:
            with self.subTest(path):
                text = readelf(option, path)
                for pattern in patterns:
                    self.assertTrue(re.search(pattern, text), f"readelf {option} shows no {pattern}")

    def test_code_is_position_independent(self):
        self.for_each("--file-header", r"Type:\s+DYN")
        self.for_each("--dynamic", r"FLAGS_1.*\bPIE\b")

    def test_addresses_of_functions_are_read_only(self):
        self.for_each("--program-headers", r"\bGNU_RELRO\b")
        self.for_each("--dynamic", r"FLAGS_1.*\bNOW\b")

    def test_the_stack_is_not_executable(self):
        for path in BINARIES:
            flags = re.search(r"GNU_STACK(?:\s+0x\w+){5}\s+(\w+)", readelf("--program-headers", path)).group(1)
            self.assertEqual(flags, "RW", path)

    def test_overflows_of_buffers_end_the_process(self):
        self.for_each("--dyn-syms", r"\b__stack_chk_fail\b", r"\b__\w+_chk@GLIBC")


if __name__ == "__main__":
    BINARIES = sys.argv[1:]
    assert BINARIES, "name at least one binary"
    unittest.main(argv=sys.argv[:1], verbosity=2)

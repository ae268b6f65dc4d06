#!/usr/bin/python3
"""Tests of bench/adapters.py's arithmetic and adapters, and of tessera_engine_bench with these adapters and a tiny model.

    adapters_bench_test.py TESSERA_ENGINE_BENCH
"""
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "bench"))

import adapters  # noqa: E402
from compare import lora  # noqa: E402

MODEL = os.path.join(ROOT, "tests", "golden", "models", "qwen2")
LIMITS = {"read_gb_s": 40.0, "bf16_gflop_s": 1000.0, "int8_gop_s": 2000.0}
ENGINE_BENCH = sys.argv.pop() if len(sys.argv) > 1 else None


def run(*words, lines=()):
    return subprocess.run([ENGINE_BENCH, "--model", MODEL, "--threads", "1", "--kv-cache-bytes", "1000000", *words],
                          input="\n".join(lines), capture_output=True, text=True, timeout=120)


class ArithmeticTest(unittest.TestCase):
    def test_arguments(self):
        parsed = adapters.parse_arguments(["--parts", "hot,mixed", "--json", "x"])
        self.assertEqual(parsed.parts, ["hot", "mixed"])
        for words in (["--parts", "cold", "--json", "x"], [], ["--json", "x", "--rounds", "0"]):
            with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                adapters.parse_arguments(words)

    def test_limits(self):
        # Reading 20 MB at 40 GB/s takes 0.5 ms; 2 * 10M operations for each of 32 streams at 1 TFLOP/s take 0.64 ms.
        self.assertAlmostEqual(adapters.adapter_seconds(LIMITS, 10e6, 1, 1), 0.5e-3)
        self.assertAlmostEqual(adapters.adapter_seconds(LIMITS, 10e6, 1, 32), 0.64e-3)
        self.assertAlmostEqual(adapters.adapter_seconds(LIMITS, 10e6, 8, 32), 4e-3)
        self.assertEqual(adapters.median_ratio([1, 2, 30], [1, 1, 10]), 2)

    def test_random_numbers_are_small_and_finite(self):
        numbers = lora.random_bf16(1000)
        self.assertEqual(len(numbers), 2000)
        self.assertEqual({byte & 0x7F for byte in numbers[1::2]}, {0x3C})
        self.assertGreater(len(set(numbers)), 100)


@unittest.skipUnless(ENGINE_BENCH, "no tessera_engine_bench was named")
class EngineBenchTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.adapters = os.path.join(cls.folder.name, "adapters")
        lora.write_adapters(cls.adapters, MODEL, 20, (1, 2), lora.ALL_LINEAR)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_cases(self):
        lines = ["prefill 20", "decode 3 10 4", "decode 4 10 2 20", "loop 4 12 2 8 2 6 20 1", "loop 4 12 2 8 2 6 0 1"]
        done = run("--adapters", self.adapters, lines=lines)
        self.assertEqual(done.returncode, 0, done.stderr)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(answers[0]["adapters"], 20)
        self.assertEqual([a["case"] for a in answers[1:]], lines)
        self.assertEqual([a["tokens"] for a in answers[1:4]], [20, 12, 8])
        self.assertEqual(answers[3]["adapter_loads"], 0)  # all adapters were loaded before
        self.assertEqual(answers[4]["tokens"], answers[5]["tokens"])  # both loops have the same requests
        self.assertTrue(12 * 2 <= answers[4]["tokens"] <= 12 * 6)

    # A pool that reserves few pages for adapters reads adapters repeatedly. A reservation of more pages than the pool has is refused.
    def test_a_fixed_split(self):
        pages = json.loads(run().stdout.splitlines()[0])["pages"]
        lines = ["loop 4 40 2 8 2 6 20 1", "loop 4 40 2 8 2 6 20 2"]
        together = run("--adapters", self.adapters, "--adapter-host-bytes", "0", lines=lines)
        split = run("--adapters", self.adapters, "--adapter-host-bytes", "0", "--adapter-pages", str(pages // 8), lines=lines)
        self.assertEqual(split.returncode, 0, split.stderr)
        loads = [json.loads(done.stdout.splitlines()[2])["adapter_loads"] for done in (together, split)]
        self.assertLess(loads[0], loads[1])
        self.assertEqual(run("--adapter-pages", str(pages + 1)).returncode, 2)

    def test_complaints(self):
        for words, lines in ((["--dtype", "float8"], []), ([], ["decode 3 10 4 1"]), ([], ["fly 1"]),
                             (["--adapters", "/nowhere"], []), (["--threads", "x"], [])):
            done = run(*words, lines=lines)
            self.assertEqual(done.returncode, 2)
            self.assertIn("usage: tessera_engine_bench", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)

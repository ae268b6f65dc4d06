#!/usr/bin/python3
"""Tests of `tessera quantize` from the command line: the folder that it writes is served, and errors tell what to change.

    quantize_test.py TESSERAD TESSERA      quantises a model that ships in deploy/models
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "deploy", "models", "tessera-nano")
TEXT = os.path.join(ROOT, "README.md")
DAEMON, CLIENT = None, None  # paths of tesserad and tessera


def run(*words, stdin=None):
    return subprocess.run([CLIENT, *words], capture_output=True, text=True, timeout=300, input=stdin)


class QuantizeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.out = os.path.join(cls.folder.name, "nano-int4")
        cls.done = run("quantize", MODEL, "--text", TEXT, "--out", cls.out, "--tokens", "4096")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_it_tells_what_it_does(self):
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        self.assertEqual(self.done.stdout, self.out + "\n")
        lines = self.done.stderr.splitlines()
        self.assertRegex(lines[0], r"^calibrating with \d+ tokens in 8 sequences$")
        self.assertEqual(len(lines), 1 + 5, self.done.stderr)
        errors = [float(re.search(r"largest relative error (\S+);", line).group(1)) for line in lines[1:]]
        self.assertTrue(all(0 < error < 0.05 for error in errors), errors)

    def test_the_folder_is_what_it_says(self):
        with open(os.path.join(self.out, "config.json"), encoding="utf-8") as f:
            config = json.load(f)["quantization_config"]
        self.assertEqual(config["quant_method"], "compressed-tensors")
        self.assertEqual(config["config_groups"]["group_0"]["weights"]["group_size"], 128)
        before = os.path.getsize(os.path.join(MODEL, "model.safetensors"))
        self.assertLess(os.path.getsize(os.path.join(self.out, "model.safetensors")), 0.65 * before)

    def test_the_folder_is_served(self):
        server = subprocess.Popen(
            [DAEMON, "--model", f"whole={MODEL}", "--model", f"small={self.out}", "--listen", "127.0.0.1:0", "--metrics-listen",
             "127.0.0.1:0", "--threads", "1", "--kv-cache-bytes", "32MiB", "--log-level", "warn"], stdout=subprocess.PIPE, text=True)
        try:
            address = re.search(r"grpc=(\S+)", server.stdout.readline()).group(1)
            answers = [run("generate", "--server", address, "--model", model, "--temperature", "0", "--max-tokens", "24", "Once upon a time")
                       for model in ("whole", "small")]
            for answer in answers:
                self.assertEqual(answer.returncode, 0, answer.stderr)
                self.assertGreater(len(answer.stdout), 20)
            models = json.loads(run("models", "--server", address, "--json").stdout)["models"]
            small = next(model for model in models if model["name"] == "small")
            self.assertIn("int4", json.dumps(small))
        finally:
            server.terminate()
            server.wait(60)
            server.stdout.close()

    def test_errors_tell_what_to_change(self):
        new = os.path.join(self.folder.name, "new")
        for words, code, part in (
                (["quantize", MODEL], 2, "--text and --out are needed"),
                (["quantize", "--text", TEXT, "--out", new], 2, "give one MODEL"),
                (["quantize", MODEL, "--text", TEXT, "--out", new, "--bits", "5"], 2, "--bits is 4 or 8"),
                (["quantize", MODEL, "--text", TEXT, "--out", new, "--group-size", "48"], 2, "a multiple of 32"),
                (["quantize", MODEL, "--text", TEXT, "--out", new, "--tokens", "1"], 2, "--tokens is 1; give a number from 512"),
                (["quantize", MODEL, "--text", TEXT, "--out", new, "--drift", "2"], 2, "from 0 to 1"),
                (["quantize", MODEL, "--text", TEXT, "--out", new, "--what"], 2, "--what"),
                (["quantize", MODEL, "--text", TEXT, "--out", self.out], 1, "give --out a new folder"),
                (["quantize", MODEL, "--text", "/none", "--out", new], 1, "check the path"),
                (["quantize", "/none", "--text", TEXT, "--out", new], 1, "/none"),
                (["quantize", MODEL, "--text", TEXT, "--out", new, "--group-size", "256"], 1, "groups of 256 do not divide the 128 inputs"),
                (["quantize", self.out, "--text", TEXT, "--out", new], 1, "quantised already")):
            done = run(*words)
            self.assertEqual(done.returncode, code, (words, done.stderr))
            self.assertIn(part, done.stderr)
            self.assertRegex(done.stderr, r"(?m)^tessera quantize: ")
            self.assertFalse(os.path.exists(new))
        short = run("quantize", MODEL, "--text", "-", "--out", new, stdin="too short")
        self.assertEqual(short.returncode, 1)
        self.assertIn("give at least 256", short.stderr)
        wrong = subprocess.run([CLIENT, "quantize", MODEL, "--text", "-", "--out", new], input=b"\xff" * 9, capture_output=True, timeout=60)
        self.assertEqual(wrong.returncode, 1)
        self.assertIn(b"UTF-8", wrong.stderr)

    def test_help(self):
        for words in (["quantize", "--help"], ["help", "quantize"]):
            done = run(*words)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("--group-size SIZE", done.stdout)
        self.assertIn("quantize", run("--help").stdout)


if __name__ == "__main__":
    DAEMON, CLIENT = (os.path.abspath(path) for path in sys.argv[1:3])
    unittest.main(argv=sys.argv[:1], verbosity=1)

#!/usr/bin/python3
"""Tests of bench/peers.py without real peers: arguments, limits, statistics, table and JSON, and rounds with fake systems."""
import contextlib
import io
import itertools
import json
import os
import re
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "bench"))

import peers  # noqa: E402
from compare import cases, machine, report, systems, workshop  # noqa: E402

QWEN = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936}
LIMITS = {"read_gb_s": 38.0, "bf16_gflop_s": 460.0, "int8_gop_s": 938.0}
# A fake system. It answers each line with its speed if all other processes in the file PIDS are stopped, else with 1e9.
PRETENDER = """
import json, os, sys
system, pids, speed = sys.argv[1], sys.argv[2], float(sys.argv[3])
if speed < 0:
    sys.exit("no such model")
open(pids, "a").write(f"{os.getpid()} ")
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    if line.startswith("prefill 4096") and system == "llama.cpp":
        sys.exit("cannot do that")
    others = [p for p in open(pids).read().split() if p != str(os.getpid()) and os.path.exists("/proc/" + p)]
    states = [open(f"/proc/{p}/stat").read().split(") ")[1][0] for p in others]
    print(json.dumps({"tokens_per_s": speed if set(states) <= {"T", "Z"} else 1e9}), flush=True)
"""


def complaint(function, *arguments):
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.suppress(SystemExit):
        function(*arguments)
    return err.getvalue()


class PureTest(unittest.TestCase):
    def test_arguments(self):
        whole = peers.parse_arguments(["--json", "x"])
        self.assertEqual((whole.model, whole.weights, whole.rounds), (list(cases.MODELS), ["bf16", "int8", "int4"], 5))
        self.assertEqual(whole.cases, list(cases.CASES))
        quick = peers.parse_arguments(["--quick", "--json", "x"])
        self.assertEqual((quick.model, quick.cases, quick.rounds),
                         (["qwen2.5-0.5b"], ["prefill_512", "decode_1", "decode_32"], 3))
        some = peers.parse_arguments(["--model", "llama-3.2-1b", "--weights", "int4,bf16", "--cases", "decode_8,prefill_512",
                                      "--rounds", "2", "--json", "x"])
        self.assertEqual((some.model, some.weights, some.cases, some.rounds),
                         (["llama-3.2-1b"], ["bf16", "int4"], ["prefill_512", "decode_8"], 2))
        self.assertTrue(peers.parse_arguments(["--prepare"]).prepare)
        self.assertIn("--json FILE is needed", complaint(peers.parse_arguments, []))
        self.assertIn("'fp8' is none of bf16, int8, int4", complaint(peers.parse_arguments, ["--weights", "fp8"]))
        self.assertIn("at least 3", complaint(peers.parse_arguments, ["--quick", "--rounds", "1", "--json", "x"]))

    def test_limits_of_the_machine_are_the_better_probe(self):
        text = ("cpu, 2 threads: read 38.5 GB/s, bf16 peak 460 GFLOP/s, int8 peak 900 GOP/s\n"
                "limits at the end: read 37.0 GB/s, bf16 peak 450 GFLOP/s, int8 peak 938 GOP/s\n")
        self.assertEqual(machine.parse_limits(text), {"read_gb_s": 38.5, "bf16_gflop_s": 460.0, "int8_gop_s": 938.0})
        with self.assertRaises(SystemExit):
            machine.parse_limits("nothing")

    def test_limits_of_cases(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
                json.dump(QWEN, f)
            costs = cases.model_costs(folder)
        self.assertEqual((costs.layer_weights, costs.table_weights, costs.kv_numbers), (357826560, 136134656, 6144))

        def limit(case, weights):
            return cases.limit_of(cases.CASES[case], weights, costs, LIMITS)

        # The expected limits are computed by hand: a step's bytes over the read bandwidth, or its operations over the peak.
        self.assertAlmostEqual(limit("decode_1", "bf16"), 38e9 / (2 * 493961216 + 160 * 12288), places=3)
        self.assertAlmostEqual(limit("decode_1", "int4"), 38e9 / (0.5625 * 357826560 + 136134656 + 160 * 12288), places=3)
        attention = 512 * 513 / 2 * 4 * 24 * 896
        seconds = (2 * 512 * 357826560 + 2 * 136134656 + attention) / 460e9
        self.assertAlmostEqual(limit("prefill_512", "bf16"), 512 / seconds, places=3)
        for weights in cases.WEIGHTS:
            self.assertLess(limit("decode_8_at_2048", weights), limit("decode_8", weights))
            self.assertLess(limit("prefill_4096", weights), limit("prefill_512", weights))
            self.assertLess(limit("served_32", weights), limit("decode_32", weights))

    def test_ratio_is_to_the_best_peer_in_paired_rounds(self):
        # The machine is twice as fast in round 1, so only ratios within a round are right.
        samples = {"tessera": [30, 60, 31], "llama.cpp": [10, 20, 10], "openvino": [20, 40, 20]}
        self.assertAlmostEqual(report.ratio_to_best(samples), 1.5)
        low, high = report.interval(samples)
        self.assertTrue(low <= 1.5 <= high)
        self.assertAlmostEqual(low, 1.5)
        self.assertAlmostEqual(high, 1.55)
        self.assertEqual(report.interval({"tessera": [3.0], "openvino": [2.0]}), (1.5, 1.5))
        self.assertAlmostEqual(report.geometric_mean([1, 4]), 2)

    def test_json_is_the_contract_s(self):
        cell = report.cell_json("m", "int8", "decode_1", {"tessera": [30, 32, 31], "llama.cpp": [10, 10, 10]}, 0.5)
        self.assertEqual(cell, {"model": "m", "weights": "int8", "case": "decode_1", "tessera": 31,
                                "peers": {"llama.cpp": 10}, "ratio": 3.1, "limit_share": 0.5})
        whole = report.report_json("cpu", LIMITS, [cell])
        self.assertEqual(set(whole), {"cpu", "limits", "cells", "geomean"})
        self.assertAlmostEqual(whole["geomean"], 3.1)

    def test_table_names_what_is_missing(self):
        results = {("m", "bf16", "decode_1"): {"tessera": [30.0], "openvino": [20.0]},
                   ("m", "bf16", "decode_8"): {"tessera": [30.0]}, ("m", "bf16", "decode_32"): {"openvino": [20.0]}}
        lines = report.table(results, systems.SYSTEMS, lambda key: 0.5)
        self.assertEqual([re.split(r"\s+", line) for line in lines[1:]],
                         [["m", "bf16", "decode_1", "30.0", "missing", "20.0", "1.50", "1.50..1.50", "0.50"],
                          ["m", "bf16", "decode_8", "30.0", "missing", "missing", "-", "-", "0.50"],
                          ["m", "bf16", "decode_32", "missing", "missing", "20.0", "-", "-", "-"]])
        self.assertEqual(len({len(line) for line in lines}), 1)


class RoundsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = folder.name

    def compare(self, speeds, *words):
        """Runs a comparison of fake systems. `speeds` maps a system to its speed; a speed below 0 makes its start fail, and None its preparation."""
        comparison = peers.Comparison(peers.parse_arguments(["--json", os.path.join(self.work, "out.json"), "--work", self.work,
                                                             "--model", "m", "--weights", "bf16", *words]))

        def command(system, *_):
            if speeds[system] is None:
                raise workshop.Unavailable("no compiler")
            pids = os.path.join(self.work, "pids")
            return systems.Command([sys.executable, "-c", PRETENDER, system, pids, str(speeds[system])])

        comparison.systems.command = command
        comparison.workshop.model = lambda shape: None
        scales = (2**number for number in itertools.count())

        def growing_limits(*_):
            scale = next(scales)
            return {name: value * scale for name, value in LIMITS.items()}

        measure_limits, peers.measure_limits = peers.measure_limits, growing_limits
        self.addCleanup(setattr, peers, "measure_limits", measure_limits)
        costs, peers.model_costs = peers.model_costs, lambda folder: cases.Costs(1, 1, 1, 1)
        self.addCleanup(setattr, peers, "model_costs", costs)
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()) as out:
            comparison.run()
            comparison.print()
        with open(comparison.arguments.json, encoding="utf-8") as f:
            return json.load(f), out.getvalue()

    def samples(self):
        with open(os.path.join(self.work, "samples.jsonl"), encoding="utf-8") as f:
            return [json.loads(line) for line in f]

    def test_one_works_while_the_others_are_stopped_in_rotated_order(self):
        result, _ = self.compare({"tessera": 30, "llama.cpp": 10, "openvino": 20}, "--cases", "prefill_512,served_32",
                                 "--rounds", "3")
        self.assertEqual([(c["case"], c["tessera"], c["peers"], c["ratio"]) for c in result["cells"]],
                         [(case, 30, {"llama.cpp": 10, "openvino": 20}, 1.5) for case in ("prefill_512", "served_32")])
        firsts = [s["system"] for s in self.samples() if s["case"] == "prefill_512"][::3]
        self.assertEqual(sorted(firsts), sorted(systems.SYSTEMS))

    def test_a_share_is_of_what_the_machine_allowed_before_that_round(self):
        result, _ = self.compare({"tessera": 30, "llama.cpp": 10, "openvino": 20}, "--cases", "decode_1", "--rounds", "3")
        doubled = {name: value * 2 for name, value in LIMITS.items()}
        limit = cases.limit_of(cases.CASES["decode_1"], "bf16", cases.Costs(1, 1, 1, 1), doubled)
        self.assertAlmostEqual(result["cells"][0]["limit_share"], 30 / limit)
        self.assertGreater(result["limits"]["read_gb_s"], doubled["read_gb_s"])

    def test_a_peer_that_fails_is_missing_where_it_fails(self):
        result, out = self.compare({"tessera": 30, "llama.cpp": 10, "openvino": -1}, "--cases",
                                   "prefill_512,prefill_4096,decode_1", "--rounds", "2")
        self.assertEqual([(c["case"], c["ratio"]) for c in result["cells"]], [("prefill_512", 3), ("decode_1", 3)])
        self.assertIn("missing: llama.cpp, m bf16 prefill_4096: it ended: cannot do that", out)
        self.assertIn("missing: openvino, m bf16 decode_1: it ended: no such model", out)
        self.assertIn("geometric mean of 2 cells: 3.00", out)

    def test_a_peer_that_cannot_be_made_is_missing(self):
        result, out = self.compare({"tessera": 30, "llama.cpp": None, "openvino": 20}, "--cases", "decode_1", "--rounds", "1")
        self.assertEqual(result["cells"][0]["peers"], {"openvino": 20})
        self.assertIn("missing: llama.cpp, m bf16 decode_1: no compiler", out)


class WorkshopTest(unittest.TestCase):
    def test_what_was_made_is_kept_and_what_failed_is_not_tried_again(self):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as err:
            shop = workshop.Workshop(folder)
            path = shop.at("gguf", "m")
            for _ in range(2):
                self.assertEqual(shop.made(path, lambda part: shop.call("make", ["touch", part])), path)
                shop.once("mark", lambda: shop.call("mark", ["true"]))
                with self.assertRaisesRegex(workshop.Unavailable, r"fail failed \(1\), see .*fail.txt"):
                    shop.once("fail", lambda: shop.call("fail", ["false"]))
        self.assertEqual([line.split()[1] for line in err.getvalue().splitlines()], ["touch", "true", "false"])


if __name__ == "__main__":
    unittest.main(verbosity=2)

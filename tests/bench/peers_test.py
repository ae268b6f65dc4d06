#!/usr/bin/python3
"""Tests of bench/peers.py without real peers: arguments, limits, quality, statistics, table and JSON, and rounds with fake systems."""
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
from compare import cases, machine, quality, report, systems, workshop  # noqa: E402

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
    if line.startswith("prefill 4096") and system == "llama.cpp BF16":
        sys.exit("cannot do that")
    others = [p for p in open(pids).read().split() if p != str(os.getpid()) and os.path.exists("/proc/" + p)]
    states = [open(f"/proc/{p}/stat").read().split(") ")[1][0] for p in others]
    print(json.dumps({"tokens_per_s": speed if set(states) <= {"T", "Z"} else 1e9}), flush=True)
"""


# KL of fake formats: llama.cpp's and ik's Q8_0 are as good as our int8, and OpenVINO's format is not.
KL = {"tessera bf16": 0.0002, "tessera int8": 0.0052, "tessera int4": 0.25, "llama.cpp BF16": 0.0002, "llama.cpp Q8_0": 0.004,
      "ik BF16": 0.0002, "ik Q8_0": 0.004, "ik Q4_0": 0.33, "ik IQ4_KS": 0.16, "openvino int8": 0.0076, "openvino fp16": 0.0002}


def fake_qualities(kl=None):
    rows = [{"name": name, "model": quality.JUDGE, "kl": value, "kl_half_width": 0.01 * value, "megabytes": 100 - 100 * value}
            for name, value in (kl or KL).items()]
    return quality.Qualities(rows)


def complaint(function, *arguments):
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.suppress(SystemExit):
        function(*arguments)
    return err.getvalue()


class PureTest(unittest.TestCase):
    def test_arguments(self):
        whole = peers.parse_arguments(["--json", "x"])
        self.assertEqual((whole.model, whole.weights, whole.rounds), (list(cases.MODELS), ["bf16", "int8", "int5", "int4"], 5))
        self.assertEqual(whole.cases, list(cases.CASES))
        quick = peers.parse_arguments(["--quick", "--json", "x"])
        self.assertEqual((quick.model, quick.cases, quick.rounds),
                         (["qwen2.5-0.5b"], ["prefill_512", "decode_1", "decode_32"], 3))
        some = peers.parse_arguments(["--model", "llama-3.2-1b", "--weights", "int4,bf16", "--cases", "decode_8,prefill_512",
                                      "--rounds", "2", "--json", "x"])
        self.assertEqual((some.model, some.weights, some.cases, some.rounds),
                         (["llama-3.2-1b"], ["bf16", "int4"], ["prefill_512", "decode_8"], 2))
        self.assertEqual(whole.systems, ["tessera", "llama.cpp", "openvino"])
        with_ik = peers.parse_arguments(["--ik", "DIR", "--ik-formats", "Q8_0,IQ4_K", "--json", "x"])
        self.assertEqual((with_ik.systems, with_ik.ik_formats), (list(systems.SYSTEMS), ["Q8_0", "IQ4_K"]))
        self.assertTrue(peers.parse_arguments(["--prepare"]).prepare)
        self.assertIn("the system ik needs --ik DIR", complaint(peers.parse_arguments, ["--systems", "tessera,ik", "--json", "x"]))
        self.assertIn("--json FILE is needed", complaint(peers.parse_arguments, []))
        self.assertIn("'fp8' is none of bf16, int8, int5, int4", complaint(peers.parse_arguments, ["--weights", "fp8"]))
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
        samples = {"tessera": [30, 32, 31], "ik Q8_0": [10, 10, 10], "openvino int8": [40, 40, 40], "ik Q4_1": [50, 50, 50]}
        cell = report.cell_json(("m", "int8", "decode_1"), samples, 0.5, fake_qualities())
        self.assertEqual(cell, {"model": "m", "weights": "int8", "case": "decode_1", "tessera": 31,
                                "peers": {"ik Q8_0": 10}, "ratio": 3.1, "limit_share": 0.5,
                                "not_counted": {"openvino int8": 40, "ik Q4_1": 50},
                                "kl": {"tessera": 0.0052, "ik Q8_0": 0.004, "openvino int8": 0.0076, "ik Q4_1": None}})
        whole = report.report_json("cpu", LIMITS, [cell])
        self.assertEqual(set(whole), {"cpu", "limits", "cells", "geomean"})
        self.assertAlmostEqual(whole["geomean"], 3.1)

    def test_table_has_the_kl_and_says_who_counts_and_what_is_missing(self):
        results = {("m", "int8", "decode_1"): {"tessera": [30.0], "ik Q8_0": [20.0], "openvino int8": [60.0]},
                   ("m", "int4", "decode_8"): {"tessera": [30.0], "ik Q4_0": [40.0]}, ("m", "bf16", "decode_8"): {"ik BF16": [20.0]}}
        names = ("tessera", "ik BF16", "ik Q4_0", "ik Q8_0", "openvino int8", "ik")
        lines = report.table(results, lambda key: [n for n in names if n in results[key] or n in ("tessera", "ik")], lambda key: 0.5,
                             fake_qualities())
        self.assertEqual([re.split(r"\s{2,}", line.strip()) for line in lines[1:]],
                         [["m", "int8", "decode_1", "tessera", "30.0", "0.0052", "-", "1.50", "1.50..1.50", "0.50"],
                          ["ik Q8_0", "20.0", "0.0040", "-", "1.50", "-", "-", "counts"],
                          ["openvino int8", "60.0", "0.0076", "-", "0.50", "-", "-", "KL is worse"],
                          ["ik", "missing", "-", "-", "-", "-", "-", "KL is unknown"],
                          ["m", "int4", "decode_8", "tessera", "30.0", "0.2500", "-", "-", "-", "0.50"],
                          ["ik Q4_0", "40.0", "0.3300", "-", "0.75", "-", "-", "KL is worse"],
                          ["ik", "missing", "-", "-", "-", "-", "-", "KL is unknown"],
                          ["m", "bf16", "decode_8", "tessera", "missing", "0.0002", "-", "-", "-", "-"],
                          ["ik BF16", "20.0", "0.0002", "-", "-", "-", "-", "counts"],
                          ["ik", "missing", "-", "-", "-", "-", "-", "KL is unknown"]])


class QualityTest(unittest.TestCase):
    def test_a_worse_peer_does_not_count(self):
        def counts(theirs, ours):
            return quality.is_at_least_as_good(quality.Quality(*theirs, 1.0), quality.Quality(*ours, 1.0))

        self.assertTrue(counts((0.004, 0.0001), (0.0052, 0.0002)))
        self.assertFalse(counts((0.33, 0.006), (0.25, 0.008)))
        self.assertTrue(counts((0.25, 0.006), (0.245, 0.008)))  # the intervals overlap
        self.assertTrue(counts((0.00025, 0.0), (0.0002, 0.0)))  # less than the resolution
        self.assertFalse(counts((0.0010, 0.0), (0.0002, 0.0)))

    def test_verdicts(self):
        known = fake_qualities()
        self.assertEqual([known.verdict(name, "int8") for name in ("ik Q8_0", "openvino int8", "openvino int4", "ik BF16")],
                         ["counts", "KL is worse", "KL is unknown", "counts"])
        self.assertEqual(known.verdict("ik Q8_0", "int5"), "KL is unknown")  # ours is not known

    def test_candidates_are_the_smallest_that_are_at_least_as_good_and_the_plain_one(self):
        rows = [("tessera int8", 0.005, 135), ("tessera int5", 0.07, 105), ("tessera int4", 0.25, 93), ("ik BF16", 0.0002, 269),
                ("ik Q8_0", 0.004, 143), ("ik Q6_0", 0.02, 116), ("ik Q5_0", 0.08, 104), ("ik IQ4_KS", 0.16, 90), ("ik Q4_0", 0.33, 90)]
        known = quality.Qualities([{"name": name, "model": quality.JUDGE, "kl": kl, "kl_half_width": 0.001, "megabytes": megabytes}
                                   for name, kl, megabytes in rows])
        self.assertEqual(known.candidates("ik", "int8", 2), ["Q8_0"])  # BF16 is too large
        self.assertEqual(known.candidates("ik", "int5", 2), ["Q6_0", "Q8_0"])
        self.assertEqual(known.candidates("ik", "int4", 1), ["IQ4_KS", "Q8_0"])
        self.assertEqual(known.candidates("llama.cpp", "int4", 1), [])
        self.assertEqual(known.candidates("ik", "bf16", 1), [])  # our KL is unknown

    def test_rows_of_the_laboratory_are_taken_over(self):
        row = {"model": quality.JUDGE, "kl": 0.004, "kl_half_width": 0.0001, "weight_bytes": 143e6}
        rows = [{**row, "format": "llama.cpp Q8_0"}, {**row, "format": "llama.cpp IQ4_K"},
                {**row, "format": "openvino int8"}, {**row, "format": "int8:auto:bfloat16"},
                {**row, "format": "int8:auto:int8"}]
        entries = quality.taken_over(rows, "2026-01-02", "command")
        self.assertEqual([entry["name"] for entry in entries], ["ik Q8_0", "llama.cpp Q8_0", "ik IQ4_K", "openvino int8", "tessera int8"])
        self.assertEqual(entries[1]["note"], "same format; measured with ik_llama.cpp")
        newer = [{**entries[0], "kl": 0.005}]
        self.assertEqual([entry["kl"] for entry in quality.merged(entries, newer)], [0.005, 0.004, 0.004, 0.004, 0.004])

    def test_the_measured_file_has_a_peer_for_each_of_our_formats(self):
        known = quality.read()
        for weights in cases.WEIGHTS:
            self.assertIsNotNone(known.of(f"tessera {weights}"), weights)
            self.assertTrue(known.candidates("ik", weights, 1), weights)


class RoundsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = folder.name

    def compare(self, speeds, *words):
        """Runs a comparison of fake systems. `speeds` maps a system to its speed; a speed below 0 makes its start fail, and None its preparation."""
        read, quality.read = quality.read, fake_qualities
        self.addCleanup(setattr, quality, "read", read)
        comparison = peers.Comparison(peers.parse_arguments(["--json", os.path.join(self.work, "out.json"), "--work", self.work,
                                                             "--model", "m", "--weights", "bf16", *words]))

        def command(entrant, *_):
            if speeds[entrant.system] is None:
                raise workshop.Unavailable("no compiler")
            pids = os.path.join(self.work, "pids")
            return systems.Command([sys.executable, "-c", PRETENDER, entrant.name, pids, str(speeds[entrant.system])])

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
                         [(case, 30, {"llama.cpp BF16": 10, "openvino fp16": 20}, 1.5) for case in ("prefill_512", "served_32")])
        firsts = [s["system"] for s in self.samples() if s["case"] == "prefill_512"][::3]
        self.assertEqual(sorted(firsts), ["llama.cpp BF16", "openvino fp16", "tessera"])

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
        self.assertIn("missing: llama.cpp BF16, m bf16 prefill_4096: it ended: cannot do that", out)
        self.assertIn("missing: openvino fp16, m bf16 decode_1: it ended: no such model", out)
        self.assertIn("geometric mean of 2 cells at equal quality: 3.00; the lowest ratio: 3.00", out)

    def test_a_peer_that_cannot_be_made_is_missing(self):
        result, out = self.compare({"tessera": 30, "llama.cpp": None, "openvino": 20}, "--cases", "decode_1", "--rounds", "1")
        self.assertEqual(result["cells"][0]["peers"], {"openvino fp16": 20})
        self.assertIn("missing: llama.cpp BF16, m bf16 decode_1: no compiler", out)

    def test_each_format_of_a_peer_runs_and_a_worse_one_does_not_count(self):
        result, out = self.compare({"tessera": 30, "ik": 20, "openvino": 60}, "--weights", "int8,int5", "--systems",
                                   "tessera,openvino,ik", "--ik", self.work, "--cases", "decode_1", "--rounds", "1")
        cell = result["cells"][0]
        self.assertEqual((cell["peers"], cell["not_counted"]), ({"ik Q8_0": 20, "ik BF16": 20}, {"openvino int8": 60}))
        self.assertEqual((cell["ratio"], len(result["cells"])), (1.5, 1))
        self.assertRegex(out, r"openvino int8 +60.0 +0.0076 .* KL is worse")
        self.assertIn("missing: ik, m int5 decode_1: it has no format of which quality.json says", out)


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

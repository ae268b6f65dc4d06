#!/usr/bin/python3
"""Tests that tessera_scheduler_bench reports every case.

    scheduler_bench_test.py TESSERA_SCHEDULER_BENCH
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

BENCH = sys.argv.pop() if len(sys.argv) > 1 else None
STEPS = {"steady": 2, "models_4": 1, "tenants_16": 1, "priorities_8": 1}
WAITING = {"waiting_no_slot": 2, "waiting_no_pages": 2}
MANY = {"admission": 2, "preemption_storm": 2, "cancel_running": 2, "cancel_waiting": 2}


def run(*words):
    return subprocess.run([BENCH, *words], capture_output=True, text=True, timeout=120)


class SchedulerBenchTest(unittest.TestCase):
    def test_every_case_is_reported(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "figures.json")
            done = run("--quick", "--json", path)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(path, encoding="utf-8") as f:
                cases = json.load(f)["cases"]
        lines = [line.split()[0] for line in done.stdout.splitlines()]
        for name, num_sizes in {**STEPS, **WAITING, **MANY}.items():
            of_name = [case for case in cases if case["case"] == name]
            self.assertEqual(len(of_name), num_sizes, name)
            self.assertEqual(lines.count(name), num_sizes, name)
            for case in of_name:
                self.check_figures(name, case)

    def check_figures(self, name, case):
        if name in MANY:
            times = [case.get("ms", case.get("predicted_ms"))]
        else:
            unit = "_ms_per_1000" if name in STEPS else "_ms"
            times = [case["plan" + unit], case["whole" + unit]]
            self.assertLess(times[0], times[1], name)
        for time in times:
            self.assertGreater(time, 0, name)

    def test_flags(self):
        for words, what in ((["--fast"], "--fast"), (["--json"], "--json"), (["--json", "/no/such/folder/f"], "cannot write")):
            done = run(*words)
            self.assertEqual(done.returncode, 2)
            self.assertIn(what, done.stderr)


if __name__ == "__main__":
    unittest.main()

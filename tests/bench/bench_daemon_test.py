#!/usr/bin/python3
"""Tests of the program tessera-bench against a daemon with a model of deploy/models.

    bench_daemon_test.py TESSERAD TESSERA_BENCH
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "deploy", "models", "tessera-nano")
DAEMON = BENCH = None  # paths of the programs
LATENCIES = {"ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"}
KEYS = LATENCIES | {"requests", "errors", "duration_s", "request_throughput", "input_token_throughput",
                    "output_token_throughput", "goodput", "late_sends", "client_cpu_share"}


class Daemon:
    def __init__(self):
        self.process = subprocess.Popen(
            [DAEMON, "--model", f"first={MODEL}", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
             "--threads", "1", "--kv-cache-bytes", "64MiB", "--log-level", "error"],
            stdout=subprocess.PIPE, text=True)
        ready = self.process.stdout.readline()
        self.address, self.metrics = re.match(r"tesserad ready grpc=(\S+) metrics=(\S+)\n", ready).groups()

    def wait_for(self, name, least):
        """Waits until the sum of a metric's series has reached the value `least`."""
        for _ in range(3000):
            with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
            if sum(float(line.split()[-1]) for line in lines if re.match(name + r"[{ ]", line)) >= least:
                return
            time.sleep(0.02)
        raise AssertionError(f"{name} stays below {least}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self.process.stdout.close()


class BenchTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Daemon()
        cls.directory = tempfile.TemporaryDirectory()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        cls.directory.cleanup()

    def start(self, *flags, server=None):
        self.json_path = os.path.join(self.directory.name, self.id() + ".json")
        return subprocess.Popen([BENCH, "--server", server or self.server.address, "--json", self.json_path, *flags],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, process, codes=(0,)):
        """Waits for the program's end and returns its JSON report and its outputs."""
        out, err = process.communicate(timeout=300)
        self.assertIn(process.returncode, codes, out + err)
        with open(self.json_path, encoding="utf-8") as file:
            report = json.load(file)
        self.assertEqual(set(report), KEYS)
        for name in LATENCIES:
            values = report[name]
            self.assertEqual(set(values), {"mean", "p50", "p90", "p95", "p99", "max"})
            ordered = [values[key] for key in ("p50", "p90", "p95", "p99", "max")]
            self.assertEqual(ordered, sorted(ordered))
            self.assertLessEqual(values["mean"], values["max"] + 1e-9)
        return report, out, err

    def refuse(self, part, *flags, code=2):
        done = subprocess.run([BENCH, *flags], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertIn(part, done.stderr)

    def test_closed_loop(self):
        report, out, _ = self.end(self.start("--concurrency", "8", "--num-requests", "24", "--input-tokens", "16:48",
                                             "--output-tokens", "12"))
        self.assertEqual((report["requests"], report["errors"]), (24, 0))
        seconds = report["duration_s"]
        self.assertAlmostEqual(report["request_throughput"] * seconds, 24)
        self.assertAlmostEqual(report["output_token_throughput"] * seconds, 24 * 12)
        self.assertTrue(24 * 16 <= round(report["input_token_throughput"] * seconds) <= 24 * 48)
        self.assertAlmostEqual(report["goodput"], report["request_throughput"])  # equal without latency limits
        self.assertGreater(report["ttft_ms"]["p50"], 0)
        self.assertGreater(report["e2e_ms"]["p50"], report["ttft_ms"]["p50"])
        for word in ("TTFT", "ITL", "TPOT", "e2e", "goodput", "output tokens/s"):
            self.assertIn(word, out)

    def test_open_loop_with_limits(self):
        report, _, _ = self.end(self.start("--rate", "20", "--arrivals", "uniform", "--duration", "1",
                                           "--output-tokens", "4", "--slo-ttft", "0.001"))
        self.assertEqual((report["requests"], report["errors"]), (20, 0))
        self.assertEqual(report["goodput"], 0)  # no request meets a TTFT limit of a microsecond

    def test_prefixes_are_found_in_the_cache(self):
        shared = ("--concurrency", "2", "--num-requests", "12", "--input-tokens", "8", "--output-tokens", "2")
        _, out, _ = self.end(self.start(*shared, "--workload", "prefix", "--num-prefixes", "1", "--prefix-tokens", "320"))
        share = float(re.search(r"([\d.]+) % from the prefix cache", out).group(1))
        self.assertGreater(share, 70)  # at least 10 of 12 requests hit 320 of their 328 tokens
        _, out, _ = self.end(self.start(*shared, "--seed", "9"))
        self.assertIn(" 0.0 % from the prefix cache", out)

    def test_a_stalled_server_delays_no_send(self):
        # The daemon is stopped for a second. A client that waits for answers before it sends would see one slow
        # request. The open loop sends on time, and all requests that were due meanwhile have a long latency.
        with Daemon() as server:
            running = self.start("--rate", "20", "--arrivals", "uniform", "--num-requests", "60", "--input-tokens", "8",
                                 "--output-tokens", "2", "--warmup", "0", server=server.address)
            server.wait_for("tessera_requests_total", 3)
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(1.0)
            server.process.send_signal(signal.SIGCONT)
            report, _, _ = self.end(running)
        self.assertEqual((report["requests"], report["errors"]), (60, 0))
        self.assertGreater(report["ttft_ms"]["max"], 700)
        self.assertGreater(report["ttft_ms"]["p90"], 400)

    def test_a_server_that_goes_ends_no_run(self):
        with Daemon() as server:
            running = self.start("--concurrency", "2", "--duration", "6", "--output-tokens", "300", server=server.address)
            server.wait_for("tessera_requests_running", 2)
            server.process.kill()
            report, out, _ = self.end(running, codes=(0, 1))  # 1 if no request was answered before the kill
            self.assertGreater(report["errors"], 2)
            self.assertGreater(report["duration_s"], 5)
            self.assertIn("UNAVAILABLE", out)

    def test_interrupt_prints_what_there_is(self):
        running = self.start("--concurrency", "4", "--duration", "600", "--output-tokens", "100")
        self.server.wait_for("tessera_requests_running", 4)
        running.send_signal(signal.SIGINT)
        report, out, _ = self.end(running, codes=(130,))
        self.assertEqual(report["errors"], 0)
        self.assertIn("cut off", out)
        self.assertLess(report["duration_s"], 60)

    def test_refusals(self):
        self.refuse("give either --concurrency C (closed loop) or --rate R (open loop)")
        self.refuse("--workload sharegpt comes in a later release", "--workload", "sharegpt", "--rate", "1")
        here = ("--server", self.server.address, "--concurrency", "1")
        self.refuse("the model's context is 4096; lower --input-tokens", *here, "--input-tokens", "5000")
        self.refuse("the server has no model 'other'", *here, "--model", "other")
        self.refuse("cannot write '/no/such/file'", *here, "--json", "/no/such/file")
        self.refuse("is tesserad running at 127.0.0.1:1?", "--server", "127.0.0.1:1", "--rate", "1", code=1)


if __name__ == "__main__":
    DAEMON, BENCH = sys.argv.pop(1), sys.argv.pop(1)
    unittest.main(verbosity=2)

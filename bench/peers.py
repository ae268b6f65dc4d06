#!/usr/bin/env python3
"""Tessera and its peers on one machine, in one run: paired, interleaved rounds, so that only ratios count.

    bench/peers.py [--quick] [--model SHAPE] [--rounds N] [--work DIR] --json FILE

Makes a random-weight model of a public shape (the shapes' maker is the development data set's tools/make_model.py, which must lie
beside the checkout), converts it to GGUF, installs llama.cpp from its PyPI sdist with native flags into a throw-away
virtual environment, measures what this machine can read and compute, runs all systems round by round, prints a table and writes
JSON: {"cpu", "limits", "cells": [{"model", "weights", "case", "tessera", "peers", "ratio", "limit_share"}], "geomean"}.
This first version has bf16 weights and one peer.
"""
import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = os.path.join(ROOT, "..", "shared", "tools")
# case: (command of the workers, tokens that one pass over the weights serves)
CASES = {
    "prefill_512": ("prefill 512", 512),
    "decode_1": ("decode 1 128 64", 1),
    "decode_8": ("decode 8 128 32", 8),
    "decode_32": ("decode 32 128 16", 32),
    "decode_8_at_2048": ("decode 8 2048 16", 8),
}
QUICK = ["prefill_512", "decode_1", "decode_32"]


def say(text):
    print(text, file=sys.stderr, flush=True)


def call(command, **kw):
    say("+ " + " ".join(command))
    subprocess.run(command, check=True, stdout=sys.stderr, **kw)


def python_of(venv):
    return os.path.join(venv, "bin", "python")


def ensure_tools(work):
    """Two throw-away environments: one makes and converts models, one holds llama.cpp built for this machine."""
    models, llama = os.path.join(work, "venv-models"), os.path.join(work, "venv-llama")
    if not os.path.exists(os.path.join(models, "ok")):
        call([sys.executable, "-m", "venv", models])
        call([python_of(models), "-m", "pip", "install", "-q", "torch", "transformers", "safetensors", "numpy", "gguf"])
        open(os.path.join(models, "ok"), "w").close()
    if not os.path.exists(os.path.join(llama, "ok")):
        call([sys.executable, "-m", "venv", llama])
        env = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF " + " ".join(
                   f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP")),
                   CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count()))
        call([python_of(llama), "-m", "pip", "install", "-q", "--no-binary", "llama-cpp-python", "llama-cpp-python"], env=env)
        open(os.path.join(llama, "ok"), "w").close()
    return models, llama


def ensure_model(work, venv, shape):
    folder = os.path.join(work, shape)
    if not os.path.exists(os.path.join(folder, "config.json")):
        call([python_of(venv), os.path.join(TOOLS, "make_model.py"), shape, folder])
    gguf = folder + ".bf16.gguf"
    if not os.path.exists(gguf):
        call([python_of(venv), os.path.join(ROOT, "bench", "to_gguf.py"), folder, gguf])
    return folder, gguf


class Worker:
    """A system under test: loads once, then answers one case a line."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        say(f"{name}: {self.read()}")

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended early")
        return json.loads(line)

    def run(self, case):
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return self.read()["tokens_per_s"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def machine_limits():
    """Read bandwidth and bf16 peak of all cores, by the kernel benchmark's own probes."""
    out = subprocess.run([os.path.join(ROOT, "build", "bin", "tessera_kernel_bench"), "--benchmark_filter=^$"], cwd=ROOT,
                         capture_output=True, text=True)
    text = out.stdout + out.stderr
    read = re.search(r"([\d.]+) GB/s", text)
    peak = re.search(r"([\d.]+) GFLOP/s", text)
    return {"read_gb_s": float(read.group(1)) if read else 0.0, "bf16_gflop_s": float(peak.group(1)) if peak else 0.0}


def model_costs(folder):
    """Bytes of weights that a decode step reads, operations per prompt token (without attention)."""
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    h, layers, inter, vocab = c["hidden_size"], c["num_hidden_layers"], c["intermediate_size"], c["vocab_size"]
    head = c.get("head_dim") or h // c["num_attention_heads"]
    per_layer = h * head * (2 * c["num_attention_heads"] + 2 * c["num_key_value_heads"]) + 3 * h * inter
    return 2 * (layers * per_layer + vocab * h), 2 * layers * per_layer


def limit_of(case, limits, folder):
    weight_bytes, flops = model_costs(folder)
    tokens = CASES[case][1]
    if not limits["read_gb_s"] or not limits["bf16_gflop_s"]:
        return 0.0
    compute = tokens * flops / (limits["bf16_gflop_s"] * 1e9)
    if case.startswith("prefill"):
        return tokens / compute
    return tokens / max(weight_bytes / (limits["read_gb_s"] * 1e9), compute)


def interval(ratios):
    """Median and a 95 % interval of the mean of log ratios."""
    logs = [math.log(r) for r in ratios]
    half = 1.96 * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
    middle = statistics.fmean(logs)
    return statistics.median(ratios), math.exp(middle - half), math.exp(middle + half)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--quick", action="store_true", help="the small model, three cases")
    ap.add_argument("--model", default="qwen2.5-0.5b")
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--work", default=os.path.join(ROOT, "build", "peers"))
    ap.add_argument("--json", required=True)
    a = ap.parse_args()
    cases = QUICK if a.quick else list(CASES)
    rounds = max(3, min(a.rounds, 3) if a.quick else a.rounds)
    os.makedirs(a.work, exist_ok=True)
    call(["cmake", "--build", os.path.join(ROOT, "build"), "--target", "tessera_engine_bench", "tessera_kernel_bench"])
    models, llama = ensure_tools(a.work)
    folder, gguf = ensure_model(a.work, models, a.model)
    threads = len(os.sched_getaffinity(0))
    limits = machine_limits()
    workers = [
        Worker("tessera", [os.path.join(ROOT, "build", "bin", "tessera_engine_bench"), "--model", folder, "--threads", str(threads)]),
        Worker("llama.cpp", [python_of(llama), os.path.join(ROOT, "bench", "llama_worker.py"), gguf, str(threads)]),
    ]
    results = {case: {w.name: [] for w in workers} for case in cases}
    for r in range(rounds + 1):
        for case in cases:
            order = workers if r % 2 == 0 else workers[::-1]
            for w in order:
                speed = w.run(CASES[case][0])
                if r > 0:  # the first round warms up
                    results[case][w.name].append(speed)
        say(f"round {r}/{rounds} done")
    for w in workers:
        w.close()

    cells = []
    print(f"{'case':<18}{'tessera':>10}{'llama.cpp':>11}{'ratio':>8}{'95 %':>16}{'of limit':>10}")
    for case in cases:
        ours, theirs = results[case]["tessera"], results[case]["llama.cpp"]
        ratio, low, high = interval([x / y for x, y in zip(ours, theirs)])
        limit = limit_of(case, limits, folder)
        share = statistics.median(ours) / limit if limit else 0.0
        cells.append({"model": a.model, "weights": "bf16", "case": case, "tessera": statistics.median(ours),
                      "peers": {"llama.cpp": statistics.median(theirs)}, "ratio": ratio, "ratio_low": low,
                      "ratio_high": high, "limit_share": share})
        print(f"{case:<18}{statistics.median(ours):>10.1f}{statistics.median(theirs):>11.1f}{ratio:>8.2f}"
              f"{f'{low:.2f}..{high:.2f}':>16}{share:>10.2f}")
    geomean = math.exp(statistics.fmean(math.log(c["ratio"]) for c in cells))
    print(f"geometric mean {geomean:.2f}")
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "?")
    with open(a.json, "w") as f:
        json.dump({"cpu": cpu, "limits": limits, "cells": cells, "geomean": geomean}, f, indent=1)


if __name__ == "__main__":
    main()

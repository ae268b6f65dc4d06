#!/usr/bin/env python3
"""Measures the cost of adapters in paired rounds on one machine, and compares it with the cost of their bytes and operations at
the machine's limits.

    bench/adapters.py [--parts LIST] [--rounds N] [--work DIR] [--build DIR] --json FILE
    bench/adapters.py --prepare [--parts LIST] [--work DIR]

    s_lora   llama-3.2-1b bf16, rank 8 on q, k, v, o, closed loop of 32 streams, popularity of S-LoRA's traces: the throughput
             with 5 adapters against 2,000 (loss_5_to_2000)
    mixed    qwen2.5-0.5b bf16, 200 adapters of ranks 8, 16, 32, 64 on all linears: the time of steps of 32 streams with 1 to 32
             distinct adapters, over the base step plus the adapters at the limits (roofline_ratio, the worst of all)
    hot      the throughput of 32 streams with one adapter of rank 16 on all linears against the base model (hot_adapter_share),
             and of base-only batches beside resident adapters against an engine without adapters (base_only_tax)
    peers    8 streams with 8 adapters against peft and llama.cpp, which switch adapters between requests (vs_peft, vs_llama_cpp)
    many     10,000 registered adapters of rank 8 on q and v: the times of start-up and listing, the memory, and the ITL of 8
             base streams while 2,000 adapters a minute are loaded (many_*)
    unified  a small pool in phases of many adapters and of long contexts, against fixed splits of the pool (unified_over_split)

All parts together take under 30 minutes if the work folder, which is that of peers.py, is prepared. Nothing else may run on the
machine. The part `many` needs grpcio, protobuf and protoc.
"""
import argparse
import concurrent.futures
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types

from compare.cases import model_costs, step_seconds
from compare.lora import ALL_LINEAR, ATTENTION, BF16_BYTES, num_weights, write_adapters
from compare.machine import cpu_name, measure_limits
from compare.systems import Command, Worker
from compare.workshop import ROOT, Unavailable, Workshop, parse_with_workshop, say

sys.path.insert(0, os.path.join(ROOT, "tests", "lab"))
import daemon  # noqa: E402

PARTS = ("s_lora", "mixed", "hot", "peers", "many", "unified")
SMALL, LARGE = "qwen2.5-0.5b", "llama-3.2-1b"
NANO = os.path.join(ROOT, "deploy", "models", "tessera-nano")
PROGRAMS = ("tessera_engine_bench", "tessera_kernel_bench", "tesserad", "tessera-bench")
STREAMS, CONTEXT, TOKENS = 32, 128, 16
# Folder: (model, adapters, ranks, targets)
FOLDERS = {
    "rank8-attention": (LARGE, 2000, (8,), ATTENTION),
    "mixed": (SMALL, 200, (8, 16, 32, 64), ALL_LINEAR),
    "rank16": (SMALL, 48, (16,), ALL_LINEAR),
    "rank8-qv": (SMALL, 10_000, (8,), ("q_proj", "v_proj")),
}
DISTINCT = (1, 2, 4, 8, 16, 32)
PEER_STREAMS = 8
LOADS_PER_MINUTE = 2000
LOADERS = 8  # concurrent LoadAdapter calls, each of which takes a few steps
UNIFIED_BYTES = 384 << 20
SPLITS = (0.25, 0.5, 0.75)  # shares of the pool that are reserved for adapters
# First many adapters and short texts, then few adapters and long texts. Each phase needs most of the pool, and both take about the same time.
PHASES = {"many": "loop 32 144 16 64 16 64 48", "long": "loop 32 32 256 512 128 256 2"}


def parse_arguments(words=None):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--parts", default=",".join(PARTS), help="of " + ",".join(PARTS))
    ap.add_argument("--rounds", type=int, default=3, help="paired rounds after the warm-up (3)")
    a = parse_with_workshop(ap, words)
    a.parts = a.parts.split(",")
    if not set(a.parts) <= set(PARTS):
        ap.error("--parts is of " + ",".join(PARTS))
    if a.rounds < 1:
        ap.error("--rounds must be at least 1")
    return a


def median_ratio(numerators, denominators):
    """Returns the median of the ratios of paired rounds."""
    return statistics.median(a / b for a, b in zip(numerators, denominators))


def adapter_seconds(limits, weights, distinct, streams):
    """Returns the longer of two times: reading all weights of `distinct` adapters once, and the multiply-adds of all streams with one adapter each."""
    read = BF16_BYTES * weights * distinct / limits["read_gb_s"]
    return max(read, 2 * weights * streams / limits["bf16_gflop_s"]) / 1e9


class Served:
    """A tesserad that registers a folder of adapters at its start, or no adapters."""

    def __init__(self, adapters, model, folder):
        self.bench = os.path.join(adapters.build, "bin", "tessera-bench")
        flags = ["--dtype", "bfloat16", "--kv-cache-bytes", "2GiB", "--log-level", "error"]
        if folder:
            flags += ["--adapters", adapters.folder(folder)]
        self.daemon = daemon.Daemon(os.path.join(adapters.build, "bin", "tesserad"), [model], *flags)

    def __enter__(self):
        try:
            import grpc
        except ImportError as error:
            raise Unavailable(f"{error}; try Debian's python3-grpcio and /usr/bin/python3") from error
        begin = time.monotonic()
        self.daemon.__enter__()
        self.seconds = time.monotonic() - begin
        self.message = daemon.message_types()
        self.channel = grpc.insecure_channel(self.daemon.address, [("grpc.max_receive_message_length", 64 << 20)])
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.daemon.__exit__()

    def rss(self):
        with open(f"/proc/{self.daemon.process.pid}/status", encoding="utf-8") as f:
            return 1024 * next(int(line.split()[1]) for line in f if line.startswith("RssAnon"))

    def call(self, method, **fields):
        request, response = self.message(method + "Request"), self.message(method + "Response")
        return self.channel.unary_unary("/tessera.v1.Control/" + method, request_serializer=request.SerializeToString,
                                        response_deserializer=response.FromString)(request(**fields))

    def list(self, count):
        """Lists all adapters and returns the time in seconds."""
        begin = time.monotonic()
        listed = len(self.call("ListAdapters").adapters)
        assert listed == count, listed
        return time.monotonic() - begin

    def itl(self):
        """Returns the p99 ITL of base-model streams, in milliseconds."""
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            subprocess.run([self.bench, "--server", self.daemon.address, "--concurrency", "8", "--duration", "15",
                            "--input-tokens", "64", "--output-tokens", "64", "--warmup", "8", "--quiet", "--json", file.name],
                           check=True, stdout=sys.stderr)
            return json.load(file)["itl_ms"]["p99"]

    @contextlib.contextmanager
    def loading(self, per_minute, number):
        """Loads adapters that were never loaded before, at a steady rate. The yielded object's `per_minute` is the rate that was reached."""
        stop = threading.Event()
        loader = types.SimpleNamespace(per_minute=0.0)

        def load():
            begin, sent = time.monotonic(), 0
            with concurrent.futures.ThreadPoolExecutor(LOADERS) as clients:
                calls = []
                while not stop.wait(max(0.0, begin + sent * 60 / per_minute - time.monotonic())):
                    name = f"adapter-{number * 2000 + sent:05}"
                    calls.append(clients.submit(self.call, "LoadAdapter", name=name))
                    sent += 1
                for call in calls:
                    call.result()
            loader.per_minute = sent * 60 / (time.monotonic() - begin)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            yield loader
        finally:
            stop.set()
            thread.join()


class Adapters:
    def __init__(self, arguments):
        self.arguments = arguments
        self.workshop = Workshop(arguments.work)
        self.build = os.path.abspath(arguments.build)
        self.limits = {}
        self.result = {}
        self.missing = {}

    # Preparation.

    def folder(self, name):
        model, count, ranks, targets = FOLDERS[name]
        self.workshop.model(model)
        os.makedirs(self.workshop.at("lora"), exist_ok=True)
        return self.workshop.made(self.workshop.at("lora", name), lambda part: write_adapters(
            part, self.workshop.at("models", model), count, ranks, targets))

    def weights(self, name, count):
        """Returns the mean number of weights of the first `count` adapters."""
        model, _, ranks, targets = FOLDERS[name]
        return statistics.fmean(num_weights(self.workshop.model(model), ranks[i % len(ranks)], targets) for i in range(count))

    def engine(self, name, model, folder=None, **flags):
        """Returns a stopped worker that has loaded `model`."""
        words = [os.path.join(self.build, "bin", "tessera_engine_bench"), "--model", self.workshop.model(model), "--dtype",
                 "bfloat16", "--threads", str(self.arguments.threads)]
        if folder:
            words += ["--adapters", self.folder(folder)]
        for flag, value in flags.items():
            words += ["--" + flag.replace("_", "-"), str(value)]
        return self.started(Worker(name, Command(words), self.workshop.at("log", f"run-adapters-{name}.txt")))

    def started(self, worker):
        worker.start()
        return worker

    def lora_gguf(self, path):
        convert = [self.workshop.python("venv-models"), os.path.join(self.workshop.llama_sources(), "convert_lora_to_gguf.py"),
                   "--base", self.workshop.model(SMALL), "--outtype", "bf16"]
        return self.workshop.made(self.workshop.at("gguf", f"lora-{os.path.basename(path)}.gguf"), lambda part: self.workshop.call(
            "gguf-lora", [*convert, "--outfile", part, path]))

    def peer_workers(self):
        """Prepares the peers and returns {name: function that returns a worker that is not started}."""
        adapters = [os.path.join(self.folder("rank16"), f"adapter-{i:05}") for i in range(PEER_STREAMS)]
        threads = str(self.arguments.threads)
        here = os.path.join(ROOT, "bench", "compare")

        def peft():
            self.workshop.install("install-peft", "venv-models", "peft")
            return Command([self.workshop.python("venv-models"), os.path.join(here, "peft_worker.py"),
                            self.workshop.model(SMALL), threads, *adapters])

        def llama():
            libraries = self.workshop.llama()
            gguf = self.workshop.gguf_bf16(SMALL)
            return Command([self.workshop.python("venv-llama"), os.path.join(here, "llama_worker.py"), gguf, threads,
                            *[self.lora_gguf(path) for path in adapters]], {"LLAMA_CPP_LIB_PATH": libraries})

        commands = {}
        for name, make in (("peft", peft), ("llama.cpp", llama)):
            try:
                commands[name] = make()
            except Unavailable as error:
                self.note_missing(name, error)
        return commands

    def note_missing(self, name, reason):
        self.missing[name] = str(reason)
        say(f"missing: {name}: {reason}")

    def prepare(self):
        for name, (_, count, _, _) in FOLDERS.items():
            say(f"{count} adapters in {self.folder(name)}")
        if "peers" in self.arguments.parts:
            self.peer_workers()

    # Measurement.

    def rounds(self, part, turns):
        """Runs all rounds and returns {name: speeds} without the warm-up round. `turns` maps a name to a function of the round's
        number that returns tokens/s. The order of the names rotates from round to round."""
        speeds = {name: [] for name in turns}
        for number in range(self.arguments.rounds + 1):
            names = list(turns)
            first = number % len(names)
            for name in names[first:] + names[:first]:
                speed = turns[name](number)
                if number:
                    speeds[name].append(speed)
            say(f"{part}: round {number} of {self.arguments.rounds} done")
        return speeds

    def base_step(self, model, streams):
        """Returns the time of a step of the base model at the machine's limits."""
        costs = model_costs(self.workshop.model(model))
        keys = streams * (CONTEXT + TOKENS / 2)
        return step_seconds("bf16", costs, self.limits, streams, streams, keys, keys)

    def s_lora(self):
        engine = self.engine("s_lora", LARGE, "rank8-attention", kv_cache_bytes=4 << 30, adapter_host_bytes=8 << 30)
        try:
            speeds = self.rounds("s_lora", {
                count: lambda number, count=count: engine.run(f"loop {STREAMS} 64 8 256 8 256 {count} {number}")
                for count in (5, 2000)})
        finally:
            engine.close()
        loss = 1 - median_ratio(speeds[2000], speeds[5])
        one = self.weights("rank8-attention", 1)
        more = adapter_seconds(self.limits, one, STREAMS, STREAMS) - adapter_seconds(self.limits, one, 5, STREAMS)
        print(f"s_lora: 5 adapters {statistics.median(speeds[5]):.1f} tokens/s, 2,000 adapters "
              f"{statistics.median(speeds[2000]):.1f}: {loss:.1%} lost; {more * 1e3:.2f} ms a step more by bytes, "
              f"{more / self.base_step(LARGE, STREAMS):.1%} of a step at the limits")
        return {"loss_5_to_2000": loss}

    def mixed(self):
        engine = self.engine("mixed", SMALL, "mixed", kv_cache_bytes=4 << 30, adapter_host_bytes=4 << 30)
        try:
            speeds = self.rounds("mixed", {
                count: lambda number, count=count: engine.run(f"decode {STREAMS} {CONTEXT} {TOKENS} {count}")
                for count in (0, *DISTINCT)})
        finally:
            engine.close()
        base = STREAMS / statistics.median(speeds[0])
        print(f"mixed: base step {base * 1e3:.2f} ms, {self.base_step(SMALL, STREAMS) / base:.0%} of the limit")
        ratios = []
        for count in DISTINCT:
            predicted = base + adapter_seconds(self.limits, self.weights("mixed", count), count, STREAMS)
            measured = STREAMS / statistics.median(speeds[count])
            ratios.append(measured / predicted)
            print(f"mixed: {count:2} distinct adapters: predicted {predicted * 1e3:.2f} ms, measured {measured * 1e3:.2f} ms, "
                  f"ratio {ratios[-1]:.2f}")
        return {"roofline_ratio": max(ratios)}

    def hot(self):
        engines = {"with": self.engine("with", SMALL, "rank16"), "without": self.engine("without", SMALL)}
        line = f"decode {STREAMS} {CONTEXT} {3 * TOKENS}"  # more tokens than in other parts, because the differences are small
        try:
            engines["with"].run(f"{line} 8")  # loads adapters, which stay resident
            speeds = self.rounds("hot", {"hot": lambda number: engines["with"].run(f"{line} 1"),
                                         "base": lambda number: engines["with"].run(line),
                                         "without": lambda number: engines["without"].run(line)})
        finally:
            for engine in engines.values():
                engine.close()
        share = median_ratio(speeds["hot"], speeds["base"])
        taxes = sorted(1 - a / b for a, b in zip(speeds["base"], speeds["without"]))
        base = STREAMS / statistics.median(speeds["base"])
        more = adapter_seconds(self.limits, self.weights("rank16", 1), 1, STREAMS)
        print(f"hot: one adapter of rank 16: {share:.1%} of base, {base / (base + more):.1%} by bytes and operations; "
              f"base-only tax {statistics.median(taxes):.1%} ({taxes[0]:.1%} to {taxes[-1]:.1%})")
        return {"hot_adapter_share": share, "base_only_tax": statistics.median(taxes)}

    def peers(self):
        line = f"decode {PEER_STREAMS} {CONTEXT} {TOKENS} {PEER_STREAMS}"
        workers = {"tessera": self.engine("tessera", SMALL, "rank16")}
        try:
            for name, command in self.peer_workers().items():
                try:
                    workers[name] = self.started(Worker(name, command, self.workshop.at("log", f"run-adapters-{name}.txt")))
                except Unavailable as error:
                    self.note_missing(name, error)
            speeds = self.rounds("peers", {name: lambda number, worker=worker: worker.run(line)
                                           for name, worker in workers.items()})
        finally:
            for worker in workers.values():
                worker.close()
        result = {}
        for name, key in (("peft", "vs_peft"), ("llama.cpp", "vs_llama_cpp")):
            if name in speeds:
                result[key] = median_ratio(speeds["tessera"], speeds[name])
                print(f"peers: {PEER_STREAMS} adapters in flight: {statistics.median(speeds['tessera']):.1f} tokens/s, {name} "
                      f"{statistics.median(speeds[name]):.1f}: {result[key]:.1f}x")
        return result

    def many(self):
        # Adapters that are only registered are not read, so any model will do. A small model leaves little heap memory behind from its own loading.
        count = FOLDERS["rank8-qv"][1]
        with Served(self, NANO, None) as alone:
            baseline = alone.seconds, alone.rss()
        with Served(self, NANO, "rank8-qv") as served:
            seconds, rss = served.seconds - baseline[0], (served.rss() - baseline[1]) / count
            listing = min(served.list(count) for _ in range(5))
        with Served(self, self.workshop.model(SMALL), "rank8-qv") as served:
            itl = {"quiet": [], "loading": []}
            loads = []
            for number in range(self.arguments.rounds):
                itl["quiet"].append(served.itl())
                with served.loading(LOADS_PER_MINUTE, number) as loader:
                    itl["loading"].append(served.itl())
                loads.append(loader.per_minute)
                say(f"many: round {number + 1} of {self.arguments.rounds} done")
        ratio = median_ratio(itl["loading"], itl["quiet"])
        print(f"many: {count} adapters: {seconds:.2f} s of start-up, {rss / 1024:.2f} KiB each, listed in {listing * 1e3:.0f} ms; "
              f"p99 ITL {statistics.median(itl['quiet']):.1f} ms, while {min(loads):.0f} a minute are loaded "
              f"{statistics.median(itl['loading']):.1f} ms: {ratio:.2f}x")
        return {"many_startup_s": seconds, "many_rss_bytes": rss, "many_list_s": listing, "many_loads_per_minute": min(loads),
                "many_itl_ratio": ratio}

    def unified(self):
        engines = {"unified": self.engine("unified", SMALL, "rank16", kv_cache_bytes=UNIFIED_BYTES)}
        try:
            pages = engines["unified"].facts["pages"]
            for share in SPLITS:
                engines[share] = self.engine(f"split-{share}", SMALL, "rank16", kv_cache_bytes=UNIFIED_BYTES,
                                             adapter_pages=int(share * pages))
            seconds = self.rounds("unified", {name: lambda number, engine=engine: self.phases(engine, number)
                                              for name, engine in engines.items()})
        finally:
            for engine in engines.values():
                engine.close()
        for i, phase in enumerate(PHASES):
            shares = {s: statistics.median(theirs[i] / ours[i] for theirs, ours in zip(seconds[s], seconds["unified"]))
                      for s in SPLITS}
            best = min(shares.values())
            print(f"unified: {phase}: time of each split over the unified pool's: "
                  + ", ".join(f"{s:.0%} for adapters {ratio:.2f}" for s, ratio in shares.items()))
            self.result[f"unified_over_best_split_{phase}"] = best
        whole = {s: statistics.median(sum(theirs) / sum(ours) for theirs, ours in zip(seconds[s], seconds["unified"]))
                 for s in SPLITS}
        print("unified: both phases: " + ", ".join(f"{s:.0%} for adapters {ratio:.2f}" for s, ratio in whole.items()))
        return {"unified_over_split": min(whole.values())}

    def phases(self, engine, number):
        """Returns the time of each phase in seconds. The work is the same for all pools."""
        return [engine.answer(f"{line} {number}")["seconds"] for line in PHASES.values()]

    def run(self):
        for part in self.arguments.parts:
            begin = time.monotonic()
            try:
                self.result.update(getattr(self, part)())
            except Unavailable as error:
                self.note_missing(part, error)
            say(f"{part}: {time.monotonic() - begin:.0f} s")
            self.write()

    def write(self):
        with open(self.arguments.json + ".part", "w", encoding="utf-8") as f:
            json.dump({"cpu": cpu_name(), "limits": self.limits, **self.result}, f, indent=1)
            f.write("\n")
        os.rename(self.arguments.json + ".part", self.arguments.json)

    def main(self):
        subprocess.run(["cmake", "--build", self.build, "--target", *PROGRAMS], check=True, stdout=sys.stderr)
        self.prepare()
        if self.arguments.prepare:
            return
        self.limits = measure_limits(self.build, self.arguments.threads)
        print(f"{cpu_name()}, {self.arguments.threads} threads: {self.limits}")
        self.run()


def main():
    arguments = parse_arguments()
    try:
        Adapters(arguments).main()
    except Unavailable as error:  # a measurement needs Tessera and a model
        sys.exit(str(error))


if __name__ == "__main__":
    main()

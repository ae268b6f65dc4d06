#!/usr/bin/env python3
"""Compares Tessera with its peers on one machine in one run. The rounds of all systems are paired and interleaved, because only
ratios are reliable.

    bench/peers.py [--quick] [--model SHAPE] [--weights LIST] [--cases LIST] [--rounds N] [--ik DIR] [--work DIR] --json FILE
    bench/peers.py --prepare [--model SHAPE] [--weights LIST] [--ik DIR] [--work DIR]

Makes models of public shapes with random weights (by the development data set's tools/make_model.py, which must lie beside the
checkout), builds llama.cpp from its PyPI sdist with native flags, exports the models to OpenVINO with optimum-intel, measures the
machine's read bandwidth and peak operations, and runs all systems round by round. One process works at a time; the others are
stopped. With --ik, ik_llama.cpp is a peer too: DIR is a checkout, which is built if it has no build. Each of our formats is compared
with the peers' formats that are at least as good (compare/quality.json, compare/quality.py); of ik_llama.cpp and llama.cpp only such
formats run, of OpenVINO all. Prints a table with the KL of each format and writes JSON: {"cpu", "limits", "cells": [{"model",
"weights", "case", "tessera", "peers", "ratio", "limit_share", "not_counted", "kl"}], "geomean"}; "peers" and the ratios have the
peers that count. Every measurement is appended to WORK/samples.jsonl at once. A case that a system cannot run is reported as
missing, with the reason.
"""
import argparse
import json
import os
import statistics
import sys
import time

from compare import quality
from compare.cases import CASES, MODELS, QUICK_CASES, WEIGHTS, limit_of, model_costs
from compare.machine import cpu_name, measure_limits
from compare.report import OURS, cell_json, counted, geometric_mean, is_compared, ratio_to_best, report_json, table
from compare.systems import SYSTEMS, Systems, Worker
from compare.workshop import ROOT, Unavailable, Workshop, parse_with_workshop, say

QUICK_ROUNDS = 3
PROGRAMS = ("tessera_engine_bench", "tessera_kernel_bench", "tesserad", "tessera-bench")


def names(known):
    """Returns an argument type for a comma-separated subset of `known`; the result has the order of `known`."""

    def parse(text):
        given = text.split(",")
        unknown = [name for name in given if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(known)}")
        return [name for name in known if name in given]

    return parse


def parse_arguments(words=None):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--quick", action="store_true", help=f"{MODELS[0]}, {', '.join(QUICK_CASES)}, {QUICK_ROUNDS} rounds")
    ap.add_argument("--model", action="append", metavar="SHAPE", help=f"may be repeated ({' and '.join(MODELS)})")
    ap.add_argument("--weights", type=names(WEIGHTS), default=list(WEIGHTS), help="of " + ",".join(WEIGHTS))
    ap.add_argument("--cases", type=names(tuple(CASES)), help="of " + ",".join(CASES))
    ap.add_argument("--systems", type=names(SYSTEMS), help="of " + ",".join(SYSTEMS))
    ap.add_argument("--ik", metavar="DIR", help="a checkout of ik_llama.cpp, which makes it a peer")
    ap.add_argument("--ik-formats", metavar="LIST", type=lambda text: text.split(","), default=[],
                    help="formats of ik_llama.cpp that run, where their KL is not worse than ours, instead of those that follow from it")
    ap.add_argument("--rounds", type=int, help="paired rounds after the warm-up (5)")
    a = parse_with_workshop(ap, words)
    a.model = a.model or list(MODELS[:1] if a.quick else MODELS)
    a.cases = a.cases or list(QUICK_CASES if a.quick else CASES)
    a.systems = a.systems or [system for system in SYSTEMS if system != "ik" or a.ik]
    if "ik" in a.systems and not a.ik:
        ap.error("the system ik needs --ik DIR, a checkout of ik_llama.cpp")
    if a.rounds is None:
        a.rounds = QUICK_ROUNDS if a.quick else 5
    if a.rounds < (QUICK_ROUNDS if a.quick else 1):
        ap.error(f"--rounds must be at least {QUICK_ROUNDS if a.quick else 1}")
    return a


def is_served(case):
    return CASES[case].verb == "serve"


class Comparison:
    def __init__(self, arguments):
        self.arguments = arguments
        self.workshop = Workshop(arguments.work)
        self.qualities = quality.read()
        self.systems = Systems(self.workshop, os.path.abspath(arguments.build), arguments.threads, self.qualities,
                               arguments.ik and os.path.abspath(arguments.ik), arguments.ik_formats)
        self.costs = {}  # costs by model
        self.limits = {}  # the best limits that were measured in this run
        self.results = {}  # (model, weights, case): {name: speeds}
        self.shares = {}  # (model, weights, case): for each of Tessera's speeds, its share of the limit measured just before
        self.missing = {}  # (model, weights, case, name): reason

    def build(self):
        folder = self.arguments.build
        if not os.path.exists(os.path.join(folder, "build.ninja")):
            self.workshop.call("build-tessera", ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"])
        self.workshop.call("build-tessera", ["cmake", "--build", folder, "--target", *PROGRAMS])

    def measure_limits(self):
        """Measures and returns the machine's present limits. REQUIRES: all workers are stopped."""
        seen = measure_limits(self.arguments.build, self.arguments.threads)
        self.limits = {name: max(value, self.limits.get(name, 0.0)) for name, value in seen.items()}
        return seen

    def make_workers(self, model, weights, cases):
        """Returns a worker, not started, for each available system; notes the reasons of the other systems."""
        clients = CASES[cases[0]].numbers[0] if is_served(cases[0]) else 0
        workers = []
        for entrant in self.entrants(model, weights, cases):
            words = ["run", entrant.system, entrant.kind, model, weights] + ["served"] * bool(clients)
            try:
                command = self.systems.command(entrant, model, weights, clients)
                workers.append(Worker(entrant.name, command, self.workshop.at("log", "-".join(words) + ".txt")))
            except Unavailable as error:
                self.note_missing(model, weights, cases, entrant.name, error)
        return workers

    def entrants(self, model, weights, cases):
        """Returns the systems with their formats; notes the reasons of the systems without a format."""
        entrants = []
        for system in self.arguments.systems:
            try:
                entrants += self.systems.entrants(system, weights)
            except Unavailable as error:
                self.note_missing(model, weights, cases, system, error)
        return entrants

    def note_missing(self, model, weights, cases, system, reason):
        """Marks a system as missing in these cases and drops its earlier samples, because later rounds could not be paired with them."""
        for case in cases:
            self.missing[model, weights, case, system] = str(reason)
            self.results.get((model, weights, case), {}).pop(system, None)
        say(f"missing: {system}, {model} {weights} {' '.join(cases)}: {reason}")

    def start(self, worker, model, weights, cases):
        try:
            worker.start()
            return True
        except Unavailable as error:
            still = [case for case in cases if (model, weights, case, worker.system) not in self.missing]
            self.note_missing(model, weights, still, worker.system, error)
            return False

    def measure(self, worker, model, weights, case, number):
        """Measures a case once. Round 0 warms up and is not counted. Raises Unavailable."""
        if number == 0:
            worker.run(CASES[case].warm_up)
            return
        if worker.system == OURS:
            limit = limit_of(CASES[case], weights, self.costs[model], self.measure_limits())
        speed = worker.run(CASES[case].line)
        if worker.system == OURS:
            self.shares.setdefault((model, weights, case), []).append(speed / limit)
        self.results.setdefault((model, weights, case), {}).setdefault(worker.system, []).append(speed)
        with open(self.workshop.at("samples.jsonl"), "a", encoding="utf-8") as f:
            json.dump({"time": int(time.time()), "model": model, "weights": weights, "case": case, "round": number,
                       "system": worker.system, "tokens_per_s": speed}, f)
            f.write("\n")

    def run_cell(self, workers, model, weights, cases, case, number):
        """Measures a case once on every system. A system that fails is restarted for the other cases."""
        for worker in workers:
            if (model, weights, case, worker.system) in self.missing:
                continue
            try:
                self.measure(worker, model, weights, case, number)
            except Unavailable as error:
                self.note_missing(model, weights, [case], worker.system, error)
                worker.close()
                self.start(worker, model, weights, cases)

    def run_rounds(self, model, weights, cases):
        """Runs all rounds of the cases, which the same processes answer."""
        workers = self.make_workers(model, weights, cases)
        if self.arguments.prepare:
            return
        try:
            workers = [worker for worker in workers if self.start(worker, model, weights, cases)]
            for number in range(self.arguments.rounds + 1):
                for turn, case in enumerate(cases):
                    first = (number + turn) % max(1, len(workers))
                    self.run_cell(workers[first:] + workers[:first], model, weights, cases, case, number)
                say(f"{model} {weights}: round {number} of {self.arguments.rounds} done")
        finally:
            for worker in workers:
                worker.close()

    def run(self):
        for model in self.arguments.model:
            self.costs[model] = model_costs(self.workshop.model(model))
            for weights in self.arguments.weights:
                for served in (False, True):
                    cases = [case for case in self.arguments.cases if is_served(case) == served]
                    if cases:
                        self.run_rounds(model, weights, cases)
                self.write()

    def counted(self):
        """Returns the samples that count in each cell that can be compared: {(model, weights, case): samples}."""
        cells = {key: counted(samples, key[1], self.qualities) for key, samples in self.results.items()}
        return {key: samples for key, samples in cells.items() if is_compared(samples)}

    def names(self, key):
        """Returns the names that were measured or are missing in a cell, ours first."""
        absent = [name for *cell, name in self.missing if tuple(cell) == key]
        return sorted({OURS, *self.results[key], *absent}, key=lambda name: (name != OURS, name))

    def share(self, key):
        return statistics.median(self.shares[key])

    def write(self):
        """Writes the JSON file. Called after each format, so that a run that is interrupted keeps its finished formats."""
        if self.arguments.prepare:
            return
        cells = [cell_json(key, self.results[key], self.share(key), self.qualities) for key in self.counted()]
        if not cells:
            return
        with open(self.arguments.json + ".part", "w", encoding="utf-8") as f:
            json.dump(report_json(cpu_name(), self.limits, cells), f, indent=1)
            f.write("\n")
        os.rename(self.arguments.json + ".part", self.arguments.json)

    def print(self):
        limits = "at best read {read_gb_s:.1f} GB/s, bf16 {bf16_gflop_s:.0f} GFLOP/s, int8 {int8_gop_s:.0f} GOP/s"
        print(f"{cpu_name()}, {self.arguments.threads} threads: {limits.format(**self.limits)}")
        print("tokens per second, medians of", self.arguments.rounds, "rounds; our ratio is to the best peer that counts, and a peer's is "
              "ours to it alone")
        print("\n".join(table(self.results, self.names, self.share, self.qualities)))
        for (model, weights, case, system), reason in self.missing.items():
            print(f"missing: {system}, {model} {weights} {case}: {reason}")
        ratios = [ratio_to_best(samples) for samples in self.counted().values()]
        if ratios:
            print(f"geometric mean of {len(ratios)} cells at equal quality: {geometric_mean(ratios):.2f}; "
                  f"the lowest ratio: {min(ratios):.2f}")


def main():
    comparison = Comparison(parse_arguments())
    try:
        comparison.build()
        if not comparison.arguments.prepare:
            comparison.measure_limits()
        comparison.run()
    except Unavailable as error:  # a comparison needs Tessera and a model
        sys.exit(str(error))
    if not comparison.arguments.prepare:
        comparison.print()


if __name__ == "__main__":
    main()

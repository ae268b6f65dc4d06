#!/usr/bin/env python3
"""Measures the quality loss of OpenVINO's weight formats on language models that people trained.

    openvino_quality.py FOLDER,.. [--formats fp16,int8,int4] [--texts N] [--threads N] [--json FILE]

Exports each model in float32 and in the formats as bench/peers.py does (bench/compare/workshop.py), with optimum-intel in a temporary
folder. Reads the texts of quality.py --real, each at once, and compares the distribution of the next token at each position with that of
the float32 export, which is computed in float32. The formats are computed as OpenVINO chooses by itself: in bf16 where the machine
supports it. The rows of FILE have the fields of quality.py's that bench/compare/quality.py takes over. Needs optimum-intel, openvino,
nncf and tokenizers, and their optimum-cli beside this Python.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

import numpy as np
import openvino
import quality

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
from compare.workshop import OPENVINO_FLAGS  # noqa: E402

BASE = "fp32"
FLAGS = {flags[1]: flags for flags in OPENVINO_FLAGS.values()} | {BASE: ["--weight-format", BASE]}


def export(model, name, folder):
    command = [os.path.join(os.path.dirname(sys.executable), "optimum-cli"), "export", "openvino", "--model", model, "--task",
               "text-generation-with-past", *FLAGS[name], folder]
    quality.output_of(command, subprocess.STDOUT)


def weight_bytes(folder):
    return os.path.getsize(os.path.join(folder, "openvino_model.bin"))


class Reader:
    """An exported model that returns the log-probabilities of the next token at each position."""

    def __init__(self, folder, name, threads):
        options = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        if name == BASE:
            options["INFERENCE_PRECISION_HINT"] = "f32"
            options["KV_CACHE_PRECISION"] = "f32"
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
        model = openvino.Core().compile_model(os.path.join(folder, "openvino_model.xml"), "CPU", options)
        self.inputs = {given.get_any_name() for given in model.inputs}
        self.request = model.create_infer_request()

    def read(self, ids):  # returns [tokens, vocabulary]
        tokens = len(ids)
        given = {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, tokens), np.int64),
                 "position_ids": np.arange(tokens, dtype=np.int64)[None], "beam_idx": np.zeros(1, np.int32)}
        self.request.reset_state()
        logits = self.request.infer({name: given[name] for name in self.inputs})["logits"][0].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def mean_and_half_width(sums, counts):
    """Returns the mean over all positions and the half-width of its 95 % interval, by a ratio estimate over texts."""
    mean, n = sum(sums) / sum(counts), len(sums)
    variance = sum((x - mean * c) ** 2 for x, c in zip(sums, counts)) / (n - 1)
    return mean, 1.96 * math.sqrt(variance * n) / sum(counts)


def measure(model, formats, texts, threads):
    """Returns the rows of a model."""
    sums, same, sizes, readers = {name: [] for name in formats}, {name: 0 for name in formats}, {}, {}
    with tempfile.TemporaryDirectory() as work:
        for name in [BASE, *formats]:
            quality.progress(f"{model}, {name}")
            folder = os.path.join(work, name)
            export(model, name, folder)
            sizes[name] = weight_bytes(folder)
            readers[name] = Reader(folder, name, threads)
        for ids in texts:
            base = readers[BASE].read(ids)[:-1]
            for name in formats:
                read = readers[name].read(ids)[:-1]
                sums[name].append(float((np.exp(base) * (base - read)).sum()))
                same[name] += int((base.argmax(axis=1) == read.argmax(axis=1)).sum())
    counts = [len(ids) - 1 for ids in texts]
    rows = []
    for name in formats:
        kl, half = mean_and_half_width(sums[name], counts)
        rows.append(dict(model=os.path.basename(os.path.normpath(model)), format="openvino " + name, weight_bytes=sizes[name], kl=kl,
                         kl_half_width=half, same_best_percent=100 * same[name] / sum(counts)))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models")
    parser.add_argument("--formats", default="fp16,int8,int4", help="of " + ",".join(FLAGS))
    parser.add_argument("--texts", type=int, default=quality.REAL_TEXTS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = []
    for model in args.models.split(","):
        with tempfile.TemporaryDirectory() as work:
            with open(quality.write_real_texts(model, work)[0], encoding="utf-8") as file:
                texts = [json.loads(line) for line in file][:args.texts]
        rows += measure(model, args.formats.split(","), texts, args.threads)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(dict(texts=args.texts, rows=rows), file, indent=1)
    quality.print_head(["model", "format", "MB", "KL", "same best token, %"])
    for row in rows:
        print(f"| {row['model']} | {row['format']} | {row['weight_bytes'] / 1e6:.1f} | {row['kl']:.5f} ± {row['kl_half_width']:.5f} | "
              f"{row['same_best_percent']:.2f} |")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures what OpenVINO's formats cost a language model, for quality.py --openvino.

    openvino_formats.py FOLDER TOKENS WORK FORMAT,...      needs optimum-intel, openvino and numpy; FORMAT: fp16, int8 or int4

Exports the model of FOLDER (Hugging Face layout) by optimum-intel, with the options of bench/peers.py, and reads the texts of TOKENS
(a JSON array of token ids on each line). The base is OpenVINO's export in float32, computed in float32. The formats have OpenVINO's
own defaults for the CPU: it may round activations to 8 bits in groups, has 8 bits of KV, and computes the rest in bfloat16 where the
CPU has it. A text is read in chunks, so that the cache in its own format is read too. Prints one JSON line for each format, with the
fields of tessera_quality_bench's lines.
"""
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import openvino

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench", "compare"))
from workshop import OPENVINO_FLAGS  # noqa: E402

FLAGS = {"fp32": ["--weight-format", "fp32"], "fp16": OPENVINO_FLAGS["bf16"], "int8": OPENVINO_FLAGS["int8"], "int4": OPENVINO_FLAGS["int4"]}
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
CHUNK = 128


def export(folder, work, name):
    """Returns the folder of the model in a format."""
    out = os.path.join(work, f"{os.path.basename(os.path.normpath(folder))}.{name}")
    if not os.path.exists(out):
        program = os.path.join(os.path.dirname(sys.executable), "optimum-cli")
        command = [program, "export", "openvino", "--model", folder, "--task", "text-generation-with-past", *FLAGS[name], out + ".part"]
        shutil.rmtree(out + ".part", ignore_errors=True)
        subprocess.run(command, stdout=sys.stderr, check=True)
        os.rename(out + ".part", out)
    return out


class Model:
    def __init__(self, folder, properties):
        self.weight_bytes = os.path.getsize(os.path.join(folder, "openvino_model.bin"))
        compiled = openvino.Core().compile_model(os.path.join(folder, "openvino_model.xml"), "CPU", properties)
        self.names = {name for port in compiled.inputs for name in port.get_names()}
        self.request = compiled.create_infer_request()
        self.kv = str(compiled.get_property("KV_CACHE_PRECISION")).split("'")[1]

    def log_probabilities(self, ids):
        """Returns log p of the next token, [len(ids) - 1, vocabulary] in float64."""
        self.request.reset_state()
        chunks = []
        for begin in range(0, len(ids) - 1, CHUNK):
            end = min(begin + CHUNK, len(ids) - 1)
            inputs = {"input_ids": np.array([ids[begin:end]]), "attention_mask": np.ones((1, end), np.int64),
                      "position_ids": np.arange(begin, end)[None], "beam_idx": np.zeros(1, np.int32)}
            self.request.infer({name: value for name, value in inputs.items() if name in self.names})
            chunks.append(self.request.get_tensor("logits").data[0].astype(np.float64))
        logits = np.concatenate(chunks)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def mean(sums, counts):
    """Returns the mean over all positions and the half-width of its 95 % interval, from the sums over the texts."""
    value, n = sum(sums) / sum(counts), len(counts)
    variance = sum((s - value * c) ** 2 for s, c in zip(sums, counts)) / (n - 1)
    return value, 1.96 * math.sqrt(variance * n) / sum(counts)


class Format:
    """The sums over each text."""

    def __init__(self, name, model):
        self.name, self.model = name, model
        self.losses, self.changes, self.same, self.kls, self.counts = [], [], [], [], []

    def read(self, ids, base):
        own = self.model.log_probabilities(ids)
        rows, wanted = np.arange(len(ids) - 1), np.array(ids[1:])
        self.losses.append(-own[rows, wanted].sum())
        self.changes.append((base - own)[rows, wanted].sum())
        self.same.append((own.argmax(axis=1) == base.argmax(axis=1)).sum())
        self.kls.append((np.exp(base) * (base - own)).sum(axis=1))
        self.counts.append(len(rows))

    def row(self):
        change, change_half = mean(self.changes, self.counts)
        kl, kl_half = mean([of_text.sum() for of_text in self.kls], self.counts)
        same, same_half = mean(self.same, self.counts)
        return {"format": "openvino " + self.name, "kv": self.model.kv, "weight_bytes": self.model.weight_bytes,
                "perplexity": math.exp(sum(self.losses) / sum(self.counts)), "change_percent": 100 * math.expm1(change),
                "change_percent_half_width": 100 * math.exp(change) * change_half, "kl": kl, "kl_half_width": kl_half,
                "kl_p99": float(np.quantile(np.concatenate(self.kls), 0.99)),
                "same_best_percent": 100 * same, "same_best_percent_half_width": 100 * same_half}


def main():
    folder, tokens, work, names = sys.argv[1:]
    base = Model(export(folder, work, "fp32"), EXACT)
    formats = [Format(name, Model(export(folder, work, name), {})) for name in names.split(",")]
    with open(tokens, encoding="utf-8") as file:
        texts = [json.loads(line) for line in file]
    for done, ids in enumerate(texts, 1):
        expected = base.log_probabilities(ids)
        for each in formats:
            each.read(ids, expected)
        print(f"openvino: {done} of {len(texts)} texts", file=sys.stderr, flush=True)
    for each in formats:
        print(json.dumps(each.row()))


if __name__ == "__main__":
    main()

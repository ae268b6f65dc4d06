#!/usr/bin/env python3
"""Writes a checkpoint's de-gridded twin: a model whose weights lie on no grid, made from one that was quantised once.

    degrid.py GGUF MODEL_DIR OUT_DIR [--seed N]

A model that was dequantised from a 4-bit file has weights on that file's grid. A format with the same grid would lose nothing on it, and any other format more than on a fresh model, so such a model
is no fair judge. The twin moves each weight of the layers' linears by uniform noise within half a step of its group in GGUF, and is a model of its own: its fp32 run is the baseline of its formats.
Embedding table, output table and norms stay. MODEL_DIR has the weights of GGUF in Hugging Face layout (../shared/tools/real_models.py); this is checked. Only the groups of Q4_1 have steps that
this script reads: linears of other types stay too, and are printed. Needs numpy, safetensors and gguf.
"""
import argparse
import glob
import os
import shutil
import sys
import zlib

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

LINEARS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
           "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
COPIED = ["config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "*.jinja"]
Q4_1_GROUP, Q4_1_BYTES = 32, 20  # a group is the fp16 step, the fp16 minimum, and 16 bytes of codes


def steps_of(tensor):
    """Returns the step of each weight of a Q4_1 tensor, [rows, cols]."""
    groups = np.ascontiguousarray(tensor.data).reshape(tensor.data.shape[0], -1, Q4_1_BYTES)
    steps = np.ascontiguousarray(groups[:, :, :2]).view(np.float16)[:, :, 0]
    return np.abs(np.repeat(steps.astype(np.float32), Q4_1_GROUP, axis=1))


def hugging_face_rows(reader, kind, rows):
    """Undoes llama.cpp's order of rows in Q and K: in GGUF of the architecture "llama" the two halves of a head are interleaved."""
    heads_key = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(kind)
    if heads_key is None or reader.get_field("general.architecture").contents() != "llama":
        return rows
    heads = reader.get_field(f"llama.attention.{heads_key}").contents()
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def move(weight, steps, name, seed):
    """Returns the weight moved within half a step. The noise of a tensor depends on its name and the seed alone."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return weight + steps * (rng.random(weight.shape, dtype=np.float32) - np.float32(0.5))


def degrid(reader, weights, seed):
    """Moves the weights in place. Returns the names of the moved linears, and those of the others with their types."""
    moved, left = [], []
    for tensor in reader.tensors:
        parts = tensor.name.split(".")  # blk.LAYER.KIND.weight
        if len(parts) != 4 or parts[2] not in LINEARS or parts[3] != "weight":
            continue
        name = f"model.layers.{parts[1]}.{LINEARS[parts[2]]}.weight"
        if tensor.tensor_type != gguf.GGMLQuantizationType.Q4_1:
            left.append(f"{name} ({tensor.tensor_type.name})")
            continue
        same = hugging_face_rows(reader, parts[2], gguf.dequantize(tensor.data, tensor.tensor_type))
        if name not in weights or not np.array_equal(same, weights[name]):
            sys.exit(f"{name} in MODEL_DIR is not {tensor.name} in GGUF; make both by ../shared/tools/real_models.py")
        weights[name] = move(weights[name], hugging_face_rows(reader, parts[2], steps_of(tensor)), name, seed)
        moved.append(name)
    return moved, left


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    weights = {}
    for path in sorted(glob.glob(os.path.join(args.model, "*.safetensors"))):
        weights.update((name, w.astype(np.float32)) for name, w in load_file(path).items())
    moved, left = degrid(gguf.GGUFReader(args.gguf), weights, args.seed)
    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(args.out, "model.safetensors")
    save_file(weights, path, {"format": "pt"})
    os.chmod(path, 0o644)  # save_file creates the file readable by its owner only
    for pattern in COPIED:
        for source in glob.glob(os.path.join(args.model, pattern)):
            shutil.copy(source, args.out)
    print(f"{len(moved)} linears moved, {len(left)} left as they are: {', '.join(left) or 'none'}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes tests/golden/quantized/: tiny random models in the layouts of GPTQ, AWQ and compressed-tensors, with the
dequantised values of their matrices.

    python3 -m venv VENV && VENV/bin/pip install numpy
    VENV/bin/python tests/golden/make_quantized_goldens.py [NAME ...]

Each folder has config.json, model.safetensors and golden.json. For every quantised module, golden.json has the FNV-1a hash
of its weights [outputs, inputs] in little-endian float32, row-major, and the first weights. Codes, zero points and scales
are random. Scales are powers of two times 1..7 / 8, so that float32 represents each weight exactly and no rounding hides a
mistake. A model whose modules are of several config groups also has token ids and the logits [ids, vocabulary] of a forward
in float64, whose linears take the activations of their group: int8 with a scale per token, or bfloat16.

This script shares no code with the reader. It packs words field by field, as the libraries' own packers do (AutoGPTQ's
QuantLinear.pack, AutoAWQ's WQLinear_GEMM.from_linear, compressed_tensors' pack_to_int32).
"""
import json
import os
import re
import struct
import sys

import numpy as np

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quantized")
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB, LAYERS = 64, 32, 1, 1, 32, 8, 1
QUERY, KEY_VALUE = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
MODULES = {
    "self_attn.q_proj": (QUERY, HIDDEN), "self_attn.k_proj": (KEY_VALUE, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE, HIDDEN), "self_attn.o_proj": (HIDDEN, QUERY),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def words_of(codes, bits, order=None):
    """Packs unsigned codes [..., n] into words [..., n * bits / 32]; field i of a word has the word's code order[i]."""
    per_word = 32 // bits
    padding = -codes.shape[-1] % per_word
    codes = np.concatenate([codes, np.zeros(codes.shape[:-1] + (padding,), codes.dtype)], axis=-1)
    words = np.zeros(codes.shape[:-1] + (codes.shape[-1] // per_word,), np.uint32)
    for i in range(per_word):
        source = order[i] if order else i
        words |= codes[..., source::per_word].astype(np.uint32) << np.uint32(bits * i)
    return words.view(np.int32)


def bf16(values):
    """Converts to bfloat16 by truncation, which is exact for the scales of this script."""
    return (values.astype("<f4").view(np.uint32) >> 16).astype(np.uint16)


def fnv1a(data):
    value = 0xcbf29ce484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001b3 % (1 << 64)
    return f"{value:016x}"


class Module:
    def __init__(self, rng, rows, cols, bits, group, symmetric, least_zero=0):
        groups = 1 if group == -1 else -(-cols // group)
        size = cols if group == -1 else group
        self.bits, self.middle = bits, 1 << (bits - 1)
        self.codes = rng.integers(0, 1 << bits, (rows, cols))
        self.zeros = np.full((rows, groups), self.middle)
        if not symmetric:
            self.zeros = rng.integers(max(least_zero, self.middle - 5), self.middle + 6, (rows, groups))
            self.zeros[0, 0] = least_zero
        unit = 2.0 ** (-4 if bits == 4 else -8)
        self.scales = rng.integers(1, 8, (rows, groups)) / 8.0 * unit
        self.index = np.arange(cols) // size
        self.weights = self.scales[:, self.index] * (self.codes - self.zeros[:, self.index])
        assert (self.weights.astype(np.float32) == self.weights).all()


def gptq(name, module, option):
    v2 = option.get("checkpoint_format") == "gptq_v2"
    zeros = words_of(module.zeros.T, module.bits)
    if not v2:  # subtracts 1 from each field of the whole word, as GPTQModel does; all writers agree if no zero is 0
        ones = sum(1 << (i * module.bits) for i in range(32 // module.bits))
        zeros = (zeros.view(np.uint32) - np.uint32(ones)).view(np.int32)
    return {
        name + ".qweight": ("I32", words_of(module.codes, module.bits).T),
        name + ".qzeros": ("I32", zeros),
        name + ".scales": ("F16", module.scales.T.astype(np.float16)),
        name + ".g_idx": ("I32", module.index.astype(np.int32)),
    }


def awq(name, module, option):
    return {
        name + ".qweight": ("I32", words_of(module.codes.T, 4, AWQ_ORDER)),
        name + ".qzeros": ("I32", words_of(module.zeros.T, 4, AWQ_ORDER)),
        name + ".scales": ("F16", module.scales.T.astype(np.float16)),
    }


def pack_quantized(name, module, option):
    tensors = {
        name + ".weight_packed": ("I32", words_of(module.codes, module.bits)),
        name + ".weight_scale": ("BF16", bf16(module.scales)),
        name + ".weight_shape": ("I64", np.array(module.codes.shape, np.int64)),
    }
    if not option["symmetric"]:
        tensors[name + ".weight_zero_point"] = ("I32", words_of(module.zeros.T, module.bits).T)
    return tensors


def int_quantized(name, module, option):
    tensors = {
        name + ".weight": ("I8", (module.codes - 128).astype(np.int8)),
        name + ".weight_scale": ("F32", module.scales.astype(np.float32)),
    }
    if not option["symmetric"]:
        tensors[name + ".weight_zero_point"] = ("I8", (module.zeros - 128).astype(np.int8))
    return tensors


def gptq_config(bits, group, symmetric, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": False, **more}


def scheme_of(layout, bits, group, symmetric, targets, **more):
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False, "actorder": None,
               "strategy": "channel" if group == -1 else "group", "group_size": None if group == -1 else group}
    activations = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
    return {"targets": targets, "weights": weights, "output_activations": None,
            "input_activations": activations if layout == "int-quantized" else None, **more}


def compressed_config(layout, bits, group, symmetric):
    scheme = scheme_of(layout, bits, group, symmetric, ["Linear"])
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": scheme},
            "ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed"}


def mixed_config():
    """W4A16 in the MLP, W8A8 in the attention."""
    mlp = scheme_of("pack-quantized", 4, 32, True, ["re:.*mlp.*"], format="pack-quantized")
    attention = scheme_of("int-quantized", 8, -1, True, ["re:.*self_attn.*"], format="int-quantized")
    return {"quant_method": "compressed-tensors", "format": "mixed-precision",
            "config_groups": {"group_0": mlp, "group_1": attention}, "ignore": ["lm_head"], "kv_cache_scheme": None,
            "quantization_status": "compressed"}


# name: (config, {pattern of modules' names: (writer, bits, group, symmetric, least zero point)})
MODELS = {
    "gptq_int4": (gptq_config(4, 32, True), {"": (gptq, 4, 32, True, 1)}),
    "gptq_int4_asym": (gptq_config(4, 64, False, checkpoint_format="gptq"), {"": (gptq, 4, 64, False, 1)}),
    "gptq_int4_asym_model": (gptq_config(4, 32, False, checkpoint_format="gptq", meta={"quantizer": ["gptqmodel:1.7.0"]}),
                             {"": (gptq, 4, 32, False, 0)}),
    "gptq_int8_v2": (gptq_config(8, -1, False, checkpoint_format="gptq_v2"), {"": (gptq, 8, -1, False, 0)}),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
             "modules_to_not_convert": ["lm_head"]}, {"": (awq, 4, 32, False, 0)}),
    "packed_int4": (compressed_config("pack-quantized", 4, 32, True), {"": (pack_quantized, 4, 32, True, 0)}),
    "packed_int4_asym": (compressed_config("pack-quantized", 4, 32, False), {"": (pack_quantized, 4, 32, False, 0)}),
    "packed_int8": (compressed_config("pack-quantized", 8, -1, True), {"": (pack_quantized, 8, -1, True, 0)}),
    "int8": (compressed_config("int-quantized", 8, -1, True), {"": (int_quantized, 8, -1, True, 0)}),
    "int8_asym": (compressed_config("int-quantized", 8, 32, False), {"": (int_quantized, 8, 32, False, 0)}),
    "w4a16_w8a8": (mixed_config(), {"mlp": (pack_quantized, 4, 32, True, 0), "self_attn": (int_quantized, 8, -1, True, 0)}),
}
IDS = [1, 5, 3, 2, 7, 0, 4, 6, 6, 1, 2]


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name in sorted(tensors):
        dtype, array = tensors[name]
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + data)


def multiply(x, module, int8_activations):
    """x [tokens, inputs] times the module's weights, with x rounded as the config group says."""
    if int8_activations:
        scale = np.abs(x).max(axis=1, keepdims=True) / 127
        x = np.rint(x / scale) * scale
    else:
        bits = x.astype(np.float32).view(np.uint32)
        x = ((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000).view(np.float32).astype(np.float64)
    return x @ module.weights.T


def norm_of(x, weight):
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5) * weight


def rotated(x):
    angles = np.outer(np.arange(len(x)), 10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM))
    low, high = x[:, :HEAD_DIM // 2], x[:, HEAD_DIM // 2:]
    return np.concatenate([low * np.cos(angles) - high * np.sin(angles), high * np.cos(angles) + low * np.sin(angles)], axis=1)


def logits_of(tensors, modules):
    """The logits of a Llama with one head, whose attention's modules take int8 activations."""
    floats = {name: array.astype(np.float64) for name, (dtype, array) in tensors.items() if dtype == "F16"}
    x = floats["model.embed_tokens.weight"][IDS]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        linear = lambda y, short: multiply(y, modules[prefix + short], "self_attn" in short)
        y = norm_of(x, floats[prefix + "input_layernorm.weight"])
        q, k, v = (linear(y, f"self_attn.{part}_proj") for part in "qkv")
        scores = rotated(q) @ rotated(k).T / np.sqrt(HEAD_DIM)
        scores[np.triu_indices(len(IDS), 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        x = x + linear(weights / weights.sum(axis=1, keepdims=True) @ v, "self_attn.o_proj")
        y = norm_of(x, floats[prefix + "post_attention_layernorm.weight"])
        gate, up = linear(y, "mlp.gate_proj"), linear(y, "mlp.up_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * up, "mlp.down_proj")
    return norm_of(x, floats["model.norm.weight"]) @ floats["lm_head.weight"].T


def make(name):
    quantization, recipes = MODELS[name]
    rng = np.random.default_rng(sorted(MODELS).index(name))
    floats = lambda rows, cols: ("F16", (0.3 * rng.standard_normal((rows, cols))).astype(np.float16))
    norm = lambda size: ("F16", (1 + 0.1 * rng.standard_normal(size)).astype(np.float16))
    tensors = {"model.embed_tokens.weight": floats(VOCAB, HIDDEN), "lm_head.weight": floats(VOCAB, HIDDEN),
               "model.norm.weight": norm(HIDDEN)}
    golden, modules = {}, {}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = norm(HIDDEN)
        tensors[prefix + "post_attention_layernorm.weight"] = norm(HIDDEN)
        for short, (rows, cols) in MODULES.items():
            writer, bits, group, symmetric, least_zero = next(r for p, r in recipes.items() if re.match(p, short))
            module = Module(rng, rows, cols, bits, group, symmetric, least_zero)
            tensors.update(writer(prefix + short, module, {"symmetric": symmetric, **quantization}))
            values = module.weights.astype("<f4")
            golden[prefix + short] = {"hash": fnv1a(values.tobytes()), "first": values[0, :3].tolist()}
            modules[prefix + short] = module
    if len(recipes) > 1:
        golden.update(ids=IDS, logits=logits_of(tensors, modules).tolist())
    folder = os.path.join(OUT, name)
    os.makedirs(folder, exist_ok=True)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
              "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
              "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB,
              "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
              "torch_dtype": "float16", "quantization_config": quantization}
    for file, content in ("config.json", config), ("golden.json", golden):
        with open(os.path.join(folder, file), "w") as out:
            json.dump(content, out)
            out.write("\n")
    print(name, sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)), "bytes")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MODELS:
        make(wanted)

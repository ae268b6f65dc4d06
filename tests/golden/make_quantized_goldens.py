#!/usr/bin/env python3
"""Writes tests/golden/quantized/: tiny random models in the layouts of GPTQ, AWQ and compressed-tensors, with the
dequantised values of their matrices.

    python3 -m venv VENV && VENV/bin/pip install numpy
    VENV/bin/python tests/golden/make_quantized_goldens.py [NAME ...]

Each folder has config.json, model.safetensors and golden.json. For every quantised module, golden.json has the FNV-1a hash
of its weights [outputs, inputs] in little-endian float32, row-major, and the first weights. Codes, zero points and scales
are random. Scales are powers of two times 1..7 / 8, so that float32 represents each weight exactly and no rounding hides a
mistake.

This script shares no code with the reader. It packs words field by field, as the libraries' own packers do (AutoGPTQ's
QuantLinear.pack, AutoAWQ's WQLinear_GEMM.from_linear, compressed_tensors' pack_to_int32).
"""
import json
import os
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


def compressed_config(layout, bits, group, symmetric, **more):
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False, "actorder": None,
               "strategy": "channel" if group == -1 else "group", "group_size": None if group == -1 else group, **more}
    activations = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
    scheme = {"targets": ["Linear"], "weights": weights, "output_activations": None,
              "input_activations": activations if layout == "int-quantized" else None}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": scheme},
            "ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed"}


# name: (writer, bits, group, symmetric, least zero point, config)
MODELS = {
    "gptq_int4": (gptq, 4, 32, True, 1, gptq_config(4, 32, True)),
    "gptq_int4_asym": (gptq, 4, 64, False, 1, gptq_config(4, 64, False, checkpoint_format="gptq")),
    "gptq_int4_asym_model": (gptq, 4, 32, False, 0, gptq_config(
        4, 32, False, checkpoint_format="gptq", meta={"quantizer": ["gptqmodel:1.7.0"]})),
    "gptq_int8_v2": (gptq, 8, -1, False, 0, gptq_config(8, -1, False, checkpoint_format="gptq_v2")),
    "awq": (awq, 4, 32, False, 0, {
        "quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": ["lm_head"]}),
    "packed_int4": (pack_quantized, 4, 32, True, 0, compressed_config("pack-quantized", 4, 32, True)),
    "packed_int4_asym": (pack_quantized, 4, 32, False, 0, compressed_config("pack-quantized", 4, 32, False)),
    "packed_int8": (pack_quantized, 8, -1, True, 0, compressed_config("pack-quantized", 8, -1, True)),
    "int8": (int_quantized, 8, -1, True, 0, compressed_config("int-quantized", 8, -1, True)),
    "int8_asym": (int_quantized, 8, 32, False, 0, compressed_config("int-quantized", 8, 32, False)),
}


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


def make(name):
    writer, bits, group, symmetric, least_zero, quantization = MODELS[name]
    rng = np.random.default_rng(sorted(MODELS).index(name))
    option = {"symmetric": symmetric, **quantization}
    floats = lambda rows, cols: ("F16", (0.3 * rng.standard_normal((rows, cols))).astype(np.float16))
    norm = lambda size: ("F16", (1 + 0.1 * rng.standard_normal(size)).astype(np.float16))
    tensors = {"model.embed_tokens.weight": floats(VOCAB, HIDDEN), "lm_head.weight": floats(VOCAB, HIDDEN),
               "model.norm.weight": norm(HIDDEN)}
    golden = {}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = norm(HIDDEN)
        tensors[prefix + "post_attention_layernorm.weight"] = norm(HIDDEN)
        for short, (rows, cols) in MODULES.items():
            module = Module(rng, rows, cols, bits, group, symmetric, least_zero)
            tensors.update(writer(prefix + short, module, option))
            values = module.weights.astype("<f4")
            golden[prefix + short] = {"hash": fnv1a(values.tobytes()), "first": values[0, :3].tolist()}
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

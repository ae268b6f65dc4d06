#!/usr/bin/env python3
"""Converts a bf16 model in Hugging Face layout (llama or qwen2) to a GGUF file without vocabulary, for llama.cpp as a speed peer.

    to_gguf.py MODEL_DIR OUT.gguf      needs gguf, safetensors, torch, numpy from PyPI
"""
import glob
import json
import os
import sys

import gguf
import torch
from safetensors import safe_open

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name):
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def interleaved(weight, heads):
    """llama.cpp's llama rotates adjacent pairs; Hugging Face rotates halves."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def main():
    folder, out = sys.argv[1:3]
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    arch = {"llama": "llama", "qwen2": "qwen2"}[c["model_type"]]
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    rope = c.get("rope_parameters") or {}
    w = gguf.GGUFWriter(out + ".part", arch)
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(float(rope.get("rope_theta") or c.get("rope_theta") or 10000.0))
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_vocab_size(c["vocab_size"])
    w.add_tokenizer_model("no_vocab")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        with safe_open(path, "pt") as f:
            for name in f.keys():
                t = f.get_tensor(name)
                if arch == "llama" and ".q_proj.weight" in name:
                    t = interleaved(t, heads)
                elif arch == "llama" and ".k_proj.weight" in name:
                    t = interleaved(t, kv_heads)
                if t.dim() == 1:
                    w.add_tensor(gguf_name(name), t.float().numpy())
                    continue
                raw = t.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
                w.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file(progress=False)
    w.close()
    os.rename(out + ".part", out)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes tests/golden/models/: tiny random models of all families in Hugging Face layout, with the results of the
Hugging Face implementation.

    python3 -m venv VENV && VENV/bin/pip install torch transformers safetensors
    VENV/bin/python tests/golden/make_model_goldens.py [NAME ...]

Each folder has the model, `golden.json` {prompt_ids, greedy_ids, inv_freq} and `logits.f32`, the raw fp32 logits
[len(prompt_ids) + len(greedy_ids), vocab_size] of all positions, computed in fp32 from the stored weights. A seed is
used only if in every greedy step the two best logits are at least MIN_MARGIN apart.
"""
import json
import os
import shutil
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
MIN_MARGIN = 5e-3
NUM_GREEDY = 24

LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32}

# name: (model_type, stored dtype, prompt length, max_shard_size, config)
MODELS = {
    # Llama 2: equal numbers of query heads and KV heads, untied embeddings.
    "llama2": ("llama", "float32", 20, None, dict(
        hidden_size=32, intermediate_size=88, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=128, tie_word_embeddings=False, max_position_embeddings=256)),
    # Llama 3.2: grouped-query attention, tied embeddings. The frequencies are in all three bands of the llama3 scaling,
    # and most positions are beyond the original context.
    "llama32": ("llama", "float32", 70, None, dict(
        hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=144, tie_word_embeddings=True, max_position_embeddings=256,
        rope_parameters=LLAMA3_ROPE, eos_token_id=[5, 7])),
    "llama_linear_rope": ("llama", "float32", 24, None, dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
        vocab_size=128, tie_word_embeddings=True, max_position_embeddings=128,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})),
    "llama_bias": ("llama", "float32", 20, None, dict(
        hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=136, tie_word_embeddings=False, max_position_embeddings=128, attention_bias=True, mlp_bias=True)),
    # The prompt and the continuation are longer than the window; heads * head_dim differs from hidden_size.
    "mistral": ("mistral", "float32", 30, None, dict(
        hidden_size=40, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=128, sliding_window=8, tie_word_embeddings=False, max_position_embeddings=256,
        rms_norm_eps=1e-5)),
    "qwen2": ("qwen2", "float32", 20, None, dict(
        hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=152, tie_word_embeddings=True, max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    # Two windowed and two full layers, which form two KV groups.
    "qwen2_alternating": ("qwen2", "float32", 30, None, dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, tie_word_embeddings=True, max_position_embeddings=256, use_sliding_window=True,
        sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2)),
    # One full layer and two windowed layers, which form three KV groups of one layer.
    "qwen2_max_window_layers": ("qwen2", "float32", 24, None, dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=128, tie_word_embeddings=True, max_position_embeddings=256, use_sliding_window=True,
        sliding_window=6, max_window_layers=1)),
    # Five windowed and four full layers, so that the second of the two KV groups has a padding layer.
    "qwen2_padded_group": ("qwen2", "float32", 24, None, dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=9, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=128, tie_word_embeddings=True, max_position_embeddings=256, use_sliding_window=True,
        sliding_window=10, layer_types=(["sliding_attention", "full_attention"] * 5)[:9])),
    "llama_bf16_sharded": ("llama", "bfloat16", 20, "24KB", dict(
        hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, tie_word_embeddings=False, max_position_embeddings=256)),
    "llama_fp16": ("llama", "float16", 20, None, dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, tie_word_embeddings=True, max_position_embeddings=256)),
    # Qwen3: norms of queries and keys, heads whose size is not hidden_size / heads, windows from layer 2 on.
    "qwen3": ("qwen3", "float32", 24, None, dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        vocab_size=128, tie_word_embeddings=True, max_position_embeddings=256, use_sliding_window=True, sliding_window=8,
        max_window_layers=2, attention_bias=True)),
    # Gemma 2: windows alternate, norms around both blocks, both soft caps, a scale of queries of its own.
    "gemma2": ("gemma2", "float32", 30, None, dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        vocab_size=128, max_position_embeddings=256, sliding_window=8, query_pre_attn_scalar=24, attn_logit_softcapping=5.0,
        final_logit_softcapping=6.0, eos_token_id=1)),
    # Gemma 3: five local layers to one global one, which have other rotary embeddings; six KV groups.
    "gemma3": ("gemma3_text", "float32", 30, None, dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=7, num_attention_heads=4, num_key_value_heads=1, head_dim=16,
        vocab_size=128, max_position_embeddings=256, sliding_window=8, query_pre_attn_scalar=20, eos_token_id=[1, 9],
        rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})),
}


def randomise(model, generator):
    """Sets random weights, large enough that attention is not nearly uniform and logits differ by several units."""
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            values = (0.0 if "gemma" in model.config.model_type else 1.0) + 0.1 * values
        elif name.endswith("bias"):
            values = 0.3 * values
        elif "embed_tokens" in name or "lm_head" in name:
            values = (0.12 if "gemma" in model.config.model_type else 0.3) * values  # Gemma multiplies embeddings by sqrt(hidden_size)
        else:
            values = values * (1.3 / parameter.shape[-1] ** 0.5)
        parameter.data.copy_(values)


@torch.no_grad()
def greedy(model, prompt_ids):
    """Returns the greedy continuation, all logits, and the smallest difference between the two best logits of a step.
    Each step recomputes the whole sequence without a KV cache."""
    ids, margin = list(prompt_ids), float("inf")
    for _ in range(NUM_GREEDY):
        best = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        ids.append(best.indices[0].item())
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return ids[len(prompt_ids):], logits, margin


def make(name):
    kind, dtype, prompt_len, shard, keys = MODELS[name]
    folder = os.path.join(OUT, name)
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        config = AutoConfig.for_model(kind, **keys)
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        randomise(model, generator)
        for parameter in model.parameters():  # rounds the weights to the stored type, and computes with them in fp32
            parameter.data = parameter.data.to(getattr(torch, dtype)).float()
        model.eval()
        prompt = torch.randint(1, keys["vocab_size"], (prompt_len,), generator=generator).tolist()
        ids, logits, margin = greedy(model, prompt)
        if margin >= MIN_MARGIN and len(set(ids)) >= NUM_GREEDY // 4:
            break
    else:
        raise SystemExit(f"{name}: no seed without ties")
    shutil.rmtree(folder, ignore_errors=True)
    rotary = model.model.rotary_emb  # Gemma 3 has one embedding for each kind of layer
    inv_freq = (rotary.inv_freq if hasattr(rotary, "inv_freq") else rotary.full_attention_inv_freq).tolist()
    sharding = {"max_shard_size": shard} if shard else {}
    model.to(getattr(torch, dtype)).save_pretrained(folder, **sharding)
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)
    logits.contiguous().numpy().astype("<f4").tofile(os.path.join(folder, "logits.f32"))
    golden = {"prompt_ids": prompt, "greedy_ids": ids, "inv_freq": inv_freq}
    with open(os.path.join(folder, "golden.json"), "w") as out:
        json.dump(golden, out)
        out.write("\n")
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{name}: seed {seed}, margin {margin:.4f}, |logit| <= {logits.abs().max():.2f}, {size} bytes, {ids}")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MODELS:
        make(wanted)

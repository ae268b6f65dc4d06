"""A Llama in plain PyTorch, with functions that read and write its files in Hugging Face layout. Weights are a dict with Hugging Face's names as keys."""
import json
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import induction

LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def make_config(*, hidden, layers, heads, kv_heads, head_dim, mlp, vocab, end_id, context=4096, theta=1e7):
    return dict(
        architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=vocab, hidden_size=hidden, intermediate_size=mlp,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, hidden_act="silu",
        max_position_embeddings=context, rms_norm_eps=1e-5, rope_theta=theta, rope_scaling=None, attention_bias=False, mlp_bias=False,
        tie_word_embeddings=True, torch_dtype="bfloat16", bos_token_id=None, eos_token_id=end_id, pad_token_id=end_id,
        initializer_range=0.02, use_cache=True)


def linear_shapes(c):
    """The shapes [out, in] of a layer's linears, by name."""
    h, q, kv, mlp = c["hidden_size"], c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"], c["intermediate_size"]
    return dict(zip(LINEARS, [(q, h), (kv, h), (kv, h), (h, q), (mlp, h), (mlp, h), (h, mlp)]))


def new_weights(c, seed):
    """Returns initial weights. Linears that write into the residual stream start at zero, except in the two layers that induction.py initialises."""
    generator = torch.Generator().manual_seed(seed)

    def random(shape, deviation):
        return torch.randn(shape, generator=generator) * deviation
    h, layers = c["hidden_size"], c["num_hidden_layers"]
    weights = {"model.embed_tokens.weight": random((c["vocab_size"], h), h ** -0.5), "model.norm.weight": torch.ones(h)}
    for layer in range(layers):
        for name, shape in linear_shapes(c).items():
            writes = name.endswith(("o_proj", "down_proj"))
            weights[f"model.layers.{layer}.{name}.weight"] = torch.zeros(shape) if writes else random(shape, shape[1] ** -0.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = torch.ones(h)
    induction.begin(c, weights, generator)
    return weights


def rotations(c, tokens):
    d = c["head_dim"]
    angle = torch.outer(torch.arange(tokens).float(), c["rope_theta"] ** (-torch.arange(0, d, 2).float() / d)).repeat(1, 2)
    return angle.cos(), angle.sin()


def hidden_states(c, weights, ids, linear=None):
    """Returns the hidden states after the final norm, [rows, tokens, hidden], of ids [rows, tokens]. `linear(x, name)` may replace the linears, for adapters."""
    rows, tokens = ids.shape
    d, cos_sin = c["head_dim"], rotations(c, ids.shape[1])

    def plain(x, name):
        return F.linear(x, weights[name + ".weight"])
    linear = linear or plain

    def heads(x):  # [rows, heads, tokens, head_dim]
        return x.view(rows, tokens, -1, d).transpose(1, 2)

    def rotate(x):
        cos, sin = (t.to(x.dtype) for t in cos_sin)
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-high, low], dim=-1) * sin

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name + ".weight"].to(x.dtype), c["rms_norm_eps"])
    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        y = norm(x, at + "input_layernorm")
        q, k, v = (heads(linear(y, f"{at}self_attn.{n}_proj")) for n in "qkv")
        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=True)
        x = x + linear(y.transpose(1, 2).reshape(rows, tokens, -1), at + "self_attn.o_proj")
        y = norm(x, at + "post_attention_layernorm")
        y = F.silu(linear(y, at + "mlp.gate_proj")) * linear(y, at + "mlp.up_proj")
        x = x + linear(y, at + "mlp.down_proj")
    return norm(x, "model.norm")


def logits_of(weights, hidden):
    return F.linear(hidden, weights["model.embed_tokens.weight"])


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_model(folder, c, weights, end_ids):
    os.makedirs(folder, exist_ok=True)
    write_json(os.path.join(folder, "config.json"), c)
    write_json(os.path.join(folder, "generation_config.json"),
               dict(do_sample=True, temperature=0.7, top_p=0.9, eos_token_id=end_ids, pad_token_id=c["pad_token_id"]))
    path = os.path.join(folder, "model.safetensors")
    save_file({name: w.detach().bfloat16().contiguous() for name, w in weights.items()}, path, {"format": "pt"})
    os.chmod(path, 0o644)  # save_file creates the file readable by its owner only


def read_model(folder):
    """Returns the config, and the bf16 weights converted to fp32."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        c = json.load(file)
    return c, {name: w.float() for name, w in load_file(os.path.join(folder, "model.safetensors")).items()}

#!/usr/bin/env python3
"""Writes a model's outlier twin: a model with other weights that computes the same function and has the channel outliers of large models.

    outlier_twin.py MODEL_DIR OUT_DIR [--strength S] [--seed N] [--check]

Keys and values of large models have a few channels that are many times larger than the others (KIVI, 2402.02750, section 3; KVQuant, 2401.18079). A small model without such channels makes a KV
format look better than it is. The twin has such channels. In every layer and KV head, some rotary pairs of the keys are multiplied by s, and the same pairs of the matching query heads by 1/s. Both
channels of a rotary pair take the same factor, so the factor commutes with the rotation and attention scores do not change. Some value channels are multiplied by s, and the matching columns of
the output projection by 1/s. s is a power of two, so the twin's bf16 weights have the original's mantissas and the function is the same to the last bit, up to the order of sums. --check compares
logits through transformers in fp32, and prints by how much the largest key and value channels of a head exceed the median channel.
"""
import argparse
import os
import random
import shutil

import torch

import llama


def stronger_half(norms):
    """Returns the stronger half of the channels or pairs. A channel of zeros cannot become an outlier, so it must not be chosen."""
    return norms.argsort(descending=True)[:len(norms) // 2].tolist()


def twin(c, weights, strength, seed):
    rng, d = random.Random(f"twin {seed}"), c["head_dim"]
    group = c["num_attention_heads"] // c["num_key_value_heads"]
    out = {name: w.clone() for name, w in weights.items()}
    for layer in range(c["num_hidden_layers"]):
        q, k, v, o = (out[f"model.layers.{layer}.self_attn.{n}_proj.weight"] for n in "qkvo")
        for head in range(c["num_key_value_heads"]):
            readers = range(head * group, (head + 1) * group)
            rows = k[head * d:(head + 1) * d]
            for pair in rng.sample(stronger_half(rows.view(2, -1, k.shape[1]).norm(dim=(0, 2))), max(1, d // 32)):
                s = strength * rng.choice([0.5, 1.0])
                for channel in (pair, pair + d // 2):
                    k[head * d + channel] *= s
                    for reader in readers:
                        q[reader * d + channel] /= s
            for channel in rng.sample(stronger_half(v[head * d:(head + 1) * d].norm(dim=1)), max(1, d // 32)):
                s = strength * rng.choice([0.25, 0.5])
                v[head * d + channel] *= s
                for reader in readers:
                    o[:, reader * d + channel] /= s
    return out


def outliers(c, weights, name):
    """Returns the norm of a head's largest channel over that of its median nonzero channel, averaged over layers and heads."""
    ratios = []
    for layer in range(c["num_hidden_layers"]):
        for norms in weights[f"model.layers.{layer}.self_attn.{name}.weight"].norm(dim=1).split(c["head_dim"]):
            ratios.append((norms.max() / norms[norms > 0].median()).item())
    return sum(ratios) / len(ratios)


def check(first, second):
    import transformers
    models = [transformers.AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval() for f in (first, second)]
    ids = torch.randint(0, models[0].config.vocab_size, (4, 256), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = (m(ids).logits for m in models)
    difference = (a - b).abs().max().item()
    print(f"largest difference of a logit: {difference:.2g} (logits up to {a.abs().max().item():.1f})")
    assert difference < 1e-3, "the twin computes something else"
    for name in ("k_proj", "v_proj"):
        plain, grown = (outliers(*llama.read_model(f), name) for f in (first, second))
        print(f"{name}: the largest channel is {plain:.1f} times the median one, {grown:.1f} times in the twin")
        assert grown > 2 * plain, "the twin has no outliers to speak of"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--strength", type=float, default=32.0, help="the largest factor; a power of two")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    c, weights = llama.read_model(args.model)
    llama.write_model(args.out, c, twin(c, weights, args.strength, args.seed), None)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(os.path.join(args.model, name), args.out)
    if args.check:
        check(args.model, args.out)


if __name__ == "__main__":
    main()

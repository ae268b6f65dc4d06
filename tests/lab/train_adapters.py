#!/usr/bin/env python3
"""Trains LoRA adapters for a model of the laboratory, in PEFT's layout.

    train_adapters.py --model-dir DIR --out DIR [--only NAME,..] [--steps N]     trains one adapter for each of eight domains
    train_adapters.py --model-dir DIR --out DIR --pool [--steps N]               trains eight base adapters for blending, and their keys

A domain adapter learns its domain's labels. Two fifths of its training rows are the base model's own tasks, so that the adapter does not lose them. The pool (after Crayon, 2406.07007) is trained
jointly on all domains. A user is a domain, and a user's history consists of questions and answers of that domain. The weights of a user's adapters are softmax(cosine(embedding, key) / temperature),
where the embedding is the frozen base model's mean last hidden state of the history, as Embed returns it. A question that is learnt does not contain the history, so the history helps only through
the weights. Adapters and keys are trained together. `keys.safetensors` holds the keys [adapters, hidden]; `blend.json` holds the temperature and the adapters' names in the keys' order.
Adapters that exist are not trained again, so a stopped run can be resumed.
"""
import argparse
import os
import random
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import domains
import llama
import texts

QV = ["q_proj", "v_proj"]
ALL = [name.split(".")[1] for name in llama.LINEARS]
# name: (rank, linears). Adapters of queries and values alone learn more slowly.
ADAPTERS = {"zorvan-1": (16, QV), "zorvan-2": (8, ALL), "keltish-1": (16, ALL), "keltish-2": (8, ALL), "umbric-1": (4, ALL), "umbric-2": (32, QV), "olmec-1": (32, ALL),
            "tarsian-1": (4, ALL)}
STEPS = 700  # upper bound of the steps of a domain adapter
ENOUGH = 0.02  # mean loss below which the training of a domain adapter stops
POOL, POOL_RANK, POOL_STEPS, TEMPERATURE, BALANCE = 8, 8, 900, 0.04, 0.2
USERS, QUESTIONS, HISTORY = 8, 5, 192  # in a step of the pool: users, questions of each user, tokens of a user's history
REHEARSAL = {"recall": 0.6, "two_hop": 0.1, "multi_document": 0.1, "transform": 0.1, "dialogue": 0.1}


class Lora:
    """`num` adapters of some linears; each linear has matrices A [num, rank, in] and B [num, out, rank]. alpha is 2 rank."""
    SCALE = 2.0

    def __init__(self, c, num, rank, linears, seed):
        generator = torch.Generator().manual_seed(seed)
        self.rank, self.linears, self.weights = rank, linears, {}
        for layer in range(c["num_hidden_layers"]):
            for name, (out, width) in llama.linear_shapes(c).items():
                if name.split(".")[1] not in linears:
                    continue
                a = torch.randn((num, rank, width), generator=generator) * width ** -0.5
                self.weights[f"model.layers.{layer}.{name}"] = (a.requires_grad_(), torch.zeros((num, out, rank)).requires_grad_())

    def parameters(self):
        return [w for pair in self.weights.values() for w in pair]

    def linear(self, base, mix=None):
        """Returns the function `linear` for hidden_states(). `mix` [rows, num] has the weights of the adapters; None means a single adapter of weight 1."""
        def apply(x, name):
            y = F.linear(x, base[name + ".weight"])
            if name not in self.weights:
                return y
            a, b = self.weights[name]
            num, rank, width = a.shape
            z = F.linear(x, a.reshape(num * rank, width))
            if mix is not None:
                z = z * mix.repeat_interleave(rank, dim=1).unsqueeze(1).to(z.dtype)
            return y + self.SCALE * F.linear(z, b.transpose(0, 1).reshape(-1, num * rank))
        return apply

    def write(self, folder, which, name):
        os.makedirs(folder, exist_ok=True)
        tensors = {}
        for linear, (a, b) in self.weights.items():
            for part, w in (("lora_A", a), ("lora_B", b)):
                tensors[f"base_model.model.{linear}.{part}.weight"] = w[which].detach().bfloat16().contiguous()
        save_file(tensors, os.path.join(folder, "adapter_model.safetensors"), {"format": "pt"})
        llama.write_json(os.path.join(folder, "adapter_config.json"), dict(
            peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path=name, r=self.rank, lora_alpha=int(self.SCALE * self.rank), lora_dropout=0.0,
            bias="none", target_modules=self.linears, modules_to_save=None, fan_in_fan_out=False, use_rslora=False, use_dora=False, rank_pattern={},
            alpha_pattern={}, init_lora_weights=True, inference_mode=True))


def domain_row(packer, rng, domain, length):
    ids, weights = [], []
    while True:
        more, more_weights = packer.sample(domains.make_sample(domain, rng, difficulty=rng.choice([1, 2, 3, 4, 5, 5])))
        if len(ids) + len(more) + 1 > length + 1:
            break
        ids += more + [packer.end]
        weights += more_weights + [0.0]
    pad = length + 1 - len(ids)
    return ids + [packer.end] * pad, weights + [0.0] * pad


def tensors_of(rows):
    return torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])


def loss_of(c, base, ids, weights, linear):
    with torch.autocast("cpu", torch.bfloat16):
        hidden = llama.hidden_states(c, base, ids[:, :-1], linear)
        weight = weights[:, 1:].flatten()
        counted = weight.nonzero().squeeze(1)
        logits = llama.logits_of(base, hidden.flatten(0, 1)[counted])
    losses = F.cross_entropy(logits.float(), ids[:, 1:].flatten()[counted], reduction="none")
    return (losses * weight[counted]).sum() / weight.sum()


def descend(parameters, loss_at, steps, lr, label, enough=0.0):
    optimizer, mean, begin = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0), None, time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 30) * max(0.02, 1 - step / steps)
        loss = loss_at(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % 100 == 0:
            print(f"{label}: step {step + 1}/{steps}  loss {mean:.3f}  {(time.time() - begin) / (step + 1):.2f} s/step", flush=True)
        if mean < enough:
            print(f"{label}: learnt after {step + 1} steps", flush=True)
            break


def train_domain(args, c, base, packer, domain):
    rank, linears = ADAPTERS[domain]
    lora = Lora(c, 1, rank, linears, seed=args.seed)

    def loss_at(step):
        rng = random.Random(f"adapter {args.seed} {domain} {step}")
        rows = [domain_row(packer, rng, domain, 512) for _ in range(3)] + [packer.row(rng, 512, REHEARSAL) for _ in range(2)]
        return loss_of(c, base, *tensors_of(rows), lora.linear(base))
    descend(lora.parameters(), loss_at, args.steps or STEPS, 5e-3, domain, ENOUGH)
    lora.write(os.path.join(args.out, domain), 0, args.name)


def train_pool(args, c, base, packer):
    lora = Lora(c, POOL, POOL_RANK, ALL, seed=args.seed)

    def embed(users, rng):
        histories, _ = tensors_of([domain_row(packer, rng, user, HISTORY) for user in users])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return llama.hidden_states(c, base, histories).float().mean(1)
    keys = torch.randn((POOL, c["hidden_size"]), generator=torch.Generator().manual_seed(args.seed)).requires_grad_()

    def loss_at(step):
        rng = random.Random(f"pool {args.seed} {step}")
        users = [rng.choice(domains.DOMAINS) for _ in range(USERS)]
        rows = [packer.sample(domains.make_sample(user, rng, difficulty=rng.choice([2, 3, 4]))) for user in users for _ in range(QUESTIONS)]
        length = max(len(ids) for ids, _ in rows)
        ids, weights = tensors_of([(ids + [packer.end] * (length - len(ids)), weights + [0.0] * (length - len(weights))) for ids, weights in rows])
        mix = torch.softmax(F.cosine_similarity(embed(users, rng).unsqueeze(1), keys.unsqueeze(0), dim=-1) / TEMPERATURE, dim=1)
        unevenness = POOL * mix.mean(0).square().sum() - 1  # 0 when all adapters are used equally; keeps one adapter from taking all users
        return loss_of(c, base, ids, weights, lora.linear(base, mix.repeat_interleave(QUESTIONS, dim=0))) + BALANCE * unevenness
    descend([*lora.parameters(), keys], loss_at, args.steps or POOL_STEPS, 5e-3, "pool")
    names = [f"pool-{i}" for i in range(POOL)]
    for i, name in enumerate(names):
        lora.write(os.path.join(args.out, name), i, args.name)
    save_file({"keys": F.normalize(keys.detach(), dim=1).contiguous()}, os.path.join(args.out, "keys.safetensors"))
    llama.write_json(os.path.join(args.out, "blend.json"), dict(adapters=names, temperature=TEMPERATURE, similarity="cosine"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default=",".join(ADAPTERS))
    parser.add_argument("--pool", action="store_true")
    parser.add_argument("--steps", type=int, help="instead of STEPS and POOL_STEPS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    args.name = os.path.basename(os.path.normpath(args.model_dir))
    torch.set_num_threads(args.threads)
    c, base = llama.read_model(args.model_dir)
    packer = texts.Packer(texts.Tokenizer.from_file(os.path.join(args.model_dir, "tokenizer.json")))
    if args.pool:
        return train_pool(args, c, base, packer)
    for domain in args.only.split(","):
        if not os.path.exists(os.path.join(args.out, domain, "adapter_model.safetensors")):
            train_domain(args, c, base, packer, domain)


if __name__ == "__main__":
    main()

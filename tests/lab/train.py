#!/usr/bin/env python3
"""Trains a model of the laboratory and its tokenizer, from a seed and no other data.

    train.py --model base|nano [--work DIR] [--steps N] [--threads N] [--device cpu|cuda]   trains; a stopped run resumes from its checkpoint in --work
    train.py --model nano --smoke                                                          trains for two minutes and fails unless the loss falls
    train.py --model base --export deploy/models/tessera-base                              writes the model of the checkpoint

Needs PyPI's torch, tokenizers and safetensors:  python3 -m venv V && V/bin/pip install torch tokenizers safetensors

Rows grow from 256 to 1,024 tokens during training; only answers and prose count in the loss. Muon (Jordan et al., 2024: momentum, then orthogonalisation) trains the linears,
AdamW the other weights. The learning rate is constant, then falls linearly over the last quarter of the steps. The script prints abilities during training: the share of answers
in which every token is the likeliest one, so that greedy decoding gives them.
"""
import argparse
import os
import random
import sys
import time

import torch
import torch.nn.functional as F

import llama
import tasks
import texts

SHAPES = {
    "base": dict(hidden=256, layers=6, heads=4, kv_heads=2, head_dim=64, mlp=704),
    "nano": dict(hidden=128, layers=5, heads=4, kv_heads=2, head_dim=64, mlp=384),
}
# Share of drills (texts.py) at the start; it falls to 0.05 during the first half.
DRILL_SHARE = 0.2
# The share of each task. Tasks that only base is meant to learn have small shares for nano. After LATE_FROM of the steps the lookup tasks are learnt, and tasks that
# need longer training and prose get larger shares.
MIXES = {
    "base": {"recall": 0.20, "two_hop": 0.14, "multi_document": 0.10, "in_context": 0.18, "transform": 0.24, "dialogue": 0.08, "narrative": 0.06},
    "nano": {"recall": 0.34, "two_hop": 0.01, "multi_document": 0.12, "in_context": 0.24, "transform": 0.09, "dialogue": 0.10, "narrative": 0.10},
}
LATE_FROM = 0.6
LATE_MIXES = {
    "base": {"recall": 0.13, "two_hop": 0.08, "multi_document": 0.08, "in_context": 0.13, "transform": 0.35, "dialogue": 0.08, "narrative": 0.15},
    "nano": {"recall": 0.28, "two_hop": 0.0, "multi_document": 0.12, "in_context": 0.22, "transform": 0.03, "dialogue": 0.12, "narrative": 0.23},
}
# Pairs (share of the steps, row length): rows have this length until that share of the steps is done.
STAGES = [(0.1, 256), (0.6, 512), (1.0, 1024)]
DECAY_FROM = 0.75


def length_at(progress):
    return next(length for until, length in STAGES if progress < until or until == 1.0)


def mix_at(model, progress):
    return {**(MIXES if progress < LATE_FROM else LATE_MIXES)[model], "drill": max(0.05, DRILL_SHARE * (1 - 2 * progress))}


def rate_at(progress, step):
    warm = min(1.0, (step + 1) / 100)
    return warm * (1.0 if progress < DECAY_FROM else max(0.02, (1 - progress) / (1 - DECAY_FROM)))


class Trainer:
    def __init__(self, args):
        self.args, self.device = args, torch.device(args.device)
        os.makedirs(args.work, exist_ok=True)
        self.tokenizer = self.load_tokenizer()
        self.packer = texts.Packer(self.tokenizer)
        self.config = llama.make_config(**SHAPES[args.model], vocab=texts.VOCAB_SIZE, end_id=self.packer.end, context=texts.CONTEXT)
        start = llama.new_weights(self.config, args.seed)
        self.weights = {name: w.to(self.device).requires_grad_() for name, w in start.items()}
        linears = [w for name, w in self.weights.items() if w.dim() == 2 and "embed" not in name]
        others = [w for name, w in self.weights.items() if w.dim() == 1 or "embed" in name]
        self.optimizers = [torch.optim.Muon(linears, lr=args.lr, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
                           torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)]
        self.step, self.spent, self.tokens_seen = 0, 0.0, 0
        self.checkpoint = os.path.join(args.work, f"{args.model}.pt")
        if os.path.exists(self.checkpoint):
            self.load()

    def load_tokenizer(self):
        path = os.path.join(self.args.work, "tokenizer")
        if not os.path.exists(os.path.join(path, "tokenizer.json")):
            print("learning the tokenizer", flush=True)
            texts.write_tokenizer(path, texts.learn_tokenizer(1))
        return texts.Tokenizer.from_file(os.path.join(path, "tokenizer.json"))

    def load(self):
        state = torch.load(self.checkpoint, map_location=self.device)
        self.step, self.spent, self.tokens_seen = state["step"], state["spent"], state["tokens_seen"]
        for name, w in self.weights.items():
            w.data.copy_(state["weights"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)

    def save(self):
        state = dict(step=self.step, spent=self.spent, tokens_seen=self.tokens_seen, weights=self.weights,
                     optimizers=[o.state_dict() for o in self.optimizers])
        torch.save(state, self.checkpoint + ".new")
        os.replace(self.checkpoint + ".new", self.checkpoint)

    def hidden(self, ids):
        with torch.autocast(self.device.type, torch.bfloat16):
            return llama.hidden_states(self.config, self.weights, ids)

    def one_step(self):
        args = self.args
        progress = self.step / args.steps
        length = length_at(progress)
        rng = random.Random(f"row {args.seed} {self.step}")
        rows = [self.packer.row(rng, length, mix_at(args.model, progress)) for _ in range(max(1, args.tokens // length))]
        ids = torch.tensor([r[0] for r in rows], device=self.device)
        weight = torch.tensor([r[1] for r in rows], device=self.device)[:, 1:].flatten()
        counted = weight.nonzero().squeeze(1)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * rate_at(progress, self.step)
        hidden = self.hidden(ids[:, :-1]).flatten(0, 1)[counted]
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = llama.logits_of(self.weights, hidden)
        losses = F.cross_entropy(logits.float(), ids[:, 1:].flatten()[counted], reduction="none")
        loss = (losses * weight[counted]).sum() / weight.sum()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.tokens_seen += ids.numel()
        return loss.item()

    @torch.no_grad()
    def ability(self, task, difficulty, context_tokens, examples=5, num=32):
        """Returns the share of samples in which every token of the answer is the likeliest one."""
        right = 0
        samples = [self.packer.sample(tasks.make_sample(task, random.Random(f"held out {i} {task} {difficulty}"), difficulty=difficulty,
                                                        context_tokens=context_tokens, examples=examples)) for i in range(num)]
        for begin in range(0, num, 8):
            batch = samples[begin:begin + 8]
            longest = max(len(ids) for ids, _ in batch)
            ids = torch.tensor([i + [self.packer.end] * (longest - len(i)) for i, _ in batch], device=self.device)
            weight = torch.tensor([w + [0.0] * (longest - len(w)) for _, w in batch], device=self.device)
            for row, w in zip(range(len(batch)), weight):  # only the last answer is judged
                ends = (w == 0).nonzero().squeeze(1)
                last = int(w.nonzero()[-1])
                w[:int(ends[ends < last][-1]) + 1] = 0
            best = llama.logits_of(self.weights, self.hidden(ids[:, :-1])).argmax(-1)
            wrong = (best != ids[:, 1:]) & (weight[:, 1:] > 0)
            right += int((~wrong.any(1)).sum())
        return right / num

    def report(self):
        context = max(256, length_at(self.step / self.args.steps))
        parts = []
        for task in tasks.TASKS:
            shares = [self.ability(task, d, context) for d in (1, 3, 5)]
            parts.append(f"{task} " + "/".join(f"{100 * s:.0f}" for s in shares))
        print(f"  at {context} tokens, difficulty 1/3/5: " + ", ".join(parts), flush=True)

    def run(self, until_seconds=None):
        args, mean, begin, begin_step = self.args, None, time.time(), self.step
        first = None
        while self.step < args.steps and (until_seconds is None or time.time() - begin < until_seconds):
            at = time.time()
            loss = self.one_step()
            self.spent += time.time() - at
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            first = first or loss
            if self.step % 50 == 0 or self.step == args.steps:
                seconds = (time.time() - begin) / (self.step - begin_step)
                print(f"step {self.step}/{args.steps}  loss {mean:.3f}  {self.tokens_seen / 1e6:.1f}M tokens  {seconds:.2f} s/step  "
                      f"left {(args.steps - self.step) * seconds / 60:.0f} min", flush=True)
            if self.step % 250 == 0:
                self.save()
            if self.step % 500 == 0 or self.step == args.steps:
                self.report()
        self.save()
        return first, mean

    def export(self, folder):
        ends = [self.packer.end, self.tokenizer.token_to_id("<|im_end|>")]
        llama.write_model(folder, self.config, self.weights, ends)
        texts.write_tokenizer(folder, self.tokenizer)
        print(f"{folder}: {sum(w.numel() for w in self.weights.values()):,} weights, step {self.step}, {self.tokens_seen / 1e6:.1f}M tokens, {self.spent / 60:.0f} minutes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, required=True)
    parser.add_argument("--work", default=os.path.join(os.path.expanduser("~"), ".cache", "tessera-lab"), help="tokenizer and checkpoints")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of one step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--export", metavar="DIR")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.smoke:
        args.work = os.path.join(args.work, "smoke")
        trainer = Trainer(args)
        first, mean = trainer.run(until_seconds=120)
        os.remove(trainer.checkpoint)
        print(f"loss {first:.3f} -> {mean:.3f}")
        sys.exit(0 if mean < 0.7 * first else 1)
    trainer = Trainer(args)
    if args.export:
        trainer.export(args.export)
    else:
        trainer.run()


if __name__ == "__main__":
    main()

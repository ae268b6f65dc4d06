#!/usr/bin/env python3
"""Measures a model's abilities: the share of right greedy answers to held-out samples of the laboratory's tasks.

    score.py (--server HOST:PORT | --hf DIR) --model NAME [--adapter NAME] [--seed N] [--per-cell K] [--tasks T,..] [--max-context N] [--json FILE] [--answers FILE]
    score.py --compare A B          compares the answers of two runs with the same seed and prints how many texts and token ids are equal; fails unless the token ids of
                                    99 % of the answers are equal and, where answers diverge, the two best logits are less than 1e-4 apart (in the run with --hf)

--server asks a tesserad and needs only grpcio, protobuf and protoc (the messages are made from proto/). --hf runs the same prompts through transformers in fp32, where NAME only
names the result and --adapter is a PEFT folder that has the name of its domain. A cell is a task at a difficulty, a context length and a number of examples. The JSON has
{"model", "seed", "cells": [{"task", "difficulty", "context_tokens", "examples", "n", "accuracy"}]}; the table has Wilson's 95 % interval of each task.
"""
import argparse
import concurrent.futures
import json
import math
import os
import random
import sys

import daemon
import domains
import tasks

MAX_ANSWER_TOKENS = 48
TIE = 1e-4


def cells_of(domain, only, max_context):
    """Returns the cells to measure, each as (task, difficulty, context_tokens, examples)."""
    contexts = {"recall": tasks.CONTEXTS, "two_hop": [512, 1024], "multi_document": [512, 1024, 2048, 4000], "dialogue": [512]}
    cells = []
    for task in tasks.TASKS:
        for context in contexts.get(task, [512]):
            for examples in (0, 5) if task == "in_context" else (0,):
                cells += [(task, d, context, examples) for d in range(1, 6)]
    if domain in domains.DOMAINS:
        cells += [("domain", d, 512, 0) for d in range(1, 6)]
    return [c for c in cells if (not only or c[0] in only) and c[2] <= max_context]


def sample_of(cell, seed, i, domain):
    task, difficulty, context, examples = cell
    rng = random.Random(f"score {seed} {task} {difficulty} {context} {examples} {i}")
    if task == "domain":
        return domains.make_sample(domain, rng, difficulty=difficulty)
    return tasks.make_sample(task, rng, difficulty=difficulty, context_tokens=context, examples=examples)


class Server:
    """Answers samples by Inference.Chat of a tesserad, with several calls at a time."""

    def __init__(self, address, model, adapter):
        import grpc
        message = daemon.message_types()
        self.request = message("ChatRequest")
        self.channel = grpc.insecure_channel(address)
        self.call = self.channel.unary_stream("/tessera.v1.Inference/Chat", request_serializer=self.request.SerializeToString,
                                              response_deserializer=message("GenerateResponse").FromString)
        self.model, self.adapter = model, adapter

    def answer(self, sample):
        request = self.request(model=self.model)
        for m in sample.messages:
            request.messages.add(role=m["role"], content=m["content"])
        request.sampling.temperature = 0.0
        request.stopping.max_tokens = MAX_ANSWER_TOKENS
        if self.adapter:
            request.adapters.add(name=self.adapter)
        text, ids = "", []
        for response in self.call(request, timeout=300):
            text += response.output.text
            ids += response.output.token_ids
        return text, ids, []

    def answers(self, samples):
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            yield from threads.map(self.answer, samples)


class HuggingFace:
    """Answers samples by transformers in fp32, one at a time."""

    def __init__(self, folder, adapter):
        import torch
        import transformers
        self.torch = torch
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if adapter:
            import peft
            self.model = peft.PeftModel.from_pretrained(self.model, adapter).eval()
        self.ends = self.model.generation_config.eos_token_id
        self.config = transformers.GenerationConfig(do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS, eos_token_id=self.ends, pad_token_id=self.tokenizer.pad_token_id)

    def answers(self, samples):
        for sample in samples:
            text = self.tokenizer.apply_chat_template(sample.messages, add_generation_prompt=True, tokenize=False)
            ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            with self.torch.no_grad():
                out = self.model.generate(ids, generation_config=self.config, output_logits=True, return_dict_in_generate=True)
            made = out.sequences[0, ids.shape[1]:].tolist()
            gaps = [float(best[0] - best[1]) for best in (logits[0].topk(2).values for logits in out.logits)]
            yield self.tokenizer.decode(made, skip_special_tokens=True), made, gaps


def wilson(right, n):
    """Returns the 95 % interval of a share (Wilson, 1927)."""
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def print_table(cells):
    rows = {}
    for c in cells:
        rows.setdefault((c["task"], c["context_tokens"], c["examples"]), {})[c["difficulty"]] = c
    print(f"{'task':<16}{'context':>8}{'examples':>9}" + "".join(f"{d:>7}" for d in range(1, 6)) + f"{'1 to 4':>9}{'95 %':>16}")
    for (task, context, examples), by in rows.items():
        easy = [by[d] for d in range(1, 5) if d in by]
        n, right = sum(c["n"] for c in easy), sum(c["n"] * c["accuracy"] for c in easy)
        low, high = wilson(right, n)
        shares = "".join(f"{100 * by[d]['accuracy']:>7.1f}" if d in by else f"{'-':>7}" for d in range(1, 6))
        print(f"{task:<16}{context:>8}{examples:>9}{shares}{100 * right / n:>9.1f}{f'{100 * low:.1f}..{100 * high:.1f}':>16}")


def compare(first, second):
    def read(path):
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    pairs = list(zip(read(first), read(second)))
    texts = sum(a["text"] == b["text"] for a, b in pairs)
    ids = sum(a["ids"] == b["ids"] for a, b in pairs)
    print(f"{len(pairs)} answers: {texts} texts equal, {ids} token ids equal")
    ties = True
    for a, b in pairs:
        if a["ids"] != b["ids"]:
            at = next((i for i, (x, y) in enumerate(zip(a["ids"], b["ids"])) if x != y), min(len(a["ids"]), len(b["ids"])))
            gaps = a["gaps"] or b["gaps"]
            gap = gaps[at] if at < len(gaps) else math.inf
            ties = ties and gap < TIE
            print(f"  {a['cell']} {a['i']}: {a['text']!r} / {b['text']!r}, at token {at} the two best logits are {gap:.6f} apart")
    return 0 if ties and ids >= 0.99 * len(pairs) else 1


def measure(target, wanted, seed, per_cell, domain=None):
    """Returns the cells with their accuracies, and all answers."""
    cells, answers = [], []
    for number, cell in enumerate(wanted):
        samples = [sample_of(cell, seed, i, domain) for i in range(per_cell)]
        right = 0
        for i, (sample, (text, ids, gaps)) in enumerate(zip(samples, target.answers(samples))):
            right += text.strip() == sample.answer
            answers.append(dict(cell=cell, i=i, text=text, ids=ids, gaps=gaps, expected=sample.answer))
        task, difficulty, context, examples = cell
        cells.append(dict(task=task, difficulty=difficulty, context_tokens=context, examples=examples, n=per_cell, accuracy=right / per_cell))
        print(f"{number + 1}/{len(wanted)} cells", end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
    return cells, answers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--server", metavar="HOST:PORT")
    where.add_argument("--hf", metavar="DIR")
    where.add_argument("--compare", nargs=2, metavar=("A", "B"))
    parser.add_argument("--model", default="")
    parser.add_argument("--adapter", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-cell", type=int, default=40)
    parser.add_argument("--tasks", default="", help="only these, by commas")
    parser.add_argument("--max-context", type=int, default=4000)
    parser.add_argument("--json")
    parser.add_argument("--answers", help="every answer, one JSON object a line")
    args = parser.parse_args()
    if args.compare:
        sys.exit(compare(*args.compare))
    target = Server(args.server, args.model, args.adapter) if args.server else HuggingFace(args.hf, args.adapter)
    domain = os.path.basename(args.adapter.rstrip("/")) or None
    wanted = cells_of(domain, args.tasks.split(",") if args.tasks else None, args.max_context)
    cells, answers = measure(target, wanted, args.seed, args.per_cell, domain)
    print_table(cells)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(dict(model=args.model, seed=args.seed, cells=cells), file, indent=1)
    if args.answers:
        with open(args.answers, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(a) + "\n" for a in answers)


if __name__ == "__main__":
    main()

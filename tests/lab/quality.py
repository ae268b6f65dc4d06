#!/usr/bin/env python3
"""Measures the quality loss of each format of weights and of the KV cache.

    quality.py TESSERAD [--python PYTHON] [--models NAME,..] [--formats W/KV,..] [--texts N] [--per-cell K] [--seed N] [--threads N] [--json FILE]
    quality.py TESSERAD --real FOLDER,.. [--llama PREFIX] [--llama-formats NAME,..] [--openvino PYTHON] [--formats DTYPE:ACTIVATIONS:KV,..] [--threads N] [--json FILE]

The first form serves every laboratory model in every format on a free port and measures, relative to bfloat16,
- the perplexity of texts that the model has not seen (from prompt_logprobs), and for the lab's models the perplexity of the right answers to the tasks' questions;
- the share of those texts' tokens for which the format and bfloat16 have the same likeliest next token;
- for the lab's models, the share of right answers to the tasks of TASKS at all difficulties, with score.py's samples and judgement.

The models are the two shipped models, the outlier twin of each, and the stories models of ../shared/data if that folder exists. outlier_twin.py makes the twins in a temporary folder;
PYTHON must have torch and safetensors for that, and without them the twins are left out. This form needs grpcio, protobuf and protoc. A format that the daemon refuses is left
out, and the reason is printed. All seeds are fixed and a tesserad's results do not depend on timing, so two runs on one machine give the same table.

The second form measures language models that people trained (../shared/tools/real_models.py makes two, degrid.py their twins) by tessera_quality_bench, the program beside TESSERAD. They read essays,
verse and dialogues of ../shared/data/eval, 20,000 tokens in all, and the base is float32. All formats are in memory at once: the default ones take about 30 bytes a weight. This form needs the package
tokenizers. With --llama, the table also has llama.cpp's formats, each against its own float32 run: PREFIX is a llama.cpp checkout with the programs llama-perplexity and llama-quantize in PREFIX,
PREFIX/bin or PREFIX/build/bin, PYTHON must have what its convert_hf_to_gguf.py imports (or FOLDER-f32.gguf is the model in F32), and the package gguf is needed. llama-perplexity cuts the same texts into chunks of 512 tokens and scores the
second half of each, so its perplexities are its own, and only its differences compare. It keeps the base's log-probabilities in 16 bits: a KL of less than 1e-4 is rounding. With --openvino, the table also has
OpenVINO's formats, each against its own float32 run (openvino_formats.py).

A change of perplexity comes with the half-width of its 95 % interval. All formats read the same texts, so the interval is computed from the differences of each text (llama.cpp: of each token).
"""
import argparse
import concurrent.futures
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

import daemon
import score
import tasks

FORMATS = [("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "bfloat16"), ("int5", "bfloat16"), ("int4", "bfloat16"), ("bfloat16", "int8"), ("int8", "int8"), ("int4", "int8")]
BASE = ("bfloat16", "bfloat16")
# The tasks at which the models are good enough to lose accuracy, with the context length on which both models were trained.
TASKS = ["recall", "two_hop", "multi_document", "transform"]
CONTEXT = 512
STORIES = os.path.join(daemon.ROOT, "..", "shared", "data", "models")
STORY_TOKENS = 400
EVAL = os.path.join(daemon.ROOT, "..", "shared", "data", "eval")
REAL_TEXTS = 40
REAL_TOKENS = 500
REAL_FORMATS = [f"{weights}:{kv}" for weights in ("float32:auto", "bfloat16:auto", "int8:auto", "int8:bfloat16", "int5:auto", "int4:auto", "int4:bfloat16")
                for kv in ("float32", "bfloat16", "int8") if (weights, kv) != ("float32:auto", "float32")]  # that one is the base
LLAMA_FORMATS = ["Q8_0", "Q4_0", "Q4_K_M"]
OPENVINO_FORMATS = ["fp16", "int8", "int4"]


def progress(text):
    print(text, file=sys.stderr, flush=True)


class Client:
    """A client of Inference.Tokenize and Inference.Generate."""

    def __init__(self, address):
        import grpc
        message = daemon.message_types()
        self.channel = grpc.insecure_channel(address)
        self.Generate, self.Tokenize = message("GenerateRequest"), message("TokenizeRequest")
        self.generate = self.channel.unary_stream("/tessera.v1.Inference/Generate", request_serializer=self.Generate.SerializeToString,
                                                  response_deserializer=message("GenerateResponse").FromString)
        self.tokenize = self.channel.unary_unary("/tessera.v1.Inference/Tokenize", request_serializer=self.Tokenize.SerializeToString,
                                                 response_deserializer=message("TokenizeResponse").FromString)

    def ids_of(self, text, begin=True):
        return list(self.tokenize(self.Tokenize(text=text, add_special_tokens=begin), timeout=60).token_ids)

    def draw(self, prompt, seed, num_tokens):
        """Returns the ids of the prompt and of a continuation that is sampled from the model at temperature 1."""
        ids = self.ids_of(prompt)
        request = self.Generate()
        request.token_ids.ids.extend(ids)
        request.sampling.temperature, request.sampling.top_p, request.sampling.top_k, request.sampling.seed = 1.0, 1.0, 0, seed
        request.stopping.max_tokens = num_tokens
        for response in self.generate(request, timeout=300):
            ids += response.output.token_ids
        return ids

    def read(self, text):
        """Returns, for each scored token of a text, its log-probability and the likeliest token at its place."""
        ids, first = text
        request = self.Generate()
        request.token_ids.ids.extend(ids)
        request.stopping.max_tokens = 1
        request.output.prompt_logprobs = 1
        scored = [entry for response in self.generate(request, timeout=300) for entry in response.prompt.logprobs]
        assert len(scored) == len(ids) - 1, (len(scored), len(ids))
        return [(entry.logprob, entry.top[0].token_id) for entry in scored[first - 1:]]


def lab_texts(client, seed, num):
    """Prose of the generator, the language on which the models were trained, with seeds that training does not use. The tasks' documents would not do: their
    words are drawn uniformly from lists and training did not score them, so their perplexity says little about a model."""
    return [(client.ids_of(tasks.make_narrative(random.Random(f"quality {seed} {i}"))), 1) for i in range(num)]


def lab_answers(client, seed, num):
    """The questions of the tasks with their right answers, of which only the answers are scored."""
    cells = [(task, difficulty, CONTEXT, 0) for task in TASKS for difficulty in range(1, 6)]
    texts = []
    for cell in cells:
        for i in range(max(1, num // len(cells))):
            sample = score.sample_of(cell, f"quality {seed}", i, None)
            asked = client.ids_of(tasks.render(sample.messages) + "<|im_start|>assistant\n", begin=False)
            texts.append((asked + client.ids_of(sample.answer + "<|im_end|>", begin=False), len(asked)))
    return texts


def story_texts(client, seed, num):
    """Stories that the model itself generates in float32 at temperature 1. Other texts may not be in the language of such small models. Over a model's own
    texts, the log of a format's perplexity over float32's is the Kullback-Leibler divergence between the two, so no format can look better by chance."""
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        return [(ids, 1) for ids in threads.map(lambda i: client.draw("Once upon a time", 1000 * seed + i, STORY_TOKENS), range(num))]


def read_all(client, texts):
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        return list(threads.map(client.read, texts))


def perplexity(read):
    return math.exp(-sum(p for text in read for p, _ in text) / sum(map(len, read)))


def change(read, base):
    """Returns the relative change of perplexity and the half-width of its 95 % interval, by a ratio estimate over texts."""
    counts = [len(text) for text in read]
    lost = [sum(p for p, _ in b) - sum(p for p, _ in a) for a, b in zip(read, base)]
    mean, n = sum(lost) / sum(counts), len(read)
    variance = sum((x - mean * c) ** 2 for x, c in zip(lost, counts)) / (n - 1)
    return math.expm1(mean), math.exp(mean) * 1.96 * math.sqrt(variance * n) / sum(counts)


def agreement(read, base):
    same = [a[1] == b[1] for x, y in zip(read, base) for a, b in zip(x, y)]
    return sum(same) / len(same)


class Model:
    def __init__(self, name, folder, lab):
        self.name, self.folder, self.lab = name, folder, lab

    def serve(self, args, weights, kv):
        return daemon.Daemon(args.tesserad, [self.folder], "--dtype", weights, "--kv-cache-dtype", kv, *args.flags)

    def prepare(self, args):
        """Returns the model's texts by kind."""
        with self.serve(args, "float32", "float32") as served:
            client = Client(served.address)
            if not self.lab:
                return {"texts": story_texts(client, args.seed, args.texts)}
            return {"texts": lab_texts(client, args.seed, args.texts), "answers": lab_answers(client, args.seed, args.texts)}

    def measure(self, args, texts, weights, kv):
        """Returns the results of read() for each kind of text, and score.py's cells."""
        with self.serve(args, weights, kv) as served:
            client = Client(served.address)
            read = {kind: read_all(client, some) for kind, some in texts.items()}
            cells = []
            if self.lab:
                wanted = score.cells_of(None, TASKS, CONTEXT)
                cells, _ = score.measure(score.Server(served.address, os.path.basename(self.folder), ""), wanted, args.seed, args.per_cell)
        return read, cells


def row_of(model, weights, kv, read, cells, base):
    row = dict(model=model.name, weights=weights, kv=kv)
    for kind in read:
        relative, half = change(read[kind], base[kind])
        row[kind] = dict(perplexity=perplexity(read[kind]), change=relative, half_width=half, same_best=agreement(read[kind], base[kind]))
    for task in TASKS if cells else []:
        of_task = [c for c in cells if c["task"] == task]
        row.setdefault("accuracy", {})[task] = sum(c["accuracy"] for c in of_task) / len(of_task)
    row["cells"] = cells
    row["is_base"] = (weights, kv) == BASE
    return row


def measure_model(model, args, formats, rows):
    """Appends the model's rows to `rows`, BASE first."""
    texts, base = model.prepare(args), None
    for weights, kv in sorted(formats, key=lambda f: f != BASE):
        progress(f"{model.name}, weights {weights}, KV {kv}")
        try:
            read, cells = model.measure(args, texts, weights, kv)
        except daemon.Refused as refused:
            progress(f"  left out: {refused}")
            if base is None:
                return  # the other formats cannot be compared
            continue
        base = base or read
        rows.append(row_of(model, weights, kv, read, cells, base))
        progress("  " + line_of(rows[-1]))


def percent(value, digits=1):
    return f"{100 * value:.{digits}f}"


def line_of(row):
    fields = [row["model"], row["weights"], row["kv"]]
    for kind in ("texts", "answers"):
        if kind not in row:
            fields += ["-", "-"]
            continue
        of = row[kind]
        fields += [f"{of['perplexity']:.4f}", "-" if row["is_base"] else f"{100 * of['change']:+.2f} ± {100 * of['half_width']:.2f}"]
    fields.append(percent(row["texts"]["same_best"]))
    fields += [percent(row["accuracy"][task]) if "accuracy" in row else "-" for task in TASKS]
    return "| " + " | ".join(fields) + " |"


def print_head(names):
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))


def print_table(rows):
    print_head(["model", "weights", "KV", "perplexity", "change, %", "of answers", "change, %", "same best token, %"] + [f"{task}, %" for task in TASKS])
    for row in rows:
        print(line_of(row))


def make_twin(python, folder, out):
    """Makes the outlier twin of a model and returns whether that succeeded."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "outlier_twin.py")
    done = subprocess.run([python, script, folder, out], capture_output=True, text=True)
    if done.returncode != 0:
        progress(f"no twin of {folder}: {done.stderr.strip().splitlines()[-1]}")
    return done.returncode == 0


def find_models(args, work):
    wanted = args.models.split(",") if args.models else None

    def is_wanted(name):
        return wanted is None or name in wanted
    found = []
    for name in ("tessera-base", "tessera-nano"):
        folder, twin = os.path.join(daemon.ROOT, "deploy", "models", name), os.path.join(work, name + "-twin")
        if is_wanted(name):
            found.append(Model(name, folder, True))
        if is_wanted(name + "-twin") and make_twin(args.python, folder, twin):
            found.append(Model(name + "-twin", twin, True))
    for name in sorted(os.listdir(STORIES)) if os.path.isdir(STORIES) else []:
        if name.startswith("stories") and is_wanted(name):
            found.append(Model(name, os.path.join(STORIES, name), False))
    return found


def eval_sources():
    """Returns the essays, the verse and the conversations of ../shared/data/eval."""
    essays = []
    folder = os.path.join(EVAL, "needle", "PaulGrahamEssays")
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            essays.append(file.read())
    with open(os.path.join(EVAL, "tinyshakespeare", "input.txt"), encoding="utf-8") as file:
        verse = file.read()
    with open(os.path.join(EVAL, "locomo", "locomo10.json"), encoding="utf-8") as file:
        talks = [entry["conversation"] for entry in json.load(file)]
    return essays, verse, talks


def dialogue_of(session):
    return "\n".join(f"{turn['speaker']}: {turn['text']}" for turn in session)


def eval_texts():
    """Returns essays, verse and dialogues, in turns, as strings of enough characters for REAL_TOKENS tokens."""
    characters = 8 * REAL_TOKENS
    essays, verse, talks = eval_sources()
    prose = [essay[200:200 + characters] for essay in essays]
    verses = [verse[begin:begin + characters] for begin in range(0, len(verse), 50000)]
    dialogues = [dialogue_of(talk[f"session_{i}"])[:characters] for i in (1, 2) for talk in talks]
    return [text for texts in zip(prose, verses, dialogues) for text in texts]


def calibration_text():
    """Returns a text for `tessera quantize` of the same kinds as eval_texts(), but of other places."""
    characters = 8 * REAL_TOKENS
    essays, verse, talks = eval_sources()
    parts = [essay[200 + characters:200 + 3 * characters] for essay in essays]
    parts += [verse[begin:begin + 2 * characters] for begin in range(25000, len(verse), 50000)]
    parts += [dialogue_of(talk[f"session_{i}"]) for talk in talks for i in (3, 4, 5, 6)]
    return "\n\n".join(parts)


def write_real_texts(folder, work):
    """Writes the texts as token ids for tessera_quality_bench and as text for llama-perplexity, and returns the two paths."""
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    texts = [tokenizer.encode(text).ids[:REAL_TOKENS] for text in eval_texts()[:REAL_TEXTS]]
    paths = os.path.join(work, "texts.jsonl"), os.path.join(work, "texts.txt")
    with open(paths[0], "w", encoding="utf-8") as ids, open(paths[1], "w", encoding="utf-8") as plain:
        for text in texts:
            ids.write(json.dumps(text) + "\n")
            plain.write(tokenizer.decode(text) + "\n\n")
    return paths


def output_of(command, stderr=None):
    """Returns what a program prints. A program that fails ends this script."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    except FileNotFoundError:
        sys.exit(f"there is no {command[0]}; build it first")
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-2000:]}\n{command[0]} failed")
    return done.stdout


def measure_real(args, folder, tokens):
    """Returns tessera_quality_bench's rows of a model."""
    program = os.path.join(os.path.dirname(os.path.abspath(args.tesserad)), "tessera_quality_bench")
    command = [program, "--model", folder, "--tokens", tokens, "--formats", args.formats or ",".join(REAL_FORMATS), *args.flags]
    return [json.loads(line) for line in output_of(command).splitlines()]


def parse_llama(text):
    """Reads the statistics that llama-perplexity --kl-divergence prints. Its intervals are one standard error wide."""
    def number(label):
        found = re.search(rf"^{re.escape(label)}\s*:\s*([-\d.]+)(?:\s*±\s*([\d.]+))?", text, re.MULTILINE)
        if not found:
            sys.exit(f"llama-perplexity printed no line '{label}'; use a newer llama.cpp:\n{text[-2000:]}")
        return float(found[1]), 1.96 * float(found[2] or 0)
    change, half = number("Mean ln(PPL(Q)/PPL(base))")
    row = dict(perplexity=number("Mean PPL(Q)")[0], change_percent=100 * math.expm1(change), change_percent_half_width=100 * math.exp(change) * half)
    row["kl"], row["kl_half_width"] = number("Mean    KLD")
    row["kl_p99"] = number("99.0%   KLD")[0]
    row["same_best_percent"], row["same_best_percent_half_width"] = number("Same top p")
    return row


def header_bytes(path):
    """Returns the size of a GGUF file without its tensors."""
    import gguf
    return os.path.getsize(path) - sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors)


def measure_llama(args, folder, texts, work):
    """Yields the rows of llama.cpp's formats."""
    places = os.pathsep.join(os.path.join(args.llama, *below) for below in ([], ["bin"], ["build", "bin"]))
    perplexity_program, quantize = shutil.which("llama-perplexity", path=places), shutil.which("llama-quantize", path=places)
    if not perplexity_program or not quantize:
        progress(f"llama.cpp is left out: {args.llama} has no llama-perplexity or no llama-quantize")
        return
    exact, base = os.path.join(work, "exact.gguf"), os.path.join(work, "base.kld")

    def run(*command):
        return output_of(command, subprocess.STDOUT)
    ready = os.path.normpath(folder) + "-f32.gguf"
    if os.path.exists(ready):
        exact = ready
    else:
        run(args.python, os.path.join(args.llama, "convert_hf_to_gguf.py"), folder, "--outtype", "f32", "--outfile", exact)
    measure = [perplexity_program, "-c", "512", "--kl-divergence-base", base, *args.flags]
    run(*measure, "-m", exact, "-f", texts)
    header = header_bytes(exact)  # the package gguf cannot read all formats of ik_llama.cpp
    for name in args.llama_formats.split(","):
        progress(f"llama.cpp {name}")
        path = os.path.join(work, name + ".gguf")
        run(quantize, exact, path, name)
        measured = parse_llama(run(*measure, "-m", path, "--kl-divergence"))
        yield dict(format="llama.cpp " + name, kv="float16", weight_bytes=os.path.getsize(path) - header, **measured)
        os.remove(path)


def measure_openvino(args, folder, tokens, work):
    """Returns the rows of OpenVINO's formats."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "openvino_formats.py")
    command = [args.openvino, script, folder, tokens, args.openvino_work or work, args.openvino_formats]
    return [json.loads(line) for line in output_of(command).splitlines()]


def measure_real_models(args, rows, save):
    for folder in args.real.split(","):
        name = os.path.basename(os.path.normpath(folder))
        progress(name)
        with tempfile.TemporaryDirectory() as work:
            tokens, texts = write_real_texts(folder, work)
            rows += [dict(model=name, **row) for row in measure_real(args, folder, tokens)]
            for row in measure_llama(args, folder, texts, work) if args.llama else ():
                rows.append(dict(model=name, **row))
                save()
            if args.openvino:
                rows += [dict(model=name, **row) for row in measure_openvino(args, folder, tokens, work)]
                save()


def print_real_table(rows):
    print_head(["model", "weights", "activations", "KV", "MB", "KV bytes a token", "perplexity", "change, %", "KL", "99 % of KL below", "same best token, %"])
    for row in rows:
        def with_interval(key, digits, sign=""):
            return f"{row[key]:{sign}.{digits}f} ± {row[key + '_half_width']:.{digits}f}"
        fields = [row["model"], row.get("weights", row["format"]), row.get("activations", "-"), row["kv"], f"{row['weight_bytes'] / 1e6:.1f}", str(row.get("kv_bytes_per_token", "-")),
                  f"{row['perplexity']:.4f}", with_interval("change_percent", 2, "+"), with_interval("kl", 5), f"{row['kl_p99']:.4f}", with_interval("same_best_percent", 2)]
        print("| " + " | ".join(fields) + " |")


def measure_lab_models(args, rows, save):
    only = [tuple(f.split("/")) for f in args.formats.split(",")] if args.formats else FORMATS
    with tempfile.TemporaryDirectory() as work:
        for model in find_models(args, work):
            measure_model(model, args, [f for f in FORMATS if f in only or f == BASE], rows)
            save()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tesserad")
    parser.add_argument("--python", default=sys.executable, help="one that has torch, for the twins and for --llama")
    parser.add_argument("--real", default="", help="measure the language models of these folders")
    parser.add_argument("--llama", default="", help="with --real: measure llama.cpp's formats too")
    parser.add_argument("--llama-formats", default=",".join(LLAMA_FORMATS), help="with --llama: these, by commas")
    parser.add_argument("--openvino", default="", metavar="PYTHON", help="with --real: measure OpenVINO's formats too; PYTHON has optimum-intel and openvino")
    parser.add_argument("--openvino-formats", default=",".join(OPENVINO_FORMATS), help="with --openvino: these, by commas")
    parser.add_argument("--openvino-work", default="", metavar="DIR", help="with --openvino: keep the exports there")
    parser.add_argument("--models", default="", help="only these")
    parser.add_argument("--formats", default="", help="only these and the base, by commas: weights/KV, with --real weights:activations:KV")
    parser.add_argument("--texts", type=int, default=100, help="texts of each kind")
    parser.add_argument("--per-cell", type=int, default=20, help="questions of a task at a difficulty")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", help="no figure depends on it")
    parser.add_argument("--json")
    args = parser.parse_args()
    args.flags = ["--threads", args.threads] if args.threads else []
    rows = []

    def save():
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(dict(seed=args.seed, texts=args.texts, per_cell=args.per_cell, rows=rows), file, indent=1)
    if args.real:
        measure_real_models(args, rows, save)
    else:
        measure_lab_models(args, rows, save)
    save()
    (print_real_table if args.real else print_table)(rows)


if __name__ == "__main__":
    main()

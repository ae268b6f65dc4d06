#!/usr/bin/env python3
"""Compares tesserad's reader with the tools that quantise checkpoints.

    checkpoints.py QUALITY_BENCH FOLDER WORK [--llmcompressor PYTHON] [--gptqmodel PYTHON] [--autoround PYTHON]
                   [--only NAME,..] [--threads N] [--json FILE]

Each tool makes checkpoints of FOLDER, an unquantised model in Hugging Face layout (../shared/tools/real_models.py makes one), and
computes the logits of texts; tessera_quality_bench (QUALITY_BENCH) reads the checkpoint and compares its own logits with the tool's.
The checkpoints and the tools' logits stay in WORK, and what is there is not made again. A PYTHON has the tool of its option, torch
and transformers; a tool without a PYTHON is left out. This script itself needs the package tokenizers.

The tools read few calibration texts, because the table judges readers and not checkpoints. What a tool computes:
- llm-compressor: the forward of transformers in float32 with compressed-tensors, which dequantises the weights and rounds
  activations to int8 where the checkpoint says so. compressed-tensors divides the largest activation of a token by 127.5 to get the
  scale, and clips it; vLLM's kernels, and ours, divide by 127. So there is a second forward with vLLM's scale;
- GPTQModel: its own forward with the kernels of its PyTorch backend in float32;
- AutoRound: the forward of transformers with AutoRound's linears in float32.

What is not quantised is float32 here, and so is the KV cache. Each checkpoint runs with its own activations and with both others:
the checkpoint is read as it says if its own are the nearest. The texts are those of quality.py.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

NUM_TEXTS, TEXT_TOKENS = 6, 160
CALIBRATION_TEXTS, CALIBRATION_TOKENS = 4, 128
ACTIVATIONS = ("auto", "bfloat16", "int8")
VLLM = ".vllm.logits"


def ints(num_bits, group_size=None, **more):
    """Arguments of compressed-tensors' QuantizationArgs for weights."""
    strategy = "group" if group_size else "channel"
    return {"num_bits": num_bits, "type": "int", "symmetric": True, "strategy": strategy, "group_size": group_size, **more}


W8 = {"weights": ints(8), "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}}
# name: (tool, what it is asked for)
RECIPES = {
    "ct-w4a16": ("llmcompressor", {"groups": {"Linear": {"weights": ints(4, 64)}}}),
    "ct-w4a16-asym": ("llmcompressor", {"groups": {"Linear": {"weights": ints(4, 64, symmetric=False)}}}),
    "ct-w4a16-gptq": ("llmcompressor", {"gptq": True, "groups": {"Linear": {"weights": ints(4, 64, actorder="weight")}}}),
    "ct-w8a16": ("llmcompressor", {"groups": {"Linear": {"weights": ints(8)}}}),
    "ct-w8a8": ("llmcompressor", {"groups": {"Linear": W8}}),
    "ct-mixed": ("llmcompressor", {"groups": {"re:.*mlp.*": {"weights": ints(4, 64)}, "re:.*self_attn.*": W8}}),
    "ct-some-layers": ("llmcompressor", {"groups": {"Linear": W8}, "ignore": ["re:.*layers\\.[0-4]\\..*"]}),
    "gptq": ("gptqmodel", {"bits": 4, "group_size": 128, "desc_act": False}),
    "gptq-desc-act": ("gptqmodel", {"bits": 4, "group_size": 128, "desc_act": True}),
    "gptq-8": ("gptqmodel", {"bits": 8, "group_size": 64, "desc_act": False}),
    "autoround-gptq": ("autoround", {"format": "auto_gptq", "sym": True, "group_size": 64}),
    "autoround-awq": ("autoround", {"format": "auto_awq", "sym": False, "group_size": 64}),
    "autoround-ct": ("autoround", {"format": "llm_compressor", "sym": True, "group_size": 64}),
}


def rounds_activations(recipe):
    return any("input_activations" in scheme for scheme in recipe.get("groups", {}).values())


# The following functions run in a tool's PYTHON.


def load(folder, dtype):
    import transformers
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def save_logits(out, model, texts, suffix=".logits"):
    """Writes the raw float32 logits of all places but the last of each text."""
    import torch
    with open(out + ".part", "wb") as file, torch.no_grad():
        for ids in texts:
            file.write(model(input_ids=torch.tensor([ids])).logits[0, :-1].float().contiguous().numpy().tobytes())
    os.rename(out + ".part", out + suffix)


def take_vllms_scale():
    """Changes the scale of activations in the forward of compressed-tensors."""
    from compressed_tensors.quantization.utils import helpers
    library = helpers.calculate_qparams

    def calculate(low, high, args, **more):
        scales, zeros = library(low, high, args, **more)
        return scales * (127.5 / 127), zeros
    helpers.calculate_qparams = calculate


def make_with_llmcompressor(folder, out, recipe, texts, calibration):
    import torch
    import transformers
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    if not os.path.exists(os.path.join(out, "config.json")):
        model = load(folder, torch.bfloat16)
        groups = {f"group_{i}": {"targets": [target], **scheme} for i, (target, scheme) in enumerate(recipe["groups"].items())}
        modifier = GPTQModifier if recipe.get("gptq") else QuantizationModifier
        options = {}
        if recipe.get("gptq"):
            import datasets
            rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration]
            options = dict(dataset=datasets.Dataset.from_list(rows), num_calibration_samples=len(rows), max_seq_length=CALIBRATION_TOKENS)
        oneshot(model=model, recipe=modifier(config_groups=groups, ignore=["lm_head", *recipe.get("ignore", [])]), **options)
        model.save_pretrained(out, save_compressed=True)
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    model = load(out, torch.float32)
    if not os.path.exists(out + ".logits"):
        save_logits(out, model, texts)
    if rounds_activations(recipe):
        take_vllms_scale()
        save_logits(out, model, texts, VLLM)


def make_with_gptqmodel(folder, out, recipe, texts, calibration):
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its default on 2 cores is 1, with which it fails
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    if not os.path.exists(os.path.join(out, "config.json")):
        model = GPTQModel.load(folder, QuantizeConfig(**recipe))
        model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration], batch_size=1)
        model.save(out)
    model = GPTQModel.load(out, backend=BACKEND.TORCH, device="cpu", dtype=torch.float32)
    save_logits(out, model, texts)


def make_with_autoround(folder, out, recipe, texts, calibration):
    import auto_round
    import torch
    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if not os.path.exists(os.path.join(out, "config.json")):
        rounding = auto_round.AutoRound(load(folder, torch.bfloat16), tokenizer, bits=4, group_size=recipe["group_size"], sym=recipe["sym"],
                                        iters=0, disable_opt_rtn=True, device_map="cpu",  # rounds to nearest, without texts
                                        dataset=torch.utils.data.DataLoader(list(map(torch.tensor, calibration))))
        rounding.quantize_and_save(out, format=recipe["format"])
    save_logits(out, load(out, torch.float32), texts)


MAKERS = {"llmcompressor": make_with_llmcompressor, "gptqmodel": make_with_gptqmodel, "autoround": make_with_autoround}


# The following functions run in this script's own Python.


def weight_bytes(folder):
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder) if name.endswith(".safetensors"))


def texts_of(folder):
    """Returns the texts and the calibration texts as token ids."""
    import quality
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    ids = [tokenizer.encode(text).ids for text in quality.eval_texts()[:NUM_TEXTS + CALIBRATION_TEXTS]]
    return [text[:TEXT_TOKENS] for text in ids[:NUM_TEXTS]], [text[:CALIBRATION_TOKENS] for text in ids[NUM_TEXTS:]]


def make(args, name):
    """Makes a checkpoint and the tool's logits if they are not there, and returns whether they are."""
    tool, recipe = RECIPES[name]
    out = os.path.join(args.work, name)
    if os.path.exists(out + (VLLM if rounds_activations(recipe) else ".logits")):
        return True
    texts = os.path.join(args.work, "texts.json")
    command = [getattr(args, tool), os.path.abspath(__file__), "--make", tool, args.folder, out, json.dumps(recipe), texts]
    with open(out + ".log", "w", encoding="utf-8") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=args.work).returncode == 0


def measure(args, name, tokens):
    """Returns the rows of a checkpoint: its size, and for each format of activations the line of tessera_quality_bench."""
    out = os.path.join(args.work, name)
    if not make(args, name):
        return [dict(name=name, error=f"not made, see {out}.log")]
    formats = ",".join(f"float32:{activations}:float32" for activations in ACTIVATIONS)
    rows = []
    for suffix in [".logits", VLLM][:1 + rounds_activations(RECIPES[name][1])]:
        command = [args.bench, "--model", out, "--tokens", tokens, "--base-logits", out + suffix, "--formats", formats, *args.flags]
        done = subprocess.run(command, capture_output=True, text=True)
        row = dict(name=name + (", vLLM's scale" if suffix == VLLM else ""), bytes=weight_bytes(out))
        if done.returncode != 0:
            return [dict(row, error=done.stderr.strip().splitlines()[-1])]
        rows.append(dict(row, **dict(zip(ACTIVATIONS, map(json.loads, done.stdout.splitlines())))))
    return rows


def line_of(row):
    if "error" in row:
        return f"| {row['name']} | {row['error']} |"
    own = row["auto"]
    fields = [row["name"], f"{row['bytes'] / 1e6:.1f}", f"{own['weights']}, {own['activations']}",
              f"{own['kl']:.6f} ± {own['kl_half_width']:.6f}",
              f"{own['kl_p99']:.5f}", f"{own['change_percent']:+.3f}", f"{own['same_best_percent']:.2f}"]
    return "| " + " | ".join(fields + [f"{row[other]['kl']:.6f}" for other in ACTIVATIONS[1:]]) + " |"


def main():
    if sys.argv[1:2] == ["--make"]:
        tool, folder, out, recipe, path = sys.argv[2:]
        with open(path, encoding="utf-8") as file:
            texts, calibration = json.load(file)
        MAKERS[tool](folder, out, json.loads(recipe), texts, calibration)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench")
    parser.add_argument("folder")
    parser.add_argument("work")
    for tool in MAKERS:
        parser.add_argument("--" + tool, help=f"a Python that has {tool}")
    parser.add_argument("--only", default="", help="only these checkpoints, by commas: " + ", ".join(RECIPES))
    parser.add_argument("--threads", help="no figure depends on it")
    parser.add_argument("--json")
    args = parser.parse_args()
    args.flags = ["--threads", args.threads] if args.threads else []
    args.folder, args.work = os.path.abspath(args.folder), os.path.abspath(args.work)
    os.makedirs(args.work, exist_ok=True)
    texts, calibration = texts_of(args.folder)
    with open(os.path.join(args.work, "texts.json"), "w", encoding="utf-8") as file:
        json.dump([texts, calibration], file)
    rows = []
    names = ["checkpoint", "MB", "weights and activations", "KL", "99 % of KL below", "perplexity, %", "same best token, %",
             "KL with bfloat16 activations", "KL with int8 activations"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as tokens:
        tokens.write("".join(json.dumps(text) + "\n" for text in texts))
        tokens.flush()
        for name in args.only.split(",") if args.only else RECIPES:
            if getattr(args, RECIPES[name][0]):
                of_checkpoint = measure(args, name, tokens.name)
                rows += of_checkpoint
                print("\n".join(map(line_of, of_checkpoint)), flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()

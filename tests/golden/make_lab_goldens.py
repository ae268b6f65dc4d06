#!/usr/bin/env python3
"""Writes lab_models.json and lab_adapters.json: results of the Hugging Face libraries on the models and adapters of deploy/models.

lab_models.json has, for each model and prompt, the ids of `tokenizers`, the greedy continuation of `transformers` (float32 arithmetic on the stored bf16 weights),
and the smallest difference between the best and the second best logit of a step. An implementation whose logits err by less than half of that difference gives the
same continuation. lab_adapters.json has the same for each adapter and prompt, by `peft`, and the largest logits of the first new token.
The script also checks the laboratory's own forward pass against transformers.

    pip install torch transformers tokenizers peft
    python tests/golden/make_lab_goldens.py
"""
import json
import os
import pathlib
import random
import sys

import peft
import tokenizers
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lab"))
import domains  # noqa: E402
import llama  # noqa: E402
import tasks  # noqa: E402

MODELS = ["tessera-nano", "tessera-base"]
NUM_TOKENS, ADAPTER_TOKENS, MIN_GAP, TOP = 24, 8, 0.005, 4
PROSE = ["Once upon a time", "In a quiet forest", "Zoë was a brave owl who lived above a small café", "It was a cold night. The wind"]


def chat(sample):
    return tasks.render(sample.messages) + "<|im_start|>assistant\n"


def model_prompts():
    yield from PROSE
    for task in tasks.TASKS:
        yield chat(tasks.make_sample(task, random.Random(f"golden {task}"), difficulty=2, context_tokens=160))


def greedy(model, ids, num_tokens):
    """Returns the ids of the greedy continuation, the smallest difference between the two best logits of a step, and the logits of the first step. Does not stop at
    an end-of-sequence id."""
    model.generation_config.eos_token_id = None
    made = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=num_tokens, output_logits=True, return_dict_in_generate=True)
    best = [step[0].topk(2).values for step in made.logits]
    return made.sequences[0, len(ids):].tolist(), min((a - b).item() for a, b in best), made.logits[0][0]


def check_own_forward(folder, model, ids):
    c, weights = llama.read_model(folder)
    with torch.no_grad():
        error = (model(torch.tensor([ids])).logits - llama.logits_of(weights, llama.hidden_states(c, weights, torch.tensor([ids])))).abs().max().item()
    assert error < 1e-3, error
    print(f"{folder.name}: the laboratory's own logits are within {error:.1e}")


def write(name, parts):
    made_by = f"{pathlib.Path(__file__).name}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, peft {peft.__version__}, torch {torch.__version__}"
    lines = ",\n  ".join(json.dumps(part, ensure_ascii=False) for part in parts)
    pathlib.Path(__file__).with_name(name).write_text(f'{{"made_by": "{made_by}",\n "cases": [\n  {lines}\n ]}}\n', encoding="utf-8")
    print(f"{name}: {len(parts)} cases")


def main():
    torch.manual_seed(0)
    cases, adapter_cases = [], []
    for name in MODELS:
        folder = ROOT / "deploy/models" / name
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        check_own_forward(folder, model, tokenizer.encode(" ".join(PROSE)).ids)
        for prompt in model_prompts():
            ids = tokenizer.encode(prompt).ids
            made, gap, _ = greedy(model, ids, NUM_TOKENS)
            text = tokenizer.decode(made, skip_special_tokens=False)
            print(f"{name}  gap {gap:.3f}  {prompt[-40:]!r} -> {text!r}")
            if gap < MIN_GAP:
                print("  left out: a near-tie")
                continue
            cases.append(dict(model=name, prompt=prompt, ids=ids, greedy=made, text=text, min_gap=round(gap, 4)))
        for adapter in sorted(p.parent.name for p in folder.glob("adapters/*/adapter_config.json")):
            tuned = peft.PeftModel.from_pretrained(model, os.path.join(folder, "adapters", adapter)).eval()
            for i in range(2):
                prompt = chat(domains.make_sample(adapter, random.Random(f"golden {adapter} {i}"), difficulty=3))
                ids = tokenizer.encode(prompt).ids
                made, gap, logits = greedy(tuned, ids, ADAPTER_TOKENS)
                print(f"{name} + {adapter}  gap {gap:.3f}")
                if gap < MIN_GAP:
                    print("  left out: a near-tie")
                    continue
                adapter_cases.append(dict(model=name, adapter=adapter, prompt=prompt, ids=ids, greedy=made, text=tokenizer.decode(made, skip_special_tokens=False),
                                          min_gap=round(gap, 4), top=[[i, round(logits[i].item(), 5)] for i in logits.topk(TOP).indices.tolist()]))
            model = tuned.unload()
    write("lab_models.json", cases)
    write("lab_adapters.json", adapter_cases)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes first_model.json: what the Hugging Face libraries say about deploy/models/tessera-first.

Per prompt: the ids by `tokenizers`, the 40 ids that greedy decoding by `transformers` goes on with
(float32 arithmetic on the stored bf16 weights) and the smallest distance between the best and the
second best logit on the way: an implementation that errs by less than half of it must agree.
On the way it checks the training script's own tokenizer and forward pass against the two libraries.

    pip install torch transformers tokenizers
    python tests/golden/make_first_model_goldens.py
"""
import json
import pathlib
import random
import sys

import tokenizers
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/models/tessera-first"
sys.path.insert(0, str(ROOT / "tests/lab"))
import story_grammar  # noqa: E402
import train_first_model  # noqa: E402

NUM_TOKENS, MIN_GAP = 40, 0.02
PROMPTS = [
    "Once upon a time",
    "In a quiet forest",
    "Zoë was a brave owl who lived above a small café",
    "There was once a curious dragon, and her name was Mirabel. She",
    "\"Have you seen my lamp?\" asked Tom.",
    "It was a cold night. The wind",
    "Tom had a small lamp. It",
    "<|im_start|>user\nPlease tell me a little story about a bear named Bruno.<|im_end|>\n"
    "<|im_start|>assistant\n",
]


def check_training_script(tokenizer, model):
    """The two implementations that made the model and those that judge it are the same function."""
    merges = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    own = train_first_model.Tokenizer(merge.split(" ") for merge in merges)
    documents = [story_grammar.make_document(random.Random(f"golden {i}")) for i in range(500)]
    for text in [*documents, "Héllo  wörld 123's\n\n\n日本🌙 don't x_y <|im_end|>  "]:
        ids = tokenizer.encode(text).ids
        assert own.encode(text) == ids and own.decode(ids) == text, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == text, text
    weights = {name: w for name, w in model.state_dict().items() if name != "lm_head.weight"}
    ids = torch.tensor([sum((own.encode(text) for text in documents[:8]), [])[:1000]])
    with torch.no_grad():
        error = model(ids).logits - train_first_model.forward(torch, weights, ids)
    error = error.abs().max().item()
    assert error < 1e-3, error
    print(f"training script: {len(documents)} documents' ids equal, logits within {error:.1e}")


def main():
    torch.manual_seed(0)
    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    check_training_script(tokenizer, model)
    stops, cases = set(model.generation_config.eos_token_id), []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        made = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=NUM_TOKENS,
                              output_logits=True, return_dict_in_generate=True)
        greedy = made.sequences[0, len(ids):].tolist()
        best = [step[0].topk(2).values for step in made.logits]
        gap = min((first - second).item() for first, second in best)
        text = tokenizer.decode(greedy, skip_special_tokens=False)
        print(f"gap {gap:.3f}  {prompt!r} -> {text!r}")
        assert len(greedy) == NUM_TOKENS and not stops & set(greedy), "the answer is too short"
        assert gap > MIN_GAP, "a near-tie: choose another prompt"
        cases.append(dict(prompt=prompt, ids=ids, greedy=greedy, text=text, min_gap=round(gap, 4)))
    lines = ",\n  ".join(json.dumps(case, ensure_ascii=False) for case in cases)
    made_by = f"make_first_model_goldens.py, transformers {transformers.__version__}, " \
              f"tokenizers {tokenizers.__version__}, torch {torch.__version__}"
    text = f'{{"model": "deploy/models/tessera-first",\n "made_by": "{made_by}",\n' \
           f' "cases": [\n  {lines}\n ]}}\n'
    pathlib.Path(__file__).with_name("first_model.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Generates tests/server/tokenizer_llama.json: the ids that transformers' LlamaTokenizer (the Python one, which runs
SentencePiece) gives to texts, for models with `tokenizer.model` and `added_tokens.json`, with both values of `legacy`.
Run in a virtual environment with transformers 4.46.3, sentencepiece 0.2.0 and protobuf 5, from the project root:

    python tests/server/tokenizer_llama.py > tests/server/tokenizer_llama.json
"""
import json
import os
import shutil
import tempfile

import transformers

SHARED = "../shared/data/"
MODELS = ["tokenizers/tinyllama", "models/stories260K"]
TEXTS = ["", " ", "   ", "Once upon", " leading", "  two", "a  b ", "\n", "\tx", "▁Once", "a▁▁b", "<s>", "</s><s>Once",
         "<s> Once", " <s>Once", "Once</s> upon", "Once </s>  upon ", "<|im_start|>user", "Once<|im_start|> Once",
         "<x>Once", "<x> Once", " <x>", "Once <x> b<x>", "<x><s>Once", "<unk>x", "<|im_start|><x>  a"]


def main():
    rows = []
    texts = TEXTS + [text for text in json.load(open(SHARED + "tokenizers/goldens.json"))["texts"] if len(text) < 60][::8]
    for model in MODELS:
        for legacy in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                shutil.copy(SHARED + model + "/tokenizer.model", folder)
                size = transformers.LlamaTokenizer(folder + "/tokenizer.model", legacy=True).vocab_size
                added = {"<|im_start|>": size, "<x>": size + 1}
                config = {"legacy": legacy, "tokenizer_class": "LlamaTokenizer",
                          "additional_special_tokens": ["<|im_start|>"]}
                json.dump(added, open(os.path.join(folder, "added_tokens.json"), "w"))
                json.dump(config, open(os.path.join(folder, "tokenizer_config.json"), "w"))
                tokenizer = transformers.LlamaTokenizer.from_pretrained(folder)
                ids = [tokenizer(text).input_ids for text in texts]
            rows.append(json.dumps({"model": model, "added_tokens": added, "config": config, "ids": ids},
                                   separators=(",", ":")))
    print('{"texts": %s,\n"rows": [\n%s]}' % (json.dumps(texts), ",\n".join(rows)))


main()

#!/usr/bin/env python3
"""Runs Hugging Face's peft with adapter switching and answers `decode STREAMS CONTEXT TOKENS ADAPTERS` with one JSON line each.

    peft_worker.py MODEL_DIR THREADS ADAPTER_DIR...      needs torch, transformers and peft

Requests run one after the other, so that adapters are switched once for each request and not for each token. That is the fastest
way of switching. The prompts are computed in the first round.
"""
import sys
import time

import torch
import worker
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache


class Peft:
    def __init__(self, folder, threads, adapters):
        torch.set_num_threads(threads)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.vocab = base.config.vocab_size
        self.model = PeftModel.from_pretrained(base, adapters[0], adapter_name="0")
        for i, path in enumerate(adapters[1:], 1):
            self.model.load_adapter(path, adapter_name=str(i))
        self.model.eval()
        self.prompts = {}  # (stream, context, adapter): KV cache of the prompt

    def step(self, tokens, cache):
        self.model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)

    def decode(self, streams, context, num_tokens, adapters):
        seconds = 0.0
        for stream in range(streams):
            adapter = stream % adapters
            key = (stream, context, adapter)
            if key not in self.prompts:
                self.model.set_adapter(str(adapter))
                self.prompts[key] = DynamicCache()
                self.step(worker.random_prompt(self.vocab, context), self.prompts[key])
            cache = self.prompts[key]
            begin = time.perf_counter()
            self.model.set_adapter(str(adapter))
            for token in worker.random_prompt(self.vocab, num_tokens):
                self.step([token], cache)
            seconds += time.perf_counter() - begin
            cache.crop(context)
        return streams * num_tokens, seconds


def main():
    def load():
        peft = Peft(sys.argv[1], int(sys.argv[2]), sys.argv[3:])

        def run(verb, numbers):
            if verb != "decode":
                sys.exit(f"cannot do {verb}")
            with torch.inference_mode():
                return peft.decode(*numbers)

        return {"torch": torch.__version__}, run

    worker.answer_lines(load)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Runs llama.cpp in this process and answers the cases `prefill` and `decode` with one JSON line each.

    llama_worker.py MODEL.gguf THREADS [ADAPTER.gguf...]

Needs llama-cpp-python; LLAMA_CPP_LIB_PATH names the folder of its libraries. Tokens are random and nothing is sampled, so the
peer does less work than a server would. `decode` may end with a number of adapters. A context has one set of adapters for all
its sequences, so requests with different adapters run one after the other.
"""
import ctypes
import sys
import time

import llama_cpp as lc
import worker

CHUNK = 512  # largest number of tokens in a call


class Llama:
    def __init__(self, path, threads, adapters):
        lc.llama_backend_init()
        self.quiet = lc.llama_log_callback(lambda level, text, data: None)
        lc.llama_log_set(self.quiet, ctypes.c_void_p(0))
        self.model = lc.llama_model_load_from_file(path.encode(), lc.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp could not load {path}")
        self.vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self.model))
        self.threads = threads
        self.batch = lc.llama_batch_init(CHUNK, 0, 1)
        self.filled = {}  # (streams, context): a llama.cpp context whose prompts are computed
        self.adapters = [lc.llama_adapter_lora_init(self.model, path.encode()) for path in adapters]
        if not all(self.adapters):
            raise SystemExit("llama.cpp could not load an adapter")

    def context(self, streams, length):
        params = lc.llama_context_default_params()
        params.n_ctx = streams * length
        params.n_batch = params.n_ubatch = CHUNK
        params.n_seq_max = streams
        params.n_threads = params.n_threads_batch = self.threads
        made = lc.llama_init_from_model(self.model, params)
        if not made:
            raise SystemExit("llama.cpp could not make a context")
        return made

    def decode(self, ctx, rows):
        """Runs a batch of rows (token, position, sequence, whether logits are needed)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits
        if lc.llama_decode(ctx, batch) != 0:
            raise SystemExit("llama_decode failed")
        lc.llama_synchronize(ctx)

    def fill(self, ctx, sequence, length):
        prompt = worker.random_prompt(self.vocab, length)
        for begin in range(0, length, CHUNK):
            end = min(length, begin + CHUNK)
            self.decode(ctx, [(prompt[p], p, sequence, p == length - 1) for p in range(begin, end)])

    def prefill(self, num_tokens):
        ctx = self.context(1, num_tokens)
        begin = time.perf_counter()
        self.fill(ctx, 0, num_tokens)
        seconds = time.perf_counter() - begin
        lc.llama_free(ctx)
        return num_tokens, seconds

    def generate(self, streams, length, num_tokens):
        """Measures decode. The prompts are computed once; each call removes the tokens that it has added."""
        if (streams, length) not in self.filled:
            self.filled[streams, length] = self.context(streams, length + 64)
            for sequence in range(streams):
                self.fill(self.filled[streams, length], sequence, length)
        ctx = self.filled[streams, length]
        begin = time.perf_counter()
        for position in range(length, length + num_tokens):
            tokens = worker.random_prompt(self.vocab, streams)
            self.decode(ctx, [(tokens[s], position, s, True) for s in range(streams)])
        seconds = time.perf_counter() - begin
        for sequence in range(streams):
            lc.llama_memory_seq_rm(lc.llama_get_memory(ctx), sequence, length, -1)
        return streams * num_tokens, seconds

    def switch(self, ctx, number):
        adapters = (lc.llama_adapter_lora_p_ctypes * 1)(self.adapters[number])
        if lc.llama_set_adapters_lora(ctx, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
            raise SystemExit("llama.cpp could not set an adapter")

    def generate_each(self, streams, length, num_tokens, num_adapters):
        if (1, length) not in self.filled:
            self.generate(1, length, 1)
        ctx = self.filled[1, length]
        begin = time.perf_counter()
        for stream in range(streams):
            self.switch(ctx, stream % num_adapters)
            self.generate(1, length, num_tokens)
        return streams * num_tokens, time.perf_counter() - begin

    def run(self, verb, numbers):
        if verb == "prefill":
            return self.prefill(*numbers)
        return self.generate(*numbers) if len(numbers) == 3 else self.generate_each(*numbers)


def main():
    def load():
        llama = Llama(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
        return {"version": lc.__version__}, llama.run

    worker.answer_lines(load)


if __name__ == "__main__":
    main()

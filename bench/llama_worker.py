#!/usr/bin/env python3
"""llama.cpp as a speed peer: answers the cases of tessera_engine_bench, one JSON line each.

    llama_worker.py MODEL.gguf THREADS      needs llama-cpp-python from PyPI

Tokens are random and nothing is sampled, so the peer does no less work than a real server would, and no more.
"""
import ctypes
import json
import random
import sys
import time

import llama_cpp as lc



def context(model, streams, length, threads):
    params = lc.llama_context_default_params()
    params.n_ctx = streams * (length + 64)
    params.n_batch = 512
    params.n_ubatch = 512
    params.n_seq_max = streams
    params.n_threads = threads
    params.n_threads_batch = threads
    made = lc.llama_init_from_model(model, params) if hasattr(lc, "llama_init_from_model") else \
        lc.llama_new_context_with_model(model, params)
    if not made:
        raise SystemExit("llama.cpp could not make a context")
    return made


def decode(ctx, batch, rows):
    """rows: (token, position, sequence, wants logits)"""
    batch.n_tokens = len(rows)
    for i, (token, pos, seq, logits) in enumerate(rows):
        batch.token[i] = token
        batch.pos[i] = pos
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = seq
        batch.logits[i] = logits
    if lc.llama_decode(ctx, batch) != 0:
        raise SystemExit("llama_decode failed")
    lc.llama_synchronize(ctx)


def prefill(ctx, batch, vocab, seq, length):
    for begin in range(0, length, 512):
        end = min(length, begin + 512)
        decode(ctx, batch, [(random.randrange(vocab), p, seq, p == length - 1) for p in range(begin, end)])


def run(model, vocab, threads, words):
    streams, length, steps = (1, words[0], 0) if len(words) == 1 else words
    ctx = context(model, streams, length + steps, threads)
    batch = lc.llama_batch_init(512, 0, 1)
    if steps == 0:
        begin = time.perf_counter()
        prefill(ctx, batch, vocab, 0, length)
        tokens = length
    else:
        for seq in range(streams):
            prefill(ctx, batch, vocab, seq, length)
        begin = time.perf_counter()
        for step in range(steps):
            decode(ctx, batch, [(random.randrange(vocab), length + step, seq, True) for seq in range(streams)])
        tokens = streams * steps
    seconds = time.perf_counter() - begin
    lc.llama_batch_free(batch)
    lc.llama_free(ctx)
    return tokens, seconds


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    lc.llama_backend_init()
    quiet = lc.llama_log_callback(lambda level, text, data: None)
    lc.llama_log_set(quiet, ctypes.c_void_p(0))
    params = lc.llama_model_default_params()
    load = lc.llama_model_load_from_file if hasattr(lc, "llama_model_load_from_file") else lc.llama_load_model_from_file
    model = load(path.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp could not load {path}")
    vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
    print(json.dumps({"ready": True, "version": lc.__version__}), flush=True)
    for line in sys.stdin:
        words = line.split()
        tokens, seconds = run(model, vocab, threads, [int(w) for w in words[1:]])
        print(json.dumps({"case": line.strip(), "tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds}), flush=True)


if __name__ == "__main__":
    main()

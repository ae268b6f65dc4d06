#!/usr/bin/env python3
"""Runs OpenVINO GenAI's continuous batching pipeline in this process and answers all cases with one JSON line each.

    openvino_worker.py MODEL_DIR THREADS      needs openvino-genai
"""
import json
import os
import sys
import time

import numpy as np
import openvino
import openvino_genai as genai
import worker

STEP_TOKENS = 512
CACHE_GIB = 2
MAX_STREAMS = 64


def take_tokens(handle):
    """Returns the number of tokens since the last call. One read gives the tokens of one step."""
    num_tokens = 0
    while handle.can_read():
        num_tokens += sum(len(output.generated_ids) for output in handle.read().values())
    return num_tokens


class OpenVino:
    def __init__(self, folder, threads):
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.max_num_seqs = MAX_STREAMS
        scheduler.cache_size = CACHE_GIB
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = True  # for the repeated prompts of `decode`; those of `prefill` and `serve` are new
        self.pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.vocab = json.load(f)["vocab_size"]
        self.next_id = 0

    def submit(self, num_input, num_output, seed=None):
        """Submits a request and returns its handle. The caller must keep the handle, because the pipeline drops a request without one."""
        config = genai.GenerationConfig()
        config.max_new_tokens = num_output
        config.ignore_eos = True
        config.do_sample = False
        prompt = np.array([worker.random_prompt(self.vocab, num_input, seed)], dtype=np.int64)
        self.next_id += 1
        return self.pipeline.add_request(self.next_id, openvino.Tensor(prompt), config)

    def drain(self):
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()

    def prefill(self, num_tokens):
        handle = self.submit(num_tokens, 1)
        begin = time.perf_counter()
        self.drain()
        seconds = time.perf_counter() - begin
        worker.all_of(take_tokens(handle), 1)
        return num_tokens, seconds

    def generate(self, streams, length, num_tokens):
        """Measures decode. No stream ends within the measured steps; the first streams decode while the last ones prefill."""
        slack = streams * (length // STEP_TOKENS + 2)
        handles = [self.submit(length, slack + num_tokens, seed) for seed in range(streams)]
        while not all(handle.can_read() for handle in handles):
            self.pipeline.step()
        for handle in handles:
            take_tokens(handle)
        begin = time.perf_counter()
        for _ in range(num_tokens):
            self.pipeline.step()
        seconds = time.perf_counter() - begin
        received = worker.all_of(sum(map(take_tokens, handles)), streams * num_tokens)
        for handle in handles:
            handle.cancel()
        self.drain()
        return received, seconds

    def serve(self, clients, requests, num_input, num_output):
        begin = time.perf_counter()
        active = [self.submit(num_input, num_output) for _ in range(clients)]
        num_sent, received = clients, 0
        while active:
            self.pipeline.step()
            received += sum(map(take_tokens, active))
            still = [handle for handle in active if handle.get_status() == genai.GenerationStatus.RUNNING]
            num_new = min(len(active) - len(still), requests - num_sent)
            active = still + [self.submit(num_input, num_output) for _ in range(num_new)]
            num_sent += num_new
        seconds = time.perf_counter() - begin
        return worker.all_of(received, requests * num_output), seconds

    def run(self, verb, numbers):
        return {"prefill": self.prefill, "decode": self.generate, "serve": self.serve}[verb](*numbers)


def main():
    def load():
        return {"version": genai.__version__}, OpenVino(sys.argv[1], int(sys.argv[2])).run

    worker.answer_lines(load)


if __name__ == "__main__":
    main()

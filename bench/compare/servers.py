"""Starts a server and runs a closed loop against it for each line `serve CLIENTS REQUESTS INPUT OUTPUT`.

    servers.py tessera TESSERAD TESSERA_BENCH MODEL_DIR DTYPE THREADS      over gRPC, by tessera-bench
    servers.py llama LLAMA_SERVER MODEL.gguf VOCABULARY CLIENTS THREADS    over HTTP, streaming

The speed is the number of all output tokens over the time from the first send to the end of the last answer.
"""
import concurrent.futures
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import worker

START_SECONDS = 300
CLIENT_TOKENS = 256  # upper bound of the tokens of a client's prompt and answer


class Tessera:
    def __init__(self, tesserad, bench, model, dtype, threads):
        self.bench = bench
        self.process = subprocess.Popen(
            [tesserad, "--model", f"model={model}", "--dtype", dtype, "--threads", threads, "--kv-cache-bytes", "2GiB",
             "--max-model-len", "8192", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-level",
             "error"], stdout=subprocess.PIPE, text=True)
        ready = re.match(r"tesserad ready grpc=(\S+)", self.process.stdout.readline())
        if not ready:
            sys.exit(1)  # it has said why
        self.address = ready.group(1)

    def serve(self, clients, requests, num_input, num_output):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            subprocess.run([self.bench, "--server", self.address, "--concurrency", str(clients), "--num-requests",
                            str(requests), "--input-tokens", str(num_input), "--output-tokens", str(num_output), "--warmup",
                            "0", "--seed", str(time.monotonic_ns() % 2**32), "--quiet", "--json", file.name],
                           check=True, stdout=sys.stderr)
            report = json.load(file)
        received = round(report["output_token_throughput"] * report["duration_s"])
        return worker.all_of(received, requests * num_output), report["duration_s"]


class LlamaServer:
    def __init__(self, program, model, vocabulary, clients, threads):
        self.vocab = int(vocabulary)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [program, "--model", model, "--host", "127.0.0.1", "--port", str(self.port), "--threads", threads,
             "--threads-batch", threads, "--parallel", clients, "--ctx-size", str(int(clients) * CLIENT_TOKENS)],
            stdout=sys.stderr)
        deadline = time.monotonic() + START_SECONDS
        while not self.is_healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(1)  # it has said why
            time.sleep(0.2)

    def is_healthy(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def ask(self, num_input, num_output):
        """Reads a streamed answer and returns its number of tokens."""
        body = {"prompt": worker.random_prompt(self.vocab, num_input), "n_predict": num_output, "ignore_eos": True,
                "stream": True, "cache_prompt": False, "temperature": 0}
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        last = b""
        for line in answer:
            last = line if line.startswith(b"data: ") else last
        connection.close()
        return json.loads(last[len(b"data: "):])["tokens_predicted"]

    def serve(self, clients, requests, num_input, num_output):
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            tokens = sum(pool.map(lambda _: self.ask(num_input, num_output), range(requests)))
        seconds = time.perf_counter() - begin
        return worker.all_of(tokens, requests * num_output), seconds


def main():
    def load():
        server = {"tessera": Tessera, "llama": LlamaServer}[sys.argv[1]](*sys.argv[2:])
        servers.append(server)
        return {"pid": server.process.pid}, lambda verb, numbers: server.serve(*numbers)

    servers = []
    try:
        worker.answer_lines(load)
    finally:
        for server in servers:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(timeout=60)


if __name__ == "__main__":
    main()

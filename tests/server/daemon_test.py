#!/usr/bin/python3
"""Tests of the two programs from the command line: flags, exit statuses, messages, signals.

    daemon_test.py TESSERAD TESSERA     runs on the model that ships in deploy/models
"""
import contextlib
import json
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "deploy", "models", "tessera-nano")
DAEMON = CLIENT = None  # paths of the programs


class Daemon:
    """A running tesserad. The end of a `with` block ends it by SIGTERM."""

    def __init__(self, *flags, prefix=()):
        self.process = subprocess.Popen(
            [*prefix, DAEMON, "--model", f"first={MODEL}", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
             "--threads", "1", "--kv-cache-bytes", "32MiB", "--log-level", "warn", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.ready = self.process.stdout.readline()
        match = re.fullmatch(r"tesserad ready grpc=(\S+) metrics=(\S+)\n", self.ready)
        assert match, (self.ready, self.process.stderr.read())
        self.address = match.group(1)
        self.metrics_address = match.group(2)

    def client(self, *words, **options):
        return subprocess.run([CLIENT, "--server", self.address, *words], capture_output=True, text=True, timeout=120,
                              **options)

    def start_client(self, *words):
        return subprocess.Popen([CLIENT, "--server", self.address, *words], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def end(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


LONG = ("generate", "--ignore-eos", "--max-tokens", "900", "--n", "128", "--json", "Once")  # seconds on any machine


def daemon(*flags):
    done = subprocess.run([DAEMON, *flags], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


class DescriptorsTest(unittest.TestCase):
    """More clients than descriptors: the port still answers, then and afterwards."""

    def status(self, server, path):
        with urllib.request.urlopen(f"http://{server.metrics_address}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()

    @contextlib.contextmanager
    def many_connections(self, server):
        host_and_port = ("127.0.0.1", int(server.address.rsplit(":", 1)[1]))
        with contextlib.ExitStack() as clients:
            for _ in range(80):
                clients.enter_context(socket.create_connection(host_and_port, timeout=60))
            yield

    def test_few_descriptors(self):
        with Daemon(prefix=("/bin/sh", "-c", 'ulimit -n 64; exec "$@"', "sh")) as server:
            with self.many_connections(server):
                self.assertEqual(server.client("health").stdout, "SERVING\n")
                self.assertEqual(self.status(server, "/readyz")[0], 200)
            self.assertEqual(server.client("health").stdout, "SERVING\n")
            self.assertEqual(server.client("generate", "--max-tokens", "2", "Once").returncode, 0)
            metrics = self.status(server, "/metrics")[1]
            refused = sum(int(n) for n in re.findall(
                r'^tessera_connections_(?:refused|closed)_total\{reason=".*"\} (\d+)$', metrics, re.M))
            self.assertGreaterEqual(refused, 40)
            server.process.send_signal(signal.SIGTERM)
            self.assertRegex(server.process.stderr.read(), r"(refused|closed) 1 connections, the last from 127.0.0.1:")

    def test_the_soft_limit_is_raised(self):
        with Daemon(prefix=("/bin/sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh")) as server:
            with self.many_connections(server):
                self.assertEqual(server.client("health").stdout, "SERVING\n")
                self.assertNotRegex(self.status(server, "/metrics")[1],
                                    r'tessera_connections_(refused|closed)_total\{reason="[^"]*"\} [1-9]')

    def test_no_descriptors_for_connections(self):
        done = subprocess.run(
            ["/bin/sh", "-c", 'ulimit -n 24; exec "$@"', "sh", DAEMON, "--model", MODEL, "--listen", "127.0.0.1:0",
             "--metrics-listen", "127.0.0.1:0", "--kv-cache-bytes", "32MiB", "--threads", "1"],
            capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("raise ulimit -n", done.stderr)


class DaemonTest(unittest.TestCase):
    def expect_refused(self, part, *flags):
        code, out, err = daemon(*flags)
        self.assertEqual(code, 2, err)
        self.assertEqual(out, "")
        lines = [line for line in err.splitlines() if line.startswith("tesserad: ")]
        self.assertEqual(len(lines), 1, err)
        self.assertIn(part, lines[0])

    def wait_for(self, what, condition, seconds=120):
        end = time.time() + seconds
        while not condition():
            self.assertLess(time.time(), end, f"waited in vain for {what}")
            time.sleep(0.01)

    def test_version_and_help(self):
        self.assertEqual(daemon("--version")[0], 0)
        code, out, _ = daemon("--help")
        self.assertEqual(code, 0)
        for flag in ("--model", "--config", "--set", "--listen", "--metrics-listen", "--device", "--threads", "--dtype",
                     "--activations", "--kv-cache-dtype", "--kv-cache-bytes", "--max-num-seqs", "--max-num-batched-tokens",
                     "--max-model-len", "--max-queue", "--log-level", "--drain-seconds", "--check"):
            self.assertIn(flag, out)

    def test_wrong_configuration(self):
        self.expect_refused("give --model", )
        self.expect_refused("nearest known flag is --model", "--modle", MODEL)
        self.expect_refused("/no/such", "--model", "/no/such")
        self.expect_refused("later release", "--model", MODEL, "--device", "cuda")
        self.expect_refused("give one of auto", "--model", MODEL, "--dtype", "int3")
        self.expect_refused("give one of auto", "--model", MODEL, "--kv-cache-dtype", "int4")
        self.expect_refused("whole number", "--model", MODEL, "--max-num-seqs", "many")
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "c.yaml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"models:\n  - path: {MODEL}\nengine:\n  max_num_seq: 3\n")
            self.expect_refused(f"{path}:4: unknown key 'engine.max_num_seq'; the nearest known key is "
                                "'engine.max_num_seqs'", "--config", path)

    def test_yaml_with_a_tab(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            file.write("models:\n  - path: /m\nengine:\n\tmax_num_seqs: 3\n")
            file.flush()
            self.expect_refused(f"{file.name}:4: the line is indented with a tab", "--config", file.name)

    def test_config_is_a_folder(self):
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "tessera.yaml"), "w", encoding="utf-8") as file:
                file.write("engine: {max_num_seqs: 3}\n")
            self.expect_refused(f"{directory}: is a folder; give a YAML file, e.g. one of the folder's: tessera.yaml",
                                "--config", directory, "--model", MODEL)

    def test_given_values_are_kept_or_refused(self):
        for action in ("--check", "--listen=127.0.0.1:0"):
            given = (action, "--model", MODEL, "--metrics-listen", "127.0.0.1:0", "--log-level", "error")
            self.expect_refused("--max-model-len is 100000, but the context of model tessera-nano is ", *given,
                                "--max-model-len", "100000")
            self.expect_refused("--kv-cache-bytes 65536 holds ", *given, "--max-model-len", "1024", "--kv-cache-bytes",
                                "64KiB")
            self.expect_refused("engine.threads is 4, but engine.device ref", *given, "--device", "ref", "--threads", "4")

    def test_check_finds_adapters_that_cannot_be_registered(self):
        self.expect_refused("/nope", "--check", "--model", MODEL, "--adapters", "/nope", "--log-level", "error")

    def test_ipv6(self):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            self.skipTest("this machine has no IPv6")
        server = Daemon("--listen", "[::1]:0", "--metrics-listen", "[::1]:0")
        self.assertRegex(server.ready, r"grpc=\[::1\]:\d+ metrics=\[::1\]:\d+\n")
        self.assertEqual(server.client("health").stdout, "SERVING\n")
        self.assertEqual(server.end(), 0)

    def limited(self, limit):
        """Runs --check in a process for which limit() has set limits."""
        return subprocess.run([DAEMON, "--check", "--model", MODEL, "--threads", "1", "--kv-cache-bytes", "32MiB"],
                              capture_output=True, text=True, timeout=120, preexec_fn=limit, check=False)

    def test_address_space_limit(self):
        for mebibytes in (200, 400, 550):
            done = self.limited(lambda: resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20)))
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertRegex(done.stderr, r"(?m)^tesserad: not enough memory: .*ulimit -v", f"with {mebibytes} MiB")

    def test_thread_limit(self):
        def few_threads():
            if os.getuid() == 0:
                os.setuid(65534)  # a limit of threads does not bind root
            resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
        try:
            done = self.limited(few_threads)
        except PermissionError:
            self.skipTest("other users cannot run the program in this folder")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, r"(?m)^tesserad: .*ulimit -u")

    def test_wrong_models(self):
        with tempfile.TemporaryDirectory() as directory:
            self.expect_refused("config.json", "--model", directory)
            with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
                json.dump({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, file)
            self.expect_refused("amba", "--model", directory)

    def test_not_enough_memory(self):
        self.expect_refused("memory", "--model", MODEL, "--kv-cache-bytes", "900TiB")

    def test_check(self):
        code, out, _ = daemon("--check", "--model", MODEL, "--log-level", "error")
        self.assertEqual(code, 0)
        self.assertIn("kv-cache-bytes", out)
        self.assertIn("activations bfloat16, KV bfloat16", out)
        code, out, _ = daemon("--check", "--model", MODEL, "--kv-cache-dtype", "int8", "--log-level", "error")
        self.assertEqual(code, 0)
        self.assertIn("KV int8", out)
        self.assertIn("max-model-len", out)
        self.assertEqual(daemon("--check", "--model", "/no/such")[0], 2)

    def test_quantized_weights(self):
        for dtype, activations in (("int8", "int8"), ("int5", "int8"), ("int4", "int8"), ("int4", "bfloat16")):
            server = Daemon("--dtype", dtype, "--activations", activations)
            done = server.client("generate", "--ignore-eos", "--max-tokens", "20", "--temperature", "0", "Once upon a time")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(" ", done.stdout.strip())
            self.assertIn(f"{dtype} weights, {activations} activations", server.client("models").stdout)
            self.assertEqual(server.end(), 0)

    def test_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as busy:
            address = f"127.0.0.1:{busy.getsockname()[1]}"
            self.expect_refused("Address already in use", "--model", MODEL, "--listen", address, "--metrics-listen",
                                "127.0.0.1:0", "--log-level", "error")
            self.expect_refused("Address already in use", "--model", MODEL, "--listen", "127.0.0.1:0",
                                "--metrics-listen", address, "--log-level", "error")

    def test_signals_when_idle(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.assertEqual(Daemon().end(number), 0)

    def start_with_term_pending(self, *flags):
        """Starts tesserad with a pending SIGTERM. (A signal mask and the signals that it blocks survive exec.)"""
        def send():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            os.kill(os.getpid(), signal.SIGTERM)
        return subprocess.run([DAEMON, "--model", MODEL, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
                               *flags], capture_output=True, text=True, timeout=120, preexec_fn=send, check=False)

    def test_signal_while_loading(self):
        done = self.start_with_term_pending()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, "")  # there is no ready line
        self.assertIn("ended while loading", done.stderr)

    def test_signal_ends_check(self):
        self.assertEqual(self.start_with_term_pending("--check").returncode, -signal.SIGTERM)

    def test_term_lets_running_calls_finish(self):
        server = Daemon()
        running = server.start_client("--json", "generate", "--ignore-eos", "--max-tokens", "300", "Once")
        self.assertIn("accepted", running.stdout.readline())
        server.process.send_signal(signal.SIGTERM)
        answers = []

        def is_refused():
            answers.append(server.client("generate", "--max-tokens", "1", "late"))
            return answers[-1].returncode != 0

        self.wait_for("a refusal", is_refused)
        self.assertIn("UNAVAILABLE", answers[-1].stderr)
        out, _ = running.communicate(timeout=60)
        self.assertEqual(running.returncode, 0)
        self.assertIn("FINISH_REASON_LENGTH", out.splitlines()[-1])
        self.assertEqual(server.end(), 0)

    def test_second_signal_cancels_what_is_left(self):
        server = Daemon()
        running = server.start_client(*LONG)
        self.assertIn("accepted", running.stdout.readline())
        server.process.send_signal(signal.SIGTERM)
        # Two signals that are pending at once are one, so the second waits for the effect of the first.
        self.wait_for("the drain", lambda: server.client("health").returncode != 0)
        server.process.send_signal(signal.SIGTERM)
        out, _ = running.communicate(timeout=60)
        self.assertEqual(running.returncode, 0)
        self.assertIn("FINISH_REASON_CANCELLED", out.splitlines()[-1])
        self.assertEqual(server.process.wait(timeout=60), 0)
        server.end()

    def test_drain_seconds_bound_the_wait(self):
        server = Daemon("--drain-seconds", "0")
        running = server.start_client(*LONG)
        self.assertIn("accepted", running.stdout.readline())
        begin = time.time()
        self.assertEqual(server.end(), 0)
        self.assertLess(time.time() - begin, 20)
        out, _ = running.communicate(timeout=60)
        self.assertIn("FINISH_REASON_CANCELLED", out.splitlines()[-1])

    def test_drain_with_exit_and_wait(self):
        # The daemon ends with its last call, between two polls of the client.
        server = Daemon()
        running = server.start_client("--json", "generate", "--ignore-eos", "--max-tokens", "300", "--n", "8", "Once")
        self.assertIn("accepted", running.stdout.readline())
        done = server.client("drain", "--exit", "--wait")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        out, _ = running.communicate(timeout=60)
        self.assertEqual(running.returncode, 0)
        self.assertIn("FINISH_REASON_LENGTH", out.splitlines()[-1])
        self.assertEqual(server.process.wait(timeout=60), 0)
        server.end()

    def test_calls_are_logged(self):
        server = Daemon("--log-level", "info")
        server.client("generate", "--max-tokens", "3", "--ignore-eos", "Once")
        server.client("generate", "--model", "missing", "hi")
        server.client("drain", "--exit")
        self.assertEqual(server.process.wait(timeout=60), 0)
        log = server.process.stderr.read()
        self.assertRegex(log, r' I call Generate request_id="req-[0-9a-f]+" model="first" n=1 prompt_tokens=[1-9]\d* '
                              r"cached_tokens=0 completion_tokens=3 queue_ms=[0-9.]+ prefill_ms=[0-9.]+ "
                              r"decode_ms=[0-9.]+ ttft_ms=[0-9.]+ total_ms=[0-9.]+ code=OK finish=length\n")
        self.assertRegex(log, r" I call Generate request_id=\S+ total_ms=\S+ code=NOT_FOUND reason=MODEL_NOT_FOUND ")
        self.assertRegex(log, r' I control Drain peer=\S+ object="exit" code=OK\n')
        server.end()

    def test_early_abort_refuses_under_load(self):
        with Daemon("--queue-policy", "early_abort", "--early-abort-ms", "501", "--max-num-seqs", "1") as server:
            self.assertEqual(server.client("generate", "--max-tokens", "4", "Once").returncode, 0)
            running = server.start_client(*LONG)
            self.assertIn("accepted", running.stdout.readline())
            refused = []

            def is_refused():
                refused.append(server.client("generate", "--max-tokens", "1", "Once"))
                return refused[-1].returncode != 0

            self.wait_for("a refusal", is_refused)
            done = refused[-1]
            self.assertIn("RESOURCE_EXHAUSTED", done.stderr)
            self.assertIn("--early-abort-ms", done.stderr)
            running.terminate()
            running.communicate(timeout=60)

    def test_drain_with_exit(self):
        server = Daemon()
        done = server.client("drain", "--exit")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("draining", done.stdout)
        self.assertEqual(server.process.wait(timeout=60), 0)
        server.end()


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Daemon()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.end() == 0

    def run_client(self, *words, code=0, **options):
        done = self.server.client(*words, **options)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def test_text_that_is_no_utf8(self):
        done = self.run_client("generate", b"\xff", code=1)
        self.assertIn("text", done.stderr)
        self.assertNotIn("libprotobuf", done.stderr)

    def test_generate(self):
        greedy = ("--temperature", "0", "--max-tokens", "12", "--ignore-eos")
        done = self.run_client("generate", *greedy, "Once upon a time")
        self.assertGreater(len(done.stdout.strip()), 10)
        self.assertRegex(done.stderr, r"\[\d+ prompt tokens \(\d+ cached\), 12 generated, length; .* tokens/s\]")
        quiet = self.run_client("generate", *greedy, "--quiet", "Once upon a time")
        self.assertEqual(quiet.stderr, "")
        self.assertEqual(quiet.stdout, done.stdout)
        piped = self.run_client("generate", *greedy, input="Once upon a time")
        self.assertEqual(piped.stdout, done.stdout)
        ids = self.run_client("tokenize", "Once upon a time").stdout.strip().replace(" ", ",")
        self.assertEqual(self.run_client("generate", *greedy, "--token-ids", ids).stdout, done.stdout)
        echoed = self.run_client("generate", *greedy, "--echo", "Once upon a time")
        self.assertEqual(echoed.stdout, "Once upon a time" + done.stdout)
        several = self.run_client("generate", *greedy, "--n", "2", "Once upon a time")
        self.assertEqual(several.stdout, f"--- 0 ---\n{done.stdout}--- 1 ---\n{done.stdout}")

    def test_json(self):
        done = self.run_client("--json", "generate", "--max-tokens", "3", "--ignore-eos", "--logprobs", "2", "Once")
        messages = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertIn("accepted", messages[0])
        self.assertIn("finished", messages[-1])
        self.assertEqual(sum(len(m["output"]["token_ids"]) for m in messages if "output" in m), 3)

    def test_chat(self):
        self.run_client("chat", "--max-tokens", "5", "Hello")
        self.run_client("chat", "--max-tokens", "5", "--message", "user=Hi", "--message", "assistant=Yes?", "A story.")

    def test_small_commands(self):
        ids = self.run_client("tokenize", "Once upon").stdout
        self.assertEqual(self.run_client("detokenize", "--skip-special", ids.strip()).stdout.strip(), "Once upon")
        self.assertGreater(len(self.run_client("embed", "a", "b").stdout.splitlines()), 1)
        self.assertIn("first (default): llama", self.run_client("models").stdout)
        self.assertIn("running 0", self.run_client("load").stdout)
        self.assertEqual(self.run_client("health").stdout, "SERVING\n")
        self.assertEqual(self.run_client("health", "tessera.v1.Inference").stdout, "SERVING\n")
        self.run_client("health", "no.such.Service", code=1)
        self.assertIn("tessera.v1.SamplingParams.top_k", self.run_client("capabilities").stdout)
        self.assertEqual(json.loads(self.run_client("--json", "load").stdout)["running"], "0")
        self.assertIn("no such call", self.run_client("cancel", "nobody", code=1).stdout)

    def test_adapters(self):
        self.run_client("adapters", "register", os.path.join(MODEL, "adapters"))
        self.assertIn("keltish-2: model first, disk, rank 8", self.run_client("adapters", "list").stdout)
        self.run_client("adapters", "load", "keltish-2")
        self.assertIn("keltish-2: model first, pool, rank 8", self.run_client("adapters", "list").stdout)
        with open(os.path.join(ROOT, "tests", "golden", "lab_adapters.json")) as f:
            cases = [c for c in json.load(f)["cases"] if c["model"] == os.path.basename(MODEL)]
        for case in cases[:6]:
            answer = case["text"].split("<|")[0]
            words = ("generate", "--temperature", "0", "--max-tokens", str(len(case["greedy"])), case["prompt"])
            self.assertTrue(self.run_client(words[0], "--adapter", case["adapter"], *words[1:]).stdout.startswith(answer))
            self.assertTrue(self.run_client(words[0], "--model", case["adapter"], *words[1:]).stdout.startswith(answer))
            self.assertFalse(self.run_client(*words).stdout.startswith(answer))
        blend = ("--adapter", "zorvan-1=0.5", "--adapter", "zorvan-2=0.5")
        self.run_client("generate", *blend, "--max-tokens", "4", "Once")
        self.run_client("generate", *blend, "--blend-rank", "4", "--max-tokens", "4", "Once")
        recipe = "zorvan-1*0.5+zorvan-2*0.5"
        listed = self.run_client("adapters", "list").stdout
        self.assertIn(f"{recipe}: model first, pool", listed)
        self.assertIn(f"{recipe}:r4: model first, pool, rank 4,", listed)
        self.run_client("adapters", "unload", recipe)
        self.assertNotIn(f"{recipe}: ", self.run_client("adapters", "list").stdout)
        self.assertIn("blend_rank", self.run_client("generate", "--blend-rank", "4", "Once", code=1).stderr)
        self.run_client("adapters", "pin", "zorvan-1")
        self.assertIn("zorvan-1: model first, pool, pinned", self.run_client("adapters", "list").stdout)
        done = self.run_client("adapters", "unload", "zorvan-1", code=1)
        self.assertIn("FAILED_PRECONDITION: adapter zorvan-1 is pinned", done.stderr)
        self.run_client("adapters", "unload", "--unpin", "zorvan-1")
        self.run_client("adapters", "unload", "keltish-2")
        self.assertIn("keltish-2: model first, disk", self.run_client("adapters", "list").stdout)
        done = self.run_client("generate", "--adapter", "nobody", "hi", code=1)
        self.assertIn('NOT_FOUND: no adapter is called "nobody"', done.stderr)
        self.assertIn("NOT_FOUND", self.run_client("adapters", "load", "nobody", code=1).stderr)
        self.run_client("adapters", "register", "x", "/nowhere", code=1)
        relative = self.run_client("adapters", "register", "no/such/folder", code=1)
        self.assertIn("a relative path starts in the server's working directory", relative.stderr)
        self.run_client("adapters", "unregister", "keltish-2")
        self.assertNotIn("keltish-2", self.run_client("adapters", "list").stdout)
        self.run_client("generate", "--adapter", "keltish-2", "hi", code=1)
        self.run_client("adapters", "unregister", "keltish-2", code=1)

    def test_errors(self):
        done = self.run_client("generate", "--model", "missing", "hi", code=1)
        self.assertIn("NOT_FOUND: model 'missing' is not served here; served: first", done.stderr)
        self.assertIn("reason: MODEL_NOT_FOUND", done.stderr)
        for words in (("nonsense",), ("generate", "--bad"), ("generate", "--top-k", "x", "hi"), ("generate", "--stop"),
                      ("generate", "--priority", "urgent", "hi"), ("chat", "--message", "hi"), ("adapters",),
                      ("--timeout", "never", "health"), ()):
            done = self.run_client(*words, code=2)
        done = subprocess.run([CLIENT, "--server", "127.0.0.1:1", "health"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("UNAVAILABLE: cannot connect to 127.0.0.1:1: Connection refused", done.stderr)
        self.assertIn("is tesserad running at 127.0.0.1:1?", done.stderr)
        done = subprocess.run([CLIENT, "--server", "no-such-host.invalid:1", "health"], capture_output=True, text=True,
                              timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("the host name 'no-such-host.invalid' is not known", done.stderr)
        self.assertNotIn("ARES", done.stderr)

    def test_misspelt_words(self):
        self.assertIn("the nearest command is generate", self.run_client("genrate", code=2).stderr)
        self.assertIn("the nearest known flag is --max-tokens", self.run_client("generate", "--max-token", code=2).stderr)

    def test_what_would_be_ignored_is_refused(self):
        for words in (("generate", "--token-ids", "1,2", "text"), ("generate", "--logprobs", "2", "text"),
                      ("chat", "--prompt-logprobs", "2", "text"), ("generate", "--stop-ids", "1,,2", "text"),
                      ("generate", "--stop-ids", "1,", "text"), ("--json", "generate", "--echo", "text"),
                      ("generate", "--prompt-file", "/dev/null", "text"), ("models", "first"),
                      ("load", "--interval-ms", "100"), ("tokenize", "--chat", "--no-special", "text")):
            done = self.run_client(*words, code=2)
            self.assertTrue(done.stderr.startswith("tessera: "), done.stderr)

    def test_standard_input(self):
        ids = self.run_client("tokenize", "Once upon").stdout
        for given in ("Once upon", "Once upon\n", "Once upon\r\n"):
            self.assertEqual(self.run_client("tokenize", input=given).stdout, ids)
            self.assertEqual(self.run_client("tokenize", "-", input=given).stdout, ids)
        self.assertNotEqual(self.run_client("tokenize", input="Once upon\n\n").stdout, ids)
        for words in (("generate",), ("generate", "-"), ("chat",), ("embed",), ("tokenize",)):
            self.assertIn("there is no text on standard input", self.run_client(*words, input="\n", code=2).stderr)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write("Once upon\n")
            file.flush()
            greedy = ("--temperature", "0", "--max-tokens", "4", "--echo")
            self.assertTrue(self.run_client("generate", *greedy, "--prompt-file", file.name).stdout.startswith("Once upon"))
            self.assertEqual(self.run_client("generate", *greedy, "--prompt-file", file.name).stdout,
                             self.run_client("generate", *greedy, "Once upon").stdout)

    def test_conversation(self):
        """At a terminal, blank lines are no messages and Ctrl-D ends the conversation."""
        terminal, end = pty.openpty()
        with subprocess.Popen([CLIENT, "--server", self.server.address, "chat", "--max-tokens", "3", "--ignore-eos"],
                              stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            os.close(end)
            os.write(terminal, b"\n  \nHello\n\x04")
            _, err = running.communicate(timeout=60)
        os.close(terminal)
        self.assertEqual(running.returncode, 0)
        self.assertEqual(err.count(b"3 generated"), 1, err)

    def test_output_that_cannot_be_written(self):
        for words in (("generate", "--max-tokens", "3", "Once"), ("--json", "models"), ("models",), ("--help",),
                      ("--json", "generate", "--max-tokens", "3", "Once"), ("load", "--watch")):
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = subprocess.run([CLIENT, "--server", self.server.address, *words], stdout=full,
                                      stderr=subprocess.PIPE, text=True, timeout=60)
            self.assertEqual(done.returncode, 1, words)
            self.assertIn("cannot write to standard output: No space left on device", done.stderr)

    def test_a_proxy(self):
        proxy = {**os.environ, "http_proxy": "http://me:secret@127.0.0.1:1", "no_proxy": "", "no_grpc_proxy": ""}
        self.assertEqual(self.run_client("health", env=proxy).stdout, "SERVING\n")  # loopback uses no proxy
        server = ("--server", "other-host.invalid:50051")
        done = subprocess.run([CLIENT, *server, "health"], env=proxy, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("goes through the proxy 127.0.0.1:1 of $http_proxy", done.stderr)
        self.assertNotIn("secret", done.stderr)
        done = subprocess.run([CLIENT, *server, "health"], env={**proxy, "no_proxy": "a.b,.invalid"},
                              capture_output=True, text=True, timeout=60)
        self.assertIn("the host name 'other-host.invalid' is not known", done.stderr)

    def test_rate_of_one_token(self):
        done = self.run_client("generate", "--ignore-eos", "--max-tokens", "1", "Once")
        self.assertIn("1 generated", done.stderr)
        self.assertNotIn("tokens/s", done.stderr)

    def test_timeout(self):
        done = self.run_client("--timeout", "0.2", *LONG, code=1)
        self.assertIn("DEADLINE_EXCEEDED", done.stderr)

    def test_interrupt_cancels(self):
        running = self.server.start_client(*LONG)
        self.assertIn("accepted", running.stdout.readline())
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        self.assertEqual(running.returncode, 130)
        self.assertIn("cancelled", err)
        for _ in range(1000):
            load = json.loads(self.run_client("--json", "load").stdout)
            if load["running"] == "0" and load["waiting"] == "0" and load["kv_bytes"] == "0":
                return
            time.sleep(0.01)
        self.fail(f"still busy: {load}")

    def test_watch_ends_with_interrupt(self):
        running = self.server.start_client("load", "--watch", "--interval-ms", "100")
        for _ in range(3):
            self.assertIn("running", running.stdout.readline())
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
        self.assertEqual(running.returncode, 0)

    def test_help(self):
        self.assertIn("generate", self.run_client("--help").stdout)
        for command in ("generate", "chat", "embed", "tokenize", "models", "adapters", "load", "drain", "health"):
            self.assertIn(f"tessera {command}", self.run_client(command, "--help").stdout)
            self.assertEqual(self.run_client("help", command).stdout, self.run_client(command, "--help").stdout)
        self.assertEqual(self.run_client("version").stdout, self.run_client("--version").stdout)
        self.assertIn("the nearest command is chat", self.run_client("help", "chta", code=2).stderr)


if __name__ == "__main__":
    DAEMON, CLIENT = sys.argv.pop(1), sys.argv.pop(1)
    unittest.main(verbosity=2)

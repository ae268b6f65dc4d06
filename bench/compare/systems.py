"""The systems under test as processes: each loads once and then answers lines; all but the one that works are stopped."""
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys

from compare.workshop import ROOT, Unavailable, say

SYSTEMS = ("tessera", "llama.cpp", "openvino")
HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = {"bf16": "bfloat16", "int8": "int8", "int4": "int4"}
SERVERS = (sys.executable, os.path.join(HERE, "servers.py"))
LINE_SECONDS = 1800  # no load and no case takes longer, unless something hangs
CLOSE_SECONDS = 60


def log_end(path):
    """The last line that says something."""
    with open(path, encoding="utf-8", errors="replace") as f:
        lines = [line.strip() for line in f if line.strip()]
    return lines[-1][:200] if lines else "nothing on stderr"


class Worker:
    """A process of its own group, stopped (SIGSTOP) except while it loads or answers.

    The group stays in this session, so that the kernel ends its stopped processes should this one be killed.
    """

    def __init__(self, system, command, log):
        self.system = system
        self.command = command
        self.log = log
        self.process = None
        self.facts = {}  # what it said of itself when it had loaded

    def start(self):
        """Loads; says so on stderr. Raises Unavailable."""
        with open(self.log, "w", encoding="utf-8") as err:
            self.process = subprocess.Popen(self.command.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err,
                                            bufsize=0, cwd=ROOT, env=dict(os.environ, **self.command.environment),
                                            process_group=0)
        try:
            self.facts = self.read()
            say(f"{self.system}: {self.facts}")
            self.stop()
        except Unavailable:
            self.close()
            raise

    def signal(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass  # it has ended; who reads from it will say so

    def stop(self):
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def read(self):
        readable, _, _ = select.select([self.process.stdout], [], [], LINE_SECONDS)
        if not readable:
            raise Unavailable(f"no answer within {LINE_SECONDS} s")
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable("it ended: " + log_end(self.log))
        return json.loads(line)

    def run(self, line):
        """Tokens per second. Raises Unavailable; then only close() may follow."""
        return self.answer(line)["tokens_per_s"]

    def answer(self, line):
        """All that the worker says of it."""
        self.signal(signal.SIGCONT)
        try:
            self.process.stdin.write((line + "\n").encode())
        except BrokenPipeError as error:
            raise Unavailable("it ended: " + log_end(self.log)) from error
        answer = self.read()
        self.stop()
        return answer

    def close(self):
        """At the end of its input a worker ends itself and its server; one that hangs is killed with it."""
        if self.process is None:
            return
        self.process.stdin.close()
        self.signal(signal.SIGCONT)
        try:
            self.process.wait(timeout=CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.process = None


@dataclasses.dataclass(frozen=True)
class Command:
    words: list
    environment: dict = dataclasses.field(default_factory=dict)


class Systems:
    """How each system is started; makes what a peer needs when it is first asked for."""

    def __init__(self, workshop, build, threads):
        self.workshop = workshop
        self.build = build
        self.threads = str(threads)

    def command(self, system, shape, weights, clients):
        """`clients` of a served case, else 0: in process. Raises Unavailable. REQUIRES: workshop.model(shape)."""
        if system == "tessera":
            return self.tessera(shape, weights, clients)
        if system == "llama.cpp":
            return self.llama(shape, weights, clients)
        folder = self.workshop.openvino(shape, weights)
        return Command([self.workshop.python("venv-models"), os.path.join(HERE, "openvino_worker.py"), folder, self.threads])

    def program(self, name):
        return os.path.join(self.build, "bin", name)

    def tessera(self, shape, weights, clients):
        model, dtype = self.workshop.at("models", shape), DTYPES[weights]
        if clients:
            return Command([*SERVERS, "tessera", self.program("tesserad"), self.program("tessera-bench"), model, dtype,
                            self.threads])
        return Command([self.program("tessera_engine_bench"), "--model", model, "--dtype", dtype, "--threads", self.threads])

    def llama(self, shape, weights, clients):
        binaries = self.workshop.llama()
        gguf = self.workshop.gguf(shape, weights)
        if not clients:
            return Command([self.workshop.python("venv-llama"), os.path.join(HERE, "llama_worker.py"), gguf, self.threads],
                           {"LLAMA_CPP_LIB_PATH": binaries})
        with open(self.workshop.at("models", shape, "config.json"), encoding="utf-8") as f:
            vocabulary = json.load(f)["vocab_size"]
        return Command([*SERVERS, "llama", os.path.join(binaries, "llama-server"), gguf, str(vocabulary), str(clients),
                        self.threads])

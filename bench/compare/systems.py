"""The systems under test as processes. Each process loads a model once and then answers lines; all processes except the working one are stopped."""
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys

from compare.quality import WORSE
from compare.workshop import ROOT, Unavailable, say

SYSTEMS = ("tessera", "llama.cpp", "openvino", "ik")
HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = {"bf16": "bfloat16", "int8": "int8", "int5": "int5", "int4": "int4"}
OPENVINO_FORMATS = {"bf16": ["fp16"], "int8": ["int8"], "int5": [], "int4": ["int4"]}
# The number of the smallest formats of a peer that run for each of our formats.
SMALLEST = {"llama.cpp": 1, "ik": 2}
SERVERS = (sys.executable, os.path.join(HERE, "servers.py"))
LINE_SECONDS = 1800  # a load or a case that takes longer hangs
CLOSE_SECONDS = 60


def log_end(path):
    """Returns the last line of the file that is not blank."""
    with open(path, encoding="utf-8", errors="replace") as f:
        lines = [line.strip() for line in f if line.strip()]
    return lines[-1][:200] if lines else "nothing on stderr"


class Worker:
    """A process with its own process group, which is stopped (SIGSTOP) except while the process loads or answers.

    The group belongs to the session of this script, so that the operating system ends stopped processes if this script is killed.
    """

    def __init__(self, system, command, log):
        self.system = system
        self.command = command
        self.log = log
        self.process = None
        self.facts = {}  # the process's answer after its load

    def start(self):
        """Starts the process, waits for its load and prints its answer on stderr. Raises Unavailable."""
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
            pass  # the process has ended, which the next read reports

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
        """Runs a case and returns its tokens per second. Raises Unavailable; after that only close() may be called."""
        return self.answer(line)["tokens_per_s"]

    def answer(self, line):
        """Runs a case and returns the process's whole answer."""
        self.signal(signal.SIGCONT)
        try:
            self.process.stdin.write((line + "\n").encode())
        except BrokenPipeError as error:
            raise Unavailable("it ended: " + log_end(self.log)) from error
        answer = self.read()
        self.stop()
        return answer

    def close(self):
        """Closes the process's input, which ends the process and its server. A process that hangs is killed with its group."""
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


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A system with one of its formats."""

    system: str
    kind: str  # the system's own name of the format

    @property
    def name(self):
        return self.system if self.system == "tessera" else f"{self.system} {self.kind}"


class Systems:
    """Makes the command of each system and format, and prepares a peer at its first use."""

    def __init__(self, workshop, build, threads, qualities, ik=None, ik_formats=()):
        self.workshop = workshop
        self.build = build
        self.threads = str(threads)
        self.qualities = qualities
        self.ik_checkout = ik
        self.ik_formats = ik_formats  # if any, instead of the formats that follow from the qualities

    def entrants(self, system, weights):
        """Returns the entrants of a system that are compared with our `weights`. Raises Unavailable if there are none."""
        if system == "tessera":
            kinds = [weights]
        elif system == "openvino":
            kinds = OPENVINO_FORMATS[weights]
        elif system == "ik" and self.ik_formats:
            kinds = [kind for kind in self.ik_formats if self.qualities.verdict(f"ik {kind}", weights) != WORSE]
        else:
            kinds = self.qualities.candidates(system, weights, SMALLEST[system])
        if not kinds:
            raise Unavailable(f"it has no format of which quality.json says that it is at least as good as our {weights}")
        return [Entrant(system, kind) for kind in kinds]

    def command(self, entrant, shape, weights, clients):
        """Returns the command of an entrant. `clients` is the number of clients of a served case, and 0 for other cases. Raises Unavailable.
        REQUIRES: workshop.model(shape)."""
        if entrant.system == "tessera":
            return self.tessera(shape, weights, clients)
        if entrant.system == "llama.cpp":
            return self.llama(shape, entrant.kind, clients)
        if entrant.system == "ik":
            return self.ik(shape, entrant.kind, clients)
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

    def llama(self, shape, kind, clients):
        binaries = self.workshop.llama()
        gguf = self.workshop.gguf(shape, kind, "llama.cpp", os.path.join(binaries, "llama-quantize"))
        if not clients:
            return Command([self.workshop.python("venv-llama"), os.path.join(HERE, "llama_worker.py"), gguf, self.threads],
                           {"LLAMA_CPP_LIB_PATH": binaries})
        with open(self.workshop.at("models", shape, "config.json"), encoding="utf-8") as f:
            vocabulary = json.load(f)["vocab_size"]
        return Command([*SERVERS, "llama", os.path.join(binaries, "llama-server"), gguf, str(vocabulary), str(clients),
                        self.threads])

    def ik(self, shape, kind, clients):
        if clients:
            raise Unavailable("served cases of ik_llama.cpp are not measured")
        worker = self.workshop.ik(self.ik_checkout)
        gguf = self.workshop.gguf(shape, kind, "ik", self.workshop.ik_quantize(self.ik_checkout))
        return Command([worker, gguf, self.threads])

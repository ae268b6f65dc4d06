"""Makes the environments, programs and models of a comparison in one work folder and keeps them, so that a second run makes nothing.

    venv-models/  torch, transformers, OpenVINO      models/SHAPE/             random weights, bf16
    sdist/        llama.cpp's sources from PyPI      gguf/SHAPE.SYSTEM-TYPE.gguf
    llama-build/  its libraries and llama-server     openvino/SHAPE.WEIGHTS/
    venv-llama/   its Python binding                 log/  done/
    ik_worker     ik_llama.cpp's worker; its checkout is given and holds its own build

A peer that cannot be made raises Unavailable; the comparison continues without that peer.
"""
import glob
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAKE_MODEL = os.path.join(ROOT, "..", "shared", "tools", "make_model.py")
LLAMA_OPTIONS = {"CMAKE_BUILD_TYPE": "Release", "BUILD_SHARED_LIBS": "ON", "GGML_NATIVE": "ON", "LLAMA_BUILD_COMMON": "ON",
                 "LLAMA_BUILD_TOOLS": "ON", "LLAMA_BUILD_SERVER": "ON", "LLAMA_BUILD_TESTS": "OFF",
                 "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_APP": "OFF", "LLAMA_BUILD_UI": "OFF",
                 "LLAMA_USE_PREBUILT_UI": "OFF", "LLAMA_OPENSSL": "OFF"}
# Attention with quantised KV is left out: it takes most of the build, and the KV cache is fp16.
IK_OPTIONS = {"CMAKE_BUILD_TYPE": "Release", "GGML_NATIVE": "ON", "GGML_IQK_FA_ALL_QUANTS": "OFF", "LLAMA_CURL": "OFF"}
IK_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ik_worker.c")
OPENVINO_FLAGS = {"bf16": ["--weight-format", "fp16"],  # computed in bf16 if the machine supports it
                  "int8": ["--weight-format", "int8"],
                  "int4": ["--weight-format", "int4", "--group-size", "128", "--group-size-fallback", "adjust", "--ratio", "1.0"]}


class Unavailable(Exception):
    """Something could not be made; the text is the reason."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def parse_with_workshop(ap, words):
    """Adds the arguments that all comparisons have, and parses the command line."""
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every system (all cores)")
    ap.add_argument("--work", default=os.path.join(ROOT, "build", "peers"), help="kept between runs (build/peers)")
    ap.add_argument("--build", default=os.path.join(ROOT, "build"), help="Tessera's build folder (build)")
    ap.add_argument("--prepare", action="store_true", help="make everything and measure nothing")
    ap.add_argument("--json", metavar="FILE")
    a = ap.parse_args(words)
    if not a.json and not a.prepare:
        ap.error("--json FILE is needed, unless --prepare is given")
    return a


class Workshop:
    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        self.failed = {}  # failed steps and their reasons; a failed step is not tried again in this run
        for name in ("models", "gguf", "openvino", "log", "done"):
            os.makedirs(self.at(name), exist_ok=True)

    def at(self, *names):
        return os.path.join(self.folder, *names)

    def python(self, venv):
        return self.at(venv, "bin", "python")

    def call(self, step, command, **environment):
        if step in self.failed:
            raise Unavailable(self.failed[step])
        say("+ " + " ".join(command))
        log = self.at("log", step + ".txt")
        with open(log, "a", encoding="utf-8") as out:
            done = subprocess.run(command, stdout=out, stderr=out, check=False, env=dict(os.environ, **environment))
        if done.returncode:
            self.failed[step] = f"{step} failed ({done.returncode}), see {log}"
            raise Unavailable(self.failed[step])

    def once(self, step, make):
        """Runs make() unless the step has succeeded before in this work folder."""
        mark = self.at("done", step)
        if not os.path.exists(mark):
            make()
            open(mark, "w", encoding="utf-8").close()

    def made(self, path, make):
        """Returns the path. If it does not exist, make() first makes it at a temporary path in the same folder."""
        if not os.path.exists(path):
            part = path + ".part"
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            os.rename(part, path)
        return path

    def install(self, step, venv, *packages, **environment):
        def make():
            if not os.path.exists(self.python(venv)):
                self.call(step, [sys.executable, "-m", "venv", self.at(venv)])
            self.call(step, [self.python(venv), "-m", "pip", "install", *packages], **environment)

        self.once(step, make)

    def model(self, shape):
        self.install("install-models", "venv-models", "torch", "transformers", "safetensors", "sentencepiece", "numpy", "gguf")
        return self.made(self.at("models", shape), lambda part: self.call(
            "model-" + shape, [self.python("venv-models"), MAKE_MODEL, shape, part]))

    def llama_sdist(self):
        return glob.glob(self.at("sdist", "llama_cpp_python-*.tar.gz"))[0]

    def llama_sources(self):
        """Returns the folder of llama.cpp's sources. REQUIRES: model() of any shape."""

        def make():
            self.call("download-llama", [self.python("venv-models"), "-m", "pip", "download", "--no-deps", "--no-binary",
                                         "llama-cpp-python", "--dest", self.at("sdist"), "llama-cpp-python"])
            self.call("download-llama", ["tar", "-xzf", self.llama_sdist(), "-C", self.at("sdist")])

        self.once("download-llama", make)
        return glob.glob(self.at("sdist", "llama_cpp_python-*", "vendor", "llama.cpp"))[0]

    def llama(self):
        """Returns the folder of llama.cpp's programs and libraries, built for this machine. REQUIRES: model() of any shape."""
        sources = self.llama_sources()

        def make():
            options = [f"-D{name}={value}" for name, value in LLAMA_OPTIONS.items()]
            self.call("build-llama", ["cmake", "-S", sources, "-B", self.at("llama-build"), "-G", "Ninja", *options])
            self.call("build-llama", ["cmake", "--build", self.at("llama-build"), "--target", "llama", "llama-server",
                                      "llama-quantize"])

        self.once("build-llama", make)
        # The Python binding is installed without a second build of the libraries; LLAMA_CPP_LIB_PATH names their folder.
        self.install("install-llama", "venv-llama", self.llama_sdist(), CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF")
        return self.at("llama-build", "bin")

    def ik(self, checkout):
        """Returns the path of ik_llama.cpp's worker. Builds the libraries and programs in the checkout if it has none."""
        build = os.path.join(checkout, "build")

        def libraries():
            found = [glob.glob(os.path.join(build, "**", name), recursive=True) for name in ("libllama.so", "libggml.so")]
            return [os.path.dirname(paths[0]) for paths in found if paths]

        if len(libraries()) < 2 or not os.path.exists(self.ik_quantize(checkout)):
            options = [f"-D{name}={value}" for name, value in IK_OPTIONS.items()]
            self.call("build-ik", ["cmake", "-S", checkout, "-B", build, "-G", "Ninja", *options])
            self.call("build-ik", ["cmake", "--build", build, "--target", "llama", "llama-quantize", "llama-perplexity",
                                   "llama-bench"])
        worker = self.at("ik_worker")
        includes = ["-I" + os.path.join(checkout, "include"), "-I" + os.path.join(checkout, "ggml", "include")]
        links = [word for folder in libraries() for word in ("-L" + folder, "-Wl,-rpath," + folder)]
        self.call("ik-worker", ["cc", "-std=gnu17", "-O2", "-Wall", *includes, IK_WORKER, *links, "-lllama", "-lggml", "-o",
                                worker])
        return worker

    def ik_quantize(self, checkout):
        return os.path.join(checkout, "build", "bin", "llama-quantize")

    def gguf_bf16(self, shape):
        """Returns the GGUF file of a model in BF16, made by llama.cpp's converter. REQUIRES: model(shape)."""
        convert = os.path.join(self.llama_sources(), "convert_hf_to_gguf.py")
        return self.made(self.at("gguf", f"{shape}.bf16.gguf"), lambda part: self.call(
            f"gguf-{shape}-bf16", [self.python("venv-models"), convert, self.at("models", shape), "--outtype", "bf16",
                                   "--outfile", part]))

    def gguf(self, shape, kind, system, quantize):
        """Returns the GGUF file of a model in a format of a system, whose program llama-quantize is given. REQUIRES: model(shape)."""
        source = self.gguf_bf16(shape)
        if kind == "BF16":
            return source
        return self.made(self.at("gguf", f"{shape}.{system}-{kind}.gguf"), lambda part: self.call(
            f"gguf-{shape}-{system}-{kind}", [quantize, source, part, kind]))

    def openvino(self, shape, weights):
        """Returns the folder of the OpenVINO export of a model and format. REQUIRES: model(shape)."""
        self.install("install-openvino", "venv-models", "optimum-intel", "openvino", "openvino-genai")
        step = f"openvino-{shape}-{weights}"
        export = [self.at("venv-models", "bin", "optimum-cli"), "export", "openvino", "--model", self.at("models", shape),
                  "--task", "text-generation-with-past", *OPENVINO_FLAGS[weights]]
        return self.made(self.at("openvino", f"{shape}.{weights}"), lambda part: self.call(step, [*export, part]))

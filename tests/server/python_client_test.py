#!/usr/bin/python3
"""Tests of the real daemon with a stock Python client: stubs generated from proto/ alone, and Debian's grpcio.

    python_client_test.py TESSERAD      runs on the model that ships in deploy/models
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

import grpc

from client_stubs import make_stubs

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "deploy", "models", "tessera-nano")
DAEMON = None  # path of tesserad


def start_daemon():
    """Returns a running tesserad with its two addresses."""
    process = subprocess.Popen(
        [DAEMON, "--model", f"first={MODEL}", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
         "--threads", "1", "--kv-cache-bytes", "32MiB", "--log-level", "warn"],
        stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline().split()
    assert line[:2] == ["tesserad", "ready"], line
    return process, line[2][len("grpc="):], line[3][len("metrics="):]


def readme_block(language, containing):
    """Returns the README's fenced code block in `language` that contains the words `containing`."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        blocks = re.findall(rf"^```{language}\n(.*?)^```$", f.read(), re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if containing in block)


class PythonClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        make_stubs(cls.directory.name)
        global inference, inference_grpc, control, control_grpc, reflection, reflection_grpc, status, details
        global reflection_v1, reflection_v1_grpc
        import tessera.v1.control_pb2 as control
        import tessera.v1.control_pb2_grpc as control_grpc
        import tessera.v1.inference_pb2 as inference
        import tessera.v1.inference_pb2_grpc as inference_grpc
        import reflection_pb2 as reflection
        import reflection_pb2_grpc as reflection_grpc
        import grpc.reflection.v1.reflection_pb2 as reflection_v1
        import grpc.reflection.v1.reflection_pb2_grpc as reflection_v1_grpc
        import google.rpc.error_details_pb2 as details
        import google.rpc.status_pb2 as status
        cls.daemon, cls.address, cls.metrics = start_daemon()
        cls.channel = grpc.insecure_channel(cls.address)
        cls.stub = inference_grpc.InferenceStub(cls.channel)
        cls.control = control_grpc.ControlStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.daemon.terminate()
        code = cls.daemon.wait(timeout=60)
        cls.daemon.stdout.close()
        cls.directory.cleanup()
        assert code == 0, f"tesserad ended with {code}"

    def test_the_example_of_the_readme(self):
        with tempfile.TemporaryDirectory() as directory:
            shutil.copytree(os.path.join(ROOT, "proto"), os.path.join(directory, "proto"))
            subprocess.run(["bash", "-ec", readme_block("", "protoc")], cwd=directory, check=True)
            program = readme_block("python", "InferenceStub").replace("127.0.0.1:50051", self.address)
            ran = subprocess.run([sys.executable, "-c", program], cwd=directory, capture_output=True, text=True,
                                 timeout=60)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertGreater(len(ran.stdout), 20)

    def request(self, text="Once upon a time", max_tokens=8, **fields):
        request = inference.GenerateRequest(text=text, **fields)
        request.sampling.temperature = 0
        request.stopping.max_tokens = max_tokens
        request.stopping.ignore_eos = True
        return request

    def expect_error(self, code, call, reason=None):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        error = caught.exception
        self.assertEqual(error.code(), code, error.details())
        if reason is None:
            return error
        bytes_ = dict(error.trailing_metadata())["grpc-status-details-bin"]
        parsed = status.Status.FromString(bytes_)
        self.assertEqual(parsed.code, code.value[0])
        infos = [details.ErrorInfo.FromString(any_.value) for any_ in parsed.details
                 if any_.type_url.endswith("/google.rpc.ErrorInfo")]
        self.assertEqual([(i.domain, i.reason) for i in infos], [("tessera", reason)])
        return error

    def idle(self):
        deadline = time.time() + 20
        while time.time() < deadline:
            load = self.control.GetLoad(control.GetLoadRequest())
            if load.running == 0 and load.waiting == 0 and load.kv_bytes == 0 and load.calls == 0:
                return
            time.sleep(0.02)
        self.fail(f"still busy: {load}")

    def test_generate(self):
        messages = list(self.stub.Generate(self.request(max_tokens=20), timeout=60))
        kinds = [m.WhichOneof("event") for m in messages]
        self.assertEqual(kinds[0], "accepted")
        self.assertEqual(kinds[-1], "finished")
        self.assertEqual(set(kinds[1:-1]), {"output"})
        text = "".join(m.output.text for m in messages)
        self.assertGreater(len(text), 10)
        self.assertEqual(sum(len(m.output.token_ids) for m in messages), 20)
        last = messages[-1]
        self.assertEqual(last.finished.reason, inference.FINISH_REASON_LENGTH)
        self.assertEqual(last.usage.completion_tokens, 20)
        self.assertEqual(last.usage.prompt_tokens, messages[0].accepted.prompt_tokens)
        self.assertGreater(last.timing.ttft_us, 0)
        again = list(self.stub.Generate(self.request(max_tokens=20), timeout=60))
        self.assertEqual("".join(m.output.text for m in again), text)

    def test_chat(self):
        request = inference.ChatRequest(messages=[inference.ChatMessage(role="user", content="Hello")])
        request.stopping.max_tokens = 10
        messages = list(self.stub.Chat(request, timeout=60))
        self.assertEqual(messages[-1].WhichOneof("event"), "finished")

    def test_unary_calls(self):
        tokens = self.stub.Tokenize(inference.TokenizeRequest(text="Once upon a time"), timeout=60)
        self.assertGreater(len(tokens.token_ids), 1)
        text = self.stub.Detokenize(inference.DetokenizeRequest(token_ids=tokens.token_ids,
                                                                skip_special_tokens=True), timeout=60).text
        self.assertEqual(text, "Once upon a time")
        embeddings = self.stub.Embed(inference.EmbedRequest(inputs=[inference.EmbedInput(text="a"),
                                                                    inference.EmbedInput(text="b")]), timeout=60)
        for embedding in embeddings.embeddings:
            self.assertAlmostEqual(sum(v * v for v in embedding.values), 1.0, places=3)

    def test_cancel(self):
        call = self.stub.Generate(self.request(max_tokens=900), timeout=60)
        next(call)
        next(call)
        call.cancel()
        with self.assertRaises(grpc.RpcError) as caught:
            list(call)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.CANCELLED)
        self.idle()

    def test_control_cancel(self):
        call = self.stub.Generate(self.request(max_tokens=900, request_id="by-name"), timeout=60)
        next(call)
        self.assertTrue(self.control.Cancel(control.CancelRequest(request_id="by-name")).found)
        last = list(call)[-1]
        self.assertEqual(last.finished.reason, inference.FINISH_REASON_CANCELLED)
        self.assertFalse(self.control.Cancel(control.CancelRequest(request_id="by-name")).found)
        self.idle()

    def test_deadline(self):
        request = self.request(max_tokens=1000)
        request.sampling.n = 64
        request.sampling.temperature = 1
        self.expect_error(grpc.StatusCode.DEADLINE_EXCEEDED,
                          lambda: list(self.stub.Generate(request, timeout=0.2)))
        self.idle()

    def test_unknown_field(self):
        # No version of the proto has a field 99. A raw call sends it as a newer client would send a new field.
        raw = self.channel.unary_stream("/tessera.v1.Inference/Generate")
        bytes_ = self.request().SerializeToString() + b"\x98\x06\x01"
        error = self.expect_error(grpc.StatusCode.INVALID_ARGUMENT, lambda: list(raw(bytes_, timeout=60)),
                                  "UNKNOWN_FIELD")
        self.assertIn("field 99 of tessera.v1.GenerateRequest", error.details())

    def test_invalid_utf8(self):
        raw = self.channel.unary_stream("/tessera.v1.Inference/Generate")
        self.expect_error(grpc.StatusCode.INVALID_ARGUMENT, lambda: list(raw(b"\x1a\x02\xff\xfe", timeout=60)),
                          "INVALID_FIELD")

    def test_errors(self):
        self.expect_error(grpc.StatusCode.NOT_FOUND,
                          lambda: list(self.stub.Generate(self.request(model="missing"), timeout=60)),
                          "MODEL_NOT_FOUND")
        bad = self.request()
        bad.sampling.top_p = float("nan")
        self.expect_error(grpc.StatusCode.INVALID_ARGUMENT, lambda: list(self.stub.Generate(bad, timeout=60)),
                          "INVALID_FIELD")
        large = grpc.insecure_channel(self.address, options=[("grpc.max_send_message_length", -1)])
        stub = inference_grpc.InferenceStub(large)
        self.expect_error(grpc.StatusCode.INVALID_ARGUMENT,
                          lambda: list(stub.Generate(self.request(text="x" * (10 << 20)), timeout=60)),
                          "INVALID_FIELD")
        large.close()

    def test_reflection(self):
        self.check_reflection(reflection, reflection_grpc.ServerReflectionStub(self.channel))
        self.check_reflection(reflection_v1, reflection_v1_grpc.ServerReflectionStub(self.channel))

    def check_reflection(self, messages, stub):
        from google.protobuf import descriptor_pb2

        def ask(**fields):
            return next(stub.ServerReflectionInfo(iter([messages.ServerReflectionRequest(**fields)])))

        names = {s.name for s in ask(list_services="").list_services_response.service}
        self.assertEqual({"tessera.v1.Inference", "tessera.v1.Control", "grpc.health.v1.Health",
                          "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}, names)
        methods = {}
        for name in names:  # every listed service has its descriptor, with all files that it imports
            answer = ask(file_containing_symbol=name).file_descriptor_response.file_descriptor_proto
            files = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in answer]
            self.assertLessEqual({d for file in files for d in file.dependency}, {file.name for file in files})
            for service in (s for file in files for s in file.service):
                methods[service.name] = {m.name for m in service.method}
        self.assertEqual(methods["Inference"], {"Generate", "Chat", "Embed", "Tokenize", "Detokenize"})
        self.assertEqual(methods["Health"], {"Check", "Watch"})
        self.assertEqual(ask(file_containing_symbol="no.such.Thing").error_response.error_code, 5)
        self.assertEqual(ask(file_by_filename="no.such.proto").error_response.error_code, 5)
        answer = ask(file_by_filename="grpc/health/v1/health.proto").file_descriptor_response
        self.assertIn(b"HealthCheckRequest", answer.file_descriptor_proto[0])

    def test_calls_that_are_not_accepted_yet_are_unavailable_at_the_end(self):
        daemon, address, _ = start_daemon()
        channel = grpc.insecure_channel(address)
        stub = inference_grpc.InferenceStub(channel)
        list(stub.Generate(self.request(), timeout=60))  # the channel is connected
        calls = [stub.Generate(self.request(max_tokens=2), timeout=60) for _ in range(300)]
        daemon.terminate()
        codes = set()
        for call in calls:
            try:
                list(call)
            except grpc.RpcError:
                pass
            codes.add(call.code())
        self.assertLessEqual(codes, {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE})
        self.assertEqual(daemon.wait(timeout=60), 0)
        daemon.stdout.close()
        channel.close()

    def test_many_threads(self):
        results = []

        def run(i):
            messages = list(self.stub.Generate(self.request(text=f"Story {i}", max_tokens=5), timeout=120))
            results.append(messages[-1].WhichOneof("event"))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(results, ["finished"] * 40)
        self.idle()

    def test_metrics(self):
        with urllib.request.urlopen(f"http://{self.metrics}/metrics") as answer:
            text = answer.read().decode()
        for name in ("tessera_requests_total{", "vllm:num_requests_running", "tessera_pages{"):
            self.assertIn(name, text)
        with urllib.request.urlopen(f"http://{self.metrics}/readyz") as answer:
            self.assertEqual(answer.status, 200)


if __name__ == "__main__":
    DAEMON = sys.argv.pop(1)
    unittest.main(verbosity=2)

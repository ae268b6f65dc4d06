#!/usr/bin/python3
"""Each field of each request message has an effect on the real daemon: no field is lost on its way to the engine.

    field_effects_test.py TESSERAD      runs on the model that ships in deploy/models

A test has the name of the field that it sets away from its default: test_SamplingParams__top_k. A field without a test
is an error (test_every_field_has_a_test), so a new field needs a test that shows its effect.
"""
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
import unittest

import grpc

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "server"))
from python_client_test import make_stubs  # noqa: E402

MODEL = os.path.join(ROOT, "deploy", "models", "tessera-nano")
DAEMON = None  # path of tesserad
PROMPT = "Once upon a time there was a"
END = 2  # <|im_end|>, an end-of-sequence token of the model
# Writes all that a template can see of a chat.
TEMPLATE = """{%- for m in messages -%}
[{{ m.role }}|{{ m.content }}|{{ m.name }}|{{ (m.tool_calls or []) | tojson }}|{{ m.tool_call_id }}|{{ m.reasoning_content }}]
{%- endfor -%}
{{ (tools or []) | tojson }}{{ colour }}{% if add_generation_prompt %}answer:{% endif %}"""


def copy_with_template(directory):
    """Makes a model folder with the shipped weights and the template above."""
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(MODEL, name), directory)
    path = os.path.join(directory, "tokenizer_config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    config["chat_template"] = TEMPLATE
    with open(path, "w", encoding="utf-8") as f:
        json.dump(config, f)


class Daemon:
    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [DAEMON, *flags, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--threads", "1",
             "--kv-cache-bytes", "64MiB", "--log-level", "warn"], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline().split()
        assert line[:2] == ["tesserad", "ready"], line
        self.channel = grpc.insecure_channel(line[2][len("grpc="):])
        self.stub = inference_grpc.InferenceStub(self.channel)
        self.control = control_grpc.ControlStub(self.channel)

    def end(self):
        self.channel.close()
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        assert code == 0, f"tesserad ended with {code}"


def collect(stream):
    """Reads a stream of Generate or Chat: what index 0 generated, and all messages."""
    answer = types.SimpleNamespace(text="", ids=[], logprobs=[], scores=[], indexes=set(), messages=[])
    for message in stream:
        answer.messages.append(message)
        answer.indexes.add(message.index)
        if message.index == 0:
            answer.text += message.output.text
            answer.ids += message.output.token_ids
            answer.logprobs += message.output.logprobs
            answer.scores += message.prompt.logprobs
        if message.HasField("finished") and message.index == 0:
            answer.finished, answer.usage = message.finished, message.usage
        answer.request_id = message.request_id
    return answer


def merge(message, fields):
    """Sets fields by dotted path, e.g. sampling__top_k=1."""
    for path, value in fields.items():
        *outer, last = path.split("__")
        target = message
        for name in outer:
            target = getattr(target, name)
        if isinstance(value, dict):
            for key, one in value.items():
                getattr(target, last)[key] = one
        elif isinstance(value, list):
            getattr(target, last).extend(value)
        elif hasattr(value, "DESCRIPTOR"):
            getattr(target, last).CopyFrom(value)
        else:
            setattr(target, last, value)
    return message


class FieldEffectsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        make_stubs(cls.directory.name)
        global inference, inference_grpc, control, control_grpc
        import tessera.v1.control_pb2 as control
        import tessera.v1.control_pb2_grpc as control_grpc
        import tessera.v1.inference_pb2 as inference
        import tessera.v1.inference_pb2_grpc as inference_grpc
        templated = os.path.join(cls.directory.name, "templated")
        os.mkdir(templated)
        copy_with_template(templated)
        cls.daemon = Daemon("--model", f"first={MODEL}", "--model", f"templated={templated}",
                            "--adapters", os.path.join(MODEL, "adapters"))
        cls.stub, cls.control = cls.daemon.stub, cls.daemon.control

    @classmethod
    def tearDownClass(cls):
        cls.daemon.end()
        cls.directory.cleanup()

    # Requests with the fields that a test sets.

    def generate(self, **fields):
        request = inference.GenerateRequest()
        if not any(path.split("__")[0] in ("text", "token_ids", "parts") for path in fields):
            request.text = PROMPT
        request.sampling.temperature = 0
        request.stopping.max_tokens = 24
        request.stopping.ignore_eos = True
        return collect(self.stub.Generate(merge(request, fields)))

    def sampled(self, **fields):
        return self.generate(**{"sampling__temperature": 1.5, "sampling__top_p": 1.0, "sampling__seed": 7, **fields})

    def chat(self, **fields):
        request = inference.ChatRequest()
        if "messages" not in fields:
            request.messages.add(role="user", content="What is a tessera?")
        request.sampling.temperature = 0
        request.stopping.max_tokens = 12
        request.stopping.ignore_eos = True
        return collect(self.stub.Chat(merge(request, fields)))

    def render(self, *messages, **fields):
        """Returns the text of a chat prompt by the template above."""
        request = inference.TokenizeRequest(model="templated")
        request.chat.messages.extend(messages)
        merge(request.chat, fields)
        return self.stub.Tokenize(request).text

    def embed(self, *inputs, **fields):
        request = inference.EmbedRequest(inputs=inputs or [inference.EmbedInput(text=PROMPT)])
        return [list(e.values) for e in self.stub.Embed(merge(request, fields)).embeddings]

    def tokenize(self, **fields):
        return list(self.stub.Tokenize(merge(inference.TokenizeRequest(), fields)).token_ids)

    def detokenize(self, ids, **fields):
        return self.stub.Detokenize(merge(inference.DetokenizeRequest(token_ids=ids), fields)).text

    def refused(self, part, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertIn(part, caught.exception.details())

    def first_of_two(self, low, high, num_sequences=1):
        """Whether `high` ends before `low`, which a server with one slot queued earlier. Both have `num_sequences`."""
        server = Daemon("--model", f"first={MODEL}", "--max-num-seqs", "1")
        try:
            blocker = server.stub.Generate(inference.GenerateRequest(
                text=PROMPT, stopping=inference.StoppingParams(max_tokens=3000, ignore_eos=True)))
            while not next(blocker).HasField("output"):
                pass
            ended = []
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                calls = []
                for number, (name, call) in enumerate((("low", low), ("high", high)), 1):
                    calls.append(pool.submit(lambda name=name, call=call: (call(server.stub), ended.append(name))))
                    deadline = time.time() + 60
                    while server.control.GetLoad(control.GetLoadRequest()).waiting < number * num_sequences:
                        self.assertLess(time.time(), deadline)
                        self.assertFalse(calls[-1].done(), "the slot is held: nothing ends before the blocker")
                        time.sleep(0.002)
                blocker.cancel()
                for call in calls:
                    call.result(timeout=60)
            return ended == ["high", "low"]
        finally:
            server.end()

    # The mechanism.

    def test_every_field_has_a_test(self):
        seen, open_ = set(), []
        for module, service in ((inference, "Inference"), (control, "Control")):
            for method in module.DESCRIPTOR.services_by_name[service].methods:
                open_.append(method.input_type)
        fields = set()
        while open_:
            message = open_.pop()
            if message.full_name in seen or message.GetOptions().map_entry:
                continue
            seen.add(message.full_name)
            for field in message.fields:
                fields.add(f"test_{message.name}__{field.name}")
                if field.message_type is not None:
                    open_.append(field.message_type)
        tests = {name for name in dir(self) if name.startswith("test_") and "__" in name}
        self.assertEqual(fields - tests, set(), "fields without a test of their effect")
        self.assertEqual(tests - fields, set(), "tests without a field")

    # SamplingParams.

    def test_SamplingParams__temperature(self):
        greedy = self.generate().ids
        self.assertEqual(self.sampled(sampling__temperature=0.0).ids, greedy)
        self.assertNotEqual(self.sampled().ids, greedy)

    def test_SamplingParams__top_k(self):
        self.assertEqual(self.sampled(sampling__top_k=1).ids, self.generate().ids)

    def test_SamplingParams__top_p(self):
        self.assertEqual(self.sampled(sampling__top_p=1e-4).ids, self.generate().ids)

    def test_SamplingParams__min_p(self):
        self.assertEqual(self.sampled(sampling__min_p=1.0).ids, self.generate().ids)

    def test_SamplingParams__seed(self):
        self.assertEqual(self.sampled(sampling__seed=1).ids, self.sampled(sampling__seed=1).ids)
        self.assertNotEqual(self.sampled(sampling__seed=1).ids, self.sampled(sampling__seed=2).ids)

    def test_SamplingParams__repetition_penalty(self):
        plain = self.generate(stopping__max_tokens=60).ids
        self.assertLess(len(set(plain)), 60)
        self.assertEqual(len(set(self.generate(sampling__repetition_penalty=100.0, stopping__max_tokens=60).ids)), 60)

    def competitors(self):
        """Biases that make token a lead token b by 1 at the second position after a, and a the first token."""
        a = self.generate(stopping__max_tokens=1).ids[0]
        first, second = self.generate(sampling__logit_bias={a: 1000.0}, stopping__max_tokens=2, output__logprobs=100).logprobs
        before = {top.token_id: top.logprob for top in first.top}
        after = {top.token_id: top.logprob for top in second.top}
        b = next(b for b in after if b != a and b in before and
                 before[a] - before[b] > second.logprob - after[b] - 1 + 0.1)
        return a, b, {a: 1000.0, b: 1000.0 + second.logprob - after[b] - 1}

    def test_SamplingParams__presence_penalty(self):
        a, b, biases = self.competitors()
        self.assertEqual(self.generate(sampling__logit_bias=biases, stopping__max_tokens=2).ids, [a, a])
        self.assertEqual(self.generate(sampling__logit_bias=biases, sampling__presence_penalty=2.0,
                                       stopping__max_tokens=2).ids, [a, b])
        # Unlike the frequency penalty, it does not grow with the number of occurrences.
        only = self.generate(sampling__logit_bias={50: 1000.0, 60: 970.0}, sampling__presence_penalty=2.0,
                             stopping__max_tokens=60)
        self.assertEqual(set(only.ids), {50})

    def test_SamplingParams__frequency_penalty(self):
        self.assertEqual(set(self.generate(sampling__logit_bias={50: 1000.0, 60: 970.0}, stopping__max_tokens=60).ids), {50})
        both = self.generate(sampling__logit_bias={50: 1000.0, 60: 970.0}, sampling__frequency_penalty=2.0,
                             stopping__max_tokens=60)
        self.assertEqual(set(both.ids), {50, 60})

    def test_SamplingParams__logit_bias(self):
        self.assertEqual(self.generate(sampling__logit_bias={50: 1000.0}).ids, [50] * 24)

    def test_SamplingParams__n(self):
        self.assertEqual(self.generate(sampling__n=3).indexes, {0, 1, 2})

    # StoppingParams.

    def test_StoppingParams__max_tokens(self):
        answer = self.generate(stopping__max_tokens=5)
        self.assertEqual(len(answer.ids), 5)
        self.assertEqual(answer.finished.reason, inference.FINISH_REASON_LENGTH)

    def test_StoppingParams__min_tokens(self):
        ends = {"sampling__logit_bias": {END: 1000.0}, "stopping__ignore_eos": False}
        self.assertEqual(self.generate(**ends).ids, [END])
        answer = self.generate(stopping__min_tokens=5, **ends)
        self.assertEqual(len(answer.ids), 6)
        self.assertEqual(answer.ids.index(END), 5)

    def test_StoppingParams__stop(self):
        text = self.generate().text
        stop = text[5:9]
        answer = self.generate(stopping__stop=[stop])
        self.assertEqual(answer.text, text[:text.index(stop)])
        self.assertEqual(answer.finished.stop_text, stop)

    def test_StoppingParams__stop_token_ids(self):
        ids = self.generate().ids
        answer = self.generate(stopping__stop_token_ids=[ids[6]])
        self.assertEqual(answer.ids, ids[:ids.index(ids[6]) + 1])
        self.assertEqual(answer.finished.stop_token_id, ids[6])

    def test_StoppingParams__ignore_eos(self):
        ends = {"sampling__logit_bias": {END: 1000.0}}
        self.assertEqual(self.generate(stopping__ignore_eos=False, **ends).finished.eos_token_id, END)
        self.assertEqual(self.generate(stopping__ignore_eos=True, **ends).ids, [END] * 24)

    def test_StoppingParams__include_stop(self):
        text = self.generate().text
        stop = text[5:9]
        answer = self.generate(stopping__stop=[stop], stopping__include_stop=True)
        self.assertEqual(answer.text, text[:text.index(stop)] + stop)

    def test_StoppingParams__time_limit_ms(self):
        answer = self.generate(stopping__max_tokens=3000, stopping__time_limit_ms=1)
        self.assertEqual(answer.finished.reason, inference.FINISH_REASON_TIME_LIMIT)

    # OutputOptions and CacheOptions.

    def test_OutputOptions__logprobs(self):
        self.assertEqual(self.generate().logprobs, [])
        self.assertEqual({len(entry.top) for entry in self.generate(output__logprobs=2).logprobs}, {2})

    def test_OutputOptions__prompt_logprobs(self):
        answer = self.generate(output__prompt_logprobs=3, output__logprobs=1)
        self.assertEqual({len(entry.top) for entry in answer.scores}, {3})
        self.assertEqual({len(entry.top) for entry in answer.logprobs}, {1})
        self.assertEqual(len(answer.scores), answer.usage.prompt_tokens - 1)

    def test_OutputOptions__skip_special_tokens(self):
        ends = {"sampling__logit_bias": {END: 1000.0}, "stopping__max_tokens": 2}
        self.assertEqual(self.generate(**ends).text, "")
        self.assertEqual(self.generate(output__skip_special_tokens=False, **ends).text, "<|im_end|>" * 2)

    def cached(self, first, **fields):
        """Tokens of a prompt that starts with token `first` that the cache has at its second request."""
        ids = [first] + list(range(100, 180))
        self.generate(token_ids__ids=ids)
        return self.generate(token_ids__ids=ids, **fields).usage.cached_prompt_tokens

    def test_CacheOptions__bypass_prefix(self):
        self.assertGreater(self.cached(201), 0)
        self.assertEqual(self.cached(201, cache__bypass_prefix=True), 0)

    def test_CacheOptions__salt(self):
        self.assertEqual(self.cached(202, cache__salt="other"), 0)

    # GenerateRequest.

    def test_GenerateRequest__request_id(self):
        self.assertEqual(self.generate(request_id="mine").request_id, "mine")

    def test_GenerateRequest__model(self):
        self.assertNotEqual(self.generate(model="zorvan-1").ids, self.generate().ids)

    def test_GenerateRequest__text(self):
        self.assertNotEqual(self.generate(text="The king said").ids, self.generate().ids)

    def test_GenerateRequest__token_ids(self):
        ids = self.tokenize(text=PROMPT)
        self.assertEqual(self.generate(token_ids__ids=ids).ids, self.generate().ids)

    test_TokenIds__ids = test_GenerateRequest__token_ids

    def test_GenerateRequest__parts(self):
        ids = self.tokenize(text=PROMPT)
        parts = [inference.Part(token_ids=inference.TokenIds(ids=ids[:3])),
                 inference.Part(token_ids=inference.TokenIds(ids=ids[3:]))]
        self.assertEqual(self.generate(parts__parts=parts).ids, self.generate().ids)

    test_Parts__parts = test_Part__token_ids = test_GenerateRequest__parts

    def test_Part__text(self):
        self.assertEqual(self.generate(parts__parts=[inference.Part(text=PROMPT)]).ids, self.generate().ids)

    def test_Part__document_id(self):
        """This release only checks it."""
        self.refused("document_id", lambda: self.generate(
            parts__parts=[inference.Part(text=PROMPT, document_id="x" * 300)]))

    def test_GenerateRequest__adapters(self):
        adapter = inference.AdapterRef(name="zorvan-1")
        self.assertEqual(self.generate(adapters=[adapter]).ids, self.generate(model="zorvan-1").ids)

    test_AdapterRef__name = test_GenerateRequest__adapters

    def test_AdapterRef__revision(self):
        self.refused("revision", lambda: self.generate(
            adapters=[inference.AdapterRef(name="zorvan-1", revision="no such")]))

    def test_AdapterRef__weight(self):
        self.assertEqual(self.generate(adapters=[inference.AdapterRef(name="zorvan-1", weight=0.0)]).ids,
                         self.generate().ids)

    def blend(self):
        return [inference.AdapterRef(name="zorvan-1", weight=0.5), inference.AdapterRef(name="zorvan-2", weight=0.5)]

    def listed(self):
        return {adapter.name: adapter.rank for adapter in self.control.ListAdapters(control.ListAdaptersRequest()).adapters}

    def test_GenerateRequest__blend_rank(self):
        self.generate(adapters=self.blend(), blend_rank=3)
        self.assertEqual(self.listed()["zorvan-1*0.5+zorvan-2*0.5:r3"], 3)

    def test_GenerateRequest__priority(self):
        def call(priority):
            return lambda stub: collect(stub.Generate(inference.GenerateRequest(
                text=PROMPT, stopping=inference.StoppingParams(max_tokens=300, ignore_eos=True), priority=priority)))
        self.assertTrue(self.first_of_two(call(inference.PRIORITY_LOW), call(inference.PRIORITY_HIGH)))

    def test_GenerateRequest__sampling(self):
        self.assertEqual(self.generate(sampling__n=2).indexes, {0, 1})

    def test_GenerateRequest__stopping(self):
        self.assertEqual(len(self.generate(stopping__max_tokens=3).ids), 3)

    def test_GenerateRequest__output(self):
        self.assertEqual(len(self.generate(output__logprobs=0).logprobs), 24)

    def test_GenerateRequest__cache(self):
        self.assertEqual(self.cached(203, cache__salt="another"), 0)

    # ChatRequest and ChatMessage.

    def test_ChatRequest__request_id(self):
        self.assertEqual(self.chat(request_id="mine").request_id, "mine")

    def test_ChatRequest__model(self):
        self.assertNotEqual(self.chat(model="zorvan-1").ids, self.chat().ids)

    def test_ChatRequest__messages(self):
        self.assertNotEqual(self.chat(messages=[inference.ChatMessage(role="user", content="Hm.")]).ids, self.chat().ids)

    def prompt_tokens(self, **fields):
        return self.chat(model="templated", **fields).usage.prompt_tokens

    def test_ChatRequest__tools_json(self):
        tools = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {}}}])
        self.assertGreater(self.prompt_tokens(tools_json=tools), self.prompt_tokens() + 10)

    def test_ChatRequest__template_args_json(self):
        self.assertGreater(self.prompt_tokens(template_args_json='{"colour": "vermilion and violet"}'), self.prompt_tokens())

    def test_ChatRequest__add_generation_prompt(self):
        self.assertLess(self.prompt_tokens(add_generation_prompt=False), self.prompt_tokens())

    def test_ChatRequest__adapters(self):
        self.assertEqual(self.chat(adapters=[inference.AdapterRef(name="zorvan-1")]).ids, self.chat(model="zorvan-1").ids)

    def test_ChatRequest__sampling(self):
        self.assertEqual(self.chat(sampling__n=2).indexes, {0, 1})

    def test_ChatRequest__stopping(self):
        self.assertEqual(len(self.chat(stopping__max_tokens=3).ids), 3)

    def test_ChatRequest__output(self):
        self.assertEqual(len(self.chat(output__logprobs=0).logprobs), 12)

    def test_ChatRequest__cache(self):
        messages = [inference.ChatMessage(role="user", content="A long question about mosaics, stones and glue. " * 4)]
        self.chat(messages=messages)
        self.assertGreater(self.chat(messages=messages).usage.cached_prompt_tokens, 0)
        self.assertEqual(self.chat(messages=messages, cache__salt="other").usage.cached_prompt_tokens, 0)

    def test_ChatRequest__priority(self):
        def call(priority):
            return lambda stub: collect(stub.Chat(inference.ChatRequest(
                messages=[inference.ChatMessage(role="user", content="Hello")],
                stopping=inference.StoppingParams(max_tokens=300, ignore_eos=True), priority=priority)))
        self.assertTrue(self.first_of_two(call(inference.PRIORITY_LOW), call(inference.PRIORITY_HIGH)))

    def test_ChatRequest__blend_rank(self):
        self.chat(adapters=self.blend(), blend_rank=2)
        self.assertEqual(self.listed()["zorvan-1*0.5+zorvan-2*0.5:r2"], 2)

    def test_ChatRequest__continue_final_message(self):
        self.assertLess(self.prompt_tokens(continue_final_message=True), self.prompt_tokens(add_generation_prompt=False))

    def test_ChatRequest__plain_content(self):
        messages = [inference.ChatMessage(role="user", content="<|im_end|>" * 9)]
        self.assertGreater(self.prompt_tokens(messages=messages, plain_content=True), self.prompt_tokens(messages=messages))

    def message(self, **fields):
        return self.render(inference.ChatMessage(role=fields.pop("role", "user"), **fields))

    def test_ChatMessage__role(self):
        self.assertIn("[critic|", self.message(role="critic"))

    def test_ChatMessage__content(self):
        self.assertIn("|so it is|", self.message(content="so it is"))

    def test_ChatMessage__name(self):
        self.assertIn("|Ada|", self.message(content="x", name="Ada"))

    def test_ChatMessage__tool_calls_json(self):
        calls = '[{"type": "function", "function": {"name": "weather", "arguments": {}}}]'
        self.assertIn('"weather"', self.message(role="assistant", tool_calls_json=calls))

    def test_ChatMessage__parse_tool_arguments(self):
        calls = json.dumps([{"type": "function", "function": {"name": "weather", "arguments": '{"city": 7}'}}])
        self.assertIn('"{\\"city\\": 7}"', self.message(role="assistant", tool_calls_json=calls))
        self.assertIn('{"city": 7}', self.message(role="assistant", tool_calls_json=calls, parse_tool_arguments=True))

    def test_ChatMessage__tool_call_id(self):
        self.assertIn("|call-7|", self.message(role="tool", content="x", tool_call_id="call-7"))

    def test_ChatMessage__reasoning_content(self):
        self.assertIn("|because]", self.message(role="assistant", content="x", reasoning_content="because"))

    # ChatPrompt, Tokenize and Detokenize.

    HELLO = {"role": "user", "content": "Hello"}

    def test_ChatPrompt__messages(self):
        self.assertIn("[user|Hello|", self.render(inference.ChatMessage(**self.HELLO)))

    def test_ChatPrompt__tools_json(self):
        tools = '[{"type": "function", "function": {"name": "weather"}}]'
        self.assertIn('"weather"', self.render(inference.ChatMessage(**self.HELLO), tools_json=tools))

    def test_ChatPrompt__template_args_json(self):
        self.assertIn("mauve", self.render(inference.ChatMessage(**self.HELLO), template_args_json='{"colour": "mauve"}'))

    def test_ChatPrompt__add_generation_prompt(self):
        self.assertIn("answer:", self.render(inference.ChatMessage(**self.HELLO)))
        self.assertNotIn("answer:", self.render(inference.ChatMessage(**self.HELLO), add_generation_prompt=False))

    def test_ChatPrompt__continue_final_message(self):
        self.assertTrue(self.render(inference.ChatMessage(**self.HELLO), continue_final_message=True).endswith("|Hello"))

    def test_ChatPrompt__plain_content(self):
        chat = inference.ChatPrompt(messages=[inference.ChatMessage(role="user", content="<|im_end|>")])
        self.assertEqual(self.tokenize(chat=chat).count(END), 2)
        chat.plain_content = True
        self.assertEqual(self.tokenize(chat=chat).count(END), 1)

    def test_TokenizeRequest__model(self):
        self.refused("missing", lambda: self.tokenize(model="missing", text="x"))

    def test_TokenizeRequest__text(self):
        self.assertNotEqual(self.tokenize(text="one"), self.tokenize(text="two"))

    def test_TokenizeRequest__chat(self):
        chat = inference.ChatPrompt(messages=[inference.ChatMessage(**self.HELLO)])
        self.assertEqual(self.tokenize(chat=chat)[0], 1)  # <|im_start|>

    def test_TokenizeRequest__add_special_tokens(self):
        """The model adds no special tokens to a text; with a chat the field is refused."""
        chat = inference.ChatPrompt(messages=[inference.ChatMessage(**self.HELLO)])
        self.refused("add_special_tokens", lambda: self.tokenize(chat=chat, add_special_tokens=True))

    def test_DetokenizeRequest__model(self):
        self.refused("missing", lambda: self.detokenize([100], model="missing"))

    def test_DetokenizeRequest__token_ids(self):
        self.assertEqual(self.detokenize(self.tokenize(text=PROMPT)), PROMPT)

    def test_DetokenizeRequest__skip_special_tokens(self):
        ids = [END] + self.tokenize(text="one")
        self.assertEqual(self.detokenize(ids), "<|im_end|>one")
        self.assertEqual(self.detokenize(ids, skip_special_tokens=True), "one")

    # Embed.

    EMBED_INPUTS = 20

    def test_EmbedRequest__request_id(self):
        self.refused("request_id", lambda: self.embed(request_id="x" * 200))

    def test_EmbedRequest__model(self):
        self.assertNotEqual(self.embed(model="zorvan-1"), self.embed())

    def test_EmbedRequest__inputs(self):
        self.assertEqual(len(self.embed(inference.EmbedInput(text="a"), inference.EmbedInput(text="b"))), 2)

    def test_EmbedInput__text(self):
        self.assertNotEqual(self.embed(inference.EmbedInput(text="a")), self.embed(inference.EmbedInput(text="b")))

    def test_EmbedInput__token_ids(self):
        ids = inference.TokenIds(ids=self.tokenize(text=PROMPT))
        self.assertEqual(self.embed(inference.EmbedInput(token_ids=ids)), self.embed())

    def test_EmbedRequest__priority(self):
        def call(priority):
            return lambda stub: stub.Embed(inference.EmbedRequest(
                inputs=[inference.EmbedInput(text=PROMPT * 100)] * self.EMBED_INPUTS, priority=priority))
        self.assertTrue(self.first_of_two(call(inference.PRIORITY_LOW), call(inference.PRIORITY_HIGH),
                                          num_sequences=self.EMBED_INPUTS))

    # Control.

    def test_WatchLoadRequest__interval_ms(self):
        stream = self.control.WatchLoad(control.WatchLoadRequest(interval_ms=100))
        begin = time.time()
        for _ in range(4):
            next(stream)
        self.assertLess(time.time() - begin, 2.9, "the default interval is 1 s")
        stream.cancel()

    def test_CancelRequest__request_id(self):
        stream = self.stub.Generate(inference.GenerateRequest(
            text=PROMPT, request_id="to cancel", stopping=inference.StoppingParams(max_tokens=3000, ignore_eos=True)))
        next(stream)
        self.assertFalse(self.control.Cancel(control.CancelRequest(request_id="another")).found)
        self.assertTrue(self.control.Cancel(control.CancelRequest(request_id="to cancel")).found)
        self.assertEqual(collect(stream).finished.reason, inference.FINISH_REASON_CANCELLED)

    def test_DrainRequest__exit(self):
        server = Daemon("--model", MODEL)
        server.control.Drain(control.DrainRequest(exit=True))
        self.assertEqual(server.process.wait(timeout=60), 0)
        server.end()

    def register(self, **fields):
        source = control.AdapterSource(path=os.path.join(MODEL, "adapters", "zorvan-1"), **fields)
        self.control.RegisterAdapters(control.RegisterAdaptersRequest(adapters=[source]))

    def adapter(self, name):
        listed = self.control.ListAdapters(control.ListAdaptersRequest()).adapters
        return next((a for a in listed if a.name == name), None)

    def test_AdapterSource__name(self):
        self.register(name="named")
        self.assertEqual(self.adapter("named").model, "first")

    test_RegisterAdaptersRequest__adapters = test_AdapterSource__name

    def test_AdapterSource__path(self):
        # The folders of --adapters are the roots, unless adapters.roots names others.
        outside = control.AdapterSource(path=os.path.join(MODEL, "adapters", "..", "adapters", "..", ".."), name="outside")
        with self.assertRaises(grpc.RpcError) as refused:
            self.control.RegisterAdapters(control.RegisterAdaptersRequest(adapters=[outside]))
        self.assertEqual(refused.exception.code(), grpc.StatusCode.PERMISSION_DENIED)
        self.register(name="inside")
        self.assertIsNotNone(self.adapter("inside"))

    def test_AdapterSource__model(self):
        self.register(name="elsewhere", model="templated")
        self.assertEqual(self.adapter("elsewhere").model, "templated")

    def test_AdapterSource__revision(self):
        self.register(name="revised", revision="r7")
        self.assertEqual(self.adapter("revised").revision, "r7")

    def test_LoadAdapterRequest__name(self):
        self.register(name="loaded")
        self.assertFalse(self.adapter("loaded").loaded)
        self.control.LoadAdapter(control.LoadAdapterRequest(name="loaded"))
        self.assertTrue(self.adapter("loaded").loaded)
        self.control.UnloadAdapter(control.UnloadAdapterRequest(name="loaded"))
        deadline = time.time() + 60
        while self.adapter("loaded").loaded:
            self.assertLess(time.time(), deadline)

    test_UnloadAdapterRequest__name = test_LoadAdapterRequest__name

    def test_PinAdapterRequest__pinned(self):
        self.register(name="pinned")
        self.control.PinAdapter(control.PinAdapterRequest(name="pinned"))
        self.assertTrue(self.adapter("pinned").pinned)
        self.control.PinAdapter(control.PinAdapterRequest(name="pinned", pinned=False))
        deadline = time.time() + 60
        while self.adapter("pinned").pinned:
            self.assertLess(time.time(), deadline)

    test_PinAdapterRequest__name = test_PinAdapterRequest__pinned

    def test_UnloadAdapterRequest__unpin(self):
        self.register(name="pinned-too")
        self.control.PinAdapter(control.PinAdapterRequest(name="pinned-too"))
        with self.assertRaises(grpc.RpcError) as refused:
            self.control.UnloadAdapter(control.UnloadAdapterRequest(name="pinned-too"))
        self.assertEqual(refused.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.control.UnloadAdapter(control.UnloadAdapterRequest(name="pinned-too", unpin=True))
        deadline = time.time() + 60
        while self.adapter("pinned-too").loaded:
            self.assertLess(time.time(), deadline)

    def test_UnregisterAdapterRequest__name(self):
        self.register(name="leaving")
        self.control.UnregisterAdapter(control.UnregisterAdapterRequest(name="leaving"))
        self.assertIsNone(self.adapter("leaving"))


if __name__ == "__main__":
    DAEMON = sys.argv.pop(1)
    unittest.main(verbosity=2)

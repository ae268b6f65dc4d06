#!/usr/bin/env python3
"""Writes chat_templates.json: what Hugging Face's apply_chat_template passes to chat templates, and which of a model's
named templates it renders.

Needs PyPI's transformers (5.24) and jinja2 (3.1); no torch. Run from anywhere:
python3 tests/golden/make_chat_template_goldens.py
"""

import json
import pathlib
import tempfile

import tokenizers
import transformers

USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
CALL_OBJECT = {"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [2.0, None]}}}
CALL_TEXT = {"type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}
CALL_BIG = {"type": "function", "function": {"name": "f", "arguments": {"x": 2**64, "y": -(10**30)}}}

TOKENS = {
    "bos_token": "<s>",
    "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": False,
                  "rstrip": False, "single_word": False},
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "image_token": "<image>",
    "sep_token": None,
}
NAMED = [{"name": "default", "template": "D{{ messages | length }}"},
         {"name": "tool_use", "template": "T{{ tools | length }}"},
         {"name": "rag", "template": "R"}]
SEEN = "{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}\n{% endfor %}"


def variables(names):
    return "".join("{{ '%s' }}:{{ %s is defined }}:{{ %s is none }} " % (name, name, name) for name in names)


# Each case is a model's folder and a call: `config` is tokenizer_config.json, `files` are further files.
CASES = [
    {"config": {**TOKENS, "chat_template": variables(
        ["tools", "documents", "messages", "add_generation_prompt", "bos_token", "eos_token", "unk_token", "pad_token",
         "sep_token", "cls_token", "mask_token", "image_token", "enable_thinking", "unk_token_id"])}},
    {"config": {**TOKENS, "chat_template": "{{ bos_token + eos_token + unk_token + pad_token + image_token }}"}},
    {"config": {**TOKENS, "extra_special_tokens": {"voice_token": "<v>", "other": "<o>"},
                "chat_template": "{{ voice_token }}{{ other }}"}},
    {"config": {**TOKENS, "chat_template": "{{ bos_token }}{{ eos_token }}"}, "args": {"bos_token": "<x>"}},
    {"config": {"chat_template": "{{ bos_token is defined }}{{ bos_token }}|{{ unk_token is defined }}"}},
    {"config": {"chat_template": "{{ tools | tojson }}"}, "tools": TOOLS},
    {"config": {"chat_template": "{{ add_generation_prompt }}"}, "add_generation_prompt": False},
    {"config": {"chat_template": "{{ tools is none }}{{ documents | tojson }}"}, "args": {"documents": [{"text": "t"}]}},
    {"config": {"chat_template": SEEN}, "messages": [{"role": "user"}]},
    {"config": {"chat_template": SEEN}, "messages": [{"role": "assistant", "content": None, "name": None}]},
    {"config": {"chat_template": SEEN}, "messages": [{"role": "tool", "content": "", "name": "", "tool_call_id": ""}]},
    {"config": {"chat_template": SEEN}, "messages": [{"role": "assistant", "content": "a", "tool_calls": []}]},
    {"config": {"chat_template": SEEN}, "messages": [{"role": "assistant", "content": "a", "tool_calls": None}]},
    {"config": {"chat_template": SEEN}, "messages": [{"role": "assistant", "content": "a", "reasoning_content": "r"}]},
    {"config": {"chat_template":
                "{% for m in messages %}{% if m.content is defined %}{{ m.content.strip() }}{% endif %}{% endfor %}"},
     "messages": [{"role": "user", "content": " x "}, {"role": "assistant", "tool_calls": [CALL_OBJECT]}]},
    {"config": {"chat_template": "{{ 'x' + messages[0].tool_calls[0].function.arguments }}"},
     "messages": [{"role": "assistant", "tool_calls": [CALL_TEXT]}]},
    {"config": {"chat_template": "{{ messages[0].tool_calls[0].function.arguments | tojson }}"},
     "messages": [{"role": "assistant", "tool_calls": [CALL_OBJECT]}]},
    {"config": {"chat_template": "{{ messages[0].tool_calls[0].function.arguments | tojson }}"},
     "messages": [{"role": "assistant", "tool_calls": [CALL_BIG]}]},
    {"config": {"chat_template": "{{ tools | tojson }}"},
     "tools": [{"type": "function", "function": {"name": "f", "maximum": 2**70}}]},
    {"config": {"chat_template": NAMED}},
    {"config": {"chat_template": NAMED}, "tools": TOOLS},
    {"config": {"chat_template": NAMED[:1]}, "tools": TOOLS},
    {"config": {"chat_template": NAMED[1:]}},
    {"config": {"chat_template": NAMED[1:]}, "tools": TOOLS},
    {"config": {"chat_template": NAMED[2:]}, "tools": TOOLS},
    {"config": {"chat_template": []}},
    {"config": {"chat_template": "config"}, "files": {"chat_template.jinja": "file"}},
    {"config": {"chat_template": NAMED}, "files": {"chat_template.jinja": "file"}, "tools": TOOLS},
    {"config": {}, "files": {"chat_template.jinja": "file", "additional_chat_templates/tool_use.jinja": "tools"}},
    {"config": {}, "files": {"chat_template.jinja": "file", "additional_chat_templates/tool_use.jinja": "tools"},
     "tools": TOOLS},
    {"config": {}, "files": {"chat_template.jinja": "file", "additional_chat_templates/rag.jinja": "rag"},
     "tools": TOOLS},
    {"config": {"chat_template": "config"}, "files": {"additional_chat_templates/tool_use.jinja": "tools"},
     "tools": TOOLS},
    {"config": {"chat_template": "config"}, "files": {"additional_chat_templates/tool_use.jinja": "tools"}},
    {"config": {"chat_template": "config"}, "files": {"additional_chat_templates/default.jinja": "other"}},
    {"config": {}},
]


def run(case, folder):
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(case["config"]))
    for name, text in case.get("files", {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer.apply_chat_template(
        case.get("messages", USER), tools=case.get("tools"), tokenize=False,
        add_generation_prompt=case.get("add_generation_prompt", True), **case.get("args", {}))


def wire_message(message):
    """The fields of Tessera's ChatMessage. JSON stays text, so that large integers keep their digits."""
    fields = {name: value for name, value in message.items() if name != "tool_calls" and value is not None}
    if "tool_calls" in message:
        fields["tool_calls_json"] = json.dumps(message["tool_calls"])
    return fields


def main():
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                case["target"] = run(case, pathlib.Path(folder))
            except Exception as error:  # any error of transformers is the expected result
                case["error"] = str(error)
        case["messages"] = [wire_message(message) for message in case.get("messages", USER)]
        for name in ("tools", "args"):
            if name in case:
                case[name] = json.dumps(case[name])
    with open(pathlib.Path(__file__).parent / "chat_templates.json", "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in CASES) + "\n]\n")
    print(len(CASES), "cases")


if __name__ == "__main__":
    main()

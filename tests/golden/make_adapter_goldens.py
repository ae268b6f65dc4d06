#!/usr/bin/env python3
"""Writes tests/golden/adapters/: LoRA adapters in PEFT's layout for golden models, with the results of peft.

    python3 -m venv VENV && VENV/bin/pip install torch transformers peft safetensors
    VENV/bin/python tests/golden/make_adapter_goldens.py [NAME ...]

MODEL/plain and MODEL/patterns are two adapters. MODEL/golden.json has {prompt_ids, cases: {NAME: [[adapter, weight], ..]}}. MODEL/NAME.f32 has the raw fp32
logits [len(prompt_ids), vocab_size] of a case.

gemma3_nested has the weights of the golden model gemma3 in a multimodal Gemma3ForConditionalGeneration with a small random vision tower.
gemma3_nested/config.json is that model's. Its adapter `plain` changes the vision tower too; its prompts are text alone.
"""
import json
import os
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

HERE = os.path.dirname(os.path.abspath(__file__))
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# name: (dtype of `patterns`, pattern of the MLP of layer 0, pattern of one linear)
USUAL = (r"model\.layers\.0\.mlp\..*", "layers.1.mlp.down_proj")
MODELS = {"qwen2": (torch.float32, *USUAL), "mistral": (torch.float32, *USUAL), "llama32": (torch.float32, *USUAL),
          "qwen3": (torch.bfloat16, *USUAL), "gemma2": (torch.bfloat16, *USUAL), "gemma3": (torch.bfloat16, *USUAL),
          "gemma3_nested": (torch.bfloat16, r"^model\.language_model\.layers\.0\.mlp\..*", "language_model.layers.1.mlp.down_proj")}
CASES = {"base": [], "plain": [["plain", 1.0]], "patterns": [["patterns", 1.0]], "blend": [["plain", 0.7], ["patterns", -0.4]]}


def text_model(name):
    return AutoModelForCausalLM.from_pretrained(os.path.join(HERE, "models", name), dtype=torch.float32)


def nested_model(name):
    """The model of text `name` with a vision tower."""
    text = text_model(name)
    text.config.name_or_path = ""
    torch.manual_seed(0)
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    model = Gemma3ForConditionalGeneration(Gemma3Config(
        text_config=text.config.to_dict(), vision_config=vision, mm_tokens_per_image=1, tie_word_embeddings=True, eos_token_id=[1, 9],
        boi_token_index=125, eoi_token_index=126, image_token_index=127,
        architectures=["Gemma3ForConditionalGeneration"]))
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    return model


def base_model(name):
    return nested_model("gemma3") if name == "gemma3_nested" else text_model(name)


def make(folder, name, config, dtype, seed):
    model = base_model(name)
    torch.manual_seed(seed)
    model = get_peft_model(model, config)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = (torch.randn(parameter.shape) * 0.15).to(dtype)
    config.base_model_name_or_path = name
    model.save_pretrained(folder)
    for file in set(os.listdir(folder)) - {"adapter_config.json", "adapter_model.safetensors"}:
        os.remove(os.path.join(folder, file))


def lora_modules(model):
    return [module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]


def main():
    for name in sys.argv[1:] or MODELS:
        dtype, mlp, down = MODELS[name]
        out = os.path.join(HERE, "adapters", name)
        shutil.rmtree(out, ignore_errors=True)
        make(os.path.join(out, "plain"), name, LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=8, target_modules=["q_proj", "v_proj"]), torch.bfloat16, 1)
        targets = ALL if name != "gemma3_nested" else r".*\.language_model\..*\.(" + "|".join(ALL) + ")"
        make(os.path.join(out, "patterns"), name, LoraConfig(
            task_type="CAUSAL_LM", r=5, lora_alpha=4, use_rslora=True, target_modules=targets, rank_pattern={"q_proj": 9, mlp: 2}, alpha_pattern={down: 3}),
            dtype, 2)
        model = PeftModel.from_pretrained(base_model(name), os.path.join(out, "plain"), adapter_name="plain")
        model.load_adapter(os.path.join(out, "patterns"), adapter_name="patterns")
        model.eval()
        prompt = [3 + (7 * i) % 100 for i in range(24)]
        scalings = {(id(m), a): m.scaling[a] for m in lora_modules(model) for a in m.scaling}
        for case, parts in CASES.items():
            for module in lora_modules(model):
                for adapter in module.scaling:
                    module.scaling[adapter] = scalings[id(module), adapter] * dict(map(tuple, parts)).get(adapter, 0.0)
            model.base_model.set_adapter(["plain", "patterns"])
            with torch.no_grad():
                logits = model(torch.tensor([prompt])).logits[0].float()
            logits.numpy().tofile(os.path.join(out, case + ".f32"))
        if name == "gemma3_nested":
            base_model(name).config.to_json_file(os.path.join(out, "config.json"))
        with open(os.path.join(out, "golden.json"), "w") as f:
            json.dump({"prompt_ids": prompt, "cases": CASES}, f)
            f.write("\n")
        print(name, logits.shape, logits.abs().max())


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes tests/golden/adapters/: LoRA adapters in PEFT's layout for golden models, with the results of peft.

    python3 -m venv VENV && VENV/bin/pip install torch transformers peft safetensors
    VENV/bin/python tests/golden/make_adapter_goldens.py

MODEL/plain and MODEL/patterns are two adapters. MODEL/golden.json has {prompt_ids, cases: {NAME: [[adapter, weight], ..]}}. MODEL/NAME.f32 has the raw fp32
logits [len(prompt_ids), vocab_size] of a case.
"""
import json
import os
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MODELS = ["qwen2", "mistral", "llama32"]
CASES = {"base": [], "plain": [["plain", 1.0]], "patterns": [["patterns", 1.0]], "blend": [["plain", 0.7], ["patterns", -0.4]]}


def make(folder, model_dir, config, dtype, seed):
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = (torch.randn(parameter.shape) * 0.15).to(dtype)
    config.base_model_name_or_path = os.path.basename(model_dir)
    model.save_pretrained(folder)
    for name in set(os.listdir(folder)) - {"adapter_config.json", "adapter_model.safetensors"}:
        os.remove(os.path.join(folder, name))


def lora_modules(model):
    return [module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]


def main():
    for name in MODELS:
        model_dir, out = os.path.join(HERE, "models", name), os.path.join(HERE, "adapters", name)
        shutil.rmtree(out, ignore_errors=True)
        make(os.path.join(out, "plain"), model_dir, LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=8, target_modules=["q_proj", "v_proj"]), torch.bfloat16, 1)
        make(os.path.join(out, "patterns"), model_dir, LoraConfig(
            task_type="CAUSAL_LM", r=5, lora_alpha=4, use_rslora=True, target_modules=ALL, rank_pattern={"q_proj": 9, r"model\.layers\.0\.mlp\..*": 2},
            alpha_pattern={"layers.1.mlp.down_proj": 3}), torch.float32, 2)
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32), os.path.join(out, "plain"), adapter_name="plain")
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
        with open(os.path.join(out, "golden.json"), "w") as f:
            json.dump({"prompt_ids": prompt, "cases": CASES}, f)
            f.write("\n")
        print(name, logits.shape, logits.abs().max())


if __name__ == "__main__":
    main()

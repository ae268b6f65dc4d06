#!/usr/bin/env python3
"""Writes tests/golden/quantization_targets.json: which config group quantises which module, as compressed-tensors decides.

    python3 -m venv VENV && VENV/bin/pip install compressed-tensors
    VENV/bin/python tests/golden/make_quantization_targets_golden.py

Each case has the targets of its config groups and the ignored modules. compressed-tensors applies them to a tiny model of
transformers, and the case lists the group of each module that has a weight matrix: a number, or null for a module that is
not quantised. Modules of a multimodal model are listed by the names that they have in a model of text alone.
"""
import json
import os

import torch
import transformers
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, apply_quantization_config

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quantization_targets.json")
LAYERS = 2
SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 1,
         "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 16, "max_position_embeddings": 64}
NESTED = "model.language_model."

# name, whether the model is multimodal, the groups' targets, ignored modules
CASES = [
    ("all_linears", False, [["Linear"]], ["lm_head"]),
    ("nothing_ignored", False, [["Linear"]], []),
    ("class_ignored", False, [["Linear"]], ["Linear"]),
    ("embedding_class", False, [["Embedding"]], []),
    ("two_classes", False, [["Linear"], ["Embedding"]], ["lm_head"]),
    ("every_module", False, [["Module"], ["Linear"]], []),
    ("class_of_neither", False, [["Conv1d"]], []),
    ("mlp_and_attention", False, [["re:.*mlp.*"], ["re:.*self_attn.*"]], ["lm_head"]),
    ("class_and_regex", False, [["Linear"], ["re:.*down_proj"]], ["lm_head"]),
    ("exact_before_regex", False, [["re:.*mlp.*"], ["model.layers.0.mlp.up_proj"]], []),
    ("exact_before_class", False, [["Linear"], ["model.layers.1.self_attn.o_proj", "lm_head"]], []),
    ("first_regex_of_the_alphabet", False, [["re:.*up_proj"], ["re:.*mlp.*"]], []),
    ("first_regex_is_of_the_later_group", False, [["re:model.*proj"], ["re:.*proj"]], []),
    ("capitals_come_first", False, [["re:model.*"], ["re:[A-Zm]odel.*"]], []),
    ("start_only", False, [["re:self_attn.*", "re:layers.*"]], []),
    ("a_start_is_enough", False, [["re:model.layers.1"]], []),
    ("end_anchor", False, [["re:.*q_proj$"], ["re:.*q_pro$"]], []),
    ("dot_is_any", False, [["re:model.layers.0.mlp.up.proj"]], []),
    ("alternatives", False, [["re:.*\\.(q|k|v)_proj"], ["re:.*\\.(?:gate|up)_proj"]], []),
    ("look_ahead", False, [["re:^(?!.*(q_proj|down_proj)).*proj"]], []),
    ("ignored_look_ahead", False, [["Linear"]], ["re:^(?!.*layers\\.1\\.mlp).*"]),
    ("named_group", False, [["re:.*(?P<part>gate|up)_proj"]], []),
    ("inline_flag", False, [["re:(?i).*MLP.*"]], []),
    ("classes_of_characters", False, [["re:model\\.layers\\.\\d+\\.mlp\\.\\w+"]], []),
    ("part_of_a_name", False, [["up_proj", "mlp", "layers.0.mlp.up_proj"]], []),
    ("ignore_wins", False, [["model.layers.0.mlp.up_proj"], ["Linear"]], ["re:.*up_proj"]),
    ("ignored_names", False, [["Linear"]], ["model.layers.0.self_attn.q_proj", "lm_head", "re:.*layers.1.*"]),
    ("everything", False, [["re:.*"]], ["lm_head"]),
    ("empty_targets", False, [[], ["Linear"]], ["lm_head"]),
    ("empty_regex", False, [["re:"], ["Linear"]], []),
    ("multimodal", True, [["Linear"]], ["re:.*lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"]),
    ("multimodal_nested_names", True, [["re:model.language_model.layers.0.*"], ["re:.*mlp.*"]], ["lm_head"]),
    ("multimodal_exact", True, [["model.language_model.layers.1.mlp.up_proj"], ["re:.*self_attn.*"]], ["lm_head"]),
    ("multimodal_spares_the_others", True, [["Linear"]], ["re:^(?!.*language_model).*", "lm_head"]),
    ("multimodal_look_ahead", True, [["re:^(?!.*(vision|lm_head|k_proj)).*proj"]], []),
]


def tiny(multimodal):
    with torch.device("meta"):
        if not multimodal:
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(tie_word_embeddings=False, **SIZES))
        vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
                  "image_size": 28, "patch_size": 14}
        config = transformers.Gemma3Config(text_config={**SIZES, "sliding_window": 16}, vision_config=vision,
                                           mm_tokens_per_image=4)
        return transformers.Gemma3ForConditionalGeneration(config)


def groups_of(multimodal, groups, ignore):
    # The number of bits tells the groups apart.
    schemes = [QuantizationScheme(targets=targets, weights=QuantizationArgs(num_bits=index + 2))
               for index, targets in enumerate(groups)]
    config = QuantizationConfig(config_groups={f"group_{i}": s for i, s in enumerate(schemes)}, ignore=ignore)
    model = tiny(multimodal)
    apply_quantization_config(model, config)
    result = {}
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            continue
        if multimodal and name != "lm_head" and not name.startswith(NESTED):
            continue
        scheme = getattr(module, "quantization_scheme", None)
        plain = "model." + name[len(NESTED):] if name.startswith(NESTED) else name
        result[plain] = scheme.weights.num_bits - 2 if scheme else None
    return result


def main():
    with open(OUT, "w") as out:
        out.write("[\n")
        for i, (name, multimodal, groups, ignore) in enumerate(CASES):
            case = {"name": name, "multimodal": multimodal, "targets": groups, "ignore": ignore,
                    "groups": groups_of(multimodal, groups, ignore)}
            out.write(json.dumps(case) + (",\n" if i + 1 < len(CASES) else "\n"))
        out.write("]\n")


if __name__ == "__main__":
    main()

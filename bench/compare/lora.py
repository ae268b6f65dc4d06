"""Makes random LoRA adapters in PEFT's layout and counts their weights, with the standard library alone."""
import json
import os
import shutil
import struct

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = ATTENTION + ("gate_proj", "up_proj", "down_proj")
BF16_BYTES = 2
UNIQUE_FILES = 16  # distinct files in a folder of equally shaped adapters; the other files are hard links to them


def linear_shapes(model):
    """Returns {target: (outputs, inputs)} and the number of layers of the model in a folder."""
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    head_dim = c.get("head_dim") or hidden // c["num_attention_heads"]
    queries, keys = head_dim * c["num_attention_heads"], head_dim * c["num_key_value_heads"]
    shapes = {"q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden), "o_proj": (hidden, queries),
              "gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    return shapes, c["num_hidden_layers"]


def num_weights(model, rank, targets):
    shapes, layers = linear_shapes(model)
    return layers * rank * sum(sum(shapes[t]) for t in targets)


def random_bf16(count):
    """Returns random numbers of both signs with magnitudes of 2^-7 to 2^-6, small enough that a random model's activations stay finite."""
    mask = int.from_bytes(b"\x7f\x80" * count, "little")
    base = int.from_bytes(b"\x00\x3c" * count, "little")
    return ((int.from_bytes(os.urandom(2 * count), "little") & mask) | base).to_bytes(2 * count, "little")


def write_adapter(folder, model, rank, targets):
    """Writes an adapter. Its tensors repeat random numbers, so that making an adapter takes little time."""
    shapes, layers = linear_shapes(model)
    pool = random_bf16(rank * max(max(shape) for shape in shapes.values()))
    header, offset = {}, 0
    for layer in range(layers):
        for target in targets:
            block = "self_attn" if target in ATTENTION else "mlp"
            outputs, inputs = shapes[target]
            for name, shape in (("lora_A", [rank, inputs]), ("lora_B", [outputs, rank])):
                size = BF16_BYTES * shape[0] * shape[1]
                header[f"base_model.model.model.layers.{layer}.{block}.{target}.{name}.weight"] = {
                    "dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
                offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(folder)
    with open(os.path.join(folder, "adapter_model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for entry in header.values():
            begin, end = entry["data_offsets"]
            f.write(pool[:end - begin])
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as f:
        json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": model, "r": rank,
                   "lora_alpha": rank, "lora_dropout": 0.0, "bias": "none", "target_modules": list(targets)}, f)


def write_adapters(folder, model, count, ranks, targets):
    """Makes `count` adapters whose ranks alternate. Only the first files are written; the others are hard links to them."""
    num_unique = max(len(ranks), UNIQUE_FILES - UNIQUE_FILES % len(ranks))
    for i in range(count):
        path = os.path.join(folder, f"adapter-{i:05}")
        if i < num_unique:
            write_adapter(path, model, ranks[i % len(ranks)], targets)
        else:
            shutil.copytree(os.path.join(folder, f"adapter-{i % num_unique:05}"), path, copy_function=os.link)

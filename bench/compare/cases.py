"""The cases that are measured, and their limits on the machine. The functions are pure and start no processes.

A case is a line that every worker understands:

    prefill TOKENS                          the first token of a prompt of TOKENS tokens, without a prefix hit
    decode STREAMS CONTEXT TOKENS           TOKENS tokens of each stream, measured after all streams have computed a prompt of CONTEXT
    serve CLIENTS REQUESTS INPUT OUTPUT     a closed loop of streaming clients; output tokens per second of the whole loop
"""
import dataclasses
import json
import os

WEIGHTS = ("bf16", "int8", "int5", "int4")
MODELS = ("qwen2.5-0.5b", "llama-3.2-1b")
# Bytes per weight: (weights of the layers, weights of the logits' table). int5 and int4 have groups of 32 with a 16-bit scale, and
# int8 tables.
BYTES = {"bf16": (2.0, 2.0), "int8": (1.0, 1.0), "int5": (5.5 / 8, 1.0), "int4": (4.5 / 8, 1.0)}
KV_BYTES = 2  # bytes of a number in the KV cache, which is bf16


@dataclasses.dataclass(frozen=True)
class Case:
    verb: str
    numbers: tuple
    warm_up: str  # a shorter line with the same shapes

    @property
    def line(self):
        return " ".join([self.verb, *map(str, self.numbers)])


CASES = {
    "prefill_512": Case("prefill", (512,), "prefill 512"),
    "prefill_4096": Case("prefill", (4096,), "prefill 512"),
    "decode_1": Case("decode", (1, 128, 64), "decode 1 128 4"),
    "decode_8": Case("decode", (8, 128, 32), "decode 8 128 4"),
    "decode_32": Case("decode", (32, 128, 16), "decode 32 128 4"),
    "decode_8_at_2048": Case("decode", (8, 2048, 16), "decode 8 2048 4"),
    "served_32": Case("serve", (32, 64, 128, 64), "serve 32 32 128 2"),
}
QUICK_CASES = ("prefill_512", "decode_1", "decode_32")


@dataclasses.dataclass(frozen=True)
class Costs:
    """The numbers from which a model's limits follow."""

    layer_weights: int  # weights of all layers
    table_weights: int  # weights of the logits' table
    kv_numbers: int  # numbers in the KV cache for each token
    attention_ops: int  # operations for each pair of a query token and a key token


def model_costs(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    hidden, layers, heads, kv_heads = (c[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                                                      "num_key_value_heads"))
    head_dim = c.get("head_dim") or hidden // heads
    layer = hidden * head_dim * (2 * heads + 2 * kv_heads) + 3 * hidden * c["intermediate_size"]
    return Costs(layers * layer, c["vocab_size"] * hidden, 2 * layers * kv_heads * head_dim, 4 * layers * heads * head_dim)


def step_seconds(weights, costs, limits, rows, logit_rows, keys, pairs):
    """Returns the time of a step at the limits: the longer of reading every weight, key and value once, and all arithmetic.

    Products with weights count at the peak of the format (int5 and int4 are computed in int8), attention at bf16's.
    """
    layer_bytes, table_bytes = BYTES[weights]
    read = costs.layer_weights * layer_bytes + costs.table_weights * table_bytes + keys * costs.kv_numbers * KV_BYTES
    products = 2 * (rows * costs.layer_weights + logit_rows * costs.table_weights)
    peak = limits["bf16_gflop_s"] if weights == "bf16" else limits["int8_gop_s"]
    compute = products / peak + pairs * costs.attention_ops / limits["bf16_gflop_s"]
    return max(read / limits["read_gb_s"], compute) / 1e9


def limit_of(case, weights, costs, limits):
    """Returns the upper bound of a case's tokens per second on this machine."""

    def prefill(tokens):
        return step_seconds(weights, costs, limits, tokens, 1, tokens, tokens * (tokens + 1) / 2)

    def decode(streams, keys):
        return step_seconds(weights, costs, limits, streams, streams, streams * keys, streams * keys)

    if case.verb == "prefill":
        return case.numbers[0] / prefill(*case.numbers)
    if case.verb == "decode":
        streams, context, tokens = case.numbers
        return streams / decode(streams, context + tokens / 2)
    clients, _, num_input, num_output = case.numbers
    return num_output / (prefill(num_input) + num_output * decode(clients, num_input + num_output / 2) / clients)

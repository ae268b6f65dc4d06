#!/usr/bin/env python3
"""Makes the first model that ships with Tessera, data and tokenizer included, from nothing.

A seeded grammar (story_grammar.py) writes short English stories and ChatML talks about them; a
byte-level BPE of 1,024 tokens is learnt from them; a Llama of 1.5 million parameters is trained;
deploy/models/tessera-first is written in Hugging Face layout. Needs PyTorch alone, two CPU cores and
about half an hour:

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch
    /tmp/venv/bin/python tests/lab/train_first_model.py

--sample N prints N documents instead. A stopped run goes on from its checkpoint in --work.
"""
import argparse
import collections
import json
import math
import os
import random
import re
import struct
import time

from story_grammar import make_document

# ---- 1. The tokenizer: byte-level BPE in GPT-2's alphabet, the special tokens last. --------------

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB_SIZE, CONTEXT = 1024, 1024
SPLIT = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def byte_alphabet():
    """One printable character per byte, as GPT-2 has it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


class Tokenizer:
    def __init__(self, merges):
        self.alphabet, self.merges, self.cache = byte_alphabet(), [tuple(m) for m in merges], {}
        tokens = sorted(self.alphabet.values()) + [a + b for a, b in self.merges] + SPECIALS
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}

    @classmethod
    def learn(cls, texts):
        """Merges the most frequent neighbours until the vocabulary is full; ties: the alphabet."""
        self, pieces = cls([]), collections.Counter()
        for text in texts:
            for plain in re.split(r"<\|\w+\|>", text):
                pieces.update(SPLIT.findall(plain))
        words = {tuple(self.alphabet[b] for b in piece.encode()): n for piece, n in pieces.items()}
        while len(self.merges) < VOCAB_SIZE - 256 - len(SPECIALS):
            pairs = collections.Counter()
            for word, count in words.items():
                for pair in zip(word, word[1:]):
                    pairs[pair] += count
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            self.merges.append(best)
            words = {self.merge(word, best): count for word, count in words.items()}
        return cls(self.merges)

    @staticmethod
    def merge(word, pair):
        out = []
        for token in word:
            if out and (out[-1], token) == pair:
                out[-1] += token
            else:
                out.append(token)
        return tuple(out)

    def encode_piece(self, piece):
        word = tuple(self.alphabet[byte] for byte in piece.encode())
        while pairs := [pair for pair in zip(word, word[1:]) if pair in self.ranks]:
            word = self.merge(word, min(pairs, key=self.ranks.get))
        return [self.ids[token] for token in word]

    def encode(self, text):
        ids = []
        for part in re.split("(" + "|".join(map(re.escape, SPECIALS)) + ")", text):
            for piece in [part] if part in SPECIALS else SPLIT.findall(part):
                if piece not in self.cache:
                    special = piece in SPECIALS
                    self.cache[piece] = [self.ids[piece]] if special else self.encode_piece(piece)
                ids.extend(self.cache[piece])
        return ids

    def decode(self, ids):
        names, bytes_of = list(self.ids), {char: byte for byte, char in self.alphabet.items()}
        parts = (names[i] for i in ids)
        return b"".join(part.encode() if part in SPECIALS else bytes(bytes_of[c] for c in part)
                        for part in parts).decode(errors="replace")

    def files(self):
        """The names and contents of the two files that others read."""
        level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
        added = [dict(id=self.ids[token], content=token, single_word=False, lstrip=False,
                      rstrip=False, normalized=False, special=True) for token in SPECIALS]
        bpe = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
                   end_of_word_suffix=None, fuse_unk=False, byte_fallback=False,
                   ignore_merges=False, merges=[" ".join(pair) for pair in self.merges],
                   vocab={token: i for token, i in self.ids.items() if token not in SPECIALS})
        yield "tokenizer.json", dict(
            version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
            pre_tokenizer=level, post_processor=level, decoder=level, model=bpe)
        yield "tokenizer_config.json", dict(
            tokenizer_class="PreTrainedTokenizerFast", model_max_length=CONTEXT,
            clean_up_tokenization_spaces=False, chat_template=CHAT_TEMPLATE,
            eos_token=SPECIALS[0], pad_token=SPECIALS[0], additional_special_tokens=SPECIALS[1:],
            added_tokens_decoder={str(token.pop("id")): token for token in map(dict, added)})


# ---- 2. The model: Llama, its weights named and laid out as Hugging Face's. ----------------------

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, MLP = 192, 4, 6, 2, 32, 384
EPS, THETA = 1e-5, 10000.0
END_ID, IM_END_ID = VOCAB_SIZE - 3, VOCAB_SIZE - 1
CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=VOCAB_SIZE,
    hidden_size=HIDDEN, intermediate_size=MLP, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, hidden_act="silu",
    max_position_embeddings=CONTEXT, rms_norm_eps=EPS, rope_theta=THETA, rope_scaling=None,
    attention_bias=False, mlp_bias=False, tie_word_embeddings=True, torch_dtype="bfloat16",
    bos_token_id=None, eos_token_id=END_ID, pad_token_id=END_ID, initializer_range=0.02,
    use_cache=True)
GENERATION_CONFIG = dict(
    do_sample=True, temperature=0.7, top_p=0.9, eos_token_id=[END_ID, IM_END_ID],
    pad_token_id=END_ID)


def new_weights(torch, generator):
    shapes = {"model.embed_tokens.weight": (VOCAB_SIZE, HIDDEN), "model.norm.weight": (HIDDEN,)}
    parts = {"input_layernorm": (HIDDEN,), "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
             "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
             "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
             "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM), "post_attention_layernorm": (HIDDEN,),
             "mlp.gate_proj": (MLP, HIDDEN), "mlp.up_proj": (MLP, HIDDEN),
             "mlp.down_proj": (HIDDEN, MLP)}
    for layer in range(LAYERS):
        for part, shape in parts.items():
            shapes[f"model.layers.{layer}.{part}.weight"] = shape

    def start(name, shape):
        if len(shape) == 1:
            return torch.ones(shape)
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        deviation = 0.04 / math.sqrt(2 * LAYERS) if residual else 0.04
        return torch.randn(shape, generator=generator) * deviation
    return {name: start(name, shape).requires_grad_() for name, shape in shapes.items()}


def forward(torch, weights, ids):
    """Logits [rows, tokens, vocab] of ids [rows, tokens]."""
    F, (rows, tokens) = torch.nn.functional, ids.shape
    frequency = THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = torch.outer(torch.arange(tokens), frequency).repeat(1, 2)  # [tokens, head_dim]
    cos, sin = angle.cos(), angle.sin()

    def heads(x, rotate):  # [rows, tokens, heads * head_dim] -> [rows, heads, tokens, head_dim]
        x = x.view(rows, tokens, -1, HEAD_DIM).transpose(1, 2)
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-high, low], dim=-1) * sin if rotate else x

    def norm(x, name):
        return F.rms_norm(x, (HIDDEN,), weights[name + ".weight"], EPS)

    def linear(x, name):
        return F.linear(x, weights[name + ".weight"])
    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        y = norm(x, at + "input_layernorm")
        q, k, v = (heads(linear(y, at + f"self_attn.{n}_proj"), n != "v") for n in "qkv")
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + linear(y.transpose(1, 2).reshape(rows, tokens, -1), at + "self_attn.o_proj")
        y = norm(x, at + "post_attention_layernorm")
        y = F.silu(linear(y, at + "mlp.gate_proj")) * linear(y, at + "mlp.up_proj")
        x = x + linear(y, at + "mlp.down_proj")
    return F.linear(norm(x, "model.norm"), weights["model.embed_tokens.weight"])


def write_model(torch, folder, weights, tokenizer):
    os.makedirs(folder, exist_ok=True)
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, value in sorted(weights.items()):
        bits = value.detach().bfloat16().contiguous().view(torch.int16).numpy()
        blobs.append(bits.astype("<i2").tobytes())
        end = offset + len(blobs[-1])
        header[name] = dict(dtype="BF16", shape=list(value.shape), data_offsets=[offset, end])
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    configs = {"config.json": CONFIG, "generation_config.json": GENERATION_CONFIG}
    for name, value in [*configs.items(), *tokenizer.files()]:
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


# ---- 3. The training. ----------------------------------------------------------------------------

def make_row(tokenizer, rng, length):
    """Documents one after the other; half of the rows begin inside a document."""
    skip, ids = rng.choice([0, rng.randrange(1, 200)]), []
    while len(ids) < skip + length + 1:
        ids += tokenizer.encode(make_document(rng)) + [END_ID]
    return ids[skip:skip + length + 1]


def say(torch, weights, tokenizer, prompt, num_tokens=90):
    ids = tokenizer.encode(prompt)
    with torch.no_grad():
        for _ in range(num_tokens):
            ids.append(int(forward(torch, weights, torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] in (END_ID, IM_END_ID):
                break
    return tokenizer.decode(ids)


def train(args):
    import torch
    torch.set_num_threads(args.threads)
    os.makedirs(args.work, exist_ok=True)
    texts = (make_document(random.Random(f"bpe {args.seed} {i}")) for i in range(4000))
    tokenizer = Tokenizer.learn(texts)
    weights = new_weights(torch, torch.Generator().manual_seed(args.seed))
    num_weights = sum(w.numel() for w in weights.values())
    groups = [dict(params=[w for w in weights.values() if w.dim() == dim], weight_decay=decay)
              for dim, decay in ((1, 0.0), (2, 0.1))]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))
    checkpoint, step, spent = os.path.join(args.work, "checkpoint.pt"), 0, 0.0
    if os.path.exists(checkpoint):
        state = torch.load(checkpoint)
        step, spent = state["step"], state["spent"]
        optimizer.load_state_dict(state["optimizer"])
        for name, weight in weights.items():
            weight.data.copy_(state["weights"][name])
    print(f"{num_weights:,} weights, step {step} of {args.steps}, {args.tokens} tokens a step")
    begin, begin_step, mean = time.time(), step, None
    while step < args.steps:
        length = 256 if step < args.steps * 0.9 else CONTEXT
        rng = random.Random(f"row {args.seed} {step}")
        batch = torch.tensor([make_row(tokenizer, rng, length) for _ in range(args.tokens // length)])
        cosine = 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 100) * (0.02 + 0.98 * cosine)
        logits = forward(torch, weights, batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        step += 1
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0 or step == args.steps:
            seconds = (time.time() - begin) / (step - begin_step)
            eta = (args.steps - step) * seconds / 60
            print(f"step {step}/{args.steps}  loss {mean:.3f}  "
                  f"{args.tokens / seconds:,.0f} tokens/s  ETA {eta:.1f} min", flush=True)
        if step % 250 == 0 or step == args.steps:
            total = spent + time.time() - begin
            state = dict(step=step, spent=total, optimizer=optimizer.state_dict(), weights=weights)
            torch.save(state, checkpoint)
            write_model(torch, args.out if step == args.steps else args.work, weights, tokenizer)
            print(say(torch, weights, tokenizer, "Once upon a time"), flush=True)
    print(f"{args.out} written; {(spent + time.time() - begin) / 60:.1f} minutes in all")


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--work", default="/tmp/tessera-first", help="checkpoints and interim models")
    parser.add_argument("--out", default="deploy/models/tessera-first")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of one step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sample", type=int, help="print so many documents and stop")
    args = parser.parse_args()
    if args.sample is None:
        return train(args)
    for i in range(args.sample):
        print(make_document(random.Random(f"sample {args.seed} {i}")), "\n" + "-" * 40)


if __name__ == "__main__":
    main()

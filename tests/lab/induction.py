"""Begins a model's first two layers as the circuit that recall needs, so that training starts from it instead of having to find it.

A small model learns formats at once, but the attention that finds "what followed the like words before" (induction heads: Olsson et al., 2022,
arXiv:2209.11895) forms late and suddenly, after tens of millions of tokens; a structured start is a known way around that (Trockman and Kolter, 2023,
arXiv:2305.09828). Here layer 0's head t attends to the token t + 1 back and writes that token's code into a subspace of its own; layer 1's
heads attend where the codes of two neighbouring tokens equal those before the present token, and copy what stands there. All other linears that write
into the stream begin at zero. Everything is trained from there on; nothing is frozen.
"""
import math

import torch

CONSTANT = 0.5  # every embedding's channel 0, so that queries and keys have something to stand on that no token changes
STEP_GAP = 5.0  # by how much the logit of the token aimed at exceeds its neighbour's, in layer 0
MATCH = 16.0    # the logit of one equal code, in layer 1
REACH = 0.7     # the most that rotation may turn a code over the whole context, in radians


def orthonormal(rows, cols, generator):
    """[rows, cols]; the shorter of rows and columns are orthonormal."""
    q, _ = torch.linalg.qr(torch.randn((max(rows, cols), min(rows, cols)), generator=generator))
    return q if q.shape == (rows, cols) else q.T.contiguous()


def begin(c, weights, generator):
    """Rewrites the embeddings' channel 0 and the attention of layers 0 and 1."""
    d, h, heads, kv_heads = c["head_dim"], c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    group, half = heads // kv_heads, d // 2
    rank = min(d, (h - 32) // heads)  # of a code
    turn = c["rope_theta"] ** (-torch.arange(half).float() / half)  # radians per token of each rotary pair
    weights["model.embed_tokens.weight"][:, 0] = CONSTANT
    scale = math.sqrt(h / (1 + CONSTANT ** 2))  # what the first norm multiplies an embedding by

    def attention(layer):
        found = [weights[f"model.layers.{layer}.self_attn.{n}_proj.weight"] for n in "qkvo"]
        for w in found:
            w.zero_()
        return found

    def without_constant(w):  # [n, h] from [n, h - 1]
        return torch.cat([torch.zeros(len(w), 1), w], dim=1)

    # Layer 0. The fast rotary pairs tell neighbours apart: the query is the key turned by the distance.
    q, k, v, o = attention(0)
    fast = int((turn > 0.008).sum())
    length = math.sqrt(STEP_GAP * math.sqrt(d) / float((1 - turn[:fast].cos()).sum())) / (CONSTANT * scale)
    code = without_constant(orthonormal(rank, h - 1, generator))
    places = without_constant(orthonormal(heads * rank, h - 1, generator)).view(heads, rank, h)  # where the code of each distance is written
    for head in range(heads):
        at, kv = head * d, head // group * d
        q[at:at + fast, 0] = length * torch.cos((head + 1) * turn[:fast])
        q[at + half:at + half + fast, 0] = -length * torch.sin((head + 1) * turn[:fast])
        k[kv:kv + fast, 0] = length
        v[kv:kv + rank] = code
        o[:, at:at + rank] = places[head].T / (scale * math.sqrt(rank / h))

    # Layer 1. The slow rotary pairs hardly turn, so they compare codes at any distance.
    q, k, v, o = attention(1)
    slow = (turn * c["max_position_embeddings"] < REACH).nonzero().squeeze(1)
    part = len(slow) // 2 * 2  # of the channels, for each of the two codes
    channels = torch.cat([slow[-part:], slow[-part:] + half]).view(2, part)
    norm = math.sqrt(h / (1 + CONSTANT ** 2 + heads)) * math.sqrt(part / rank)  # of a code as read here
    length = math.sqrt(MATCH * math.sqrt(d)) / norm
    copy = orthonormal(min(kv_heads * d, h), h, generator)
    for kv in range(kv_heads):
        readers = [orthonormal(part, rank, generator) * length for _ in range(2)]
        for i, reader in enumerate(readers):
            # A key is what stood kv + i + 1 back of it; the query is what stands kv + i back here, itself at 0.
            k[kv * d + channels[i]] = reader @ places[kv + i]
            back = kv + i
            query = reader @ (code / math.sqrt(rank / h) if back == 0 else places[back - 1])
            for head in range(kv * group, (kv + 1) * group):
                q[head * d + channels[i]] = query
        rows = copy[kv * d:(kv + 1) * d]
        v[kv * d:kv * d + len(rows)] = rows
        for head in range(kv * group, (kv + 1) * group):
            o[:, head * d:head * d + len(rows)] = rows.T

"""Initialises a model's first two layers as the attention circuit that recall needs, so that training starts from the circuit and need not find it.

A small model learns formats at once. The attention heads that find what followed earlier occurrences of the present words (induction heads: Olsson et al.,
2022, arXiv:2209.11895) form late and suddenly, after tens of millions of tokens. A structured initialisation is a known remedy (Trockman and Kolter, 2023,
arXiv:2305.09828). Here head t of layer 0 attends to the token at distance t + 1 before the present token and writes that token's code into the head's own
subspace. The heads of layer 1 attend to positions where the codes of two neighbouring tokens equal those at the present position, and copy the token there.
All other linears that write into the residual stream start at zero. Training changes all weights; none is frozen.
"""
import math

import torch

CONSTANT = 0.5  # value of channel 0 in every embedding; queries and keys of layer 0 use it because it is the same for all tokens
STEP_GAP = 5.0  # attention logit of the target token minus that of its neighbour, in layer 0
MATCH = 16.0    # attention logit of one equal code, in layer 1
REACH = 0.7     # largest angle by which the rotary embedding may turn a code over the whole context, in radians


def orthonormal(rows, cols, generator):
    """Returns a random matrix [rows, cols] whose rows are orthonormal, or whose columns are if there are fewer columns than rows."""
    q, _ = torch.linalg.qr(torch.randn((max(rows, cols), min(rows, cols)), generator=generator))
    return q if q.shape == (rows, cols) else q.T.contiguous()


def begin(c, weights, generator):
    """Rewrites channel 0 of the embeddings and the attention weights of layers 0 and 1."""
    d, h, heads, kv_heads = c["head_dim"], c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    group, half = heads // kv_heads, d // 2
    rank = min(d, (h - 32) // heads)  # channels of a token's code
    turn = c["rope_theta"] ** (-torch.arange(half).float() / half)  # rotation of each rotary pair, in radians per token
    weights["model.embed_tokens.weight"][:, 0] = CONSTANT
    scale = math.sqrt(h / (1 + CONSTANT ** 2))  # factor by which the first norm multiplies an embedding

    def attention(layer):
        found = [weights[f"model.layers.{layer}.self_attn.{n}_proj.weight"] for n in "qkvo"]
        for w in found:
            w.zero_()
        return found

    def without_constant(w):  # [n, h] from [n, h - 1]
        return torch.cat([torch.zeros(len(w), 1), w], dim=1)

    # Layer 0 uses the fast rotary pairs, whose angles differ much between neighbouring tokens. The query is the key rotated by the head's distance.
    q, k, v, o = attention(0)
    fast = int((turn > 0.008).sum())
    length = math.sqrt(STEP_GAP * math.sqrt(d) / float((1 - turn[:fast].cos()).sum())) / (CONSTANT * scale)
    code = without_constant(orthonormal(rank, h - 1, generator))
    places = without_constant(orthonormal(heads * rank, h - 1, generator)).view(heads, rank, h)  # subspace into which each head writes its token's code
    for head in range(heads):
        at, kv = head * d, head // group * d
        q[at:at + fast, 0] = length * torch.cos((head + 1) * turn[:fast])
        q[at + half:at + half + fast, 0] = -length * torch.sin((head + 1) * turn[:fast])
        k[kv:kv + fast, 0] = length
        v[kv:kv + rank] = code
        o[:, at:at + rank] = places[head].T / (scale * math.sqrt(rank / h))

    # Layer 1 uses the slow rotary pairs, which hardly rotate over the context, so queries and keys can compare codes at any distance.
    q, k, v, o = attention(1)
    slow = (turn * c["max_position_embeddings"] < REACH).nonzero().squeeze(1)
    part = len(slow) // 2 * 2  # number of channels for each of the two codes
    channels = torch.cat([slow[-part:], slow[-part:] + half]).view(2, part)
    norm = math.sqrt(h / (1 + CONSTANT ** 2 + heads)) * math.sqrt(part / rank)  # norm of a code as layer 1 reads it
    length = math.sqrt(MATCH * math.sqrt(d)) / norm
    copy = orthonormal(min(kv_heads * d, h), h, generator)
    for kv in range(kv_heads):
        readers = [orthonormal(part, rank, generator) * length for _ in range(2)]
        for i, reader in enumerate(readers):
            # A key has the code of the token kv + i + 1 positions before it. The query has the code of the token kv + i positions before the present token.
            k[kv * d + channels[i]] = reader @ places[kv + i]
            back = kv + i
            query = reader @ (code / math.sqrt(rank / h) if back == 0 else places[back - 1])
            for head in range(kv * group, (kv + 1) * group):
                q[head * d + channels[i]] = query
        rows = copy[kv * d:(kv + 1) * d]
        v[kv * d:kv * d + len(rows)] = rows
        for head in range(kv * group, (kv + 1) * group):
            o[:, head * d:head * d + len(rows)] = rows.T

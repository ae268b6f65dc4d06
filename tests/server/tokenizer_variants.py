#!/usr/bin/env python3
"""Generates tests/server/tokenizer_variants.json: two tiny tokenizers and many variants of their components (added tokens
with flags, normalizers, pre-tokenizers, decoders, model options), with the ids and texts of PyPI's `tokenizers`. Run in
a virtual environment with tokenizers==0.23.3:

    python tests/server/tokenizer_variants.py > tests/server/tokenizer_variants.json
"""
import copy
import json
import random
import sys

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TRAINING = """The old lighthouse keeper walked along the shore, counting the waves as they came in: one, two, three, four.
"It's late," she said, "and we'll need 25 candles, 1000 matches and a rope." They're not here; we've looked! I'm sure.
Der Müller mahlt grünes Korn für die Bäckerei. L'été dernier, nous avons mangé des crêpes près de l'étang.
Небо было серым, и дождь шёл весь день. 今天的天气很好，我们去公园散步。 東京の夏はとても暑いです。
def area(width, height):\n\tif width <= 0:\n\t\treturn 0\n\treturn width * height  # plain\n
the then there these they them lighter lights lighting keeping keeps kept along alone long longer
"""

PIECES = (TRAINING.split() + TRAINING.replace("\n", " \n ").split(" ") + [
    " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2003", "\x0b", "\x00", "\x7f", "\u180e", "\u200d",
    "\u0301", "e\u0301", "\u00e9", "\u1112\u1161\u11ab", "\ud55c", "\ufb01", "\u2126", "\uff21", "😀", "👩\u200d🚀", "🏳️", "▁",
    "'s", "'S", "'LL", "'ſ", "12345", "٣٤", "Ⅻ", "½", "x²", "_", "--", "...", "!?", "(", ")]", "<s>", "</s>", "<unk>",
    "<mask>", "[TOK]", "<think>", "<thi", "wave", "Wave", "foo_wave", "<0x41>", "ꙮ", "𝔘", "न\u092e\u0938\u094d"])


def tiny_byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([TRAINING], trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>"],
        show_progress=False))
    return json.loads(tokenizer.to_str())


def tiny_pieces():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    byte_tokens = ["<0x%02X>" % b for b in range(256)]
    words = [w for w in TRAINING.split() if w.isascii()]
    tokenizer.train_from_iterator([" " + w for w in words * 2], trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>"] + byte_tokens, show_progress=False))
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = made["added_tokens"][:3]
    made["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    return made


BASES = {"byte": tiny_byte_level(), "piece": tiny_pieces()}


def added(base):
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    wanted = [("<mask>", dict(lstrip=True, special=True)), ("<s>x", dict(rstrip=True)), ("wave", dict(single_word=True)),
              ("<think>", dict(normalized=True)), ("[TOK]", dict(lstrip=True, rstrip=True, normalized=True)),
              ("Wave", dict(single_word=True, normalized=True)), ("<thi", {}), ("  ", {}), ("\u00e9\u3000", dict(normalized=True)),
              ("\u00e9", dict(single_word=True, lstrip=True))]
    vocab = BASES[base]["model"]["vocab"]
    tokens, next_id = copy.deepcopy(BASES[base]["added_tokens"]), len(vocab)
    for content, changes in wanted:
        if content in vocab:
            token_id = vocab[content]
        else:
            token_id, next_id = next_id, next_id + 1
        tokens.append(dict(flags, id=token_id, content=content, **changes) if not changes else
                      {**flags, "id": token_id, "content": content, **changes})
    return tokens


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def then_bytes(*steps):
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps) + [plain]}}


def metaspace(scheme, cut):
    step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
    return {"normalizer": None, "pre_tokenizer": step, "decoder": step}


def decode_by(*steps):
    return {"decoder": {"type": "Sequence", "decoders": list(steps)}}


REPLACE, FALLBACK, FUSE = ({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                           {"type": "Fuse"})
PATTERNS = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\s+$", r"\b", r"^.", r".$", r"\w+|[^\w\s]+", r"\h+", r"\d{2}+", r"\d{2}?", r"\d{,2}t", r"t(?i)he|LE", r"(?m:t.+)",
    r"\p{Han}+", r"\p{^L}+", r"\P{L}+", r"[[:punct:]]+", r"\R", r"\X", r"(?<=e)\s|r(?=\s)", r"", r"e*", r"\u00e9|\x{301}",
    r"\v", r"[\S\n]+", r"\W+", r"[]a]", r"t{", r"(?<n>e)\k<n>|(l)", r"\p{Hiragana}+", r"\p{L}\K\s", r"(?>e+)r|a++", r"\p{Lm}"]

VARIANTS = [("byte", "plain", {}), ("piece", "plain", {}), ("byte", "added", {"added_tokens": added("byte")}),
            ("piece", "added", {"added_tokens": added("piece")})]
for form in ("NFC", "NFD", "NFKC", "NFKD"):
    VARIANTS.append(("byte", form, {"added_tokens": added("byte"), "normalizer": {"type": form}}))
for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
    for invert in (False, True):
        VARIANTS.append(("byte", f"split_{behavior}_{invert}", then_bytes(split(r"\s", behavior, invert))))
    VARIANTS.append(("byte", f"literal_{behavior}", then_bytes(split(" ", behavior, kind="String"))))
for i, pattern in enumerate(PATTERNS):
    VARIANTS.append(("byte", f"pattern_{i}", then_bytes(split(pattern))))
VARIANTS += [
    ("byte", "prefix_space", {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
                              "added_tokens": added("byte")}),
    ("byte", "normalized_bytes", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "ByteLevel"}]},
                                  "pre_tokenizer": None, "added_tokens": added("byte")}),
    ("byte", "digits", then_bytes({"type": "Digits", "individual_digits": False})),
    ("byte", "each_digit", then_bytes({"type": "Digits", "individual_digits": True})),
    ("byte", "punctuation", then_bytes({"type": "Punctuation"})),
    ("byte", "whitespace_split", then_bytes({"type": "WhitespaceSplit"})),
    ("byte", "after_bytes", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Punctuation", "behavior": "Contiguous"},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}, split("[0-9][0-9]")]}}),
    ("byte", "ignore_merges", {"model": {"ignore_merges": True}}),
    ("byte", "roberta", {"post_processor": {"type": "RobertaProcessing", "sep": ["<|end|>", 0], "cls": ["!", 1],
                                            "trim_offsets": True, "add_prefix_space": True}}),
    ("piece", "no_decoder", {"decoder": None}),
    ("piece", "no_byte_fallback", {"model": {"byte_fallback": False}}),
    ("piece", "unk_each", {"model": {"byte_fallback": False, "fuse_unk": False}}),
    ("piece", "dropped", {"model": {"byte_fallback": False, "unk_token": None}}),
    ("piece", "ignore_merges", {"model": {"ignore_merges": True}}),
    ("piece", "replace", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": "▁"},
        {"type": "Replace", "pattern": {"String": "e"}, "content": "oo"}, {"type": "Prepend", "prepend": "w"}]}}),
    ("piece", "strip_two", decode_by(REPLACE, FALLBACK, FUSE, {"type": "Strip", "content": " ", "start": 2, "stop": 0})),
    ("piece", "strip_each", decode_by(REPLACE, {"type": "Strip", "content": " ", "start": 1, "stop": 0})),
    ("piece", "no_strip", decode_by(REPLACE, FALLBACK, FUSE)),
    ("piece", "only_fallback", {"decoder": FALLBACK}),
]
for scheme in ("first", "never", "always"):
    for cut in (True, False):
        VARIANTS.append(("piece", f"metaspace_{scheme}_{cut}", dict(metaspace(scheme, cut), added_tokens=added("piece"))))


def patched(base, patch):
    document = copy.deepcopy(BASES[base])
    for key, value in patch.items():
        if key == "model":
            document["model"].update(value)
        else:
            document[key] = value
    return document


def main():
    rnd = random.Random(7)
    rows = []
    for base, name, patch in VARIANTS:
        tokenizer = Tokenizer.from_str(json.dumps(patched(base, patch)))
        cases = []
        for _ in range(6):
            text = "".join(rnd.choice(PIECES) + rnd.choice(["", " "]) for _ in range(rnd.randrange(1, 9)))
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            mixed = [rnd.choice(plain + [0]) if rnd.random() < 0.7 else rnd.randrange(430) for _ in range(6)]
            cases.append({"text": text, "plain": plain, "special": tokenizer.encode(text).ids,
                          "decoded": tokenizer.decode(plain, skip_special_tokens=False), "ids": mixed,
                          "ids_decoded": tokenizer.decode(mixed, skip_special_tokens=True)})
        rows.append({"base": base, "name": name, "patch": patch, "cases": cases})
    out = ['{"bases": ' + json.dumps(BASES, separators=(",", ":")) + ',', ' "variants": [']
    out += ["  " + json.dumps(row, separators=(",", ":")) + ("," if row is not rows[-1] else "") for row in rows]
    sys.stdout.write("\n".join(out) + "\n]}\n")


main()

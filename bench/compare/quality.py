#!/usr/bin/env python3
"""Which formats of the peers are at least as good as ours: the measured quality in quality.json, and the rule that compares it.

    quality.py MEASURED.json DATE COMMAND    takes the rows of `tests/lab/quality.py --real ... --json` over into quality.json

The quality of a format is its KL: the mean, over the texts of tests/lab/quality.py, of KL(the model in float32 || the model in that
format). It is measured once for each format and not in a comparison. The twin of SmolLM2 is the judge, because SmolLM2's weights
lie on a 4-bit grid, which favours the formats with that grid. Formats are named "SYSTEM FORMAT", for example "ik Q8_0".
"""
import dataclasses
import json
import os
import sys

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quality.json")
JUDGE = "smollm2-twin"
MODELS = (JUDGE, "smollm2")
RESOLUTION = 1e-4  # llama-perplexity keeps the base's log-probabilities in 16 bits, so a smaller difference of KL is rounding
PLAIN = "Q8_0"
LARGEST = 1.6  # a candidate has at most this many times our bytes: BF16 is none for int8
EQUAL, WORSE, UNKNOWN = "counts", "KL is worse", "KL is unknown"
# The row of tests/lab/quality.py that is a format of ours as it is served by default.
OURS = {"bf16": "bfloat16:auto:bfloat16", "int8": "int8:auto:bfloat16", "int5": "int5:auto:bfloat16",
        "int4": "int4:auto:bfloat16"}
# Formats that llama.cpp and ik_llama.cpp have in common, bit by bit. Their mixtures, such as Q4_K_M, differ. Q5_1 and Q4_1 are left
# out: in ik_llama.cpp they lose more than Q5_0, which their grids do not explain, so that its KL says nothing about llama.cpp.
COMMON = ("BF16", "Q8_0", "Q5_0", "Q4_0")


@dataclasses.dataclass(frozen=True)
class Quality:
    kl: float
    half_width: float  # of the 95 % interval of kl
    megabytes: float  # of the weights


def is_at_least_as_good(theirs, ours):
    """Returns whether a peer's format counts as at least as good as ours. A difference within the two intervals or below the
    resolution of the measurement counts for the peer."""
    return theirs.kl - ours.kl <= max(theirs.half_width + ours.half_width, RESOLUTION)


class Qualities:
    """The measured qualities by model and name."""

    def __init__(self, rows):
        self.of_model = {}
        for row in rows:
            quality = Quality(row["kl"], row["kl_half_width"], row["megabytes"])
            self.of_model.setdefault(row["model"], {})[row["name"]] = quality

    def of(self, name, model=JUDGE):
        """Returns the quality of a format, or None if it was not measured."""
        return self.of_model.get(model, {}).get(name)

    def verdict(self, name, weights):
        """Returns EQUAL if the peer's format is at least as good as our `weights`, else the reason why it does not count."""
        theirs, ours = self.of(name), self.of(f"tessera {weights}")
        if theirs is None or ours is None:
            return UNKNOWN
        return EQUAL if is_at_least_as_good(theirs, ours) else WORSE

    def candidates(self, system, weights, number):
        """Returns the formats of a peer that are at least as good as our `weights` and may be the fastest: the `number` smallest,
        because reading the weights takes the time of a decode, and PLAIN, which needs the least arithmetic in a prefill."""
        own = [name for name in self.of_model.get(JUDGE, {}) if name.startswith(system + " ")]
        equal = [name for name in own if self.verdict(name, weights) == EQUAL
                 and self.of(name).megabytes <= LARGEST * self.of(f"tessera {weights}").megabytes]
        equal.sort(key=lambda name: self.of(name).megabytes)
        return [name[len(system) + 1:] for i, name in enumerate(equal) if i < number or name == f"{system} {PLAIN}"]


def read():
    with open(FILE, encoding="utf-8") as f:
        return Qualities(json.load(f)["formats"])


def names_of(row):
    """Returns the names of the formats that a row of tests/lab/quality.py measures."""
    words = row["format"].split()
    if words[0] == "openvino":
        return [row["format"]]
    if words[0] == "llama.cpp":
        return [f"ik {words[1]}"] + ([f"llama.cpp {words[1]}"] if words[1] in COMMON else [])
    return [f"tessera {weights}" for weights, measured in OURS.items() if measured == row["format"]]


def taken_over(rows, date, command):
    """Returns the entries of quality.json for the rows of tests/lab/quality.py."""
    entries = []
    for row in rows:
        for name in names_of(row):
            entry = {"name": name, "model": row["model"], "kl": round(row["kl"], 6),
                     "kl_half_width": round(row["kl_half_width"], 6), "megabytes": round(row["weight_bytes"] / 1e6, 1),
                     "date": date, "command": command}
            if name.startswith("llama.cpp "):
                entry["note"] = "same format; measured with ik_llama.cpp"
            entries.append(entry)
    return entries


def merged(old, new):
    """Returns both lists of entries; a new entry replaces the old one of its name and model."""
    entries = {(entry["model"], entry["name"]): entry for entry in old + new}
    return list(entries.values())


def main():
    measured, date, command = sys.argv[1:]
    with open(measured, encoding="utf-8") as f:
        new = taken_over(json.load(f)["rows"], date, command)
    with open(FILE, encoding="utf-8") as f:
        whole = json.load(f)
    whole["formats"] = merged(whole["formats"], new)
    rows = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in whole["formats"])
    with open(FILE, "w", encoding="utf-8") as f:
        f.write(f'{{"about": {json.dumps(whole["about"], ensure_ascii=False)},\n "formats": [\n  {rows}\n ]}}\n')


if __name__ == "__main__":
    main()

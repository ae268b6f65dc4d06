"""Makes ratios, a table and the JSON from the samples of paired rounds. Pure functions.

The samples of a cell are {name: [tokens per second in round 0, in round 1, ...]}, with the same rounds for every name. A name is
"tessera", or a peer's system and format. `qualities` says which peers are at least as good as we are. Only these count.
"""
import math
import random
import statistics

from compare.quality import EQUAL, MODELS

OURS = "tessera"
RESAMPLES = 2000


def ratio_to_best(samples, rounds=None):
    """Returns Tessera's speed over that of the best peer: the smallest, over the peers, of the medians of paired ratios."""
    ours = samples[OURS]
    rounds = range(len(ours)) if rounds is None else rounds
    return min(statistics.median(ours[r] / theirs[r] for r in rounds) for peer, theirs in samples.items() if peer != OURS)


def interval(samples, seed=1):
    """Returns the 95 % interval of ratio_to_best by a bootstrap over rounds. Each resample chooses the best peer again."""
    rng = random.Random(seed)
    rounds = range(len(samples[OURS]))
    ratios = sorted(ratio_to_best(samples, rng.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    return ratios[int(0.025 * RESAMPLES)], ratios[int(0.975 * RESAMPLES) - 1]


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def is_compared(samples):
    return OURS in samples and len(samples) > 1


def counted(samples, weights, qualities):
    """Returns our samples and those of the peers whose format is at least as good as our `weights`."""
    return {name: speeds for name, speeds in samples.items() if name == OURS or qualities.verdict(name, weights) == EQUAL}


def kl_of(name, weights, qualities, model):
    """Returns the KL of a format, or None if it was not measured."""
    quality = qualities.of(f"{OURS} {weights}" if name == OURS else name, model)
    return quality and quality.kl


def cell_json(key, samples, limit_share, qualities):
    """Returns the JSON object of a cell. REQUIRES: is_compared(counted(samples, ...))."""
    model, weights, case = key
    equal = counted(samples, weights, qualities)
    medians = {name: statistics.median(speeds) for name, speeds in samples.items()}
    return {"model": model, "weights": weights, "case": case, "tessera": medians[OURS],
            "peers": {name: medians[name] for name in equal if name != OURS}, "ratio": ratio_to_best(equal),
            "limit_share": limit_share, "not_counted": {name: medians[name] for name in samples if name not in equal},
            "kl": {name: kl_of(name, weights, qualities, MODELS[0]) for name in samples}}


def report_json(cpu, limits, cells):
    return {"cpu": cpu, "limits": limits, "cells": cells, "geomean": geometric_mean([c["ratio"] for c in cells])}


def row(model, weights, case, name, speed, kls, ratio, interval_text, of_limit, note):
    fields = f"{model:<14}{weights:<8}{case:<17}{name:<18}{speed:>10}" + "".join(f"{kl:>9}" for kl in kls)
    return f"{fields}{ratio:>7}{interval_text:>12}{of_limit:>9}  {note}".rstrip()


def table(results, names, share, qualities):
    """Returns the lines of the table: for each cell a line of ours and one for each peer. `results` is {(model, weights, case): samples};
    names(key) are the names of a cell, ours first, of which some may be missing; share(key) is the share of the limit."""
    lines = [row("model", "weights", "case", "system", "tokens/s", ("KL twin", "KL"), "ratio", "95 %", "of limit", "")]
    for key, samples in results.items():
        equal = counted(samples, key[1], qualities)
        for number, name in enumerate(names(key)):
            speed = f"{statistics.median(samples[name]):.1f}" if name in samples else "missing"
            kls = [f"{kl:.4f}" if kl is not None else "-" for kl in (kl_of(name, key[1], qualities, model) for model in MODELS)]
            ratio, bounds, of_limit, note = "-", "-", "-", ""
            if name == OURS:
                of_limit = f"{share(key):.2f}" if OURS in samples else "-"
                if is_compared(equal):
                    ratio, bounds = f"{ratio_to_best(equal):.2f}", "{:.2f}..{:.2f}".format(*interval(equal))
            else:
                note = qualities.verdict(name, key[1])
                if OURS in samples and name in samples:
                    ratio = f"{ratio_to_best({OURS: samples[OURS], name: samples[name]}):.2f}"
            lines.append(row(*(key if number == 0 else ("", "", "")), name, speed, kls, ratio, bounds, of_limit, note))
    return lines

"""Makes ratios, a table and the JSON from the samples of paired rounds. Pure functions.

The samples of a cell are {system: [tokens per second in round 0, in round 1, ...]}, with the same rounds for every system.
"""
import math
import random
import statistics

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


def cell_json(model, weights, case, samples, limit_share):
    """Returns the JSON object of a cell. REQUIRES: is_compared(samples)."""
    medians = {system: statistics.median(speeds) for system, speeds in samples.items()}
    ours = medians.pop(OURS)
    return {"model": model, "weights": weights, "case": case, "tessera": ours, "peers": medians,
            "ratio": ratio_to_best(samples), "limit_share": limit_share}


def report_json(cpu, limits, cells):
    return {"cpu": cpu, "limits": limits, "cells": cells, "geomean": geometric_mean([c["ratio"] for c in cells])}


def table(results, systems, share):
    """Returns the lines of the table. `results` is {(model, weights, case): samples}; share(key) is the share of the limit."""
    lines = [f"{'model':<14}{'weights':<8}{'case':<17}" + "".join(f"{s:>11}" for s in systems)
             + f"{'ratio':>8}{'95 %':>14}{'of limit':>10}"]
    for key, samples in results.items():
        model, weights, case = key
        line = f"{model:<14}{weights:<8}{case:<17}"
        for system in systems:
            line += f"{statistics.median(samples[system]):>11.1f}" if system in samples else f"{'missing':>11}"
        if is_compared(samples):
            low, high = interval(samples)
            line += f"{ratio_to_best(samples):>8.2f}{f'{low:.2f}..{high:.2f}':>14}"
        else:
            line += f"{'-':>8}{'-':>14}"
        of_limit = f"{share(key):.2f}" if OURS in samples else "-"
        lines.append(line + f"{of_limit:>10}")
    return lines

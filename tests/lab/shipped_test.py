#!/usr/bin/env python3
"""Tests that the shipped models still have the abilities that their cards claim.

    shipped_test.py TESSERAD

Serves the models of deploy/models that have an `abilities.json` (written by score.py), asks the same prompts again, and fails when an accuracy is more than three
percentage points below the accuracy in that file.
"""
import glob
import json
import os
import sys

import daemon
import score

POINTS = 0.03


def figures(cells):
    """Returns the accuracy by (task, context, examples, "1 to 4" or "hard"); "hard" is difficulty 5."""
    sums = {}
    for c in cells:
        key = (c["task"], c["context_tokens"], c["examples"], "hard" if c["difficulty"] == 5 else "1 to 4")
        right, n = sums.get(key, (0, 0))
        sums[key] = (right + c["accuracy"] * c["n"], n + c["n"])
    return {key: right / n for key, (right, n) in sums.items()}


def main():
    cards = sorted(glob.glob(os.path.join(daemon.ROOT, "deploy", "models", "*", "abilities.json")))
    if not cards:
        raise SystemExit("no shipped model has an abilities.json")
    failed = 0
    with daemon.Daemon(sys.argv[1], [os.path.dirname(c) for c in cards]) as served:
        for path in cards:
            with open(path, encoding="utf-8") as file:
                card = json.load(file)
            wanted = [(c["task"], c["difficulty"], c["context_tokens"], c["examples"]) for c in card["cells"]]
            cells, _ = score.measure(score.Server(served.address, card["model"], ""), wanted, card["seed"], card["cells"][0]["n"])
            now = figures(cells)
            for key, claimed in figures(card["cells"]).items():
                ok = now[key] >= claimed - POINTS
                failed += not ok
                print(f"{'ok' if ok else 'FAILED'}  {card['model']} {key}: {100 * now[key]:.1f} %, the card says {100 * claimed:.1f} %")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

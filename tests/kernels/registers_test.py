#!/usr/bin/python3
"""Checks that the register tiles of the CPU kernels keep their accumulators in registers.

    registers_test.py PROGRAM       any program that contains the kernels

Small changes, such as a loop that g++ no longer unrolls, can make g++ move the accumulators to the stack. The tile then has half the speed, and all results stay
right. So this test disassembles the program: a tile may move a few vectors to and from the stack, but not every accumulator.
"""
import re
import subprocess
import sys

TILES = ("ComputeTile", "ComputeQuantTile", "ShrinkTile", "ExpandTile", "WeightedSum")
MOST = 16  # the most vector moves to and from the stack in one tile; a tile with accumulators on the stack has dozens
STACK_MOVE = re.compile(r"%zmm\d+.*\(%rsp|\(%rsp.*%zmm\d+")  # only AVX-512 tiles are checked: other ISAs have too few registers


def main():
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", "-C", sys.argv[1]], check=True, capture_output=True, text=True).stdout
    seen, bad = dict.fromkeys(TILES, 0), []
    for function in text.split("\n\n"):
        name = function.split("\n", 1)[0]
        tile = next((t for t in TILES if re.search(rf"\b{t}<", name)), None)
        if tile is None:
            continue
        seen[tile] += 1
        moves = len(STACK_MOVE.findall(function))
        if moves > MOST:
            bad.append(f"{moves} vector moves to and from the stack: {name}")
    print("\n".join(bad) or f"{sum(seen.values())} tiles stay in registers")
    missing = [tile for tile, count in seen.items() if count == 0]
    if missing:
        sys.exit(f"no function is called {', '.join(missing)}: this test looks at nothing")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

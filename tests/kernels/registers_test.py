#!/usr/bin/python3
"""The inner tiles keep their accumulators in registers.

    registers_test.py PROGRAM       any program that holds the kernels

g++ moves them to the stack for reasons as small as a loop it did not unroll, and a tile then runs at half its speed while every result stays right. So the
disassembly is asked: a tile may touch the stack with vectors a few times, at its edges, not for each accumulator.
"""
import re
import subprocess
import sys

TILES = ("ComputeTile", "ComputeQuantTile", "ShrinkTile", "ExpandTile", "WeightedSum")
MOST = 16  # vector moves to and from the stack in one tile; a tile that lost its registers has dozens
STACK_MOVE = re.compile(r"%zmm\d+.*\(%rsp|\(%rsp.*%zmm\d+")  # AVX-512: the others have too few registers to be judged so


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

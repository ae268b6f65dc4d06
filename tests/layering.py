#!/usr/bin/env python3
"""Guards the floors of the house (README.md, "Map of the house"): reads the includes and fails on one that goes up.

Also: gRPC, protobuf and prometheus types stay in server/ and in the load client (bench/serve); JSON stays in .cc files that
read files; device and vendor `#if`s stay in kernels/cpu, kernels/cuda and kernels/backend.cc; what CUDA sources see is free of
absl and spdlog.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Longest prefix wins. A room may include itself and the rooms listed.
ALLOWED = {
    "kernels/base": [],
    "kernels/ref": ["kernels/base", "kernels"],
    "kernels/cpu": ["kernels/base", "kernels"],
    "kernels/cuda": ["kernels/base", "kernels"],
    "kernels": ["kernels/base"],
    "kernels/model": ["kernels/base", "kernels"],
    "kvstore": ["kernels/base", "kernels"],
    "scheduler": ["kernels/base", "kernels", "kernels/model", "kvstore"],
    "proto": [],
    "server/tokenizer": ["kernels/base"],
    "server/template": ["kernels/base"],
    "server/cli": ["kernels/base", "proto", "google", "tessera"],
    "server": ["kernels/base", "kernels", "kernels/model", "kvstore", "scheduler", "server/tokenizer", "server/template",
               "proto", "tessera", "google"],
    "bench/serve": ["kernels/base", "server/cli", "proto", "tessera", "google"],
}
ROOMS = sorted(ALLOWED, key=len, reverse=True)
CUDA_SEES = ["kernels/backend.h", "kernels/batch.h", "kernels/page_layout.h", "kernels/tensor.h", "kernels/base/types.h",
             "kernels/attention_plan.h", "kernels/device_memory.h"]
RPC = re.compile(r"^(grpc|grpcpp|google/protobuf|prometheus|tessera/v1)")
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]')
DEVICE_IF = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b.*(__AVX|__AMX|__FMA|__CUDA|CUDA_ARCH|__ARM|__aarch64|__x86_64)")


def room_of(path):
    for room in ROOMS:
        if path == room or path.startswith(room + "/"):
            return room
    return None


def check(path, errors):
    room = room_of(path)
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        lines = f.readlines()
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        device_if = DEVICE_IF.match(line)
        if device_if and room not in ("kernels/cpu", "kernels/cuda") and path != "kernels/backend.cc":
            errors.append(f"{where}: a device #if belongs into kernels/cpu, kernels/cuda or kernels/backend.cc")
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        if RPC.match(target) and not room.startswith("server") and room not in ("proto", "bench/serve"):
            errors.append(f"{where}: {target}: gRPC, protobuf and prometheus never leave server/ and its load client")
        if target.startswith("nlohmann/") and path.endswith(".h"):
            errors.append(f"{where}: JSON stays in .cc files")
        if path in CUDA_SEES and target.startswith(("absl/", "spdlog/", "kernels/base/log.h", "kernels/base/status.h")):
            errors.append(f"{where}: {target}: CUDA sources see this header, so no absl and no spdlog")
        other = room_of(target)
        if other is None or other == room or not os.path.exists(os.path.join(ROOT, target)):
            continue
        if other not in ALLOWED[room]:
            errors.append(f"{where}: {room} may not include {other} ({target}): an include goes up a floor")


def main():
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.h", "*.cc", "*.cu", "*.cuh"], cwd=ROOT,
                           capture_output=True, text=True, check=True).stdout.split()
    errors = []
    for path in files:
        if os.path.exists(os.path.join(ROOT, path)) and room_of(path):
            check(path, errors)
    for error in errors:
        print(error)
    print(f"layering: {len(files)} files, {len(errors)} violations")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Guards the floors of the house (README.md, "Map of the house"): reads the includes and fails on one that goes up.

Also: gRPC, protobuf and prometheus types stay in server/ and in the load client (bench/serve); JSON stays in .cc files that
read files; device and vendor `#if`s stay in kernels/cpu, kernels/cuda and kernels/device/backend.cc; what CUDA sources see is free of
absl and spdlog.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Longest prefix wins. A room may include itself and the rooms listed.
KERNELS = ["kernels/base", "kernels/step", "kernels/device", "kernels/sample"]
BACKENDS = ["kernels/ref", "kernels/cpu", "kernels/cuda"]
MODEL = ["kernels/model", "kernels/model/checkpoint", "kernels/model/lora"]
BELOW_SCHEDULER = KERNELS + MODEL + ["kvstore"]
RESIDENCY = ["scheduler/residency", "scheduler/residency/adapters"]
TEXT = ["server/text/tokenizer", "server/text/template"]
WIRE = ["proto", "tessera", "google"]
ALLOWED = {
    "kernels/base": [],
    "kernels/step": ["kernels/base"],
    "kernels/device": ["kernels/base", "kernels/step"],
    "kernels/sample": KERNELS,
    "kernels/ref": KERNELS,
    "kernels/cpu": KERNELS,
    "kernels/cuda": KERNELS,
    "kernels/model": KERNELS + MODEL,
    "kernels/model/checkpoint": KERNELS + MODEL,
    "kernels/model/lora": KERNELS + MODEL,
    "kernels/model/quantize": KERNELS + MODEL,
    "kvstore": ["kernels/base", "kernels/step"],
    # The root of the room is what callers see: requests and generators.
    "scheduler": ["kernels/base", "kernels/step", "scheduler/residency/adapters"],
    "scheduler/residency": BELOW_SCHEDULER + RESIDENCY + ["scheduler"],
    "scheduler/residency/adapters": BELOW_SCHEDULER + RESIDENCY + ["scheduler"],
    "scheduler/plan": BELOW_SCHEDULER + ["scheduler", "scheduler/residency"],
    "scheduler/step": BELOW_SCHEDULER + RESIDENCY + ["scheduler", "scheduler/plan"],
    "scheduler/device": BELOW_SCHEDULER + RESIDENCY + ["scheduler", "scheduler/plan", "scheduler/step"],
    "proto": [],
    "server/text/tokenizer": ["kernels/base"],
    "server/text/template": ["kernels/base"],
    "server/cli": ["kernels/base", *WIRE],
    "server/config": ["kernels/base", *WIRE],
    "server/quantize": ["kernels/base", "kernels/model/quantize", "server/cli", "server/text/tokenizer"],
    "server/call": ["kernels/base", "kernels/step", "scheduler", "scheduler/residency/adapters", "server/door", *TEXT,
                    *WIRE],
    "server/door": ["kernels/base", "server/config"],
    "server/grpc": ["kernels/base", "scheduler", "scheduler/residency/adapters", "server/call", "server/config",
                    "server/door", *TEXT, *WIRE],
    "server/http": ["kernels/base", "server/config"],
    "server/metrics": ["kernels/base", "scheduler", "scheduler/residency/adapters", "scheduler/step", "server/call", "server/door",
                       "server/http", *WIRE],
    "server": BELOW_SCHEDULER + RESIDENCY + [
        "scheduler", "scheduler/plan", "scheduler/step", "scheduler/device", "server/call", "server/config",
        "server/door", "server/grpc", "server/http", "server/metrics", *TEXT, *WIRE],
    "bench/serve": ["kernels/base", "server/cli", *WIRE],
}
ROOMS = sorted(ALLOWED, key=len, reverse=True)
# CUDA sources include the headers of these rooms, and the random numbers of the sampler.
HOST_ONLY = ("kernels/device/transfer.h", "kernels/device/hidden_taps.h")
CUDA_SEES = ("kernels/step/", "kernels/device/", "kernels/sample/philox.h")
GRPC_ROOMS = ("server", "server/grpc", "server/metrics", "server/cli", "bench/serve")
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
        if device_if and room not in ("kernels/cpu", "kernels/cuda") and path != "kernels/device/backend.cc":
            errors.append(f"{where}: a device #if belongs into kernels/cpu, kernels/cuda or kernels/device/backend.cc")
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        if RPC.match(target) and not room.startswith("server") and room not in ("proto", "bench/serve"):
            errors.append(f"{where}: {target}: gRPC, protobuf and prometheus never leave server/ and its load client")
        if target.startswith("nlohmann/") and path.endswith(".h"):
            errors.append(f"{where}: JSON stays in .cc files")
        if target.startswith("grpc") and room not in GRPC_ROOMS:
            errors.append(f"{where}: {target}: gRPC stays in {', '.join(GRPC_ROOMS)}")
        if target == "microhttpd.h" and path != "server/http/http_server.cc":
            errors.append(f"{where}: the HTTP library stays in server/http/http_server.cc")
        other = room_of(target)
        if other is None or other == room or not os.path.exists(os.path.join(ROOT, target)):
            continue
        if path == "kernels/device/backend.cc" and other in BACKENDS:
            continue  # it chooses among them
        if other not in ALLOWED[room]:
            errors.append(f"{where}: {room} may not include {other} ({target}): an include goes up a floor")


def check_cuda_sees(files, errors):
    """No absl and no spdlog in the headers that CUDA sources include, nor in what those include."""
    seen = {f for f in files if f.startswith(CUDA_SEES) and f.endswith(".h") and f not in HOST_ONLY}
    todo = sorted(seen)
    while todo:
        path = todo.pop()
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            targets = [m.group(1) for m in map(INCLUDE.match, f) if m]
        for target in targets:
            if target.startswith(("absl/", "spdlog/")):
                errors.append(f"{path}: {target}: CUDA sources see this header, so no absl and no spdlog")
            elif target in files and target not in seen:
                seen.add(target)
                todo.append(target)


def main():
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.h", "*.cc", "*.cu", "*.cuh"], cwd=ROOT,
                           capture_output=True, text=True, check=True).stdout.split()
    errors = []
    for path in files:
        if os.path.exists(os.path.join(ROOT, path)) and room_of(path):
            check(path, errors)
    check_cuda_sees([f for f in files if os.path.exists(os.path.join(ROOT, f))], errors)
    for error in errors:
        print(error)
    print(f"layering: {len(files)} files, {len(errors)} violations")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

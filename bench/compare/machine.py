"""The machine's CPU name, and its limits: the read bandwidth and the peak operations."""
import os
import re
import subprocess


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "unknown")


def parse_limits(text):
    """Parses the limits that the kernel benchmark prints at its start and at its end, and returns the better ones."""

    def best(pattern):
        found = [float(number) for number in re.findall(pattern, text)]
        if not found:
            raise SystemExit(f"tessera_kernel_bench printed no limits:\n{text}")
        return max(found)

    return {"read_gb_s": best(r"read ([\d.]+) GB/s"), "bf16_gflop_s": best(r"bf16 peak ([\d.]+) GFLOP/s"),
            "int8_gop_s": best(r"int8 peak ([\d.]+) GOP/s")}


def measure_limits(build, threads):
    program = os.path.join(build, "bin", "tessera_kernel_bench")
    done = subprocess.run([program, f"--threads={threads}", "--benchmark_filter=^$"], check=False, capture_output=True,
                          text=True)
    return parse_limits(done.stdout + done.stderr)

#!/usr/bin/env python3
"""The checkers: the floors (layering.py), clang-format on every C++ file, the words of comments, the run bits
of scripts, clang-tidy on every product source.

Prints what is wrong and exits non-zero; `main()` returns a list of (name, ok, text) for run_all.py.
"""
import concurrent.futures
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PRODUCT = ("kernels/", "kvstore/", "scheduler/", "server/", "bench/")


def files(*patterns):
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, capture_output=True,
                         text=True, check=True).stdout.split()
    return [f for f in out if os.path.exists(os.path.join(ROOT, f))]


def run(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


# Words that make a comment hard to follow, and what to write instead.
HABITS = {
    r"(?<!look-)\bbehind\b": "after",
    r"\banew\b": "again",
    r"\blets? go\b": "release",
    r"\b(?:the|a|its|each)\b[\w' ]{0,20}'s begin\b": "start",
}


def words():
    errors = []
    for path in files("*.h", "*.cc", "*.proto"):
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                comment = re.search(r"(?:^|\s)//\s(.*)", line)
                for habit, plain in HABITS.items() if comment else ():
                    if re.search(habit, comment.group(1)):
                        errors.append(f"{path}:{number}: write \"{plain}\": {comment.group(1)}")
    return errors


def first_bytes(path):
    with open(os.path.join(ROOT, path), "rb") as f:
        return f.read(2)


def tidy(path):
    ok, text = run(["clang-tidy", "--quiet", "-p", "build", "--extra-arg=-Wno-unknown-warning-option", path])
    lines = [l for l in text.splitlines() if "warnings generated" not in l and "Suppressed" not in l]
    return path, ok, "\n".join(lines)


def main():
    results = []
    ok, text = run([sys.executable, "tests/layering.py"])
    results.append(("layering", ok, text))
    ok, text = run(["clang-format", "--dry-run", "-Werror", *files("*.h", "*.cc")])
    results.append(("clang-format", ok, "\n".join(text.splitlines()[:40])))
    scripts = [f for f in files("*") if first_bytes(f) == b"#!" and not os.access(os.path.join(ROOT, f), os.X_OK)]
    results.append(("run bits", not scripts, "".join(f"{f}: chmod +x\n" for f in scripts)))
    habits = words()
    results.append(("words", not habits, "\n".join(habits)))
    run(["cmake", "--preset", "release"])  # `make run` may have configured it without tests
    # Generated headers must exist before a source that includes them is read.
    run(["cmake", "--build", "build", "--target", "tessera_proto"])
    sources = [f for f in files("*.cc") if f.startswith(PRODUCT)]
    failed = []
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, (path, ok, text) in enumerate(pool.map(tidy, sources), 1):
            print(f"  clang-tidy {done}/{len(sources)} {path}{'' if ok else ' FAILED'}", flush=True)
            if not ok:
                failed.append(text)
    results.append(("clang-tidy", not failed, "\n".join(failed)))
    return results


if __name__ == "__main__":
    outcome = main()
    for name, ok, text in outcome:
        if not ok:
            print(f"{name} FAILED:\n{text}")
    print(f"{sum(ok for _, ok, _ in outcome)} passed, {sum(not ok for _, ok, _ in outcome)} failed")
    sys.exit(0 if all(ok for _, ok, _ in outcome) else 1)

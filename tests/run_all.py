#!/usr/bin/env python3
"""`make test`: builds and runs everything, ends with `N passed, N failed`.

    run_all.py [STAGE ...]     stages: release lint asan tsan fuzz (default: all)

release  all tests, optimised
lint     tests/lint.py
asan     engine, store, parsers and server under the address and undefined-behaviour sanitizers
tsan     the same under the thread sanitizer
fuzz     every libFuzzer target for FUZZ_SECONDS (30) seconds, from the build of asan

A test that skips because ../shared/data is absent is reported; where the data is present such a skip counts as a failure.
"""
import glob
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests"))
import lint  # noqa: E402

FUZZ_SECONDS = int(os.environ.get("FUZZ_SECONDS", "30"))
SHARED = os.path.isdir(os.environ.get("TESSERA_SHARED_DATA", os.path.join(ROOT, "..", "shared", "data")))
SANITIZER_ENV = {
    "asan": {"ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0",
             "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"},
    "tsan": {"TSAN_OPTIONS": f"halt_on_error=0:second_deadlock_stack=1:suppressions={ROOT}/tests/tsan.supp"},
}


class Tally:
    def __init__(self):
        self.passed, self.failed, self.skipped = 0, [], []

    def add(self, name, ok, why=""):
        if ok:
            self.passed += 1
        else:
            self.failed.append((name, why))


def shell(command, log, env=None):
    """Runs a command with its output in a log file; on failure prints the log's end."""
    with open(log, "w", encoding="utf-8") as f:
        code = subprocess.run(command, cwd=ROOT, stdout=f, stderr=subprocess.STDOUT, env=env).returncode
    if code != 0:
        with open(log, encoding="utf-8", errors="replace") as f:
            print("".join(f.readlines()[-60:]), flush=True)
    return code == 0


def build(preset, directory, tally, target="all"):
    os.makedirs(directory, exist_ok=True)
    log = os.path.join(directory, "build.log")
    ok = shell(["cmake", "--preset", preset], log) and shell(["cmake", "--build", directory, "--target", target], log)
    tally.add(f"{preset}: build", ok, f"see {os.path.relpath(log, ROOT)}")
    return ok


def read_gtest(path, stage, tally):
    """Counts the cases of one gtest binary's report. Returns its number of failures."""
    failures = 0
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{stage}: {case.get('classname')}.{case.get('name')}"
        failure, skip = case.find("failure"), case.find("skipped")
        if failure is not None:
            failures += 1
            tally.add(name, False, (failure.get("message") or "")[:400])
        elif skip is not None:
            reason = " ".join((skip.get("message") or "").split())[-160:]
            if SHARED and "SHARED_DATA" in reason:
                failures += 1
                tally.add(name, False, "skipped although the data is present")
            else:
                tally.skipped.append((name, reason))
        else:
            tally.add(name, True)
    return failures


def ctest(stage, directory, tally):
    reports = os.path.join(directory, "reports")
    shutil.rmtree(reports, ignore_errors=True)
    os.makedirs(reports)
    env = dict(os.environ, GTEST_OUTPUT=f"xml:{reports}/", **SANITIZER_ENV.get(stage, {}))
    junit = os.path.join(reports, "ctest.junit")
    # Release tests run alone, as they also measure. Under a sanitizer most threads of a test wait for one of them.
    at_once = 1 if stage == "release" else os.cpu_count() or 1
    shell(["ctest", "--test-dir", directory, "--output-on-failure", "--output-junit", junit, "--timeout", "900",
           "--parallel", str(at_once)], os.path.join(directory, "ctest.log"), env)
    if not os.path.exists(junit):
        tally.add(f"{stage}: ctest", False, "ctest wrote no report")
        return
    for case in ET.parse(junit).getroot().iter("testcase"):
        name = case.get("name")
        report = os.path.join(reports, name + ".xml")
        ok = case.get("status") == "run"
        failures = read_gtest(report, stage, tally) if os.path.exists(report) else 0
        if not os.path.exists(report):
            tally.add(f"{stage}: {name}", ok, "see ctest.log")
        elif not ok and failures == 0:
            tally.add(f"{stage}: {name}", False, "crashed, timed out or reported by a sanitizer")


def sanitized(stage, tally):
    directory = os.path.join(ROOT, "build", stage)
    if build(stage, directory, tally):
        ctest(stage, directory, tally)


def fuzz(tally):
    directory = os.path.join(ROOT, "build", "asan")
    if not build("asan", directory, tally, target="fuzzers"):
        return
    targets = sorted(t for t in glob.glob(os.path.join(directory, "fuzz", "*")) if os.access(t, os.X_OK))
    running = []
    for target in targets:
        name = os.path.basename(target)
        corpus = os.path.join(directory, "corpus", name)
        os.makedirs(corpus, exist_ok=True)
        seeds = os.path.join(ROOT, "tests", "fuzz", "seeds", name)
        log = open(os.path.join(directory, name + ".log"), "w", encoding="utf-8")
        command = [target, f"-max_total_time={FUZZ_SECONDS}", "-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1",
                   f"-artifact_prefix={directory}/{name}-", corpus] + ([seeds] if os.path.isdir(seeds) else [])
        running.append((name, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)))
        if len(running) >= (os.cpu_count() or 1):
            finish_fuzzer(running.pop(0), tally)
    for item in running:
        finish_fuzzer(item, tally)


def finish_fuzzer(item, tally):
    name, process = item
    code = process.wait()
    tally.add(f"fuzz: {name}", code == 0, f"see build/asan/{name}.log")


def main():
    stages = sys.argv[1:] or ["release", "lint", "asan", "tsan", "fuzz"]
    tally = Tally()
    for stage in stages:
        begin, before = time.time(), (tally.passed, len(tally.failed))
        print(f"== {stage}", flush=True)
        if stage == "release":
            directory = os.path.join(ROOT, "build")
            if build("release", directory, tally):
                ctest("release", directory, tally)
        elif stage == "lint":
            for name, ok, text in lint.main():
                tally.add(f"lint: {name}", ok, text)
        elif stage == "fuzz":
            fuzz(tally)
        else:
            sanitized(stage, tally)
        print(f"   {tally.passed - before[0]} passed, {len(tally.failed) - before[1]} failed here, "
              f"{time.time() - begin:.0f} s", flush=True)
    for name, reason in tally.skipped:
        print(f"skipped {name}: {reason}")
    for name, why in tally.failed:
        print(f"FAILED {name}: {why}")
    if tally.skipped:
        print(f"{len(tally.skipped)} skipped")
    print(f"{tally.passed} passed, {len(tally.failed)} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())

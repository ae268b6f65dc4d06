#!/usr/bin/env python3
"""What `make run` configures must not ask for packages of deploy/packages-test.txt, which users do not have."""
import os
import shlex
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class PackagesTest(unittest.TestCase):
    def test_make_run_configures_without_test_packages(self):
        planned = subprocess.run(["make", "--dry-run", "all"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        configure = next(line for line in planned.splitlines() if "cmake --preset" in line)
        words = shlex.split(configure.split("||")[1].split(">")[0])
        with tempfile.TemporaryDirectory() as folder:
            absent = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in ("GTest", "benchmark")]
            done = subprocess.run([*words, "-B", folder, *absent], cwd=ROOT, check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)

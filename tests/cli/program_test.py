#!/usr/bin/python3
"""Tests of the program tessera without a daemon: tokens, the flags of a connection, and what it prints when one fails.

    program_test.py TESSERA
"""
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

CLIENT = None  # path of the program
VARIABLES = ("TESSERA_SERVER", "TESSERA_TOKEN_FILE", "TESSERA_TLS_CA", "GRPC_VERBOSITY")

# Its key does not exist any more; no server can present it.
AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIUcYXXS4wMKwTMdFOZ59R4qfs56kMwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMdGVzc2VyYS10ZXN0MCAXDTI2MTEzMDIwMzI1MloYDzIxMjYx
MTA2MjAzMjUyWjAXMRUwEwYDVQQDDAx0ZXNzZXJhLXRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAATisTDcGbi25VtzUujtcr19vYt+hFusyfsAbyEweTyAOCCl
0YczNlV5mwLaWgeXBvLyXsM+6CPevDPCKpvhkc6do1MwUTAdBgNVHQ4EFgQUPt2u
tbp+hivuA8vGI0YXQTct3UswHwYDVR0jBBgwFoAUPt2utbp+hivuA8vGI0YXQTct
3UswDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiAX5U5iLeQpwL6e
GvM8aHlHr54MBF0/hF5k9lzeaPnF1AIhAKiVacnjfpNSZXXS60dLz2mmeZiUtid2
whJfEiVn18DK
-----END CERTIFICATE-----
"""


def sha256(token):
    return hashlib.sha256(token.encode()).hexdigest()


class ProgramTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def run_client(self, *words, code=0, **variables):
        env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        done = subprocess.run([CLIENT, *words], env={**env, **variables}, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def file(self, content, mode=0o600):
        path = os.path.join(self.folder.name, "token")
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(path, mode)
        return path

    def test_a_new_token_and_its_hash(self):
        done = self.run_client("token", "new")
        token, token_sha256 = re.fullmatch(r"token: (tsr_[\w-]{43})\ntoken_sha256: ([0-9a-f]{64})\n", done.stdout).groups()
        self.assertEqual(token_sha256, sha256(token))
        self.assertEqual(done.stderr.count("\n"), 1)
        for word in ("mode 600", "--token-file", "security.identities"):
            self.assertIn(word, done.stderr)
        self.assertNotIn(token, done.stderr)
        new = json.loads(self.run_client("token", "new", "--json").stdout)
        self.assertEqual(set(new), {"token", "token_sha256"})
        self.assertEqual(new["token_sha256"], sha256(new["token"]))
        self.assertNotEqual(new["token"], token)

    def test_the_hash_of_an_existing_token(self):
        path = self.file("tsr_abc\n")
        expected = f"token_sha256: {sha256('tsr_abc')}\n"
        self.assertEqual(self.run_client("token", "hash", "--token-file", path).stdout, expected)
        # The value of a flag before the command is not the command.
        self.assertEqual(self.run_client("--token-file", path, "token", "hash").stdout, expected)
        self.assertEqual(self.run_client("token", "hash", TESSERA_TOKEN_FILE=path).stdout, expected)
        done = self.run_client("--json", "token", "hash", "--token-file", path)
        self.assertEqual(json.loads(done.stdout), {"token_sha256": sha256("tsr_abc")})

    def test_token_refusals(self):
        for part, words in (("token needs a verb: new or hash", ()), ("needs a verb", ("old",)),
                            ("token hash needs --token-file FILE", ("hash",)),
                            ("is one word too many", ("new", "now")),
                            ("--token-file is for token hash", ("new", "--token-file", "x")),
                            ("unknown flag '--server'", ("new", "--server", "127.0.0.1:1"))):
            done = self.run_client("token", *words, code=2)
            self.assertIn(part, done.stderr)
            self.assertEqual(done.stdout, "")
        done = self.run_client("token", "hash", "--token-file", self.file("password", 0o644), code=2)
        self.assertIn("chmod o-rwx", done.stderr)
        self.assertNotIn("password", done.stderr)

    def test_a_secret_that_others_may_read_is_never_sent(self):
        for words in (("--token-file", self.file("password", 0o644), "health"),
                      ("health", "--token-file", self.file("password", 0o644))):
            done = self.run_client("--server", "127.0.0.1:1", *words, code=2)
            self.assertIn("--token-file: ", done.stderr)
            self.assertIn("chmod o-rwx", done.stderr)
            self.assertNotIn("password", done.stderr)

    def test_help(self):
        self.assertIn("  token ", self.run_client("--help").stdout)
        for command in ("health", "generate", "models"):
            out = self.run_client(command, "--help").stdout
            for flag in ("--server HOST:PORT", "--token-file FILE", "--tls-ca FILE", "--tls-cert FILE", "--tls-key FILE",
                         "--tls ", "--timeout SECONDS"):
                self.assertEqual(out.count(f"  {flag}"), 1, flag)
        out = self.run_client("token", "--help").stdout
        self.assertIn("tessera token new|hash", out)
        self.assertIn("--token-file FILE", out)
        self.assertNotIn("--server", out)
        self.assertEqual(self.run_client("help", "token").stdout, out)

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([CLIENT, "token", "new"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write to standard output", done.stderr)

    def test_a_failed_handshake_is_told_once(self):
        """gRPC's own log stays silent, unless it is asked for."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def answer():
                while True:
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    with connection:
                        connection.recv(1 << 16)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            server = f"127.0.0.1:{listener.getsockname()[1]}"
            words = ("--server", server, "--tls-ca", self.file(AUTHORITY, 0o644), "health")
            done = self.run_client(*words, code=1)
            loud = self.run_client(*words, code=1, GRPC_VERBOSITY="error")
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
        self.assertRegex(done.stderr, rf"\Atessera: UNAVAILABLE: no TLS connection to {server}: .*\n"
                                      rf"  does tesserad at {server} use TLS, .*\n\Z")
        self.assertIn("Handshake failed", loud.stderr)


if __name__ == "__main__":
    CLIENT = sys.argv.pop(1)
    unittest.main(verbosity=2)

#!/usr/bin/python3
"""Tests of TLS, tokens and certificates with the real programs, a stock Python client and certificates made by openssl.

    security_test.py TESSERAD TESSERA TESSERA-BENCH     runs on the model that ships in deploy/models
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

import grpc

from client_stubs import make_stubs

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "deploy", "models", "tessera-nano")
DAEMON = CLIENT = BENCH = None  # paths of the programs

AUTHORITY_CONFIG = """
[ca]
default_ca = here
[here]
dir = {folder}
database = $dir/index.txt
new_certs_dir = $dir
rand_serial = yes
default_md = sha256
default_days = 1
default_crl_days = 1
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


def openssl(*words):
    subprocess.run(["openssl", *words], check=True, capture_output=True)


class Authority:
    """A certificate authority of openssl in a folder of its own."""

    def __init__(self, folder):
        os.mkdir(folder)
        self.folder = folder
        self.certificate = self.path("ca.pem")
        self.count = 0
        open(self.path("index.txt"), "w").close()
        with open(self.path("ca.cnf"), "w") as f:
            f.write(AUTHORITY_CONFIG.format(folder=folder))
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                "-subj", "/CN=authority", "-keyout", self.path("ca.key"), "-out", self.certificate)

    def path(self, name):
        return os.path.join(self.folder, name)

    def sign(self, names, *options):
        """Returns the paths of a certificate for these subject alternative names and of its key."""
        self.count += 1
        certificate, key, request = (self.path(f"{self.count}.{kind}") for kind in ("pem", "key", "req"))
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test", "-addext",
                f"subjectAltName={names}", "-keyout", key, "-out", request)
        openssl("ca", "-batch", "-notext", "-config", self.path("ca.cnf"), "-cert", self.certificate, "-keyfile",
                self.path("ca.key"), "-in", request, "-out", certificate, *options)
        return certificate, key

    def revoke(self, certificate):
        openssl("ca", "-config", self.path("ca.cnf"), "-cert", self.certificate, "-keyfile", self.path("ca.key"),
                "-revoke", certificate)

    def revocation_list(self):
        path = self.path("crl.pem")
        openssl("ca", "-config", self.path("ca.cnf"), "-cert", self.certificate, "-keyfile", self.path("ca.key"),
                "-gencrl", "-out", path + ".new")
        os.rename(path + ".new", path)
        return path


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, text, mode=0o600):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


class Daemon:
    """A running tesserad whose log is in a file. The end of a `with` block ends it by SIGTERM."""

    def __init__(self, folder, *flags):
        self.log = os.path.join(folder, f"log{time.monotonic_ns()}")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [DAEMON, "--model", f"first={MODEL}", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
                 "--threads", "1", "--kv-cache-bytes", "32MiB", *flags], stdout=subprocess.PIPE, stderr=log, text=True)
        words = self.process.stdout.readline().split()
        assert words[:2] == ["tesserad", "ready"], (words, read(self.log))
        self.address, self.metrics = (word.split("=", 1)[1] for word in words[2:4])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        assert code == 0, (code, read(self.log))

    def client(self, *words):
        return subprocess.run([CLIENT, "--server", self.address, *words], capture_output=True, text=True, timeout=120)

    def wait_for_log(self, text):
        until = time.monotonic() + 60
        while text not in read(self.log).decode():
            assert time.monotonic() < until, (text, read(self.log))
            time.sleep(0.02)


def refused(*flags):
    """The error of a tesserad that does not start."""
    done = subprocess.run([DAEMON, "--model", MODEL, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", *flags],
                          capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr.splitlines()[-1]


class SecurityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        make_stubs(cls.folder)
        global inference, inference_grpc
        import tessera.v1.inference_pb2 as inference
        import tessera.v1.inference_pb2_grpc as inference_grpc
        cls.authority = Authority(os.path.join(cls.folder, "authority"))
        cls.server = cls.authority.sign("DNS:localhost,IP:127.0.0.1")
        cls.tls = ("--tls-cert", cls.server[0], "--tls-key", cls.server[1])

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def new_token(self, name):
        """Returns the file of a new token and its hash."""
        made = json.loads(subprocess.run([CLIENT, "token", "new", "--json"], capture_output=True, check=True).stdout)
        return write(os.path.join(self.folder, name), made["token"] + "\n"), made["token_sha256"]

    def config(self, name, text):
        return write(os.path.join(self.folder, name), text)

    def channel(self, daemon, authority=None, certificate=None):
        own = (None, None) if certificate is None else (read(certificate[1]), read(certificate[0]))
        credentials = grpc.ssl_channel_credentials(read((authority or self.authority).certificate), *own)
        port = daemon.address.rsplit(":", 1)[1]
        return grpc.secure_channel(f"localhost:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)])

    def tokenize(self, channel, token_file=None, text="Once upon a time"):
        metadata = []
        if token_file is not None:
            metadata.append(("authorization", "Bearer " + read(token_file).decode().strip()))
        return inference_grpc.InferenceStub(channel).Tokenize(inference.TokenizeRequest(text=text), timeout=60,
                                                              metadata=metadata)

    def expect(self, code, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        return caught.exception.details()

    def test_tokens_over_tls_with_the_programs_and_a_stock_client(self):
        red, red_hash = self.new_token("red.token")
        ops, ops_hash = self.new_token("ops.token")
        config = self.config("tokens.yaml", "security:\n  identities:\n"
                             f"    - {{tenant: red, token_sha256: {red_hash}}}\n"
                             f"    - {{tenant: ops, admin: true, token_sha256: {ops_hash}}}\n")
        tls = ("--tls-ca", self.authority.certificate)
        with Daemon(self.folder, "--config", config, *self.tls) as daemon:
            done = daemon.client(*tls, "--token-file", red, "generate", "--max-tokens", "4", "Once")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertGreater(len(done.stdout), 1)
            done = daemon.client(*tls, "--token-file", ops, "load")
            self.assertEqual(done.returncode, 0, done.stderr)
            done = daemon.client(*tls, "--token-file", red, "load")
            self.assertEqual(done.returncode, 1)
            self.assertIn("PERMISSION_DENIED", done.stderr)
            self.assertIn("NOT_ADMIN", done.stderr)
            done = daemon.client(*tls, "generate", "Once")
            self.assertEqual(done.returncode, 1)
            self.assertIn("UNAUTHENTICATED", done.stderr)
            self.assertIn("--token-file", done.stderr)
            done = daemon.client("generate", "Once")
            self.assertIn("--tls-ca", done.stderr)
            os.chmod(red, 0o644)
            done = daemon.client(*tls, "--token-file", red, "generate", "Once")
            self.assertEqual(done.returncode, 2)
            self.assertIn("chmod", done.stderr)
            os.chmod(red, 0o600)
            # gRPC's own way to give a token, which it permits over TLS only.
            with self.channel(daemon) as channel:
                self.assertGreater(len(self.tokenize(channel, red).token_ids), 0)
                self.expect(grpc.StatusCode.UNAUTHENTICATED, lambda: self.tokenize(channel))
            credentials = grpc.composite_channel_credentials(
                grpc.ssl_channel_credentials(read(self.authority.certificate)),
                grpc.access_token_call_credentials(read(red).decode().strip()))
            port = daemon.address.rsplit(":", 1)[1]
            with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
                self.assertGreater(len(self.tokenize(channel).token_ids), 0)
            bench = subprocess.run(
                [BENCH, "--server", daemon.address, "--num-requests", "4", "--concurrency", "2", "--input-tokens", "8",
                 "--output-tokens", "4", "--vocab-size", "256", "--quiet",
                 *tls, "--token-file", red, "--tenant", "red"], capture_output=True, text=True, timeout=120)
            self.assertEqual(bench.returncode, 0, bench.stderr)
            with urllib.request.urlopen(f"http://{daemon.metrics}/metrics") as reply:
                metrics = reply.read().decode()
        secrets = [read(red).decode().strip(), read(ops).decode().strip(), red_hash, ops_hash]
        for text in (metrics, read(daemon.log).decode()):
            for secret in secrets:
                self.assertNotIn(secret, text)
        self.assertIn('tenant="red"', read(daemon.log).decode())

    def test_clients_need_a_certificate_of_the_authority(self):
        names = "DNS:pod-1,URI:spiffe://cluster/chat"
        good = self.authority.sign(names)
        expired = self.authority.sign(names, "-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
        other = Authority(os.path.join(self.folder, "other"))
        revoked = self.authority.sign(names)
        self.authority.revoke(revoked[0])
        wrong_name = self.authority.sign("DNS:pod-1,URI:spiffe://cluster/other")
        config = self.config("mutual.yaml", "security:\n"
                             f"  tls: {{client_ca: {self.authority.certificate},"
                             f" client_crl: {self.authority.revocation_list()}}}\n"
                             "  identities: [{tenant: chat, certificate_san: 'spiffe://cluster/chat'}]\n")
        with Daemon(self.folder, "--config", config, *self.tls) as daemon:
            with self.channel(daemon, certificate=good) as channel:
                self.assertGreater(len(self.tokenize(channel).token_ids), 0)
            for refused_certificate in (None, expired, revoked, other.sign(names)):
                with self.channel(daemon, certificate=refused_certificate) as channel:
                    self.expect(grpc.StatusCode.UNAVAILABLE, lambda: self.tokenize(channel))
            with self.channel(daemon, certificate=wrong_name) as channel:
                self.expect(grpc.StatusCode.UNAUTHENTICATED, lambda: self.tokenize(channel))
            with self.channel(daemon, authority=other, certificate=good) as channel:
                self.expect(grpc.StatusCode.UNAVAILABLE, lambda: self.tokenize(channel))
            with grpc.insecure_channel(daemon.address) as channel:
                self.expect(grpc.StatusCode.UNAVAILABLE, lambda: self.tokenize(channel))
            done = daemon.client("--tls-ca", self.authority.certificate, "--tls-cert", good[0], "--tls-key", good[1],
                                 "generate", "--max-tokens", "4", "Once")
            self.assertEqual(done.returncode, 0, done.stderr)
            # A list that changes counts for the next connection.
            self.authority.revoke(good[0])
            self.authority.revocation_list()
            daemon.wait_for_log("new connections get the files as they are now")
            with self.channel(daemon, certificate=good) as channel:
                self.expect(grpc.StatusCode.UNAVAILABLE, lambda: self.tokenize(channel))

    def test_certificates_rotate_under_load(self):
        authority = Authority(os.path.join(self.folder, "rotating"))
        certificate, key = (os.path.join(self.folder, name) for name in ("rotating.pem", "rotating.key"))

        def install(signed):
            for source, target in zip(signed, (certificate, key)):
                shutil.copy(source, target + ".new")  # keeps the mode
                os.rename(target + ".new", target)

        install(authority.sign("DNS:localhost"))
        with Daemon(self.folder, "--tls-cert", certificate, "--tls-key", key) as daemon:
            with self.channel(daemon, authority) as channel:
                request = inference.GenerateRequest(text="Once upon a time")
                request.stopping.max_tokens = 100_000
                request.stopping.ignore_eos = True
                request.sampling.n = 8
                request.stopping.max_tokens = 900
                stream = inference_grpc.InferenceStub(channel).Generate(request, timeout=300)
                next(stream)
                ended = []
                reader = threading.Thread(target=lambda: ended.extend(stream))
                reader.start()
                following = Authority(os.path.join(self.folder, "following"))
                install(following.sign("DNS:localhost"))
                daemon.wait_for_log("new connections get the files as they are now")
                with self.channel(daemon, following) as new_channel:
                    self.assertGreater(len(self.tokenize(new_channel).token_ids), 0)
                with self.channel(daemon, authority) as old_authority:
                    self.expect(grpc.StatusCode.UNAVAILABLE, lambda: self.tokenize(old_authority))
                # What cannot be used changes nothing.
                write(certificate, "damaged")
                daemon.wait_for_log("the old ones stay in use")
                with self.channel(daemon, following) as new_channel:
                    self.assertGreater(len(self.tokenize(new_channel).token_ids), 0)
                reader.join()
                self.assertEqual(stream.code(), grpc.StatusCode.OK)
                self.assertEqual(sum(1 for message in ended if message.HasField("finished")), 8)

    def test_identities_are_read_again(self):
        red, red_hash = self.new_token("first.token")
        blue, blue_hash = self.new_token("second.token")
        line = "    - {{tenant: {}, token_sha256: {}}}\n"
        head = "security:\n  identities:\n"
        path = self.config("changing.yaml", head + line.format("red", red_hash))
        with Daemon(self.folder, "--config", path) as daemon, grpc.insecure_channel(daemon.address) as channel:
            self.tokenize(channel, red)
            self.expect(grpc.StatusCode.UNAUTHENTICATED, lambda: self.tokenize(channel, blue))
            self.config("changing.yaml", head + line.format("blue", blue_hash))
            daemon.wait_for_log("1 identities are known now")
            self.tokenize(channel, blue)
            self.expect(grpc.StatusCode.UNAUTHENTICATED, lambda: self.tokenize(channel, red))
            self.config("changing.yaml", head + line.format("red", "no hash"))
            daemon.wait_for_log("the old ones stay in use")
            self.tokenize(channel, blue)

    def test_what_does_not_start(self):
        code, error = refused("--listen", "0.0.0.0:0")
        self.assertEqual(code, 2)
        self.assertIn("--insecure", error)
        self.assertIn("--tls-cert", error)
        self.assertEqual(refused("--check", "--listen", "0.0.0.0:0")[0], 2)
        with Daemon(self.folder, "--insecure", "--listen", "0.0.0.0:0") as daemon:
            daemon.wait_for_log("connections are not encrypted")
        with Daemon(self.folder, *self.tls, "--listen", "0.0.0.0:0"):
            pass
        open_key = write(os.path.join(self.folder, "open.key"), read(self.server[1]).decode(), 0o644)
        _, other_key = self.authority.sign("DNS:localhost")
        for flags, words in [
                (("--tls-cert", self.server[0]), "--tls-key"),
                (("--tls-client-ca", self.authority.certificate), "--tls-cert"),
                (("--tls-cert", "/nope", "--tls-key", self.server[1]), "security.tls.certificate: "),
                (("--tls-cert", self.server[0], "--tls-key", open_key), "chmod"),
                (("--tls-cert", self.server[0], "--tls-key", other_key), "does not belong"),
                (("--tls-cert", self.server[1], "--tls-key", self.server[1]), "no certificate"),
                (("--set", "security.identities.0.tenant=x"), "token_sha256"),
                (("--set", "security.identities.0.certificate_san=x"), "client_ca"),
                (("--api-key", "secret"), "tessera token new"),
                (("--ssl-certfile", "x"), "--tls-cert"),
        ]:
            for check in ((), ("--check",)):
                code, error = refused(*check, *flags)
                self.assertEqual(code, 2, flags)
                self.assertIn(words, error)

    def test_a_client_without_tls_costs_others_nothing(self):
        with Daemon(self.folder, *self.tls) as daemon:
            host, port = daemon.address.rsplit(":", 1)
            with socket.create_connection((host, int(port))) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                plain.settimeout(60)
                while plain.recv(1000):
                    pass
            with self.channel(daemon) as channel:
                self.assertGreater(len(self.tokenize(channel).token_ids), 0)
            with urllib.request.urlopen(f"http://{daemon.metrics}/metrics") as reply:
                self.assertRegex(reply.read().decode(), r'reason="handshake"\} 1\n')


if __name__ == "__main__":
    DAEMON, CLIENT, BENCH = sys.argv[1:4]
    unittest.main(argv=sys.argv[:1] + sys.argv[4:], verbosity=2)

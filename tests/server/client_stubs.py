"""Makes Python modules of the protos for tests that are stock clients."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def make_stubs(directory):
    """Generates Python modules from proto/ and from the test's own reflection.proto."""
    protos = []
    for base, _, names in os.walk(os.path.join(ROOT, "proto")):
        protos += [os.path.join(base, name) for name in names if name.endswith(".proto")]
    protos.append(os.path.join(ROOT, "tests", "server", "reflection.proto"))
    subprocess.run(
        ["protoc", "-I", os.path.join(ROOT, "proto"), "-I", os.path.join(ROOT, "tests", "server"),
         f"--python_out={directory}", f"--grpc_python_out={directory}",
         "--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin", *protos], check=True)
    # protobuf already has a package `google`, so the generated modules are added to its path.
    import google
    google.__path__.append(os.path.join(directory, "google"))
    import grpc as package
    package.__path__.append(os.path.join(directory, "grpc"))
    sys.path.insert(0, directory)

"""Runs a tesserad on free ports for the duration of a `with` block, and makes the message classes of proto/ with only protobuf and protoc."""
import glob
import os
import re
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Refused(Exception):
    """The daemon did not start; the text is the last line of its standard error."""


class Daemon:
    """A tesserad that serves the models of `folders` at `address`."""

    def __init__(self, tesserad, folders, *flags):
        self.command = [tesserad, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", *flags] + [f for folder in folders for f in ("--model", folder)]

    def __enter__(self):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        match = re.search(r"grpc=(\S+)", self.process.stdout.readline())
        if not match:
            self.__exit__()
            raise Refused(self.said)
        self.address = match.group(1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        self.process.stdout.close()
        self.errors.seek(0)
        self.said = (self.errors.read().strip().splitlines() or ["it said nothing"])[-1]
        self.errors.close()


def message_types():
    """Returns a function that maps the name of a message in tessera.v1 to its class."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "set")
        protos = glob.glob(os.path.join(ROOT, "proto", "tessera", "v1", "*.proto"))
        subprocess.run(["protoc", f"-I{ROOT}/proto", "--include_imports", f"--descriptor_set_out={out}", *protos], check=True)
        with open(out, "rb") as file:
            files = descriptor_pb2.FileDescriptorSet.FromString(file.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())

    def message(name):
        descriptor = pool.FindMessageTypeByName("tessera.v1." + name)
        made = getattr(message_factory, "GetMessageClass", None)
        return made(descriptor) if made else message_factory.MessageFactory(pool).GetPrototype(descriptor)
    return message

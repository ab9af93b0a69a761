"""An S3 server of its own process (moto's), and what it was asked for."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs
import pytest

SERVER = shutil.which("moto_server", path=str(Path(sys.executable).parent))  # of these tests' own environment
needs_server = pytest.mark.skipif(SERVER is None, reason="needs the extra object-store-tests")
KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"}
BUCKET = "bucket"
Server = subprocess.Popen[bytes]


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[Server]:
    """A server on loopback that is told each request's line in `log`; its port is in `args[-1]`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(SERVER), "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        while "Running on" not in log.read_text():
            assert process.poll() is None
            time.sleep(0.1)
        yield process
        process.send_signal(signal.SIGCONT)
        process.kill()


def place(server: Server, *parts: str) -> str:
    """A place in a bucket."""
    options = f"region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{server.args[-1]}"  # type: ignore[index]
    return "/".join((f"s3://{BUCKET}", *parts)) + f"?{options}"


def make_bucket(server: Server) -> pyarrow.fs.FileSystem:
    """The file system of the server, with the bucket in it."""
    filesystem, _ = pyarrow.fs.FileSystem.from_uri(place(server) + "&allow_bucket_creation=true")
    filesystem.create_dir(BUCKET)
    return filesystem


def fetched(log: str) -> list[str]:
    """Names of the objects that a server was asked for, in order."""
    return [unquote(path) for path in re.findall(rf"GET /{BUCKET}/([^? ]+) HTTP", log)]  # may have colours before it

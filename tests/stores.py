"""S3 servers on loopback, each a process of its own: moto's stand-in, and SeaweedFS, which `make test-peers` installs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from tests.processes import START_S, running, told
from tests.sidecar import free_port

WEED = Path(__file__).resolve().parent.parent / ".venv-peers" / "bin" / "weed"
BUCKET = "evidence"


@contextmanager
def moto(folder: Path) -> Iterator[Mapping[str, str]]:
    """Moto's S3 with an empty bucket; the variables that bring a client to it."""
    command = [str(Path(sys.executable).with_name("moto_server")), "--host", "127.0.0.1", "--port", "0"]
    with running(command, folder / "moto.log", os.environ) as log:
        (port,) = told(log, r"Running on http://127\.0\.0\.1:(\d+)")
        yield _with_bucket(f"http://127.0.0.1:{port}")


@contextmanager
def seaweed(folder: Path) -> Iterator[Mapping[str, str]]:
    """SeaweedFS, all its parts in one process, with an empty bucket; the variables that bring a client to it."""
    names = ("-master.port", "-volume.port", "-filer.port", "-s3.port")
    ports = [free_port() for _ in names]  # it takes 10,000 more than each for its own talk
    command = [str(WEED), "server", f"-dir={folder}", "-ip=127.0.0.1", "-filer", "-s3", "-master.telemetry=false"]
    command += [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    with running(command, folder / "weed.log", {"PATH": os.environ["PATH"], "HOME": str(folder)}):
        yield _with_bucket(f"http://127.0.0.1:{ports[-1]}")


def _with_bucket(endpoint: str) -> Mapping[str, str]:
    variables = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
    until = time.monotonic() + START_S
    while True:
        try:
            client(variables | {"AWS_ENDPOINT": endpoint}).create_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)  # its parts come up one after another, and none says that it was the last
        else:
            return variables | {"AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true"}


def client(variables: Mapping[str, str]) -> Any:
    """boto3's client, which knows nothing of ours."""
    return boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT"],
        region_name=variables["AWS_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )

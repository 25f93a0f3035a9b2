"""A Spark cluster on this machine: a standalone master and its workers, each a process of its own, on loopback."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.processes import running, told


@contextmanager
def spark_cluster(folder: Path, workers: int) -> Iterator[str]:
    """The master's URL, with that many workers of one core and 2 GB registered at it."""
    found = importlib.util.find_spec("pyspark")
    assert found is not None
    assert found.origin is not None
    home = Path(found.origin).parent
    environment = {**os.environ, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"}
    start = [str(home / "bin" / "spark-class")]
    listens = ["--host", "127.0.0.1", "--webui-port", "0"]
    with ExitStack() as stack:
        master = [*start, "org.apache.spark.deploy.master.Master", *listens, "--port", "0"]
        log = stack.enter_context(running(master, folder / "master.log", environment))
        (url,) = told(log, r"Starting Spark master at (spark://\S+)")
        for number in range(workers):
            worker = [*start, "org.apache.spark.deploy.worker.Worker", *listens, "--cores", "1", "--memory", "2g"]
            worker += ["--work-dir", str(folder / f"work-{number}"), url]
            stack.enter_context(running(worker, folder / f"worker-{number}.log", environment))
        told(log, r"Registering worker (\S+)", workers)
        yield url

"""`tokenledger proxy` without the second that its imports take: a process that has imported them, and forks for each proxy.

`python -m tests.warm FD` reads from that socket; each message holds the words of a command, the environment and the umask, and
brings the files for stdout, stderr and the status: there the pid is written, and in the end the exit code.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MESSAGE_BYTES = 1 << 17
_NUMBER = struct.Struct("=i")


class Forked:
    """A proxy that was forked, used as `subprocess.Popen` is: its stdout is a pipe of text."""

    def __init__(self, words: Sequence[str]) -> None:
        self.args = list(words)
        self.returncode: int | None = None
        said, stdout = os.pipe()
        self._status, status = os.pipe()
        umask = os.umask(0)
        os.umask(umask)
        message = json.dumps([self.args, dict(os.environ), umask]).encode()
        socket.send_fds(_forks(), [message], [stdout, 2, status])
        os.close(stdout)
        os.close(status)
        self.stdout = os.fdopen(said, encoding="utf-8")
        self.pid = self._read()

    def _read(self) -> int:
        (number,) = _NUMBER.unpack(os.read(self._status, _NUMBER.size))
        return int(number)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, minus the signal where that ended it; raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._read()
            os.close(self._status)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code once there is one."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Nothing where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _forks() -> socket.socket:
    """The other end of the process that forks; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        number = theirs.fileno()
        subprocess.Popen([sys.executable, "-m", "tests.warm", str(number)], cwd=ROOT, pass_fds=[number])
    return ours


def _stand_by(asked: bytes, files: list[int]) -> None:
    """Fork, tell the pid, wait and tell the exit code; in a process of its own, so that nobody waits for two."""
    stdout, stderr, status = files
    pid = os.fork()
    if pid == 0:
        words, environment, umask = json.loads(asked)
        os.close(status)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        os.umask(umask)
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = words[2:]  # without the interpreter and its -m
        import tokenledger  # noqa: PLC0415 as `python -m tokenledger` would come to it

        tokenledger.main()
    os.close(stdout)
    os.write(status, _NUMBER.pack(pid))
    os.write(status, _NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


def main() -> None:
    """Import, then fork until nobody asks any more."""
    import proxy.commands.serve  # noqa: F401, PLC0415 what takes the time

    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who stand by are not waited for
    while True:
        asked, files, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 3)
        if not asked:
            return
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _stand_by(asked, files)
        for file in files:
            os.close(file)


if __name__ == "__main__":
    main()

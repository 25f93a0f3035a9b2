"""What stays through a power cut: bytes once their file is synced, a name once its folder is."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """The folder (0700) and those above it, each with its name on the disk: files synced in a folder go with the folder."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync(folder.parent)


def replace(path: Path, content: bytes) -> None:
    """Replace a file whole (0600): through a crash or a power cut a reader finds the old one or the new one."""
    fresh = path.with_name(f".{path.name}.{threading.get_native_id()}.new")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    sync(path.parent)


def create(path: Path, content: bytes) -> None:
    """Make a file (0600) unless it is there, whole or not at all: of all who try at once one succeeds, and everybody then finds the same."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        replace(fresh, content)
        with contextlib.suppress(FileExistsError):  # another was first, and its file counts
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    sync(path.parent)

"""A home beside others on one raw store: it brings what it lacks, and follows what was erased elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from etl.erasure import Erased, erase, erased
from etl.sources import sha256_in
from schemas import manifest, sharedkeys
from schemas.home import Home
from schemas.manifest import SealedFile
from schemas.rawstore import RawStore


def follow(home: Home, store: RawStore, told: Callable[[int, int], None]) -> int:
    """Bring every file that the home's manifest names and the home lacks, and the keys of bodies; how many files came.

    What an event names as erased goes here too, or gives way to what the store has left of it. Raises RawStoreError.
    """
    named = [file for seal in manifest.read(home.manifest) for file in seal.files]
    missing = [file for file in named if file.kind != "body" and not (home.raw / file.path).exists()]
    count = store.fetch(home, missing, lambda file, digest: digest == file.sha256, told)
    gone = erased(home)  # known only now: the events are among what came
    bodies = [file for file in named if file.kind == "body"]
    erase(home, [file for file in bodies if gone.allows(file, None)])
    count += store.fetch(home, [file for file in bodies if _is_wanted(home, file, gone)], gone.allows, told)
    sharedkeys.publish(home, store)
    sharedkeys.collect(home, store)
    return count


def _is_wanted(home: Home, file: SealedFile, gone: Erased) -> bool:
    """Whether the store has to say what lies here: nothing does, though nobody erased the file, or its messages were erased since."""
    if gone.allows(file, None):
        return False
    path = home.raw / file.path
    return not path.exists() or (file.path in gone.files and gone.is_unfinished(file, sha256_in(path)))

"""raw/ of many sidecars in one object store: sealed files put once, and the manifest's lines as objects that only one can create.

Each line of the chain is `manifest/NUMBER.json`, put on the condition that nothing is there yet (If-None-Match: *): whoever is
first has the number, the other chains its line to it and tries the next. That put is the commit point, as the line is on a
disk; a file that no line names does not exist. A home's own raw/ holds the same chain and the same files, fetched and hashed.
pyarrow's S3 has no conditional put, therefore obstore, which also knows Google's and Azure's stores.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from schemas import durable, manifest
from schemas.errors import LedgerError, UsageError
from schemas.home import Home
from schemas.manifest import Seal, SealedFile

FETCHERS = 8


class RawStoreError(LedgerError):
    """The store did not answer, or refused."""

    def __init__(self, url: str, error: Exception) -> None:
        words = str(error).strip().splitlines()[0]
        cure = "check its address and the AWS_ variables (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT, ...), then run it again"
        super().__init__(f"the raw store {url}: {words}", cure)


class DivergedError(LedgerError):
    """The home and the store have each a line that the other has not."""

    def __init__(self, url: str, path: Path, number: int) -> None:
        super().__init__(
            f"{path} and {url} differ at line {number}", "a home has one store for good: name the one it began with in book.toml"
        )


class RawStore:
    """A folder of an object store, as `s3://BUCKET/PREFIX`; addresses and credentials come from the environment, as its library reads them."""

    def __init__(self, url: str) -> None:
        """Raises UsageError where the library is missing or does not know such a store."""
        self.url = url
        try:
            import obstore  # noqa: PLC0415  an extra: a team on one machine has no store
        except ModuleNotFoundError:
            raise UsageError("obstore is not installed, and book.toml names a raw store", "pip install 'tokenledger[store]'") from None
        try:
            self._store: Any = obstore.store.from_url(url)
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise UsageError(f"book.toml: [raw] store = {url!r}: {error}", "write it as s3://BUCKET/PREFIX") from None
        self._library: Any = obstore

    def join(self, home: Home) -> list[Seal]:
        """Bring a home's chain and the store's together: what only one has follows in the other; the whole chain.

        Raises RawStoreError, ManifestError and DivergedError.
        """
        chain = manifest.read(home.manifest)
        for seal in chain[self._shared(home, chain) :]:  # sealed before the store was named
            self._put_files(home, seal.files)
            if not self._create(seal):
                raise DivergedError(self.url, home.manifest, seal.number)
        fresh = self._lines_after(chain)
        if fresh:
            durable.make_folder(home.raw)
            durable.replace(home.manifest, b"".join(seal.line() for seal in (*chain, *fresh)))
        return [*chain, *fresh]

    def commit(self, home: Home, chain: list[Seal], seal: Seal) -> Seal:
        """Put a seal's files, then its line at the end of the chain, whatever others have appended; `chain` and the home's manifest follow.

        Raises RawStoreError: then nothing is sealed, and the next run does it.
        """
        self._put_files(home, seal.files)
        while not self._create(seal):
            chain[:] = self.join(home)
            seal = seal.after(chain)
        return seal

    def fetch(
        self, home: Home, files: Sequence[SealedFile], allows: Callable[[SealedFile, str], bool], told: Callable[[int, int], None]
    ) -> int:
        """Bring these files, in the place of what lies here; how many were asked for. `told` hears how many are done, of how many.

        A file of whose SHA-256 `allows` says no is not kept: it stays missing, which a build tells as quarantined.
        """
        with ThreadPoolExecutor(FETCHERS) as pool:
            for count, _ in enumerate(pool.map(lambda file: self._fetch(home, file, allows), files), 1):
                told(count, len(files))
        return len(files)

    def sizes(self, folder: str) -> dict[str, int]:
        """The bytes of each object in a folder, by name."""
        batches = self._asked(self._library.list, prefix=folder)
        try:
            return {found["path"]: found["size"] for batch in batches for found in batch}
        except self._library.exceptions.BaseError as error:
            raise RawStoreError(self.url, error) from None

    def get(self, name: str) -> bytes | None:
        """An object's bytes; null where there is none."""
        try:
            return bytes(self._asked(self._library.get, name).bytes())
        except (FileNotFoundError, self._library.exceptions.NotFoundError):
            return None

    def create(self, name: str, content: bytes) -> bool:
        """Put an object unless its name is taken; whether it was put."""
        try:
            self._asked(self._library.put, name, content, mode="create")
        except self._library.exceptions.AlreadyExistsError:
            return False
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Put an object in the place of what has its name."""
        self._asked(self._library.put, name, content)

    def remove(self, names: Sequence[str]) -> None:
        """Delete objects, those that are there."""
        for name in names:
            with contextlib.suppress(FileNotFoundError, self._library.exceptions.NotFoundError):
                self._asked(self._library.delete, name)

    def _fetch(self, home: Home, file: SealedFile, allows: Callable[[SealedFile, str], bool]) -> None:
        content = self.get(file.path)
        if content is not None and allows(file, hashlib.sha256(content).hexdigest()):
            durable.make_folder((home.raw / file.path).parent)
            durable.replace(home.raw / file.path, content)

    def _shared(self, home: Home, chain: Sequence[Seal]) -> int:
        """How many lines of a chain the store has: a line holds the hash of all before it, so that the last one speaks for them."""
        for seal in reversed(chain):
            line = self.get(_name(seal.number))
            if line == seal.line():
                return seal.number
            if line is not None:
                raise DivergedError(self.url, home.manifest, seal.number)
        return 0

    def _lines_after(self, chain: Sequence[Seal]) -> list[Seal]:
        seals = list(chain)
        while line := self.get(name := _name(len(seals) + 1)):
            seals.append(manifest.next_line(line, seals, f"{self.url}/{name}"))
        return seals[len(chain) :]

    def _put_files(self, home: Home, files: Iterable[SealedFile]) -> None:
        for file in files:
            self._asked(self._library.put, file.path, home.raw / file.path)

    def _create(self, seal: Seal) -> bool:
        """Whether the line is now the store's; false where another has its number. One that was put and not answered for is ours."""
        return self.create(_name(seal.number), seal.line()) or self.get(_name(seal.number)) == seal.line()

    def _asked(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return call(self._store, *arguments, **options)
        except (self._library.exceptions.AlreadyExistsError, self._library.exceptions.NotFoundError):
            raise
        except self._library.exceptions.BaseError as error:
            raise RawStoreError(self.url, error) from None


def _name(number: int) -> str:
    return f"manifest/{number:012d}.json"

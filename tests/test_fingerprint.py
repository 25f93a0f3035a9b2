"""The key behind every fingerprint: made once and whole, however many come at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from schemas.fingerprint import KEY_BYTES, BrokenKeyError, home_key
from schemas.home import Home


def test_everybody_gets_the_same_whole_key(home: Home) -> None:
    """Eight at once: nobody sees a key that is still being written, and nothing but the key is left."""
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: home_key(home), range(8)))
    (key,) = keys
    assert len(key) == KEY_BYTES
    assert [path.name for path in home.secrets.iterdir()] == [home.fingerprint_key.name]
    assert home.fingerprint_key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "00", "no key"])
def test_a_broken_key_is_told_and_never_used(home: Home, content: str) -> None:
    """An empty key would give fingerprints that anybody can compute."""
    home_key(home)
    home.fingerprint_key.write_text(content)
    with pytest.raises(BrokenKeyError, match="restore it"):
        home_key(home)

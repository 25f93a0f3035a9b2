"""A picture of each page in light, dark and phone width, from a home that has a ledger: `make screenshots` takes the demo's.

    python tools/screenshots.py HOME FOLDER

It starts the pages on a free port, opens each in Debian's chromium and writes FOLDER/<page>-<look>.png.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

LOOKS = {"light": (1280, 960, "light"), "dark": (1280, 960, "dark"), "phone": (390, 844, "light")}
RECEIPT, RUN = "receipt", "run"


@contextmanager
def pages(home: Path) -> Iterator[str]:
    """The address of the pages over a home, until the end."""
    command = [sys.executable, "-m", "tokenledger", "--home", str(home), "web", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip().removeprefix("ready web=")
        finally:
            process.terminate()


def addresses(browser: Browser, base: str) -> dict[str, str]:
    """Each page of the navigation by its name, one receipt that fell back, and one run."""
    page = browser.new_page()
    page.goto(base)
    found = {
        link.inner_text(): link.get_attribute("href") or "" for link in page.get_by_role("navigation", name="Pages").locator("a").all()
    }
    answer = page.request.post(
        f"{base}/sql",
        headers={"Origin": base},
        form={"query": "select arg_max(request_id, fallback_count), max(run_id) from ledger", "form": "csv"},
    ).text()
    request_id, run_id = answer.splitlines()[1].split(",")
    found |= {RECEIPT: f"/requests/{request_id}"} if request_id else {}
    found |= {RUN: f"/runs/{run_id}"} if run_id else {}
    page.close()
    return found


def shoot(home: Path, folder: Path) -> list[Path]:
    """Write the pictures; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with pages(home) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        found = addresses(browser, base)
        for look, (width, height, scheme) in LOOKS.items():
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            for name, path in found.items():
                page.goto(base + path)
                written.append(folder / f"{re.sub(r'[^a-z]+', '-', name.lower())}-{look}.png")
                page.screenshot(path=written[-1])
            context.close()
        browser.close()
    return written


def main() -> None:
    """Read the two arguments, write, and say what was written."""
    home, folder = map(Path, sys.argv[1:])
    if not (home / "ledger" / "ledger.duckdb").exists():
        sys.exit(f"screenshots: {home} has no ledger; make demo makes one")
    for path in shoot(home, folder):
        print(f"{path} {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()

"""Clients of every kind that this machine has, with nothing but what `tokenledger env` prints: each passes the forward door to a TLS upstream."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.home import Home
from tests import clients
from tests.certs import make_authority
from tests.sidecar import Sidecar, Way, command, recorded, sidecar, write_book
from tests.upstream import Upstream, serving

# Not 127.0.0.1, which is exempt: the client would go round the door.
HOST = "127.0.0.2"
BODY = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hi."}]})
OUR_WORDS = ("PROXY", "CERT", "BUNDLE", "CA_CERTS", "JAVA_TOOL_OPTIONS")


@dataclass(frozen=True)
class Reach:
    """A running door, an upstream behind it, and the environment that `tokenledger env --java` gave."""

    home: Home
    proxy: Sidecar
    upstream: Upstream
    env: dict[str, str]

    @property
    def url(self) -> str:
        return f"{self.upstream.base_url}/chat/completions"

    def run(self, *words: str, cwd: Path | None = None) -> str:
        """A client process with the printed environment and nothing else of that kind; what it wrote."""
        ours = {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in OUR_WORDS)}
        done = subprocess.run(list(words), env=ours | self.env, capture_output=True, text=True, check=False, timeout=60, cwd=cwd)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def passed(self, word: str) -> int:
        """How many requests of a user agent with this word the forward door recorded."""
        rows = recorded(self.home, "request")
        agents = [json.loads(row["headers"]).get("user-agent", "") for row in rows if row["door"] == "forward"]
        return sum(word.lower() in agent.lower() for agent in agents)


@pytest.fixture(scope="module")
def reach(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reach]:
    with _reach(tmp_path_factory.mktemp("reach"), HOST) as found:
        yield found


@contextmanager
def _reach(folder: Path, host: str) -> Iterator[Reach]:
    authority = make_authority(folder / "ca")
    home = Home(folder / "home")
    with serving(Upstream(host=host, tls=authority.issue(host))) as upstream:
        write_book(home, [Way("official", upstream.base_url)])
        with sidecar(home, "--upstream-ca", str(authority.cert)) as proxy:
            words = command(home, "env", "--java", "--json", "--forward-port", proxy.forward.rpartition(":")[2])
            printed = subprocess.run(words, capture_output=True, text=True, check=True, cwd=clients.ROOT)
            yield Reach(home, proxy, upstream, json.loads(printed.stdout))


PYTHON = {
    "requests": """
import requests, sys
answer = requests.post(sys.argv[1], data=sys.argv[2], headers={"content-type": "application/json"}, timeout=20)
print(answer.status_code, answer.json()["model"])
""",
    "httpx2": """
import httpx2, sys
answer = httpx2.post(sys.argv[1], content=sys.argv[2], headers={"content-type": "application/json", "user-agent": "python-httpx2"}, timeout=20)
print(answer.status_code, answer.json()["model"])
""",
    "aiohttp": """
import aiohttp, asyncio, sys
async def main():
    async with aiohttp.ClientSession(trust_env=True) as session:
        async with session.post(sys.argv[1], data=sys.argv[2], headers={"content-type": "application/json"}) as answer:
            print(answer.status, (await answer.json())["model"])
asyncio.run(main())
""",
}


@pytest.mark.parametrize("library", PYTHON)
def test_python_libraries_pass_the_door(reach: Reach, library: str) -> None:
    """requests, httpx and aiohttp (with trust_env, which the SDK's client sets) find proxy and bundle by themselves."""
    before = reach.passed(library)
    assert reach.run(sys.executable, "-c", PYTHON[library], reach.url, BODY).split() == ["200", "gpt-4o-mini-2024-07-18"]
    assert reach.passed(library) == before + 1


def test_websockets_passes_the_door(reach: Reach) -> None:
    """The upgrade is seen by the door, whatever the upstream answers it."""
    code = """
import sys
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
try:
    connect(sys.argv[1], open_timeout=20).close()
except WebSocketException as refused:
    print(type(refused).__name__)
"""
    reach.run(sys.executable, "-c", code, reach.upstream.base_url.replace("https", "wss") + "/responses")
    assert reach.passed("websockets") == 1


@pytest.mark.skipif(clients.curl() is None, reason="no curl on this machine")
def test_curl_passes_the_door(reach: Reach) -> None:
    """With the variables alone, no option."""
    said = reach.run("curl", "--silent", "--show-error", "--header", "content-type: application/json", "--data", BODY, reach.url)
    assert json.loads(said)["model"] == "gpt-4o-mini-2024-07-18"
    assert reach.passed("curl") == 1


FETCH = """
const answer = await fetch(process.argv[1], {method: "POST", body: process.argv[2],
  headers: {"content-type": "application/json", "user-agent": "fetch-of-node"}})
console.log(answer.status, (await answer.json()).model)
"""


@pytest.mark.skipif(clients.node() is None, reason="no Node under tests/node: run `make test`, or `npm ci` there")
def test_node_passes_the_door(reach: Reach) -> None:
    """Node 22 and later read the proxy variables with NODE_USE_ENV_PROXY, and our certificate beside their own."""
    said = reach.run(str(clients.node()), "--input-type=module", "-e", FETCH, reach.url, BODY)
    assert said.split() == ["200", "gpt-4o-mini-2024-07-18"]
    assert reach.passed("fetch-of-node") == 1


def _old_node() -> str | None:
    found = shutil.which("node")
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    return found if version.startswith("v20.") else None


@pytest.mark.skipif(_old_node() is None, reason="no Node 20 on this machine")
def test_node_20_does_not_pass_the_door(reach: Reach) -> None:
    """It ignores the variables and goes straight to the upstream: such a client needs the gateway door, as the README says."""
    before = reach.passed("fetch-of-node")
    code = FETCH.replace("const answer", "process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'; const answer")
    reach.run(str(_old_node()), "--input-type=module", "-e", code, reach.url, BODY)
    assert reach.passed("fetch-of-node") == before


JAVA = """
import java.net.*; import java.net.http.*; import java.nio.charset.StandardCharsets;
public class Ask {
  public static void main(String[] a) throws Exception {
    HttpRequest request = HttpRequest.newBuilder(URI.create(a[0])).header("content-type", "application/json")
      .header("user-agent", "java-http-client").POST(HttpRequest.BodyPublishers.ofString(a[1])).build();
    HttpClient client = HttpClient.newBuilder().proxy(ProxySelector.getDefault()).version(HttpClient.Version.HTTP_1_1).build();
    System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
    HttpURLConnection old = (HttpURLConnection) new URL(a[0]).openConnection();
    old.setDoOutput(true); old.setRequestProperty("content-type", "application/json"); old.setRequestProperty("user-agent", "java-url");
    old.getOutputStream().write(a[1].getBytes(StandardCharsets.UTF_8));
    System.out.println(old.getResponseCode());
  }
}
"""


def _own_name() -> str | None:
    """This machine's name where it stands for a loopback address: Java exempts 127.* itself, whatever it is told."""
    try:
        return name if socket.gethostbyname(name := socket.gethostname()).startswith("127.") else None
    except OSError:
        return None


@pytest.mark.skipif(not (shutil.which("javac") and shutil.which("keytool")), reason="no Java with a compiler on this machine")
@pytest.mark.skipif(_own_name() is None, reason="this machine's name is no loopback address")
def test_java_passes_the_door(tmp_path: Path) -> None:
    """Both of its HTTP clients, by JAVA_TOOL_OPTIONS and the trust store that keytool made."""
    (tmp_path / "Ask.java").write_text(JAVA)
    with _reach(tmp_path, str(_own_name())) as reach:
        assert reach.run("java", "Ask.java", reach.url, BODY, cwd=tmp_path).split() == ["200", "200"]
        assert (reach.passed("java-http-client"), reach.passed("java-url")) == (1, 1)


@pytest.mark.skipif(shutil.which("keytool") is None, reason="no keytool on this machine")
def test_java_gets_a_store_with_its_own_roots_and_ours(reach: Reach) -> None:
    """The options that were there stay, ours are not written twice, and the store names our authority."""
    store = reach.home.ca / "bundle.p12"
    listed = subprocess.run(
        ["keytool", "-list", "-keystore", str(store), "-storepass", "changeit"], capture_output=True, text=True, check=True
    )
    assert "tokenledger," in listed.stdout
    words = command(reach.home, "env", "--java", "--json")
    before = {**os.environ, "JAVA_TOOL_OPTIONS": f"-Xmx64m {reach.env['JAVA_TOOL_OPTIONS']}"}
    printed = subprocess.run(words, capture_output=True, text=True, check=True, cwd=clients.ROOT, env=before)
    options = json.loads(printed.stdout)["JAVA_TOOL_OPTIONS"].split()
    assert options[0] == "-Xmx64m"
    assert len(options) == len(set(options)) == 1 + len(reach.env["JAVA_TOOL_OPTIONS"].split())


def test_what_was_set_can_be_taken_back(reach: Reach) -> None:
    """After the lines of --remove a shell has none of the variables; where Java is not asked for, a comment says so."""
    set_lines = subprocess.run(command(reach.home, "env"), capture_output=True, text=True, check=True, cwd=clients.ROOT).stdout
    unset_lines = subprocess.run(
        command(reach.home, "env", "--remove"), capture_output=True, text=True, check=True, cwd=clients.ROOT
    ).stdout
    left = subprocess.run(["sh", "-c", f"{set_lines}\n{unset_lines}\nenv"], capture_output=True, text=True, check=True, env={}, timeout=10)
    assert [line for line in left.stdout.splitlines() if line.partition("=")[0] in reach.env] == []
    assert set_lines.splitlines()[-1].startswith("# ")
    assert set(reach.env) <= {line.removeprefix("unset ") for line in unset_lines.splitlines()} | {"JAVA_TOOL_OPTIONS"}

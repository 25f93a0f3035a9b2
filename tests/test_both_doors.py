"""One real call through the forward door to our own gateway: recorded twice, charged once."""

from __future__ import annotations

from pathlib import Path

import httpx2

from etl.build import build
from schemas.home import Home
from tests.rawdata import one, rows
from tests.sidecar import Priced, Way, free_port, seal_all, sidecar, write_book
from tests.upstream import Upstream, serving


def test_a_call_through_the_forward_door_to_our_gateway_is_charged_once(tmp_path: Path) -> None:
    """Two such calls with equal bodies are two requests of one try each; who they belong to is said at the outer door."""
    home, port = Home(tmp_path / "home"), free_port()
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hi."}]}
    with serving(Upstream()) as upstream:
        ways = [Way("official", upstream.base_url), Way("self", f"http://127.0.0.1:{port}/v1")]
        write_book(
            home, ways, prices=[Priced(channel, "*", meter, "1") for channel in ("official", "self") for meter in ("input", "output")]
        )
        with (
            sidecar(home, "--gateway-port", str(port)) as running,
            httpx2.Client(proxy=running.forward, trust_env=False, timeout=20) as http,
        ):
            headers = {"authorization": "Bearer sk-both-0123456789abcdef", "x-ledger-run": "run-1"}
            answers = [http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
    seal_all(home)
    build(home)
    assert (
        rows(home, "SELECT door, run_id, attempt_count, retry_count, served_channel FROM ledger")
        == [{"door": "gateway", "run_id": "run-1", "attempt_count": 1, "retry_count": 0, "served_channel": "official"}] * 2
    )
    assert {row["request_id"] for row in rows(home, "FROM ledger")} == {answer.headers["x-ledger-request-id"] for answer in answers}
    ends = rows(home, "SELECT disposition, count(*) AS n, sum(duplicates) AS duplicates FROM dispositions GROUP BY ALL ORDER BY 1")
    assert [tuple(row.values()) for row in ends] == [("charged", 2, 0), ("duplicate", 2, 2)]
    cost = sum(answer.json()["usage"]["total_tokens"] for answer in answers)
    assert one(home, "SELECT -sum(amount) * 1000000 AS paid FROM journal WHERE account LIKE 'wallet:%'") == {"paid": cost}

"""Live: requests as they are recorded, read from the journals that the proxies are writing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.frames import Frame, decode
from schemas.home import Home
from schemas.spool import slots


@dataclass
class Tail:
    """How far each segment has been read. The first reading only finds the end, so that what follows is new."""

    home: Home
    places: dict[Path, int] = field(default_factory=dict)
    begun: bool = False

    def news(self) -> list[dict[str, Any]]:
        """What was recorded since the last call: requests and how their tries ended, as the page shows them."""
        found = []
        for slot in slots(self.home):
            for segment in slot.segments():
                for frame in self._frames(segment):
                    told = _told(frame)
                    if told is not None and self.begun:
                        found.append(told)
        self.begun = True
        return found

    def _frames(self, segment: Path) -> Iterator[Frame]:
        place = self.places.get(segment, 0)
        try:
            with segment.open("rb") as file:
                file.seek(place)
                data = file.read()
        except FileNotFoundError:  # sealed meanwhile
            return
        for found in decode(data):
            if not isinstance(found, Frame):
                return  # a frame being written, or damage that the sealer will name: look again next time
            self.places[segment] = place + found.end
            yield found


def _told(frame: Frame) -> dict[str, Any] | None:
    row = frame.fields
    if frame.kind == "request":
        return {
            "event": "request", "id": row["request_id"], "at": row["received_at"] // 1000, "door": row["door"],
            "what": f"{row['method']} {row['path']}", "model": row.get("api_model"),
        }  # fmt: skip
    if frame.kind == "attempt":
        return {"event": "attempt", "id": row["request_id"], "channel": row["channel"], "reason": row["reason"]}
    if frame.kind == "response":
        return {
            "event": "response", "id": row["request_id"], "at": row["closed_at"] // 1000, "status": row.get("http_status"),
            "ending": row["ending"], "model": row.get("served_model"), "ordinal": row["ordinal"],
        }  # fmt: skip
    return None

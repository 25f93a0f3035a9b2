// Follows the recorded requests. Everything comes as text and is written as text.
"use strict";
const rows = document.getElementById("rows");
const state = document.getElementById("state");
const known = new Map();
const KEPT = 200;

function row(id) {
  let tr = known.get(id);
  if (tr === undefined) {
    tr = document.createElement("tr");
    for (let n = 0; n < 7; n += 1) tr.append(document.createElement("td"));
    const link = document.createElement("a");
    link.href = `/requests/${encodeURIComponent(id)}`;
    link.textContent = id;
    tr.children[2].append(link);
    known.set(id, tr);
    rows.prepend(tr);
    while (known.size > KEPT) {
      const [oldest, gone] = known.entries().next().value;
      gone.remove();
      known.delete(oldest);
    }
  }
  return tr.children;
}

function tell(news) {
  const cells = row(news.id);
  if (news.event === "request") {
    cells[0].textContent = `${new Date(news.at).toISOString().slice(0, 19).replace("T", " ")} UTC`;
    cells[1].textContent = news.door;
    cells[3].textContent = news.what;
    cells[4].textContent = news.model ?? "";
  } else if (news.event === "attempt") {
    cells[5].textContent = [cells[5].textContent, `${news.channel} (${news.reason})`].filter(Boolean).join(", ");
  } else {
    cells[6].textContent = `${news.status ?? "no answer"}, ${news.ending.replaceAll("_", " ")}`;
  }
}

const source = new EventSource("/live/events");
source.onopen = () => { state.textContent = "following"; };
source.onerror = () => { state.textContent = "connection lost, trying again"; };
source.onmessage = (event) => tell(JSON.parse(event.data));

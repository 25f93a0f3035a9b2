// Sends one request through this server to the gateway, shows the stream as text, then its receipt.
"use strict";
const form = document.getElementById("ask");
const answer = document.getElementById("answer");
const receipt = document.getElementById("receipt");
const link = document.getElementById("receipt-link");

function deltas(text) {
  let said = "";
  for (const line of text.split(/\r\n|\r|\n/)) {
    if (!line.startsWith("data:")) continue;
    try {
      said += JSON.parse(line.slice(5)).choices?.[0]?.delta?.content ?? "";
    } catch { /* [DONE], or a line that is still coming */ }
  }
  return said;
}

function showLink(href, text) {
  const a = document.createElement("a");
  a.href = href;
  a.textContent = text;
  link.replaceChildren(a);
}

async function send(data) {
  const reply = await fetch("/playground/send", { method: "POST", body: data });
  if (!reply.ok) {
    const told = await reply.json();
    answer.textContent = `${told.error}\n${told.cure ?? ""}`;
    return;
  }
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let whole = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    whole += value;
    const head = whole.indexOf("\n");
    if (head >= 0) answer.textContent = deltas(whole.slice(head + 1));
  }
  const head = whole.indexOf("\n");
  const first = JSON.parse(whole.slice(0, head));
  if (first.status !== 200) answer.textContent = `HTTP ${first.status}\n${whole.slice(head + 1)}`;
  if (first.request_id === null) return;
  const address = `/requests/${encodeURIComponent(first.request_id)}`;
  showLink(address, first.request_id);
  const told = await fetch(`${address}/receipt.txt?wait`);
  receipt.textContent = await told.text();
}

async function research(data) {
  answer.textContent = "planning, asking, writing";
  const reply = await fetch("/playground/research", { method: "POST", body: data });
  const told = await reply.json();
  if (!reply.ok) {
    answer.textContent = `${told.error}\n${told.cure ?? ""}`;
    return;
  }
  answer.textContent = `Research support, not advice.\n\n${told.report}`;
  const address = `/runs/${encodeURIComponent(told.run_id)}`;
  showLink(address, told.run_id);
  const run = await fetch(`${address}/receipt.txt?wait`);
  receipt.textContent = await run.text();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const data = new URLSearchParams(new FormData(form));
  answer.textContent = "";
  receipt.textContent = "";
  link.replaceChildren();
  const buttons = form.querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  try {
    await (event.submitter?.value === "research" ? research(data) : send(data));
  } catch (error) {
    answer.textContent = String(error);
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
});

// The status page works without this script. With it, the page shows what changes, and how long ago.
"use strict";

const live = document.getElementById("live");
let clockOffset = Number(document.body.dataset.now) * 1000 - Date.now();

function ago(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

function showAges() {
  const now = Date.now() + clockOffset;
  for (const time of document.getElementsByTagName("time")) {
    if (!time.title) time.title = time.textContent;
    const text = ago(now - Date.parse(time.dateTime));
    if (time.textContent !== text) time.textContent = text;
  }
}

function follow() {
  const source = new EventSource("page/events");
  source.onopen = () => { live.textContent = "Live."; };
  source.onmessage = (event) => {
    const { now, changed } = JSON.parse(event.data);
    clockOffset = now * 1000 - Date.now();
    // The server has escaped what comes from others, and no inline script may run.
    for (const [id, html] of Object.entries(changed)) {
      const element = document.getElementById(id);
      if (element) element.innerHTML = html;
    }
    showAges();
  };
  source.onerror = () => { live.textContent = "Connection lost: this page may be out of date."; };
  addEventListener("pagehide", () => source.close());
}

function changeRow(change) {
  const row = document.createElement("tr");
  const fields = change.after || change.before || {};
  const what = Object.entries(fields).map(([name, value]) => `${name}: ${JSON.stringify(value)}`);
  for (const text of [change.at, change.by || "at start", change.what, change.location || "", what.join("; ")]) {
    row.insertCell().textContent = text;
  }
  return row;
}

async function showChanges(event) {
  event.preventDefault();
  const place = document.getElementById("changes");
  const token = document.getElementById("token");
  try {
    const headers = { Authorization: `Bearer ${token.value}`, Accept: "application/json" };
    const response = await fetch("audit?limit=20", { headers, redirect: "error" });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.detail || response.statusText);
    token.value = "";
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const name of ["When", "By", "What", "Location", "Change"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = name;
      head.append(cell);
    }
    table.createTBody().append(...answer.changes.map(changeRow));
    place.replaceChildren(table);
  } catch (error) {
    place.textContent = `They cannot be shown: ${error.message}`;
  }
}

// With a token the script asks, since a form cannot send it in a header field. Without one the
// browser does, as without a script.
async function ask(query) {
  const place = document.getElementById("answers");
  const token = document.getElementById("user-token").value.trim();
  try {
    const headers = { "X-Auth-Token": token, Accept: "text/html" };
    const response = await fetch(`?${query}`, { headers, redirect: "error" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const answer = page.getElementById("answers");
    if (!answer) throw new Error(`the answer is ${response.status} ${response.statusText}`);
    place.replaceChildren(...answer.childNodes);
    showAges();
  } catch (error) {
    place.textContent = `There is no answer: ${error.message}`;
  }
}

function hasToken() {
  return document.getElementById("user-token").value.trim() !== "";
}

const question = document.getElementById("question");
question.addEventListener("submit", (event) => {
  if (!hasToken()) return;
  event.preventDefault();
  ask(new URLSearchParams(new FormData(question)));
});
document.getElementById("answers").addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!hasToken() || !link?.getAttribute("href").startsWith("?")) return;
  event.preventDefault();
  ask(link.search.slice(1));
});
document.getElementById("user-token-field").hidden = !isSecureContext;

const form = document.getElementById("changes-form");
form.addEventListener("submit", showChanges);
form.hidden = !isSecureContext; // over http the token could be read on its way
showAges();
setInterval(showAges, 1000);
follow();

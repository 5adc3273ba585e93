// Uploads of pictures that are dropped on the page or chosen: two requests at a time.

import { answer, said } from "./api.js";

const status = document.getElementById("add-status");
const problems = document.getElementById("add-problems");
const drop = document.getElementById("drop");
const AT_ONCE = 2;
let waiting = [];
let running = 0;
let sent = 0;
let refused = 0;
let scored = false;

export function showScoring(pending, failed) {
  for (const problem of failed.slice(Number(problems.dataset.told || 0))) tell(problem);
  problems.dataset.told = failed.length;
  if (waiting.length || running) return;
  if (pending) {
    status.textContent = `${pending} ${pending === 1 ? "picture is" : "pictures are"} being scored.`;
    scored = true;
  } else if (scored) {
    scored = false;
    finished();
  }
}

function finished() {
  status.replaceChildren("The pictures are scored. ");
  if (!sent) return;
  const link = document.createElement("a");
  link.href = "./?queue=added";
  link.textContent = "Review them";
  status.append(link);
}

function take(files) { // [name, File]
  if (!files.length) return;
  problems.replaceChildren();
  waiting.push(...files);
  while (running < AT_ONCE && waiting.length) send();
}

async function send() {
  running += 1;
  while (waiting.length) {
    const [name, file] = waiting.shift();
    status.textContent = `${sent + refused} sent, ${waiting.length + running} to go.`;
    try {
      const found = await answer(await fetch(`api/pictures?name=${encodeURIComponent(name)}`, {
        method: "POST", headers: { "content-type": "application/octet-stream" }, body: file,
      }));
      sent += 1;
      scored ||= found.new;
      document.getElementById("added-tab").hidden = false;
    } catch (error) {
      refused += 1;
      tell(said(error));
    }
  }
  running -= 1;
  if (running) return;
  status.textContent = refused ? `${refused} refused.` : "";
  if (sent && !scored) finished();
  else if (sent) status.textContent += " The pictures are being scored.";
}

function tell(text) {
  const item = document.createElement("li");
  item.textContent = text;
  problems.append(item);
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [[entry.fullPath.replace(/^\/+/, ""), file]];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) { // one call gives only a part of the entries
    const portion = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!portion.length) return found;
    for (const below of portion) {
      if (!below.name.startsWith(".")) found.push(...(await walk(below)));
    }
  }
}

addEventListener("dragenter", (event) => {
  if (event.dataTransfer?.types.includes("Files")) drop.hidden = false;
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.hidden = true;
});
addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.hidden = true;
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length) {
    for (const entry of entries) take(await walk(entry));
  } else {
    take([...event.dataTransfer.files].map((file) => [file.name, file]));
  }
});
for (const id of ["add-files", "add-folder"]) {
  document.getElementById(id).addEventListener("change", (event) => {
    take([...event.target.files].map((file) => [file.webkitRelativePath || file.name, file]));
    event.target.value = "";
  });
}

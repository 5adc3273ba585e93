// The review page: shows one cell, handles keys and clicks, and polls for decisions of other windows.

import { get, post, reviewer, said } from "./api.js";
import { showScoring } from "./uploads.js";
import { centre, moveBy, zoomBy, zoomTo } from "./viewer.js";

const POLL = 1000; // milliseconds
const $ = (id) => document.getElementById(id);
const page = $("main").dataset;
const labels = [...document.querySelectorAll(".label")];
const kindOf = { [page.negative]: "negative", [page.positive]: "positive", unsure: "undecided" };
const named = (label) => (label === "unsure" ? "unsure" : label);

let cell = null;
let shownAt = 0; // when the cell's picture appeared
let opinionSeen = false; // whether the page showed the model's opinion of this cell before a decision
let busy = false;
let actions = 0; // number of requests by the reviewer
let picked = false; // whether the reviewer opened the cell by hand
let unsent = null; // a decision whose answer was lost; it is sent again with its own id
let undoing = null; // the id of an undo whose answer was lost
const who = $("who").textContent; // the reviewer in this window
let stopped = null; // the reason why the server cannot save decisions
let last = Number(page.last); // id of the newest decision that this window knows
let overlayOn = false;
let lighter = false;
let hidden = page.queue === "check" || localStorage.getItem("hide-model") === "yes";
const trail = JSON.parse(sessionStorage.getItem(`trail-${page.queue}`) || "[]");

function show(state) {
  showProgress(state.progress);
  const changed = cell?.id !== state.cell?.id;
  cell = state.cell;
  for (const button of labels) button.disabled = !cell || Boolean(stopped);
  $("next").disabled = !cell;
  if (!cell) return showEnd(state.progress);
  sessionStorage.setItem(`at-${page.queue}`, cell.id);
  $("viewer-text").hidden = true;
  $("cell-name").textContent = cell.name;
  $("cell-place").textContent = cell.position ? `${cell.position} of ${cell.of}` : "not in this queue";
  $("cell-warning").hidden = !cell.warning;
  $("cell-warning").textContent = cell.warning || "";
  if (changed) {
    opinionSeen = false;
    shownAt = 0;
    delete $("picture").dataset.shown;
    centre();
    $("overlay").hidden = true;
    $("overlay").removeAttribute("src");
    $("picture").src = cell.picture;
    $("picture").alt = `${cell.name}, a white blood cell on black`;
  }
  showOpinion();
  showMine();
  showSubject();
  if (overlayOn) showOverlay();
  for (const address of cell.ahead) new Image().src = address;
}

function showProgress(progress) {
  const unsure = progress.unsure ? `, ${progress.unsure} unsure` : "";
  $("progress-text").textContent = progress.total
    ? `${progress.done} of ${progress.total} decided${unsure}`
    : "";
  $("progress").max = Math.max(1, progress.total);
  $("progress").value = progress.done;
  $("undo").disabled = !progress.can_undo;
  $("added-tab").hidden = !progress.added && page.queue !== "added";
  $("added-tab").textContent = progress.added ? `Added (${progress.added})` : "Added";
}

function showEnd(progress) {
  const [title, text] = progress.total
    ? ["Every cell of this queue is decided.", "Undo takes back the last decision. "]
    : { review: ["There are no cells to review.", "Triage releases all cells, or there are none. "],
        check: ["There are no cells to check.", "Triage sends every cell to review. "],
        added: ["No pictures are added yet.", "Drop some on this page. "] }[page.queue];
  const heading = document.createElement("b");
  heading.textContent = title;
  const line = document.createElement("span");
  line.textContent = text;
  const link = document.createElement("a");
  link.href = "dashboard";
  link.textContent = "See the dashboard";
  line.append(link);
  $("viewer-text").replaceChildren(heading, line);
  $("viewer-text").hidden = false;
  $("cell-name").textContent = progress.total ? "Done" : "–";
  $("cell-place").textContent = "";
  $("cell-warning").hidden = true;
  for (const id of ["opinion", "yours-card", "subject-card", "legend"]) $(id).hidden = true;
  $("opinion-hidden").hidden = true;
  for (const button of labels) button.classList.remove("chosen");
}

function showOpinion() {
  const visible = !hidden || cell.mine !== null;
  opinionSeen ||= visible && cell.mine === null;
  $("opinion").hidden = !visible;
  $("opinion-hidden").hidden = visible;
  $("hide").setAttribute("aria-pressed", String(hidden));
  $("subject-model").hidden = !visible;
  $("strip").classList.toggle("blind", !visible);
  if (!visible) return;
  const percent = Math.round(100 * cell.probability);
  $("leaning").textContent = cell.leaning;
  $("leaning").className = `leaning ${percent < 40 ? "negative" : percent >= 60 ? "positive" : ""}`;
  $("percent").textContent = percent === 100 ? "> 99 %" : percent === 0 ? "< 1 %" : `${percent} %`;
  $("meaning").textContent = cell.meaning;
  $("triage").textContent = cell.triage;
  $("marker").style.left = `${100 * cell.probability}%`;
  $("scale").setAttribute("aria-label", `Probability of ${page.positive}: ${percent} %`);
  $("zone-low").style.width = page.low ? `${100 * page.low}%` : "0";
  $("zone-high").style.width = page.high ? `${100 * (1 - page.high)}%` : "0";
}

function showMine() {
  for (const button of labels) {
    button.classList.toggle("chosen", button.dataset.label === cell.mine);
    button.setAttribute("aria-pressed", String(button.dataset.label === cell.mine));
  }
  $("yours-card").hidden = !cell.others.length;
  if (!cell.others.length) return;
  $("decided").replaceChildren(...[{ reviewer: "You", label: cell.mine }, ...cell.others].map((entry) => {
    const item = document.createElement("li");
    item.textContent = `${entry.reviewer}: ${named(entry.label)}`;
    return item;
  }));
}

function showSubject() {
  const subject = cell.subject;
  $("subject-card").hidden = !subject;
  if (!subject) return;
  $("subject-title").textContent = `Subject ${subject.name}`;
  $("subject-summary").textContent = subject.summary;
  $("subject-model").textContent = subject.model;
  $("strip-more").textContent = subject.more ? `${subject.more} more; the cells shown are spread evenly over all of them.` : "";
  const visible = !hidden || cell.mine !== null;
  $("strip").replaceChildren(...subject.cells.map((other) => {
    const item = document.createElement("div");
    item.setAttribute("role", "listitem");
    const button = document.createElement("button");
    button.type = "button";
    const opinion = visible ? `${other.label === page.positive ? other.percent : 100 - other.percent} % ${other.label}` : "";
    button.className = visible ? kindOf[other.label] : "";
    button.setAttribute("aria-label", [
      "Open cell", other.id.slice(0, 8), opinion && `model: ${opinion}`, other.mine && `you: ${named(other.mine)}`,
    ].filter(Boolean).join(", "));
    const image = document.createElement("img");
    image.src = other.thumb;
    image.alt = "";
    image.loading = "lazy";
    button.append(image);
    if (visible) {
      const caption = document.createElement("span");
      caption.textContent = opinion;
      button.append(caption);
    }
    if (other.mine) {
      const mark = document.createElement("i");
      mark.textContent = other.mine === "unsure" ? "?" : `✓ ${other.mine}`;
      button.append(mark);
    }
    button.addEventListener("click", () => open(other.id));
    item.append(button);
    return item;
  }));
}

function showOverlay() {
  const overlay = $("overlay");
  const wanted = overlayOn && cell && (!hidden || cell.mine !== null);
  $("gradcam").setAttribute("aria-pressed", String(overlayOn));
  $("legend").hidden = !wanted;
  $("explained").textContent = cell?.opinion ?? "";
  overlay.hidden = true;
  $("gradcam").removeAttribute("aria-busy");
  if (!wanted) return;
  opinionSeen ||= cell.mine === null;
  const address = new URL(cell.overlay, location).href;
  if (overlay.src === address && overlay.complete && overlay.naturalWidth) {
    overlay.hidden = false;
    return;
  }
  $("gradcam").setAttribute("aria-busy", "true");
  overlay.onload = () => {
    $("gradcam").removeAttribute("aria-busy");
    overlay.hidden = !overlayOn;
  };
  overlay.onerror = async () => {
    $("gradcam").removeAttribute("aria-busy");
    if (!overlayOn) return;
    toggleOverlay(); // show an error only once
    try {
      await get(address);
    } catch (error) {
      fail(error);
    }
  };
  overlay.src = address;
}

function toggleOverlay() {
  overlayOn = !overlayOn;
  if (overlayOn && hidden && cell && cell.mine === null) {
    say("The heat map is part of the model's opinion. It appears once you have decided, or when the model is not hidden.");
  }
  showOverlay();
}

function lighten(on) {
  lighter = on;
  localStorage.setItem("lighter", on ? "yes" : "no");
  document.body.classList.toggle("lighter", on);
  $("lighter").setAttribute("aria-pressed", String(on));
}

function toggleModel() {
  hidden = !hidden;
  if (page.queue !== "check") localStorage.setItem("hide-model", hidden ? "yes" : "no");
  if (!cell) return;
  showOpinion();
  showSubject();
  showOverlay();
}

async function decide(label) {
  if (busy || !cell || !shownAt) return; // no decision before the picture is visible
  const decided = cell;
  if (unsent?.cell !== decided.id || unsent?.label !== label) {
    unsent = {
      cell: decided.id, label, queue: page.queue, picked, blind: !opinionSeen && decided.mine === null, reviewer: who,
      seconds: (performance.now() - shownAt) / 1000, request: crypto.randomUUID?.() ?? random(),
    };
  }
  await asking(async () => {
    const state = await answered(() => post("api/decisions", unsent), () => (unsent = null));
    undoing = null;
    remember(decided.id);
    picked = false;
    show(state);
    say(`${decided.name}: ${named(label)}. Saved.`);
  });
}

async function undo() {
  if (busy || $("undo").disabled) return;
  undoing ??= crypto.randomUUID?.() ?? random();
  await asking(async () => {
    const state = await answered(
      () => post("api/undo", { queue: page.queue, reviewer: who, request: undoing }), () => (undoing = null));
    unsent = null;
    show(state);
    say(`Taken back: ${named(state.undone)}${state.cell ? ` for ${state.cell.name}` : ""}.`);
  });
}

async function next() {
  if (!cell) return;
  const skipped = cell.id;
  await asking(async () => {
    const state = await get(`api/cell?queue=${page.queue}&after=${skipped}`);
    if (state.cell?.id === skipped) return say("This is the last undecided cell.");
    remember(skipped);
    picked = false;
    show(state);
    say("");
  });
}

async function back() {
  if (busy) return;
  while (trail.length && trail.at(-1) === cell?.id) trail.pop();
  const id = trail.pop();
  sessionStorage.setItem(`trail-${page.queue}`, JSON.stringify(trail));
  if (!id) return say("There is no cell before this one.");
  await asking(async () => {
    const state = await get(`api/cell?queue=${page.queue}&at=${id}`);
    picked = true;
    show(state);
    say("");
  });
}

async function open(id) {
  const from = cell?.id;
  await asking(async () => {
    const state = await get(`api/cell?queue=${page.queue}&at=${id}`);
    if (from) remember(from);
    picked = true;
    show(state);
    $("viewer").focus({ preventScroll: true });
    say("");
  });
}

function remember(id) {
  trail.push(id);
  if (trail.length > 200) trail.shift();
  sessionStorage.setItem(`trail-${page.queue}`, JSON.stringify(trail));
}

// The server's answer to a request. Any answer, an error too, makes `forget` drop the request.
async function answered(request, forget) {
  try {
    const state = await request();
    forget();
    return state;
  } catch (error) {
    if (!(error instanceof TypeError)) forget(); // else the answer was lost: the request may have arrived
    throw error;
  }
}

async function asking(work) {
  if (busy) return;
  busy = true;
  actions += 1;
  $("error").hidden = true;
  try {
    await work();
  } catch (error) {
    fail(error);
  } finally {
    busy = false;
  }
}

// Decisions cannot be saved any more, or can be again.
function showStopped(problem) {
  if (problem === stopped) return;
  stopped = problem;
  for (const button of labels) button.disabled = !cell || Boolean(stopped);
  $("error").textContent = stopped ?? "";
  $("error").hidden = !stopped;
}

function say(text) {
  $("status").textContent = text;
}

function fail(error) {
  $("error").textContent = said(error);
  $("error").hidden = false;
}

function random() { // crypto.randomUUID exists on secure addresses only
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function poll() {
  const before = actions; // an action of the reviewer in the meantime is newer than this answer
  try {
    const news = await get(`api/changes?queue=${page.queue}&since=${last}`);
    last = news.last;
    if (news.reviewer !== who) return location.reload(); // another window of this browser changed the reviewer
    showStopped(news.stopped);
    showScoring(news.pending, news.problems);
    if (actions === before && !busy) {
      const grown = cell?.position && news.progress.total !== cell.of;
      showProgress(news.progress);
      const empty = !cell && news.progress.done < news.progress.total;
      const subject = cell?.subject?.cells.some((other) => news.cells.includes(other.id));
      if (empty || grown || (cell && (news.cells.includes(cell.id) || subject))) {
        const state = await get(`api/cell?queue=${page.queue}${cell ? `&at=${cell.id}` : ""}`);
        if (actions === before) show(state);
      }
    }
  } catch {
    // the server is away; the reviewer's next action reports it
  }
  setTimeout(poll, POLL);
}

const ACTIONS = {
  u: () => decide("unsure"), 3: () => decide("unsure"),
  1: () => decide(page.negative), 2: () => decide(page.positive),
  n: next, arrowright: next, b: back, arrowleft: back, z: undo, backspace: undo,
  g: toggleOverlay, l: () => lighten(!lighter), m: toggleModel,
  "+": () => zoomBy(1), "=": () => zoomBy(1), "-": () => zoomBy(-1), 0: () => { zoomTo(1); centre(); },
  "?": () => $("help-dialog").showModal(),
  [page.negativeKey]: () => decide(page.negative),
  [page.positiveKey]: () => decide(page.positive),
};
const MOVES = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input:not([type=file], [type=checkbox]), textarea, select") || !$("keys-on").checked) return;
  if (event.shiftKey && event.key in MOVES) {
    event.preventDefault();
    return moveBy(...MOVES[event.key]);
  }
  const action = ACTIONS[event.key.toLowerCase()];
  if (!action || (event.key.startsWith("Arrow") && event.target.closest(".strip, .scroll"))) return;
  event.preventDefault();
  if (!event.repeat || "+-=".includes(event.key)) action();
});
for (const button of labels) button.addEventListener("click", () => decide(button.dataset.label));
$("back").addEventListener("click", back);
$("next").addEventListener("click", next);
$("undo").addEventListener("click", undo);
$("gradcam").addEventListener("click", toggleOverlay);
$("hide").addEventListener("click", toggleModel);
$("lighter").addEventListener("click", () => lighten(!lighter));
lighten(localStorage.getItem("lighter") === "yes");
$("help-button").addEventListener("click", () => $("help-dialog").showModal());
$("keys-on").checked = localStorage.getItem("keys") !== "off";
$("keys-on").addEventListener("change", () => localStorage.setItem("keys", $("keys-on").checked ? "on" : "off"));
$("picture").addEventListener("load", () => {
  shownAt ||= performance.now();
  $("picture").dataset.shown = cell?.id;
});
$("picture").addEventListener("error", async () => {
  try {
    await get($("picture").src);
  } catch (error) {
    fail(error);
  }
});

await reviewer();
const at = sessionStorage.getItem(`at-${page.queue}`);
await asking(async () => {
  let state = await get(`api/cell?queue=${page.queue}${at ? `&at=${at}` : ""}`);
  if (state.cell && state.cell.mine !== null) state = await get(`api/cell?queue=${page.queue}&after=${state.cell.id}`);
  show(state);
});
document.body.dataset.ready = "yes";
poll();

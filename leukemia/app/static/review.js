// The review page: shows one cell, handles keys and clicks, and polls for decisions of other windows.

import { answer, get, post, reviewer, said } from "./api.js";
import { showScoring } from "./uploads.js";
import { centre, moveBy, zoomBy, zoomTo } from "./viewer.js";

const POLL = 1000; // milliseconds
const $ = (id) => document.getElementById(id);
const page = $("main").dataset;
const labels = [...document.querySelectorAll(".label")];
const blind = "blind" in page; // the server shows no opinion before a decision
const kindOf = { [page.negative]: "negative", [page.positive]: "positive" };
const named = (label) => (label === page.artefact ? "not a cell / artefact" : label);
const markOf = { unsure: "?", [page.artefact]: "✗", [page.poorQuality]: "✗" };
const visible = () => Boolean(cell?.opinion) && (!hidden || cell.mine !== null); // the model's opinion

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
let computing = ""; // address of the heat map that is being computed
let lighter = false;
let hidden = blind || page.queue === "check" || localStorage.getItem("hide-model") === "yes";
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
  $("cell-size").textContent = cell.size && `diameter ${cell.size}`;
  list("notes", cell.notes);
  if (changed) {
    opinionSeen = false;
    shownAt = 0;
    delete $("picture").dataset.shown;
    centre();
    $("picture").src = cell.picture;
    $("picture").alt = `${cell.name}, a white blood cell on black`;
    $("comment").value = cell.comment;
  }
  showOpinion();
  showMine();
  showSubject();
  showOverlay();
  for (const address of cell.ahead) new Image().src = address;
}

function list(id, texts) {
  $(id).hidden = !texts.length;
  $(id).replaceChildren(...texts.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
}

function showProgress(progress) {
  const unsure = progress.unsure ? `, ${progress.unsure} unsure` : "";
  $("progress-text").textContent = progress.total
    ? `${progress.done} of ${progress.total} decided${unsure}`
    : "";
  $("progress").hidden = !progress.total;
  $("progress").max = Math.max(1, progress.total);
  $("progress").value = progress.done;
  $("undo").disabled = !progress.can_undo;
  $("added-tab").hidden = !progress.added && page.queue !== "added";
  $("added-tab").textContent = progress.added ? `Added (${progress.added})` : "Added";
}

function showEnd(progress) {
  const [title, text] = progress.total
    ? ["Every cell of this queue is decided.", "Undo (Z) takes back the last decision."]
    : { review: ["There are no cells to review.", "Triage releases all cells, or there are none."],
        check: ["There are no cells to check.", "Triage sends every cell to review."],
        added: ["No pictures are added yet.", "Drop some on this page."] }[page.queue];
  const heading = document.createElement("b");
  heading.textContent = title;
  const line = document.createElement("p");
  line.textContent = text;
  const links = [["dashboard", "Dashboard: agreement, accuracy, time"], ["dashboard#export-title", "Export the decisions"]];
  if (progress.released && page.queue !== "check") links.unshift(["./?queue=check", `Spot-check the ${progress.released} released cells`]);
  const steps = links.map(([address, name]) => {
    const link = document.createElement("a");
    link.href = address;
    link.textContent = name;
    return link;
  });
  $("viewer-text").replaceChildren(heading, line, ...steps);
  $("viewer-text").hidden = false;
  if (progress.total && progress.done === progress.total) steps[0].focus({ preventScroll: true });
  $("cell-name").textContent = progress.total ? "Done" : "–";
  for (const id of ["cell-place", "cell-size"]) $(id).textContent = "";
  $("comment").value = "";
  for (const id of ["notes", "opinion", "opinion-hidden", "yours-card", "subject-card"]) $(id).hidden = true;
  showOverlay();
  for (const button of labels) button.classList.remove("chosen");
}

function showOpinion() {
  opinionSeen ||= visible() && cell.mine === null;
  $("opinion").hidden = !visible();
  $("opinion-hidden").hidden = visible();
  $("hide").setAttribute("aria-pressed", String(hidden));
  if (!visible()) return;
  const { probability, leaning, meaning, triage, notes } = cell.opinion;
  const percent = Math.round(100 * probability);
  $("leaning").textContent = leaning;
  $("leaning").className = `leaning ${percent < 40 ? "negative" : percent >= 60 ? "positive" : ""}`;
  $("percent").textContent = percent === 100 ? "> 99 %" : percent === 0 ? "< 1 %" : `${percent} %`;
  $("meaning").textContent = meaning;
  $("triage").textContent = triage;
  list("opinion-notes", notes);
  $("marker").style.left = `${100 * probability}%`;
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
  const all = [{ reviewer: "You", label: cell.mine, comment: cell.comment }, ...cell.others];
  list("decided", all.map((entry) => `${entry.reviewer}: ${[named(entry.label), entry.comment].filter(Boolean).join(", ")}`));
}

function showSubject() {
  const subject = cell.subject;
  $("subject-card").hidden = !subject;
  if (!subject) return;
  $("subject-title").textContent = `Subject ${subject.name}`;
  $("subject-summary").textContent = subject.summary;
  $("subject-model").textContent = visible() ? subject.model : "";
  $("strip").setAttribute("aria-label", `Other cells of this subject, ${subject.order}`);
  $("strip-more").textContent = subject.more ? `${subject.more} more; the cells shown are spread evenly over all of them.` : "";
  $("strip").replaceChildren(...subject.cells.map((other) => {
    const item = document.createElement("div");
    item.setAttribute("role", "listitem");
    const button = document.createElement("button");
    button.type = "button";
    const opinion = visible() ? other.opinion : null;
    button.className = opinion ? kindOf[opinion.label] : "";
    button.setAttribute("aria-label", [
      "Open cell", other.id.slice(0, 8), opinion && `model: ${opinion.text}`, other.mine && `you: ${named(other.mine)}`,
    ].filter(Boolean).join(", "));
    const image = document.createElement("img");
    image.src = other.thumb;
    image.alt = "";
    image.loading = "lazy";
    button.append(image);
    if (opinion) {
      const caption = document.createElement("span");
      caption.textContent = opinion.text;
      button.append(caption);
    }
    if (other.mine) {
      const mark = document.createElement("i");
      mark.textContent = markOf[other.mine] ?? `✓ ${other.mine}`;
      button.append(mark);
    }
    button.addEventListener("click", () => open(other.id));
    item.append(button);
    return item;
  }));
}

async function showOverlay() {
  const overlay = $("overlay");
  const address = overlayOn && visible() ? cell.opinion.overlay : "";
  const wanted = () => overlayOn && visible() && cell.opinion.overlay === address;
  const isReady = address !== "" && overlay.dataset.address === address;
  $("gradcam").setAttribute("aria-pressed", String(overlayOn));
  overlay.hidden = $("legend").hidden = !isReady;
  $("computing").hidden = !address || isReady;
  if (!address) return;
  opinionSeen ||= cell.mine === null;
  if (isReady || computing === address) return;
  computing = address;
  try {
    const response = await fetch(address);
    if (!response.ok) await answer(response);
    await response.blob();
    if (!wanted()) return;
    const places = Number(response.headers.get("x-places"));
    overlay.src = address; // from the browser's cache
    await overlay.decode();
    overlay.dataset.address = address;
    $("places").textContent = places ? `${places} × ${places} blocks: little evidence for` : "no block has more evidence than the others for";
    $("much").hidden = !places;
    $("explained").textContent = cell.opinion.label;
    showOverlay();
  } catch (error) {
    if (!wanted()) return;
    toggleOverlay(); // show an error only once
    fail(error);
  } finally {
    if (computing === address) computing = "";
  }
}

function toggleOverlay() {
  overlayOn = !overlayOn;
  if (overlayOn && cell && !visible()) {
    say(`The heat map is part of the model's opinion. It appears once you have decided${blind ? "" : ", or when the model is not hidden"}.`);
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
  if (blind) return say("This review is blind: the model's opinion of a cell appears after your decision.");
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
  const seen = opinionSeen || decided.mine !== null;
  const comment = $("comment").value;
  if (unsent?.cell !== decided.id || unsent?.label !== label || unsent?.comment !== comment) {
    unsent = {
      cell: decided.id, label, comment, queue: page.queue, picked, blind: !seen, reviewer: who,
      seconds: (performance.now() - shownAt) / 1000, request: crypto.randomUUID?.() ?? random(),
    };
  }
  await asking(async () => {
    const state = await answered(() => post("api/decisions", unsent), () => (unsent = null));
    undoing = null;
    remember(decided.id);
    picked = false;
    show(state);
    const opinion = seen ? "" : ` The model: ${state.leaning[0].toLowerCase()}${state.leaning.slice(1)}.`;
    say(`${decided.name}: ${named(label)}. Saved.${opinion}`);
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
  x: () => decide(page.artefact), 4: () => decide(page.artefact),
  q: () => decide(page.poorQuality), 5: () => decide(page.poorQuality),
  c: () => $("comment").focus(),
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
$("comment").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === "Escape") $("viewer").focus({ preventScroll: true });
});
for (const button of document.querySelectorAll(".reference")) {
  button.addEventListener("click", () => {
    $("reference-picture").src = button.dataset.picture;
    $("reference-text").textContent = button.dataset.text;
    $("reference-dialog").showModal();
  });
  button.firstChild.addEventListener("error", () => button.remove());
}
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

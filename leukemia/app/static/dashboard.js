// The dashboard: updates itself after each decision, and shows the reason of a refused export.

import { answer, get, reviewer, said } from "./api.js";

const POLL = 2000; // milliseconds

// Mark the tables that are wider than the window.
function markWide() {
  for (const box of document.querySelectorAll(".scroll")) box.classList.toggle("wide", box.scrollWidth > box.clientWidth);
}

async function poll() {
  const main = document.getElementById("main");
  try {
    const news = await get(`api/changes?since=${main.dataset.last}`);
    if (String(news.last) !== main.dataset.last) {
      const page = new DOMParser().parseFromString(await (await fetch("dashboard")).text(), "text/html");
      const focused = document.activeElement?.getAttribute("href");
      main.replaceChildren(...page.getElementById("main").childNodes);
      main.dataset.last = page.getElementById("main").dataset.last;
      markWide();
      if (focused) main.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    }
  } catch {
    // the server is away; the metrics stay
  }
  setTimeout(poll, POLL);
}

document.getElementById("main").addEventListener("click", async (event) => {
  const link = event.target.closest(".exports a");
  if (!link) return;
  event.preventDefault();
  const error = document.getElementById("export-error");
  error.textContent = "";
  try {
    const response = await fetch(link.href);
    if (!response.ok) await answer(response);
    const save = document.createElement("a");
    save.href = URL.createObjectURL(await response.blob());
    save.download = /filename="([^"]+)"/.exec(response.headers.get("content-disposition"))[1];
    save.click();
    setTimeout(() => URL.revokeObjectURL(save.href), 10000);
  } catch (problem) {
    error.textContent = said(problem);
  }
});

markWide();
addEventListener("resize", markWide);
await reviewer();
poll();

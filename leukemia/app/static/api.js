// Requests to the server, and the reviewer's name.

export async function get(address) {
  return answer(await fetch(address, { headers: { accept: "application/json" } }));
}

export async function post(address, content) {
  return answer(await fetch(address, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(content),
  }));
}

export async function answer(response) {
  const text = await response.text();
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    content = { error: text.trim() };
  }
  if (!response.ok) throw new Error(content.error || `The server answers ${response.status}.`);
  return content;
}

export function said(error) {
  return error instanceof TypeError
    ? "The server does not answer: is `leukemia app` still running? Nothing is lost. Try again when it runs."
    : error.message;
}

// Resolves with the reviewer's name once it is known.
export function reviewer() {
  const dialog = document.getElementById("who-dialog");
  const name = document.getElementById("who-name");
  const error = document.getElementById("who-error");
  const blind = document.getElementById("who-blind"); // absent where the whole review is blind
  if (blind) blind.checked = localStorage.getItem("hide-model") === "yes";
  const required = dialog.hasAttribute("data-required");
  document.getElementById("who-button").addEventListener("click", () => dialog.showModal());
  if (required) {
    dialog.addEventListener("close", () => dialog.showModal()); // a second Escape closes any dialog
    dialog.showModal();
  }
  document.getElementById("who-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await post("api/reviewer", { name: name.value });
      if (blind) localStorage.setItem("hide-model", blind.checked ? "yes" : "no");
      location.reload();
    } catch (problem) {
      error.textContent = said(problem);
    }
  });
  return required ? new Promise(() => {}) : Promise.resolve(document.getElementById("who").textContent);
}

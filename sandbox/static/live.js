// Keeps the page fresh and sends its forms without a reload. Without this script everything works, with reloads.
"use strict";
const PARTS = "[data-part]";

function show(html) {
  const next = new DOMParser().parseFromString(html, "text/html");
  const focused = document.activeElement && document.activeElement.id;
  for (const part of document.querySelectorAll(PARTS)) {
    const fresh = next.querySelector(`[data-part="${part.dataset.part}"]`);
    if (!fresh || fresh.innerHTML === part.dataset.shown) continue;
    const known = new Set([...part.querySelectorAll("[data-new]")].map((element) => element.dataset.new));
    part.dataset.shown = fresh.innerHTML;
    part.innerHTML = fresh.innerHTML;
    for (const element of part.querySelectorAll("[data-new]")) {
      if (!known.has(element.dataset.new)) element.classList.add("fresh");
    }
  }
  if (focused && document.activeElement.id !== focused) document.getElementById(focused)?.focus();
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.ok) show(await answer.text());
  } catch { /* the sandbox has stopped; the page stays as it was */ }
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  event.preventDefault();
  if (form.dataset.busy) return;
  form.dataset.busy = "yes"; // not disabled: that would take the focus away
  try {
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    show(await answer.text());
  } catch {
    form.submit();
  } finally {
    delete form.dataset.busy;
  }
});

setInterval(refresh, 2000);

// Keeps the page fresh, and sends its forms and opens its tickets without a reload. Without it all works, with reloads.
"use strict";
const every = Number(document.body.dataset.refresh);
const ours = new Set(["data-fresh", "data-busy", "open"]); // attributes of this window, not of the server's page
const key = (node) => node.id || (node.dataset && node.dataset.new) || "";
const alike = (one, other) => one.nodeName === other.nodeName && key(one) === key(other);

// Makes `old` equal to `next` and leaves alone what is equal already: the focus, an open menu and the scrolling stay.
function morph(old, next) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) if (!ours.has(name) && !next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  morphChildren(old, next);
}

function morphChildren(old, next) {
  const kept = new Map([...old.children].filter(key).map((child) => [key(child), child]));
  let place = old.firstChild;
  for (const wanted of [...next.childNodes]) {
    let found = key(wanted) ? kept.get(key(wanted)) : place && !(key(place)) ? place : null;
    if (found && alike(found, wanted)) {
      if (found === place) place = place.nextSibling;
      else old.insertBefore(found, place);
      morph(found, wanted);
    } else {
      old.insertBefore(wanted, place);
      if (wanted.dataset && wanted.dataset.new) wanted.dataset.fresh = "";
    }
  }
  while (place) {
    const after = place.nextSibling;
    place.remove();
    place = after;
  }
}

function show(html) {
  const next = new DOMParser().parseFromString(html, "text/html");
  document.title = next.title;
  for (const part of document.querySelectorAll("[data-part]")) {
    const fresh = next.querySelector(`[data-part="${part.dataset.part}"]`);
    if (fresh) morph(part, fresh);
  }
}

let asked = 0;
let last = "";

async function refresh() {
  const mine = ++asked;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const html = await answer.text();
    if (mine !== asked || html === last) return; // something was asked after this, or nothing has changed
    last = html;
    show(html);
    stopped(false);
  } catch {
    last = "";
    stopped(true);
  }
}

function stopped(is) {
  const notice = document.querySelector(".lost");
  if (notice && notice.hidden === is) notice.hidden = !is;
}

async function goOn() {
  if (!document.hidden) await refresh();
  pressAlone();
  setTimeout(goOn, every);
}

// Presses a button that the page presses by itself: once, and when there was time to see it.
let alone = 0;
function pressAlone() {
  const form = document.querySelector("form[data-alone]");
  if (form && !document.hidden && !alone) alone = setTimeout(() => form.isConnected && form.requestSubmit(), 1200);
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  event.preventDefault();
  if (form.dataset.busy) return;
  form.dataset.busy = "yes"; // not disabled: that would take the focus away
  try {
    await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form, event.submitter)) });
  } catch {
    stopped(true);
  } finally {
    delete form.dataset.busy;
  }
  await refresh();
});

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-open]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  await refresh();
  const opened = document.getElementById(link.dataset.open);
  if (!opened) return;
  opened.scrollTop = 0;
  opened.scrollIntoView({ block: "nearest" });
});

addEventListener("popstate", refresh);
addEventListener("visibilitychange", () => document.hidden || refresh());
setTimeout(goOn, every);

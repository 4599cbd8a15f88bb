// Shows times in the reader's zone, and loads the page again while nobody uses it. Without it both pages work as well:
// times are in UTC, and a link loads the page again.
"use strict";
(() => {
  let main = document.querySelector("main");
  const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const hour = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

  function localise() {
    for (const time of main.querySelectorAll("time")) {
      const at = new Date(time.dateTime);
      if (isNaN(at)) continue;
      time.title = whole.format(at);
      if ("whole" in time.dataset) time.textContent = whole.format(at);
      else if ("clock" in time.dataset) time.textContent = clock.format(at);
      else if ("hour" in time.dataset) time.textContent = hour.format(at);
      else if (Number(main.dataset.now) - at / 1000 >= 86400) time.textContent = day.format(at);
    }
  }

  // Whoever types, reads an open part, marks text or moves with the keyboard is not disturbed.
  function isInUse() {
    const field = main.querySelector("input[type=search]");
    return main.contains(document.activeElement) || main.querySelector("details[open]")
      || !getSelection().isCollapsed || (field && field.value !== field.defaultValue);
  }

  async function refresh() {
    if (!isInUse()) {
      try {
        const answer = await fetch(location.pathname + location.search, { headers: { Accept: "text/html" } });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("main");
        if (fresh && !isInUse()) {
          main.replaceWith(fresh);
          main = fresh;
          document.title = page.title;
          localise();
        }
      } catch {
        document.title = "! The relay does not answer";
      }
    }
    setTimeout(refresh, 1000 * (Number(main.dataset.refresh) || 15));
  }

  // What was done is said once.
  const address = new URL(location);
  for (const name of ["retried", "discarded", "item"]) address.searchParams.delete(name);
  history.replaceState(null, "", address);

  localise();
  setTimeout(refresh, 1000 * (Number(main.dataset.refresh) || 15));
})();

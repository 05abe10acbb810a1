// Enhancements only: every page works without this file, with links and forms.
(() => {
  const toast = (text, kind = "bad") => {
    const box = document.getElementById("toasts");
    const same = [...box.children].find((note) => note.textContent === text);
    if (same) return;
    const note = document.createElement("div");
    note.className = `note note-${kind}`;
    note.textContent = text;
    box.append(note);
    setTimeout(() => note.remove(), 8000);
  };

  // One dialog for every question. Resolves to whether the person said yes.
  const ask = (text, label) =>
    new Promise((resolve) => {
      const dialog = document.getElementById("confirm");
      dialog.querySelector("[data-text]").textContent = text;
      dialog.querySelector("[data-yes]").textContent = label || "Confirm";
      dialog.returnValue = "";
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), {
        once: true,
      });
      dialog.showModal();
    });

  // Capture phase: plain forms are held back here before htmx sees the event.
  document.addEventListener(
    "submit",
    async (event) => {
      const form = event.target;
      const button = event.submitter;
      const text = button?.dataset.confirm || form.dataset?.confirm;
      if (!text || form.dataset.confirmed) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const label = button?.dataset.confirmLabel || form.dataset.confirmLabel;
      if (!(await ask(text, label))) return;
      form.dataset.confirmed = "1";
      form.requestSubmit(button);
      delete form.dataset.confirmed;
    },
    true,
  );
  document.addEventListener("htmx:confirm", async (event) => {
    if (!event.detail.question) return;
    event.preventDefault();
    if (await ask(event.detail.question)) event.detail.issueRequest(true);
  });

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy], [data-copy-text]");
    if (copy) {
      const source = document.querySelector(copy.dataset.copy);
      const text = source ? (source.value ?? source.textContent) : copy.dataset.copyText;
      const before = copy.dataset.label || copy.textContent;
      copy.dataset.label = before;
      try {
        await navigator.clipboard.writeText(text);
        const target = copy.querySelector("[data-copy-label]") || copy;
        const was = target.textContent;
        target.textContent = "Copied";
        setTimeout(() => (target.textContent = was), 1500);
      } catch {
        toast("The browser did not allow copying. Select the text instead.");
      }
    }
    const toggle = event.target.closest("[data-toggle-sidebar]");
    if (toggle) {
      const open = document.getElementById("sidebar").classList.toggle("is-open");
      toggle.setAttribute("aria-expanded", String(open));
    }
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
  });

  // Polling. Elements with `data-poll` ask again by themselves. They are silent while the
  // tab is hidden or text or a row in them is selected, slow when nobody is there, and
  // slower with each failure. A failure leaves the page as it is and says so until an
  // answer comes.
  const IDLE_MS = 5 * 60_000;
  const IDLE_PERIOD_MS = 30_000;
  const MAX_PAUSE_MS = 30_000;
  const lost = document.getElementById("lost");
  let active = Date.now();
  let answered = Date.now();
  let failures = 0;
  let notBefore = 0;

  const isPoll = (event) => event.detail.elt?.matches?.("[data-poll]");
  const isSelecting = (element) => {
    const selection = getSelection();
    return (
      element.querySelector("input:checked") ||
      (!selection.isCollapsed && element.contains(selection.anchorNode))
    );
  };
  const seen = () => {
    const wasIdle = Date.now() - active > IDLE_MS;
    active = Date.now();
    if (wasIdle) refresh();
  };
  const refresh = () => {
    notBefore = 0;
    for (const element of document.querySelectorAll("[data-poll]")) {
      htmx.trigger(element, "refresh");
    }
  };
  const failed = (why) => {
    failures += 1;
    notBefore = Date.now() + Math.min(2 ** failures * 1000, MAX_PAUSE_MS);
    const time = new Date(answered).toLocaleTimeString();
    lost.textContent = `${why} What you see is from ${time}. Trying again.`;
    lost.hidden = false;
  };

  for (const name of ["pointermove", "keydown", "scroll"]) {
    document.addEventListener(name, seen, { passive: true });
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) refresh();
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!isPoll(event)) return;
    const now = Date.now();
    const isHinted =
      event.detail.requestConfig.triggeringEvent?.type === "application-changed";
    const isIdle =
      !isHinted && now - active > IDLE_MS && now - answered < IDLE_PERIOD_MS;
    if (document.hidden || now < notBefore || isIdle || isSelecting(event.detail.elt)) {
      event.preventDefault();
    }
  });
  // What changes in every answer though nothing happened: ages, and form tokens.
  const essence = (html) =>
    html
      .replace(/(data-since>)[^<]*/g, "$1")
      .replace(/(name="csrfmiddlewaretoken" value=")[^"]*/g, "$1");
  const shown = new Map();
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, target } = event.detail;
    if (new URL(xhr.responseURL, location.href).pathname.startsWith("/accounts/")) {
      // The sign-in is over: load the page, which asks for it.
      event.detail.shouldSwap = false;
      location.reload();
      return;
    }
    if (!isPoll(event) || !event.detail.shouldSwap) return;
    failures = 0;
    answered = Date.now();
    lost.hidden = true;
    const now = essence(xhr.responseText);
    // Unchanged: keep what is there, with its focus and scroll position.
    if (shown.get(target.id) === now) event.detail.shouldSwap = false;
    shown.set(target.id, now);
  });
  const said = (xhr) => {
    const plain = (xhr.getResponseHeader("Content-Type") || "").startsWith("text/plain");
    return plain && xhr.responseText ? xhr.responseText : `Conductor answered ${xhr.status}.`;
  };
  document.addEventListener("htmx:responseError", (event) => {
    const why = said(event.detail.xhr);
    if (isPoll(event)) failed(why);
    else toast(why);
  });
  document.addEventListener("htmx:sendError", (event) => {
    if (isPoll(event)) failed("Conductor cannot be reached.");
    else toast("Conductor cannot be reached. Try again.");
  });

  // On a narrow window the pages of an application scroll sideways: show the current one.
  document.querySelector(".tabs [aria-current]")?.scrollIntoView({
    block: "nearest",
    inline: "center",
  });

  // "3 min ago" stays true while a page is open.
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const tick = () => {
    for (const time of document.querySelectorAll("time[data-since]")) {
      const age = Math.max(0, (Date.now() - Date.parse(time.dateTime)) / 1000);
      const [size, unit] = units.find(([s]) => age >= s) || [1, "s"];
      time.textContent = age < 1 ? "just now" : `${Math.floor(age / size)} ${unit} ago`;
    }
  };
  setInterval(tick, 5000);
})();

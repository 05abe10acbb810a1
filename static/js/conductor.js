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

  // Polling: silent while the tab is hidden; a lost sign-in reloads the page once.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && event.detail.elt.matches("[data-poll]")) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    if (new URL(xhr.responseURL, location.href).pathname.startsWith("/accounts/")) {
      event.detail.shouldSwap = false;
      location.reload();
    }
  });
  document.addEventListener("htmx:responseError", (event) => {
    const { xhr } = event.detail;
    const plain = (xhr.getResponseHeader("Content-Type") || "").startsWith("text/plain");
    toast(plain && xhr.responseText ? xhr.responseText : `The server answered ${xhr.status}.`);
  });
  document.addEventListener("htmx:sendError", () =>
    toast("Conductor cannot be reached. Trying again."),
  );

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

// What Labdock's pages do beyond plain forms and links. No build step, no library.
"use strict";

(() => {
  const hub = window.jhdata || {};

  // The hub checks this token on every call that a cookie authorises.
  const call = (method, url) =>
    fetch(url, { method, headers: { "X-XSRFToken": hub.xsrf_token || "", Accept: "application/json" } });

  const say = (place, text) => {
    const line = document.createElement("p");
    line.className = "alert alert-danger";
    line.setAttribute("role", "alert");
    line.textContent = text;
    place.after(line);
  };

  for (const form of document.querySelectorAll("form[data-ld-once]")) {
    form.addEventListener("submit", () => {
      const button = form.querySelector("button:not([type=button])");
      button.disabled = true;
      button.textContent = form.dataset.ldOnce;
    });
  }
  // The back button shows the page as it was left: with its button off.
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) window.location.reload();
  });

  for (const form of document.querySelectorAll("form[data-ld-submit]")) form.requestSubmit();

  for (const form of document.querySelectorAll("form[data-ld-named]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      window.location.href = form.dataset.ldNamed + encodeURIComponent(form.querySelector("input").value);
    });
  }

  for (const button of document.querySelectorAll("[data-ld-show]")) {
    const field = document.getElementById(button.dataset.ldShow);
    button.hidden = false;
    button.addEventListener("click", () => {
      const shown = field.type === "password";
      field.type = shown ? "text" : "password";
      button.textContent = shown ? "Hide" : "Show";
      button.setAttribute("aria-pressed", String(shown));
    });
  }

  for (const line of document.querySelectorAll("[data-ld-waiting]")) {
    line.textContent = "This page looks again by itself.";
    const look = async () => {
      try {
        const told = await (await fetch(line.dataset.ldWaiting, { cache: "no-store" })).json();
        if (told.state !== "waiting") {
          line.textContent = told.state === "admitted" ? "You were let in." : "There is an answer.";
          window.location.reload();
          return;
        }
      } catch {
        // The hub is away for a moment: the next look may find it.
      }
      window.setTimeout(look, 5000);
    };
    window.setTimeout(look, 5000);
  }

  for (const button of document.querySelectorAll("[data-ld-copy]")) {
    const field = document.getElementById(button.dataset.ldCopy);
    // The clipboard is there on HTTPS and localhost only.
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(field.value);
      button.textContent = "Copied";
    });
  }

  for (const time of document.querySelectorAll("time[datetime]")) {
    const when = new Date(time.dateTime);
    if (!Number.isNaN(when.getTime())) {
      time.textContent = when.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    }
  }

  const pending = document.getElementById("ld-pending");
  let leaving = false;

  for (const button of document.querySelectorAll("[data-ld-stop]")) {
    button.addEventListener("click", async () => {
      leaving = true;
      button.disabled = true;
      button.textContent = "Stopping…";
      try {
        const answer = await call("DELETE", button.dataset.ldStop);
        if (!answer.ok) throw new Error((await answer.json()).message || answer.statusText);
        // 202: it takes longer; the page that opens now says so.
        if (answer.status === 202) await new Promise((done) => setTimeout(done, 2000));
        if (pending) window.location.href = pending.dataset.homeUrl;
        else window.location.reload();
      } catch (error) {
        leaving = false;
        button.disabled = false;
        button.textContent = "Stop";
        say(button.parentElement, `It could not be stopped: ${error.message}`);
      }
    });
  }

  if (!pending) return;

  const steps = document.getElementById("ld-steps");
  const announce = document.getElementById("ld-announce");
  const words = { waiting: "waiting", running: "in progress", done: "done", failed: "failed" };
  const began = {};
  let failed = false;

  const seconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;

  const showStep = (step) => {
    const line = steps.querySelector(`[data-step="${CSS.escape(step.id)}"]`);
    if (!line) return;
    const changed = line.dataset.state !== step.state;
    line.dataset.state = step.state;
    line.querySelector(".ld-step-label").textContent = step.label;
    line.querySelector(".ld-step-state").textContent = words[step.state] || step.state;
    if (step.state === "running") began[step.id] ??= performance.now();
    else delete began[step.id];
    if (step.state !== "running") {
      line.querySelector(".ld-step-seconds").textContent =
        typeof step.seconds === "number" ? seconds(step.seconds) : "";
    }
    if (changed && step.state !== "waiting") announce.textContent = `${step.label}: ${words[step.state]}`;
  };

  // Running seconds tick for the eye only: the live region says changes of state.
  const ticking = setInterval(() => {
    for (const [id, start] of Object.entries(began)) {
      const line = steps.querySelector(`[data-step="${CSS.escape(id)}"]`);
      line.querySelector(".ld-step-seconds").textContent = seconds((performance.now() - start) / 1000);
    }
  }, 200);

  const paragraph = (className, text) => {
    const element = document.createElement("p");
    element.className = className;
    element.textContent = text;
    return element;
  };

  const showFailure = (event) => {
    if (failed) return;
    failed = true;
    clearInterval(ticking);
    const place = document.getElementById("ld-failure-place");
    if (event.cause) {
      const box = document.createElement("div");
      box.className = "ld-failure";
      box.setAttribute("role", "alert");
      box.append(paragraph("ld-cause", event.cause));
      if (event.fix) box.append(paragraph("ld-fix", event.fix));
      if (event.last_lines && event.last_lines.length) {
        box.append(paragraph("ld-lines-title", "The last lines it printed:"));
        const lines = document.createElement("pre");
        lines.className = "ld-lines";
        lines.tabIndex = 0;
        lines.textContent = event.last_lines.slice(-20).join("\n");
        box.append(lines);
      }
      place.replaceChildren(box);
    } else if (event.html_message) {
      // Written and escaped by the hub.
      place.innerHTML = event.html_message;
    } else {
      const text = (event.message || "").replace(/^Spawn failed: ?/, "").replace(/^Spawn cancelled$/, "It was stopped.");
      place.replaceChildren(paragraph("alert alert-danger", text || "The session did not start."));
      place.firstElementChild.setAttribute("role", "alert");
    }
    document.querySelector("#ld-pending h1").textContent = "The session did not start";
    document.title = document.title.replace("Starting", "Not started");
    document.getElementById("ld-stop").hidden = true;
    const again = document.getElementById("ld-again");
    again.hidden = false;
    again.focus();
  };

  const events = new EventSource(pending.dataset.progressUrl);
  events.onmessage = (message) => {
    // The hub calls a start that is being stopped "ready" for a moment.
    if (leaving) return;
    const event = JSON.parse(message.data);
    for (const step of event.steps || []) showStep(step);
    if (event.ready) {
      events.close();
      announce.textContent = "Your session is ready";
      // The hub knows where ?next= wanted to go; without it the shortest way is the session itself.
      if (new URLSearchParams(window.location.search).has("next") || !event.url) window.location.reload();
      else window.location.replace(event.url);
    } else if (event.cause || event.failed) {
      showFailure(event);
      if (event.failed) events.close();
    }
  };
  events.onerror = () => {
    // The hub restarted or the stream was refused: the page itself knows what is the case now.
    if (events.readyState === EventSource.CLOSED && !failed && !leaving) {
      setTimeout(() => window.location.reload(), 2000);
    }
  };
})();

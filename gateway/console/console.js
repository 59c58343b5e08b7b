// Which panel is shown, what keeps it fresh, and the theme.
import { call, status } from "./api.js";
import { el, say } from "./dom.js";
import { backends, entries, overview, traffic } from "./panels.js";
import { playground } from "./playground.js";
import { policies } from "./policies.js";

const PANELS = { overview, traffic, policies, entries, backends, playground };
const EVERY = 2000; // milliseconds
const tabs = document.querySelector("#tabs");
const panel = document.querySelector("#panel");
const ready = document.querySelector("#ready");
let update = null, shown = 0, busy = false;

for (const name of Object.keys(PANELS)) {
  tabs.append(el("li", {}, el("a", { href: `#${name}` }, name[0].toUpperCase() + name.slice(1))));
}

async function show() {
  const name = location.hash.slice(1) in PANELS ? location.hash.slice(1) : "overview";
  for (const link of tabs.querySelectorAll("a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · Semantic Gateway`;
  const mine = (shown += 1);
  update = null;
  const fresh = document.createElement("div"); // what comes late is of a panel that is no longer shown
  panel.replaceChildren(fresh);
  await tell(async () => {
    const wanted = await PANELS[name](fresh);
    if (mine !== shown) return;
    if (wanted) await wanted();
    update = wanted;
  });
}

async function tell(work) {
  try { await work(); } catch (error) { say(error.message); }
}

async function tick() {
  if (document.hidden || busy) return;
  busy = true;
  await tell(async () => {
    const well = (await status("/readyz")) === 200;
    ready.textContent = well ? "ready" : "not ready";
    ready.className = `pill ${well ? "good" : "bad"}`;
    if (update) await update();
  });
  busy = false;
}

const THEMES = ["system", "light", "dark"];
const theme = document.querySelector("#theme");
function paint(name) {
  if (name === "system") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  theme.textContent = `Theme: ${name}`;
  localStorage.setItem("gateway-theme", name);
}
theme.addEventListener("click", () => paint(THEMES[(THEMES.indexOf(theme.textContent.slice(7)) + 1) % THEMES.length]));
paint(THEMES.includes(localStorage.getItem("gateway-theme")) ? localStorage.getItem("gateway-theme") : "system");

addEventListener("hashchange", () => { show(); panel.focus(); });
addEventListener("unhandledrejection", (event) => { say(String(event.reason?.message ?? event.reason)); });
await call("GET", "/cache").catch((error) => say(error.message)); // asks for the token once, before anything else
await show();
tick();
setInterval(tick, EVERY);

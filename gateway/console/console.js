// Which panel is shown, what keeps it fresh, who is signed in, and the theme.
import { signIn, signOut, status } from "./api.js";
import { el, say } from "./dom.js";
import { entries } from "./entries.js";
import { audit, savings, tenants, trust } from "./ledger.js";
import { backends, overview, traffic } from "./live.js";
import { playground } from "./playground.js";
import { policies } from "./policies.js";

const GROUPS = [{ overview, traffic, trust, savings, backends }, { policies, entries, playground }, { tenants, audit }];
const PANELS = Object.assign({}, ...GROUPS);
const EVERY = 2000; // milliseconds
const panel = document.querySelector("#panel");
const ready = document.querySelector("#ready");
const title = (name) => name[0].toUpperCase() + name.slice(1);
let update = null, shown = 0, busy = false;

document.querySelector("nav").append(...GROUPS.map((group) =>
  el("ul", {}, Object.keys(group).map((name) => el("li", {}, el("a", { href: `#${name}` }, title(name)))))));

async function show() {
  const name = location.hash.slice(1) in PANELS ? location.hash.slice(1) : "overview";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash !== `#${name}`) { link.removeAttribute("aria-current"); continue; }
    link.setAttribute("aria-current", "page");
    link.scrollIntoView({ block: "nearest", inline: "center" });
  }
  document.title = `${title(name)} · Semantic Gateway`;
  const mine = (shown += 1);
  update = null;
  const fresh = el("div", { "aria-busy": "true" }); // what comes late is of a panel that is no longer shown
  panel.replaceChildren(fresh);
  await tell(async () => {
    const wanted = await PANELS[name](fresh);
    if (mine !== shown) return;
    if (wanted) await wanted();
    if (mine === shown) update = wanted;
  });
  fresh.removeAttribute("aria-busy");
}

async function tell(work) {
  try { await work(); } catch (error) { say(error.message); }
}

async function tick() {
  if (document.hidden || busy) return;
  busy = true;
  try {
    const well = (await status("/readyz")) === 200;
    ready.textContent = well ? "ready" : "not ready";
    ready.className = `pill ${well ? "good" : "bad"}`;
    if (update) await update();
  } catch (error) {
    ready.textContent = "out of reach";
    ready.className = "pill bad";
    say(error.message);
  }
  busy = false;
}

const THEMES = ["system", "light", "dark"];
const theme = document.querySelector("#theme");
function paint(name) {
  if (name === "system") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  theme.textContent = `Theme: ${name}`;
  localStorage.setItem("gateway-theme", name);
  if (update) tell(update); // charts take their colours from the theme
}
theme.addEventListener("click", () => paint(THEMES[(THEMES.indexOf(theme.textContent.slice(7)) + 1) % THEMES.length]));
paint(THEMES.includes(localStorage.getItem("gateway-theme")) ? localStorage.getItem("gateway-theme") : "system");

document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); panel.focus(); }); // no panel of its own
addEventListener("hashchange", () => { show(); panel.focus(); scrollTo(0, 0); });
addEventListener("unhandledrejection", (event) => { event.preventDefault(); say(String(event.reason?.message ?? event.reason)); });
await tell(async () => {
  const me = await signIn(); // asks for the token once, before anything else
  const out = document.querySelector("#out");
  document.querySelector("#me").textContent = me.name ? `${me.name}, ${me.role}` : me.role;
  out.hidden = !sessionStorage.length;
  out.addEventListener("click", signOut);
});
await show();
tick();
setInterval(tick, EVERY);

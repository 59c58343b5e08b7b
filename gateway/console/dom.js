// Elements without a framework. Text is always set as text: nothing that a model or a user wrote becomes markup.
import { withheld } from "./api.js";

export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "value") node.value = value;
    else if (key === "style") Object.assign(node.style, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return node;
}

/** Put children in a node, unless it holds just these; focus and scrolling stay where they were. */
export function fill(node, ...children) {
  const fresh = el("div", {}, ...children);
  if (fresh.innerHTML === node.innerHTML) return;
  const focusable = () => [...node.querySelectorAll("a, button, input, select, summary, [tabindex]")];
  const at = focusable().indexOf(document.activeElement);
  const scrolled = [...node.querySelectorAll(".scroll")].map((part) => part.scrollLeft);
  node.replaceChildren(...fresh.childNodes);
  node.querySelectorAll(".scroll").forEach((part, index) => { part.scrollLeft = scrolled[index] ?? 0; });
  if (at >= 0) focusable()[at]?.focus({ preventScroll: true });
}

export const none = (value) => value === null || value === undefined;
export const percent = (share, digits = 1) => (none(share) ? "–" : `${(100 * share).toFixed(digits)} %`);
export const number = (value) => (none(value) ? "–" : Number(value).toLocaleString("en", { maximumFractionDigits: 1 }));
export const short = (value) => Number(value).toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
export const dollars = (value) => (none(value) ? "–" : Number(value).toLocaleString("en", {
  style: "currency", currency: "USD", maximumFractionDigits: value !== 0 && Math.abs(value) < 1 ? 4 : 2 }));
export const similarity = (value) => (none(value) ? "–" : value.toFixed(4));
export const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString();
export const moment = (seconds) => new Date(1000 * seconds).toLocaleString();
export const milliseconds = (seconds) => `${(1000 * seconds).toFixed(1)} ms`;
export const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value.toFixed(unit && value < 100 ? 1 : 0)} ${units[unit]}`;
}

export const pill = (text, kind = "") => el("span", { class: `pill ${kind}` }, text);
export const decided = (word) => el("span", { class: `decision ${word}` }, word);
export const quiet = (...text) => el("p", { class: "quiet" }, ...text);
export const empty = (title, ...text) => el("div", { class: "empty" }, el("strong", {}, title), el("p", {}, ...text));

/** A share of 1 as a bar with its figure; `limit` is marked. */
export function bar(share, text, kind = "", limit = null) {
  const place = (part) => `${100 * Math.min(1, Math.max(0, part))}%`;
  return el("span", { class: "gauge" },
    el("span", { class: `bar ${kind}`, "aria-hidden": "true" }, el("i", { style: { width: place(share ?? 0) } }),
      none(limit) ? null : el("b", { style: { left: place(limit) } })),
    el("span", {}, text));
}

/** columns: [title, cell of a row, "number" | "text" | ""]; the first column heads its row. */
export function table(caption, columns, rows, nothing = `${caption}: none yet.`) {
  const cell = (row, [, of, kind], first) => el(first ? "th" : "td", { class: kind, scope: first ? "row" : null }, of(row));
  if (!rows.length) return typeof nothing === "string" ? quiet(nothing) : nothing;
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, columns.map(([title, , kind]) => (title
      ? el("th", { scope: "col", class: kind }, title) : el("td", {}, el("span", { class: "unseen" }, "actions")))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, columns.map((column, at) => cell(row, column, at === 0))))),
  ));
}

/** [title, figure, small print, kind] each. */
export function tiles(list) {
  return el("dl", { class: "tiles" }, list.map(([title, value, small, kind]) =>
    el("div", { class: kind }, el("dt", {}, title), el("dd", {}, value, small ? el("small", {}, small) : null))));
}

let fields = 0;
export function field(label, input, hint = "") {
  const id = `field-${(fields += 1)}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return el("div", { class: "field" }, el("label", { for: id }, label), input, hint ? el("small", { id: `${id}-hint` }, hint) : null);
}

/** A button for whoever has the role. For others it stays in reach and says why it does nothing. */
export function action(label, needed, work, attributes = {}) {
  const reason = needed ? withheld(needed) : null;
  return el("button", {
    type: "button", ...attributes, title: reason, "aria-description": reason, "aria-disabled": reason ? "true" : null,
    onclick: (event) => (reason ? say(reason) : work(event)),
  }, label);
}

export function say(text) {
  const said = document.querySelector("#said");
  said.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { said.textContent = ""; }, 6000);
}

/** Figures beside a picture of them. */
export const chart = (label) => el("div", { class: "chart", role: "img", "aria-label": `${label}; the table has the figures` });

// Elements without a framework. Text is always set as text: nothing that a model or a user wrote becomes markup.
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "value") node.value = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`);
export const number = (value) => (value === null || value === undefined ? "–" : Number(value).toLocaleString("en", { maximumFractionDigits: 1 }));
export const similarity = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));
export const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString();
export const milliseconds = (seconds) => `${(1000 * seconds).toFixed(1)} ms`;
export function bytes(value) {
  const units = ["B", "KB", "MB", "GB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value.toFixed(unit ? 1 : 0)} ${units[unit]}`;
}

export function pill(text, kind = "") {
  return el("span", { class: `pill ${kind}` }, text);
}

const KINDS = { exact: "good", semantic: "good", join: "good", offload: "warn", forward: "", refuse: "bad" };
export const decided = (word) => pill(word, KINDS[word] ?? "");

/** columns: [title, cell of a row, "number" | "text" | ""]; the first column heads its row. */
export function table(caption, columns, rows) {
  const cell = (row, [, of, kind], first) => el(first ? "th" : "td", { class: kind, scope: first ? "row" : null }, of(row));
  if (!rows.length) return el("p", { class: "quiet" }, `${caption}: none.`);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, columns.map(([title, , kind]) => el("th", { scope: "col", class: kind }, title)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, columns.map((column, at) => cell(row, column, at === 0))))),
  ));
}

export function tiles(pairs) {
  return el("dl", { class: "tiles" }, pairs.map(([title, value, small]) =>
    el("div", {}, el("dt", {}, title), el("dd", {}, value, small ? el("small", {}, small) : null))));
}

export function field(label, input) {
  return el("label", {}, label, input);
}

export function say(text) {
  const said = document.querySelector("#said");
  said.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { said.textContent = ""; }, 6000);
}

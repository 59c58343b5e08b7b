// The policy editor: a category as a form and as JSON, validated and tried on recent traffic before it is saved.
import { call, perhaps, Refused } from "./api.js";
import { el, field, percent, say, table } from "./dom.js";

const FIELDS = [ // what operators change most; the JSON beside them has everything
  ["mode", ["cache", "mode"], ["semantic", "exact", "shadow", "none"]],
  ["threshold", ["cache", "threshold"], "number"],
  ["TTL", ["cache", "ttl"], "text"],
  ["share of memory", ["cache", "quota", "share"], "number"],
  ["error budget", ["cache", "max_error"], "number"],
];
const at = (tree, path) => path.reduce((node, key) => node?.[key], tree);
function put(tree, path, value) {
  const last = path.at(-1);
  const node = path.slice(0, -1).reduce((inner, key) => (inner[key] ??= {}), tree);
  node[last] = value;
}

export async function policies(panel) {
  let book = null, etag = null, name = null;
  const choice = el("select");
  const text = el("textarea", { rows: 22, spellcheck: "false" });
  const form = el("div", { class: "form" });
  const result = el("div", { role: "status", "aria-live": "polite" });
  const versions = el("section", { hidden: true });

  const category = () => JSON.parse(text.value);
  const edited = () => ({ ...book, categories: book.categories.map((one) => (one.name === name ? category() : one)) });

  function fill() {
    const tree = category();
    form.replaceChildren(...FIELDS.map(([label, path, kind]) => {
      const value = at(tree, path) ?? "";
      const change = (event) => {
        const given = event.target.value;
        const next = category();
        put(next, path, kind === "number" ? (given === "" ? null : Number(given)) : given);
        text.value = JSON.stringify(next, null, 2);
      };
      const input = Array.isArray(kind)
        ? el("select", { onchange: change }, kind.map((one) => el("option", { value: one, selected: one === value }, one)))
        : el("input", { type: kind, step: "any", value: String(value), onchange: change });
      return field(label, input);
    }));
  }

  function show(chosen) {
    name = chosen;
    choice.value = name;
    text.value = JSON.stringify(book.categories.find((one) => one.name === name), null, 2);
    fill();
    result.replaceChildren();
  }

  async function load() {
    const read = await call("GET", "/policies");
    [book, etag] = [read.value, read.etag];
    choice.replaceChildren(...book.categories.map((one) => el("option", { value: one.name }, one.name)));
    show(book.categories.some((one) => one.name === name) ? name : book.categories[0].name);
    await history();
  }

  function faults(error) {
    const details = error instanceof Refused ? error.body?.error?.details ?? error.body?.error?.faults : null;
    result.replaceChildren(el("p", { class: "bad" }, error.message),
      details ? table("Faults", [["where", (one) => one.path ?? one.where ?? ""], ["why", (one) => one.reason ?? one.message ?? String(one)]], details) : "");
  }

  const guarded = (work) => async () => {
    result.replaceChildren();
    try { await work(); } catch (error) { faults(error); }
  };

  const validate = guarded(async () => {
    const { value } = await call("POST", "/policies/validate", { body: JSON.stringify(edited()) });
    const tried = value.decisions;
    result.replaceChildren(
      el("p", { class: "good" }, "Valid."),
      table("What would change", [["key", (one) => one.path ?? String(one)], ["now", (one) => JSON.stringify(one.old ?? one.before ?? null)], ["then", (one) => JSON.stringify(one.new ?? one.after ?? null)]], value.changes),
      el("p", {}, tried.sampled
        ? `Of ${tried.sampled} recent semantic look-ups ${tried.changed} (${percent(tried.changed / tried.sampled)}) would end otherwise: ${tried.hits_gained} hits more, ${tried.hits_lost} fewer.`
        : "No recent semantic look-ups to try it on."),
      table("Decisions that would change", [["question", (one) => one.question, "text"], ["category", (one) => one.category], ["now", (one) => one.was], ["then", (one) => one.would]], tried.changes));
  });

  const save = guarded(async () => {
    const wanted = category();
    await call("PUT", `/policies/${encodeURIComponent(wanted.name)}`, { body: JSON.stringify(wanted), headers: { "If-Match": etag } });
    name = wanted.name;
    await load();
    say("Saved, and in force.");
    result.replaceChildren(el("p", { class: "good" }, "Saved, and in force."));
  });

  async function history() {
    const known = await perhaps("/policies/versions");
    const rows = known?.versions ?? [];
    const back = async (version) => {
      if (!confirm("Put this version in force again?")) return;
      await call("POST", "/policies/rollback", { body: JSON.stringify({ version }) });
      await load();
      say("Rolled back.");
    };
    versions.hidden = !rows.length;
    versions.replaceChildren(...(rows.length ? [el("h2", {}, "Versions"), table("Newest first", [
      ["version", (one) => one.version], ["when", (one) => new Date(1000 * (one.at ?? one.created)).toLocaleString()], ["who", (one) => one.who ?? "–"],
      ["", (one) => (one.version === book.version || one.current ? "in force" : el("button", { type: "button", onclick: guarded(() => back(one.version)) }, "Put back"))]], rows)] : []));
  }

  choice.addEventListener("change", () => show(choice.value));
  text.addEventListener("change", () => { try { fill(); } catch { /* told when it is validated */ } });
  panel.append(el("h1", {}, "Policies"),
    el("p", { class: "lead" }, "Changes take effect at once, on every gateway of this store. Try them on recent traffic first."),
    el("div", { class: "grid" },
      el("section", {}, el("div", { class: "form" }, field("Category", choice)), form, field("The whole category as JSON", text),
        el("div", { class: "row" },
          el("button", { type: "button", onclick: validate }, "Validate and try"), el("button", { type: "button", class: "main", onclick: save }, "Save"),
          el("button", { type: "button", onclick: guarded(load) }, "Discard"))),
      el("div", { class: "stack" }, el("section", {}, el("h2", {}, "Outcome"), result), versions)));
  await load();
  return null;
}

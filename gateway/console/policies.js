// The policy editor: a category as a form and as JSON, validated and tried on recent traffic before it is saved.
import { call, get, Refused, withheld } from "./api.js";
import { action, el, field, fill, moment, number, percent, pill, quiet, say, table, tiles } from "./dom.js";

const FIELDS = [ // what operators change most; the JSON below has everything
  ["Mode", ["cache", "mode"], ["semantic", "exact", "shadow", "none"], "what may be reused"],
  ["Threshold", ["cache", "threshold"], "number", "least similarity, until labels suffice"],
  ["Error budget", ["cache", "max_error"], "number", "wrong hits, share of look-ups"],
  ["Lifetime", ["cache", "ttl"], "text", "7d, 12h, 5m"],
  ["Share of memory", ["cache", "quota", "share"], "number", "guaranteed, 0 to 1"],
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
  const text = el("textarea", { rows: 18, spellcheck: "false" });
  const form = el("div", { class: "form" });
  const result = el("div", { role: "status", "aria-live": "polite" });
  const versions = el("div");

  const category = () => JSON.parse(text.value);
  const edited = () => ({ ...book, categories: book.categories.map((one) => (one.name === name ? category() : one)) });

  function refill() {
    const tree = category();
    form.replaceChildren(...FIELDS.map(([label, path, kind, hint]) => {
      const value = at(tree, path) ?? "";
      const change = (event) => {
        const given = event.target.value;
        const next = category();
        put(next, path, kind === "number" ? (given === "" ? null : Number(given)) : given);
        text.value = JSON.stringify(next, null, 2);
      };
      const input = Array.isArray(kind)
        ? el("select", { onchange: change }, kind.map((one) => el("option", { value: one, selected: one === value }, one)))
        : el("input", { type: kind, step: "any", value: String(value), placeholder: "none", onchange: change });
      return field(label, input, hint);
    }));
  }

  function show(chosen) {
    name = chosen;
    choice.value = name;
    text.value = JSON.stringify(book.categories.find((one) => one.name === name), null, 2);
    refill();
    rest();
  }

  const rest = () => fill(result, quiet("Validate and try a change, and what it would have done to recent traffic is told here. Nothing changes by it."));

  async function load() {
    const read = await call("GET", "/policies");
    [book, etag] = [read.value, read.etag];
    choice.replaceChildren(...book.categories.map((one) => el("option", { value: one.name }, one.name)));
    show(book.categories.some((one) => one.name === name) ? name : book.categories[0].name);
    await history();
  }

  function faults(error) {
    const found = error instanceof Refused ? error.body?.error?.faults : null;
    fill(result, el("p", { class: "bad", role: "alert" }, found ? "Refused: nothing has changed." : error.message),
      found ? table("Faults", [["where", (one) => el("code", {}, one.path || "the book")], ["why", (one) => one.reason, "text"]], found) : "");
  }

  const guarded = (work) => async () => {
    try { await work(); } catch (error) { faults(error); }
  };

  const shown = (value) => el("code", {}, value === null || value === undefined ? "–" : JSON.stringify(value));
  const validate = guarded(async () => {
    const { value } = await call("POST", "/policies/validate", { body: JSON.stringify(edited()) });
    const tried = value.decisions;
    fill(result,
      el("p", {}, pill("valid", "good"), value.changes.length ? "" : " The same as what is in force."),
      table("What would change", [["setting", (one) => el("code", {}, one.path)], ["now", (one) => shown(one.old)], ["then", (one) => shown(one.new)]], value.changes, ""),
      tried.sampled ? tiles([
        ["Would change", number(tried.changed), `${percent(tried.changed / tried.sampled, 0)} of ${number(tried.sampled)} look-ups`],
        ["Hits more", number(tried.hits_gained)], ["Hits fewer", number(tried.hits_lost)]]) : quiet("No recent semantic look-ups to try it on."),
      table("Decisions that would change", [["question", (one) => one.question, "text"], ["category", (one) => one.category], ["now", (one) => one.was], ["then", (one) => one.would]], tried.changes, ""));
  });

  const save = guarded(async () => {
    const wanted = category();
    await call("PUT", `/policies/${encodeURIComponent(wanted.name)}`, { body: JSON.stringify(wanted), headers: { "If-Match": etag } });
    name = wanted.name;
    await load();
    fill(result, el("p", {}, pill("saved", "good"), " In force now, here and on every gateway of this store."));
    say("Saved, and in force.");
  });

  async function history() {
    const { versions: rows } = await get("/policies/versions");
    const back = async (version) => {
      if (!confirm(`Put version ${version} in force again?`)) return;
      await call("POST", "/policies/rollback", { body: JSON.stringify({ version }) });
      await load();
      say(`Version ${version} is in force again.`);
    };
    fill(versions, table("Newest first", [
      ["version", (one) => number(one.number)], ["when", (one) => moment(one.at)], ["who", (one) => one.who], ["what", (one) => one.what, "text"], ["from", (one) => one.source],
      ["", (one) => (one.current ? pill("in force", "good") : action("Put back", "policy", guarded(() => back(one.number)), { "aria-label": `Put back version ${one.number}` }))]],
    rows.slice(0, 50), "No version has been recorded yet."));
  }

  choice.addEventListener("change", () => show(choice.value));
  text.addEventListener("change", () => { try { refill(); } catch { /* told when it is validated */ } });
  panel.append(el("h1", {}, "Policies"),
    el("p", { class: "lead" }, withheld("policy") ? `${withheld("policy")} You may still try what a change would do.`
      : "Changes take effect at once, on every gateway of this store. Try them on recent traffic first."),
    el("div", { class: "grid" },
      el("section", {}, field("Category", choice), form,
        el("div", { class: "row" },
          action("Save", "policy", save, { class: "main" }), el("button", { type: "button", onclick: validate }, "Validate and try"),
          el("button", { type: "button", onclick: guarded(load) }, "Discard")),
        el("div", { class: "below" }, field("The whole category as JSON", text))),
      el("section", {}, el("h2", {}, "Outcome"), result)),
    el("section", {}, el("h2", {}, "Versions"), versions));
  await load();
  return null;
}

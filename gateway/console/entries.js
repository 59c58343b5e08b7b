// Stored answers: found by a text of their question, read, and purged.
import { get, post } from "./api.js";
import { action, bytes, el, empty, field, fill, moment, number, plural, quiet, say, table } from "./dom.js";

/** What a stored answer says, in whichever API's form. */
export function spoken(body) {
  const choice = body?.choices?.[0];
  return choice?.message?.content ?? choice?.text ?? body?.output?.[0]?.content?.[0]?.text ?? body?.content?.[0]?.text
    ?? (typeof body === "string" ? body : JSON.stringify(body, null, 2));
}

/** The question, and the answer for whoever opens it. */
function reading(one) {
  const inside = el("div");
  const open = async (event) => {
    if (!event.target.open || inside.childNodes.length) return;
    inside.append(quiet("Reading …"));
    try {
      const told = await get(`/cache/entries/${one.entry}`);
      inside.replaceChildren(el("p", { class: "answer" }, spoken(told.document)),
        quiet(`entry ${one.entry} · expires ${moment(one.expires)} · ${told.durable ? "durable" : "not durable yet"}${one.tags.length ? ` · tags ${one.tags.join(", ")}` : ""}`));
    } catch (error) { inside.replaceChildren(el("p", { class: "bad" }, error.message)); }
  };
  return el("details", { ontoggle: open }, el("summary", {}, one.question), inside);
}

export async function entries(panel) {
  const names = (await get("/cache")).categories.map((one) => one.name);
  const text = el("input", { type: "search", autocomplete: "off", placeholder: "any" }), tenant = el("input", { autocomplete: "off", placeholder: "any" });
  const category = el("select", {}, el("option", { value: "" }, "any"), names.map((name) => el("option", { value: name }, name)));
  const list = el("div"), note = el("p", { class: "quiet", role: "status" }), all = el("div", { class: "row" });

  const search = async () => {
    const found = await get(`/cache/entries?${new URLSearchParams({ q: text.value, category: category.value, tenant: tenant.value })}`);
    note.textContent = found.looked ? `${number(found.count)} of ${plural(found.looked, "stored answer", "stored answers")} match${found.count > found.entries.length ? `; the newest ${number(found.entries.length)} are shown` : ""}.` : "";
    fill(list); // so that what is open closes
    fill(list, table("Entries, newest first", [
      ["question", reading, "text"], ["category", (one) => one.category], ["model", (one) => one.model], ["tenant", (one) => one.tenant],
      ["hits", (one) => number(one.hits), "number"], ["size", (one) => bytes(one.size), "number"], ["stored", (one) => moment(one.created)],
      ["", (one) => action("Purge", "admin", () => purge({ entry: one.entry }), { class: "danger", "aria-label": `Purge entry ${one.entry}` })]],
    found.entries, found.looked ? "None matches." : empty("Nothing stored yet", "Answers appear here once a request has been forwarded and its category lets them be stored.")));
    all.hidden = !found.looked;
    all.replaceChildren(action(wide(), "admin", () => purge(chosen()), { class: "danger" }));
  };

  const chosen = () => {
    const what = Object.fromEntries([["category", category.value], ["tenant", tenant.value]].filter(([, value]) => value));
    return Object.keys(what).length ? what : { all: true };
  };
  const wide = () => {
    const what = chosen();
    return what.all ? "Purge everything …" : `Purge all of ${Object.entries(what).map(([name, value]) => `${name} ${value}`).join(", ")} …`;
  };
  const purge = async (what) => {
    const meant = await post("/cache/purge", { ...what, dry_run: true });
    if (!meant.purged && !meant.examples) return say("Nothing there to purge.");
    const examples = meant.examples ? ` and ${plural(meant.examples, "example", "examples")}` : "";
    if (!confirm(`Purge ${plural(meant.purged, "entry", "entries")}${examples}? They are gone for every gateway on this store.`)) return null;
    const done = await post("/cache/purge", what);
    await search();
    return say(`${number(done.purged)} purged${done.shared ? ", and the other gateways were told" : ""}.`);
  };
  panel.append(el("h1", {}, "Stored answers"),
    el("p", { class: "lead" }, "What memory holds. Open a question to read its answer; purge what is wrong, and it is gone everywhere."),
    el("section", {}, el("form", { class: "form", onsubmit: (event) => { event.preventDefault(); search(); } },
      field("Question holds", text), field("Category", category), field("Tenant", tenant), el("button", { class: "main" }, "Search")), note, list, all));
  await search();
  return null;
}

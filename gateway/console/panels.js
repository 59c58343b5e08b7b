// What the gateway does: each panel fills a part of the page and returns how to bring it up to date.
import { get, perhaps, post } from "./api.js";
import * as charts from "./charts.js";
import { bytes, clock, decided, el, field, milliseconds, number, percent, pill, say, similarity, table, tiles } from "./dom.js";

const MINUTES = 60; // of traffic in a chart
const REUSED = ["exact", "semantic", "join"];

function lately(minutes) {
  const since = Date.now() / 1000 - 60 * MINUTES;
  const counts = {};
  for (const minute of minutes.filter((one) => one.at >= since)) {
    for (const [word, count] of Object.entries(minute.counts)) counts[word] = (counts[word] ?? 0) + count;
  }
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  return { counts, all, share: (words) => (all ? words.reduce((sum, word) => sum + (counts[word] ?? 0), 0) / all : null) };
}

const categories = (trust) => Object.entries(trust.categories).map(([name, report]) => ({ name, ...report }));

function state(report) {
  if (report.closed) return pill("closed: over budget", "bad");
  if (report.hits.rate === null) return pill("not judged yet");
  const limit = report.max_error;
  return limit !== null && report.error > limit ? pill("above budget", "warn") : pill("within budget", "good");
}

export async function overview(panel) {
  const chart = el("div", { class: "chart", role: "img", "aria-label": "Requests a minute by decision; the table below has the numbers" });
  const wrong = el("div", { class: "chart", role: "img", "aria-label": "False-hit rate of each category; the table below has the numbers" });
  const figures = el("div"), hits = el("div"), memory = el("div"), money = el("div"), counts = el("div");
  panel.append(
    el("h1", {}, "Overview"), figures,
    el("div", { class: "grid" },
      el("section", {}, el("h2", {}, "Traffic"), chart, counts),
      el("section", {}, el("h2", {}, "How often hits are wrong"), wrong, hits),
      el("section", {}, el("h2", {}, "Memory"), memory),
      el("section", {}, el("h2", {}, "Savings"), money)),
  );
  return async () => {
    const [traffic, trust, cache, backends, savings] = await Promise.all(
      [get("/traffic?limit=1"), get("/trust"), get("/cache"), get("/backends"), perhaps("/savings")]);
    const hour = lately(traffic.minutes), rows = categories(trust);
    const well = backends.models.flatMap((model) => model.backends), up = well.filter((one) => one.health === "healthy" && !one.draining);
    figures.replaceChildren(tiles([
      ["Requests", number(hour.all), "in the last hour"],
      ["Answered from memory", percent(hour.share(REUSED)), `${percent(hour.share(["semantic"]))} semantic`],
      ["By a small model", percent(hour.share(["offload"]))],
      ["Entries", number(cache.entries), `${bytes(cache.bytes)} of ${bytes(cache.capacity)}`],
      ["Closed categories", number(rows.filter((row) => row.closed).length), "serve no semantic hits"],
      ["Backends", `${up.length} / ${well.length}`, "in service"],
    ]));
    counts.replaceChildren(table("Requests of the last hour by decision",
      [["decision", ([word]) => decided(word)], ["requests", ([, count]) => number(count), "number"], ["share", ([, count]) => percent(count / hour.all), "number"]],
      Object.entries(hour.counts).sort((a, b) => b[1] - a[1])));
    hits.replaceChildren(table("Judged semantic hits against their budgets", [
      ["category", (row) => row.name], ["state", state],
      ["wrong / hits, 95 % interval", (row) => (row.hits.rate === null ? "–" : `${percent(row.hits.rate)} (${percent(row.hits.low)} to ${percent(row.hits.high)})`), "number"],
      ["wrong / look-ups", (row) => percent(row.error, 2), "number"],
      ["budget", (row) => percent(row.max_error, 2), "number"],
      ["judged", (row) => number(row.hits.judged), "number"]], rows));
    memory.replaceChildren(table("Entries and bytes of each category", [
      ["category", (row) => row.name], ["entries", (row) => number(row.entries), "number"], ["size", (row) => bytes(row.bytes), "number"],
      ["guaranteed", (row) => bytes(row.guarantee), "number"], ["evicted", (row) => number(row.evicted), "number"]], cache.categories));
    money.replaceChildren(saved(savings));
    await Promise.all([charts.traffic(chart, traffic.minutes.slice(-MINUTES)), charts.falseHits(wrong, rows)]);
  };
}

function saved(savings) {
  if (savings === null) return el("p", { class: "quiet" }, "This gateway keeps no ledger of savings.");
  const rows = savings.rows ?? savings.categories ?? [];
  const columns = Object.keys(rows[0] ?? {}).filter((name) => typeof rows[0][name] !== "object");
  return table("What answers from memory and small models saved", columns.map((name) => [
    name.replaceAll("_", " "), (row) => (typeof row[name] === "number" ? number(row[name]) : String(row[name])),
    rows.length && typeof rows[0][name] === "number" ? "number" : ""]), rows);
}

export async function traffic(panel) {
  const words = ["", "exact", "semantic", "join", "offload", "forward", "refuse"];
  const wanted = el("select", {}, words.map((word) => el("option", { value: word }, word || "all")));
  const text = el("input", { type: "search", autocomplete: "off" });
  const hold = el("input", { type: "checkbox" });
  const list = el("div");
  let kept = [], next = 0;
  const show = () => {
    const found = kept.filter((one) => (!wanted.value || (one.how || one.decision) === wanted.value)
      && (!text.value || JSON.stringify(one).toLowerCase().includes(text.value.toLowerCase())));
    list.replaceChildren(table(`Latest decisions, ${found.length} of ${kept.length}`, [
      ["time", (one) => clock(one.at)], ["decision", (one) => decided(one.how || one.decision)], ["reason", (one) => one.reason],
      ["category", (one) => one.category || "–"], ["similarity", (one) => similarity(one.similarity), "number"], ["needed", (one) => similarity(one.threshold), "number"],
      ["model", (one) => one.model], ["backend", (one) => one.backend || "–"], ["took", (one) => milliseconds(one.seconds), "number"],
      ["status", (one) => el("span", { class: one.status >= 400 ? "bad" : "" }, String(one.status)), "number"],
      ["question", (one) => one.question ?? "–", "text"], ["request id", (one) => one.request_id]], found.slice(0, 200)));
  };
  wanted.addEventListener("change", show);
  text.addEventListener("input", show);
  panel.append(el("h1", {}, "Live traffic"),
    el("div", { class: "form" }, field("Decision", wanted), field("Holds the text", text), el("label", {}, el("span", {}, hold, " hold still"))),
    el("section", {}, list));
  hold.style.width = "auto";
  return async () => {
    if (hold.checked) return;
    const told = await get(`/traffic?after=${next}&limit=500`);
    if (!told.decisions.length && next) return;
    next = told.next;
    kept = [...told.decisions, ...kept].slice(0, 500);
    show();
  };
}

export async function entries(panel) {
  const text = el("input", { type: "search" }), category = el("input"), tenant = el("input");
  const list = el("div"), note = el("p", { class: "quiet" });
  const search = async () => {
    const query = new URLSearchParams({ q: text.value, category: category.value, tenant: tenant.value });
    const found = await get(`/cache/entries?${query}`);
    note.textContent = `${number(found.count)} of ${number(found.looked)} entries match.`;
    list.replaceChildren(table("Entries, newest first", [
      ["entry", (one) => one.entry], ["question", (one) => one.question, "text"], ["category", (one) => one.category], ["model", (one) => one.model],
      ["tenant", (one) => one.tenant], ["hits", (one) => number(one.hits), "number"], ["size", (one) => bytes(one.size), "number"],
      ["stored", (one) => clock(one.created)],
      ["", (one) => el("button", { type: "button", class: "danger", "aria-label": `Purge entry ${one.entry}`, onclick: () => purge({ entry: one.entry }) }, "Purge")]],
    found.entries));
  };
  const purge = async (what) => {
    const { purged } = await post("/cache/purge", { ...what, dry_run: true });
    if (!purged) return say("Nothing there to purge.");
    if (!confirm(`Purge ${purged} ${purged === 1 ? "entry" : "entries"}? They are gone for every gateway on this store.`)) return;
    const done = await post("/cache/purge", what);
    say(`${done.purged} purged.`);
    await search();
  };
  const matching = () => {
    const what = Object.fromEntries([["category", category.value], ["tenant", tenant.value]].filter(([, value]) => value));
    return purge(Object.keys(what).length ? what : { all: true });
  };
  panel.append(el("h1", {}, "Stored answers"),
    el("form", { class: "form", onsubmit: (event) => { event.preventDefault(); search(); } },
      field("Question holds", text), field("Category", category), field("Tenant", tenant), el("button", { class: "main" }, "Search")),
    el("section", {}, note, list, el("p", { class: "row" },
      el("button", { type: "button", class: "danger", onclick: matching }, "Purge this category and tenant (all, if neither is named)"))));
  await search();
  return null;
}

export async function backends(panel) {
  const chart = el("div", { class: "chart", role: "img", "aria-label": "Load of each backend; the table below has the numbers" });
  const list = el("div");
  const update = async () => {
    const all = (await get("/backends")).models.flatMap((model) => model.backends.map((one) => ({ ...one, of: model.name })));
    const seconds = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(2)} s`);
    const act = async (one, word) => {
      await post(`/backends/${one.id.split("/").map(encodeURIComponent).join("/")}/${word}`, {});
      say(`${one.id}: ${word}`);
      await update();
    };
    list.replaceChildren(table("Backends", [
      ["backend", (one) => one.id], ["url", (one) => one.url, "text"],
      ["state", (one) => (one.draining ? pill("drained", "warn") : pill(one.health, one.health === "healthy" ? "good" : "bad"))],
      ["load", (one) => percent(one.load, 0), "number"], ["in flight", (one) => number(one.in_flight), "number"], ["waiting", (one) => number(one.waiting), "number"],
      ["TTFT p50", (one) => seconds(one.ttft_p50), "number"], ["TTFT p95", (one) => seconds(one.ttft_p95), "number"],
      ["requests", (one) => number(one.requests), "number"], ["failures", (one) => number(one.failures), "number"],
      ["", (one) => { const word = one.draining || one.health !== "healthy" ? "enable" : "drain"; return el("button", { type: "button", onclick: () => act(one, word) }, `${word[0].toUpperCase()}${word.slice(1)}`); }],
    ], all));
    await charts.load(chart, all);
  };
  panel.append(el("h1", {}, "Backends"), el("section", {}, chart, list));
  return update;
}

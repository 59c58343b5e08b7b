// What the gateway does now: each panel fills a part of the page and returns how to bring it up to date.
import { get, post } from "./api.js";
import * as charts from "./charts.js";
import { falseHits, overBudget, standing, together } from "./ledger.js";
import { action, bar, bytes, chart, clock, decided, dollars, el, empty, field, fill, milliseconds, none, number, percent, pill, plural, say, similarity, table, tiles } from "./dom.js";

const SPAN = 60; // minutes of traffic in a chart
const REUSED = ["exact", "semantic", "join"];

const sum = (counts, words = Object.keys(counts)) => words.reduce((all, word) => all + (counts[word] ?? 0), 0);
const share = (counts, words) => (sum(counts) ? sum(counts, words) / sum(counts) : null);
const inService = (one) => one.health === "healthy" && !one.draining;

/** The share of a category's requests that memory answered, each way in its colour. */
function hitRate(counts) {
  if (!sum(counts)) return el("span", { class: "quiet" }, "no requests");
  return el("span", { class: "gauge" },
    el("span", { class: "bar", "aria-hidden": "true" }, REUSED.map((word) => el("i", { class: word, style: { width: `${100 * (share(counts, [word]) ?? 0)}%` } }))),
    el("span", {}, percent(share(counts, REUSED), 0)));
}

export async function overview(panel) {
  const figures = el("div"), minutes = chart("Requests a minute by decision"), counts = el("div"), kinds = el("div"), memory = el("div"), money = el("div");
  panel.append(el("h1", {}, "Overview"), figures,
    el("div", { class: "grid wide" },
      el("section", {}, el("h2", {}, "Traffic of the last hour"), minutes),
      el("section", {}, el("h2", {}, "How requests ended"), counts)),
    el("section", {}, el("h2", {}, "Categories"), kinds),
    el("div", { class: "grid" }, el("section", {}, el("h2", {}, "Memory"), memory), el("section", {}, el("h2", {}, "Savings, net of wrong answers"), money)));
  return async () => {
    const [traffic, trust, cache, backends, savings] = await Promise.all(
      [get("/traffic?limit=1"), get("/trust"), get("/cache"), get("/backends"), get("/savings")]);
    const hour = Object.values(traffic.categories).reduce((all, one) => {
      for (const [word, count] of Object.entries(one)) all[word] = (all[word] ?? 0) + count;
      return all;
    }, {});
    const rows = together(traffic.categories, trust, cache);
    const closed = rows.filter((row) => row.trust?.closed).length, over = rows.filter((row) => overBudget(row.trust)).length;
    const all = backends.models.flatMap((model) => model.backends), up = all.filter(inService).length;
    fill(figures, tiles([
      ["Requests", number(sum(hour)), "in the last hour"],
      ["From memory", percent(share(hour, REUSED), 0), `${percent(share(hour, ["exact"]), 0)} exact, ${percent(share(hour, ["semantic"]), 0)} semantic`],
      ["Wrong hits", percent(trust.all.rate), trust.all.judged ? `of ${number(trust.all.judged)} judged` : "none judged yet"],
      ["Over budget", number(over), closed ? `categories, ${number(closed)} closed` : "categories, none closed", closed ? "bad" : over ? "warn" : ""],
      ["Saved", savings.total.net_dollars ? dollars(savings.total.net_dollars) : plural(savings.total.net_calls, "call", "calls"), "net, in all"],
      ["Backends", `${up} of ${all.length}`, "in service", up < all.length ? "warn" : ""],
    ]));
    fill(counts, table("Requests of the last hour by decision", [
      ["decision", ([word]) => decided(word)], ["share", ([, count]) => bar(count / sum(hour), percent(count / sum(hour)))],
      ["requests", ([, count]) => number(count), "number"]],
    Object.entries(hour).sort((a, b) => b[1] - a[1]), empty("No requests yet", "They appear here as soon as an application sends one.")));
    fill(kinds, table("Hit rate of the last hour, and wrong hits against their budgets", [
      ["category", (row) => row.name], ["hit rate", (row) => hitRate(row.counts)],
      ["wrong hits, of look-ups", (row) => falseHits(row.trust)], ["budget", (row) => percent(row.trust?.max_error, 2), "number"],
      ["standing", (row) => standing(row.trust)], ["requests", (row) => number(sum(row.counts)), "number"]], rows));
    fill(memory, el("p", {}, bar(cache.bytes / cache.capacity, `${bytes(cache.bytes)} of ${bytes(cache.capacity)}`)),
      table(plural(cache.entries, "answer in memory", "answers in memory"), [
        ["category", (row) => row.name], ["entries", (row) => number(row.entries), "number"], ["size", (row) => bytes(row.bytes), "number"],
        ["guaranteed", (row) => bytes(row.guarantee), "number"], ["evicted", (row) => number(row.evicted), "number"]], cache.categories));
    fill(money, table("By way", [
      ["way", ([how]) => decided(how)], ["calls", ([, one]) => number(one.calls), "number"],
      ["tokens", ([, one]) => number(one.tokens), "number"], ["dollars", ([, one]) => dollars(one.dollars), "number"]],
    Object.entries(byWay(savings.rows)), empty("Nothing saved yet", "The first reused answer is booked here.")));
    charts.traffic(minutes, traffic.minutes, SPAN);
  };
}

function byWay(rows) {
  const ways = {};
  for (const row of rows) {
    const way = (ways[row.how] ??= { calls: 0, tokens: 0, dollars: 0 });
    way.calls += row.net_calls;
    way.tokens += row.net_input_tokens + row.net_output_tokens;
    way.dollars += row.net_dollars;
  }
  return ways;
}

export async function traffic(panel) {
  const words = ["", "exact", "semantic", "join", "offload", "forward", "refuse"];
  const wanted = el("select", {}, words.map((word) => el("option", { value: word }, word || "all")));
  const text = el("input", { type: "search", autocomplete: "off", placeholder: "question, tenant, model, request id …" });
  const hold = el("button", { type: "button", "aria-pressed": "false" }, "Hold still");
  const list = el("div");
  let kept = [], next = 0;
  const show = () => {
    const found = kept.filter((one) => (!wanted.value || (one.how || one.decision) === wanted.value)
      && (!text.value || JSON.stringify(one).toLowerCase().includes(text.value.toLowerCase())));
    fill(list, kept.length ? table(`${number(Math.min(found.length, 200))} of the latest ${number(kept.length)} decisions`, [
      ["time", (one) => clock(one.at)], ["decision", (one) => decided(one.how || one.decision)], ["why", (one) => one.reason],
      ["question", (one) => el("span", { class: "clip", title: one.question }, one.question ?? "–"), "text"], ["category", (one) => one.category || "–"],
      ["similarity", (one) => similarity(one.similarity), "number"], ["needed", (one) => similarity(one.threshold), "number"],
      ["took", (one) => milliseconds(one.seconds), "number"], ["status", (one) => (one.status >= 400 ? pill(String(one.status), "bad") : String(one.status)), "number"],
      ["model", (one) => one.model], ["backend", (one) => one.backend || "–"], ["tenant", (one) => one.tenant], ["request id", (one) => el("code", {}, one.request_id)]],
    found.slice(0, 200), "None of them matches.") : empty("No requests yet", "Each one appears here within two seconds of its last byte."));
  };
  wanted.addEventListener("change", show);
  text.addEventListener("input", show);
  hold.addEventListener("click", () => hold.setAttribute("aria-pressed", String(hold.getAttribute("aria-pressed") === "false")));
  panel.append(el("h1", {}, "Live traffic"),
    el("p", { class: "lead" }, "The latest decisions of this gateway process. They are kept in memory only, and only the last few hundred."),
    el("section", {}, el("div", { class: "form" }, field("Decision", wanted), field("Holds the text", text), hold), list));
  return async () => {
    if (hold.getAttribute("aria-pressed") === "true") return;
    const told = await get(`/traffic?after=${next}&limit=500`);
    if (!told.decisions.length && next) return;
    next = told.next;
    kept = [...told.decisions, ...kept].slice(0, 500);
    show();
  };
}

function health(one) {
  if (one.draining) return pill("drained", "warn");
  return pill(one.health, one.health === "healthy" ? "good" : one.health === "ejected" ? "bad" : "warn");
}

export async function backends(panel) {
  const list = el("div");
  const seconds = (value) => (none(value) ? "–" : value < 1 ? `${(1000 * value).toFixed(0)} ms` : `${value.toFixed(2)} s`);
  const act = async (one, word) => {
    await post(`/backends/${one.id.split("/").map(encodeURIComponent).join("/")}/${word}`, {});
    say(`${one.id}: ${word === "drain" ? "takes no new requests" : "in service"}`);
    await update();
  };
  const button = (one) => {
    const word = inService(one) ? "drain" : "enable";
    return action(word === "drain" ? "Drain" : "Enable", "admin", () => act(one, word), { "aria-label": `${word === "drain" ? "Drain" : "Enable"} ${one.id}` });
  };
  async function update() {
    const models = (await get("/backends")).models;
    fill(list, models.map((model) => el("section", {}, el("h2", {}, model.name === "*" ? "Any other model" : model.name), table(`Backends of ${model.name}`, [
      ["backend", (one) => one.id], ["state", health], ["load", (one) => bar(one.load, percent(one.load, 0), one.load >= 1 ? "bad" : one.load > 0.8 ? "warn" : "")],
      ["in flight", (one) => number(one.in_flight), "number"], ["waiting", (one) => number(one.waiting), "number"],
      ["first token p50", (one) => seconds(one.ttft_p50), "number"], ["p95", (one) => seconds(one.ttft_p95), "number"],
      ["requests", (one) => number(one.requests), "number"], ["failures", (one) => number(one.failures), "number"],
      ["", button]], model.backends, empty("No backends", "This model has none.")))));
  }
  panel.append(el("h1", {}, "Backends"),
    el("p", { class: "lead" }, "Load is 0 when idle and 100 % at capacity, by the engine's own metrics where it has them. A drained backend finishes what it has and gets nothing new from this process."),
    list);
  return update;
}

// What is owed and earned: trust in hits, savings, tenants and their budgets, and who did what.
import { call, get } from "./api.js";
import * as charts from "./charts.js";
import { bar, chart, dollars, el, empty, fill, moment, none, number, percent, pill, plural, quiet, short, table, tiles } from "./dom.js";

const CLOSED = { "over-budget": "closed: over budget", uncalibrated: "closed: too few labels" };

export const overBudget = (report) => Boolean(report?.closed === "over-budget" || (!none(report?.error) && !none(report.max_error) && report.error > report.max_error));

export function standing(report) {
  if (!report) return el("span", { class: "quiet" }, "no semantic hits");
  if (report.closed) return pill(CLOSED[report.closed] ?? `closed: ${report.closed}`, "bad");
  if (none(report.error)) return pill("not judged yet");
  if (none(report.max_error)) return pill("no budget set");
  if (overBudget(report)) return pill("above budget", "warn");
  return report.error_high > report.max_error ? pill("within budget so far", "good") : pill("within budget", "good");
}

/** Wrong hits / look-ups: the estimate as a bar, its interval as a line, its budget as a mark. */
export function falseHits(report) {
  if (!report || none(report.error)) return el("span", { class: "quiet" }, "–");
  const most = 1.15 * Math.max(report.max_error ?? 0, Math.min(report.error_high, 3 * Math.max(report.max_error ?? 0, report.error)), 0.001);
  const kind = none(report.max_error) ? "" : report.error > report.max_error ? "bad" : "good";
  const gauge = bar(report.error / most, percent(report.error, 2), kind, none(report.max_error) ? null : report.max_error / most);
  const [low, high] = [report.error_low, Math.min(report.error_high, most)].map((value) => (100 * value) / most);
  gauge.firstChild.append(el("u", { style: { left: `${low}%`, width: `${Math.max(0, high - low)}%` } }));
  gauge.title = `between ${percent(report.error_low, 2)} and ${percent(report.error_high, 2)} with 95 % confidence`;
  return gauge;
}

/** One row a category: its requests of the last hour, and what is known of its hits. */
export function together(counts, trust, cache) {
  const names = new Set([...cache.categories.map((one) => one.name), ...Object.keys(trust.categories), ...Object.keys(counts).filter(Boolean)]);
  return [...names].sort().map((name) => ({ name, counts: counts[name] ?? {}, trust: trust.categories[name] ?? null }));
}

const interval = (low, high) => `${percent(low, 2)} to ${percent(high, 2)}`;

export async function trust(panel) {
  const figures = el("div"), picture = chart("Wrong hits of each category against its budget"), list = el("div"), points = el("div"), withheld = el("div");
  panel.append(el("h1", {}, "Trust"),
    el("p", { class: "lead" }, "Samples of semantic hits are judged beside the traffic. A category whose wrong hits exceed its budget closes: it serves no semantic hits until they would be right again."),
    figures, el("section", {}, el("h2", {}, "Wrong hits against budgets"), picture, list),
    el("div", { class: "grid" }, el("section", {}, el("h2", {}, "What a candidate must reach"), points), el("section", {}, el("h2", {}, "Hits withheld"), withheld)));
  return async () => {
    const told = await get("/trust");
    const rows = Object.entries(told.categories).map(([name, report]) => ({ name, ...report }));
    const judged = Object.entries(told.judged_by).map(([by, count]) => `${number(count)} by ${by}`).join(", ");
    fill(figures, tiles([
      ["Wrong among hits", percent(told.all.rate, 2), none(told.all.rate) ? "none judged yet" : interval(told.all.low, told.all.high)],
      ["Semantic hits", number(told.all.hits), `of ${plural(told.all.lookups, "look-up", "look-ups")}`],
      ["Judged", number(told.all.judged), judged || "by a model or by feedback"],
      ["Wrong pairs remembered", number(told.negative_pairs), "never served again"],
    ]));
    fill(list, table("False-hit rate of each category", [
      ["category", (row) => row.name], ["standing", standing], ["wrong, of look-ups", falseHits],
      ["95 % interval", (row) => (none(row.error) ? "–" : interval(row.error_low, row.error_high)), "number"], ["budget", (row) => percent(row.max_error, 2), "number"],
      ["wrong, of hits", (row) => percent(row.hits.rate), "number"], ["hits", (row) => number(row.hits.hits), "number"],
      ["judged", (row) => number(row.hits.judged), "number"], ["feedback", (row) => `${row.good} good, ${row.bad} bad`, "number"]],
    told.all.lookups || told.all.judged || rows.some((row) => row.good + row.bad) ? rows : [], empty("Nothing known yet", "It fills with the first semantic look-ups, judged samples and feedback.")));
    fill(points, table("Operating points in force", [
      ["category", (row) => row.name], ["at least", (row) => (row.points.length ? row.points[0].toFixed(4) : "–"), "number"],
      ["from", (row) => row.source], ["labels", (row) => `${number(row.labels)} of ${number(row.needed)}`, "number"]], rows));
    fill(withheld, table("What closed, shadow and explored hits would have done", [
      ["category", (row) => row.name], ["hits", (row) => number(row.withheld.would_serve), "number"], ["tokens", (row) => number(row.withheld.would_save_tokens), "number"],
      ["dollars", (row) => dollars(row.withheld.would_save_dollars), "number"], ["wrong", (row) => percent(row.withheld.rate), "number"]],
    rows.filter((row) => row.withheld.would_serve || row.withheld.hits), "No hit has been withheld."));
    charts.falseHits(picture, rows);
  };
}

async function download() {
  const { value } = await call("GET", "/savings?format=csv");
  const link = el("a", { href: URL.createObjectURL(new Blob([value], { type: "text/csv" })), download: "savings.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
}

export async function savings(panel) {
  const figures = el("div"), picture = chart("What each category has saved"), list = el("div"), note = el("p", { class: "warn", hidden: true }, "The store could not be read just now: other gateways' savings are as last known.");
  panel.append(el("h1", {}, "Savings"),
    el("p", { class: "lead" }, "Calls that no engine had to make, of all gateways on this store. Net leaves out what feedback called bad, or what judged samples say was."),
    note, figures, el("section", {}, el("div", { class: "head" }, el("h2", {}, "The ledger"), el("button", { type: "button", onclick: download }, "Download CSV")), picture, list));
  return async () => {
    const { merged, total, rows } = await get("/savings");
    note.hidden = merged;
    fill(figures, tiles([
      ["Saved, net", dollars(total.net_dollars), `${dollars(total.dollars)} gross`],
      ["Calls spared", number(total.net_calls), `${number(total.calls)} gross`],
      ["Tokens spared", short(total.net_input_tokens + total.net_output_tokens), `${short(total.net_output_tokens)} of them output`],
      ["Engine time spared", total.net_engine_seconds < 5400 ? `${number(total.net_engine_seconds)} s` : `${number(total.net_engine_seconds / 3600)} h`],
      ["Bad answers", number(total.bad_calls), total.calls ? `${percent(total.bad_calls / total.calls)} of the calls` : "", total.bad_calls ? "warn" : ""],
    ]));
    fill(list, table("By tenant, category and way", [
      ["tenant", (row) => row.tenant], ["category", (row) => row.category || "–"], ["way", (row) => el("span", { class: `decision ${row.how}` }, row.how)],
      ["calls", (row) => number(row.calls), "number"], ["bad", (row) => (row.bad_calls ? `${number(row.bad_calls)} (${row.bad_by})` : "0"), "number"],
      ["net tokens", (row) => number(row.net_input_tokens + row.net_output_tokens), "number"], ["net engine time", (row) => `${number(row.net_engine_seconds)} s`, "number"],
      ["net dollars", (row) => dollars(row.net_dollars), "number"]],
    rows, empty("Nothing saved yet", "The first answer that is reused, joined or given by a small model is booked here within moments.")));
    const priced = rows.some((row) => row.net_dollars);
    charts.savings(picture, rows, (row) => (priced ? row.net_dollars : row.net_calls), priced ? "dollars saved, net" : "calls spared, net");
  };
}

function used(amount, limit, show = number, soft = null) {
  if (none(limit)) return none(amount) ? el("span", { class: "quiet" }, "no limit") : show(amount);
  const part = limit ? (amount ?? 0) / limit : 1, over = !none(soft) && (amount ?? 0) > soft;
  return bar(part, `${show(amount ?? 0)} of ${show(limit)}`, part >= 1 ? "bad" : part > 0.8 || over ? "warn" : "", !none(soft) && limit ? soft / limit : null);
}

function budget(one) {
  if (!one.budget) return el("span", { class: "quiet" }, "no budget");
  const { hard, soft, period } = one.budget;
  return [used(one.used?.dollars, hard ?? soft, dollars, none(hard) ? null : soft), el("small", { class: "quiet" }, `this ${period}${none(hard) ? ", soft" : ""}`)];
}

const key = (one) => `${one.label || "unnamed"}${one.expires ? ` (until ${one.expires.slice(0, 10)})` : ""}`;

export async function tenants(panel) {
  const list = el("div", { class: "stacked" });
  panel.append(el("h1", {}, "Tenants"),
    el("p", { class: "lead" }, "What each may use and has used. Limits and keys are set in the configuration; a key itself is never shown."), el("section", {}, list));
  return async () => {
    const { tenants: all } = await get("/tenants");
    fill(list, table(plural(all.length, "tenant", "tenants"), [
      ["tenant", (one) => one.name], ["budget", budget],
      ["requests a minute", (one) => used(one.used?.requests, one.limits?.requests_per_minute)], ["tokens a minute", (one) => used(one.used?.tokens, one.limits?.tokens_per_minute)],
      ["in flight", (one) => used(one.used?.in_flight, one.limits?.in_flight)], ["models", (one) => (one.models ? one.models.join(", ") : "all"), "text"],
      ["priority", (one) => one.priority], ["keys", (one) => one.keys.map(key).join(", "), "text"]],
    all, empty("No tenants are configured", "The gateway is open: each distinct key of a caller is a tenant of its own, without limits.")));
  };
}

function what(record) {
  const { number: _, at, who, action, changes, ...rest } = record;
  const said = Object.entries(rest).filter(([, value]) => !none(value)).map(([name, value]) => `${name.replaceAll("_", " ")}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(" · ");
  if (!changes?.length) return said || "–";
  return el("details", {}, el("summary", {}, plural(changes.length, "change", "changes")),
    el("ul", { class: "changes" }, changes.slice(0, 50).map((one) => el("li", {}, el("code", {}, one.path), ` ${JSON.stringify(one.old)} → ${JSON.stringify(one.new)}`))), quiet(said));
}

export async function audit(panel) {
  const { records } = await get("/audit?limit=200");
  panel.append(el("h1", {}, "Audit"), el("p", { class: "lead" }, "Who changed what, on every gateway of this store. Nothing here can be edited."),
    el("section", {}, table(`The latest ${number(records.length)} records, newest first`, [
      ["when", (one) => moment(one.at)], ["who", (one) => one.who], ["action", (one) => el("code", {}, one.action)], ["what", what, "text"]],
    records, empty("Nothing recorded yet", "Policy changes, purges, drains and imports are written here."))));
  return null;
}

// A prompt's way through the gateway: what would be decided and why, beside what came back.
import { get, post, Refused, withheld } from "./api.js";
import { action, bar, decided, el, field, pill, quiet, similarity, table } from "./dom.js";
import { spoken } from "./entries.js";

const TELLING = /^(x-gateway-|age$|cache-status$|server-timing$|x-request-id$)/i;

function timings(steps) {
  const longest = Math.max(...steps.map(([, took]) => took), 0.001);
  return el("dl", { class: "bars" }, steps.map(([name, took]) => [el("dt", {}, name), el("dd", {}, bar(took / longest, `${took.toFixed(2)} ms`))]));
}

const served = (text) => text.split(",").map((part) => part.trim().split(";dur=")).filter(([, took]) => took).map(([name, took]) => [name, Number(took)]);

function answer(told) {
  const headers = Object.entries(told.headers).map(([name, value]) => [name.toLowerCase(), value]).filter(([name]) => TELLING.test(name));
  const header = Object.fromEntries(headers);
  const word = header["x-gateway-how"] || header["x-gateway-decision"];
  return [
    el("p", { class: "verdict" }, word ? decided(word) : "", " ", header["x-gateway-reason"] ?? "", told.status >= 400 ? pill(`status ${told.status}`, "bad") : ""),
    el("p", { class: told.status >= 400 ? "bad" : "answer" }, told.status >= 400 ? told.body?.error?.message ?? spoken(told.body) : spoken(told.body)),
    el("h3", {}, "Timings"), timings(served(header["server-timing"] ?? "")),
    el("details", {}, el("summary", {}, "Headers"), table("Headers", [["name", ([name]) => name], ["value", ([, value]) => value, "text"]], headers)),
  ];
}

const plain = (value) => (typeof value === "number" ? String(Number(value.toFixed(4))) : typeof value === "object" ? JSON.stringify(value) : String(value));

function verdict(one) {
  if (!one.verdict) return pill("not asked");
  return pill(one.verdict, one.verdict === "ok" ? "good" : "warn");
}

function why(told) {
  const ruling = Object.entries(told.ruling ?? {}).filter(([, value]) => value !== null && value !== "" && String(value) !== "");
  return [
    el("p", { class: "verdict" }, decided(told.how || told.decision), " ", told.reason, told.category ? [" in category ", el("strong", {}, told.category)] : ""),
    table("Candidates, nearest first", [
      ["stored question", (one) => one.question, "text"], ["similarity", (one) => similarity(one.similarity), "number"], ["score", (one) => similarity(one.score), "number"],
      ["guard", verdict]], told.candidates, told.how === "exact" ? "The very same request is stored: nothing had to be compared." : "No candidates: nothing stored is near, or the semantic step was not taken."),
    told.threshold === null ? "" : quiet(`A candidate must reach ${similarity(told.threshold)}.`),
    el("h3", {}, "Steps"), timings(Object.entries(told.steps_ms)),
    el("details", {}, el("summary", {}, "Ruling"), table("Ruling", [["term", ([name]) => name], ["value", ([, value]) => plain(value), "text"]], ruling)),
    el("details", {}, el("summary", {}, "Backends"), table("Backends of this model", [["backend", (one) => one.id], ["state", (one) => one.health], ["load", (one) => plain(one.load ?? "–"), "number"],
      ["in flight", (one) => String(one.in_flight), "number"]], told.backends)),
  ];
}

export async function playground(panel) {
  const sends = withheld("policy") === null;
  const models = (await get("/backends")).models.map((model) => model.name).filter((name) => name !== "*");
  const known = el("datalist", { id: "models" }, models.map((one) => el("option", { value: one })));
  const model = el("input", { list: "models", value: models[0] ?? "", required: true, autocomplete: "off" });
  const system = el("input", { placeholder: "none", autocomplete: "off" });
  const key = el("input", { type: "password", autocomplete: "off", placeholder: "none" });
  const tenant = el("input", { autocomplete: "off", placeholder: "a tenant's name" });
  const cache = el("select", {}, ["on", "exact", "off", "refresh", "only"].map((one) => el("option", { value: one }, one)));
  const prompt = el("textarea", { rows: 3, required: true, class: "prose", placeholder: "What would an application ask?" });
  const left = el("section", { "aria-live": "polite" }, el("h2", {}, "Decision"), quiet("What the gateway decides, and why, appears here."));
  const right = el("section", { "aria-live": "polite" }, el("h2", {}, "Answer"), quiet("And here what came back."));
  const form = el("form", { onsubmit: (event) => { event.preventDefault(); ask(sends); } });

  const body = () => ({ model: model.value, messages: [...(system.value ? [{ role: "system", content: system.value }] : []), { role: "user", content: prompt.value }] });
  const control = () => ({ "x-gateway-cache": cache.value });
  const play = (send) => post("/playground", {
    path: "/v1/chat/completions", send, body: body(), headers: { ...control(), ...(key.value ? { Authorization: `Bearer ${key.value}` } : {}) } });
  // A reader may ask what would become of a request, though not with an application's key.
  const look = async () => ({ answer: null, explained: await post("/explain", body(), { ...control(), ...(tenant.value ? { "x-gateway-tenant": tenant.value } : {}) }) });

  async function ask(send) {
    if (!form.reportValidity()) return;
    right.replaceChildren(el("h2", {}, "Answer"), quiet(send ? "Waiting for it …" : "Not asked."));
    try {
      const told = await (sends ? play(send) : look());
      left.replaceChildren(el("h2", {}, "Decision"), ...why(told.explained).flat());
      if (told.answer) right.replaceChildren(el("h2", {}, "Answer"), ...answer(told.answer));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      right.replaceChildren(el("h2", {}, "Answer"), el("p", { class: "bad", role: "alert" }, error.message));
    }
  }
  form.append(
    field("Prompt", prompt),
    el("div", { class: "form" }, field("Model", model), field("Cache", cache), field("System prompt", system), sends ? field("API key", key) : field("Tenant", tenant)), known,
    el("div", { class: "row" }, action("Ask", "policy", () => {}, { class: "main", type: sends ? "submit" : "button" }), el("button", { type: "button", onclick: () => ask(false) }, "Only explain")));
  panel.append(el("h1", {}, "Playground"),
    el("p", { class: "lead" }, sends ? "Goes through this gateway as an application's request would, and is stored, counted and paid for like one."
      : "Your role looks only: what would become of a request. Nothing is sent to a model."),
    el("section", {}, form), el("div", { class: "grid" }, left, right));
  return null;
}

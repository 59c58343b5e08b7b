// A prompt's way through the gateway: what would be decided and why, beside what came back.
import { get, post, Refused } from "./api.js";
import { decided, el, field, pill, similarity, table } from "./dom.js";

const TELLING = /^(x-gateway-|age$|cache-status$|server-timing$|x-request-id$)/i;

function timings(text) {
  const steps = text.split(",").map((part) => part.trim().split(";dur=")).filter(([, took]) => took).map(([name, took]) => [name, Number(took)]);
  const longest = Math.max(...steps.map(([, took]) => took), 0.001);
  return el("dl", { class: "bars" }, steps.flatMap(([name, took]) => {
    const bar = el("i");
    bar.style.width = `${(100 * took) / longest}%`;
    return [el("dt", {}, name), el("span", { "aria-hidden": "true" }, bar), el("dd", {}, `${took.toFixed(2)} ms`)];
  }));
}

function answer(told) {
  const choice = told.body?.choices?.[0];
  const text = choice?.message?.content ?? choice?.text ?? told.body?.output?.[0]?.content?.[0]?.text ?? JSON.stringify(told.body, null, 2);
  const headers = Object.entries(told.headers).filter(([name]) => TELLING.test(name));
  const timing = headers.find(([name]) => name.toLowerCase() === "server-timing")?.[1] ?? "";
  const word = (name) => headers.find(([key]) => key.toLowerCase() === `x-gateway-${name}`)?.[1] ?? "";
  return [
    el("p", {}, decided(word("how") || word("decision")), " ", word("reason") ? pill(word("reason")) : "", told.status >= 400 ? pill(`status ${told.status}`, "bad") : ""),
    el("p", { class: "answer" }, text), el("h3", {}, "Timings"), timings(timing),
    table("Headers", [["name", ([name]) => name], ["value", ([, value]) => value, "text"]], headers),
  ];
}

function why(told) {
  const ruling = told.ruling ?? {};
  return [
    el("p", {}, decided(told.how || told.decision), " ", pill(told.reason), " in category ", el("strong", {}, told.category ?? "–")),
    table("Ruling", [["term", ([name]) => name], ["value", ([, value]) => (typeof value === "number" ? String(Number(value.toFixed(4))) : String(value)), "text"]],
      Object.entries(ruling).filter(([, value]) => value !== null && value !== "" && String(value) !== "")),
    table("Candidates, nearest first", [
      ["stored question", (one) => one.question, "text"], ["similarity", (one) => similarity(one.similarity), "number"], ["score", (one) => similarity(one.score), "number"],
      ["verdict", (one) => pill(one.verdict ?? "not asked", one.verdict === "ok" ? "good" : "warn")], ["category", (one) => one.category]], told.candidates),
    table("Backends", [["backend", (one) => one.id], ["state", (one) => one.health], ["load", (one) => String(one.load ?? "–"), "number"], ["in flight", (one) => String(one.in_flight), "number"]], told.backends),
    el("h3", {}, "Steps of this look"), timings(Object.entries(told.steps_ms).map(([name, took]) => `${name};dur=${took}`).join(",")),
  ];
}

export async function playground(panel) {
  const models = (await get("/backends")).models.map((model) => model.name).filter((name) => name !== "*");
  const known = el("datalist", { id: "models" }, models.map((one) => el("option", { value: one })));
  const model = el("input", { list: "models", value: models[0] ?? "", required: true, autocomplete: "off" });
  const system = el("input", { placeholder: "none", autocomplete: "off" });
  const key = el("input", { type: "password", autocomplete: "off", placeholder: "none" });
  const cache = el("select", {}, ["on", "exact", "off", "refresh", "only"].map((one) => el("option", { value: one }, one)));
  const prompt = el("textarea", { rows: 4, required: true });
  const left = el("section", { "aria-live": "polite" }, el("h2", {}, "Decision"), el("p", { class: "quiet" }, "Ask something."));
  const right = el("section", { "aria-live": "polite" }, el("h2", {}, "Answer"));
  const form = el("form", { onsubmit: (event) => { event.preventDefault(); ask(true); } });

  const request = (send) => ({
    path: "/v1/chat/completions", send,
    headers: { "x-gateway-cache": cache.value, ...(key.value ? { Authorization: `Bearer ${key.value}` } : {}) },
    body: { model: model.value, messages: [...(system.value ? [{ role: "system", content: system.value }] : []), { role: "user", content: prompt.value }] },
  });
  async function ask(send) {
    if (!form.reportValidity()) return;
    right.replaceChildren(el("h2", {}, "Answer"), el("p", { class: "quiet" }, send ? "Waiting for it …" : "Not asked."));
    try {
      const told = await post("/playground", request(send));
      left.replaceChildren(el("h2", {}, "Decision, looked at just before"), ...why(told.explained));
      if (told.answer) right.replaceChildren(el("h2", {}, "Answer"), ...answer(told.answer));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      right.replaceChildren(el("h2", {}, "Answer"), el("p", { class: "bad" }, error.message));
    }
  }
  form.append(
    el("div", { class: "form" }, field("Model", model), field("Cache", cache), field("System prompt", system), field("API key", key)),
    field("Prompt", prompt), known,
    el("div", { class: "row" }, el("button", { class: "main" }, "Ask"), el("button", { type: "button", onclick: () => ask(false) }, "Only explain")));
  panel.append(el("h1", {}, "Playground"),
    el("p", { class: "lead" }, "Goes through this gateway as an application's request would, and is stored, counted and paid for like one."),
    el("section", {}, form), el("div", { class: "grid" }, left, right));
  return null;
}

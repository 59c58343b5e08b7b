// The admin API with the operator's token, which lives as long as this tab.
const KEY = "gateway-admin-token";

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `The gateway answered ${status}.`);
    this.status = status;
    this.body = body;
  }
}

function authorization() {
  const token = sessionStorage.getItem(KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function signIn(refused) {
  const dialog = document.querySelector("#login");
  const field = document.querySelector("#token");
  document.querySelector("#refused").textContent = refused ? "This token was refused." : "";
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (field.value) sessionStorage.setItem(KEY, field.value);
  field.value = "";
}

let signing = null; // one dialog for all requests that were refused at once

export async function call(method, path, { body, headers } = {}) {
  for (;;) {
    const kind = body === undefined ? {} : { "Content-Type": "application/json" };
    const given = authorization();
    const response = await fetch(path, { method, headers: { ...given, ...kind, ...headers }, body });
    if (response.status === 401) {
      signing ??= signIn(Boolean(given.Authorization)).finally(() => { signing = null; });
      await signing;
      continue;
    }
    const text = await response.text();
    let value = text;
    try { value = JSON.parse(text); } catch { /* metrics and the like are not JSON */ }
    if (!response.ok) throw new Refused(response.status, value);
    return { value, etag: response.headers.get("etag") };
  }
}

/** The status of a path, without a dialog. */
export const status = async (path) => (await fetch(path, { headers: authorization() })).status;

export const get = async (path) => (await call("GET", path)).value;
export const post = async (path, body) => (await call("POST", path, { body: JSON.stringify(body) })).value;

/** null where this gateway has no such path. */
export async function perhaps(path) {
  perhaps.paths ??= (await get("/openapi.json")).paths;
  return path in perhaps.paths ? get(path) : null;
}

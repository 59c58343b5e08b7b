// The admin API with the operator's token, which lives as long as this tab, and what its role may do.
const KEY = "gateway-admin-token";
const ROLES = ["read", "policy", "admin"]; // each may what those before it may

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

async function ask(refused) {
  const dialog = document.querySelector("#login");
  const field = document.querySelector("#token");
  document.querySelector("#refused").textContent = refused ? "This token was refused." : "";
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (field.value) sessionStorage.setItem(KEY, field.value);
  field.value = "";
}

let asking = null; // one dialog for all requests that were refused at once

export async function call(method, path, { body, headers } = {}) {
  for (;;) {
    const kind = body === undefined ? {} : { "Content-Type": "application/json" };
    const given = authorization();
    const response = await fetch(path, { method, headers: { ...given, ...kind, ...headers }, body });
    if (response.status === 401) {
      asking ??= ask(Boolean(given.Authorization)).finally(() => { asking = null; });
      await asking;
      continue;
    }
    const text = await response.text();
    let value = text;
    try { value = JSON.parse(text); } catch { /* a table of savings is not JSON */ }
    if (!response.ok) throw new Refused(response.status, value);
    return { value, etag: response.headers.get("etag") };
  }
}

/** The status of a path, without a dialog. */
export const status = async (path) => (await fetch(path, { headers: authorization() })).status;

export const get = async (path) => (await call("GET", path)).value;
export const post = async (path, body, headers) => (await call("POST", path, { body: JSON.stringify(body), headers })).value;

let me = { name: "", role: "read" };

/** Who the token belongs to; asks for one where it must. A gateway without roles lets its token do everything. */
export async function signIn() {
  try {
    me = await get("/whoami");
  } catch (error) {
    if (error.status !== 404) throw error;
    me = { name: "", role: "admin" };
  }
  return me;
}

export function signOut() {
  sessionStorage.removeItem(KEY);
  location.reload();
}

/** Why this role may not do what needs another, or null where it may. The gateway checks it again. */
export const withheld = (needed) => (ROLES.indexOf(me.role) >= ROLES.indexOf(needed) ? null : `This needs the role ${needed}; yours is ${me.role}.`);

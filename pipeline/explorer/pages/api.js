// Requests, and the saves that the server has not confirmed yet.

const UNSENT = "sensevoice-unsent";
let token = "";

export class Refusal extends Error {
  constructor(status, error) {
    super(error.message || `the server answered ${status}`);
    this.status = status;
    this.error = error;
  }
}

// The address holds the token behind "#", which no server and no log sees. It becomes a cookie, since
// media elements cannot send a header, and leaves the address.
export async function openSession() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("token")) {
    token = given.get("token");
    given.delete("token");
    history.replaceState(null, "", `#${given}`);
  }
  await get("/api/session");
}

export async function get(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return ask(query ? `${path}?${query}` : path, {});
}

export async function post(path, body) {
  return ask(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
}

async function ask(path, options) {
  const headers = { ...options.headers };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  throw new Refusal(answer.status, body.error || { message: body.detail });
}

// A save is kept in the browser until the server has confirmed it: a closed tab or a store that is
// away loses nothing. Its request_id makes a save that arrives twice one save.
export function unsent() {
  try {
    return JSON.parse(localStorage.getItem(UNSENT)) || [];
  } catch {
    return [];
  }
}

function keep(saves) {
  localStorage.setItem(UNSENT, JSON.stringify(saves));
  dispatchEvent(new CustomEvent("unsent", { detail: saves.length }));
}

export async function save(review) {
  keep([...unsent(), review]);
  return send(review);
}

async function send(review) {
  try {
    return await post("/api/reviews", review).then((saved) => {
      forget(review);
      return saved;
    });
  } catch (error) {
    // What the server refuses for good is told and forgotten; what it could not store is kept.
    if (error instanceof Refusal && error.status < 500 && error.status !== 408) forget(review);
    throw error;
  }
}

function forget(review) {
  keep(unsent().filter((one) => one.request_id !== review.request_id));
}

export async function sendAgain() {
  for (const review of unsent()) {
    try {
      await send(review);
    } catch (error) {
      if (!(error instanceof Refusal) || error.status >= 500) return;
    }
  }
}

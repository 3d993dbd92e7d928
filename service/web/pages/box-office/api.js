/** The service: sends requests, and returns refusals as values. */

import { authorization, refuseToken } from "./organizer.js";

// How far the database's clock is ahead of the browser's, in milliseconds, by the header Date.
let clockOffset = 0;

/** Returns the time by the service's clock, in milliseconds. */
export function serviceTime() {
  return Date.now() + clockOffset;
}

/** Returns a URL of the service: relative to the page, in case a proxy serves it under a prefix. */
export function serviceUrl(path, query = {}) {
  const url = new URL(path, new URL(".", document.baseURI));
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

/**
 * Sends a request.
 *
 * Returns {ok, body} or {ok, code, details, error}; the code is UNREACHABLE without a response,
 * and ABORTED after the signal.
 */
export async function send(method, path, { query, body, asOrganizer = false, token, signal } = {}) {
  const headers = asOrganizer ? authorization() : {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  let json;
  const sent = Date.now();
  try {
    response = await fetch(serviceUrl(path, query), {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
    });
    json = await response.json();
  } catch {
    return { ok: false, code: signal?.aborted ? "ABORTED" : "UNREACHABLE" };
  }
  readClock(response.headers.get("Date"), sent);
  if (response.ok) return { ok: true, body: json };
  if (response.status === 401 && !token) refuseToken();
  return { ok: false, code: json.code, details: json.details, error: json.error };
}

export function get(path, options) {
  return send("GET", path, options);
}

/** Returns whether the service accepts an organizer's token; null if it cannot tell. */
export async function acceptsToken(token) {
  const events = await get("events", { query: { limit: 1 } });
  // A query for the tickets of no reservation. 404, without any event, comes after 401.
  const nothing = "00000000-0000-0000-0000-000000000000";
  const id = events.body?.data[0]?.id ?? nothing;
  const tickets = await get(`events/${id}/tickets`, { query: { reservationId: nothing }, token });
  if (tickets.ok || tickets.code === "NOT_FOUND") return true;
  return tickets.code === "UNAUTHORIZED" ? false : null;
}

function readClock(date, sent) {
  if (!date) return;
  // The header has whole seconds, and on average the half of one has passed.
  const offset = Date.parse(date) + 500 - (sent + Date.now()) / 2;
  // A smaller difference is that of rounding: the countdowns would jump.
  if (Math.abs(offset - clockOffset) > 1500) clockOffset = offset;
}

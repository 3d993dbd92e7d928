/** The stream of an event: kept open while the page is visible, and watched over. */

import { get, serviceUrl } from "./api.js";

// After this time without a message, ask whether the stream still lives. A connection that was cut
// without a sign, and a sale that opens by the clock, send nothing.
const QUIET_MILLISECONDS = 20_000;
// A browser reconnects by itself, except after a refusal.
const REOPEN_MILLISECONDS = 2000;

/**
 * Watches an event until the signal is aborted.
 *
 * receive(event) is called with each state that is newer, report(isConnected) when that changes.
 * Returns a function that looks at the event at once, outside the stream.
 */
export function watchEvent(first, receive, report, signal) {
  const path = `events/${first.id}`;
  let version = first.version;
  let source = null;
  let timer = null;

  function deliver(event) {
    if (signal.aborted || event.version < version) return;
    version = event.version;
    receive(event);
  }

  function close() {
    source?.close();
    source = null;
    clearTimeout(timer);
  }

  /** Opens a new stream from the version that is known on. */
  function open() {
    close();
    if (signal.aborted || document.hidden) return;
    source = new EventSource(serviceUrl(`${path}/stream`, { lastEventId: String(version) }));
    source.onopen = () => { report(true); lookLater(); };
    source.onmessage = (message) => { deliver(JSON.parse(message.data)); lookLater(); };
    source.onerror = () => {
      report(false);
      clearTimeout(timer);
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, REOPEN_MILLISECONDS);
    };
  }

  function lookLater() {
    clearTimeout(timer);
    timer = setTimeout(check, QUIET_MILLISECONDS);
  }

  async function look() {
    const response = await get(path, { signal });
    if (response.ok) deliver(response.body);
    return response;
  }

  /** Opens another stream if this one has missed something, or if the service is gone. */
  async function check() {
    const known = version;
    const response = await look();
    if (signal.aborted || document.hidden) return;
    if (!response.ok) report(false);
    if (!response.ok || response.body.version > known) timer = setTimeout(open, REOPEN_MILLISECONDS);
    else lookLater();
  }

  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else { open(); look(); } }, { signal });
  signal.addEventListener("abort", close);
  open();
  return look;
}

/** The waiting list of an event, in its order, for the organizer. */

import { get } from "./api.js";
import { element, updateList } from "./dom.js";
import { rested } from "./rest.js";
import { formatDate } from "./times.js";
import { count, refusal } from "./words.js";

const SHOWN = 25;

/** Shows the first of those who wait; returns a function to call after a change of the event. */
export function showWaitingList(place, id, signal) {
  const list = element("ol", { class: "waiting-list" });
  const message = element("p", { class: "muted", role: "status" });
  place.replaceChildren(element("section", { "aria-labelledby": "waiting-title" },
    element("h2", { id: "waiting-title" }, "Waiting list"), message, list));
  const follow = rested(async () => {
    const response = await get(`events/${id}/waiting`, { query: { state: "waiting", limit: SHOWN }, asOrganizer: true, signal });
    if (signal.aborted) return;
    const entries = response.ok ? response.body.data : [];
    updateList(list, entries, createRow);
    if (!response.ok) message.textContent = refusal(response);
    else if (response.body.meta.next) message.textContent = `The first ${SHOWN}:`;
    else message.textContent = entries.length ? "" : "Nobody waits.";
  }, signal);
  follow();
  return follow;
}

function createRow() {
  const row = element("li");
  row.update = (entry) => { row.textContent = `${count(entry.quantity, "ticket")}, since ${formatDate(entry.createdAt)}`; };
  return row;
}

/** The tickets of an event, for the organizer: a page at a time, found by id, refunded. */

import { get, send } from "./api.js";
import { confirmedButton } from "./confirm.js";
import { button, element, setText, updateList } from "./dom.js";
import { rested } from "./rest.js";
import { formatDate } from "./times.js";
import { STATUS, count, formatNumber, refusal } from "./words.js";

const PAGE = 10;

export class Tickets {
  #cursors = []; // of the pages before this one and of this one; the first page has none
  #next = null;
  #sought = "";
  #reading = new AbortController();
  #parts = {};

  /** onChange(body) is called with the answer of each refund. */
  constructor(place, id, onChange, signal) {
    Object.assign(this, { id, onChange, signal });
    /** Reads the tickets again after a change of the event. */
    this.follow = rested(() => this.#read(), signal);
    const statuses = Object.entries(STATUS).map(([value, text]) => element("option", { value }, text));
    const parts = this.#parts = {
      status: element("select", { id: "ticket-status" }, element("option", { value: "" }, "all"), ...statuses),
      find: element("input", { id: "ticket-id", type: "search", autocomplete: "off", spellcheck: "false" }),
      message: element("p", { class: "message", role: "status" }),
      range: element("p", { class: "muted range", role: "status" }),
      list: element("ul", { class: "tickets" }),
      whole: element("div"),
      newer: button("Newer", () => this.#turn(this.#cursors.slice(0, -1))),
      older: button("Older", () => this.#turn([...this.#cursors, this.#next])),
    };
    parts.status.onchange = () => this.#turn([]);
    const search = element("form", { class: "find" }, element("label", { for: "ticket-id" }, "Ticket or reservation id"), parts.find, element("button", {}, "Find"));
    search.addEventListener("submit", (event) => { event.preventDefault(); this.find(parts.find.value.trim()); });
    parts.find.addEventListener("search", () => { if (!parts.find.value) this.find(""); });
    place.replaceChildren(element("section", { "aria-labelledby": "tickets-title" },
      element("h2", { id: "tickets-title" }, "Tickets"),
      element("div", { class: "filters" }, search,
        element("div", { class: "find" }, element("label", { for: "ticket-status" }, "Status"), parts.status)),
      parts.message, parts.whole, parts.list, parts.range, element("div", { class: "buttons" }, parts.newer, parts.older)));
    this.follow();
  }

  /** Shows a ticket or the tickets of a reservation; "" shows all again. */
  find(id) {
    this.#parts.find.value = id;
    this.#sought = id;
    this.#turn([]);
  }

  #turn(cursors) {
    this.#cursors = cursors;
    setText(this.#parts.message, "");
    this.#read();
  }

  /** Reads what is to be shown; an earlier reading, of what was to be shown, ends. */
  async #read() {
    this.#reading.abort();
    const { signal } = this.#reading = new AbortController();
    const response = this.#sought ? await this.#seek(signal) : await this.#list(signal);
    if (!signal.aborted && !this.signal.aborted) this.#show(response);
  }

  #list(signal) {
    const query = { limit: PAGE, status: this.#parts.status.value, after: this.#cursors.at(-1) };
    return get(`events/${this.id}/tickets`, { query, asOrganizer: true, signal });
  }

  /** Looks for a reservation first: if it is none, that is an empty list, and not a refusal. */
  async #seek(signal) {
    const id = this.#sought;
    if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(id)) return { ok: false, code: "NO_ID" };
    const query = { reservationId: id, limit: 1000 };
    const reservation = await get(`events/${this.id}/tickets`, { query, asOrganizer: true, signal });
    if (!reservation.ok || reservation.body.data.length) return reservation;
    const ticket = await get(`events/tickets/${id}`, { signal });
    if (!ticket.ok) return ticket;
    if (ticket.body.eventId !== this.id) return { ok: false, code: "OTHER_EVENT" };
    return { ok: true, body: { data: [ticket.body], meta: { total: 1, next: null } } };
  }

  #show(response) {
    const { list, message, newer, older, range, whole } = this.#parts;
    if (!response.ok) {
      const words = {
        NO_ID: "This is no id. Enter the whole id of a ticket or a reservation.",
        NOT_FOUND: "This event has no such ticket or reservation.",
        OTHER_EVENT: "This ticket is of another event.",
      };
      setText(message, words[response.code] ?? refusal(response));
      message.dataset.state = "wrong";
      if (this.#sought) updateList(list, [], null);
      return;
    }
    if (message.dataset.state === "wrong") setText(message, "");
    const { data, meta } = response.body;
    updateList(list, data, (ticket) => this.#row(ticket));
    this.#next = meta.next;
    newer.hidden = !this.#cursors.length;
    older.hidden = !meta.next;
    const first = this.#cursors.length * PAGE + 1;
    const of = meta.total === undefined ? "" : ` of ${formatNumber(meta.total)}`;
    setText(range, data.length ? `${formatNumber(first)} to ${formatNumber(first + data.length - 1)}${of}` : "No tickets.");
    const paid = data.filter(({ status }) => status === "purchased").length;
    const isReservation = this.#sought && data.length > 0 && data[0].reservationId === this.#sought.toLowerCase();
    this.#showWhole(isReservation && paid ? data[0].reservationId : null, paid);
  }

  /** Offers to refund what is paid of a reservation. */
  #showWhole(reservationId, paid) {
    const { whole } = this.#parts;
    const key = reservationId ? `${reservationId} ${paid}` : "";
    if (whole.dataset.key === key) return;
    whole.dataset.key = key;
    whole.replaceChildren(...(reservationId ? [this.#refundButton("Refund reservation", `Refund ${count(paid, "paid ticket")} of this reservation?`, `reservations/${reservationId}/refund`)] : []));
  }

  #row(ticket) {
    const state = element("b");
    const when = element("span", { class: "muted" });
    const id = element("code", { id: `ticket-${ticket.id}` }, ticket.id);
    const act = element("div", { class: "act" });
    const reservation = button(ticket.reservationId, () => this.find(ticket.reservationId), { class: "link", "aria-label": `Show reservation ${ticket.reservationId}` });
    const row = element("li", {},
      element("div", { class: "state" }, state, when), act,
      element("div", { class: "ids" }, element("span", {}, "Ticket ", id), element("span", {}, "Reservation ", reservation)));
    row.update = ({ status, expiresAt, updatedAt }) => {
      setText(state, STATUS[status]);
      setText(when, status === "reserved" ? `until ${formatDate(expiresAt)}` : formatDate(updatedAt));
      if (row.dataset.status === status) return;
      row.dataset.status = status;
      act.replaceChildren(...(status === "purchased" ? [this.#refundButton("Refund", "Refund this ticket?", `events/tickets/${ticket.id}/refund`, id.id)] : []));
    };
    return row;
  }

  #refundButton(text, question, path, describedBy) {
    let resale;
    const options = () => {
      resale = element("input", { type: "checkbox", checked: true });
      return [element("label", { class: "check" }, resale, "Put back on sale")];
    };
    return confirmedButton(text, question, () => this.#refund(path, resale.checked), { options, attributes: { "aria-describedby": describedBy } });
  }

  async #refund(path, resale) {
    const { message } = this.#parts;
    message.dataset.state = "busy";
    setText(message, "Refunding…");
    const response = await send("POST", path, { body: { resale }, asOrganizer: true });
    if (this.signal.aborted) return;
    message.dataset.state = response.ok ? "right" : "refused";
    const done = resale ? "Refunded. What came back is on sale again." : "Refunded and taken off sale: the capacity is smaller.";
    setText(message, response.ok ? done : refusal(response));
    this.#read();
    if (response.ok) this.onChange();
  }
}

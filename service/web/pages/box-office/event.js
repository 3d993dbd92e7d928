/** The page of an event: its counts as they change, its history, and what can be done. */

import { get, send, serviceTime } from "./api.js";
import { showAudit } from "./audit.js";
import { bar } from "./bar.js";
import { showChanges } from "./changes.js";
import { Chart } from "./chart.js";
import { confirmedButton } from "./confirm.js";
import { button, element, everySecond, fillTemplate, setText } from "./dom.js";
import { EventForm } from "./form.js";
import { History } from "./history.js";
import { mayAct, onOrganizerChange } from "./organizer.js";
import { watchEvent } from "./stream.js";
import { Terms } from "./terms.js";
import { Tickets } from "./tickets.js";
import { formatDate } from "./times.js";
import { showWaitingList } from "./waiting.js";
import { formatNumber, nextFlip, refusal, saleStatus } from "./words.js";

// The ledger is read again this long after a change, once for all changes of that time.
const HISTORY_MILLISECONDS = 1000;

export async function showEvent(place, id, report, signal) {
  const response = await get(`events/${id}`, { signal });
  if (signal.aborted) return;
  if (response.ok) return new EventPage(place, response.body, report, signal);
  report(response.code !== "UNREACHABLE");
  const words = ["NOT_FOUND", "BAD_REQUEST"].includes(response.code) ? "There is no such event." : refusal(response);
  place.replaceChildren(
    element("h1", { tabindex: "-1" }, words),
    element("p", {}, element("a", { href: "#" }, "All events")),
    button("Try again", () => showEvent(place, id, report, signal)));
}

class EventPage {
  constructor(place, event, report, signal) {
    const { content, parts } = fillTemplate("event-template");
    Object.assign(this, { event, parts, signal });
    this.bar = bar();
    parts.bar.append(this.bar);
    this.terms = new Terms(parts.terms);
    this.history = new History(event.id, signal);
    place.replaceChildren(content);
    this.chart = new Chart(parts.chart, signal);
    setText(parts.psql, `holdfast psql -x -v event_ids="{${event.id}}" -f sql/find_events.sql`);
    this.look = watchEvent(event, (newest) => this.receive(newest), report, signal);
    this.update();
    this.readHistory();
    showAudit(parts.audit, event.id, signal);
    onOrganizerChange(() => this.showOrganizersParts(), signal);
    this.showOrganizersParts();
    everySecond(() => this.tick(), signal);
  }

  receive(event) {
    const isNew = event.version !== this.event.version;
    this.event = { ...this.event, ...event };
    this.update();
    this.form?.follow(this.event);
    if (!isNew) return;
    this.readHistoryLater();
    this.tickets?.follow();
    this.followWaitingList?.();
  }

  update() {
    const { event, parts } = this;
    document.title = `${event.name} · Box office`;
    setText(parts.name, event.name);
    setText(parts.date, formatDate(event.date));
    const numbers = { available: event.availableTickets, held: event.reservedTickets, paid: event.purchasedTickets, total: event.totalTickets };
    for (const [name, number] of Object.entries(numbers)) setText(parts[name], formatNumber(number));
    parts.available.classList.toggle("long", parts.available.textContent.length > 9);
    parts["waiting-number"].hidden = event.waitingTickets === undefined;
    setText(parts.waiting, formatNumber(event.waitingTickets ?? 0));
    this.bar.update(event);
    this.tick();
    this.showActs();
  }

  /** Shows what changes with the clock. */
  tick() {
    const { event, parts } = this;
    this.terms.update(event);
    if (parts.status) setText(parts.status, saleStatus(event));
    setText(parts.rate, this.history.entries.length ? formatNumber(this.history.soldPerMinute(event.purchasedTickets)) : "–");
    this.chart.draw();
    const flip = nextFlip(event);
    // The stream says nothing when a sale opens or closes.
    if (flip && serviceTime() > flip) this.look();
  }

  readHistoryLater() {
    this.historyTimer ??= setTimeout(() => {
      this.historyTimer = null;
      this.readHistory();
    }, HISTORY_MILLISECONDS);
  }

  async readHistory() {
    if (this.isReadingHistory || this.signal.aborted) return;
    this.isReadingHistory = true;
    const { version } = this.event;
    for await (const _ of this.history.load(version)) {
      if (this.signal.aborted) return;
      this.chart.update(this.history.points);
      showChanges(this.parts.changes, this.history.entries);
    }
    this.isReadingHistory = false;
    this.tick();
    if (this.event.version > version) this.readHistoryLater();
  }

  /** Shows what an organizer sees and does, if there is one. */
  showOrganizersParts() {
    const { event, parts, signal } = this;
    this.tickets = this.form = this.followWaitingList = null;
    for (const name of ["tickets", "waiting-list", "form"]) parts[name].replaceChildren();
    this.shownActs = null;
    this.showActs();
    if (!mayAct()) return;
    this.tickets = new Tickets(parts.tickets, event.id, () => this.lookAtOwnChange(), signal);
    this.form = new EventForm(event, "Save", (saved) => this.receive(saved));
    parts.form.replaceChildren(element("section", { "aria-labelledby": "form-title" }, element("h2", { id: "form-title" }, "Change"), this.form.node));
    if (event.waitingTickets === undefined) return;
    this.followWaitingList = showWaitingList(parts["waiting-list"], event.id, signal);
  }

  /** Takes over a change that was made here, which the form must not call somebody else's. */
  async lookAtOwnChange() {
    const response = await get(`events/${this.event.id}`, { signal: this.signal });
    if (!response.ok) return;
    this.form?.follow(response.body, true);
    this.receive(response.body);
  }

  /** Shows the buttons for the sale. A question that is open stays, while the sale's state does. */
  showActs() {
    const { event, parts } = this;
    const state = `${mayAct()} ${event.saleStatus}`;
    if (this.shownActs === state) return;
    this.shownActs = state;
    parts.status = element("p", { class: "status" }, saleStatus(event));
    const acts = [parts.status];
    if (mayAct() && event.saleStatus === "closed") acts.push(button("Reopen", () => this.change({ saleClosesAt: null }, "The sale is open again.")));
    if (mayAct() && event.saleStatus !== "closed") {
      acts.push(confirmedButton("Close the sale", "Nobody can reserve any more. What is held can still be paid.", () => this.close()));
    }
    parts.acts.replaceChildren(...acts);
  }

  close() {
    const isUpcoming = this.event.saleStatus === "upcoming";
    return this.change({ ...(isUpcoming ? { saleOpensAt: null } : {}), saleClosesAt: "now" }, "The sale is closed.");
  }

  async change(body, done) {
    const { message } = this.parts;
    const response = await send("PATCH", `events/${this.event.id}`, { body, asOrganizer: true });
    if (this.signal.aborted) return;
    message.dataset.state = response.ok ? "right" : "refused";
    setText(message, response.ok ? done : refusal(response));
    if (!response.ok) return;
    this.form?.follow(response.body, true);
    this.receive(response.body);
  }
}

/** The list of events: what is on sale, and how fast it goes. */

import { get, serviceTime } from "./api.js";
import { bar, countsInWords } from "./bar.js";
import { element, everySecond, fillTemplate, setText, updateList } from "./dom.js";
import { EventForm } from "./form.js";
import { mayAct, onOrganizerChange } from "./organizer.js";
import { restAfter } from "./rest.js";
import { formatDate } from "./times.js";
import { count, formatNumber, refusal, saleStatus } from "./words.js";

const PAGE = 50;
const REST_MILLISECONDS = 2000;
const TYPING_MILLISECONDS = 200;
// An event is past some hours after its date: on the night it stays where it was.
const PAST_AFTER_MILLISECONDS = 6 * 3600_000;
const MINUTE = 60_000;
// That nothing was sold says something only after this time.
const SHORTEST_SPAN = 10_000;

export function showList(place, report, signal) {
  const { content, parts } = fillTemplate("list-template");
  const search = content.querySelector("#search");
  const past = content.querySelector(".past");
  const looks = new Looks();
  const shown = { upcoming: PAGE, past: PAGE };
  let timer = null;
  let reading = 0;

  function boundary() {
    return new Date(serviceTime() - PAST_AFTER_MILLISECONDS).toISOString();
  }

  /** Reads as many events as are shown, from the first page on. */
  async function readUpcoming() {
    const events = [];
    let total = 0;
    for (let page = 1; events.length < shown.upcoming; page += 1) {
      const query = { q: search.value, from: boundary(), limit: PAGE, page };
      const response = await get("events", { query, signal });
      if (!response.ok) return response;
      events.push(...response.body.data);
      total = response.body.meta.total;
      if (page >= response.body.meta.pages) break;
    }
    return { ok: true, events, total };
  }

  /** Reads past events, the last one first: by page from the end. */
  async function readPast() {
    const query = { q: search.value, to: boundary(), limit: PAGE };
    const first = await get("events", { query: { ...query, limit: 1 }, signal });
    if (!first.ok) return first;
    const { total } = first.body.meta;
    const events = [];
    for (let page = Math.ceil(total / PAGE); page >= 1 && events.length < shown.past; page -= 1) {
      const response = await get("events", { query: { ...query, page }, signal });
      if (!response.ok) return response;
      events.push(...response.body.data.reverse());
    }
    return { ok: true, events, total };
  }

  async function read() {
    clearTimeout(timer);
    const number = reading += 1;
    const start = performance.now();
    const results = [await readUpcoming(), past.open ? await readPast() : null];
    if (signal.aborted || number !== reading) return;
    const failed = results.find((result) => result && !result.ok);
    report(failed?.code !== "UNREACHABLE");
    if (failed) setText(parts.count, refusal(failed));
    else results.forEach((result, index) => { if (result) show(result, index === 1); });
    timer = setTimeout(() => { if (!document.hidden) read(); }, restAfter(start, REST_MILLISECONDS));
  }

  function show({ events, total }, isPast) {
    looks.add(events);
    updateList(isPast ? parts.past : parts.upcoming, events, () => row(looks));
    parts[isPast ? "more-past" : "more"].hidden = events.length >= total;
    if (isPast) parts["no-past"].hidden = total > 0;
    else {
      setText(parts.count, search.value ? `${count(total, "event")} found` : "");
      parts.none.hidden = total > 0;
      setText(parts.none, search.value ? "No upcoming event has this in its name." : "No upcoming events. Create one with New event.");
    }
  }

  const showMore = (section) => { shown[section] += PAGE; read(); };
  parts.more.onclick = () => showMore("upcoming");
  parts["more-past"].onclick = () => showMore("past");
  past.addEventListener("toggle", () => { if (past.open) read(); });
  let typing = null;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(read, TYPING_MILLISECONDS); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) read(); }, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  everySecond(() => { for (const child of place.querySelectorAll(".events > li")) child.tick(); }, signal);
  offerNewEvent(parts, signal);
  place.replaceChildren(content);
  read();
}

function offerNewEvent({ new: opener, create }, signal) {
  const toggle = (isOpen) => {
    create.hidden = !isOpen;
    opener.setAttribute("aria-expanded", String(isOpen));
  };
  opener.onclick = () => {
    const isOpen = create.hidden;
    if (isOpen) {
      const form = new EventForm(null, "Create event", (event) => { location.hash = `event=${event.id}`; });
      create.replaceChildren(element("section", { class: "panel", "aria-label": "New event" }, form.node));
    }
    toggle(isOpen);
    if (isOpen) create.querySelector("input").focus();
  };
  const follow = () => {
    opener.hidden = !mayAct();
    if (opener.hidden) toggle(false);
  };
  onOrganizerChange(follow, signal);
  follow();
}

function row(looks) {
  const link = element("a");
  const date = element("span", { class: "muted" });
  const status = element("span", { class: "status" });
  const counts = element("span", { class: "muted counts" });
  const sold = element("span", { class: "sold" });
  const tickets = bar();
  const item = element("li", {},
    element("div", { class: "what" }, link, date),
    element("div", { class: "how-much" }, tickets, counts),
    element("div", { class: "how-fast" }, status, sold));
  let event;
  item.tick = () => {
    setText(status, saleStatus(event));
    item.dataset.sale = event.saleStatus;
  };
  item.update = (newest) => {
    event = newest;
    setText(link, event.name);
    link.href = `#event=${event.id}`;
    setText(date, formatDate(event.date));
    setText(counts, countsInWords(event));
    setText(sold, looks.describe(event));
    tickets.update(event);
    item.tick();
  };
  return item;
}

/** How many tickets each event has sold, by the looks of the last minute at the list. */
class Looks {
  #byId = new Map();

  add(events) {
    const time = performance.now();
    for (const event of events) {
      const looks = this.#byId.get(event.id) ?? [];
      looks.push({ time, paid: event.purchasedTickets });
      // The last look before the minute stays: it is where the minute began.
      while (looks.length > 1 && looks[1].time <= time - MINUTE) looks.shift();
      this.#byId.set(event.id, looks);
    }
  }

  /** Returns how many were sold, and in which time if it is less than a minute yet. */
  describe({ id, saleStatus: status }) {
    const looks = this.#byId.get(id);
    const [first, last] = [looks[0], looks.at(-1)];
    const span = last.time - first.time;
    const sold = Math.max(0, last.paid - first.paid);
    if (!sold && (status !== "open" || span < SHORTEST_SPAN)) return "";
    const time = span >= MINUTE * 0.95 ? "minute" : `${Math.round(span / 1000)} s`;
    return `${formatNumber(sold)} sold in the last ${time}`;
  }
}

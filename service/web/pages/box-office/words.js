/** Words: numbers, states, changes and refusals as a person says them. */

import { serviceTime } from "./api.js";
import { formatDate, formatDuration } from "./times.js";

const numbers = new Intl.NumberFormat("en");

export function formatNumber(number) {
  return numbers.format(number);
}

/** Returns a number with its noun, such as "1 ticket" or "2 tickets". */
export function count(number, noun) {
  return `${formatNumber(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** Returns the state of an event's sale with its countdown. */
export function saleStatus(event) {
  const now = serviceTime();
  const seconds = (text) => (Date.parse(text) - now) / 1000;
  if (event.saleStatus === "upcoming") return `Opens in ${formatDuration(seconds(event.saleOpensAt))}`;
  if (event.saleStatus === "closed") return "Closed";
  const isOnSale = event.availableTickets && !event.waitingTickets;
  const state = isOnSale ? "On sale" : event.waitingTickets ? "Waiting list" : "Sold out";
  return event.saleClosesAt ? `${state}, closes in ${formatDuration(seconds(event.saleClosesAt))}` : state;
}

/** Returns the moment at which the sale opens or closes next, in milliseconds; null if never. */
export function nextFlip(event) {
  const text = { upcoming: event.saleOpensAt, open: event.saleClosesAt, closed: null }[event.saleStatus];
  return text ? Date.parse(text) : null;
}

/** Returns what an entry of the ledger says. */
export function change(entry) {
  const { type } = entry.lastEvent;
  switch (type) {
    case "created": return `Event created with ${count(entry.totalTickets, "ticket")}`;
    // Only a transfer has an actor: the buyer who gave the ticket away.
    case "updated": return entry.lastEvent.actor ? "A ticket has a new owner" : "Event changed";
    case "resized": return `Capacity changed to ${formatNumber(entry.totalTickets)}`;
    case "reserved": return `${count(entry.reserved, "ticket")} reserved`;
    case "purchased": return `${count(entry.purchased, "ticket")} paid`;
    case "expired": return `${count(entry.expired, "hold")} expired`;
    case "user_cancelled": return `${count(entry.cancelled, "hold")} cancelled`;
    case "refunded": return `${count(entry.refunded, "ticket")} refunded`;
    case "joined": return "Somebody joined the waiting list";
    case "left": return "Somebody left the waiting list";
    case "offered": return `${count(entry.reserved, "ticket")} offered to the waiting list`;
    default: return type.replaceAll("_", " ");
  }
}

/** The status of a ticket. */
export const STATUS = {
  reserved: "held", purchased: "paid", expired: "expired", user_cancelled: "cancelled", refunded: "refunded",
};

/** The labels of the fields of an event. */
export const FIELDS = {
  name: "Name", date: "Date", totalTickets: "Capacity", saleOpensAt: "Opens", saleClosesAt: "Closes",
  holdSeconds: "Hold", maxHoldSeconds: "Longest hold", maxTicketsPerPerson: "Limit per person",
};

/** Returns the value of an event's field. */
export function fieldValue(name, value) {
  if (value === null) return "none";
  if (["date", "saleOpensAt", "saleClosesAt"].includes(name)) return formatDate(value);
  if (["holdSeconds", "maxHoldSeconds"].includes(name)) return formatDuration(value);
  return typeof value === "number" ? formatNumber(value) : value;
}

/** Returns why a request was refused, and what to do. */
export function refusal({ code, details, error }) {
  switch (code) {
    case "UNREACHABLE": return "The service cannot be reached. Check the connection, then try again.";
    case "UNAUTHORIZED": return "The organizer token is wrong. Enter it again at the top.";
    case "EVENT_EXISTS": return "There is an event with this name and date already. Change one of them.";
    case "CAPACITY_BELOW_ALLOCATED":
      return error?.includes("at least one")
        ? "It is the last ticket of the event, and an event keeps one. Put it back on sale instead."
        : `${count(details.allocatedTickets, "ticket")} are held or paid. Enter at least as many.`;
    case "NOT_PURCHASED": return "Nothing here is paid, so there is nothing to refund.";
    case "ALREADY_REFUNDED": return "It is refunded already. Nothing was changed.";
    case "BUSY": return "The service is busy and changed nothing. Try again in a moment.";
    case "OUTCOME_UNKNOWN": return "No answer came from the database, so this may have been done. Look, then try again.";
    case "NOT_FOUND": return "It does not exist, or not any more.";
    case "BAD_REQUEST": return "Some fields are not valid. Correct them, then try again.";
    case "MISDIRECTED_REQUEST": return `${error}.`;
    default: return `The service has refused it: ${error ?? code}.`;
  }
}

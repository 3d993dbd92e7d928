/** A bar of an event's tickets: paid, held, waiting and available. */

import { element } from "./dom.js";
import { formatNumber } from "./words.js";

export function bar() {
  const parts = ["paid", "held", "available", "waiting"].map((name) => element("i", { class: name }));
  const node = element("div", { class: "bar", role: "img" }, ...parts);
  node.update = (event) => {
    const numbers = [event.purchasedTickets, event.reservedTickets, event.availableTickets, event.waitingTickets ?? 0];
    const all = numbers.reduce((sum, number) => sum + number, 0);
    parts.forEach((part, index) => { part.style.flexGrow = numbers[index] / all; });
    parts.forEach((part, index) => { part.hidden = numbers[index] === 0; });
    node.setAttribute("aria-label", countsInWords(event));
  };
  return node;
}

export function countsInWords(event) {
  const words = [`${formatNumber(event.purchasedTickets)} paid`, `${formatNumber(event.reservedTickets)} held`];
  if (event.waitingTickets) words.push(`${formatNumber(event.waitingTickets)} waiting`);
  words.push(`${formatNumber(event.availableTickets)} of ${formatNumber(event.totalTickets)} available`);
  return words.join(", ");
}

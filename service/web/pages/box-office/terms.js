/** The terms of a sale, with their countdowns. */

import { serviceTime } from "./api.js";
import { element, setText } from "./dom.js";
import { formatDate, formatDuration } from "./times.js";
import { count, saleStatus } from "./words.js";

export class Terms {
  #values = {};

  constructor(list) {
    for (const name of ["Sale", "Opens", "Closes", "Hold", "Longest hold", "Limit per person"]) {
      const value = element("dd");
      list.append(element("div", {}, element("dt", {}, name), value));
      this.#values[name] = value;
    }
  }

  update(event) {
    const hold = (seconds) => (seconds ? formatDuration(seconds) : "the service’s own");
    const texts = {
      Sale: saleStatus(event),
      Opens: event.saleOpensAt ? moment(event.saleOpensAt) : "at once",
      Closes: event.saleClosesAt ? moment(event.saleClosesAt) : "never",
      Hold: hold(event.holdSeconds),
      "Longest hold": hold(event.maxHoldSeconds),
      "Limit per person": event.maxTicketsPerPerson ? count(event.maxTicketsPerPerson, "ticket") : "none",
    };
    for (const [name, text] of Object.entries(texts)) setText(this.#values[name], text);
  }
}

/** Returns a time, and in how long it is or how long ago it was. */
function moment(text) {
  const seconds = (Date.parse(text) - serviceTime()) / 1000;
  const distance = formatDuration(Math.abs(seconds));
  return `${formatDate(text)} (${seconds > 0 ? `in ${distance}` : `${distance} ago`})`;
}

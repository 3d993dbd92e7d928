/** The last changes of an event, in words. */

import { element } from "./dom.js";
import { formatRecent } from "./times.js";
import { change } from "./words.js";

const SHOWN = 10;

export function showChanges(list, entries) {
  const newest = entries.slice(-SHOWN).reverse();
  if (list.dataset.newest === String(newest[0]?.version)) return;
  list.dataset.newest = newest[0]?.version;
  list.replaceChildren(...newest.map((entry) => element("li", {},
    element("time", { datetime: entry.recordedAt }, formatRecent(entry.time)), " ",
    element("span", {}, change(entry)),
    ...(entry.lastEvent.actor ? [" ", element("code", { title: "the buyer; the last one of this change" }, entry.lastEvent.actor)] : []))));
}

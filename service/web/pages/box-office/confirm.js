/** A question that stands in the page, in the place of the button that asked it. */

import { button, element } from "./dom.js";

/**
 * Returns a button that asks once before it acts.
 *
 * options() returns further elements of the question; act() is called with the place of the
 * question after Confirm.
 */
export function confirmedButton(text, question, act, { options = () => [], attributes = {} } = {}) {
  const place = element("div", { class: "confirm" });
  const opener = button(text, ask, attributes);
  function ask() {
    const confirm = button("Confirm", () => { close(); act(); }, { class: "primary" });
    const panel = element("div", { class: "question", role: "group", "aria-label": text },
      element("p", {}, question), ...options(),
      element("div", { class: "buttons" }, confirm, button("Cancel", close)));
    panel.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
    place.replaceChildren(panel);
    confirm.focus();
  }
  function close() {
    place.replaceChildren(opener);
    opener.focus();
  }
  place.replaceChildren(opener);
  return place;
}

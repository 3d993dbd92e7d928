/** The audit light: asked when the page opens and on a click, never by itself. */

import { get } from "./api.js";
import { button, element, setText } from "./dom.js";
import { count, formatNumber, refusal } from "./words.js";

export function showAudit(place, id, signal) {
  const light = element("p", { class: "light", role: "status" });
  const failures = element("ul", { class: "failures" });
  place.append(light, button("Check again", check, { class: "quiet" }), failures);
  async function check() {
    light.dataset.state = "busy";
    setText(light, "Audit: checking…");
    const response = await get(`events/${id}/audit`, { signal });
    if (signal.aborted) return;
    const failed = response.ok ? response.body.checks.filter(({ ok }) => !ok) : [];
    failures.replaceChildren(...failed.map((result) => element("li", {}, describe(result))));
    light.dataset.state = response.ok && response.body.ok ? "right" : "wrong";
    if (!response.ok) setText(light, `Audit: ${refusal(response)}`);
    else if (response.body.ok) setText(light, `Audit: all ${formatNumber(response.body.checks.length)} checks are right.`);
    else setText(light, `Audit: ${count(failed.length, "check")} of ${formatNumber(response.body.checks.length)} failed:`);
  }
  check();
}

function describe({ name, expected, found }) {
  const value = (number) => (number === null ? "nothing" : formatNumber(number));
  return `${name}: expected ${value(expected)}, found ${value(found)}`;
}

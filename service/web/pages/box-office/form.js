/** The form of an event: for a new one, and for changes of one that others may change, too. */

import { send } from "./api.js";
import { fillTemplate, setText, element } from "./dom.js";
import { fromField, toField, zone } from "./times.js";
import { FIELDS, fieldValue, refusal } from "./words.js";

const TIMES = ["date", "saleOpensAt", "saleClosesAt"];
const NUMBERS = ["totalTickets", "holdSeconds", "maxHoldSeconds", "maxTicketsPerPerson"];
const REQUIRED = ["name", "date", "totalTickets"];
let forms = 0;

export class EventForm {
  #event; // that the form was filled with; null for a new one
  #isBusy = false;

  /** onDone(event) is called with the event that was created or changed. */
  constructor(event, text, onDone) {
    const { content, parts } = fillTemplate("form-template");
    this.node = content.querySelector("form");
    this.parts = parts;
    this.onDone = onDone;
    this.#event = event;
    forms += 1;
    this.fields = Object.fromEntries(Object.keys(FIELDS).map((name) => [name, this.#prepareField(name, `${name}-${forms}`)]));
    setText(parts.zone, `Times are in ${zone}.`);
    setText(this.node.querySelector("[type=submit]"), text);
    this.node.addEventListener("submit", (submit) => { submit.preventDefault(); this.#submit(); });
    this.node.addEventListener("input", () => this.#showDiscard());
    parts.discard.onclick = () => { this.#fill(Object.keys(FIELDS)); this.#say(""); };
    if (event) this.#fill(Object.keys(FIELDS));
  }

  #prepareField(name, id) {
    const input = this.node.elements[name];
    const error = element("p", { class: "error", id: `${id}-error`, hidden: true });
    const hint = input.parentNode.querySelector("small");
    input.id = id;
    input.parentNode.querySelector("label").htmlFor = id;
    if (hint) hint.id = `${id}-hint`;
    input.setAttribute("aria-describedby", `${hint ? `${hint.id} ` : ""}${error.id}`);
    if (REQUIRED.includes(name)) input.required = true;
    input.parentNode.append(error);
    return { input, error };
  }

  /** Returns a value of the event as its field shows it. */
  #text(name) {
    const value = this.#event?.[name] ?? "";
    return TIMES.includes(name) ? toField(value) : String(value);
  }

  #fill(names) {
    for (const name of names) {
      this.fields[name].input.value = this.#text(name);
      this.#showError(name, "");
    }
    this.#showDiscard();
  }

  #isTouched(name) {
    return this.fields[name].input.value !== this.#text(name) || this.fields[name].input.validity.badInput;
  }

  get touched() {
    return Object.keys(FIELDS).filter((name) => this.#isTouched(name));
  }

  #showDiscard() {
    this.parts.discard.hidden = !this.#event || !this.touched.length;
  }

  /**
   * Takes over a newer revision of the event.
   *
   * Untouched fields follow it. If others are being edited, a change by somebody else is shown,
   * and the form keeps its revision, so that a Save that did not know of it is refused.
   */
  follow(event, isOwn = false) {
    if (!this.#event || this.#isBusy || event.revision <= this.#event.revision) return;
    const touched = this.touched;
    if (!touched.length || isOwn) this.#rebase(event, touched);
    else this.#say(`Somebody else has changed this event: ${this.#differences(event)}. What you have entered is not saved yet.`, "changed");
  }

  /** Takes a newer event as the one to change, and keeps what has been entered. */
  #rebase(event, touched) {
    this.#event = event;
    this.#fill(Object.keys(FIELDS).filter((name) => !touched.includes(name)));
  }

  #differences(event) {
    const changed = Object.keys(FIELDS).filter((name) => event[name] !== this.#event[name]);
    return changed.map((name) => `${FIELDS[name]} is now ${fieldValue(name, event[name])}`).join(", ") || "it is as before";
  }

  /** Returns the fields that were entered as the service takes them; null if one is not valid. */
  #read() {
    const names = this.#event ? this.touched : Object.keys(FIELDS).filter((name) => this.fields[name].input.value !== "" || REQUIRED.includes(name));
    const body = {};
    let isValid = true;
    for (const name of Object.keys(FIELDS)) this.#showError(name, "");
    for (const name of names) {
      const { input } = this.fields[name];
      const text = input.value;
      let error = "";
      if (input.validity.badInput) error = TIMES.includes(name) ? "Enter a date and a time." : "Enter a whole number.";
      else if (text.trim() === "" && REQUIRED.includes(name)) error = `Enter a ${FIELDS[name].toLowerCase()}.`;
      else if (text === "") body[name] = null;
      else if (TIMES.includes(name)) {
        body[name] = fromField(text);
        if (!body[name]) error = `There is no such time in ${zone}.`;
      } else body[name] = NUMBERS.includes(name) ? Number(text) : text;
      if (error) {
        this.#showError(name, error);
        isValid = false;
      }
    }
    return isValid ? body : null;
  }

  async #submit() {
    if (this.#isBusy) return;
    this.#say("");
    const body = this.#read();
    if (!body) return this.#focusError();
    if (this.#event && !Object.keys(body).length) return this.#say("Nothing has been changed.");
    this.#isBusy = true;
    this.node.setAttribute("aria-busy", "true");
    const response = this.#event
      ? await send("PATCH", `events/${this.#event.id}`, { body: { ...body, revision: this.#event.revision }, asOrganizer: true })
      : await send("POST", "events", { body, asOrganizer: true });
    this.#isBusy = false;
    this.node.removeAttribute("aria-busy");
    if (response.ok) {
      if (this.#event) this.#rebase(response.body, []);
      this.#say("Saved.", "right");
      this.onDone(response.body);
    } else if (response.code === "EVENT_CHANGED") await this.#showOthersChange();
    else this.#refuse(response);
  }

  async #showOthersChange() {
    const response = await send("GET", `events/${this.#event.id}`);
    if (!response.ok) return this.#refuse(response);
    const differences = this.#differences(response.body);
    this.#rebase(response.body, this.touched);
    this.#say(`Not saved: somebody else has changed this event meanwhile. ${differences}. Save again to add your changes, or discard them.`, "changed");
    this.onDone(response.body);
  }

  #refuse(response) {
    this.#say(refusal(response), "refused");
    if (response.code === "CAPACITY_BELOW_ALLOCATED") this.#showError("totalTickets", refusal(response));
    for (const { field, message } of response.code === "BAD_REQUEST" ? response.details ?? [] : []) {
      if (field in FIELDS) this.#showError(field, `${FIELDS[field]} ${inWords(message)}.`);
    }
    this.#focusError();
  }

  #showError(name, text) {
    const { input, error } = this.fields[name];
    setText(error, text);
    error.hidden = text === "";
    if (text) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  }

  #focusError() {
    Object.values(this.fields).find(({ error }) => !error.hidden)?.input.focus();
  }

  #say(text, state = "") {
    this.parts.notice.dataset.state = state;
    setText(this.parts.notice, text);
  }
}

/** Returns a message about a field with the labels of the page for the names of the API. */
function inWords(message) {
  return message.replace(/[a-z]+[A-Z]\w*/g, (name) => FIELDS[name] ?? name);
}

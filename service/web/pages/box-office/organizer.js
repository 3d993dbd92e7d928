/** The organizer: whether the service wants a token, and the one that was entered. */

import { button, element } from "./dom.js";

const KEY = "organizer token";
const isRequired = document.documentElement.dataset.organizerToken === "required";
const listeners = new Set();
let token = isRequired ? sessionStorage.getItem(KEY) ?? "" : "";
let complaint = "";

export function mayAct() {
  return !isRequired || token !== "";
}

/** Returns the headers of a request for the organizer. */
export function authorization() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Calls a function whenever a token is entered, refused or forgotten. */
export function onOrganizerChange(listener, signal) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener));
}

/** Forgets a token that the service has refused, and asks for another. */
export function refuseToken() {
  if (isRequired) setToken("", "The token is wrong. Enter it again.");
}

function setToken(text, message = "") {
  [token, complaint] = [text, message];
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
  for (const listener of [...listeners]) listener();
}

/**
 * Shows the form for the token.
 *
 * check(token) returns whether the service accepts it, or null if it cannot tell.
 */
export function showOrganizer(place, check) {
  if (!isRequired) return;
  const input = element("input", { type: "password", id: "token", autocomplete: "off", required: true });
  const message = element("p", { class: "error", role: "alert" });
  const form = element("form", { class: "token" },
    element("label", { for: "token" }, "Organizer token"), input, element("button", {}, "Use token"));
  const forget = button("Forget token", () => { setToken(""); input.focus(); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = input.value.trim();
    // A header can contain nothing else.
    if (!/^[\x21-\x7e]+$/.test(text)) return setToken("", "The token is wrong. Enter it again.");
    const accepted = await check(text);
    if (accepted === null) message.textContent = "The service cannot be reached. Try again.";
    else if (accepted) setToken(text);
    else setToken("", "The token is wrong. Enter it again.");
  });
  const show = () => {
    form.hidden = token !== "";
    forget.hidden = token === "";
    input.value = "";
    message.textContent = complaint;
    input.setAttribute("aria-invalid", complaint !== "");
  };
  place.replaceChildren(form, forget, message);
  onOrganizerChange(show, new AbortController().signal);
  show();
}

/** The box office: shows the list of events or the page of one, by the fragment of the URL. */

import { acceptsToken } from "./api.js";
import { setText } from "./dom.js";
import { showEvent } from "./event.js";
import { showList } from "./list.js";
import { showOrganizer } from "./organizer.js";

const main = document.querySelector("main");
const connection = document.querySelector(".connection");
let shown = null;

function report(isConnected) {
  connection.dataset.state = isConnected ? "live" : "lost";
  setText(connection, isConnected ? "Live" : "Connection lost, trying again");
}

/** Shows what the URL names; what was shown before ends its requests and its stream. */
async function show() {
  shown?.abort();
  const { signal } = shown = new AbortController();
  const id = /^#event=([\w-]+)$/.exec(location.hash)?.[1];
  document.title = "Box office";
  scrollTo(0, 0);
  if (id) await showEvent(main, id, report, signal);
  else showList(main, report, signal);
}

addEventListener("hashchange", async () => {
  await show();
  main.querySelector("h1")?.focus();
});
showOrganizer(document.querySelector(".organizer"), acceptsToken);
show();

// Watch a stream with the package @microsoft/fetch-event-source, as a page would.
// `node watch_fetch_event_source.mjs <the stream's URL>` prints the id and the data of each event.

// What the package uses of a browser, and Node does not have.
globalThis.window = globalThis;
globalThis.document = { addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = await import("@microsoft/fetch-event-source");

await fetchEventSource(process.argv[2], {
  onmessage({ id, data }) {
    console.log(JSON.stringify({ id, data }));
    JSON.parse(data); // like a page. If this throws, the package reconnects
  },
  onclose() {
    throw new Error("the service has ended the stream"); // the package reconnects
  },
});

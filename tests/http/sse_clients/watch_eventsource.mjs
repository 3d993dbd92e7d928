// Watch a stream with the package eventsource, which reconnects by itself.
// `node watch_eventsource.mjs <the stream's URL>` prints the id and the data of each event.

import { EventSource } from "eventsource";

new EventSource(process.argv[2]).onmessage = ({ lastEventId, data }) => {
  console.log(JSON.stringify({ id: lastEventId, data }));
  JSON.parse(data);
};

// Runs docs/examples/checkout.js by remote control: each line of stdin is a command in JSON, each
// line of stdout a result. Its date is 1970, and its waits are 50 times shorter than they seem.

import { createInterface } from "node:readline";
import { readFileSync, writeFileSync } from "node:fs";
import { Checkout, MESSAGES, watch } from "../../docs/examples/checkout.js";

const [service, event, file] = process.argv.slice(2);
const send = (result) => process.stdout.write(`${JSON.stringify(result)}\n`);

let skipped = 0;
const { now } = performance;
const { setTimeout: realSetTimeout } = globalThis;
performance.now = () => now.call(performance) + skipped;
Date.now = () => 0;
// Only the waits of the checkout: fetch has its own timers.
globalThis.setTimeout = (callback, wait, ...rest) => {
  if (!new Error().stack.includes("docs/examples/checkout.js"))
    return realSetTimeout(callback, wait, ...rest);
  skipped += wait;
  return realSetTimeout(callback, wait / 50);
};

const stored = () => JSON.parse(readFileSync(file, "utf8"));
const storage = {
  getItem: (name) => stored()[name] ?? null,
  setItem: (name, value) => writeFileSync(file, JSON.stringify({ ...stored(), [name]: value })),
  removeItem: (name) => writeFileSync(file, JSON.stringify({ ...stored(), [name]: undefined })),
};

const checkout = new Checkout(service, event, storage, (refusal) => send({ retryCode: refusal.code }));
send({ messages: MESSAGES });
for await (const line of createInterface({ input: process.stdin })) {
  const [verb, ...rest] = JSON.parse(line);
  if (verb === "watch") {
    watch(service, event, (message) => send({ streamedEvent: message }));
    continue;
  }
  let code = null;
  const payments = [];
  if (verb === "buy") {
    const note = (payment) => async () => payments.push(payment);
    rest.push(note("charged"), note("refunded"));
  }
  try {
    await checkout[verb](...rest);
  } catch (refusal) {
    if (!refusal.code) throw refusal;
    code = refusal.code;
  }
  const secondsLeft = checkout.reservation && checkout.secondsLeft();
  send({ code, ...checkout.reservation, secondsLeft, payments });
}
process.exit();

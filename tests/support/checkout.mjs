// docs/examples/checkout.js on a lead: each line of stdin is one thing to do, in JSON; each line of
// stdout is what came of it. Its clock says 1970, and its waits are short while its time goes on.

import { createInterface } from "node:readline";
import { readFileSync, writeFileSync } from "node:fs";
import { Checkout, TOLD, watch } from "../../docs/examples/checkout.js";

const [service, event, file] = process.argv.slice(2);
const say = (told) => process.stdout.write(`${JSON.stringify(told)}\n`);

let skipped = 0;
const { now } = performance;
const { setTimeout: later } = globalThis;
performance.now = () => now.call(performance) + skipped;
Date.now = () => 0;
// Only what the checkout waits for: fetch has timers of its own.
globalThis.setTimeout = (then, wait, ...rest) => {
  if (!new Error().stack.includes("docs/examples/checkout.js")) return later(then, wait, ...rest);
  skipped += wait;
  return later(then, wait / 50);
};

const kept = () => JSON.parse(readFileSync(file, "utf8"));
const storage = {
  getItem: (name) => kept()[name] ?? null,
  setItem: (name, value) => writeFileSync(file, JSON.stringify({ ...kept(), [name]: value })),
  removeItem: (name) => writeFileSync(file, JSON.stringify({ ...kept(), [name]: undefined })),
};

const checkout = new Checkout(service, event, storage, (refused) => say({ waiting: refused.code }));
say({ told: TOLD });
for await (const line of createInterface({ input: process.stdin })) {
  const [verb, ...rest] = JSON.parse(line);
  if (verb === "watch") {
    watch(service, event, (seen) => say({ seen }));
    continue;
  }
  let code = null;
  try {
    await checkout[verb](...rest);
  } catch (refused) {
    if (!refused.code) throw refused;
    code = refused.code;
  }
  say({ code, ...checkout.reservation, left: checkout.reservation && checkout.secondsLeft() });
}
process.exit();

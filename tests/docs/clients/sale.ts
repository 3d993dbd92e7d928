// A sale through a generated client: every response and refusal has a type.
// `node sale.js <the service's URL> <the organizer's token>` prints the event after the sale.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./holdfast.js";

type Event = components["schemas"]["Event"];
type Ticket = components["schemas"]["Ticket"];
type WatchedEvent = components["schemas"]["WatchedEvent"];

const [url, token] = process.argv.slice(2);
const client = createClient<paths>({
  baseUrl: url,
  headers: { Authorization: `Bearer ${token}` },
});

/** Return the data of a response that must not be a refusal. */
function success<T>({ data, error }: { data?: T; error?: unknown }): T {
  assert.equal(error, undefined);
  assert(data !== undefined);
  return data;
}

function reserve(eventId: string, quantity: number, userFingerprint: string, key?: string) {
  return client.POST("/events/{eventId}/tickets", {
    params: { path: { eventId }, header: { "Idempotency-Key": key } },
    body: { quantity, userFingerprint },
  });
}

/** Sell all six tickets of an event, and return the event. */
async function sell(): Promise<Event> {
  const event = success(
    await client.POST("/events", {
      body: { name: "Sold from TypeScript", date: "2030-01-01T20:00:00Z", totalTickets: 6 },
    }),
  );
  const page = success(
    await client.GET("/events", { params: { query: { q: "from typescript", available: true } } }),
  );
  assert.deepEqual(page.data, [event]);
  assert.equal(page.meta.total, 1);

  const { userFingerprint } = success(await client.POST("/fingerprints"));
  const header = { "X-User-Fingerprint": userFingerprint };
  const tickets = success(await reserve(event.id, 2, userFingerprint, "order-1"));
  const [paid, released] = tickets;
  assert(paid?.expiresAt && released);
  assert(new Date(paid.expiresAt) > new Date());

  const replay = await reserve(event.id, 2, userFingerprint, "order-1");
  assert.deepEqual(replay.data, tickets);
  assert.equal(replay.response.headers.get("Idempotency-Replayed"), "true");
  const reused = await reserve(event.id, 1, userFingerprint, "order-1");
  assert.equal(reused.error?.code, "IDEMPOTENCY_KEY_REUSED");

  const path = { ticketId: paid.id };
  const own = success(await client.GET("/events/tickets/{ticketId}", { params: { path, header } }));
  assert.equal(own.userFingerprint, userFingerprint);
  const anonymous = success(await client.GET("/events/tickets/{ticketId}", { params: { path } }));
  assert.equal(anonymous.userFingerprint, undefined);

  const wrong = await client.POST("/events/tickets/{ticketId}/payment", {
    params: { path },
    body: { userFingerprint: "somebody-else" },
  });
  assert.equal(wrong.error?.code, "WRONG_FINGERPRINT");
  const bought = success(
    await client.POST("/events/tickets/{ticketId}/payment", {
      params: { path },
      body: { userFingerprint },
    }),
  );
  assert.equal(bought.status, "purchased");
  assert.equal(bought.expiresAt, null);
  const cancelled = success(
    await client.DELETE("/events/tickets/{ticketId}/payment", {
      params: { path: { ticketId: released.id }, header },
    }),
  );
  assert.equal(cancelled.status, "user_cancelled");

  await sellReservations(event, userFingerprint);
  await refuse(event, userFingerprint);
  return prove(event, userFingerprint);
}

/** Pay for a reservation of three tickets, and cancel one of two. */
async function sellReservations(event: Event, userFingerprint: string): Promise<void> {
  const header = { "X-User-Fingerprint": userFingerprint };
  const three = success(await reserve(event.id, 3, userFingerprint));
  assert(three[0]);
  const path = { reservationId: three[0].reservationId };
  const reservation = success(
    await client.GET("/reservations/{reservationId}", { params: { path, header } }),
  );
  assert.deepEqual(reservation.tickets, three);
  const payment = { params: { path }, body: { userFingerprint } };
  const paid = success(await client.POST("/reservations/{reservationId}/payment", payment));
  assert.equal(paid.status, "purchased");
  const { error } = await client.POST("/reservations/{reservationId}/payment", payment);
  assert(error?.code === "ALREADY_PURCHASED");
  assert.equal(error.details.ticketId, three[0].id);

  const two = success(await reserve(event.id, 2, userFingerprint));
  assert(two[0]);
  const cancelled = success(
    await client.DELETE("/reservations/{reservationId}", {
      params: { path: { reservationId: two[0].reservationId }, header },
    }),
  );
  assert.equal(cancelled.status, "user_cancelled");
}

/** Cause refusals; the code of a refusal determines the type of its details. */
async function refuse(event: Event, userFingerprint: string): Promise<void> {
  const three = (await reserve(event.id, 3, userFingerprint)).error;
  assert(three?.code === "NOT_ENOUGH_TICKETS");
  assert.equal(three.details.availableTickets, 2);
  success(await reserve(event.id, 2, userFingerprint));
  const none = (await reserve(event.id, 1, userFingerprint)).error;
  assert(none?.code === "TICKETS_SOLD_OUT");
  assert.equal(none.error, "Not enough tickets available");
  assert.equal(none.details.availableTickets, 0);
  // @ts-expect-error The details of TICKETS_SOLD_OUT have no field.
  none.details.field;

  const bad = (await reserve(event.id, 0, "")).error;
  assert(bad?.code === "BAD_REQUEST");
  assert.deepEqual(bad.details?.map((detail) => detail.field), ["quantity", "userFingerprint"]);
  const { error } = await client.PATCH("/events/{eventId}", {
    params: { path: { eventId: event.id } },
    body: { totalTickets: 5 },
  });
  assert(error?.code === "CAPACITY_BELOW_ALLOCATED");
  assert.equal(error.details.allocatedTickets, 6);
  () => client.POST("/events/tickets/{ticketId}/payment", {
    params: { path: { ticketId: event.id } },
    // @ts-expect-error A payment needs the fingerprint.
    body: {},
  });
}

/** List all tickets of an event that are sold, by cursor. */
async function walk(event: Event, limit: number): Promise<Ticket[]> {
  const sold: Ticket[] = [];
  let after: string | null | undefined;
  do {
    const page = success(
      await client.GET("/events/{id}/tickets", {
        params: {
          path: { id: event.id },
          query: { status: "purchased", limit, ...(after ? { after } : {}) },
        },
      }),
    );
    sold.push(...page.data);
    after = page.meta.next;
  } while (after);
  return sold;
}

/** Refund a purchase, sell the ticket again, and check the ledger and the audit. */
async function prove(event: Event, userFingerprint: string): Promise<Event> {
  const path = { eventId: event.id };
  const sold = success(
    await client.GET("/events/{eventId}/tickets", {
      params: { path, query: { status: "purchased" } },
    }),
  );
  assert.equal(sold.meta.total, 4);
  assert.deepEqual(await walk(event, 3), sold.data);
  assert(sold.data[0]);
  const refunded = success(
    await client.POST("/events/tickets/{ticketId}/refund", {
      params: { path: { ticketId: sold.data[0].id } },
    }),
  );
  assert.equal(refunded.status, "refunded");
  const last = success(await reserve(event.id, 1, userFingerprint));
  const own = success(
    await client.GET("/tickets", {
      params: { header: { "X-User-Fingerprint": userFingerprint }, query: { limit: 1 } },
    }),
  );
  assert.deepEqual(own.data, last);

  const watched = await firstMessage(event.id);
  assert.equal(watched.lastEvent.type, "reserved");
  const ledger = success(await client.GET("/events/{eventId}/ledger", { params: { path } }));
  assert.equal(ledger.meta.next, null);
  assert.deepEqual(
    ledger.data.map((entry) => entry.version),
    Array.from({ length: watched.version }, (_, index) => index + 1),
  );
  assert(success(await client.GET("/events/{eventId}/audit", { params: { path } })).ok);
  assert.equal(success(await client.GET("/health")).status, "ok");
  const eventNow = success(await client.GET("/events/{eventId}", { params: { path } }));
  assert.equal(eventNow.version, watched.version);
  return eventNow;
}

/** Return the first message of an event's stream. */
async function firstMessage(eventId: string): Promise<WatchedEvent> {
  const { data } = await client.GET("/events/{eventId}/stream", {
    params: { path: { eventId } },
    parseAs: "stream",
  });
  assert(data);
  let text = "";
  for await (const part of data.pipeThrough(new TextDecoderStream())) {
    text += part;
    const message = /^data: (.*)\n\n/m.exec(text)?.[1];
    if (message) return JSON.parse(message) as WatchedEvent;
  }
  throw new Error("The stream has ended");
}

console.log(JSON.stringify(await sell()));

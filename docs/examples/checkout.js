/**
 * A shop's checkout in the browser: reserves with a key, shows the time left, pays, and has a
 * message for every refusal. It needs only fetch and EventSource; checkout.html is a page around it.
 */

/** One try. The service responds within 5 s, once it has the body. */
const TIMEOUT_MILLISECONDS = 10_000;
/** All tries of one request. After that the order is kept and can be continued. */
const GIVE_UP_MILLISECONDS = 60_000;
/** How far the header Date may be behind: it has no fractions, and is renewed once a second. */
const CLOCK_MILLISECONDS = 2_000;
/** With less time left than this the hold is extended before the money is taken. */
const PAYMENT_SECONDS = 120;
/** With less than this left, and no extension possible, no money is taken. */
const LEAST_PAYMENT_SECONDS = 10;
/** Delay before a refused stream is opened again; up to twice as long. */
const STREAM_MILLISECONDS = 5_000;

/** After these refusals the same request is sent again. */
const RETRIED = new Set(["BUSY", "OUTCOME_UNKNOWN"]);
/** After these it is not known whether the tickets are paid for. */
const UNKNOWN = new Set([...RETRIED, "INTERNAL_SERVER_ERROR"]);

/** The message to the buyer for every code that the routes below can return. */
export const MESSAGES = {
  BAD_REQUEST: "This order is invalid: check the event and the number of tickets.",
  NOT_FOUND: "There is no such event, or no such order.",
  PAYLOAD_TOO_LARGE: "The shop has made a mistake: it sent too much.",
  MISDIRECTED_REQUEST: "The shop has made a mistake: it uses a name that the service lacks.",
  UNSUPPORTED_MEDIA_TYPE: "The shop has made a mistake: it did not send JSON.",
  IDEMPOTENCY_KEY_REUSED: "This order was started with another number of tickets.",
  SALE_NOT_OPEN: "The sale has not opened yet: come back when it does.",
  SALE_CLOSED: "The sale is over.",
  LIMIT_REACHED: "You have as many tickets of this event as one person may have: take fewer.",
  WAITING_LIST_FIRST: "People wait in line for these tickets. Join the waiting list.",
  TICKETS_SOLD_OUT: "Sold out. Tickets that others hold and do not pay for come back: try again later.",
  NOT_ENOUGH_TICKETS: "There are not enough tickets for that: take fewer.",
  WRONG_FINGERPRINT: "This order belongs to somebody else.",
  HOLD_EXPIRED: "The time is up, and the tickets are available to others: start a new order.",
  HOLD_AT_MAXIMUM: "There is too little time left to pay: start a new order.",
  ALREADY_PURCHASED: "Tickets of this order are paid for already.",
  ALREADY_CANCELLED: "Tickets of this order were given back.",
  ALREADY_REFUNDED: "Tickets of this order were refunded.",
  BUSY: "Very many people want tickets right now. Nothing is done yet, and it is not sold out.",
  OUTCOME_UNKNOWN: "There was no response. Asking again is safe: nothing is done twice.",
  INTERNAL_SERVER_ERROR: "The service has failed. Your order is kept: try again later.",
};

/** The code to report for an order that is found in this status. */
const CODES_OF_ENDED = {
  expired: "HOLD_EXPIRED",
  user_cancelled: "ALREADY_CANCELLED",
  refunded: "ALREADY_REFUNDED",
};

/** The service has refused a request. The message is for the buyer. */
export class Refusal extends Error {
  constructor(code, retryAfterSeconds = 1) {
    super(MESSAGES[code]);
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/**
 * Return what the checkout needs to know of a reservation: reserved while any ticket is held, then
 * purchased if any was bought, else the status of the first ticket.
 */
function summarize(tickets) {
  const statuses = tickets.map((ticket) => ticket.status);
  const held = tickets.filter((ticket) => ticket.status === "reserved");
  return {
    id: tickets[0].reservationId,
    status: ["reserved", "purchased"].find((status) => statuses.includes(status)) ?? statuses[0],
    expiresAt: held.map((ticket) => ticket.expiresAt).sort()[0] ?? null,
  };
}

/** Return an unguessable token: visible ASCII, of 256 random bits. */
function createToken() {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * An order: reserved, then paid for or cancelled.
 *
 * Each of its requests can be sent again as it is: the reservation has its key, and a payment or
 * a cancel that was done before is refused with ALREADY_….
 */
export class Checkout {
  #service;
  #event;
  #storage;
  #onRetry;
  /** What to add to performance.now() for the time of the service's clock. */
  #clockOffset = Date.now() - performance.now();

  /** The latest known state of the reservation: id, status, expiresAt. */
  reservation = null;

  /**
   * @param {string} service its origin; "" if the page comes from it
   * @param {string} event its id
   * @param {Storage} storage survives a reload, such as localStorage
   * @param {(refusal: Refusal) => void} onRetry is called before each retry
   */
  constructor(service, event, storage, onRetry = () => {}) {
    this.#service = service;
    this.#event = event;
    this.#storage = storage;
    this.#onRetry = onRetry;
  }

  /** The order of this event that was started and not ended: {quantity, key}, or null. */
  get order() {
    return JSON.parse(this.#storage.getItem(`order ${this.#event}`));
  }

  /**
   * Reserve tickets, or find those that this order has reserved before. The order is stored before
   * anything is sent. After a reload, or in another tab, this continues it with its own quantity.
   *
   * @throws {Refusal} also if the order had tickets and has none any more
   */
  async reserve(wanted) {
    const { quantity, key } = this.order ?? this.#createOrder(wanted);
    const tickets = await this.#send("POST", `/events/${this.#event}/tickets`, {
      headers: { "Content-Type": "application/json", "Idempotency-Key": key },
      body: JSON.stringify({ quantity, userFingerprint: this.#fingerprint }),
    });
    // A replay is 201 with the tickets as they are now: perhaps purchased, perhaps expired.
    this.reservation = summarize(tickets);
    this.#throwIfEnded();
  }

  /**
   * Return for how long the tickets are still held, by the service's clock: up to two seconds too
   * few, never too many. At 0 call refresh(): only the service knows whether the hold has expired.
   */
  secondsLeft() {
    const end = Date.parse(this.reservation.expiresAt ?? 0);
    return Math.max(0, end - (performance.now() + this.#clockOffset)) / 1000;
  }

  /**
   * Read the state of the reservation.
   * @throws {Refusal} if nothing is held any more
   */
  async refresh() {
    this.reservation = await this.#find();
    this.#throwIfEnded();
  }

  /**
   * Take the money, then pay for the tickets; give the money back if they are gone.
   *
   * @param {() => Promise<void>} charge takes the buyer's money
   * @param {() => Promise<void>} refund gives it back
   * @throws {Refusal} nothing was paid for; with a code of UNKNOWN that is not known, and the money
   *   is kept until pay() says more
   */
  async buy(charge, refund) {
    await this.extend();
    await charge();
    try {
      await this.pay();
    } catch (refusal) {
      if (refusal instanceof Refusal && !UNKNOWN.has(refusal.code)) await refund();
      throw refusal;
    }
  }

  /**
   * Hold the tickets for longer if little time is left, before the money is taken.
   * @throws {Refusal} the hold has expired, or cannot be extended and is about to
   */
  async extend() {
    if (this.secondsLeft() >= PAYMENT_SECONDS) return;
    try {
      const { tickets } = await this.#send("POST", `${this.#path}/extension`, {
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ userFingerprint: this.#fingerprint }),
      });
      this.reservation = summarize(tickets);
    } catch (refusal) {
      if (refusal.code !== "HOLD_AT_MAXIMUM" || this.secondsLeft() < LEAST_PAYMENT_SECONDS)
        throw refusal;
    }
  }

  /**
   * Pay for all tickets, or find that an earlier try has; the money is taken already. If their
   * hold has expired meanwhile they are reacquired, as long as they are available.
   * @throws {Refusal} nothing was paid for; with a code of UNKNOWN that is not known
   */
  async pay() {
    await this.#change("purchased", "POST", `${this.#path}/payment`, {
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ userFingerprint: this.#fingerprint, ifExpired: "reacquire" }),
    });
  }

  /**
   * Cancel all held tickets, or find that an earlier try has.
   * @throws {Refusal} nothing was cancelled; with a code of RETRIED that is not known
   */
  async cancel() {
    await this.#change("user_cancelled", "DELETE", this.#path, { headers: this.#owner });
  }

  /** Let the next reserve() start a new order. The fingerprint stays: it proves what was bought. */
  end() {
    this.#storage.removeItem(`order ${this.#event}`);
    this.reservation = null;
  }

  #createOrder(quantity) {
    this.#storage.setItem(`order ${this.#event}`, JSON.stringify({ quantity, key: createToken() }));
    return this.order;
  }

  async #find() {
    const { tickets } = await this.#send("GET", this.#path, { headers: this.#owner });
    return summarize(tickets);
  }

  /** Send a change; if it is refused as done already, compare the reservation's status. */
  async #change(status, method, path, request) {
    try {
      const { tickets } = await this.#send(method, path, request);
      this.reservation = summarize(tickets);
    } catch (refusal) {
      if (!refusal.code?.startsWith("ALREADY_")) throw refusal;
      const reservation = await this.#find();
      if (reservation.status !== status) throw refusal;
      this.reservation = reservation;
    }
  }

  #throwIfEnded() {
    const code = CODES_OF_ENDED[this.reservation.status];
    if (code) throw new Refusal(code);
  }

  get #path() {
    return `/reservations/${this.reservation.id}`;
  }

  get #owner() {
    return { "X-User-Fingerprint": this.#fingerprint };
  }

  /** This browser's fingerprint. Who knows it can pay and cancel. */
  get #fingerprint() {
    if (!this.#storage.getItem("fingerprint")) this.#storage.setItem("fingerprint", createToken());
    return this.#storage.getItem("fingerprint");
  }

  /** Send a request until its outcome is known, and return the response's body. */
  async #send(method, path, request) {
    const deadline = performance.now() + GIVE_UP_MILLISECONDS;
    for (;;) {
      let refusal;
      try {
        return await this.#sendOnce(method, path, request);
      } catch (error) {
        // Any other error means that there was no response: the network, the timeout.
        refusal = error instanceof Refusal ? error : new Refusal("OUTCOME_UNKNOWN");
      }
      // With jitter, so that buyers do not all come back at once.
      const delay = refusal.retryAfterSeconds * 1000 * (1 + Math.random());
      if (!RETRIED.has(refusal.code) || performance.now() + delay > deadline) throw refusal;
      this.#onRetry(refusal);
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }

  async #sendOnce(method, path, request) {
    const response = await fetch(this.#service + path, {
      ...request,
      method,
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS),
    });
    // The buyer's clock may be wrong: use the service's.
    const serviceTime = Date.parse(response.headers.get("Date"));
    if (serviceTime) this.#clockOffset = serviceTime + CLOCK_MILLISECONDS - performance.now();
    // Throws if the body is not JSON, such as a proxy's error page: the outcome is unknown.
    const body = await response.json();
    if (response.ok) return body;
    const seconds = Number.parseInt(response.headers.get("Retry-After"), 10) || 1;
    throw new Refusal(Object.hasOwn(MESSAGES, body?.code) ? body.code : "OUTCOME_UNKNOWN", seconds);
  }
}

/**
 * Watch an event: call onEvent with its state, and again whenever it changes.
 *
 * While the page is hidden the stream is closed: over HTTP/1.1 a browser opens six connections to
 * one origin, and each stream occupies one of them, in all tabs together.
 *
 * @param {string} service its origin
 * @param {string} event its id
 * @param {(event: object) => void} onEvent
 * @returns {() => void} stops watching
 */
export function watch(service, event, onEvent) {
  const page = globalThis.document; // undefined in Node
  let source;
  let retry;
  const close = () => {
    clearTimeout(retry);
    source?.close();
  };
  const open = () => {
    source = new EventSource(`${service}/events/${event}/stream`);
    source.onmessage = (message) => onEvent(JSON.parse(message.data));
    // The browser reopens a stream that breaks, but not one that was refused (BUSY).
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return;
      retry = setTimeout(open, STREAM_MILLISECONDS * (1 + Math.random()));
    };
  };
  const restart = () => {
    close();
    if (!page?.hidden) open();
  };
  page?.addEventListener("visibilitychange", restart);
  restart();
  return () => {
    page?.removeEventListener("visibilitychange", restart);
    close();
  };
}

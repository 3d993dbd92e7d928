/**
 * A shop's checkout in the browser: reserves with a key, shows the time left, pays, and tells every
 * refusal. It needs nothing but fetch and EventSource; checkout.html is a page around it.
 */

/** For one try. The service answers within 5 s, once it has the body. */
const TIMEOUT_MILLISECONDS = 10_000;
/** For all tries of one request. After that the order can be taken up again. */
const PATIENCE_MILLISECONDS = 60_000;
/** What the header Date may be behind: it has no fractions, and is renewed once a second. */
const CLOCK_MILLISECONDS = 2_000;
/** Until a stream that was refused is asked for again; up to twice as long. */
const STREAM_MILLISECONDS = 5_000;

/** The refusals that are not the end: the same request is sent again. */
const AGAIN = new Set(["BUSY", "OUTCOME_UNKNOWN"]);

/** What the buyer is told, for every code that the routes below can give. */
export const TOLD = {
  BAD_REQUEST: "This order is not taken as it is: see the event and the number of tickets.",
  NOT_FOUND: "There is no such event, or no such order.",
  PAYLOAD_TOO_LARGE: "The shop has made a mistake: it sent too much.",
  UNSUPPORTED_MEDIA_TYPE: "The shop has made a mistake: it did not send JSON.",
  IDEMPOTENCY_KEY_REUSED: "This order was begun with another number of tickets.",
  TICKETS_SOLD_OUT: "Sold out. What others hold and do not pay for comes back: look again.",
  NOT_ENOUGH_TICKETS: "There are not so many left: take fewer.",
  WRONG_FINGERPRINT: "This order is somebody else's.",
  HOLD_EXPIRED: "The time is up, and the tickets are free again: begin a new order.",
  ALREADY_PURCHASED: "A part of this order is paid for already.",
  ALREADY_CANCELLED: "Tickets of this order were given back.",
  ALREADY_REFUNDED: "Tickets of this order were refunded.",
  BUSY: "Very many want tickets just now. Nothing is done yet, and it is not sold out.",
  OUTCOME_UNKNOWN: "No answer came. The next one will show; nothing is done twice.",
  INTERNAL_SERVER_ERROR: "The service has failed. Your order is kept: try again later.",
};

/** What is told of an order that is found in such a state. */
const ENDED = {
  expired: "HOLD_EXPIRED",
  user_cancelled: "ALREADY_CANCELLED",
  refunded: "ALREADY_REFUNDED",
};

/** The service has refused. The message is for the buyer. */
export class Refused extends Error {
  constructor(code, retryAfterSeconds = 1) {
    super(TOLD[code]);
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** An unguessable token: visible ASCII, of 256 random bits. */
function token() {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * An order on its way: reserved, then paid for or given back.
 *
 * Each request of it may be sent again as it is: the reservation has its key, and a payment or a
 * cancel that has happened is refused the second time (ALREADY_…).
 */
export class Checkout {
  #service;
  #event;
  #storage;
  #waiting;
  #ahead = Date.now() - performance.now();

  /** As the service has told it last: id, status, expiresAt. */
  reservation = null;

  /**
   * @param {string} service where it is, "" for where the page is from
   * @param {string} event its id
   * @param {Storage} storage what survives a reload, such as localStorage
   * @param {(refused: Refused) => void} waiting hears why it takes longer
   */
  constructor(service, event, storage, waiting = () => {}) {
    this.#service = service;
    this.#event = event;
    this.#storage = storage;
    this.#waiting = waiting;
  }

  /** The order of this event that was begun and not ended: {quantity, key}, else null. */
  get order() {
    return JSON.parse(this.#storage.getItem(`order ${this.#event}`));
  }

  /**
   * Reserve tickets, or find those that the order has reserved before. The order is written down
   * before anything is sent: after a reload, or in another tab, this goes on with it, and the
   * quantity is the one with which it was begun.
   *
   * @throws {Refused} also when they were had, and are no longer
   */
  async reserve(wanted) {
    const { quantity, key } = this.order ?? this.#begin(wanted);
    const tickets = await this.#send("POST", `/events/${this.#event}/tickets`, {
      headers: { "Content-Type": "application/json", "Idempotency-Key": key },
      body: JSON.stringify({ quantity, userFingerprint: this.#fingerprint }),
    });
    // A repeat answers 201 with the tickets as they are now: perhaps paid for, perhaps lapsed.
    const statuses = new Set(tickets.map((ticket) => ticket.status));
    const held = tickets.filter((ticket) => ticket.status === "reserved");
    this.reservation = {
      id: tickets[0].reservationId,
      status: statuses.size === 1 ? tickets[0].status : "mixed",
      expiresAt: held.map((ticket) => ticket.expiresAt).sort()[0] ?? null,
    };
    this.#refuseWhatHasEnded();
  }

  /**
   * How long the tickets are held, by the service's clock: two seconds less, rather than one more.
   * At 0 look: whether the time is up, the service says.
   */
  secondsLeft() {
    const ends = Date.parse(this.reservation.expiresAt ?? 0);
    return Math.max(0, ends - (performance.now() + this.#ahead)) / 1000;
  }

  /**
   * Ask how it stands with the reservation.
   * @throws {Refused} when nothing is held any more
   */
  async look() {
    this.reservation = await this.#send("GET", this.#path, { headers: this.#owner });
    this.#refuseWhatHasEnded();
  }

  /**
   * Pay for all tickets, or find that an earlier try has.
   * @throws {Refused} nothing is paid for now; with a code of AGAIN it is not known
   */
  async pay() {
    await this.#settle("purchased", "POST", `${this.#path}/payment`, {
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ userFingerprint: this.#fingerprint }),
    });
  }

  /**
   * Give all tickets back, or find that an earlier try has.
   * @throws {Refused} nothing is given back now; with a code of AGAIN it is not known
   */
  async giveBack() {
    await this.#settle("user_cancelled", "DELETE", this.#path, { headers: this.#owner });
  }

  /** Let the next reserve() be a new order. The fingerprint stays: it proves what was bought. */
  end() {
    this.#storage.removeItem(`order ${this.#event}`);
    this.reservation = null;
  }

  #begin(quantity) {
    this.#storage.setItem(`order ${this.#event}`, JSON.stringify({ quantity, key: token() }));
    return this.order;
  }

  /** Bring it about that the reservation has a status, by however many tries. */
  async #settle(status, method, path, request) {
    try {
      this.reservation = await this.#send(method, path, request);
    } catch (refused) {
      if (!refused.code?.startsWith("ALREADY_")) throw refused;
      const found = await this.#send("GET", this.#path, { headers: this.#owner });
      if (found.status !== status) throw refused;
      this.reservation = found;
    }
  }

  #refuseWhatHasEnded() {
    const code = ENDED[this.reservation.status];
    if (code) throw new Refused(code);
  }

  get #path() {
    return `/reservations/${this.reservation.id}`;
  }

  get #owner() {
    return { "X-User-Fingerprint": this.#fingerprint };
  }

  /** This browser's: whoever knows it can pay, and give back. */
  get #fingerprint() {
    if (!this.#storage.getItem("fingerprint")) this.#storage.setItem("fingerprint", token());
    return this.#storage.getItem("fingerprint");
  }

  /** Send a request until it is answered, and return the answer's body. */
  async #send(method, path, request) {
    const giveUp = performance.now() + PATIENCE_MILLISECONDS;
    for (;;) {
      let refused;
      try {
        return await this.#try(method, path, request);
      } catch (error) {
        // What is no refusal is no answer: the network, the time limit.
        refused = error instanceof Refused ? error : new Refused("OUTCOME_UNKNOWN");
      }
      // Not all at the same moment.
      const pause = refused.retryAfterSeconds * 1000 * (1 + Math.random());
      if (!AGAIN.has(refused.code) || performance.now() + pause > giveUp) throw refused;
      this.#waiting(refused);
      await new Promise((done) => setTimeout(done, pause));
    }
  }

  async #try(method, path, request) {
    const answer = await fetch(this.#service + path, {
      ...request,
      method,
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS),
    });
    // The service's clock: the buyer's may be anything.
    const at = Date.parse(answer.headers.get("Date"));
    if (at) this.#ahead = at + CLOCK_MILLISECONDS - performance.now();
    // What is no JSON, such as a proxy's page, is thrown here, and tells nothing of what was done.
    const told = await answer.json();
    if (answer.ok) return told;
    const after = Number.parseInt(answer.headers.get("Retry-After"), 10);
    throw new Refused(Object.hasOwn(TOLD, told?.code) ? told.code : "OUTCOME_UNKNOWN", after || 1);
  }
}

/**
 * Watch an event: tell is called with it as it is, and whenever it has changed.
 *
 * @param {string} service where it is
 * @param {string} event its id
 * @param {(event: object) => void} tell
 * @returns {() => void} ends it
 */
export function watch(service, event, tell) {
  let source;
  let again;
  const open = () => {
    source = new EventSource(`${service}/events/${event}/stream`);
    source.onmessage = (message) => tell(JSON.parse(message.data));
    // A stream that breaks comes back by itself. One that is refused (BUSY) does not.
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return;
      again = setTimeout(open, STREAM_MILLISECONDS * (1 + Math.random()));
    };
  };
  open();
  return () => {
    clearTimeout(again);
    source.close();
  };
}

/** The history of an event: its counts over time, from a bounded number of requests. */

import { get, serviceTime } from "./api.js";

// The newest versions are read whole, of older ones so many samples.
const NEWEST = 1000;
const SAMPLES = 96;
// Requests at a time: a browser opens six connections to a host, and the stream has one.
const AT_ONCE = 4;
// More points than this are thinned to half: a screen has not so many columns.
const MAX_POINTS = 4000;
// What is newer than this is never thinned, for the tickets sold per minute.
const RECENT_MILLISECONDS = 120_000;
// The part of a chart before the first sale.
const MARGIN = 0.03;

export class History {
  /** Entries of the ledger, by version; what is between two of them may be left out. */
  entries = [];
  #version = 0;

  constructor(id, signal) {
    this.path = `events/${id}/ledger`;
    this.signal = signal;
  }

  async #read(after, limit) {
    const response = await get(this.path, { query: { after, limit }, signal: this.signal });
    return response.ok ? response.body.data : [];
  }

  /**
   * Reads up to a version: the newest entries, then samples of those before them.
   *
   * Yields after each step, so that the newest can be shown at once.
   */
  async *load(version) {
    const first = Math.max(this.#version, version - NEWEST);
    const gap = [this.#version, first];
    this.#add(await this.#read(first, NEWEST));
    yield;
    const step = Math.max(1, Math.ceil((gap[1] - gap[0]) / SAMPLES));
    const samples = [];
    for (let after = gap[0]; after < gap[1]; after += step) samples.push(after);
    while (samples.length && !this.signal.aborted) {
      const parts = await Promise.all(samples.splice(0, AT_ONCE).map((after) => this.#read(after, 1)));
      this.#add(parts.flat());
      if (samples.length % (AT_ONCE * 6) === 0) yield;
    }
  }

  #add(entries) {
    const known = new Set(this.entries.map((entry) => entry.version));
    const added = entries.filter((entry) => !known.has(entry.version));
    if (!added.length) return;
    for (const entry of added) entry.time = Date.parse(entry.recordedAt);
    this.entries = [...this.entries, ...added].sort((left, right) => left.version - right.version);
    this.#version = this.entries.at(-1).version;
    if (this.entries.length > MAX_POINTS) this.#thin();
  }

  /** Keeps the last entry of each of many equal spans of time, and all recent ones. */
  #thin() {
    const [start, end] = [this.entries[0].time, this.entries.at(-1).time];
    const span = (end - start) / (MAX_POINTS / 4) || 1;
    const recent = end - RECENT_MILLISECONDS;
    const bucket = (entry) => Math.floor((entry.time - start) / span);
    this.entries = this.entries.filter((entry, index, all) => {
      const next = all[index + 1];
      return !index || !next || entry.time > recent || bucket(entry) !== bucket(next);
    });
  }

  /** The points of a chart: it begins shortly before the first sale, not when the event was made. */
  get points() {
    const points = this.entries.map((entry) => ({
      time: entry.time,
      total: entry.totalTickets,
      paid: entry.purchasedTickets,
      held: entry.allocatedTickets - entry.purchasedTickets,
    }));
    const first = points.findIndex((point) => point.paid + point.held > 0);
    if (first < 1) return points;
    const before = points[first - 1];
    const margin = (points.at(-1).time - points[first].time) * MARGIN;
    return [{ ...before, time: Math.max(before.time, points[first].time - margin) }, ...points.slice(first)];
  }

  /** Returns how many tickets were paid in the last minute, less those refunded; never below 0. */
  soldPerMinute(paidNow) {
    const from = serviceTime() - 60_000;
    const index = this.entries.findLastIndex((entry) => entry.time <= from);
    if (index === -1) return paidNow;
    const [before, after] = [this.entries[index], this.entries[index + 1]];
    let paid = before.purchasedTickets;
    // Between two samples the sale is taken to have been steady.
    if (after && after.version > before.version + 1) {
      const part = (from - before.time) / (after.time - before.time);
      paid += Math.round(part * (after.purchasedTickets - paid));
    }
    return Math.max(0, paidNow - paid);
  }
}

/** Rests between reads, so that a busy event does not make the page ask without end. */

const REST_MILLISECONDS = 1000;
// A read that took long was a lot of work for the service.
const REST_FACTOR = 10;

/** Returns for how long to rest after a read that began at a time of performance.now(). */
export function restAfter(start, least = REST_MILLISECONDS) {
  return Math.max(least, (performance.now() - start) * REST_FACTOR);
}

/**
 * Returns a function that reads again: at once, or after the rest if a read was not long ago.
 *
 * However often it is called meanwhile, it then reads once.
 */
export function rested(read, signal) {
  let isResting = false;
  let isDue = false;
  return async function readAgain() {
    isDue = isResting;
    if (isResting) return;
    isResting = true;
    const start = performance.now();
    await read();
    setTimeout(() => {
      isResting = false;
      if (isDue && !signal.aborted) readAgain();
    }, restAfter(start));
  };
}

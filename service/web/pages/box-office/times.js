/** Times: in the browser's zone for people, with their offset for the service. */

export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

const DAY = { weekday: "short", day: "numeric", month: "short", year: "numeric" };
const MINUTE = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const dateAndTime = new Intl.DateTimeFormat("en-GB", { ...DAY, ...MINUTE });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const minute = new Intl.DateTimeFormat("en-GB", MINUTE);
const second = new Intl.DateTimeFormat("en-GB", { ...MINUTE, second: "2-digit" });

/** Returns a date and time such as "Tue, 1 Jan 2030, 20:00". */
export function formatDate(text) {
  return dateAndTime.format(new Date(text));
}

export function formatSecond(milliseconds) {
  return second.format(milliseconds);
}

/** Returns a time with seconds, or with its day if it is not of the last twelve hours. */
export function formatRecent(milliseconds) {
  const isRecent = Date.now() - milliseconds < 12 * 3600_000;
  return isRecent ? formatSecond(milliseconds) : `${day.format(milliseconds)}, ${minute.format(milliseconds)}`;
}

/** Returns a short time: with seconds in a span of minutes, a date in one of days. */
export function formatShort(milliseconds, span) {
  const format = span < 10 * 60_000 ? second : span < 36 * 3600_000 ? minute : day;
  return format.format(milliseconds);
}

/** Returns a duration such as "2 h 5 min", in its two largest units. */
export function formatDuration(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  let rest = Math.max(0, Math.round(seconds));
  const first = units.findIndex(([length]) => rest >= length);
  if (first === -1) return "0 s";
  const words = [];
  for (const [length, name] of units.slice(first, first + 2)) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count) words.push(`${count} ${name}`);
  }
  return words.join(" ");
}

/** Returns a time as the value of a datetime-local field; "" for null. */
export function toField(text) {
  if (!text) return "";
  const date = new Date(text);
  const parts = [date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes()];
  const [month, dayOfMonth, hour, minutes] = parts.map((part) => String(part).padStart(2, "0"));
  return `${String(date.getFullYear()).padStart(4, "0")}-${month}-${dayOfMonth}T${hour}:${minutes}`;
}

/** Returns the value of a datetime-local field with its offset; null if there is no such time. */
export function fromField(value) {
  const date = new Date(value);
  // When clocks go forward, an hour is skipped; JavaScript would silently take another.
  if (Number.isNaN(date.getTime()) || toField(date) !== value.slice(0, 16)) return null;
  const minutes = -date.getTimezoneOffset();
  const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  const offset = [hours, rest].map((part) => String(part).padStart(2, "0")).join(":");
  const seconds = value.length === 16 ? ":00" : "";
  return `${value}${seconds}${minutes < 0 ? "-" : "+"}${offset}`;
}

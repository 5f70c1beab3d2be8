/** Values, names and times as a person reads them, in the browser's language and time zone. */

const rounded = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 7, useGrouping: false });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "narrow" });
const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
const dayAndTime = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

const STEPS = [
  ["day", 86_400_000],
  ["hour", 3_600_000],
  ["minute", 60_000],
  ["second", 1_000],
];
const YEAR_MS = 366 * 86_400_000;
const LAST_DATE_MS = 8.64e15; // what a Date can hold

// devices/values.py has the same: controls, surrogates, and what is not seen but moves or hides what is.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffc\ufffe\uffff]/gu;

let serverAhead = 0;

/** Learns the difference between the server's clock and this one; every live message carries the server's time. */
export function learnServerTime(now) {
  serverAhead = now - Date.now();
}

export function serverNow() {
  return Date.now() + serverAhead;
}

/**
 * A reading as text, [ts, value], [ts, value, shown] or [ts, null, shown, bytes]: the shortest text that reads back as
 * the number, as the server writes it too; what the value itself does not say, the server has said in `shown`.
 */
export function formatValue([, value, shown]) {
  return shown ?? String(value);
}

/** A number as charts have it: seven digits are more than there are pixels. */
export function formatRounded(value) {
  const exact = Number.isInteger(value) || !Number.isFinite(value);
  const size = Math.abs(value);
  return exact || (size !== 0 && (size < 1e-4 || size >= 1e9)) ? String(value) : rounded.format(value);
}

/** A key or a name: what is not seen in it as its escape; quoted if it has blanks at its ends. */
export function formatName(name) {
  const visible = name.replace(UNSEEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return /^$|^\p{Zs}|\p{Zs}$/u.test(name) ? `"${visible}"` : visible;
}

export function formatSize(bytes) {
  return bytes < 10_000 ? `${bytes} bytes` : `${Math.round(bytes / 1_000)} kB`;
}

/** "4 s ago" and its like, a date beyond a year; times in the future are what a device's clock says, shown as such. */
export function formatAge(ms, now = serverNow()) {
  const age = now - ms;
  if (Math.abs(age) < 2_000) {
    return "just now";
  }
  if (Math.abs(age) >= YEAR_MS) {
    return isDate(ms) ? day.format(ms) : `${ms} ms`;
  }
  for (const [unit, length] of STEPS) {
    if (Math.abs(age) >= length) {
      return relative.format(-Math.trunc(age / length), unit);
    }
  }
  return "just now";
}

/** How long something has lasted: "for 3 h"; the date on which it began, beyond a year. */
export function formatSince(ms, now = serverNow()) {
  const age = now - ms;
  if (age >= YEAR_MS) {
    return `since ${day.format(ms)}`;
  }
  const [unit, length] = STEPS.find((step) => age >= step[1]) ?? STEPS.at(-1);
  const count = Math.max(0, Math.trunc(age / length));
  return `for ${count} ${{ day: "d", hour: "h", minute: "min", second: "s" }[unit]}`;
}

/** How long, in the largest unit of which there are two or more. */
export function formatDuration(ms) {
  const [unit, length] = [["year", 31_557_600_000], ...STEPS].find((step) => ms >= 2 * step[1]) ?? STEPS.at(-1);
  return `${Math.floor(ms / length)} ${unit}s`;
}

export function formatMoment(ms) {
  return isDate(ms) ? dayAndTime.format(ms) : `${ms} ms`;
}

export function formatClock(ms) {
  return clockTime.format(ms);
}

/** Points a <time> element at a moment; `ageTimes` then keeps its text right. Null means never. */
export function setTime(element, ms) {
  if (ms === null) {
    element.removeAttribute("datetime");
    delete element.dataset.ms;
    setText(element, element.dataset.never ?? "never");
    return;
  }
  if (element.dataset.ms !== String(ms)) {
    element.dataset.ms = ms;
    element.dateTime = isDate(ms) ? new Date(ms).toISOString() : "";
    element.title = formatMoment(ms);
  }
  age(element);
}

/** Refreshes the text of every <time data-ms> below `root`. */
export function ageTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-ms]")) {
    element.title ||= formatMoment(Number(element.dataset.ms));
    age(element);
  }
}

/** Writes only what has changed, so that an idle table costs no layout. */
export function setText(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
    return true;
  }
  return false;
}

function age(element) {
  const format = element.dataset.format === "since" ? formatSince : formatAge;
  setText(element, format(Number(element.dataset.ms)));
}

function isDate(ms) {
  return Math.abs(ms) <= LAST_DATE_MS;
}

/** Values and times as a person reads them, in the browser's language and time zone. */

const decimal = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 7, useGrouping: false });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "narrow" });
const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayAndTime = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

const STEPS = [
  ["day", 86_400_000],
  ["hour", 3_600_000],
  ["minute", 60_000],
  ["second", 1_000],
];

let serverAhead = 0;

/** Learns the difference between the server's clock and this one; every live message carries the server's time. */
export function learnServerTime(now) {
  serverAhead = now - Date.now();
}

export function serverNow() {
  return Date.now() + serverAhead;
}

/** A reading as text: numbers without binary noise, strings as they are, everything else as JSON. */
export function formatValue(value) {
  if (typeof value === "number") {
    const exact = Number.isInteger(value) || !Number.isFinite(value);
    const size = Math.abs(value);
    if (exact || (size !== 0 && (size < 1e-4 || size >= 1e9))) {
      return String(value);
    }
    return decimal.format(value);
  }
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** "4 s ago" and its like; times in the future are what a device's clock says and are shown as such. */
export function formatAge(ms, now = serverNow()) {
  const age = now - ms;
  if (Math.abs(age) < 2_000) {
    return "just now";
  }
  for (const [unit, length] of STEPS) {
    if (Math.abs(age) >= length) {
      return relative.format(-Math.trunc(age / length), unit);
    }
  }
  return "just now";
}

export function formatMoment(ms) {
  return dayAndTime.format(ms);
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
    element.dateTime = new Date(ms).toISOString();
    element.title = formatMoment(ms);
  }
  setText(element, formatAge(ms));
}

/** Refreshes the text of every <time data-ms> below `root`. */
export function ageTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-ms]")) {
    element.title ||= formatMoment(Number(element.dataset.ms));
    setText(element, formatAge(Number(element.dataset.ms)));
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

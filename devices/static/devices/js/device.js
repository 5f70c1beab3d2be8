/** The page of one device: its latest values and charts of its numeric keys. */

import { Chart } from "./chart.js";
import { serverNow, setText, setTime } from "./format.js";
import { Flashes, openLivePage, showClock, showConnected, showName, showValue, valuesOf } from "./page.js";
import { Renderer } from "./render.js";
import { asNumber } from "./series.js";

const CHARTS_AT_FIRST = 3;
const CHARTS_AT_MOST = 8;
const CHOICES_AT_MOST = 24; // what one can look over; of more keys one types a part
const KEYS_TO_SEARCH = 13;
const VALUES_AT_MOST = 500; // as the server has it
const TICK_MS = 1_000;

const root = document.getElementById("device");
const valueTable = document.getElementById("values");
const valueBody = valueTable.querySelector("tbody");
const noValues = document.getElementById("no-values");
const more = document.getElementById("more-keys");
const search = document.getElementById("key-search");
const rowTemplate = document.getElementById("value-row");
const chartTemplate = document.getElementById("chart");
const chartBox = document.getElementById("charts");
const chooser = document.getElementById("keys");
const moreChoices = document.getElementById("more-choices");
const ranges = document.getElementById("ranges");
const badge = root.querySelector(".badge");
const since = document.getElementById("since");
const clock = root.querySelector(".clock-mark");
const lastSeen = document.getElementById("last-seen");

const searched = root.dataset.search; // the keys in this page have these words
const flashes = new Flashes();
const rows = new Map(); // key -> {element, value, time}
const charts = new Map(); // key -> Chart, in the order of the page
const choices = new Map(); // key -> the label with its checkbox
const facts = { connected: badge.dataset.connected === "true", since: null, lastSeen: null, clockSkew: null, more: 0 };
const address = new URLSearchParams(location.search);
let values = new Map(); // key -> [ts, value, ...]
let range = ranges.querySelector("input:checked");
let chosen = address.has("key") ? new Set(address.getAll("key")) : null; // null: not chosen yet

function take(message) {
  if (message.type === "snapshot") {
    takeSnapshot(message);
  } else if (message.type === "readings") {
    const device = message.devices[root.dataset.id];
    if (device) {
      facts.lastSeen = message.now;
      device.readings.forEach(takeReading);
    }
  } else if (message.type === "connection") {
    facts.connected = message.connected;
    facts.since = message.now;
  }
  renderer.request();
}

function takeSnapshot(message) {
  const device = message.devices[0];
  if (device === undefined) {
    location.reload(); // it has been deleted; the server says so
    return;
  }
  facts.connected = device.connected;
  facts.since = device.since;
  facts.lastSeen = device.last_seen;
  facts.clockSkew = device.clock_skew;
  if (facts.more !== device.more) {
    facts.more = device.more;
    filterKeys();
  }
  values = valuesOf(device);
  if (message.gap) {
    charts.forEach((chart) => chart.load(range.value));
  }
}

function takeReading([key, ...reading]) {
  const known = values.get(key);
  const hasRoom = facts.more === 0 && values.size < VALUES_AT_MOST && matches(key, searched);
  if (known === undefined ? hasRoom : reading[0] >= known[0]) {
    values.set(key, reading);
  }
  charts.get(key)?.add(...reading);
}

function draw() {
  showConnected(badge, facts.connected);
  since.hidden = facts.since === null;
  if (facts.since !== null) {
    setTime(since, facts.since);
  }
  setTime(lastSeen, facts.lastSeen);
  showClock(clock, facts.clockSkew);
  const keys = [...values.keys()].sort();
  if (keys.length !== rows.size || keys.some((key) => !rows.has(key))) {
    arrangeRows(keys);
  }
  for (const key of keys) {
    drawRow(rows.get(key), key, values.get(key));
  }
}

function arrangeRows(keys) {
  valueBody.replaceChildren(...keys.map((key) => (rows.get(key) ?? newRow(key)).element));
  for (const key of rows.keys()) {
    if (!values.has(key)) {
      rows.delete(key);
    }
  }
  valueTable.hidden = keys.length === 0;
  noValues.hidden = keys.length !== 0;
  offerKeys(keys.filter((key) => asNumber(values.get(key)[1]) !== null));
  filterKeys();
}

function newRow(key) {
  const element = rowTemplate.content.firstElementChild.cloneNode(true);
  const [name, cell, time] = [".key", ".value", "time"].map((selector) => element.querySelector(selector));
  showName(name, key);
  flashes.watch(element);
  const whole = `${root.dataset.value}?${new URLSearchParams({ key })}`;
  const row = { element, cell, time, whole };
  rows.set(key, row);
  return row;
}

function drawRow({ element, cell, time, whole }, key, reading) {
  if (showValue(cell, reading, whole)) {
    flashes.flash(element, cell);
  }
  setTime(time, reading[0]);
}

// Keys: which are shown, and which can be drawn

/** Whether the key has every word of the text, in upper or lower case. */
function matches(key, text) {
  const folded = key.toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => folded.includes(word));
}

/** Shows the rows and choices whose keys have what is typed; says how many others there are. */
function filterKeys() {
  let shown = 0;
  for (const [key, { element }] of rows) {
    element.hidden = !matches(key, search.value);
    shown += element.hidden ? 0 : 1;
  }
  const others = rows.size - shown;
  search.form.hidden = rows.size < KEYS_TO_SEARCH && facts.more === 0 && searched === "" && search.value === "";
  setText(
    more,
    facts.more > 0
      ? `${rows.size} of ${rows.size + facts.more} keys are here. Search finds the others.`
      : others > 0
        ? `${shown} of ${rows.size} keys.`
        : "",
  );
  let offered = 0;
  let left = 0;
  for (const [key, label] of choices) {
    const asked = matches(key, search.value);
    const isOffered = label.firstElementChild.checked || (asked && offered < CHOICES_AT_MOST);
    offered += isOffered ? 1 : 0;
    left += asked && !isOffered ? 1 : 0;
    label.hidden = !isOffered;
  }
  setText(moreChoices.querySelector(".label"), `and ${left} more.`);
  moreChoices.hidden = left === 0;
}

/** Makes a checkbox for each numeric key; without a choice in the address, some that have something to draw. */
function offerKeys(keys) {
  chosen ??= new Set(worthDrawing(keys).slice(0, CHARTS_AT_FIRST));
  for (const key of keys) {
    if (!choices.has(key)) {
      const label = newChoice(key);
      choices.set(key, label);
      chooser.append(label);
    }
  }
  chooser.closest("fieldset").hidden = choices.size < 2;
  document.getElementById("history").hidden = choices.size === 0;
  arrangeCharts();
}

/** Numbers that came within the range, before booleans, before what there would be nothing to see of. */
function worthDrawing(keys) {
  const start = serverNow() - Number(range.dataset.ms);
  const recent = keys.filter((key) => values.get(key)[0] >= start);
  const numbers = recent.filter((key) => typeof values.get(key)[1] === "number");
  return [numbers, recent, keys].find((some) => some.length > 0) ?? [];
}

function newChoice(key) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  const name = document.createElement("span");
  label.className = "chip";
  box.type = "checkbox";
  box.checked = chosen.has(key);
  showName(name, key);
  label.append(box, name);
  return label;
}

function arrangeCharts() {
  const wanted = [...choices.keys()].filter((key) => choices.get(key).firstElementChild.checked).slice(0, CHARTS_AT_MOST);
  for (const label of choices.values()) {
    const box = label.firstElementChild;
    box.disabled = !box.checked && wanted.length >= CHARTS_AT_MOST;
  }
  for (const [key, chart] of charts) {
    if (!wanted.includes(key)) {
      chart.remove();
      charts.delete(key);
    }
  }
  for (const key of wanted) {
    if (!charts.has(key)) {
      const chart = new Chart(chartTemplate, root.dataset.history, key);
      charts.set(key, chart);
      chartBox.append(chart.element);
      chart.load(range.value);
    }
  }
}

function rememberInAddress() {
  const query = new URLSearchParams({ range: range.value });
  if (searched !== "") {
    query.set("q", searched);
  }
  chosen.forEach((key) => query.append("key", key));
  history.replaceState(null, "", `?${query}`);
}

chooser.addEventListener("change", () => {
  chosen = new Set([...choices.keys()].filter((key) => choices.get(key).firstElementChild.checked));
  arrangeCharts();
  filterKeys();
  rememberInAddress();
});
ranges.addEventListener("change", (event) => {
  range = event.target;
  search.form.elements.range.value = range.value;
  charts.forEach((chart) => chart.load(range.value));
  rememberInAddress();
});
search.addEventListener("input", filterKeys);
moreChoices.querySelector("a").addEventListener("click", () => search.focus());
search.form.addEventListener("submit", (event) => {
  // All keys are here: what is typed has been found already.
  if (facts.more === 0 && searched === "") {
    event.preventDefault();
  }
});
setInterval(() => charts.forEach((chart) => chart.tick()), TICK_MS);

const renderer = new Renderer(draw, 250);
openLivePage(root, take);

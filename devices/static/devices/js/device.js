/** The page of one device: its latest values and charts of its numeric keys. */

import { Chart } from "./chart.js";
import { formatValue, setText, setTime } from "./format.js";
import { flash, openLivePage, showConnected } from "./page.js";
import { Renderer } from "./render.js";
import { asNumber } from "./series.js";

const CHARTS_AT_FIRST = 3;
const CHARTS_AT_MOST = 8;
const TICK_MS = 1_000;

const root = document.getElementById("device");
const valueTable = document.getElementById("values");
const valueBody = valueTable.querySelector("tbody");
const noValues = document.getElementById("no-values");
const rowTemplate = document.getElementById("value-row");
const chartTemplate = document.getElementById("chart");
const chartBox = document.getElementById("charts");
const chooser = document.getElementById("keys");
const ranges = document.getElementById("ranges");
const badge = root.querySelector(".badge");
const lastSeen = document.getElementById("last-seen");

const values = new Map(); // key -> [ts, value]
const rows = new Map(); // key -> {element, value, time}
const charts = new Map(); // key -> Chart, in the order of the page
const facts = { connected: badge.dataset.connected === "true", lastSeen: null };
const address = new URLSearchParams(location.search);
let range = ranges.querySelector("input:checked").value;
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
  facts.lastSeen = device.last_seen;
  for (const [key, reading] of Object.entries(device.values)) {
    values.set(key, reading); // also one of an earlier time: a clock may have been put back
  }
  if (message.gap) {
    charts.forEach((chart) => chart.load(range));
  }
}

function takeReading([key, ts, value]) {
  keepNewest(key, ts, value);
  charts.get(key)?.add(ts, value);
}

function keepNewest(key, ts, value) {
  const known = values.get(key);
  if (known === undefined || ts >= known[0]) {
    values.set(key, [ts, value]);
  }
}

function draw() {
  showConnected(badge, facts.connected);
  setTime(lastSeen, facts.lastSeen);
  const keys = [...values.keys()].sort();
  if (keys.length !== rows.size) {
    valueBody.replaceChildren(...keys.map((key) => (rows.get(key) ?? newRow(key)).element));
    valueTable.hidden = false;
    noValues.hidden = true;
    offerKeys(keys.filter((key) => asNumber(values.get(key)[1]) !== null));
  }
  for (const key of keys) {
    drawRow(rows.get(key), ...values.get(key));
  }
}

function newRow(key) {
  const element = rowTemplate.content.firstElementChild.cloneNode(true);
  setText(element.querySelector("th"), key);
  const row = { element, value: element.querySelector(".value"), time: element.querySelector("time") };
  rows.set(key, row);
  return row;
}

function drawRow(row, ts, value) {
  const first = row.value.textContent === "";
  if (setText(row.value, formatValue(value)) && !first) {
    flash(row.value);
  }
  row.value.classList.toggle("text", typeof value !== "number");
  setTime(row.time, ts);
}

/** Makes a checkbox for each numeric key; without a choice in the address the first few are shown. */
function offerKeys(keys) {
  const numbers = keys.filter((key) => typeof values.get(key)[1] === "number");
  chosen ??= new Set((numbers.length > 0 ? numbers : keys).slice(0, CHARTS_AT_FIRST));
  for (const key of keys) {
    if (!chooser.querySelector(`input[value="${CSS.escape(key)}"]`)) {
      chooser.append(newChoice(key));
    }
  }
  chooser.closest("fieldset").hidden = keys.length < 2;
  document.getElementById("history").hidden = keys.length === 0;
  arrangeCharts();
}

function newChoice(key) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  const name = document.createElement("span");
  label.className = "chip";
  box.type = "checkbox";
  box.value = key;
  box.checked = chosen.has(key);
  name.textContent = key;
  label.append(box, name);
  return label;
}

function arrangeCharts() {
  const boxes = [...chooser.querySelectorAll("input")];
  const wanted = boxes.filter((box) => box.checked).map((box) => box.value).slice(0, CHARTS_AT_MOST);
  for (const box of boxes) {
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
      chart.load(range);
    }
  }
}

function rememberInAddress() {
  const query = new URLSearchParams({ range });
  chosen.forEach((key) => query.append("key", key));
  history.replaceState(null, "", `?${query}`);
}

chooser.addEventListener("change", () => {
  chosen = new Set([...chooser.querySelectorAll("input:checked")].map((box) => box.value));
  arrangeCharts();
  rememberInAddress();
});
ranges.addEventListener("change", (event) => {
  range = event.target.value;
  charts.forEach((chart) => chart.load(range));
  rememberInAddress();
});
setInterval(() => charts.forEach((chart) => chart.tick()), TICK_MS);

const renderer = new Renderer(draw, 250);
openLivePage(root, take);

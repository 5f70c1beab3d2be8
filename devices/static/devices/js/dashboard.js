/** The page of devices: rows filled from snapshots, kept current by readings, drawn at most four times a second. */

import { setText, setTime } from "./format.js";
import { Flashes, openLivePage, showClock, showConnected, showName, showValue, valuesOf } from "./page.js";
import { Renderer } from "./render.js";

const SHOWN_KEYS = 6;

const table = document.getElementById("devices");
const body = table.querySelector("tbody");
const template = document.getElementById("device-row");
const empty = document.getElementById("no-devices");
const count = document.getElementById("device-count");
const moved = document.getElementById("moved");
const flashes = new Flashes();
const rows = new Map(); // device id -> {element, device, values, cells}
let wanted = null; // the rows of the last snapshot in their order, until they are drawn
const changed = new Set();

function take(message) {
  if (message.type === "snapshot") {
    takeSnapshot(message);
  } else if (message.type === "readings") {
    for (const [id, { readings }] of Object.entries(message.devices)) {
      takeReadings(rows.get(Number(id)), readings, message.now);
    }
  } else if (message.type === "connection") {
    const row = rows.get(message.id);
    if (row) {
      row.device.connected = message.connected;
      changed.add(row);
    }
  }
  renderer.request();
}

function takeSnapshot(message) {
  wanted = message.devices.map((device) => {
    const row = rows.get(device.id) ?? newRow(device.id);
    row.device = device;
    row.values = valuesOf(device);
    changed.add(row);
    return row;
  });
  const kept = new Set([...wanted.map((row) => row.element), ...body.children]);
  for (const [id, row] of rows) {
    if (!kept.has(row.element)) {
      rows.delete(id);
    }
  }
  setText(count, String(message.total));
}

function takeReadings(row, readings, now) {
  if (row === undefined) {
    return;
  }
  const { device, values } = row;
  device.last_seen = now;
  for (const [key, ...reading] of readings) {
    const known = values.get(key);
    if (known === undefined ? values.size < SHOWN_KEYS : reading[0] >= known[0]) {
      values.set(key, reading);
    } else if (known === undefined) {
      device.more = Math.max(device.more, 1);
    }
  }
  changed.add(row);
}

function newRow(id) {
  const drawn = body.querySelector(`[data-device="${id}"]`); // by the server, in the page as it was loaded
  const element = drawn ?? template.content.firstElementChild.cloneNode(true);
  element.dataset.device = id;
  flashes.watch(element);
  const row = { element, device: null, values: new Map(), cells: new Map() };
  rows.set(id, row);
  return row;
}

function draw() {
  if (wanted !== null) {
    arrange();
  }
  for (const row of changed) {
    drawRow(row);
  }
  changed.clear();
}

/** Puts the rows in their order, unless somebody points at one or has moved to one by keyboard: then they stay. */
function arrange() {
  const shown = [...body.children];
  const away = wanted.filter((row, i) => shown[i] !== row.element).length;
  if (away > 0 && shown.length > 0 && isHeld()) {
    setText(moved.querySelector(".label"), `${away} ${away === 1 ? "row has" : "rows have"} moved.`);
    moved.hidden = false;
    return;
  }
  moved.hidden = true;
  if (away > 0 || shown.length !== wanted.length) {
    body.replaceChildren(...wanted.map((row) => row.element));
  }
  table.hidden = wanted.length === 0;
  empty.hidden = wanted.length !== 0;
  wanted = null;
}

function isHeld() {
  return body.matches(":hover") || body.contains(document.activeElement);
}

function letGo() {
  if (wanted !== null && !isHeld()) {
    renderer.request();
  }
}

function drawRow({ element, device, values, cells }) {
  const name = element.querySelector(".device-name");
  name.href = `/devices/${device.id}/`;
  showName(name, device.name);
  showName(element.querySelector(".device-type"), device.type);
  element.querySelector(".disabled-mark").hidden = device.enabled;
  showClock(element.querySelector(".clock-mark"), device.clock_skew);
  showConnected(element.querySelector(".badge"), device.connected);
  setTime(element.querySelector("time"), device.last_seen);
  drawValues(element, device, values, cells);
}

function drawValues(element, device, values, cells) {
  const list = element.querySelector(".values");
  const keys = [...values.keys()].sort();
  if (keys.length !== cells.size || keys.some((key) => !cells.has(key))) {
    cells.clear();
    list.replaceChildren(...keys.map((key) => newValue(key, cells)));
  }
  for (const key of keys) {
    const cell = cells.get(key);
    if (showValue(cell, values.get(key))) {
      flashes.flash(element, cell.parentElement);
    }
  }
  const more = list.parentElement.querySelector(".more");
  setText(more, device.more > 0 ? `and ${device.more} more` : keys.length === 0 ? "No readings yet" : "");
}

function newValue(key, cells) {
  const item = document.createElement("li");
  const label = document.createElement("span");
  const value = document.createElement("span");
  label.className = "key";
  showName(label, key);
  value.className = "value";
  item.append(label, value);
  cells.set(key, value);
  return item;
}

const renderer = new Renderer(draw, 250);
body.addEventListener("pointerleave", letGo);
body.addEventListener("focusout", () => setTimeout(letGo)); // the next element has the focus only then
moved.querySelector("button").addEventListener("click", () => {
  document.activeElement.blur();
  renderer.request();
});
openLivePage(table, take);

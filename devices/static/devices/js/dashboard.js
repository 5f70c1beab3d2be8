/** The page of devices: rows filled from snapshots, kept current by readings, drawn at most four times a second. */

import { formatValue, setText, setTime } from "./format.js";
import { flash, openLivePage, showConnected } from "./page.js";
import { Renderer } from "./render.js";

const SHOWN_KEYS = 6;

const table = document.getElementById("devices");
const body = table.querySelector("tbody");
const template = document.getElementById("device-row");
const empty = document.getElementById("no-devices");
const count = document.getElementById("device-count");
const rows = new Map(); // device id -> {element, device, cells}
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
    changed.add(row);
    return row;
  });
  const shown = new Set(wanted.map((row) => row.device.id));
  for (const id of rows.keys()) {
    if (!shown.has(id)) {
      rows.delete(id);
    }
  }
  setText(count, String(message.total));
}

function takeReadings(row, readings, now) {
  if (row === undefined) {
    return;
  }
  const { device } = row;
  device.last_seen = now;
  for (const [key, ts, value] of readings) {
    const known = device.values[key];
    if (known === undefined ? Object.keys(device.values).length < SHOWN_KEYS : ts >= known[0]) {
      device.values[key] = [ts, value];
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
  const row = { element, device: null, cells: new Map() };
  rows.set(id, row);
  return row;
}

function draw() {
  if (wanted !== null) {
    const elements = wanted.map((row) => row.element);
    if (elements.length !== body.children.length || elements.some((element, i) => body.children[i] !== element)) {
      body.replaceChildren(...elements);
    }
    table.hidden = elements.length === 0;
    empty.hidden = elements.length !== 0;
    wanted = null;
  }
  for (const row of changed) {
    drawRow(row);
  }
  changed.clear();
}

function drawRow({ element, device, cells }) {
  const name = element.querySelector(".device-name");
  name.href = `/devices/${device.id}/`;
  setText(name, device.name);
  setText(element.querySelector(".device-type"), device.type);
  element.querySelector(".disabled-mark").hidden = device.enabled;
  showConnected(element.querySelector(".badge"), device.connected);
  setTime(element.querySelector("time"), device.last_seen);
  drawValues(element.querySelector(".values"), device, cells);
}

function drawValues(list, device, cells) {
  const keys = Object.keys(device.values).sort();
  if (keys.length !== cells.size || keys.some((key) => !cells.has(key))) {
    cells.clear();
    list.replaceChildren(...keys.map((key) => newValue(key, cells)));
  }
  for (const key of keys) {
    const cell = cells.get(key);
    const text = formatValue(device.values[key][1]);
    const first = cell.textContent === "";
    if (setText(cell, text)) {
      cell.title = text;
      if (!first) {
        flash(cell.parentElement);
      }
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
  label.textContent = key;
  label.title = key;
  value.className = "value";
  item.append(label, value);
  cells.set(key, value);
  return item;
}

const renderer = new Renderer(draw, 250);
for (const select of document.querySelectorAll("#filter select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
openLivePage(table, take);

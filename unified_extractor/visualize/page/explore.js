"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const MARGIN = 0.06; // of the photograph, around it: taps outside the image are seen
const STOPS = [[33, 102, 172], [103, 169, 207], [247, 247, 247], [239, 138, 98], [178, 24, 43]]; // ColorBrewer's RdBu
const state = { y: 0.5, x: 0.5, layer: 0, group: 0, field: false };
const picture = new Image();
const byId = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// ---- the windows, as interactive_page.py stores them

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

function decode(layer) {
  const taps = layer.kernel[0] * layer.kernel[1];
  for (const group of layer.groups) {
    group.centers = new Float32Array(bytes(group.centers));
    group.taps = new Int16Array(bytes(group.taps));
    group.scales = new Float32Array(bytes(group.scales));
    group.weights = new Int8Array(bytes(group.weights));
    const scales = Array.from(group.scales).sort((a, b) => a - b);
    group.limit = scales[Math.floor(0.95 * (scales.length - 1))] || 1; // one color scale for all windows, outliers aside
    const reaches = [];
    for (let start = 0; start < group.taps.length; start += 2 * taps) {
      const steps = group.taps.subarray(start, start + 2 * taps).filter((step) => step !== data.nowhere);
      reaches.push(steps.reduce((most, step) => Math.max(most, Math.abs(step)), 0) / data.steps);
    }
    reaches.sort((a, b) => a - b);
    group.reach = reaches[Math.floor(0.95 * (reaches.length - 1))];
  }
  if (layer.field) layer.field.values = new Uint8Array(bytes(layer.field.values));
}

const nearest = (values, wanted) =>
  values.reduce((best, value, index) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? index : best), 0);

const place = (rows, columns, output) =>
  [nearest(rows, Math.floor(state.y * output[0])), nearest(columns, Math.floor(state.x * output[1]))];

// Rows and columns in fractions of the photograph.
function readWindow(layer, group) {
  const [i, j] = place(layer.rows, layer.columns, layer.output);
  const index = i * layer.columns.length + j;
  const taps = layer.kernel[0] * layer.kernel[1];
  const at = (values, size) => (values.length === size ? 0 : index * size);
  const [shape, share] = [at(group.taps, 2 * taps), at(group.weights, taps)];
  const scale = group.scales[at(group.scales, 1)];
  const position = (k, axis) => {
    const step = group.taps[shape + 2 * k + axis];
    return step === data.nowhere ? NaN : group.centers[2 * index + axis] + step / data.steps;
  };
  const points = Array.from({ length: taps }, (_, k) => {
    const [row, column] = [position(k, 0), position(k, 1)];
    const inside = row > -1 && column > -1 && row < layer.input[0] && column < layer.input[1];
    return {
      row, column, inside, weight: (group.weights[share + k] / 127) * scale,
      y: (row + 0.5) / layer.input[0], x: (column + 0.5) / layer.input[1],
    };
  });
  return { row: layer.rows[i], column: layer.columns[j], points };
}

// ---- drawing

function color(value) {
  const at = (clamp(value, -1, 1) + 1) * 2;
  const stop = Math.min(Math.floor(at), 3);
  return `rgb(${STOPS[stop].map((low, c) => Math.round(low + (STOPS[stop + 1][c] - low) * (at - stop)))})`;
}

function context(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = pen.createPattern(hatch(), "repeat");
  pen.fillRect(0, 0, width, height);
  return [pen, width, height];
}

function hatch() {
  const tile = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
  const pen = tile.getContext("2d");
  pen.strokeStyle = "rgba(128, 136, 148, 0.35)";
  for (const shift of [-8, 0, 8]) {
    pen.moveTo(shift, 8);
    pen.lineTo(shift + 8, 0);
  }
  pen.stroke();
  return tile;
}

function dots(pen, points, limit, toCanvas, largest) {
  const order = [...points].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)); // small ones above large ones
  for (const point of order.filter((point) => Number.isFinite(point.y))) {
    const [x, y] = toCanvas(point);
    const radius = Math.max(largest * Math.sqrt(Math.min(Math.abs(point.weight) / limit, 1.2)), 1.1);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fillStyle = color(point.weight / limit);
    pen.fill();
    pen.lineWidth = Math.min(1, 0.4 + radius / 8);
    pen.strokeStyle = "rgba(0, 0, 0, 0.75)";
    pen.stroke();
  }
}

function drawShade(pen, layer, x, y, width, height) {
  const field = layer.field;
  const [i, j] = place(field.rows, field.columns, layer.output);
  const [rows, columns] = field.size;
  const start = (i * field.columns.length + j) * rows * columns;
  const shade = new ImageData(columns, rows);
  for (let k = 0; k < rows * columns; k++) shade.data[4 * k + 3] = 190 * (1 - field.values[start + k] / 255);
  const small = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  small.getContext("2d").putImageData(shade, 0, 0);
  pen.drawImage(small, x, y, width, height);
  pen.beginPath(); // the place whose field this is
  pen.arc(x + ((field.columns[j] + 0.5) / layer.output[1]) * width, y + ((field.rows[i] + 0.5) / layer.output[0]) * height, 4, 0, 2 * Math.PI);
  pen.lineWidth = 1.5;
  pen.strokeStyle = "white";
  pen.stroke();
}

function drawPhotograph(panel, layer, group, reading) {
  const [pen, width, height] = context(panel.photograph);
  const [left, top] = [(width * MARGIN) / (1 + 2 * MARGIN), (height * MARGIN) / (1 + 2 * MARGIN)];
  const [w, h] = [width - 2 * left, height - 2 * top];
  pen.imageSmoothingEnabled = data.size[1] > 100; // small images are shown pixel by pixel
  pen.drawImage(picture, left, top, w, h);
  pen.imageSmoothingEnabled = true;
  if (state.field && layer.field) drawShade(pen, layer, left, top, w, h);
  const spacing = Math.min(w / layer.input[1], h / layer.input[0]);
  const toCanvas = (point) => [clamp(left + point.x * w, 2, width - 2), clamp(top + point.y * h, 2, height - 2)];
  dots(pen, reading.points, group.limit, toCanvas, clamp(0.42 * spacing, 1.6, 9));
  const { row, column, reach } = enlargedPart(layer, group, reading);
  const corner = [left + ((column + 0.5 - reach) / layer.input[1]) * w, top + ((row + 0.5 - reach) / layer.input[0]) * h];
  const sides = [((2 * reach) / layer.input[1]) * w, ((2 * reach) / layer.input[0]) * h];
  for (const [line, tone] of [[3.5, "rgba(0, 0, 0, 0.7)"], [1.6, "white"]]) {
    pen.lineWidth = line;
    pen.strokeStyle = tone;
    pen.strokeRect(...corner, ...sides);
  }
}

// The square around a window that the enlarged picture shows, in pixels of the layer's input.
function enlargedPart(layer, group, reading) {
  const index = layer.rows.indexOf(reading.row) * layer.columns.length + layer.columns.indexOf(reading.column);
  return { row: group.centers[2 * index], column: group.centers[2 * index + 1], reach: group.reach + 1 };
}

function drawEnlarged(panel, layer, group, reading) {
  const [pen, width] = context(panel.enlarged);
  const { row, column, reach } = enlargedPart(layer, group, reading);
  const scale = width / (2 * reach); // canvas pixels of a pixel of the layer's input
  const size = [layer.input[1] * scale, layer.input[0] * scale];
  const corner = [width / 2 - (column + 0.5) * scale, width / 2 - (row + 0.5) * scale];
  pen.imageSmoothingEnabled = data.size[1] > 100;
  pen.drawImage(picture, ...corner, ...size);
  pen.fillStyle = "rgba(255, 255, 255, 0.3)"; // dots stand out
  pen.fillRect(...corner, ...size);
  const toCanvas = (point) => [corner[0] + point.x * size[0], corner[1] + point.y * size[1]];
  const apart = (2 * group.reach * scale) / Math.max(layer.kernel[0], layer.kernel[1]);
  dots(pen, reading.points, group.limit, toCanvas, clamp(0.45 * apart, 3, 0.2 * width));
}

function drawKernel(panel, layer, group, reading) {
  const [pen, width] = context(panel.kernel);
  const [rows, columns] = layer.kernel;
  const cell = width / Math.max(rows, columns);
  const [left, top] = [(width - columns * cell) / 2, (width - rows * cell) / 2];
  reading.points.forEach((point, k) => {
    const [i, j] = [Math.floor(k / columns), k % columns];
    const [x, y] = [Math.round(left + j * cell), Math.round(top + i * cell)];
    pen.fillStyle = color(point.weight / group.limit);
    pen.fillRect(x, y, Math.round(left + (j + 1) * cell) - x, Math.round(top + (i + 1) * cell) - y);
  });
}

// ---- words

const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(3);

function tell(panel, layer, group, reading, layers) {
  const number = layers.indexOf(layer) + 1;
  panel.kind.textContent =
    `layer ${number} of ${layers.length}, ${layer.name}: ${layer.kernel.join("×")} taps on ${layer.input.join("×")}, ` +
    `group ${group.number + 1} of ${layer.groupCount}`;
  const largest = reading.points.reduce((best, point) => (Math.abs(point.weight) > Math.abs(best.weight) ? point : best));
  const outside = reading.points.filter((point) => !point.inside).length;
  panel.reading.textContent =
    `window ${reading.row}, ${reading.column}: largest weight ${signed(largest.weight)} at row ${largest.row.toFixed(2)}, ` +
    `column ${largest.column.toFixed(2)}; ${outside} of ${reading.points.length} taps outside. Colors: ±${group.limit.toPrecision(2)}`;
}

// ---- state

const counts = () => {
  const layers = Math.max(...data.panels.map((panel) => panel.layers.length));
  const groups = Math.max(...data.panels.map((panel) => layerOf(panel).groups.length));
  return { layers, groups };
};
const layerOf = (panel) => panel.layers[Math.min(state.layer, panel.layers.length - 1)];

function draw() {
  state.layer = clamp(state.layer, 0, counts().layers - 1);
  state.group = clamp(state.group, 0, counts().groups - 1);
  byId("layer").textContent = `layer ${state.layer + 1} / ${counts().layers}`;
  byId("group").textContent = `group ${state.group + 1} / ${counts().groups}`;
  byId("field").checked = state.field;
  for (const panel of data.panels) {
    const layer = layerOf(panel);
    const group = layer.groups[Math.min(state.group, layer.groups.length - 1)];
    const reading = readWindow(layer, group);
    drawPhotograph(panel, layer, group, reading);
    drawEnlarged(panel, layer, group, reading);
    drawKernel(panel, layer, group, reading);
    tell(panel, layer, group, reading, panel.layers);
  }
}

let saving = 0;

function change(changes) {
  Object.assign(state, changes);
  state.y = clamp(state.y, 0, 0.9999);
  state.x = clamp(state.x, 0, 0.9999);
  draw();
  clearTimeout(saving); // browsers refuse many changes of the address in a short time
  saving = setTimeout(() => history.replaceState(null, "", address()), 300);
}

const address = () =>
  `#y=${state.y.toFixed(4)}&x=${state.x.toFixed(4)}&layer=${state.layer}&group=${state.group}&field=${Number(state.field)}`;

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (given.has(name) && Number.isFinite(Number(given.get(name))) ? Number(given.get(name)) : Number(state[name]));
  change({ y: number("y"), x: number("x"), layer: Math.round(number("layer")), group: Math.round(number("group")), field: number("field") > 0 });
}

const step = (axis) => 1 / Math.max(...data.panels.map((panel) => layerOf(panel).output[axis]));

const KEYS = {
  ArrowUp: () => change({ y: state.y - step(0) }),
  ArrowDown: () => change({ y: state.y + step(0) }),
  ArrowLeft: () => change({ x: state.x - step(1) }),
  ArrowRight: () => change({ x: state.x + step(1) }),
  "[": () => change({ layer: state.layer - 1 }),
  "]": () => change({ layer: state.layer + 1 }),
  ",": () => change({ group: state.group - 1 }),
  ".": () => change({ group: state.group + 1 }),
  f: () => change({ field: !state.field }),
};

function press(event) {
  const action = KEYS[event.key] || KEYS[event.key.toLowerCase()];
  if (!action || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  action();
}

function point(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const inner = (at, start, length) => (((at - start) / length) * (1 + 2 * MARGIN) - MARGIN);
  change({ y: inner(event.clientY, box.top, box.height), x: inner(event.clientX, box.left, box.width) });
}

// ---- the page

function make(tag, className, parent) {
  const element = Object.assign(document.createElement(tag), { className });
  parent.append(element);
  return element;
}

function build(panel) {
  panel.layers.forEach(decode);
  const section = make("section", "", byId("panels"));
  make("h2", "", section).textContent = panel.name;
  panel.kind = make("p", "kind", section);
  panel.photograph = make("canvas", "photograph", section);
  panel.photograph.style.aspectRatio = `${data.size[1]} / ${data.size[0]}`;
  panel.photograph.tabIndex = 0;
  const details = make("div", "details", section);
  panel.enlarged = make("canvas", "", details);
  panel.kernel = make("canvas", "", details);
  panel.reading = make("p", "reading", section);
  const labels = { photograph: "the photograph with the taps of a window", enlarged: "the window, enlarged", kernel: "the window's kernel" };
  for (const [name, label] of Object.entries(labels)) {
    panel[name].setAttribute("role", "img");
    panel[name].setAttribute("aria-label", `${panel.name}: ${label}`);
  }
  panel.photograph.addEventListener("pointermove", point);
  panel.photograph.addEventListener("pointerdown", point);
}

data.panels.forEach(build);
const hasFields = data.panels.some((panel) => panel.layers.some((layer) => layer.field));
for (const element of document.querySelectorAll(".of-fields")) element.hidden = !hasFields;
for (const [id, key] of [["layer-back", "["], ["layer-on", "]"], ["group-back", ","], ["group-on", "."]]) byId(id).addEventListener("click", KEYS[key]);
byId("field").addEventListener("change", (event) => change({ field: event.target.checked }));
document.addEventListener("keydown", press);
window.addEventListener("hashchange", readAddress);
window.addEventListener("resize", draw);
picture.addEventListener("load", draw);
picture.src = data.picture;
readAddress();

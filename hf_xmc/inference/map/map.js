// Draws the labels on a canvas, all of them as points and as many names as there is room for.
const SIDE = 65535; // places along each side of the map
const CELLS = 256; // a grid over the map, in which the nearest label is found
const NAMES = 60; // names that are drawn at most
const RINGS = 5000; // labels found that are marked on the map, the shortest names first
const SHOWN = 30; // labels that a search lists
const FAR = 14; // pixels within which a label is hit

const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("canvas"), ink = canvas.getContext("2d");
const [words, here, count, results] = ["words", "here", "count", "results"].map((id) => document.getElementById(id));
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const places = new Uint16Array(bytes(data.places).buffer), regions = bytes(data.regions);
const n = regions.length;
const values = new Map(data.found.map((label) => [label.row, label.value]));
let names = [], uids = [], plain = []; // filled once they are unpacked
let byLength = Uint32Array.from({ length: n }, (_, i) => i); // short names are general ones and come first
let view = { x: SIDE / 2, y: SIDE / 2, scale: 1 }; // the middle of the window, and how much larger than the whole map
let size = { width: 1, height: 1, unit: 1 }; // in CSS pixels; unit: of the whole map, pixels per step
let selected = -1, matches = null, region = -1, waiting = false;

async function unpack(text) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// labels by region, so that each colour is set once; and by cell of the grid

function sorted(keys, number) {
  const start = new Uint32Array(number + 1), items = new Uint32Array(n);
  for (let i = 0; i < n; i++) start[keys(i) + 1]++;
  for (let key = 0; key < number; key++) start[key + 1] += start[key];
  const next = start.slice();
  for (let i = 0; i < n; i++) items[next[keys(i)]++] = i;
  return { start, items };
}
const cellOf = (step) => Math.min(CELLS - 1, Math.floor((step / (SIDE + 1)) * CELLS));
const cells = sorted((i) => cellOf(places[2 * i + 1]) * CELLS + cellOf(places[2 * i]), CELLS * CELLS);
const groups = sorted((i) => regions[i], data.regionNames.length);
const middles = data.regionNames.map((_, group) => {
  const rows = groups.items.subarray(groups.start[group], groups.start[group + 1]);
  const middle = (axis) => Array.from(rows, (i) => places[2 * i + axis]).sort((a, b) => a - b)[rows.length >> 1];
  return rows.length ? [middle(0), middle(1)] : null;
});

// drawing

const pixel = () => size.unit * view.scale; // pixels per step
const x = (step) => size.width / 2 + (step - view.x) * pixel();
const y = (step) => size.height / 2 + (step - view.y) * pixel();
const at = (i) => [x(places[2 * i]), y(places[2 * i + 1])];
const inside = (px, py) => px > -9 && py > -9 && px < size.width + 9 && py < size.height + 9;

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

function draw() {
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
  const dots = window.devicePixelRatio || 1;
  canvas.width = Math.round(size.width * dots);
  canvas.height = Math.round(size.height * dots);
  ink.setTransform(dots, 0, 0, dots, 0, 0);
  const room = Math.sqrt((size.unit * SIDE) ** 2 / n); // between labels, on the whole map
  const radius = Math.min(5, Math.max(0.8, room * 0.3 * Math.sqrt(view.scale)));
  const paper = rgb(colour("--paper"));
  const colours = data.regionNames.map((_, group) => {
    const share = matches || (region >= 0 && region !== group) ? 0.3 : 0.9; // what does not matter is pale
    return rgb(colour(`--r${group}`)).map((value, i) => Math.round(share * value + (1 - share) * paper[i]));
  });
  if (radius < 1.6) drawPixels(colours, paper, Math.max(1, Math.round(2 * radius * dots)), dots);
  else drawDots(colours, paper, radius);
  const taken = [];
  if (matches) for (const i of matches.subarray(0, RINGS)) ring(i, Math.max(radius + 1, 3), colour("--ink"), 1.5);
  if (data.text) drawText(colour, taken, radius);
  if (selected >= 0) { ring(selected, radius + 5, colour("--ink"), 3); label(selected, colour, taken, true); }
  if (view.scale < 3) drawRegions(colour, taken);
  drawNames(colour, taken);
}

// red, green and blue of a colour of the stylesheet, #rgb or #rrggbb
function rgb(colour) {
  ink.fillStyle = colour;
  return [1, 3, 5].map((start) => parseInt(ink.fillStyle.slice(start, start + 2), 16));
}

// many small points: a hundred thousand of them take a few milliseconds as pixels, and half a second as shapes
function drawPixels(colours, paper, side, dots) {
  const picture = ink.createImageData(canvas.width, canvas.height), { width, height } = picture;
  const pixels = new Uint32Array(picture.data.buffer), word = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r;
  pixels.fill(word(paper));
  const scale = pixel() * dots, left = (size.width * dots) / 2 - view.x * scale - side / 2;
  const top = (size.height * dots) / 2 - view.y * scale - side / 2;
  const words = colours.map(word);
  for (const i of groups.items) {
    const px = Math.round(left + places[2 * i] * scale), py = Math.round(top + places[2 * i + 1] * scale);
    if (px < 0 || py < 0 || px + side > width || py + side > height) continue;
    for (let row = py; row < py + side; row++) pixels.fill(words[regions[i]], row * width + px, row * width + px + side);
  }
  ink.putImageData(picture, 0, 0);
}

function drawDots(colours, paper, radius) {
  ink.fillStyle = `rgb(${paper})`;
  ink.fillRect(0, 0, size.width, size.height);
  colours.forEach((colour, group) => {
    ink.fillStyle = `rgb(${colour})`;
    for (let j = groups.start[group]; j < groups.start[group + 1]; j++) {
      const [px, py] = at(groups.items[j]);
      if (!inside(px, py)) continue;
      ink.beginPath();
      ink.arc(px, py, radius, 0, 7);
      ink.fill();
    }
  });
}

function ring(i, radius, colour, width) {
  const [px, py] = at(i);
  ink.strokeStyle = colour;
  ink.lineWidth = width;
  ink.beginPath();
  ink.arc(px, py, radius, 0, 7);
  ink.stroke();
}

function drawText(colour, taken, radius) {
  const [px, py] = [x(data.text[0]), y(data.text[1])];
  ink.strokeStyle = colour("--ink");
  ink.lineWidth = 1;
  for (const { row } of data.found) {
    ink.beginPath();
    ink.moveTo(px, py);
    ink.lineTo(...at(row));
    ink.stroke();
  }
  for (const { row } of data.found) ring(row, radius + 3, colour("--ink"), 2);
  ink.fillStyle = colour("--ink");
  ink.beginPath();
  for (let i = 0; i < 10; i++) {
    const angle = (i * Math.PI) / 5 - Math.PI / 2, long = i % 2 ? 4 : 10;
    ink.lineTo(px + long * Math.cos(angle), py + long * Math.sin(angle));
  }
  ink.fill();
  if (region < 0) for (const { row } of data.found) label(row, colour, taken, false);
}

function drawRegions(colour, taken) {
  data.regionNames.forEach((name, group) => {
    if (middles[group] && (region < 0 || region === group)) {
      write(name, x(middles[group][0]), y(middles[group][1]), colour(`--r${group}`), colour("--paper"), taken, "600 15px");
    }
  });
}

function drawNames(colour, taken) {
  if (!names.length) return;
  let drawn = 0, tried = 0;
  for (const i of matches ?? byLength) {
    const [px, py] = at(i);
    if (!inside(px, py) || (region >= 0 && regions[i] !== region)) continue;
    if (label(i, colour, taken, false)) drawn++;
    if (drawn >= NAMES || ++tried > 600) return;
  }
}

function label(i, colour, taken, always) {
  if (!names.length) return false;
  const [px, py] = at(i), value = values.get(i), name = names[i].length > 40 ? `${names[i].slice(0, 39)}…` : names[i];
  return write(value ? `${name} ${value}` : name, px, py - 13, colour("--ink"), colour("--paper"), taken, "13px", always);
}

// text centred at a place, with a rim of paper, unless other text stands there
function write(text, px, py, colour, paper, taken, font, always = false) {
  ink.font = `${font} system-ui, sans-serif`;
  const width = ink.measureText(text).width;
  const left = Math.min(Math.max(px - width / 2, 4), size.width - width - 4);
  const box = [left - 3, py - 9, left + width + 3, py + 9];
  if (py < 0 || py > size.height) return false;
  if (!always && taken.some((o) => box[0] < o[2] && box[2] > o[0] && box[1] < o[3] && box[3] > o[1])) return false;
  taken.push(box);
  ink.textBaseline = "middle";
  ink.lineJoin = "round";
  ink.lineWidth = 4;
  ink.strokeStyle = paper;
  ink.strokeText(text, left, py);
  ink.fillStyle = colour;
  ink.fillText(text, left, py);
  return true;
}

// moving

function zoom(by, px = size.width / 2, py = size.height / 2) {
  const scale = Math.min(400, Math.max(1, view.scale * by)), change = 1 / pixel();
  view.scale = scale;
  view.x += (px - size.width / 2) * (change - 1 / pixel());
  view.y += (py - size.height / 2) * (change - 1 / pixel());
  bound();
}

function bound() {
  if (view.scale === 1) view.x = view.y = SIDE / 2;
  view.x = Math.min(SIDE, Math.max(0, view.x));
  view.y = Math.min(SIDE, Math.max(0, view.y));
  redraw();
}

function whole() { view = { x: SIDE / 2, y: SIDE / 2, scale: 1 }; redraw(); }

// the nearest label by `far`, which is at least the distance in steps, or infinite for labels that do not count
function nearest(px, py, far, limit = Infinity) {
  const [cx, cy] = [cellOf(Math.max(0, px)), cellOf(Math.max(0, py))];
  let best = -1, least = Infinity;
  for (let ring = 0; ring < CELLS; ring++) {
    if (Math.min(best < 0 ? Infinity : least, limit) < ((ring - 1) * SIDE) / CELLS) break;
    for (let row = Math.max(0, cy - ring); row <= Math.min(CELLS - 1, cy + ring); row++) {
      const edge = row === cy - ring || row === cy + ring;
      for (let column = cx - ring; column <= cx + ring; column += edge || !ring ? 1 : 2 * ring) {
        if (column < 0 || column >= CELLS) continue;
        const cell = row * CELLS + column;
        for (let j = cells.start[cell]; j < cells.start[cell + 1]; j++) {
          const distance = far(cells.items[j]);
          if (distance < least) [best, least] = [cells.items[j], distance];
        }
      }
    }
  }
  return best;
}

function hit(px, py) {
  const sx = view.x + (px - size.width / 2) / pixel(), sy = view.y + (py - size.height / 2) / pixel();
  const reach = FAR / pixel();
  return nearest(sx, sy, (i) => {
    const distance = Math.hypot(places[2 * i] - sx, places[2 * i + 1] - sy);
    return distance <= reach ? distance : Infinity;
  }, reach);
}

// the next label to the right, left, above or below; one that lies off the axis is farther
function step(dx, dy) {
  const [sx, sy] = selected < 0 ? [view.x, view.y] : [places[2 * selected], places[2 * selected + 1]];
  const next = nearest(sx, sy, (i) => {
    const [along, across] = [(places[2 * i] - sx) * dx + (places[2 * i + 1] - sy) * dy,
      Math.abs((places[2 * i] - sx) * dy) + Math.abs((places[2 * i + 1] - sy) * dx)];
    return i === selected || along < across || along <= 0 ? Infinity : along + 2 * across;
  });
  select(next < 0 ? selected : next, true);
}

function select(i, follow = false) {
  selected = i;
  if (i < 0 || !names.length) { here.textContent = "\u00a0"; return redraw(); }
  const said = [names[i], uids[i], data.regionNames[regions[i]], values.get(i)];
  here.textContent = said.filter(Boolean).join(" · ");
  const [px, py] = at(i);
  if (follow && (px < 30 || py < 30 || px > size.width - 30 || py > size.height - 30)) {
    [view.x, view.y] = [places[2 * i], places[2 * i + 1]];
  }
  redraw();
}

function go(i) {
  view = { x: places[2 * i], y: places[2 * i + 1], scale: Math.max(view.scale, 8) };
  select(i);
  canvas.scrollIntoView({ block: "nearest" });
}

// mouse, fingers, keys

const fingers = new Map();
let moved = 0;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
  moved = 0;
});
canvas.addEventListener("pointermove", (event) => {
  const now = [event.offsetX, event.offsetY], before = fingers.get(event.pointerId);
  if (!before) return event.pointerType === "mouse" ? select(hit(...now)) : undefined;
  moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const ratio = Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.hypot(before[0] - other[0], before[1] - other[1]);
    zoom(ratio || 1, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  } else {
    view.x -= (now[0] - before[0]) / pixel();
    view.y -= (now[1] - before[1]) / pixel();
    bound();
  }
  fingers.set(event.pointerId, now);
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    if (end === "pointerup" && moved < 8 && fingers.size === 1) select(hit(event.offsetX, event.offsetY));
    fingers.delete(event.pointerId);
  });
}
canvas.addEventListener("dblclick", (event) => zoom(2, event.offsetX, event.offsetY));
canvas.addEventListener("wheel", (event) => {
  if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
}, { passive: false });
const KEYS = {
  ArrowRight: () => step(1, 0), ArrowLeft: () => step(-1, 0), ArrowDown: () => step(0, 1), ArrowUp: () => step(0, -1),
  "+": () => zoomHere(1.5), "=": () => zoomHere(1.5), "-": () => zoomHere(1 / 1.5), "0": whole,
};
function zoomHere(by) { selected >= 0 ? zoom(by, ...at(selected)) : zoom(by); }
canvas.addEventListener("keydown", (event) => {
  if (!(event.key in KEYS) || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  KEYS[event.key]();
});
document.getElementById("closer").addEventListener("click", () => zoomHere(1.5));
document.getElementById("farther").addEventListener("click", () => zoomHere(1 / 1.5));
document.getElementById("whole").addEventListener("click", whole);

// finding

const simple = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

function find() {
  const wanted = simple(words.value).split(/\s+/).filter(Boolean);
  matches = null;
  if (wanted.length && names.length) {
    if (!plain.length) plain = names.map((name, i) => simple(`${name} ${uids[i]}`));
    matches = byLength.filter((i) => wanted.every((word) => plain[i].includes(word)));
    count.textContent = matches.length === 1 ? "1 label found" : `${matches.length.toLocaleString("en")} labels found`;
    results.querySelector("ul").replaceChildren(...Array.from(matches.subarray(0, SHOWN), (i) => {
      const item = document.createElement("li"), button = document.createElement("button");
      button.textContent = names[i];
      button.dataset.row = i;
      item.append(button);
      return item;
    }));
  }
  results.hidden = !matches;
  redraw();
}
words.addEventListener("input", find);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.row) go(Number(button.dataset.row));
  if (button?.dataset.region) {
    region = region === Number(button.dataset.region) ? -1 : Number(button.dataset.region);
    for (const other of document.querySelectorAll("[data-region]")) {
      other.setAttribute("aria-pressed", String(Number(other.dataset.region) === region));
    }
    redraw();
  }
});

// start

function fit() {
  const box = canvas.getBoundingClientRect();
  size = { width: Math.max(1, box.width - 2), height: Math.max(1, box.height - 2) };
  size.unit = (Math.min(size.width, size.height) - 40) / SIDE;
  redraw();
}
new ResizeObserver(fit).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
fit();
Promise.all([unpack(data.names), unpack(data.uids)]).then(([allNames, allUids]) => {
  [names, uids] = [allNames, allUids];
  byLength = byLength.sort((a, b) => names[a].length - names[b].length || a - b);
  canvas.dataset.ready = "true";
  find();
});

// One trial: shows its images, takes the reader's judgement and stores it.

const SIDE = 256;
const MOST_ZOOM = 16;
const form = document.querySelector("#trial");
const views = [...document.querySelectorAll(".view")].map((figure) => ({
  figure,
  letter: figure.dataset.letter,
  image: figure.dataset.image,
  box: figure.querySelector(".box"),
  canvas: figure.querySelector("canvas"),
  fieldset: document.querySelector(
    `fieldset[data-image="${figure.dataset.image}"]`),
  stored: null,
}));
const $ = (selector) => document.querySelector(selector);
const number = (name) => Number(form.dataset[name]);
const [LOW, HIGH] = [number("low"), number("high")];

// What is seen. Zoom is in steps from that which fits.
const state = {
  low: LOW,
  high: HIGH,
  steps: Number(sessionStorage.getItem("steps")) || 0,
  isStack: sessionStorage.getItem("stack") === "yes",
  current: 0,
  // Middle of the boxes, in pixels of the image.
  x: SIDE / 2,
  y: SIDE / 2,
};

// Images ---------------------------------------------------------------------

async function load(view) {
  const answer = await fetch(`/images/${view.image}`);
  if (!answer.ok) throw new Error(answer.status);
  const bytes = new DataView(await answer.arrayBuffer());
  view.stored = Uint16Array.from(
    { length: SIDE * SIDE }, (_, i) => bytes.getUint16(2 * i, true));
}

// Stored value -> grey, as seen with the present window.
function greys() {
  const slope = number("slope"), intercept = number("intercept");
  const table = new Uint8ClampedArray(65536);
  const scale = 255 / (state.high - state.low);
  for (let i = 0; i < table.length; i++) {
    table[i] = (slope * i + intercept - state.low) * scale;
  }
  return table;
}

function draw() {
  const table = greys();
  for (const { canvas, stored } of views) {
    if (!stored) continue;
    const context = canvas.getContext("2d");
    const image = context.createImageData(SIDE, SIDE);
    const pixels = new Uint32Array(image.data.buffer);
    const opaque = new Uint8Array(new Uint32Array([1]).buffer)[0]
      ? (g) => 0xff000000 | (g << 16) | (g << 8) | g
      : (g) => (g << 24) | (g << 16) | (g << 8) | 0xff;
    for (let i = 0; i < pixels.length; i++) pixels[i] = opaque(table[stored[i]]);
    context.putImageData(image, 0, 0);
  }
  const show = (v) => {
    const size = HIGH - LOW;
    const digits = size >= 100 ? 0 : size >= 5 ? 1 : 3;
    return v.toFixed(digits).replace("-", "\u2212");
  };
  $("#window").textContent =
    `${show(state.low)} to ${show(state.high)} ${form.dataset.unit}`;
}

let isDrawing = false;
function redraw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => { isDrawing = false; draw(); });
}

function setWindow(centre, width) {
  const size = HIGH - LOW;
  width = Math.min(Math.max(width, size / 256), size * 8);
  centre = Math.min(Math.max(centre, LOW - size), HIGH + size);
  state.low = centre - width / 2;
  state.high = centre + width / 2;
  redraw();
}

const centre = () => (state.low + state.high) / 2;
const width = () => state.high - state.low;
const brighten = (part) => setWindow(centre() - part * width(), width());
const widen = (factor) => setWindow(centre(), width() * factor);

// Layout: an image's pixel is a whole number of the screen's -----------------

function place() {
  form.classList.toggle("stack", state.isStack);
  $("#stack").setAttribute("aria-pressed", state.isStack);
  views.forEach((view, i) => {
    const isCurrent = i === state.current;
    view.figure.classList.toggle("current", isCurrent);
    view.fieldset.classList.toggle("current", isCurrent);
    view.fieldset.querySelector(".pick").setAttribute(
      "aria-pressed", isCurrent);
  });
  const dense = window.devicePixelRatio || 1;
  const figure = views[state.current].figure;
  const caption = figure.querySelector("figcaption").offsetHeight;
  const room = {
    x: Math.floor(figure.clientWidth * dense),
    y: Math.floor((figure.clientHeight - caption) * dense),
  };
  const fit = Math.max(1, Math.floor(Math.min(room.x, room.y) / SIDE));
  const zoom = Math.min(Math.max(fit + state.steps, 1), MOST_ZOOM);
  state.steps = zoom - fit;
  state.zoom = zoom / dense;
  $("#zoom").textContent = `${zoom}×`;
  const size = { x: 0, y: 0 };
  for (const axis of ["x", "y"]) {
    size[axis] = Math.max(Math.min(room[axis], SIDE * zoom), 1);
    // No further than to the edge.
    const half = size[axis] / zoom / 2;
    state[axis] = Math.min(Math.max(state[axis], half), SIDE - half);
  }
  // A length of that many pixels of the screen. A little more, because the
  // browser cuts lengths down to a 64th of a pixel.
  const css = (pixels) => `${(pixels + Math.sign(pixels) * 0.005) / dense}px`;
  for (const { box, canvas } of views) {
    box.style.width = css(size.x);
    box.style.height = css(size.y);
    canvas.style.width = canvas.style.height = css(SIDE * zoom);
    canvas.style.left = css(Math.round(size.x / 2 - state.x * zoom));
    canvas.style.top = css(Math.round(size.y / 2 - state.y * zoom));
    // Where the layout puts it may be between two pixels.
    box.style.left = box.style.top = "0";
    const corner = box.getBoundingClientRect();
    const offset = (v) => css(Math.round(v * dense) - v * dense);
    box.style.left = offset(corner.left);
    box.style.top = offset(corner.top);
  }
}

function zoomBy(steps) {
  state.steps += steps;
  place();
  sessionStorage.setItem("steps", state.steps);
}

function moveBy(x, y) {
  state.x += x;
  state.y += y;
  place();
}

function reset() {
  state.steps = 0;
  sessionStorage.removeItem("steps");
  state.x = state.y = SIDE / 2;
  setWindow((LOW + HIGH) / 2, HIGH - LOW);
  place();
}

function goTo(index) {
  state.current = (index + views.length) % views.length;
  place();
}

function swap() {
  state.isStack = !state.isStack;
  sessionStorage.setItem("stack", state.isStack ? "yes" : "no");
  place();
}

// Judgement ------------------------------------------------------------------

const real = () => form.querySelector("[name=real]:checked")?.value;
const score = (view) => Number(
  view.fieldset.querySelector("[name^=score]:checked")?.value) || null;

function mark(selector) {
  const { fieldset } = views[state.current];
  fieldset.querySelector(selector).checked = true;
  update();
}

// Only the time in which the page can be seen.
const clock = { sum: 0, since: null };
function tick() {
  const now = performance.now();
  if (clock.since !== null) clock.sum += now - clock.since;
  const runs = !document.hidden && views.every((v) => v.stored);
  clock.since = runs ? now : null;
}
document.addEventListener("visibilitychange", tick);

let isStoring = false;
let isWarned = false;

function update() {
  const missing = [];
  if (!real()) missing.push("which one is real");
  const unscored = views.filter((v) => !score(v)).map((v) => v.letter);
  if (unscored.length) missing.push(`score of ${unscored.join(", ")}`);
  const isLoaded = views.every((v) => v.stored);
  for (const view of views) {
    view.fieldset.classList.toggle("is-real", view.image === real());
    view.fieldset.classList.toggle("is-scored", Boolean(score(view)));
  }
  $("#store").disabled = isStoring || !isLoaded || missing.length > 0;
  tell(!isLoaded ? "Loading" : missing.length
    ? `Still missing: ${missing.join("; ")}` : "Complete");
  isWarned = false;
}

function tell(text, isBad = false) {
  $("#missing").textContent = text;
  $("#missing").classList.toggle("bad", isBad);
}

async function store() {
  if ($("#store").disabled) return;
  tick();
  isStoring = true;
  $("#store").disabled = true;
  const answer = {
    trial: form.dataset.trial,
    judged_real: real(),
    scores: Object.fromEntries(views.map((v) => [v.image, score(v)])),
    seconds: Math.min(clock.sum / 1000, 86400),
  };
  let status = 0;
  try {
    const told = await fetch("/answers", {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        "X-Proof": form.dataset.proof,
      },
      body: JSON.stringify(answer),
    });
    status = told.status;
  } catch { /* The server cannot be reached. */ }
  // 409: it was stored before, only the news of it was lost.
  if (status === 200 || status === 409) {
    location.replace("/trial");
    return;
  }
  isStoring = false;
  update();
  if (status === 401 || status === 403) {
    tell("Not stored: you are signed out here. Load the page anew.", true);
  } else {
    tell("Not stored. Wait a moment and press Enter again.", true);
  }
}

function pause(event) {
  const isBegun = real() || views.some(score);
  if (isBegun && !isWarned) {
    event?.preventDefault();
    tell("This trial is not stored yet. Press again to pause all the same.",
      true);
    isWarned = true;
    return;
  }
  if (!event) $("#pause").submit();
}

// Mouse ----------------------------------------------------------------------

for (const [index, view] of views.entries()) {
  view.box.addEventListener("pointerdown", (event) => {
    if (event.button > 2) return;
    event.preventDefault();
    document.activeElement?.blur();
    if (!state.isStack) goTo(index);
    view.box.setPointerCapture(event.pointerId);
    view.isMove = event.shiftKey || event.button > 0;
  });
  view.box.addEventListener("pointermove", (event) => {
    if (!view.box.hasPointerCapture(event.pointerId)) return;
    if (view.isMove) {
      moveBy(-event.movementX / state.zoom, -event.movementY / state.zoom);
    } else {
      // Right across the screen: all that is there.
      setWindow(
        centre() + event.movementY * width() / 400,
        width() * Math.exp(event.movementX / 250));
    }
  });
  view.box.addEventListener("contextmenu", (event) => event.preventDefault());
  view.box.addEventListener("dblclick", reset);
  let turned = 0;
  view.box.addEventListener("wheel", (event) => {
    event.preventDefault();
    turned += event.deltaMode ? event.deltaY * 40 : event.deltaY;
    if (Math.abs(turned) < 50) return;
    zoomBy(turned < 0 ? 1 : -1);
    turned = 0;
  }, { passive: false });
  view.fieldset.addEventListener("pointerdown", () => goTo(index));
  view.fieldset.addEventListener("focusin", () => goTo(index));
  view.fieldset.querySelector(".pick").addEventListener(
    "click", () => goTo(index));
}

// A click must not leave the arrow keys to the radio that was clicked.
document.addEventListener("pointerup", () => setTimeout(() => {
  if (document.activeElement?.matches("input, button:not(dialog *)")) {
    document.activeElement.blur();
  }
}));
form.addEventListener("change", update);
form.addEventListener("submit", (event) => { event.preventDefault(); store(); });
$("#reset").addEventListener("click", reset);
$("#in").addEventListener("click", () => zoomBy(1));
$("#out").addEventListener("click", () => zoomBy(-1));
$("#stack").addEventListener("click", swap);
$("#keys").addEventListener("click", () => $("#help").showModal());
$("#pause").addEventListener("submit", pause);

// Keys -----------------------------------------------------------------------

const ARROWS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
};
const KEYS = {
  ArrowLeft: () => goTo(state.current - 1),
  ArrowRight: () => goTo(state.current + 1),
  ArrowUp: () => brighten(0.05),
  ArrowDown: () => brighten(-0.05),
  n: () => widen(1 / 1.1),
  w: () => widen(1.1),
  r: () => mark("[name=real]"),
  s: swap,
  h: () => $("#help").showModal(),
  "?": () => $("#help").showModal(),
  p: () => pause(),
  "+": () => zoomBy(1),
  "=": () => zoomBy(1),
  "-": () => zoomBy(-1),
  0: reset,
  Enter: store,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if ($("#help").open) return;
  const focused = document.activeElement;
  const isArrow = event.key in ARROWS;
  // What a focused element does itself stays with it.
  if (isArrow && focused?.matches("input")) return;
  if (event.key === "Enter" && focused?.matches("button")) return;
  // Where digits need Shift, the key still has its place.
  const digit = /^(?:Digit|Numpad)([0-4])$/.exec(event.code)?.[1];
  const key = digit ?? (
    event.key.length === 1 ? event.key.toLowerCase() : event.key);
  const index = views.findIndex((v) => v.letter.toLowerCase() === key);
  let act = null;
  if (isArrow && event.shiftKey) {
    const [x, y] = ARROWS[event.key];
    act = () => moveBy(8 * x, 8 * y);
  } else if (index >= 0) {
    act = () => goTo(index);
  } else if (/^[1-4]$/.test(key)) {
    act = () => mark(`[name^=score][value="${key}"]`);
  } else if (Object.hasOwn(KEYS, key)) {
    act = KEYS[key];
  }
  if (!act || (event.repeat && ["Enter", "p", "s", "h"].includes(key))) return;
  event.preventDefault();
  act();
});

// ----------------------------------------------------------------------------

new ResizeObserver(place).observe($("#views"));
// Also when only the size of a pixel changes.
addEventListener("resize", place);
place();
update();
try {
  await Promise.all(views.map(load));
  draw();
  tick();
  update();
  document.body.dataset.ready = "yes";
} catch {
  tell("The images cannot be loaded. Load the page anew.", true);
}

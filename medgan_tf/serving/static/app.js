// The page: from a dropped file to images beside each other.

import { PLANES, Viewer, firstWindow, short, windowsOf } from "./viewer.js";

const POLL_MS = 300;
const KINDS = {
  source: "Source",
  translated: "Translated",
  target: "Target",
  error: "Error",
};

const $ = (id) => document.getElementById(id);
const viewer = new Viewer(showPlace);
let about;
let job = null; // Name of the one on the server that is ours.
let visit = 0; // Counts what was begun, to notice what was left since.
let stem = "volume";
let images = [];

/** A new element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function show(part) {
  for (const id of ["start", "progress", "result"]) $(id).hidden = id !== part;
}

function tell(line) {
  $("error").textContent = line;
  $("error").hidden = !line;
}

/** Asks the server; an error is the line that it gives. */
async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("The server does not answer; check that it still runs.");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error ?? `The server answers ${response.status}.`);
}

// Choosing files.

function makeSlots() {
  const { sources, target, suffixes } = about;
  const slots = [
    ...sources.map((s) => ["source", s, `Drop the ${s.name} volume here`]),
    ["target", target, `${target.name} to compare with (optional)`],
  ];
  for (const [field, modality, words] of slots) {
    const input = make("input", {
      type: "file",
      name: field,
      accept: [...suffixes, ".gz"].join(),
    });
    const name = make("small", { textContent: "or choose a file" });
    const slot = make("label", { className: "slot" }, words, name, input);
    slot.dataset.modality = modality.name;
    input.addEventListener("change", () => {
      const [file] = input.files;
      slot.classList.toggle("full", Boolean(file));
      name.textContent = file ? file.name : "or choose a file";
      tell("");
      checkReady();
    });
    slot.addEventListener("dragover", () => slot.classList.add("over"));
    for (const end of ["dragleave", "drop"]) {
      slot.addEventListener(end, () => slot.classList.remove("over"));
    }
    $("slots").append(slot);
  }
}

const inputs = () => [...$("slots").querySelectorAll("input")];

function checkReady() {
  $("translate").disabled = inputs().some(
    (input) => input.name === "source" && !input.files.length,
  );
}

/** Puts a dropped file where it was dropped, else into the first free slot. */
function drop(event) {
  event.preventDefault();
  if ($("start").hidden) return;
  const on = event.target.closest?.(".slot")?.querySelector("input");
  for (const [i, file] of [...event.dataTransfer.files].entries()) {
    const free = inputs().find((input) => !input.files.length);
    const input = (i === 0 && on) || free || inputs()[0];
    const list = new DataTransfer();
    list.items.add(file);
    input.files = list.files;
    input.dispatchEvent(new Event("change"));
  }
  if (!$("translate").disabled) $("translate").focus();
}

// Sending and waiting.

async function send(form, name) {
  const mine = ++visit;
  tell("");
  stem = name.replace(/(\.nii)?\.gz$|\.nii$|\.mha$/i, "") || "volume";
  doing("Sending");
  show("progress");
  $("cancel").focus();
  try {
    const files = form.getAll("source").concat(form.getAll("target"));
    const size = files.reduce((sum, file) => sum + file.size, 0);
    if (size > about.most_upload_mb * 1e6) {
      throw new Error(
        `Found ${(size / 1e6).toFixed(0)} MB, expected at most ` +
          `${about.most_upload_mb} MB; crop the volume, or use predict.py.`,
      );
    }
    const sent = (await ask("jobs", { method: "POST", body: form })).name;
    if (visit !== mine) {
      remove(sent);
      return;
    }
    job = sent;
    let progress;
    do {
      progress = await ask(`jobs/${sent}`);
      if (visit !== mine) return;
      doing(words(progress), progress.done, progress.total);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      if (visit !== mine) return;
    } while (progress.state !== "done");
    await showResult(progress);
  } catch (error) {
    if (visit !== mine) return;
    leave();
    tell(error.message);
  }
}

function words({ state, ahead, done, total, seconds_left }) {
  if (state !== "translating") {
    return ahead ? `Waiting, ${ahead} before you` : "Waiting";
  }
  if (!total) return "Reading";
  if (done === total) return `${total} of ${total} slices, writing`;
  const left =
    seconds_left === null
      ? ""
      : seconds_left > 90
        ? `, about ${Math.round(seconds_left / 60)} minutes left`
        : `, about ${Math.ceil(seconds_left)} s left`;
  return `${done} of ${total} slices${left}`;
}

function doing(line, done = 0, total = 0) {
  $("doing").textContent = line;
  if (total) {
    $("bar").max = total;
    $("bar").value = done;
  } else {
    $("bar").removeAttribute("value");
  }
}

function remove(name) {
  const options = { method: "DELETE", keepalive: true };
  fetch(`jobs/${name}`, options).catch(() => {});
}

/** Back to the start; what is ours on the server is removed. */
function leave() {
  visit += 1;
  if (job) remove(job);
  job = null;
  delete $("result").dataset.ready;
  viewer.close();
  $("panels").replaceChildren();
  show("start");
  inputs()[0].focus();
}

// Looking.

async function showResult(progress) {
  images = progress.images;
  $("notes").textContent = progress.notes.join(" ");
  $("notes").hidden = !progress.notes.length;
  const canvases = images.map(makePanel);
  makeWindows();
  const address = (image) => `jobs/${job}/${image.file}`;
  const [made] = images.filter((image) => image.kind === "translated");
  $("download").href = address(made);
  $("download").download = `${stem}_translated_${made.modality}.nii.gz`;
  show("result");
  // A phone shows one plane of each image, a desk all three.
  const isNarrow = matchMedia("(max-width: 48rem)").matches;
  const mine = visit;
  try {
    await viewer.show(images, canvases, address);
    choosePlane(isNarrow ? "Axial" : "All");
    canvases[0].focus({ preventScroll: true });
  } catch (error) {
    if (visit !== mine) return;
    console.warn(error);
    tell("This browser cannot show volumes (no WebGL 2); download the result.");
  }
  if (visit === mine) $("result").dataset.ready = "yes";
}

function makePanel(image) {
  const title = `${KINDS[image.kind]} ${
    image.kind === "error" ? "" : image.modality
  }`.trim();
  const canvas = make("canvas");
  canvas.setAttribute(
    "aria-label",
    `${title}. Arrow keys, PageUp and PageDown move the crosshair.`,
  );
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  const panel = make(
    "figure",
    { className: "panel" },
    make(
      "figcaption",
      {},
      make("span", { textContent: title }),
      make("output"),
      make("small"),
    ),
    make("div", { className: "view" }, canvas),
  );
  panel.dataset.kind = image.kind;
  $("panels").append(panel);
  return canvas;
}

/** One choice of window for all images that look alike. */
function makeWindows() {
  $("windows").replaceChildren();
  const groups = new Map();
  for (const [i, image] of images.entries()) {
    const name = image.kind === "error" ? "Error" : image.modality;
    groups.set(name, [...(groups.get(name) ?? []), i]);
  }
  for (const [name, members] of groups) {
    const choices = windowsOf(images[members[0]]);
    const select = make("select");
    for (const [title] of choices) select.append(make("option", {}, title));
    select.value = firstWindow(images[members[0]]);
    const set = () => {
      for (const i of members) {
        const [, low, high] = windowsOf(images[i])[select.selectedIndex];
        const panel = $("panels").children[i];
        const what = images[i].kind === "error" ? "translated \u2212 target, " : "";
        panel.querySelector("small").textContent =
          `${what}${short(low)} to ${short(high)} ${images[i].unit}`;
        if (viewer.views[i]) viewer.setWindow(i, low, high);
      }
    };
    select.addEventListener("change", set);
    set();
    $("windows").append(make("label", { className: "window" }, name, select));
  }
}

function choosePlane(name) {
  for (const button of $("planes").children) {
    button.setAttribute("aria-pressed", button.textContent === name);
  }
  viewer.setPlane(PLANES[name]);
}

function showPlace(voxel, mm, values) {
  $("place").textContent =
    `Voxel ${voxel.join(", ")}  \u00b7  ${mm.map((x) => `${short(x)}`)
      .join(", ")} mm (right, anterior, superior)`;
  $("place").dataset.voxel = voxel.join();
  for (const [i, value] of values.entries()) {
    const output = $("panels").children[i].querySelector("output");
    const unit = images[i].modality === "MR" ? "" : ` ${images[i].unit}`;
    output.textContent = `${short(value)}${unit}`;
    output.dataset.value = value;
  }
}

// Starting.

async function start() {
  about = await ask("about");
  document.title = `${about.title}, medgan_tf`;
  $("title").textContent = about.title;
  $("simulated").hidden = !about.trained_on_simulated_images;
  $("rules").textContent =
    `NIfTI (.nii, .nii.gz) or MetaImage (.mha), up to ` +
    `${about.most_upload_mb} MB. ${about.intended_use} The file is removed ` +
    `from the server once it is translated; no name in it is kept.`;
  makeSlots();
  for (const title of about.phantoms) {
    const button = make("button", { type: "button", textContent: title });
    button.addEventListener("click", () => {
      const form = new FormData();
      form.append("phantom", title);
      send(form, `phantom_${title.toLowerCase()}`);
    });
    $("phantoms").append(" ", button);
  }
  for (const name of Object.keys(PLANES)) {
    const button = make("button", { type: "button", textContent: name });
    button.addEventListener("click", () => choosePlane(name));
    $("planes").append(button);
  }
  show("start");
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = new FormData();
  for (const input of inputs()) {
    for (const file of input.files) form.append(input.name, file);
  }
  send(form, form.get("source").name);
});
$("cancel").addEventListener("click", leave);
$("again").addEventListener("click", () => {
  $("form").reset();
  for (const input of inputs()) input.dispatchEvent(new Event("change"));
  leave();
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", drop);
addEventListener("pagehide", () => {
  if (job) remove(job);
});
start().catch((error) => tell(error.message));

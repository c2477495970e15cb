// Volumes on one grid side by side, with one crosshair.

import { Niivue } from "./niivue.js";

export const PLANES = { All: 3, Axial: 0, Coronal: 1, Sagittal: 2 };

// [title, low, high]; "Auto" is what the server says shows all of it.
const WINDOWS = {
  CT: [
    ["Soft tissue", -160, 240],
    ["Bone", -450, 1050],
    ["Lung", -1350, 150],
    ["Whole", -1000, 2000],
  ],
  PET: [
    ["SUV 0 to 5", 0, 5],
    ["SUV 0 to 10", 0, 10],
    ["SUV 0 to 20", 0, 20],
  ],
  MR: [],
};
const FIRST = { CT: "Soft tissue", PET: "SUV 0 to 10" };
const ERRORS = { CT: [100, 250, 750], PET: [0.5, 2, 5] };

// Too low is blue, too high red, right is dark.
const SIGNED = {
  R: [150, 50, 18, 225, 255],
  G: [215, 110, 18, 75, 205],
  B: [255, 235, 18, 35, 140],
  A: [255, 255, 255, 255, 255],
  I: [0, 64, 128, 192, 255],
};
const COLOURS = { CT: "gray", MR: "gray", PET: "inferno" };

const STEPS = {
  ArrowLeft: [1, 0, 0],
  ArrowRight: [-1, 0, 0],
  ArrowUp: [0, 1, 0],
  ArrowDown: [0, -1, 0],
  PageUp: [0, 0, 1],
  PageDown: [0, 0, -1],
};

/** [title, low, high] of each window in which an image may be shown. */
export function windowsOf(image) {
  const [low, high] = image.window;
  if (image.kind === "error") {
    const sizes = ERRORS[image.modality] ?? [high / 4, high / 2, high];
    return sizes.map((s) => [`\u00b1${short(s)} ${image.unit}`, -s, s]);
  }
  const presets = WINDOWS[image.modality] ?? [];
  return presets.length ? presets : [["Auto", low, high]];
}

/** Which of `windowsOf` an image is shown in at first. */
export function firstWindow(image) {
  const titles = windowsOf(image).map(([title]) => title);
  if (image.kind === "error") return titles[1];
  return FIRST[image.modality] ?? titles[0];
}

/** A number for people: about four digits, a true minus. */
export function short(value) {
  const digits = Math.abs(value) >= 100 ? 1 : Math.abs(value) >= 1 ? 2 : 3;
  return value.toFixed(digits).replace(/\.?0+$/, "").replace("-", "\u2212");
}

export class Viewer {
  /** `onPlace(voxel, mm, values)` is told where the cursor is. */
  constructor(onPlace) {
    this.onPlace = onPlace;
    this.views = [];
  }

  /** Shows the image of each address on the canvas beside it. */
  async show(images, canvases, addressOf) {
    this.close();
    for (const [i, image] of images.entries()) {
      const view = new Niivue({
        isRadiologicalConvention: true,
        multiplanarLayout: 1,
        multiplanarShowRender: 0,
        tileMargin: 2,
        crosshairColor: [0.37, 0.7, 0.96, 0.8],
        crosshairWidth: 1,
        crosshairWidthUnit: "mm",
        crosshairGap: 6,
        fontColor: [0.75, 0.8, 0.85, 1],
        fontMinPx: 11,
        backColor: [0, 0, 0, 1],
        dragMode: 3,
        isForceMouseClickToVoxelCenters: true,
        dragAndDropEnabled: false,
        clipPlaneHotKey: "",
        cycleClipPlaneHotKey: "",
        viewModeHotKey: "",
        loadingText: "",
        logLevel: "error",
      });
      this.views.push(view);
      await view.attachToCanvas(canvases[i]);
      view.addColormap("signed", SIGNED);
      const [, low, high] = windowsOf(image).find(
        ([title]) => title === firstWindow(image),
      );
      await view.loadVolumes([
        {
          url: addressOf(image),
          name: image.file,
          colormap:
            image.kind === "error" ? "signed" : COLOURS[image.modality],
          cal_min: low,
          cal_max: high,
        },
      ]);
      this.#listen(view, canvases[i]);
    }
    for (const view of this.views) {
      view.onLocationChange = () => this.#follow(view);
    }
    this.#follow(this.views[0]);
  }

  /** Shows one plane, or all three below one another. */
  setPlane(plane) {
    for (const view of this.views) view.setSliceType(plane);
  }

  setWindow(index, low, high) {
    const view = this.views[index];
    view.volumes[0].cal_min = low;
    view.volumes[0].cal_max = high;
    view.updateGLVolume();
  }

  /** Puts the crosshair on a voxel, counted as in the file. */
  goTo(voxel) {
    const [view] = this.views;
    const at = axes(view.volumes[0]).map(({ axis, flip, size }) =>
      flip ? size - 1 - voxel[axis] : voxel[axis],
    );
    view.scene.crosshairPos = view.vox2frac(at);
    this.#follow(view);
  }

  close() {
    for (const view of this.views) {
      view.onLocationChange = () => {};
      view.cleanup();
      // Else the browser keeps it, and has few of them.
      view.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    }
    this.views = [];
  }

  #listen(view, canvas) {
    canvas.tabIndex = 0;
    canvas.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (!step) return;
      event.preventDefault();
      view.moveCrosshairInVox(...step);
    });
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const scale = canvas.width / box.width;
      const at = view.canvasPos2frac([
        (event.clientX - box.left) * scale,
        (event.clientY - box.top) * scale,
      ]);
      this.#tell(at[0] < 0 ? view.scene.crosshairPos : at);
    });
    canvas.addEventListener("pointerleave", () =>
      this.#tell(view.scene.crosshairPos),
    );
  }

  /** Brings the crosshair of all others to where that of one is. */
  #follow(leader) {
    for (const view of this.views) {
      if (view !== leader) {
        view.scene.crosshairPos = [...leader.scene.crosshairPos];
        view.scene.pan2Dxyzmm = [...leader.scene.pan2Dxyzmm];
      }
      view.drawScene();
    }
    this.#tell(leader.scene.crosshairPos);
  }

  #tell(place) {
    const [view] = this.views;
    const at = view.frac2vox(place);
    const voxel = [];
    for (const [i, { axis, flip, size }] of axes(view.volumes[0]).entries()) {
      voxel[axis] = flip ? size - 1 - at[i] : at[i];
    }
    // Because the volumes share a grid, a voxel is the same in all of them.
    const values = this.views.map((v) => v.volumes[0].getValue(...at));
    this.onPlace(voxel, [...view.frac2mm(place, 0, true)].slice(0, 3), values);
  }
}

/** Of the axes right, anterior, superior: which one of the file, and how. */
function axes(volume) {
  return [0, 1, 2].map((i) => ({
    axis: Math.abs(volume.permRAS[i]) - 1,
    flip: volume.permRAS[i] < 0,
    size: volume.dimsRAS[i + 1],
  }));
}

// Bundles NiiVue into one file that the page loads from its own server, and
// gathers the licences of what is in it:
//
//   cd web && npm ci --ignore-scripts && npm run build
//
// Zarr, a format for volumes in pieces on the web, is left out: the page loads
// whole NIfTI files only, and its decoders are two thirds of the code.
import { build } from "esbuild";
import { existsSync, readFileSync, writeFileSync } from "node:fs";

const OUT = "../medgan_tf/serving/static";

const { metafile } = await build({
  stdin: {
    contents: 'export { Niivue } from "@niivue/niivue";',
    resolveDir: ".",
  },
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  metafile: true,
  alias: { zarrita: "./no_zarr.mjs" },
  logOverride: { "import-is-undefined": "silent" },
  banner: { js: "/* NiiVue and others; see niivue.LICENSES.txt */" },
  outfile: `${OUT}/niivue.js`,
});

const packages = new Set();
for (const file of Object.keys(metafile.inputs)) {
  const found = file.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/);
  if (found) packages.add(found[1]);
}
const notices = [...packages].sort().map((name) => {
  const folder = `node_modules/${name}`;
  const { version, license } = JSON.parse(
    readFileSync(`${folder}/package.json`, "utf8"),
  );
  const file = ["LICENSE", "LICENSE.md", "license"]
    .flatMap((f) => [`${folder}/${f}`, `licenses/${name.replace("/", "_")}`])
    .find(existsSync);
  if (!file) throw new Error(`no licence text of ${name}: add licenses/`);
  const text = readFileSync(file, "utf8").trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
});
writeFileSync(
  `${OUT}/niivue.LICENSES.txt`,
  notices.join(`\n${"-".repeat(72)}\n\n`),
);
console.log(`${packages.size} packages: ${[...packages].join(", ")}`);

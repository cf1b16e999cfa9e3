import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const WEB = fileURLToPath(new URL("../", import.meta.url));
const LONGEST_MODULE = 400;
const LONGEST_FUNCTION = 60;

/** The folders from which each folder's modules may import. @type {Record<string, string[]>} */
const LAYERS = {
  shared: [],
  passenger: ["shared"],
  "dispatcher/state": ["shared"],
  "dispatcher/map": ["shared", "dispatcher/state"],
  "dispatcher/panels": ["shared", "dispatcher/state", "dispatcher/map", "dispatcher"],
  "dispatcher/cards": ["shared", "dispatcher/state", "dispatcher/map", "dispatcher/panels", "dispatcher"],
  dispatcher: ["shared", "dispatcher/state", "dispatcher/map", "dispatcher/panels", "dispatcher/cards"],
};

const files = ["shared", "passenger", "dispatcher"].flatMap((folder) => readdirSync(join(WEB, folder), { recursive: true }).map((file) => join(folder, String(file))));
const modules = files.filter((file) => file.endsWith(".js")).map((file) => ({ file, folder: dirname(file), text: readFileSync(join(WEB, file), "utf8") }));
const importsOf = (/** @type {{file: string, text: string}} */ { file, text }) => [...text.matchAll(/^import .*?"(\..*?)";$/gms)].map(([, path]) => join(dirname(file), path));

test("modules import downwards only", () => {
  const folders = new Set(modules.map(({ folder }) => folder));
  assert.deepEqual([...folders].sort(), Object.keys(LAYERS).sort(), "a folder without its row in LAYERS, or a row without its folder");
  for (const module of modules) {
    const allowed = [module.folder, ...LAYERS[module.folder]];
    for (const imported of importsOf(module)) {
      assert.ok(allowed.includes(dirname(imported)), `${module.file} imports ${imported}, but ${module.folder}/ may import from ${allowed.join(", ")} only`);
    }
  }
});

test("modules import each other in no circle", () => {
  const imports = new Map(modules.map((module) => [module.file, importsOf(module)]));
  const done = new Set();
  /** @param {string} file @param {string[]} path */
  const visit = (file, path) => {
    assert.ok(!path.includes(file), `a circle: ${[...path, file].join(" -> ")}`);
    if (done.has(file)) return;
    for (const next of imports.get(file) ?? []) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of imports.keys()) visit(file, []);
});

test("the dispatcher's state touches no document and no map", () => {
  for (const { file, folder, text } of modules) {
    if (folder !== "dispatcher/state") continue;
    const code = text.replace(/\/\*.*?\*\//gs, "").replace(/\/\/.*$/gm, "");
    assert.doesNotMatch(code, /\b(document|window|localStorage|HTML\w*Element)\b|\bL\./, `${file} is state: drawing belongs to map/, cards/ and panels/`);
  }
});

/** The functions and methods that fill lines of their own, by their indentation. @param {string} text */
function* functionsOf(text) {
  const lines = text.split("\n");
  for (const [index, line] of lines.entries()) {
    const head = /^(\s*)(?!if|for|while|switch|catch)(?:.*\bfunction\b.*|.*=>|(?:(?:static|async|get|set|\*) ?)*#?\w+\(.*\)) \{$/.exec(line);
    if (!head) continue;
    const end = lines.findIndex((other, at) => at > index && other.startsWith(`${head[1]}}`));
    yield { line: index + 1, length: end - index + 1 };
  }
}

test("no module and no function is longer than can be read at once", () => {
  for (const { file, text } of modules) {
    assert.ok(text.split("\n").length <= LONGEST_MODULE, `${file} has more than ${LONGEST_MODULE} lines`);
    for (const { line, length } of functionsOf(text)) assert.ok(length <= LONGEST_FUNCTION, `${file}:${line} is a function of ${length} lines, more than ${LONGEST_FUNCTION}`);
  }
  const closure = ["function start() {", ...Array(70).fill("  work();"), "}"].join("\n");
  assert.deepEqual([...functionsOf(closure)], [{ line: 1, length: 72 }]);
});

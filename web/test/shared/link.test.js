import assert from "node:assert/strict";
import { test } from "node:test";

import { takeToken } from "../../shared/link.js";

/** A tab at an address, with the storage that it has. @param {string} address @param {Map<string, string>} kept */
function tab(address, kept = new Map()) {
  const location = new URL(address);
  return {
    location,
    history: {
      state: null,
      /** @param {unknown} _state @param {string} _title @param {string | URL | null | undefined} to */
      replaceState(_state, _title, to) {
        location.href = new URL(to ?? "", location).href;
      },
    },
    sessionStorage: {
      /** @param {string} key */
      getItem: (key) => kept.get(key) ?? null,
      /** @param {string} key @param {string} value */
      setItem: (key, value) => void kept.set(key, value),
    },
  };
}

test("the token leaves the address, and a reload finds it again", () => {
  const kept = new Map();
  const first = tab("https://host/track/trip/abc?lang=de#secret", kept);
  assert.equal(takeToken(first), "secret");
  assert.equal(first.location.href, "https://host/track/trip/abc?lang=de");
  assert.equal(takeToken(tab(first.location.href, kept)), "secret");
});

test("each page has its own, and a newer link counts", () => {
  const kept = new Map();
  takeToken(tab("https://host/trip/abc#secret", kept));
  assert.equal(takeToken(tab("https://host/trip/other", kept)), "");
  assert.equal(takeToken(tab("https://host/trip/abc#newer", kept)), "newer");
  assert.equal(takeToken(tab("https://host/trip/abc", kept)), "newer");
});

test("where nothing can be kept the link stays whole", () => {
  const forgetful = tab("https://host/trip/abc#secret");
  forgetful.sessionStorage.setItem = () => {
    throw new Error("denied");
  };
  assert.equal(takeToken(forgetful), "secret");
  assert.equal(forgetful.location.hash, "#secret");
});

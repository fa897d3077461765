// The page in a real browser, against a real server on the bundled model.
// ESPALIER_URL is the server, CHROMIUM the browser.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const URL = process.env.ESPALIER_URL;
const PUZZLE = "Use each of the numbers 24, 16, 22, 11 exactly once with +, -, * and / to make 66.";
let browser;

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"],
  });
});
after(() => browser?.close());

// Opens a page of the server; `close` fails if it complained or asked anybody else for anything.
async function open({ width = 1280, height = 900, colorScheme = "light", path = "/" } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (said) => { if (["error", "warning"].includes(said.type())) complaints.push(said.text()); });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    if (!request.url().startsWith(`${URL}/`) && !request.url().startsWith("data:")) complaints.push(`outside: ${request.url()}`);
  });
  await page.goto(URL + path);
  const close = async (expected = /^$/) => {
    await context.close();
    assert.deepEqual(complaints.filter((text) => !expected.test(text)), []);
  };
  return { page, close };
}

const ready = (page) => page.locator("#go:enabled").waitFor();
const over = (page) => page.locator("#status", { hasText: /Done|Stopped|Failed/ }).waitFor();
const effort = (page, name) => page.getByRole("radio", { name, exact: true }).check({ force: true });
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

test("a person picks an effort, asks, and watches the branches grow to an answer", async () => {
  const { page, close } = await open();
  await ready(page);
  await page.getByRole("button", { name: "Story", exact: true }).click();
  await effort(page, "medium");
  await page.getByRole("button", { name: "Ask", exact: true }).click();
  await over(page);
  assert.match(await page.locator("#status").textContent(), /^Done after/);
  assert.equal(await page.locator("#answer").textContent(), "The answer is 98.");
  await page.waitForFunction(() => document.querySelectorAll("#tree g g").length >= 4);
  assert.equal(await page.locator("#tree .selected").count(), 1);
  assert.match(await page.locator("#tree").getAttribute("aria-label"), /^\d+ branches: 0 growing, \d+ complete, \d+ pruned; branch \d+ is the answer$/);
  assert.match(await page.locator("#votes").textContent(), /98/);
  assert.match(await page.locator("#facts").textContent(), /self_consistency.*\d+ made.*Completion tokens\d+/);
  // The thought is folded, and holds no line of progress.
  assert.ok(!(await page.locator("#thought").isVisible()));
  await page.getByText("Thought", { exact: true }).click();
  assert.match(await page.locator("#thought").textContent(), /14 \+ 35 = 49/);
  assert.doesNotMatch(await page.locator("#thought").textContent(), /branches ended/);
  await close();
});

test("the curl command is the request that was made", async () => {
  const { page, close } = await open();
  await ready(page);
  await effort(page, "none");
  await page.locator("#question").fill("It's 1 + 1?");
  const sent = page.waitForRequest((request) => request.method() === "POST");
  await page.locator("#question").press("Control+Enter");
  const body = (await sent).postData();
  await over(page);
  const curl = await page.locator("#curl").textContent();
  assert.ok(curl.startsWith(`curl -N ${URL}/v1/chat/completions -H 'content-type: application/json' -d '`), curl);
  assert.ok(curl.endsWith(` -d '${body.replaceAll("'", "'\\''")}'`), curl);
  assert.equal(typeof JSON.parse(body).seed, "number");
  await close();
});

test("an error is shown in words, beside its field", async () => {
  const { page, close } = await open();
  await ready(page);
  await page.locator("#question").fill("Compute 1 + 1. ".repeat(1000));
  await page.locator("#go").click();
  await over(page);
  assert.match(await page.getByRole("alert").textContent(), /maximum context length is .* \(field: messages\)$/);
  assert.match(await page.locator("#status").textContent(), /^Failed/);
  // The browser itself notes the status, and nothing else is to be noted.
  await close(/the server responded with a status of 400/);
});

test("what a model says is never markup", async () => {
  const { page, close } = await open();
  await ready(page);
  await page.route("**/v1/chat/completions", (route) => route.fulfill({
    contentType: "text/event-stream",
    body: [
      { choices: [{ index: 0, delta: { content: "<img src=x onerror=alert(1)> \\boxed{<b>1</b>}", reasoning_content: "<i>t</i>" } }] },
      { choices: [{ index: 0, delta: {} }], search: { type: "progress", index: 0, branches: { made: 3, ended: 1, planned: 2 },
        tokens: 9, budget: 20, leading: null, changed: [
          { id: 1, parent: 0, tokens: 5, state: "complete", answer: "<b>1</b>", score: -1 },
          { id: 2, parent: 1, tokens: 3, state: "growing" }, { id: 3, parent: 1, tokens: 1, state: "pruned" }] } },
    ].map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join(""),
  }));
  await page.locator("#go").click();
  await over(page);
  assert.match(await page.locator("#answer").textContent(), /^<img src=x onerror=alert\(1\)> <b>1<\/b>$/);
  assert.equal(await page.locator("#answer img, #answer b, #thought i, #votes b, #tree b").count(), 0);
  // A tree of two levels is drawn, and a stream that breaks off is no answer.
  await page.waitForFunction(() => document.querySelectorAll("#tree g g").length === 3);
  assert.match(await page.getByRole("alert").textContent(), /broke off/);
  await close();
});

test("a search over steps is drawn as a tree with its scores, by the parameters of its mode", async () => {
  const { page, close } = await open();
  await ready(page);
  await page.locator("#question").fill(PUZZLE);
  await page.locator("#more summary").click();
  await page.locator("#mode option[value=beam]").waitFor({ state: "attached" });
  await page.locator("#mode").selectOption("mcts");
  assert.equal(await page.locator("#parameters [name=simulations]").count(), 1);
  assert.equal(await page.locator("#parameters [name=expansion]").count(), 0);
  await page.locator("#mode").selectOption("beam");
  await page.locator("#parameters [name=width]").fill("3");
  await page.locator("#parameters [name=final]").selectOption("best");
  const sent = page.waitForRequest((request) => request.method() === "POST");
  await page.getByRole("button", { name: "Ask", exact: true }).click();
  const { reasoning } = JSON.parse((await sent).postData());
  assert.deepEqual(reasoning, { mode: "beam", width: 3, final: "best" });
  await over(page);
  // The answer's trajectory has a step for every branch that led to it.
  await page.locator("#tree .led").nth(1).waitFor({ state: "attached" });
  assert.equal(await page.locator("#tree .selected").count(), 1);
  const titles = await page.locator("#tree g g title").allTextContents();
  assert.ok(titles.some((title) => /pruned, \d+ tokens, score 0\.\d{3}/.test(title)), titles.join("; "));
  const strengths = await page.locator("#tree g g path").evaluateAll((paths) => new Set(paths.map((path) => path.getAttribute("stroke-opacity"))).size);
  assert.ok(strengths > 1, "scores are seen");
  assert.match(await page.locator("#facts").textContent(), /beam.*Verifierseedling-prm, \d+ steps/);
  await close();
});

// A mode and what is filled in, how many branches there are at least, and whether they have scores.
for (const [mode, filled, least, scored] of [
  ["cot", {}, 1, false],
  ["best_of_n", { "#branches": "4" }, 4, true],
  ["lookahead", { "#parameters [name=width]": "2", "#parameters [name=expansion]": "2" }, 3, true],
  ["auto", { "#parameters [name=simulations]": "16" }, 2, true],
]) {
  test(`${mode} is drawn, ${scored ? "with" : "without"} scores`, async () => {
    const { page, close } = await open();
    await ready(page);
    await page.locator("#question").fill(PUZZLE);
    await page.locator("#more > summary").click();
    await page.locator(`#mode option[value=${mode}]`).waitFor({ state: "attached" });
    await page.locator("#mode").selectOption(mode);
    for (const [field, value] of Object.entries(filled)) await page.locator(field).fill(value);
    await page.locator("#go").click();
    await over(page);
    await page.waitForFunction((least) => document.querySelectorAll("#tree g g").length >= least, least);
    assert.equal(await page.locator("#tree .selected").count(), 1);
    const titles = await page.locator("#tree g g title").allTextContents();
    assert.equal(titles.some((title) => /score [01]\.\d{3}/.test(title)), scored, titles.join("; "));
    assert.match(await page.locator("#facts").textContent(), new RegExp(mode));
    assert.match(await page.locator("#answer").textContent(), /answer is/);
    await close();
  });
}

test("branches are seen growing, and Stop ends the request", async () => {
  const { page, close } = await open();
  await ready(page);
  await page.locator("#question").fill(PUZZLE);
  await effort(page, "max");
  await page.locator("#more > summary").click();
  await page.locator("#branches").fill("256");
  await page.locator("#go").click();
  // As many as the server's memory for KV lets live at once.
  await page.waitForFunction(() => document.querySelectorAll("#tree .growing").length >= 4);
  assert.match(await page.locator("#spent").textContent(), /of 524,288 tokens/);
  await page.locator("#stop").click();
  await over(page);
  assert.match(await page.locator("#status").textContent(), /^Stopped/);
  assert.ok(await page.locator("#go").isEnabled());
  await close();
});

for (const [width, height] of [[360, 740], [1280, 900]]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`several choices fit ${width} pixels in ${colorScheme}, and nothing moves`, async () => {
      const { page, close } = await open({ width, height, colorScheme });
      await ready(page);
      const place = () => page.locator("#answer").evaluate((node) => Math.round(node.getBoundingClientRect().top + scrollY));
      await page.locator("#more > summary").click();
      await page.locator("#n").fill("3");
      await effort(page, "high");
      const before = await place();
      await page.locator("#go").click();
      await over(page);
      assert.equal(await page.locator("#choices button").count(), 3);
      assert.ok(Math.abs((await place()) - before) <= 40, "only the choices' tabs took room");
      await page.getByRole("button", { name: "Choice 3" }).click();
      await page.waitForFunction(() => document.querySelectorAll("#tree g g").length >= 8);
      assert.match(await page.locator("#answer").textContent(), /answer is/);
      assert.ok((await overflow(page)) <= 0, "nothing to scroll sideways");
      const paper = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const light = paper.match(/\d+/g).slice(0, 3).every((part) => Number(part) > 128);
      assert.equal(light, colorScheme === "light", paper);
      await close();
    });
  }
}

test("the documentation is rendered without asking anybody else", async () => {
  const { page, close } = await open({ path: "/docs" });
  const operation = page.locator("#operations-chat-createChatCompletion");
  await operation.getByRole("button").first().click();
  await operation.getByText("Request body").waitFor();
  await page.waitForLoadState("networkidle");
  await close();
});

// Speaks the public API only: GET v1/models, POST v1/chat/completions, and
// GET openapi.json for the modes that there are. What a model says reaches the
// page as text, never as markup. Addresses are relative, for prefixes of gateways.
"use strict";

const $ = (id) => document.getElementById(id);
const make = (tag, text, props) => Object.assign(document.createElement(tag), { textContent: text ?? "" }, props);
const number = new Intl.NumberFormat("en");
const EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
const EXAMPLES = {
  seedling: [
    ["Story", "Mina has 14 apples. Tom gives Mina 35. Then the number doubles. How many apples does Mina have now?"],
    ["Longer story", "Zoe starts with 59 beads. Then Zoe gets 8 times as many. Zoe buys 28 more. Zoe splits them into 5 equal piles and keeps one pile. Zoe loses 20. How many beads are left?"],
    ["Expression", "Compute (17 + 5) * (9 - 4)."],
    ["Target", "Use each of the numbers 20, 3, 7, 5 exactly once with +, -, * and / to make 19."],
  ],
};
// A line of progress for people; the page draws it instead.
const PROGRESS = /^\d+ of \d+ branches ended, [^\n]*\n$/;

let model = null;
let run = null; // the request under way or shown
let shown = 0; // the choice that is shown

// ---- one choice, as far as it is known ----

function choice() {
  return { branches: new Map(), votes: [], tones: new Map(), planned: null, made: 0, ended: 0, tokens: 0, budget: 0,
    content: "", thought: "", finish: null, report: null };
}

function progress(c, report) {
  Object.assign(c, { planned: report.branches.planned, made: report.branches.made, ended: report.branches.ended,
    tokens: report.tokens, budget: report.budget });
  for (const change of report.changed) {
    const known = c.branches.get(change.id) ?? { length: 0, row: null };
    c.branches.set(change.id, Object.assign(known, change));
  }
  const tally = new Map();
  for (const { answer } of c.branches.values()) if (answer !== undefined) tally.set(answer, (tally.get(answer) ?? 0) + 1);
  c.votes = [...tally].sort((a, b) => b[1] - a[1]);
  // The answers with the most votes have colours of their own, the leader that of leaves.
  c.tones = new Map(c.votes.slice(0, 7).map(([answer], rank) => [answer, `t${rank}`]));
}

const NOTHING = choice();
const tone = (c, answer) => c.tones.get(answer) ?? "";

// ---- asking ----

function request() {
  const value = (id) => (($(id).value.trim() === "" || !$(id).checkValidity()) ? undefined : $(id).value.trim());
  const amount = (id) => (value(id) === undefined ? undefined : Number(value(id)));
  const budget = { tokens: amount("tokens"), seconds: amount("seconds") };
  const reasoning = { mode: value("mode"), branches: amount("branches"),
    budget: budget.tokens ?? budget.seconds ? budget : undefined };
  for (const field of $("parameters").querySelectorAll("input, select")) {
    if (field.value.trim() !== "" && field.checkValidity())
      reasoning[field.name] = field.type === "number" ? Number(field.value) : { true: true, false: false }[field.value] ?? field.value;
  }
  return {
    model,
    messages: [{ role: "user", content: $("question").value }],
    reasoning_effort: document.querySelector("input[name=effort]:checked").value,
    reasoning: Object.values(reasoning).some((value) => value !== undefined) ? reasoning : undefined,
    temperature: amount("temperature"), n: amount("n"),
    // Drawn here, so that the curl command gives this very answer. Larger seeds are no exact numbers here.
    seed: amount("seed") ?? crypto.getRandomValues(new Uint32Array(1))[0],
    stream: true, stream_options: { include_usage: true, include_search: true },
  };
}

function curl(body) {
  const url = new URL("v1/chat/completions", location.href);
  const text = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl -N ${url} -H 'content-type: application/json' -d '${text}'`;
}

async function ask(event) {
  event.preventDefault();
  if (run?.active) return;
  const body = request();
  const mine = { active: true, abort: new AbortController(), started: performance.now(), error: null, usage: null,
    choices: Array.from({ length: body.n ?? 1 }, choice) };
  run = mine;
  shown = 0;
  $("curl").textContent = curl(body);
  $("report-box").open = $("thought-box").open = false;
  $("go").disabled = true;
  $("stop").disabled = false;
  status("Asking…");
  tabs();
  draw();
  if (innerWidth < 992) $("search-title").scrollIntoView({ behavior: still.matches ? "auto" : "smooth", block: "start" });
  let outcome = "Done";
  try {
    const response = await fetch("v1/chat/completions", { method: "POST", signal: mine.abort.signal,
      headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    if (!response.ok) throw await refusal(response);
    status("Growing…");
    if (!(await read(response, mine))) throw new Error("The answer broke off before its end.");
  } catch (error) {
    if (error.name === "AbortError") outcome = "Stopped";
    else {
      outcome = "Failed";
      mine.error = error instanceof TypeError ? "The server cannot be reached, or the connection broke." : error.message;
    }
  }
  mine.active = false;
  mine.seconds = (performance.now() - mine.started) / 1000;
  $("go").disabled = false;
  $("stop").disabled = true;
  const tokens = mine.choices.reduce((sum, c) => sum + c.tokens, 0);
  render(); // first what there is to be seen, then that it is all
  status(`${outcome} after ${mine.seconds.toFixed(1)} s` +
    (tokens ? `, ${number.format(Math.round(tokens / mine.seconds))} tokens/s` : ""));
}

async function refusal(response) {
  let said = `The server answered with status ${response.status}.`;
  try {
    const { error } = await response.json();
    said = error.param ? `${error.message} (field: ${error.param})` : error.message;
  } catch { /* no envelope: a proxy, perhaps */ }
  const wait = response.headers.get("retry-after");
  return new Error(wait ? `${said} Try again in ${wait} s.` : said);
}

// Reads the stream to its end; whether it came to its end.
async function read(response, mine) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return false;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      if (!frame.startsWith("data:")) continue; // a comment keeps the connection open
      const data = frame.slice(5).trim();
      if (data === "[DONE]") return true;
      take(JSON.parse(data), mine);
    }
    draw();
  }
}

function take(chunk, mine) {
  if (chunk.error) throw new Error(chunk.error.message);
  mine.usage = chunk.usage ?? mine.usage;
  for (const { index, delta, finish_reason } of chunk.choices) {
    const c = mine.choices[index];
    c.content += delta.content ?? "";
    const thought = delta.reasoning_content ?? "";
    if (!PROGRESS.test(thought)) c.thought += thought;
    c.finish = finish_reason ?? c.finish;
    if (chunk.search?.type === "progress") progress(c, chunk.search);
    if (chunk.search?.type === "report") {
      c.report = chunk.search;
      c.tokens = c.report.spent.tokens;
    }
  }
}

// ---- showing ----

const status = (text) => { $("status").textContent = text; };
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };

function tabs() {
  const many = run.choices.length > 1;
  $("choices").hidden = !many;
  $("choices").replaceChildren(...(many ? run.choices : []).map((_, index) => {
    const tab = make("button", String(index + 1), { type: "button", ariaLabel: `Choice ${index + 1}` });
    tab.setAttribute("aria-pressed", index === shown);
    tab.onclick = () => { shown = index; tabs(); draw(); $("choices").children[index].focus(); };
    return tab;
  }));
}

let scheduled = false;
function draw() {
  if (!scheduled) {
    scheduled = true;
    requestAnimationFrame(() => { scheduled = false; render(); });
  }
}

function render() {
  const c = run ? run.choices[shown] : NOTHING;
  if (tree(c)) draw();
  if (!run) return;
  const of = c.planned ?? c.made;
  put($("counts"), c.made ? `${c.ended} of ${of} ${of === 1 ? "branch" : "branches"} ended` : "\u00a0");
  const share = c.budget ? Math.min(100, (100 * c.tokens) / c.budget) : 0;
  $("bar").style.width = `${share}%`;
  $("meter").setAttribute("aria-valuenow", share.toFixed(1));
  put($("spent"), c.budget ? `${number.format(c.tokens)} of ${number.format(c.budget)} tokens` : "\u00a0");
  votes(c);
  put($("error"), run.error ?? "");
  $("error").hidden = !run.error;
  answer(c);
  put($("thought"), c.thought);
  put($("thought-title"), c.thought ? "Thought" : run.active ? "Thought (none yet)" : "Thought (none)");
  facts(c);
}

function votes(c) {
  const rows = c.votes;
  const won = [...c.branches.values()].find((b) => b.state === "selected")?.answer;
  const key = JSON.stringify([rows, won]);
  if ($("votes").dataset.key === key) return;
  $("votes").dataset.key = key;
  const items = rows.slice(0, 8).map(([answer, count]) => make("li", count > 1 ? `${answer} × ${count}` : answer,
    { className: `${tone(c, answer)}${answer === won ? " won" : ""}`, title: answer }));
  if (rows.length > 8) items.push(make("li", `${rows.length - 8} more`));
  $("votes").replaceChildren(...items);
}

// \boxed{...} as a box; all of it as text.
function answer(c) {
  const key = c.content + (c.finish === "length" ? " …" : "");
  if ($("answer").dataset.key === key) return;
  $("answer").dataset.key = key;
  const parts = key.split(/\\boxed\{([^{}]*)\}/);
  $("answer").replaceChildren(...parts.map((text, i) => (i % 2 ? make("span", text, { className: "boxed" }) : text)));
}

function facts(c) {
  const key = JSON.stringify([run.usage, c.report]);
  if ($("facts").dataset.key === key) return;
  $("facts").dataset.key = key;
  const { usage } = run, { report } = c, rows = [];
  const add = (name, value, wide) => {
    if (value === undefined || value === null || value === "") return;
    const row = make("div", "", { className: wide ? "wide" : "" });
    row.append(make("dt", name), make("dd", String(value)));
    rows.push(row);
  };
  if (report) {
    add("Mode", report.mode);
    add("Branches", `${report.branches.made} made, ${report.branches.kept} kept, ${report.branches.pruned} pruned`);
    add("Stopped", `${report.stop_reason.replaceAll("_", " ")}${c.finish === "length" ? ", answer cut" : ""}`);
    add("Seed", report.seed);
    add("Temperature", report.parameters.temperature?.toFixed(2));
    add("Sharing ratio", report.sharing_ratio?.toFixed(2));
    if (report.verifier) add("Verifier", `${report.verifier}, ${number.format(report.spent.verified_steps)} steps in ${number.format(report.spent.verifier_tokens)} tokens`);
  }
  if (usage) {
    const cached = usage.prompt_tokens_details.cached_tokens;
    add("Prompt tokens", number.format(usage.prompt_tokens) + (cached ? `, ${number.format(cached)} cached` : ""));
    add("Completion tokens", `${number.format(usage.completion_tokens)}, ${number.format(usage.completion_tokens_details.reasoning_tokens)} of them reasoning`);
  }
  if (report) add("Notes", report.notes.join("; "), true);
  $("facts").replaceChildren(...rows);
  $("report").textContent = report ? JSON.stringify({ usage, search: report }, null, 2) : "";
}

// ---- the tree: a trunk, and branches trained to both sides of it ----

const SVG = "http://www.w3.org/2000/svg";
const svg = (tag, attributes, parent) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent?.append(node);
  return node;
};
const still = matchMedia("(prefers-reduced-motion: reduce)");
const canvas = { of: null, size: "", domain: 40, rows: 0, marks: new Map() };

// Children by parent, and each branch's row: leaves have rows of their own, an
// inner branch lies amid its children. Children of the prompt take turns right and left.
function layout(c) {
  const children = new Map();
  for (const b of c.branches.values()) {
    const parent = c.branches.has(b.parent) ? b.parent : 0;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(b);
  }
  const rows = [0, 0];
  const place = (b, side, from) => {
    b.side = side;
    b.from = from;
    const below = children.get(b.id) ?? [];
    b.inner = below.length > 0;
    for (const child of below) place(child, side, b);
    b.aim = below.length ? below.reduce((sum, child) => sum + child.aim, 0) / below.length : rows[side]++;
  };
  const first = children.get(0) ?? [];
  const single = first.length < 2 && c.planned === 1;
  first.forEach((b, i) => place(b, single ? 0 : i % 2, null));
  return { single, rows: Math.max(rows[0], rows[1], single ? 1 : Math.ceil((c.planned ?? 8) / 2)), first: children };
}

// Draws; whether something still moves.
function tree(c) {
  const host = $("tree"), { width, height } = host.getBoundingClientRect();
  const reset = canvas.of !== c || canvas.size !== `${width}x${height}`;
  if (reset) {
    canvas.of = c;
    canvas.size = `${width}x${height}`;
    canvas.domain = 40;
    canvas.rows = 0;
    canvas.marks.clear();
    host.replaceChildren();
    host.setAttribute("viewBox", `0 0 ${width} ${height}`);
    canvas.wires = svg("path", { class: "wire" }, host);
    canvas.trunk = svg("path", { class: "trunk", "stroke-width": 6 }, host);
    canvas.all = svg("g", {}, host);
    canvas.pot = svg("path", { class: "pot" }, host);
    canvas.label = svg("text", {}, host);
  }
  const { single, rows } = layout(c);
  const bottom = height - 24, top = 14, middle = single ? 26 : width / 2;
  const step = Math.min(single ? bottom - top : 54, (bottom - 8 - top) / Math.max(rows, 1));
  const tall = (row) => bottom - 8 - (row + (single ? 0.55 : 0.5)) * step;
  if (canvas.rows !== rows) {
    canvas.rows = rows;
    // Trellis wires, where there is room for them.
    const at = Array.from({ length: step < 9 ? 5 : rows }, (_, i) => (step < 9 ? top + (i + .5) * (bottom - top) / 5 : tall(i)));
    canvas.wires.setAttribute("d", at.map((y) => `M4 ${y}H${width - 4}`).join(""));
    canvas.trunk.setAttribute("d", `M${middle} ${bottom + 4}V${Math.max(top - 6, tall(rows - 1) - (single ? 0 : step / 4))}`);
    canvas.trunk.setAttribute("stroke-width", single ? 4 : 6);
    canvas.pot.setAttribute("d", `M${middle - 13} ${bottom + 2}h26l-4 16h-18z`);
    canvas.label.setAttribute("x", middle + 20);
    canvas.label.setAttribute("y", bottom + 16);
    put(canvas.label, c.branches.size ? "prompt" : "");
  }
  if (!c.branches.size) {
    put(canvas.label, "prompt");
    if (!run) hint(width);
  }
  // A wide answer must fit beside its tip where there is room for labels at all.
  const labels = step >= 15;
  const room = (single ? width - middle : middle) - (labels ? Math.min(90, width * 0.12) : 14);
  const ease = still.matches || document.hidden ? 1 : 0.2;
  let moving = false;
  const near = (value, aim, tolerance) => {
    if (Math.abs(aim - value) < tolerance) return aim;
    moving = true;
    return value + (aim - value) * ease;
  };
  const end = (b) => (b.from ? end(b.from) : 0) + b.length;
  let longest = 38;
  for (const b of c.branches.values()) {
    b.length = near(b.length, b.tokens, 0.3);
    b.row = near(b.row ?? b.aim, b.aim, 0.02);
    longest = Math.max(longest, end(b));
  }
  canvas.domain = near(canvas.domain, longest * 1.05, 0.5);
  const won = [...c.branches.values()].find((b) => b.state === "selected");
  // The steps that led to the answer.
  const path = new Set();
  for (let b = won; b; b = b.from) path.add(b);
  canvas.all.setAttribute("class", won ? "over" : "");
  const thick = Math.max(1, Math.min(3.2, step * 0.3));
  const radius = Math.max(0.9, Math.min(5, step * 0.36));
  for (const b of c.branches.values()) {
    let mark = canvas.marks.get(b.id);
    if (!mark) {
      const group = svg("g", {}, canvas.all);
      mark = { group, title: svg("title", {}, group), path: svg("path", {}, group), tip: svg("circle", {}, group), text: svg("text", {}, group) };
      canvas.marks.set(b.id, mark);
    }
    const way = b.side ? -1 : 1, y = tall(b.row);
    const x = (tokens) => middle + way * (8 + ((room - 8) * tokens) / canvas.domain);
    const [x0, y0] = b.from ? [x(end(b.from)), tall(b.from.row)] : [middle, Math.min(bottom, y + Math.min(14, Math.max(step * 0.8, 3)))];
    const x1 = x(end(b)), bend = Math.min(14, Math.abs(x1 - x0));
    mark.path.setAttribute("d", `M${x0.toFixed(1)} ${y0.toFixed(1)}Q${x0.toFixed(1)} ${y.toFixed(1)} ${(x0 + way * bend).toFixed(1)} ${y.toFixed(1)}H${x1.toFixed(1)}`);
    const selected = b === won, led = path.has(b), state = b.state === "growing" && !run.active ? "cut" : b.state;
    mark.path.setAttribute("stroke-width", led ? thick + 1.2 : state === "pruned" ? thick * 0.7 : thick);
    // Steps that a verifier has scored are as strong as their score.
    const scored = b.score !== undefined && b.score >= 0 && b.score <= 1;
    mark.path.setAttribute("stroke-opacity", scored && !led ? (0.25 + 0.75 * b.score).toFixed(2) : 1);
    mark.tip.setAttribute("cx", x1);
    mark.tip.setAttribute("cy", y);
    mark.tip.setAttribute("r", selected ? Math.max(5, radius + 1.5) : state === "pruned" ? radius * 0.5 : radius);
    const agrees = won && b.answer !== undefined && b.answer === won.answer;
    const looks = `${state} ${b.answer === undefined ? "" : tone(c, b.answer)}${agrees ? " agrees" : ""}${led ? " led" : ""}`;
    if (mark.looks !== looks) {
      mark.looks = looks;
      mark.group.setAttribute("class", looks);
      if (selected) canvas.all.append(mark.group); // above the others
    }
    const short = (text) => (text.length > 12 ? `${text.slice(0, 11)}…` : text);
    const said = !labels ? "" : b.answer !== undefined ? short(b.answer) : scored && !b.inner ? b.score.toFixed(2) : "";
    put(mark.text, said);
    if (said) {
      mark.text.setAttribute("x", x1 + way * (radius + (selected ? 8 : 5)));
      mark.text.setAttribute("y", y + 4);
      mark.text.setAttribute("text-anchor", b.side ? "end" : "start");
    }
    put(mark.title, `Branch ${b.id}: ${state}, ${b.tokens} tokens` + (b.answer === undefined ? "" : `, answer ${b.answer}`) + (b.score === undefined ? "" : `, score ${b.score.toFixed(3)}`));
  }
  const count = (state) => [...c.branches.values()].filter((b) => b.state === state).length;
  if (c.branches.size && (!run.active || canvas.told !== c.ended)) {
    canvas.told = c.ended;
    host.setAttribute("aria-label", `${c.branches.size} branches: ${count("growing")} growing, ${count("complete") + count("selected")} complete, ${count("pruned")} pruned` +
      (won ? `; branch ${won.id} is the answer` : ""));
  }
  return moving;
}

function hint(width) {
  if (canvas.hint) return canvas.all.append(canvas.hint);
  canvas.hint = svg("text", { class: "hint", x: width / 2, y: 22 }, canvas.all);
  put(canvas.hint, "Ask, and watch the branches grow.");
}

// ---- setting up ----

async function hello() {
  try {
    const response = await fetch("v1/models");
    if (!response.ok) throw await refusal(response);
    const [first] = (await response.json()).data;
    model = first.id;
    put($("model"), `${model}, context ${number.format(first.max_model_len)}`);
    $("go").disabled = false;
    status("");
    $("examples").replaceChildren(...(EXAMPLES[model] ?? []).map(([name, text]) =>
      make("button", name, { type: "button", onclick: () => { $("question").value = text; $("question").focus(); } })));
    if (EXAMPLES[model] && !$("question").value) $("question").value = EXAMPLES[model][0][1];
  } catch (error) {
    status(error instanceof TypeError ? "The server cannot be reached; trying again…" : error.message);
    setTimeout(hello, 1500); // a model that loads is there soon
  }
}

// A field for each parameter of the mode; that for branches is always there.
function parameters() {
  const mode = $("mode").value;
  const own = Object.entries(known).filter(([name, { description }]) => {
    const modes = /^Of ([a-z_, ]+)\./.exec(description ?? "");
    return name !== "branches" && modes && modes[1].split(", ").includes(mode);
  });
  $("parameters").replaceChildren(...own.map(([name, { type, minimum, maximum, enum: words, description }]) => {
    const label = make("label", `${name.replaceAll("_", " ")} `, { title: description });
    const options = words?.filter(Boolean) ?? (type.includes("boolean") ? ["true", "false"] : null);
    const field = options
      ? make("select", "", { name })
      : make("input", "", { name, type: "number", min: minimum, max: maximum, step: type.includes("integer") ? 1 : "any", placeholder: "default" });
    if (options) field.append(make("option", "default", { value: "" }), ...options.map((word) => make("option", word, { value: word })));
    label.append(field);
    return label;
  }));
}

// The modes that this server knows, from its own document.
let known = {};
async function modes() {
  if ($("mode").options.length > 1) return;
  try {
    const { components } = await (await fetch("openapi.json")).json();
    known = components.schemas.ReasoningRequest.properties;
    $("mode").append(...known.mode.enum.filter(Boolean).map((name) => make("option", name, { value: name })));
  } catch { /* by effort is always there */ }
}

EFFORTS.forEach((effort, i) => {
  const label = make("label"), name = make("span", effort);
  name.style.setProperty("--size", `${Math.round((100 * i) / (EFFORTS.length - 1))}%`);
  label.append(make("input", "", { type: "radio", name: "effort", value: effort, checked: effort === "medium" }), name);
  $("efforts").append(label);
});
$("go").disabled = true;
$("ask").addEventListener("submit", ask);
$("stop").addEventListener("click", () => run?.abort.abort());
$("more").addEventListener("toggle", modes);
$("mode").addEventListener("change", parameters);
// A field that cannot be seen cannot be corrected.
$("ask").addEventListener("invalid", (event) => { if ($("more").contains(event.target)) $("more").open = true; }, true);
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && run?.active) run.abort.abort(); });
$("copy").addEventListener("click", async () => {
  await navigator.clipboard?.writeText($("curl").textContent).then(() => put($("copy"), "Copied"), () => put($("copy"), "Copying is not allowed here"));
});
new ResizeObserver(draw).observe($("tree"));
draw();
hello();

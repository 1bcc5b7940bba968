// The view: what is shown is in the address, so that every view is a link.

import { get, openSession, post, Refusal, save, sendAgain, unsent } from "/static/api.js";
import * as editor from "/static/editor.js";
import { drawFacets } from "/static/filters.js";
import { csv, el, percent, row, table } from "/static/list.js";

const $ = (id) => document.getElementById(id);
const view = { tab: "browse", where: "", order: "key", segment: "", queue: "" };
let state = null;
let shown = []; // the segments of the list
let following = null; // cursor or rank of the next page
let selected = null;
let since = 0; // when the selected segment was opened
let answer = null; // of the SQL box
let drawing = 0; // a later drawing makes an earlier one stop
let busy = Promise.resolve(); // keys and saves are done one after the other, however fast they come

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(view)) view[name] = given.get(name) || { tab: "browse", order: "key" }[name] || "";
}

function writeAddress(isNew = true) {
  const given = new URLSearchParams(Object.entries(view).filter(([, value]) => value));
  history[isNew ? "pushState" : "replaceState"](null, "", `#${given}`);
}

function say(text = "") {
  $("message").textContent = text;
  $("message").hidden = !text;
}

function guarded(act) {
  return async (...values) => {
    say();
    try {
      return await act(...values);
    } catch (error) {
      say(error.message);
      return null;
    }
  };
}

function inTurn(act) {
  busy = busy.then(guarded(act));
  return busy;
}

async function draw() {
  const mine = ++drawing;
  for (const tab of document.querySelectorAll("[data-tab]")) tab.setAttribute("aria-selected", String(tab.dataset.tab === view.tab));
  for (const form of document.querySelectorAll("[data-on]")) form.hidden = form.dataset.on !== view.tab;
  $("facets").hidden = view.tab !== "browse";
  document.body.dataset.tab = view.tab;
  [$("where").value, $("order").value] = [view.where, view.order];
  shown = [];
  following = null;
  $("list").replaceChildren();
  $("count").textContent = "";
  $("more").hidden = true;
  if (view.tab === "browse") await Promise.all([drawPage(mine), drawCounts(mine)]);
  else if (view.tab === "queue") await drawQueue(mine);
  else if (view.tab === "accuracy") await drawAccuracy();
  else if (view.tab === "compare") await drawDifferences(mine);
  else $("count").textContent = "Tables: segments, recordings, transcripts, languages, emotions, events, reviews, segments_reviewed.";
  if (view.segment && mine === drawing) await select(view.segment, false);
}

async function drawCounts(mine) {
  const facets = await get("/api/facets", { where: view.where });
  if (mine !== drawing) return;
  $("count").textContent = `${facets.n.toLocaleString("en")} segments`;
  drawFacets($("facets"), facets, (condition) => {
    view.where = view.where.trim() ? `${view.where.trim()} AND ${condition}` : condition;
    view.segment = "";
    writeAddress();
    guarded(draw)();
  });
}

async function drawPage(mine) {
  const page = await get("/api/segments", { where: view.where, order: view.order, after: following || "" });
  if (mine !== drawing) return;
  following = page.next;
  append(page.rows);
}

async function drawQueue(mine) {
  if (!view.queue) {
    $("count").textContent = "A queue holds the most doubtful segments of the current filter, and a share drawn by chance from the whole corpus, which tells how right the labels are.";
    return;
  }
  const page = await get(`/api/queue/${view.queue}`, { rank: shown.length, limit: 50 });
  if (mine !== drawing) return;
  append(page.rows);
  following = shown.length < page.n ? shown.length : null;
  $("more").hidden = following === null;
  const done = shown.filter((one) => one.review).length;
  $("count").textContent = `${page.n} segments, ${done} of the first ${shown.length} reviewed`;
}

async function drawAccuracy() {
  const found = await get("/api/accuracy");
  const lines = [
    ["Language right", found.language], ["Emotion right", found.emotion], ["Events right", found.events],
    ["Text without a correction", found.whole_text], ["Errors in the text (words; characters in zh, yue, ja)", found.error_rate],
  ];
  $("count").textContent = `${found.n_random} reviews of segments drawn by chance; ${found.n_left_out} more were unusable or unsure and do not count.`;
  $("list").replaceChildren(found.n_random
    ? el("div", { class: "accuracy" }, ...lines.map(([name, share]) => el("div", { class: "share" },
      el("span", {}, name),
      el("strong", {}, share ? percent(share.value, 1) : "–"),
      el("span", { class: "quiet" }, share ? `95 % interval: ${percent(share.low, 1)} to ${percent(share.high, 1)}` : "no review yet"),
      share ? el("span", { class: "interval" },
        el("i", { style: { left: `${100 * share.low}%`, width: `${Math.max(0.5, 100 * Math.min(1, share.high) - 100 * share.low)}%` } }),
        el("b", { style: { left: `${100 * Math.min(1, share.value)}%` } })) : null)))
    : el("p", {}, "Review segments of a queue that are marked “random”: from these alone, accuracy is told without bias."));
}

async function drawDifferences(mine) {
  const others = state.fingerprints.filter((one) => one !== state.fingerprint);
  if (!others.length) {
    $("count").textContent = "This output holds the labels of one model and one set of settings only.";
    return;
  }
  if ($("other").options.length !== others.length) $("other").replaceChildren(...others.map((one) => el("option", { value: one }, one.slice(0, 8))));
  const page = await get("/api/differences", { other: $("other").value, what: $("what").value, rank: shown.length });
  if (mine !== drawing) return;
  $("count").textContent = `${page.n.toLocaleString("en")} segments differ`;
  const list = page.rows.map((pair) => {
    const made = el("div", { class: "pair-row" },
      el("button", { class: "row", dataset: { id: pair.segment_id } },
        el("span", { class: "where quiet" }, el("span", { class: "id" }, pair.segment_id)),
        side("these", pair.language, pair.emotion, pair.text), side("other", pair.other_language, pair.other_emotion, pair.other_text)));
    if (!state.read_only) made.append(el("span", { class: "actions" }, vote("These are right", pair, ""), vote("The other is right", pair, "other_")));
    return made;
  });
  $("list").append(...list);
  shown.push(...page.rows);
  following = shown.length < page.n ? shown.length : null;
  $("more").hidden = following === null;
}

function side(name, language, emotion, text) {
  return el("span", { class: "side" }, el("b", {}, name), ` ${text || "no words"} `, el("span", { class: "chip" }, language), el("span", { class: "chip" }, emotion));
}

function vote(text, pair, prefix) {
  const made = el("button", { type: "button" }, text);
  made.addEventListener("click", guarded(async () => {
    const segment = await fetchRow(pair.segment_id);
    await store(segment, {
      verdict: prefix ? "fixed" : "right", text: pair[`${prefix}text`], language: pair[`${prefix}language`],
      emotion: pair[`${prefix}emotion`], events: segment.events.map((event) => event.event), note: prefix ? "vote: other" : "vote: these",
    });
    made.parentElement.replaceChildren(el("span", { class: "mark right" }, `✓ ${text}`));
  }));
  return made;
}

function append(rows) {
  shown.push(...rows);
  $("list").append(...rows.map((segment) => row(segment, segment.segment_id === view.segment)));
  $("more").hidden = !following;
  if (!shown.length) $("list").replaceChildren(el("p", {}, "No segment fits this condition."));
}

const fetchRow = (id) => get(`/api/segments/${encodeURIComponent(id)}/row`);

async function select(id, isNew = true) {
  view.segment = id;
  if (isNew) writeAddress(false);
  for (const one of document.querySelectorAll(".row")) one.setAttribute("aria-current", String(one.dataset.id === id));
  const known = shown.find((one) => one.segment_id === id);
  selected = { ...(await fetchRow(id)), sample: known?.sample || "" };
  since = performance.now();
  await editor.draw($("editor"), selected, state, { save: (verdict) => inTurn(() => saveSelected(verdict)), undo: () => inTurn(undo) });
  if (isNew && matchMedia("(max-width: 800px)").matches) $("editor").scrollIntoView({ block: "start" });
  editor.fetchAhead(shown.slice(place() + 1, place() + 4), () => view.segment === id);
}

function place() {
  return shown.findIndex((one) => one.segment_id === view.segment);
}

async function step(by) {
  const next = shown[place() + by];
  if (!next) return;
  await select(next.segment_id);
  document.querySelector(`.row[aria-current="true"]`)?.scrollIntoView({ block: "nearest" });
}

async function store(segment, labels) {
  return save({
    segment_id: segment.segment_id, revision: segment.revision, sample: segment.sample || "",
    request_id: crypto.randomUUID(), spent_s: (performance.now() - since) / 1000, ...labels,
  });
}

async function saveSelected(verdict) {
  if (!selected) return;
  const form = $("correct");
  const said = {
    text: selected.text, language: selected.language.label, emotion: selected.emotion.label,
    events: selected.events.map((event) => event.event),
  };
  const values = editor.filled(form);
  const labels = verdict === "right" ? { ...said, note: values.note } : values;
  try {
    await store(selected, { verdict, ...labels });
  } catch (error) {
    if (!(error instanceof Refusal) || error.status !== 409) throw error;
    const theirs = error.error.theirs;
    selected.revision = theirs.revision;
    say(`${error.message}. Theirs: “${theirs.labels.text}” (${theirs.labels.language}, ${theirs.labels.emotion})`);
    return;
  }
  await refresh(selected.segment_id);
  await step(1);
}

async function undo() {
  if (!selected?.revision) return;
  await post("/api/reviews/undo", { segment_id: selected.segment_id, revision: selected.revision });
  await refresh(selected.segment_id);
}

async function refresh(id) {
  const at = place();
  const fresh = { ...(await fetchRow(id)), sample: shown[at]?.sample || "" };
  if (at >= 0 && view.tab !== "compare") {
    shown[at] = fresh;
    document.querySelector(`.row[data-id="${CSS.escape(id)}"]`)?.replaceWith(row(fresh, true));
  }
  if (selected?.segment_id === id) {
    selected = fresh;
    await editor.draw($("editor"), selected, state, { save: (verdict) => inTurn(() => saveSelected(verdict)), undo: () => inTurn(undo) });
  }
}

const KEYS = {
  " ": () => editor.toggle(), j: () => step(1), k: () => step(-1), a: () => saveSelected("right"),
  x: () => saveSelected("unusable"), u: () => saveSelected("unsure"), z: () => undo(),
  e: () => document.querySelector("#correct textarea")?.focus(), "/": () => $("where").focus(), "?": () => $("help").showModal(),
};

function onKey(event) {
  const isWriting = event.target.closest("input, textarea, select");
  if (event.key === "Enter" && event.ctrlKey && isWriting?.form?.id === "correct") {
    event.preventDefault();
    inTurn(() => saveSelected("fixed"));
  } else if (event.key === "Escape" && isWriting) isWriting.blur();
  else if (!isWriting && !event.ctrlKey && !event.metaKey && !event.altKey && event.key in KEYS && !(event.key === " " && event.target.closest("button:not(.row)"))) {
    if (state.read_only && "axuz".includes(event.key)) return;
    event.preventDefault();
    inTurn(KEYS[event.key]);
  }
}

function listen() {
  addEventListener("keydown", onKey);
  addEventListener("popstate", guarded(async () => { readAddress(); await draw(); }));
  addEventListener("unsent", ({ detail }) => {
    $("unsent").hidden = !detail;
    $("unsent").textContent = detail ? `${detail} not saved yet` : "";
  });
  addEventListener("beforeunload", (event) => { if (unsent().length) event.preventDefault(); });
  addEventListener("online", sendAgain);
  setInterval(() => { if (unsent().length) sendAgain(); }, 5000);
  $("tabs").addEventListener("click", (event) => {
    const tab = event.target.dataset.tab;
    if (!tab) return;
    Object.assign(view, { tab, segment: "" });
    editor.stop();
    $("editor").hidden = true;
    writeAddress();
    guarded(draw)();
  });
  $("filter").addEventListener("submit", (event) => {
    event.preventDefault();
    Object.assign(view, { where: $("where").value, order: $("order").value, segment: "" });
    writeAddress();
    guarded(draw)();
  });
  $("where").addEventListener("search", () => $("filter").requestSubmit());
  $("order").addEventListener("change", () => $("filter").requestSubmit());
  for (const id of ["other", "what"]) $(id).addEventListener("change", guarded(draw));
  $("new-queue").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(async () => {
      const made = await post("/api/queue", {
        where: view.where, size: Number($("queue-size").value), share_random: Number($("queue-share").value),
      });
      view.queue = made.queue_id;
      writeAddress();
      await draw();
      if (shown.length) await select(shown[0].segment_id);
    })();
  });
  $("sql-form").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(async () => {
      answer = await get("/api/sql", { sql: $("sql").value });
      $("count").textContent = `${answer.rows.length} rows${answer.truncated ? ", and more that are not shown" : ""}`;
      $("list").replaceChildren(table(answer.columns, answer.rows));
    })();
  });
  $("sql-csv").addEventListener("click", guarded(async () => {
    if (!answer) throw new Error("Run a statement first.");
    const file = new Blob([csv(answer.columns, answer.rows)], { type: "text/csv" });
    const link = el("a", { href: URL.createObjectURL(file), download: "answer.csv" });
    link.click();
    URL.revokeObjectURL(link.href);
  }));
  $("list").addEventListener("click", (event) => {
    const chosen = event.target.closest(".row");
    if (chosen) inTurn(() => select(chosen.dataset.id));
  });
  $("more").addEventListener("click", guarded(() => (
    { queue: drawQueue, compare: drawDifferences }[view.tab] || drawPage)(drawing)));
}

async function start() {
  readAddress();
  await openSession();
  state = await get("/api/state");
  document.title = `${state.root.split("/").at(-1)} – Explorer`;
  $("title").textContent = state.root.split("/").slice(-2).join("/");
  $("title").title = `${state.root}, commit ${state.seq}, labels ${state.fingerprint.slice(0, 8)}`;
  if (state.newest_seq > state.seq) say(`Commit ${state.newest_seq} is newer than the one shown (${state.seq}); start the explorer again to see it.`);
  if (state.read_only) document.querySelector('[data-tab="queue"]').hidden = true;
  listen();
  dispatchEvent(new CustomEvent("unsent", { detail: unsent().length }));
  if (unsent().length) await sendAgain();
  await draw();
}

guarded(start)();

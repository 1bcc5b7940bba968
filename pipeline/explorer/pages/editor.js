// One segment: the player with its words, and the form that corrects it.

import WaveSurfer from "/static/wavesurfer.js";
import { get } from "/static/api.js";
import { clock, el, emoji, percent } from "/static/list.js";

let player = null;

export function stop() {
  if (player) player.destroy();
  player = null;
}

export function toggle() {
  if (player) player.playPause();
}

export async function draw(place, segment, state, actions) {
  stop();
  const wave = el("div", { id: "wave" });
  const words = el("p", { id: "words", lang: segment.language.label });
  const time = el("output", { id: "time" }, clock(0));
  const play = el("button", { id: "play", type: "button", "aria-label": "play or pause" }, "▶");
  const problem = el("p", { id: "audio-problem", class: "quiet", hidden: true });
  play.addEventListener("click", toggle);
  const spans = drawWords(words, segment);
  place.replaceChildren(
    el("h2", {}, el("span", { class: "id" }, segment.segment_id), segment.channel ? ` channel ${segment.channel}` : ""),
    el("div", { class: "player" }, play, wave, time), problem, words,
    ...(state.read_only ? [facts(segment)] : [form(segment, state, actions), facts(segment)]),
  );
  place.hidden = false;
  await listen(segment, { wave, time, play, problem, spans });
}

function drawWords(place, segment) {
  if (!segment.words.length) {
    place.append(segment.text || el("i", { class: "quiet" }, "no words"));
    return [];
  }
  const joined = !/\s/.test(segment.text);
  return segment.words.map((word) => {
    const span = el("span", { class: word.confidence < 0.5 ? "word doubtful" : "word", title: `${clock(word.start_s)}, confidence ${percent(word.confidence)}` }, word.word);
    span.addEventListener("click", () => player && player.setTime(word.start_s - segment.start_s));
    place.append(span, joined ? "" : " ");
    return { span, start: word.start_s - segment.start_s, end: word.end_s - segment.start_s };
  });
}

async function listen(segment, parts) {
  const id = encodeURIComponent(segment.segment_id);
  try {
    const { peaks, duration_s } = await get(`/api/segments/${id}/peaks`, { n: 400 });
    if (!parts.wave.isConnected) return; // another segment was chosen in the meantime
    const colours = getComputedStyle(document.documentElement);
    player = WaveSurfer.create({
      container: parts.wave, height: 72, peaks: [peaks], duration: duration_s,
      url: `/api/segments/${id}/clip.wav`, normalize: true, barWidth: 2, barGap: 1, barRadius: 1,
      waveColor: colours.getPropertyValue("--wave").trim(),
      progressColor: colours.getPropertyValue("--accent").trim(),
      cursorColor: colours.getPropertyValue("--ink").trim(),
    });
    player.on("timeupdate", (at) => {
      parts.time.value = clock(at);
      for (const { span, start, end } of parts.spans) span.classList.toggle("now", start <= at && at < end);
    });
    player.on("play", () => { parts.play.textContent = "❚❚"; });
    player.on("pause", () => { parts.play.textContent = "▶"; });
  } catch (error) {
    parts.problem.textContent = `The audio cannot be played: ${error.message}`;
    parts.problem.hidden = false;
  }
}

// The clips that are likely to be played next: to decode a late one from a long file takes a while.
// The browser keeps them for an hour, the server on its disk.
export async function fetchAhead(segments, isWanted) {
  for (const segment of segments) {
    if (!isWanted()) return;
    const id = encodeURIComponent(segment.segment_id);
    await fetch(`/api/segments/${id}/clip.wav`, { priority: "low" }).catch(() => null);
  }
}

function form(segment, state, actions) {
  const shown = segment.review || {
    text: segment.text, language: segment.language.label, emotion: segment.emotion.label,
    events: segment.events.map((event) => event.event), note: "",
  };
  const choose = (name, values, value) => {
    const select = el("select", { name }, ...values.map((one) => el("option", { value: one }, one)));
    select.value = value;
    return el("label", {}, name, select);
  };
  const boxes = state.events.map((event) => el("label", { class: "box" },
    el("input", { type: "checkbox", name: "events", value: event, checked: shown.events.includes(event) }),
    `${emoji(event)} ${event}`.trim()));
  const made = el("form", { id: "correct" },
    el("label", {}, "text", el("textarea", { name: "text", rows: 3, value: shown.text, lang: shown.language })),
    el("div", { class: "pair" }, choose("language", state.languages, shown.language), choose("emotion", state.emotions, shown.emotion)),
    el("fieldset", {}, el("legend", {}, "events"), ...boxes),
    el("label", {}, "note", el("input", { name: "note", value: shown.note || "" })),
    el("div", { class: "actions" },
      button("Right (a)", "primary", () => actions.save("right")),
      button("Save correction", "", () => actions.save("fixed")),
      button("Unusable (x)", "", () => actions.save("unusable")),
      button("Unsure (u)", "", () => actions.save("unsure")),
      segment.revision ? button("Undo (z)", "", actions.undo) : null),
    el("p", { id: "saved", role: "status" }, segment.review
      ? `${segment.review.verdict} by ${segment.review.reviewer || "someone"}, revision ${segment.revision}` : ""));
  made.addEventListener("submit", (event) => event.preventDefault());
  return made;
}

function button(text, kind, act) {
  const made = el("button", { type: "button", class: kind }, text);
  made.addEventListener("click", act);
  return made;
}

export function filled(form) {
  const values = new FormData(form);
  return {
    text: values.get("text"), language: values.get("language"), emotion: values.get("emotion"),
    events: values.getAll("events"), note: values.get("note"),
  };
}

function facts(segment) {
  const most = (label) => `${label.label} ${percent(label.probability)}, then ${label.runner_up} ${percent(label.runner_up_probability)}`;
  const pairs = [
    ["model's text", segment.rich_text], ["language", most(segment.language)], ["emotion", `${most(segment.emotion)}; if it must choose: ${segment.emotion.forced}`],
    ["events", segment.events.map((event) => `${event.event} ${percent(event.probability)}`).join(", ") || "none"],
    ["confidence", segment.text ? percent(segment.confidence, 1) : "no words"],
    ["file", segment.recording.uri], ["format", `${segment.recording.codec}, ${segment.recording.sample_rate_hz} Hz, ${segment.recording.channels} ch`],
    ...(segment.recording.warning ? [["warning", segment.recording.warning]] : []),
    ...Object.entries(segment.recording.extra),
  ];
  return el("details", { class: "facts" }, el("summary", {}, "What the model said"),
    el("dl", {}, ...pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])));
}

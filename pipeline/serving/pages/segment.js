// One segment as a list item: its words to click, and its labels with probability and runner-up.

const EMOTIONS = { happy: "😊", sad: "😔", angry: "😡", fearful: "😰", disgusted: "🤢", surprised: "😮" };
const EVENTS = { bgm: "🎼", applause: "👏", laughter: "😀", cry: "😭", sneeze: "🤧", cough: "😷" };
const LANGUAGES = { zh: "Chinese", en: "English", yue: "Cantonese", ja: "Japanese", ko: "Korean", nospeech: "no speech" };

function el(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const percent = (share) => `${Math.round(100 * share)} %`;
const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;

function chip(icon, name, probability, runnerUp, second) {
  const text = `${icon ? `${icon} ` : ""}${name} ${percent(probability)}`;
  const title = runnerUp ? `then ${runnerUp}, ${percent(second)}` : "";
  return el("span", { className: "chip", title }, text, ...(runnerUp && second >= 0.01 ? [el("small", {}, ` ${runnerUp} ${percent(second)}`)] : []));
}

export function showSegment(segment, playFrom) {
  const spans = [];
  const words = el("p", { className: "words", lang: segment.language });
  segment.words.forEach((word, index) => {
    const span = el("button", { type: "button", className: "word", title: `heard with ${percent(word.confidence)}` }, word.word);
    span.classList.toggle("doubtful", word.confidence < 0.5);
    span.addEventListener("click", () => playFrom(word.start_s));
    if (index && !["zh", "yue", "ja"].includes(segment.language)) words.append(" ");
    words.append(span);
    spans.push({ span, start: word.start_s, end: word.end_s });
  });
  if (!spans.length) words.append(el("span", { className: "quiet" }, segment.text || "no words"));
  const heading = el("button", { type: "button", className: "time" }, `${clock(segment.start)} – ${clock(segment.end)}`);
  heading.addEventListener("click", () => playFrom(segment.start));
  const events = segment.events.filter((one) => !["speech", "unknown"].includes(one.event));
  const chips = el("p", { className: "chips" },
    chip("", LANGUAGES[segment.language], segment.language_probability, segment.language_runner_up, segment.language_runner_up_probability),
    chip(EMOTIONS[segment.emotion], segment.emotion === "unknown" ? "emotion unknown" : segment.emotion, segment.emotion_probability, segment.emotion_runner_up, segment.emotion_runner_up_probability),
    ...events.map((one) => chip(EVENTS[one.event], one.event.replace("_", " "), one.probability)));
  return { item: el("li", {}, heading, words, chips), spans };
}

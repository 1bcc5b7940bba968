// Small pieces of the page. Everything from the tables is set as text, never as HTML.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const EMOJI = {
  happy: "😊", sad: "😔", angry: "😡", neutral: "", fearful: "😰", disgusted: "🤢",
  surprised: "😮", other: "", unknown: "", bgm: "🎼", speech: "", applause: "👏",
  laughter: "😀", cry: "😭", sneeze: "🤧", breath: "", cough: "🤧", sing: "🎤",
};
const MARKS = { right: "✓ right", fixed: "✎ fixed", unusable: "✕ unusable", unsure: "? unsure" };

export function emoji(label) {
  return EMOJI[label] || "";
}

export function clock(seconds) {
  const whole = Math.max(0, seconds);
  const minutes = Math.floor(whole / 60);
  return `${minutes}:${(whole - 60 * minutes).toFixed(1).padStart(4, "0")}`;
}

export function percent(value, digits = 0) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`;
}

export function row(segment, isSelected) {
  const shown = segment.review || {
    text: segment.text,
    language: segment.language.label,
    emotion: segment.emotion.label,
    events: segment.events.map((event) => event.event),
  };
  const events = shown.events.filter((event) => event !== "speech" && event !== "unknown");
  const labels = el("span", { class: "labels" },
    el("span", { class: "chip" }, shown.language),
    el("span", { class: "chip" }, `${emoji(shown.emotion)} ${shown.emotion}`.trim()),
    ...events.map((event) => el("span", { class: "chip" }, `${emoji(event)} ${event}`.trim())),
    segment.sample === "random" ? el("span", { class: "chip chance", title: "drawn by chance: counts for accuracy" }, "random") : null,
  );
  const mark = segment.review ? el("span", { class: `mark ${segment.review.verdict}` }, MARKS[segment.review.verdict]) : null;
  const confidence = segment.text ? segment.confidence : null;
  return el("button", {
    class: "row", dataset: { id: segment.segment_id }, "aria-current": String(isSelected),
    title: segment.segment_id,
  },
  el("span", { class: "text" }, shown.text || el("i", { class: "quiet" }, "no words")),
  labels,
  el("span", { class: "where quiet" },
    el("span", { class: "id" }, segment.recording_id), ` ${clock(segment.start_s)}–${clock(segment.end_s)}`,
    segment.channel ? ` channel ${segment.channel}` : ""),
  el("span", { class: "end" },
    mark,
    confidence === null ? null : el("meter", { min: 0, max: 1, low: 0.5, high: 0.8, optimum: 1, value: confidence, title: `confidence ${percent(confidence)}` })));
}

export function table(columns, rows) {
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", {}, name)))),
    el("tbody", {}, ...rows.map((values) => el("tr", {}, ...values.map((value) => el("td", {
      class: typeof value === "number" ? "number" : "",
    }, value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value))))))));
}

// A cell that begins with one of these is a formula for a spreadsheet.
export function csv(columns, rows) {
  const cell = (value) => {
    let text = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

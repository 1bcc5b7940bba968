// Facets: counts of labels and histograms; a click on one adds it to the SQL condition.

import { el } from "/static/list.js";

const quoted = (text) => `'${String(text).replaceAll("'", "''")}'`;
const CONDITIONS = {
  language: (value) => `language = ${quoted(value)}`,
  emotion: (value) => `emotion = ${quoted(value)}`,
  event: (value) => `list_contains(events, ${quoted(value)})`,
  verdict: (value) => `verdict = ${quoted(value)}`,
};
const TITLES = {
  language: "Language", emotion: "Emotion", event: "Event", verdict: "Reviewed",
  confidence: "Confidence", language_probability: "Probability of the language",
  emotion_probability: "Probability of the emotion", duration_s: "Seconds",
};

export function drawFacets(place, facets, add) {
  const open = new Set([...place.querySelectorAll("details[open]")].map((one) => one.dataset.name));
  const isFirst = !place.querySelector("details.facet");
  const isNarrow = matchMedia("(max-width: 800px)").matches;
  const parts = Object.keys(TITLES).filter((name) => name in facets).map((name) => {
    const body = Array.isArray(facets[name]) ? bars(name, facets[name], add) : histogram(name, facets[name], add);
    const isOpen = isFirst ? ["language", "emotion", "confidence"].includes(name) : open.has(name);
    return el("details", { class: "facet", open: isOpen, dataset: { name } }, el("summary", {}, TITLES[name]), body);
  });
  const all = el("details", { id: "all-facets", open: isFirst ? !isNarrow : place.querySelector("#all-facets").open },
    el("summary", {}, "Filters"), ...parts);
  place.replaceChildren(all);
}

function bars(name, counts, add) {
  const most = Math.max(1, ...counts.map(([, n]) => n));
  if (!counts.length) return el("p", { class: "quiet" }, "none");
  return el("ul", { class: "bars" }, ...counts.map(([value, n]) => {
    const button = el("button", { title: `only ${value}` },
      el("span", { class: "bar-fill", style: { width: `${(100 * n) / most}%` } }),
      el("span", { class: "name" }, value), el("span", { class: "n" }, n.toLocaleString("en")));
    button.addEventListener("click", () => add(CONDITIONS[name](value)));
    return el("li", {}, button);
  }));
}

function histogram(name, { edges, counts }, add) {
  const most = Math.max(1, ...counts);
  return el("div", { class: "histogram", role: "group", "aria-label": TITLES[name] },
    ...counts.map((n, place) => {
      const [from, to] = [edges[place], edges[place + 1]];
      const isLast = place === counts.length - 1;
      const label = `${from} to ${isLast && name === "duration_s" ? "…" : to}: ${n.toLocaleString("en")}`;
      const button = el("button", { title: label, "aria-label": label, disabled: !n },
        el("span", { style: { height: n ? `max(2px, ${(100 * n) / most}%)` : "0" } }));
      const end = isLast ? "" : ` AND ${name} < ${to}`;
      button.addEventListener("click", () => add(`${name} >= ${from}${end}`));
      return button;
    }),
    el("span", { class: "edges quiet" }, el("span", {}, String(edges[0])), el("span", {}, String(edges.at(-1)))));
}

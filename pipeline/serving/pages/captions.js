// Segments as SubRip or WebVTT, as the service writes them.

const time = (s, mark) => {
  const ms = Math.round(1000 * s);
  const two = (n) => String(Math.floor(n)).padStart(2, "0");
  return `${two(ms / 3600000)}:${two((ms / 60000) % 60)}:${two((ms / 1000) % 60)}${mark}${String(ms % 1000).padStart(3, "0")}`;
};
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

export function captions(segments, kind) {
  const mark = kind === "srt" ? "," : ".";
  const cues = segments.filter((one) => one.text).map((one, index) => {
    const span = `${time(one.start, mark)} --> ${time(one.end, mark)}`;
    return `${index + 1}\n${span}\n${kind === "srt" ? one.text : escaped(one.text)}\n`;
  });
  return (kind === "srt" ? "" : "WEBVTT\n\n") + cues.join("\n");
}

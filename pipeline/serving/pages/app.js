// The page of the service: choose, drop or record; labels appear as they come; play with the words.
import { labels } from "/static/stream.js";
import { captions } from "/static/captions.js";
import { showSegment } from "/static/segment.js";
import WaveSurfer from "/static/wavesurfer.js";

const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((one) => [one.id, one]));
let recording = null; // the bytes to label
let player = null;
let spans = []; // { span, start, end } of all words
let running = null; // AbortController of the request under way
let recorder = null;

const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

function tell(text) {
  part.message.textContent = text;
  part.message.hidden = !text;
}

function choose(blob, name) {
  recording = blob;
  part.chosen.textContent = `${name}, ${blob.size < 1e6 ? `${Math.ceil(blob.size / 1e3)} kB` : `${(blob.size / 1e6).toFixed(1)} MB`}`;
  part.go.disabled = false;
  tell("");
}

function showPlayer(blob) {
  if (player) player.destroy();
  const colours = getComputedStyle(document.documentElement);
  const colour = (name) => colours.getPropertyValue(name).trim();
  player = WaveSurfer.create({
    container: part.wave, height: 72, normalize: true, barWidth: 2, barGap: 1, barRadius: 1,
    waveColor: colour("--wave"), progressColor: colour("--accent"), cursorColor: colour("--ink"),
  });
  player.on("timeupdate", (at) => {
    part.time.value = clock(at);
    for (const { span, start, end } of spans) span.classList.toggle("now", start <= at && at < end);
  });
  player.on("play", () => { part.play.textContent = "❚❚"; });
  player.on("pause", () => { part.play.textContent = "▶"; });
  player.loadBlob(blob).catch(() => { part.wave.textContent = "This browser cannot play the file; its labels are below."; });
}

function offerDownloads(segments) {
  const texts = { "as-srt": captions(segments, "srt"), "as-vtt": captions(segments, "vtt"), "as-json": JSON.stringify(segments, null, 1) };
  for (const [id, text] of Object.entries(texts)) {
    URL.revokeObjectURL(part[id].href);
    part[id].href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  }
  part.downloads.hidden = !segments.length;
}

async function label() {
  if (running) running.abort();
  running = new AbortController();
  const mine = running;
  const segments = [];
  spans = [];
  tell("");
  part.segments.replaceChildren();
  part.result.hidden = false;
  part.downloads.hidden = true;
  part.state.textContent = "Labelling …";
  showPlayer(recording);
  const form = new FormData();
  form.append("file", recording, "recording");
  form.append("stream", "true");
  form.append("language", part.language.value);
  form.append("use_itn", String(part.itn.checked));
  try {
    for await (const event of labels(form, part.token.value, mine.signal)) {
      if (event.segment) {
        segments.push(event.segment);
        const shown = showSegment(event.segment, (at) => { player.setTime(at); player.play(); });
        part.segments.append(shown.item);
        spans.push(...shown.spans);
      }
    }
    part.state.textContent = segments.length ? `${segments.length} segment${segments.length > 1 ? "s" : ""}` : "Nothing was found to label.";
    offerDownloads(segments);
  } catch (error) {
    if (mine.signal.aborted) return;
    part.state.textContent = "";
    if (error.status === 401) {
      part["token-field"].hidden = false;
      part.token.focus();
    }
    if (!segments.length) part.result.hidden = true;
    tell(error.message);
  }
}

async function record() {
  if (recorder) {
    recorder.stop();
    return;
  }
  if (!navigator.mediaDevices) {
    tell("Browsers record only on https or on this machine: open the page as localhost, or use TLS.");
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const pieces = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      choose(new Blob(pieces, { type: recorder.mimeType }), "recording");
      recorder = null;
      part.record.setAttribute("aria-pressed", "false");
      part.record.textContent = "● Record";
      label();
    };
    recorder.start();
    part.record.setAttribute("aria-pressed", "true");
    part.record.textContent = "■ Stop and label";
  } catch (error) {
    tell(`The microphone cannot be used: ${error.message}`);
  }
}

part.file.addEventListener("change", () => { if (part.file.files[0]) choose(part.file.files[0], part.file.files[0].name); });
part.ask.addEventListener("submit", (event) => { event.preventDefault(); label(); });
part.record.addEventListener("click", record);
part.play.addEventListener("click", () => player.playPause());
for (const kind of ["dragover", "dragleave", "drop"]) {
  part.drop.addEventListener(kind, (event) => {
    event.preventDefault();
    part.drop.classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) choose(file, file.name);
  });
}

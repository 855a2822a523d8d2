"use strict";
// The page's whole life: one event stream of states, one MJPEG picture, two small charts.
const $ = id => document.getElementById(id);
const SPAN_S = 30;
const HUES = ["#3f6fb5", "#c2571a", "#2f8f5b", "#a8437f", "#8a7a1f", "#5b57c9", "#2b8f9c", "#b3453f"];
let frozen = false;
const history = [];

function verdict(state) {
  if (state.status === "rejected") return ["rejected", "abstained: " + state.message];
  if (state.status === "unanswered") return ["unanswered", "no answer: " + (state.message || "the model is starting")];
  if (state.status !== "answered") return ["waiting", "waiting for the first frame"];
  if (state.abstained) return ["abstained", "abstained: not sure enough to name it"];
  if (!state.steady) return ["unsteady", `unsteady: ${state.label}?`];
  return ["named", `${state.label} ${percent(state.probabilities[state.label])}`];
}

const percent = value => (value * 100).toFixed(0) + " %";

function setText(node, text) { if (node.textContent !== text) node.textContent = text; }

function bars(probabilities) {
  const box = $("bars");
  const names = Object.keys(probabilities);
  if (box.dataset.names !== names.join("\n")) {
    box.dataset.names = names.join("\n");
    box.replaceChildren(...names.map(name => {
      const row = document.createElement("div");
      row.className = "bar"; row.setAttribute("role", "listitem");
      const label = document.createElement("span"); label.textContent = name;
      const track = document.createElement("i"); track.append(document.createElement("b"));
      row.append(label, track, document.createElement("span"));
      return row;
    }));
    $("legend").replaceChildren(...names.map((name, k) => {
      const item = document.createElement("span"), mark = document.createElement("i");
      mark.style.background = HUES[k % HUES.length]; item.append(mark, name);
      return item;
    }));
  }
  names.forEach((name, k) => {
    const row = box.children[k];
    row.querySelector("b").style.width = (probabilities[name] * 100).toFixed(1) + "%";
    setText(row.lastChild, percent(probabilities[name]));
  });
}

function show(state) {
  const [kind, words] = verdict(state);
  $("verdict").dataset.kind = kind;
  setText($("verdict"), words);
  const answered = state.status === "answered";
  setText($("detail"), kind === "abstained" ? "Take the picture again, or ask a person."
    : kind === "unsteady" ? "Frames of this view got different answers: keep still."
    : !answered && $("bars").children.length ? "Below is the last answer, to an earlier picture."
    : kind === "named" && state.abstained === null ? "This bundle is not calibrated: it always names a class. Run edge-derm calibrate." : "");
  $("answer").style.opacity = answered ? 1 : 0.45;
  if (answered) {
    bars(state.probabilities);
    const share = state.entropy / Math.log(Object.keys(state.probabilities).length);
    $("entropy").value = share;
    setText($("entropy-text"), share.toFixed(2));
    setText($("set"), state.prediction_set === null ? "not calibrated" : state.prediction_set.join(", ") || "none of them");
    setText($("agreement"), percent(state.agreement));
  }
  if (state.latency_ms) setText($("latency"), state.latency_ms.total.toFixed(1) + " ms");
  setText($("fps"), state.fps ? state.fps.toFixed(0) + (state.dropped ? ` (${state.dropped} dropped)` : "") : "–");
}

function remember(state) {
  const now = performance.now() / 1000;
  history.push([now, state.status === "answered" ? Object.values(state.probabilities) : null, state.latency_ms ? state.latency_ms.total : null]);
  while (history.length && history[0][0] < now - SPAN_S) history.shift();
}

function chart(canvas, top, series) {
  const scale = window.devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
  const wide = canvas.clientWidth, high = canvas.clientHeight;
  if (canvas.width !== wide * scale) { canvas.width = wide * scale; canvas.height = high * scale; }
  const pen = canvas.getContext("2d"), now = performance.now() / 1000;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, wide, high);
  const x = t => 34 + (wide - 36) * (1 - (now - t) / SPAN_S), y = v => 4 + (high - 8) * (1 - v / top);
  pen.font = "11px system-ui"; pen.textBaseline = "middle"; pen.lineWidth = 1;
  for (const tick of [0, top / 2, top]) {
    pen.strokeStyle = style.getPropertyValue("--line"); pen.beginPath(); pen.moveTo(34, y(tick)); pen.lineTo(wide, y(tick)); pen.stroke();
    pen.fillStyle = style.getPropertyValue("--quiet"); pen.fillText(top < 2 ? tick.toFixed(1) : tick.toFixed(0), 4, Math.min(Math.max(y(tick), 8), high - 8));
  }
  pen.lineWidth = 1.6;
  series.forEach((pick, k) => {
    pen.strokeStyle = HUES[k % HUES.length]; pen.beginPath();
    let drawing = false;
    for (const entry of history) {
      const value = pick(entry);
      if (value === null) { drawing = false; continue; }
      drawing ? pen.lineTo(x(entry[0]), y(value)) : pen.moveTo(x(entry[0]), y(value));
      drawing = true;
    }
    pen.stroke();
  });
}

function draw() {
  const last = history.findLast(entry => entry[1]);
  const classes = last ? last[1].length : 0;
  chart($("chart-p"), 1, Array.from({length: classes}, (_, k) => entry => entry[1] ? entry[1][k] : null));
  const most = Math.max(10, ...history.map(entry => entry[2] || 0));
  chart($("chart-ms"), Math.ceil(most / 10) * 10, [entry => entry[2]]);
}

function link(state, words) { $("link").dataset.state = state; setText($("link"), words); }

function reloadVideo() { if (!frozen) $("video").src = "video.mjpg?" + Date.now(); }

function connect() {
  const events = new EventSource("events");
  let lost = false, last = Date.now();
  events.onmessage = event => {
    last = Date.now();
    if (lost) { lost = false; reloadVideo(); about(); }
    link("live", frozen ? "live (picture frozen)" : "live");
    const state = JSON.parse(event.data);
    remember(state);
    if (!frozen) show(state);
    if (!document.hidden) draw();
  };
  events.onerror = () => {
    lost = true;
    link("lost", "connection lost: trying again");
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, 1000);
  };
  const watch = setInterval(() => {
    if (events.readyState === EventSource.CLOSED) return clearInterval(watch);
    if (Date.now() - last > 4000) { lost = true; link("lost", "no news from the board: trying again"); }
  }, 1000);
}

function freeze() {
  frozen = !frozen;
  const video = $("video"), still = $("still");
  if (frozen) {
    still.width = video.naturalWidth || 640; still.height = video.naturalHeight || 480;
    still.getContext("2d").drawImage(video, 0, 0);
    video.removeAttribute("src");
  }
  still.hidden = !frozen; video.hidden = frozen;
  reloadVideo();
  $("freeze").setAttribute("aria-pressed", frozen);
}

async function snapshot() {
  let picture;
  if (frozen) picture = await new Promise(done => $("still").toBlob(done, "image/jpeg", 0.95));
  else picture = await (await fetch("snapshot.jpg")).blob();
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(picture);
  anchor.download = "snapshot-" + new Date().toISOString().replace(/[:.]/g, "-") + ".jpg";
  anchor.click();
  URL.revokeObjectURL(anchor.href);
}

async function about() {
  const facts = await (await fetch("about")).json();
  $("about").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name.replaceAll("_", " "); text.textContent = Array.isArray(value) ? value.join(", ") : String(value);
    row.append(term, text);
    return row;
  }));
}

$("freeze").addEventListener("click", freeze);
$("snapshot").addEventListener("click", snapshot);
$("video").addEventListener("error", () => setTimeout(reloadVideo, 1000));
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "f" || event.key === "F") freeze();
  if (event.key === "s" || event.key === "S") snapshot();
});
about().catch(() => {});
connect();

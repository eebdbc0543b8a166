// Pictures and labels come apart, and are laid over each other here: what is switched acts on this page alone.
// Video by WebRTC, where the server has it, comes as it was rendered.
"use strict";

const byId = (id) => document.getElementById(id);
const canvas = byId("picture");
const context = canvas.getContext("2d", { alpha: false });
const AGAIN_MS = 1000;

// The page's own address may hold credentials, which fetch() refuses: it sends those that the browser has kept.
const here = (name) => new URL(name, location.origin + location.pathname);

let classes = [];
let hidden = new Set();
let latest = null; // what came last, if it is not drawn yet
let drawn = null; // what is on the canvas
let stale = false; // it was drawn before something was switched
let drawing = false;
let times = [];
let number = 0;
let leftOut = 0;
let pictures = null; // stops them
let watching = null; // the session by WebRTC, instead of pictures

const CRC = new Uint32Array(256).map((_, n) => {
  for (let bit = 0; bit < 8; bit += 1) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

const view = () => document.querySelector("input[name=view]:checked").value;

// The chunk of a PNG that says how opaque each label is.
function opacities() {
  const chunk = new Uint8Array(12 + 256);
  const fields = new DataView(chunk.buffer);
  const opaque = view() === "mask" ? 255 : Math.round(2.55 * byId("opacity").value);
  fields.setUint32(0, 256);
  chunk.set([0x74, 0x52, 0x4e, 0x53], 4);
  classes.forEach((_, index) => { chunk[8 + index] = hidden.has(index) ? 0 : opaque; });
  fields.setUint32(8 + 256, crc(chunk.subarray(4, 8 + 256)));
  return chunk;
}

// The labels' PNG with that chunk before its first piece of picture.
function coloured(png) {
  const fields = new DataView(png.buffer, png.byteOffset, png.byteLength);
  let at = 8;
  while (fields.getUint32(at + 4) !== 0x49444154) at += 12 + fields.getUint32(at);
  return new Blob([png.subarray(0, at), opacities(), png.subarray(at)], { type: "image/png" });
}

async function draw(frame) {
  const shown = view();
  const [picture, labels] = await Promise.all([
    frame.picture || createImageBitmap(new Blob([frame.jpeg], { type: "image/jpeg" })),
    shown === "picture" ? null : createImageBitmap(coloured(frame.png)),
  ]);
  frame.picture = picture;
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
  }
  if (shown === "mask") context.fillRect(0, 0, canvas.width, canvas.height);
  else context.drawImage(picture, 0, 0);
  if (labels) {
    context.drawImage(labels, 0, 0);
    labels.close();
  }
  if (drawn && drawn !== frame) drawn.picture.close();
  drawn = frame;
}

// One at a time, and always the newest: what cannot be drawn in time is left out.
async function drawLatest() {
  if (drawing) return;
  drawing = true;
  try {
    while (latest || (stale && drawn)) {
      const frame = latest || drawn;
      latest = null;
      stale = false;
      await draw(frame);
      tell(frame.said);
    }
  } finally {
    drawing = false;
  }
}

function redraw() {
  byId("shown-opacity").textContent = `${byId("opacity").value} %`;
  stale = true;
  drawLatest();
}

function tell(said) {
  const now = performance.now();
  if (said.number !== number) {
    if (number && said.number > number + 1) leftOut += said.number - number - 1;
    times = times.filter((time) => now - time < 2000).concat(now);
  }
  number = said.number;
  const span = times.length > 1 ? times[times.length - 1] - times[0] : 0;
  byId("rate").textContent = span ? ((1000 * (times.length - 1)) / span).toFixed(1) : "–";
  byId("latency").textContent = `${Math.max(0, Date.now() - said.wall).toFixed(0)} ms`;
  byId("inside").textContent = `${said.inside.toFixed(0)} ms`;
  byId("left-out").textContent = String(leftOut);
  byId("size").textContent = `${canvas.width}×${canvas.height}`;
  byId("viewers").textContent = String(said.viewers);
  said.shares.forEach((share, index) => {
    const place = byId(`share-${index}`);
    if (place) place.textContent = share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "";
  });
  document.documentElement.dataset.frames = String(said.number);
}

function listClasses(info) {
  classes = info.classes;
  const known = new Set(classes.map((_, index) => index));
  hidden = new Set([...hidden].filter((index) => known.has(index)));
  if (info.background !== null) hidden.add(info.background);
  byId("legend").replaceChildren(...classes.flatMap((one, index) => {
    if (index === info.background) return [];
    const row = document.createElement("li");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.id = `class-${index}`;
    box.checked = !hidden.has(index);
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(index);
      else hidden.add(index);
      redraw();
    });
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${one.colour.join(" ")})`;
    const share = document.createElement("span");
    share.className = "share";
    share.id = `share-${index}`;
    label.append(box, swatch, one.name, share);
    row.append(label);
    return [row];
  }));
  byId("name").textContent = info.name;
  byId("model").textContent = info.model;
  byId("webrtc").hidden = !(info.webrtc && window.RTCPeerConnection);
  document.title = info.name;
}

// Pieces of four bytes of length, that much JSON, the JPEG and the PNG.
async function follow(reader) {
  let held = new Uint8Array(0);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const more = new Uint8Array(held.length + value.length);
    more.set(held);
    more.set(value, held.length);
    held = more;
    for (;;) {
      if (held.length < 4) break;
      const length = new DataView(held.buffer, held.byteOffset).getUint32(0);
      if (held.length < 4 + length) break;
      const said = JSON.parse(new TextDecoder().decode(held.subarray(4, 4 + length)));
      const end = 4 + length + said.jpeg + said.png;
      if (held.length < end) break;
      const jpeg = held.slice(4 + length, 4 + length + said.jpeg);
      latest = { said, jpeg, png: held.slice(4 + length + said.jpeg, end), picture: null };
      held = held.slice(end);
      drawLatest();
    }
  }
}

async function ask(name, options) {
  const answer = await fetch(here(name), options).catch((error) => {
    throw new Error(`the server does not answer (${error.message})`);
  });
  if (!answer.ok) throw new Error(`the server says ${answer.status}: ${(await answer.text()).trim()}`);
  return answer;
}

async function run() {
  for (;;) {
    if (watching) await watching.over;
    let why = "the stream has ended";
    try {
      const info = await ask("info");
      listClasses(await info.json());
      pictures = new AbortController();
      const frames = await ask("frames", { signal: pictures.signal });
      say("");
      number = 0;
      await follow(frames.body.getReader());
    } catch (error) {
      why = error.name === "Error" ? error.message : `${error.name}: ${error.message}`;
    }
    if (watching) continue;
    say(`${why}; trying again …`);
    await new Promise((go) => { setTimeout(go, AGAIN_MS); });
  }
}

function say(text) {
  byId("state").hidden = !text;
  byId("state").textContent = text;
}

function showVideo(shown) {
  canvas.hidden = shown;
  byId("video").hidden = !shown;
  byId("numbers").hidden = shown;
  byId("controls").disabled = shown;
  byId("by-webrtc").checked = shown;
}

function leave(session, why) {
  if (watching !== session) return;
  byId("webrtc-said").textContent = why;
  watching = null;
  session.peer.close();
  if (session.place) fetch(here(session.place), { method: "DELETE" }).catch(() => {});
  byId("video").srcObject = null;
  showVideo(false);
  session.end();
}

async function watch() {
  const peer = new RTCPeerConnection();
  const session = { peer, place: null };
  session.over = new Promise((end) => { session.end = end; });
  watching = session;
  byId("webrtc-said").textContent = "";
  showVideo(true);
  pictures?.abort();
  peer.addTransceiver("video", { direction: "recvonly" });
  peer.addEventListener("track", (event) => { byId("video").srcObject = new MediaStream([event.track]); });
  peer.addEventListener("connectionstatechange", () => {
    if (peer.connectionState === "connected") say("");
    else if (["disconnected", "failed", "closed"].includes(peer.connectionState)) leave(session, "(it has ended)");
  });
  say("asking for video …");
  try {
    await peer.setLocalDescription();
    const headers = { "Content-Type": "application/sdp" };
    const answer = await ask("whep", { method: "POST", headers, body: peer.localDescription.sdp });
    const text = await answer.text();
    session.place = answer.headers.get("Location");
    await peer.setRemoteDescription({ type: "answer", sdp: text });
    const { transport } = peer.getReceivers()[0]; // it learns of the end seconds before the connection does
    transport?.addEventListener("statechange", () => {
      if (transport.state !== "closed") return;
      session.place = null; // the server has ended it
      leave(session, "(it has ended)");
    });
  } catch (error) {
    leave(session, `(${error.message})`);
  }
}

byId("by-webrtc").addEventListener("change", (event) => { if (event.target.checked) watch(); else leave(watching, ""); });
byId("opacity").addEventListener("input", redraw);
byId("views").addEventListener("change", redraw);
byId("show-legend").addEventListener("change", (event) => { byId("legend").hidden = !event.target.checked; });
run();

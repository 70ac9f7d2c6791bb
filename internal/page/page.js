"use strict";

const byId = (id) => document.getElementById(id);
const root = document.documentElement;
let me = root.dataset.user, channel = root.dataset.channel;
let stream = null;
const unread = new Set(); // ids of channels

// Where a window is, and who, is in its address, so that it can be opened again.
function readAddress() {
  const [c, u] = location.hash.slice(1).split("/");
  channel = c || channel;
  me = u || me;
}

const query = (more) => new URLSearchParams({ user: me, ...more });

async function post(path, action) {
  try {
    const answer = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ user: me, channel, ...action }),
    });
    if (!answer.ok) throw new Error(await answer.text());
    tell((await answer.json()).error);
  } catch (e) {
    tell(e.message);
  }
}

const away = "The workspace does not answer. Is the demo still running?";

// tell shows what went wrong with what the person did last.
function tell(text) {
  byId("told").textContent = text;
  byId("told").hidden = !text;
}

// What is shown is not exchanged under a pressed button: it would lose its click.
let pressed = false;
addEventListener("pointerdown", () => { pressed = true; });
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => setTimeout(() => { pressed = false; refresh(); }, 0));

// refresh shows what is new, one look at a time.
const stale = new Set();
let looking = false;
async function refresh(...what) {
  what.forEach((w) => stale.add(w));
  if (looking || pressed) return;
  looking = true;
  try {
    while (stale.size > 0 && !pressed) {
      const next = stale.values().next().value;
      stale.delete(next);
      await { messages: showMessages, view: showView, channels: showChannels }[next]();
    }
  } catch (e) {
    tell(away);
  } finally {
    looking = false;
  }
}

async function showMessages() {
  const asked = channel + me;
  const text = await (await fetch("messages?" + query({ channel }))).text();
  if (asked !== channel + me) return refresh("messages");
  const list = byId("messages");
  const atEnd = list.dataset.of !== asked || list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  const fresh = document.createElement("template");
  fresh.innerHTML = text;
  // Only what has changed is exchanged: focus, open files and pressed buttons stay.
  const wanted = [...fresh.content.children], ids = new Set(wanted.map((e) => e.id));
  for (const old of [...list.children]) if (!old.id || !ids.has(old.id)) old.remove();
  let next = list.firstElementChild;
  for (const e of wanted) {
    e.source = e.outerHTML;
    if (next?.id !== e.id) {
      list.insertBefore(e, next);
      continue;
    }
    const old = next;
    next = old.nextElementSibling;
    if (old.source !== e.source) old.replaceWith(e);
  }
  while (next) {
    const old = next;
    next = old.nextElementSibling;
    old.remove();
  }
  list.dataset.of = asked;
  if (atEnd) list.scrollTop = list.scrollHeight;
}

async function showView() {
  const asked = me;
  const answer = await fetch("view?" + query());
  const text = answer.status === 204 ? "" : await answer.text();
  if (asked !== me) return refresh("view");
  const modal = byId("modal"), before = modal.querySelector("form");
  if (!text) {
    if (!modal.open) return;
    modal.close();
    modal.replaceChildren();
    byId("text").blur(); // Chromium gives the focus back, and the keys only to who asks for it
    byId("text").focus();
    return;
  }
  const typed = before && new FormData(before);
  modal.innerHTML = text;
  const form = modal.querySelector("form");
  if (typed && form.dataset.view === before.dataset.view) {
    for (const field of form.elements) {
      if (!typed.has(field.name)) continue;
      if (field.matches("[type=checkbox], [type=radio]")) field.checked = typed.getAll(field.name).includes(field.value);
      else field.value = typed.get(field.name);
    }
  }
  if (!modal.open) modal.showModal();
  (form.querySelector(".wrong")?.closest(".input") ?? form).querySelector("input, textarea, select")?.focus();
}

async function showChannels() {
  const all = await (await fetch("channels?" + query())).json();
  if (!all.some((c) => c.id === channel) && all.length > 0) {
    channel = (all.find((c) => c.id === root.dataset.channel) ?? all[0]).id;
    refresh("messages");
  }
  byId("channels").replaceChildren(...all.map((c) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.dataset.channel = c.id;
    button.textContent = c.name;
    button.classList.toggle("unread", unread.has(c.id));
    if (c.id === channel) {
      button.setAttribute("aria-current", "page");
      byId("where").textContent = c.name;
    }
    item.append(button);
    return item;
  }));
  byId("text").placeholder = "Message " + byId("where").textContent + ", or / for a command";
  for (const button of document.querySelectorAll("#people button")) {
    if (button.dataset.user === me) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function go(where) {
  location.hash = `${where.channel ?? channel}/${where.user ?? me}`;
}

function arrive() {
  const was = me;
  readAddress();
  if (was !== me) unread.clear();
  unread.delete(channel);
  tell("");
  if (was !== me || !stream) listen();
  refresh("channels", "messages", "view");
  byId("text").focus();
}

function listen() {
  stream?.close();
  stream = new EventSource("events?" + query());
  stream.onerror = () => tell(away); // it tries again by itself
  stream.onopen = () => {
    if (byId("told").textContent === away) tell("");
    refresh("channels", "messages", "view");
  };
  stream.onmessage = ({ data }) => {
    if (data === "view") refresh("view");
    else if (data === channel) refresh("messages");
    else {
      unread.add(data);
      refresh("channels");
    }
  };
}

addEventListener("hashchange", arrive);

document.addEventListener("click", async ({ target }) => {
  const place = target.closest("nav button");
  if (place) return go(place.dataset);
  const command = target.closest("#commands li");
  if (command) return choose(command);
  if (target.closest("[data-close]")) return close();
  const button = target.closest("#messages button[data-action]");
  if (!button) return;
  if (button.dataset.confirm && !confirm(button.dataset.confirm)) return;
  if (button.dataset.url) open(button.dataset.url, "_blank", "noopener,noreferrer");
  button.disabled = true;
  await post("click", { ts: button.closest("article").dataset.ts, action: button.dataset.action });
  button.disabled = false;
});

document.addEventListener("change", ({ target }) => {
  if (target.matches("#messages select[data-action]") && target.value)
    post("click", { ts: target.closest("article").dataset.ts, action: target.dataset.action, value: target.value });
});

document.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  if (form.id === "compose") {
    const text = byId("text").value.trim();
    if (!text) return;
    said.push(text);
    at = said.length;
    byId("text").value = "";
    suggest();
    return post("type", { text });
  }
  const values = {};
  for (const [name, value] of new FormData(form)) values[name] = name in values ? values[name] + "," + value : value;
  const submit = form.querySelector("[type=submit]");
  submit.disabled = true;
  await post("submit", { view: form.dataset.view, values });
  submit.disabled = false;
});

function close() {
  const form = byId("modal").querySelector("form");
  if (form) post("close", { view: form.dataset.view });
}
byId("modal").addEventListener("cancel", (event) => { event.preventDefault(); close(); });

// The commands that begin with what is typed, as Slack offers them.
function suggest() {
  const typed = byId("text").value, list = byId("commands");
  let any = false;
  for (const item of list.children) {
    const name = item.dataset.command;
    item.hidden = !(typed.startsWith("/") && (name.startsWith(typed) || typed.startsWith(name + " ")));
    item.setAttribute("aria-selected", !item.hidden && !any);
    any ||= !item.hidden;
  }
  list.hidden = !any;
}

function choose(item) {
  byId("text").value = item.dataset.command + " ";
  suggest();
  byId("text").focus();
}

// Arrow up brings back what was said; Tab takes the command that is offered.
const said = [];
let at = 0;
byId("text").addEventListener("input", suggest);
byId("text").addEventListener("keydown", (event) => {
  const offered = byId("commands").querySelector("[aria-selected=true]");
  if (event.key === "Tab" && offered && !byId("text").value.includes(" ")) {
    event.preventDefault();
    choose(offered);
  } else if (event.key === "Escape") {
    byId("commands").hidden = true;
  } else if ((event.key === "ArrowUp" && at > 0) || (event.key === "ArrowDown" && at < said.length)) {
    event.preventDefault();
    at += event.key === "ArrowUp" ? -1 : 1;
    byId("text").value = said[at] ?? "";
    suggest();
  }
});

arrive();

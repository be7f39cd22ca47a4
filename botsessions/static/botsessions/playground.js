// The playground's client: shows one chat, asks what changed in it, says things and presses buttons.
"use strict";

(() => {
  const page = document.getElementById("playground");
  if (!page) return;

  const find = (id) => document.getElementById(id);
  const words = JSON.parse(find("words").textContent);
  const [place, composer, input, log, list] =
    ["place", "composer", "text", "log", "messages"].map(find);
  const csrfToken = composer.elements.csrfmiddlewaretoken.value;
  const people = [...place.elements.user].map((option) => option.value);

  const EVERY = 700; // milliseconds between two looks at the chat
  const AT_MOST = 5000; // … while the server is away
  const ANSWER_WITHIN = 10000;
  const SENT_WITHIN = 30000;

  // Where we are

  const here = () => ({
    bot: place.elements.bot.value,
    user: place.elements.user.value,
    chat: place.elements.chat.value || place.elements.user.value,
  });
  const keyOf = (where) => JSON.stringify(where);

  const drafts = new Map(); // what was typed and not sent, by place
  let current = "";

  function restore() {
    const wanted = new URLSearchParams(location.search);
    for (const name of ["bot", "user", "chat"]) {
      const control = place.elements[name];
      const known = [...(control.options || control)].map((option) => option.value);
      if (known.includes(wanted.get(name))) control.value = wanted.get(name);
    }
  }

  function enter() {
    if (current) drafts.set(current, input.value);
    current = keyOf(here());
    input.value = drafts.get(current) || "";
    complain("");
    history.replaceState(null, "", `?${new URLSearchParams(new FormData(place))}`);
    forget();
    look();
  }

  // What is said: rows by message id

  const rows = new Map();
  let network = 0;
  let revision = 0;

  function forget() {
    rows.clear();
    list.replaceChildren();
    find("empty").hidden = true;
    network = revision = 0;
  }

  function show(changes) {
    const first = revision === 0;
    // A reader hears what is new, not everything that was said before.
    log.setAttribute("aria-busy", first);
    network = changes.network;
    revision = changes.revision;
    let mine = false;
    for (const message of changes.messages) {
      if (message.deleted) vanish(message.message_id);
      else mine = put(message) || mine;
    }
    group();
    find("empty").hidden = rows.size > 0;
    if (first || mine) atEnd = true;
    stayAtEnd();
    log.removeAttribute("aria-busy");
  }

  // Who reads the newest goes on reading the newest, whatever changes its height.
  let atEnd = true;
  const stayAtEnd = () => { if (atEnd) log.scrollTop = log.scrollHeight; };
  new ResizeObserver(stayAtEnd).observe(log);
  log.addEventListener("scroll", () => {
    atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  });

  const isAfter = (id) => (row) => Number(row.dataset.id) > id;

  // Add or change a row; true when it is a new one of ours.
  function put(message) {
    const mine = !message.from.is_bot && message.from.id === here().user;
    const isNew = !rows.has(message.message_id);
    if (isNew) {
      const row = find("message").content.firstElementChild.cloneNode(true);
      row.dataset.id = message.message_id;
      rows.set(message.message_id, row);
      // Changes come in the order in which they happened, and what was said earlier may change later.
      list.insertBefore(row, [...list.children].find(isAfter(message.message_id)) ?? null);
    }
    const row = rows.get(message.message_id);
    const part = (name) => row.querySelector(`.${name}`);
    const date = new Date(message.date * 1000);
    const undelivered = message.delivered === false;

    row.classList.toggle("mine", mine);
    row.classList.toggle("undelivered", undelivered);
    row.dataset.author = (message.from.is_bot ? "bot:" : "user:") + message.from.id;
    row.dataset.tone = message.from.is_bot ? "bot" : people.indexOf(message.from.id);
    part("avatar").textContent = [...message.from.name][0]?.toUpperCase() ?? "";
    part("name").textContent = mine ? words.you : message.from.name;
    row.querySelector("time").dateTime = date.toISOString();
    row.querySelector("time").textContent = date.toLocaleTimeString(
      document.documentElement.lang, { hour: "2-digit", minute: "2-digit" });
    part("note").textContent = undelivered ? words.undelivered : message.edited ? words.edited : "";
    part("text").textContent = message.text;

    const answered = rows.get(Number(message.reply_to));
    part("quote").hidden = !answered;
    part("quote").textContent = answered?.querySelector(".text").textContent.slice(0, 120) ?? "";

    part("buttons").hidden = !message.buttons;
    part("buttons").replaceChildren(...(message.buttons || []).map(({ text, action }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dir = "auto";
      button.textContent = text;
      button.addEventListener("click", () => press(button, message.message_id, action));
      return button;
    }));
    return isNew && mine;
  }

  function vanish(id) {
    const row = rows.get(id);
    if (!row) return;
    rows.delete(id);
    row.classList.add("vanishing");
    setTimeout(() => { row.remove(); group(); }, 350);
  }

  // A person's messages that follow each other bear the name once.
  function group() {
    let author = "";
    for (const row of list.children) {
      row.classList.toggle("follows", row.dataset.author === author);
      author = row.dataset.author;
    }
  }

  // Looking: again after each answer, and never twice at a time

  let timer = 0;
  let looks = 0;
  let pause = EVERY;

  async function look() {
    clearTimeout(timer);
    const number = ++looks;
    const { bot, chat } = here();
    const query = new URLSearchParams({ bot, chat, since: revision });
    let status = "";
    try {
      const response = await fetch(`${page.dataset.messages}?${query}`, {
        signal: AbortSignal.timeout(ANSWER_WITHIN),
      });
      if (number !== looks) return; // asked anew meanwhile
      if (response.ok) {
        const changes = await response.json();
        if (number !== looks) return;
        if (network && network !== changes.network) {
          forget(); // the chats began anew
          return look();
        }
        show(changes);
        pause = EVERY;
      } else {
        status = response.status >= 500 ? words.reconnecting : words.reload;
      }
    } catch {
      if (number !== looks) return;
      status = words.reconnecting;
    }
    if (status) pause = Math.min(pause * 2, AT_MOST);
    if (find("connection").textContent !== status) find("connection").textContent = status;
    if (!document.hidden) timer = setTimeout(look, pause);
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) look();
  });

  // Saying and pressing

  function complain(sentence) {
    find("problem").textContent = sentence;
  }

  // Post and return "" or the sentence that says why it failed.
  async function post(url, fields) {
    try {
      const response = await fetch(url, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken },
        body: JSON.stringify(fields),
        signal: AbortSignal.timeout(SENT_WITHIN),
      });
      if (response.ok) return "";
      const answer = await response.json().catch(() => ({}));
      return answer.error || (response.status >= 500 ? words.failed : words.reload);
    } catch {
      return words.failed;
    }
  }

  // What failed and is sent again unchanged has its first nonce: the server takes it once.
  let attempt = {};

  function nonceOf(key, text) {
    if (attempt.key !== key || attempt.text !== text) {
      const bytes = crypto.getRandomValues(new Uint8Array(16));
      const nonce = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      attempt = { key, text, nonce };
    }
    return attempt.nonce;
  }

  async function say() {
    const where = here();
    const key = keyOf(where);
    const text = input.value;
    if (input.readOnly || !text.trim()) return;
    input.readOnly = true;
    composer.setAttribute("aria-busy", "true");
    const problem = await post(page.dataset.say, { ...where, text, nonce: nonceOf(key, text) });
    input.readOnly = false;
    composer.removeAttribute("aria-busy");
    if (!problem) {
      attempt = {};
      drafts.delete(key);
      if (key === current) input.value = "";
    }
    complain(problem);
    look();
  }

  async function press(button, id, action) {
    button.disabled = true;
    complain(await post(page.dataset.press, { ...here(), message_id: String(id), action }));
    button.disabled = false;
    look();
  }

  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    say();
  });
  input.addEventListener("keydown", (event) => {
    // While a word is being composed (Japanese, Chinese, …) Enter belongs to the input method.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    say();
  });
  place.addEventListener("change", enter);
  place.addEventListener("submit", (event) => event.preventDefault());

  restore();
  enter();
  if (matchMedia("(hover: hover)").matches) input.focus();
})();

// The transcript of a session: older messages come as one scrolls, new ones while one watches.

const EVERY = 2000; // milliseconds between two looks for new messages
const AT_MOST = 30000; // … while the server does not answer
const NEAR = 60; // pixels from the end within which whoever reads the newest goes on reading it

const log = document.getElementById("bs-log");
const list = document.getElementById("bs-messages");

// The messages that the server has, as rows; null where it gives none.
async function rows(query) {
  const response = await fetch(`${log.dataset.url}?${query}`, {
    headers: { Accept: "text/html" },
    redirect: "error", // to the login, where one is logged out
  });
  if (!response.ok) throw new Error(`${response.status}`);
  const holder = document.createElement("template");
  holder.innerHTML = await response.text(); // made and escaped by the template of this page
  return [...holder.content.children];
}

const ids = () => [...list.querySelectorAll("[data-id]")].map((row) => Number(row.dataset.id));
const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
const toEnd = () => { log.scrollTop = log.scrollHeight; };

// Older ones

let isLoading = false;

async function loadOlder(link) {
  if (isLoading) return;
  isLoading = true;
  log.setAttribute("aria-busy", "true"); // a reader does not hear what was said long ago
  try {
    const found = await rows(`before=${link.dataset.before}`);
    const hadFocus = document.activeElement === link;
    const below = log.scrollHeight - log.scrollTop;
    link.closest("li").remove();
    list.prepend(...found);
    log.scrollTop = log.scrollHeight - below;
    if (hadFocus) (list.querySelector(".bs-older a") ?? log).focus({ preventScroll: true });
    watch();
  } catch {
    // The link stays, to be followed by hand.
  } finally {
    isLoading = false;
    log.removeAttribute("aria-busy");
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) loadOlder(entry.target);
}, { root: log, rootMargin: "200px 0px 0px 0px" });

function watch() {
  seen.disconnect();
  const link = list.querySelector(".bs-older a");
  if (link) seen.observe(link);
}

// New ones

let pause = EVERY;
let timer = 0;

async function look() {
  timer = 0;
  try {
    const found = await rows(`after=${Math.max(0, ...ids())}`);
    const known = new Set(ids());
    const fresh = found.filter((row) => row.dataset.id && !known.has(Number(row.dataset.id)));
    const follows = isAtEnd();
    list.append(...fresh);
    if (fresh.length) document.getElementById("bs-empty").hidden = true;
    if (fresh.length && follows) toEnd();
    pause = EVERY;
  } catch {
    pause = Math.min(pause * 2, AT_MOST);
  }
  plan(pause);
}

function plan(after) {
  clearTimeout(timer);
  timer = document.hidden ? 0 : setTimeout(look, after);
}

if (log && list) {
  toEnd();
  watch();
  list.addEventListener("click", (event) => {
    const link = event.target.closest(".bs-older a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    loadOlder(link);
  });
  // A part that was asked for by its address stays what it is.
  if (!new URLSearchParams(location.search).has("before")) {
    document.addEventListener("visibilitychange", () => plan(0));
    plan(EVERY);
  }
}

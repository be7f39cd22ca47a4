// The progress bars of deletions that are going on: asked for again until they are over.

const EVERY = 1500; // milliseconds
const AT_MOST = 30000; // … while the server does not answer

let pause = EVERY;

const moving = () => [...document.querySelectorAll(".bs-progress[data-url]")];

async function look() {
  const bars = moving();
  if (!bars.length) return;
  if (!document.hidden) {
    try {
      const ids = bars.map((bar) => bar.dataset.deletion).join(",");
      const response = await fetch(`${bars[0].dataset.url}?ids=${ids}`, { redirect: "error" });
      if (!response.ok) throw new Error(`${response.status}`);
      const holder = document.createElement("template");
      holder.innerHTML = await response.text(); // made and escaped by the template of the bars
      for (const bar of holder.content.querySelectorAll(".bs-progress")) {
        for (const old of bars) {
          if (old.dataset.deletion === bar.dataset.deletion) old.replaceWith(bar);
        }
      }
      pause = EVERY;
    } catch {
      pause = Math.min(pause * 2, AT_MOST);
    }
  }
  setTimeout(look, pause);
}

setTimeout(look, EVERY);

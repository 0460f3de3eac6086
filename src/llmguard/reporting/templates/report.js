"use strict";
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const rows = [...document.querySelectorAll("#rows tr")];
  const buttons = [...form.querySelectorAll("button[data-outcome]")];
  const family = document.getElementById("family");
  const words = document.getElementById("words");
  const shown = document.getElementById("shown");
  const picked = () => buttons.filter((b) => b.getAttribute("aria-pressed") === "true").map((b) => b.dataset.outcome);
  const apply = () => {
    const outcomes = picked();
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = (!outcomes.length || outcomes.includes(row.dataset.outcome))
        && (!family.value || family.value === row.dataset.family) && wanted.every((word) => text.includes(word));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = count === rows.length ? String(count) : `${count} of ${rows.length}`;
  };
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));
  for (const button of buttons) button.addEventListener("click", () => { press(button, button.getAttribute("aria-pressed") !== "true"); apply(); });
  for (const tile of document.querySelectorAll("[data-pick]")) {
    tile.addEventListener("click", () => { for (const b of buttons) press(b, b.dataset.outcome === tile.dataset.pick); apply(); });
  }
  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  family.addEventListener("change", apply);
  words.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", open);
  form.hidden = false;
  open();
})();

"use strict";
for (const section of document.querySelectorAll(".findings")) {
  const bar = section.querySelector(".filters"), items = [...section.querySelectorAll("li")];
  const choices = [...bar.querySelectorAll("select")], status = bar.querySelector("[role=status]");
  const show = () => {
    for (const item of items) {
      item.hidden = choices.some(({dataset, value}) => value && item.dataset[dataset.filter] !== value);
    }
    const shown = items.filter((item) => !item.hidden).length;
    status.textContent = shown === items.length ? "" : `${shown} of ${items.length}`;
  };
  choices.forEach((choice) => choice.addEventListener("change", show));
  bar.hidden = items.length < 2;
}
for (const section of document.querySelectorAll(".tensors")) {
  const bar = section.querySelector(".search"), rows = [...section.querySelectorAll("tbody tr")];
  const field = bar.querySelector("input"), status = bar.querySelector("[role=status]");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    status.textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
  bar.hidden = false;
}

"use strict";
for (const section of document.querySelectorAll("[data-failures]")) {
  const body = section.querySelector("tbody"), rows = [...body.rows];
  const language = section.querySelector("select"), words = section.querySelector("input");
  const shown = section.querySelector("output");
  const filter = () => {
    const wanted = words.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const fits = (!language.value || row.dataset.language === language.value)
        && (!wanted || row.textContent.toLowerCase().includes(wanted));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length} shown`;
  };
  language.addEventListener("change", filter);
  words.addEventListener("input", filter);
  for (const button of section.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), key = button.dataset.key;
      const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of section.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      const compare = (a, b) => a.localeCompare(b, undefined, { numeric: true });
      rows.sort((a, b) => direction * compare(a.dataset[key], b.dataset[key]));
      body.append(...rows);
    });
  }
  section.querySelector(".controls").hidden = false;
  filter();
}

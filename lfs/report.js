"use strict";
// Draws the figures of the embedded report; on a live page, asks for the report again and shows what has changed.
(() => {
  const PRINT_WIDTH = 680; // pixels, a page of A4 between its margins
  const POLL_MS = 2000;
  const settings = {
    responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };
  const drawn = new Map(); // id of a figure -> its JSON
  const texts = new Map(); // key of a section -> its HTML

  function show(sections) {
    for (const { key, text, charts } of sections) {
      const section = document.getElementById(key);
      if (text !== undefined && texts.get(key) !== text) {
        setText(section.querySelector(".text"), text);
        texts.set(key, text);
      }
      showCharts(section.querySelector(".figures"), charts);
    }
  }

  function setText(place, text) {
    const open = new Set([...place.querySelectorAll("details[open]")].map((part) => part.id));
    place.innerHTML = text; // everything in it was escaped where it was made
    for (const part of place.querySelectorAll("details")) part.open = open.has(part.id);
  }

  function showCharts(place, charts) {
    for (const old of [...place.children]) {
      if (!(old.dataset.chart in charts)) {
        Plotly.purge(old);
        old.remove();
        drawn.delete(old.id);
      }
    }
    for (const [name, chart] of Object.entries(charts)) {
      const id = `chart-${name}`;
      const json = JSON.stringify(chart);
      if (drawn.get(id) === json) continue;
      let div = document.getElementById(id);
      if (!div) {
        div = document.createElement("div");
        div.id = id;
        div.dataset.chart = name;
        place.append(div);
      }
      Plotly.react(div, chart.data, chart.layout, settings);
      drawn.set(id, json);
    }
  }

  function resize(width) {
    for (const id of drawn.keys()) {
      const div = document.getElementById(id);
      if (width) Plotly.relayout(div, { width, autosize: false });
      else Plotly.relayout(div, { width: null, autosize: true });
    }
  }

  let version = "";
  let fault = "";
  async function look() {
    const status = document.getElementById("status");
    let report = null;
    try {
      const answer = await fetch(`report.json?after=${encodeURIComponent(version)}`, { cache: "no-store" });
      report = await answer.json();
    } catch (error) {
      status.textContent = "the search's page does not answer: this is what it said last";
    }
    if (report) {
      try {
        if (report.sections) {
          show(report.sections);
          fault = "";
        }
      } catch (error) {
        fault = `this browser cannot draw all that has come: ${error.message}; `;
      }
      version = report.version;
      status.textContent = `${fault}live: ${report.status}`;
    }
    setTimeout(look, POLL_MS);
  }

  show(JSON.parse(document.getElementById("report").textContent));
  window.addEventListener("beforeprint", () => resize(PRINT_WIDTH));
  window.addEventListener("afterprint", () => resize(0));
  if (document.body.dataset.live !== undefined) look();
})();

"use strict";

// Theme: the system's, until the reader chooses.
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : system.matches;
};
const themeButton = document.querySelector(".theme");
function themeChanged() {
  themeButton.querySelector(".theme-word").textContent = isDark() ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
  document.querySelectorAll(".plot.js-plotly-plot").forEach(render);
}
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  // Some browsers refuse storage on file://; the choice then lasts for this page.
  try { localStorage.setItem("superpose-theme", theme); } catch (refused) { console.info("theme not kept", refused.name); }
  themeChanged();
});
system.addEventListener("change", themeChanged);

// Copy buttons.
document.querySelectorAll(".copy").forEach((button) => {
  button.addEventListener("click", async () => {
    button.textContent = (await copy(button.dataset.copy)) ? "Copied" : "Select and copy";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
});
async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch (refused) { /* not every browser grants it on file://: the older way follows */ }
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

// Filters of the verdict table; their state lives in the address, so that a view can be linked.
const form = document.getElementById("filters");
if (form) {
  const rows = [...document.querySelectorAll(".verdicts tbody tr")];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const chips = [...form.querySelectorAll(".chip")];
  const { study, scale, q } = form.elements;
  const on = (chip) => chip.getAttribute("aria-pressed") === "true";

  function apply() {
    const verdicts = new Set(chips.filter(on).map((chip) => chip.dataset.verdict));
    const words = q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    for (const row of rows) {
      const fits = (!study.value || row.dataset.study === study.value)
        && (!scale.value || row.dataset.scale === scale.value)
        && (!verdicts.size || verdicts.has(row.dataset.verdict))
        && words.every((word) => texts.get(row).includes(word));
      row.hidden = !fits;
      visible += fits;
    }
    const all = visible === rows.length;
    document.getElementById("count").textContent =
      all ? `${visible} ${visible === 1 ? "row" : "rows"}` : `${visible} of ${rows.length} rows`;
    document.getElementById("nothing").hidden = visible > 0;
    document.querySelector(".verdicts").hidden = visible === 0;
  }
  function remember() {
    const state = new URLSearchParams();
    const verdicts = chips.filter(on).map((chip) => chip.dataset.verdict);
    if (verdicts.length) state.set("verdict", verdicts.join(","));
    for (const field of [study, scale, q]) if (field.value) state.set(field.name, field.value);
    history.replaceState(null, "", `#${state}`);
    apply();
  }
  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    const verdicts = (state.get("verdict") || "").split(",");
    chips.forEach((chip) => chip.setAttribute("aria-pressed", String(verdicts.includes(chip.dataset.verdict))));
    for (const field of [study, scale]) {
      const wanted = state.get(field.name) || "";
      field.value = [...field.options].some((option) => option.value === wanted) ? wanted : "";
    }
    q.value = state.get("q") || "";
    apply();
  }
  chips.forEach((chip) => chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(!on(chip)));
    remember();
  }));
  form.addEventListener("input", remember);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    history.replaceState(null, "", "#");
    restore();
  });
  document.getElementById("reset").addEventListener("click", () => { form.reset(); q.focus(); });
  addEventListener("hashchange", restore);
  form.hidden = false;
  restore();
}

// Tabs: one run at a time. Without this script every run stands on the page.
const runs = [...document.querySelectorAll(".run")];
const tabs = [...document.querySelectorAll('[role="tab"]')];
function show(name) {
  runs.forEach((run) => { run.hidden = run.dataset.tab !== name; });
  tabs.forEach((tab) => {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  });
}
function follow() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const run = target && target.closest(".run");
  show(run ? run.dataset.tab : runs[0].dataset.tab);
  if (run) target.scrollIntoView();
}
if (runs.length > 1) {
  tabs[0].parentElement.hidden = false;
  runs.forEach((run) => {
    run.setAttribute("role", "tabpanel");
    run.setAttribute("aria-labelledby", `tab-${run.dataset.tab}`);
  });
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => {
      show(tab.id.slice(4));
      history.replaceState(null, "", `#run-${tab.id.slice(4)}`);
    });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(at + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  });
  addEventListener("hashchange", follow);
  follow();
}

// Figures: drawn when they come into view, arranged for the width, in the colours of the theme.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// The arms' colours, lighter on dark ground: [as stored, on dark].
const LIGHTER = [
  ["#0072B2", "#3D9BDC"], ["#D55E00", "#F0803C"], ["#009E73", "#2CC295"], ["#CC79A7", "#E09BC2"],
  ["#E69F00", "#F5B83D"], ["#56B4E9", "#9BD8FA"], ["#8A8F98", "#A3A9B2"],
];
const rgb = (hex) => `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(",")},`;
const colour = (text) => !isDark() ? text : LIGHTER.reduce(
  (done, [stored, lighter]) => done.replaceAll(stored, lighter).replaceAll(rgb(stored), rgb(lighter)), text);

function axesOf(layout) {
  return Array.from({ length: layout.meta.panels }, (_, at) => (at ? String(at + 1) : ""));
}
function paint(layout) {
  const soft = { color: css("--soft") };
  Object.assign(layout, {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--ink") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--link") },
  });
  for (const axis of axesOf(layout)) {
    Object.assign(layout[`xaxis${axis}`], { gridcolor: css("--grid"), linecolor: css("--line"), tickfont: soft });
    Object.assign(layout[`yaxis${axis}`], { gridcolor: css("--grid"), linecolor: css("--line"), tickfont: soft });
  }
}
// As many panels in a row as have room; every row gets the same height.
function arrange(layout, width) {
  if (layout.meta.rows) return arrangeGrids(layout, width);
  const axes = axesOf(layout);
  const columns = Math.max(1, Math.min(axes.length, Math.floor(width / 270)));
  const rows = Math.ceil(axes.length / columns);
  const height = rows * (axes.length > 1 ? 320 : Math.min(400, Math.max(300, width * 0.5)));
  const across = 0.07, down = rows > 1 ? 105 / (height - 90) : 0;
  const wide = (1 - across * (columns - 1)) / columns, tall = (1 - down * (rows - 1)) / rows;
  const title = layout.yaxis.title.text;
  Object.assign(layout, { width, height });
  axes.forEach((axis, at) => {
    const left = (at % columns) * (wide + across), top = 1 - Math.floor(at / columns) * (tall + down);
    layout[`xaxis${axis}`].domain = [left, Math.min(1, left + wide)];
    layout[`yaxis${axis}`].domain = [Math.max(0, top - tall), top];
    layout[`yaxis${axis}`].title.text = at % columns ? "" : title;
  });
}
// Heat maps stand below each other: names of rows and columns need the width.
const gridRow = 38, gridTop = 36, narrow = 560;
const cellWidth = (columns, width) => (width - (width > narrow ? 230 : 130)) / columns.length;
function arrangeGrids(layout, width) {
  const axes = axesOf(layout), columns = layout.xaxis.categoryarray;
  const longest = 7 * Math.max(...columns.map((name) => name.length));
  const cell = cellWidth(columns, width), angle = longest <= cell ? 0 : cell > 60 ? -30 : -90;
  const names = { 0: 20, [-30]: 0.5 * longest + 20, [-90]: longest }[angle];
  const tall = layout.meta.rows * gridRow, rest = gridTop + names + 45, each = tall + rest;
  const height = axes.length * each, plotted = height - rest;
  Object.assign(layout, { width, height, margin: { ...layout.margin, t: gridTop, b: rest - gridTop } });
  layout.coloraxis.showscale = width > narrow;
  axes.forEach((axis, at) => {
    const top = 1 - (at * each) / plotted;
    layout[`yaxis${axis}`].domain = [Math.max(0, top - tall / plotted), top];
    layout[`xaxis${axis}`].tickangle = angle;
    if (width <= narrow) layout[`yaxis${axis}`].title.text = "";
  });
}
// What does not fit a narrow cell is left out: first the interval, then the number; both stay in the hover.
function fitText(data, width) {
  for (const trace of data.filter(({ type }) => type === "heatmap")) {
    const wide = cellWidth(trace.x, width);
    if (wide < 62) trace.text = trace.text.map((row) => row.map((text) => text.split("<br>")[0]));
    if (wide < 32) trace.texttemplate = "";
  }
}
function legend(plot, arms) {
  const place = plot.parentElement.querySelector(".legend");
  const buttons = [...place.children];
  if (arms.length > 1 && !buttons.length) {
    for (const { arm, name, dash } of arms) {
      const button = document.createElement("button");
      const swatch = document.createElement("span");
      swatch.className = `swatch ${{ dash: "dash", dot: "dot-line" }[dash] || ""}`;
      button.type = "button";
      button.title = "Show or hide";
      button.dataset.arm = arm;
      button.setAttribute("aria-pressed", "true");
      button.append(swatch, name);
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        render(plot);
      });
      place.append(button);
      buttons.push(button);
    }
  }
  buttons.forEach((button, at) => { button.firstChild.style.borderTopColor = arms[at].colour; });
  return new Set(buttons.filter((b) => b.getAttribute("aria-pressed") === "false").map((b) => b.dataset.arm));
}
// Drawn from the stored data each time, so that theme, width and hidden arms never get out of step.
function render(plot) {
  const { data, layout } = JSON.parse(colour(plot.parentElement.querySelector(".plot-data").textContent));
  const hidden = legend(plot, layout.meta.arms);
  const { focus } = plot.dataset;
  for (const trace of data) {
    trace.visible = !hidden.has(trace.legendgroup);
    if (focus && trace.legendgroup !== focus) trace.opacity = 0.35;
  }
  // What is drawn last lies in front.
  if (focus) data.sort((a, b) => (a.legendgroup === focus) - (b.legendgroup === focus));
  const chosen = pickers.get(plot);
  if (chosen) chosen.mark(layout);
  fitText(data, plot.clientWidth);
  layout.showlegend = false;
  layout.uirevision = "kept"; // a reader's zoom outlives a change of theme
  paint(layout);
  arrange(layout, plot.clientWidth);
  const drawn = Plotly.react(plot, data, layout, {
    displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  });
  if (chosen && !plot.dataset.picks) {
    plot.dataset.picks = "yes";
    plot.on("plotly_click", ({ points }) => chosen.choose(...points[0].pointNumber));
  }
  return drawn;
}
// Heat maps whose cells open a figure: by a click, or by two menus for keyboards and small screens.
const pickers = new Map();
document.querySelectorAll(".detail").forEach((detail) => {
  const map = detail.parentElement.querySelector(".plot"), plot = detail.querySelector(".plot");
  const [rowMenu, columnMenu] = detail.querySelectorAll("select");
  const { rows, columns, opens, title, figures } = JSON.parse(detail.querySelector(".detail-data").textContent);
  const at = { row: 0, column: 0 };
  function choose(row, column) {
    Object.assign(at, { row, column });
    rowMenu.selectedIndex = row;
    columnMenu.selectedIndex = column;
    const [arm, name] = rows[row], which = opens[row][column];
    detail.querySelector(".detail-title").textContent =
      title.replaceAll("{row}", () => name).replaceAll("{column}", () => columns[column]);
    plot.hidden = which === null;
    detail.querySelector(".nothing").hidden = which !== null;
    detail.querySelector(".legend").hidden = which === null;
    if (which !== null) {
      const data = JSON.stringify(figures[which]);
      const arms = figures[which].layout.meta.arms.map((each) => each.arm).join("\n");
      // The same arms keep what the reader has hidden of them.
      if (plot.dataset.arms !== arms) detail.querySelector(".legend").replaceChildren();
      plot.dataset.arms = arms;
      plot.dataset.focus = arm;
      detail.querySelector(".plot-data").textContent = data;
    }
    for (const each of [map, plot]) if (each.matches(".js-plotly-plot") && each.clientWidth) render(each);
  }
  const follow = () => choose(rowMenu.selectedIndex, columnMenu.selectedIndex);
  rowMenu.addEventListener("change", follow);
  columnMenu.addEventListener("change", follow);
  pickers.set(map, {
    choose,
    mark(layout) {
      layout.shapes = axesOf(layout).map((axis) => ({
        type: "rect", xref: `x${axis}`, yref: `y${axis}`, x0: at.column - 0.5, x1: at.column + 0.5,
        y0: at.row - 0.5, y1: at.row + 0.5, line: { color: css("--fails"), width: 2.5 },
      }));
    },
  });
  choose(0, 0);
  detail.hidden = false;
});
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.clientWidth && target.clientWidth !== Number(target.dataset.width)) {
      target.dataset.width = target.clientWidth;
      render(target);
    }
  }
});
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    resized.observe(target); // calls at once, which draws the figure
  }
}, { rootMargin: "400px" });
document.querySelectorAll(".plot").forEach((plot) => seen.observe(plot));
addEventListener("beforeprint", () => document.querySelectorAll(".plot").forEach((plot) => {
  if (plot.clientWidth) render(plot);
}));
themeChanged();

"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const touch = matchMedia("(pointer: coarse)");
  const hidden = new Set();
  const layers = {};
  const key = (of, group) => `${of ?? ""} ${group}`; // groups of runs, and of each part of a study, are their own
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Colours are named after CSS variables: give each chart its own copy with their present values.
  const painted = (value) => {
    if (Array.isArray(value)) return value.map((v) => (v && typeof v === "object" ? painted(v) : v));
    const copy = {};
    for (const [key, v] of Object.entries(value)) {
      if ((key === "color" || key === "fillcolor") && typeof v === "string") copy[key] = css(v);
      else copy[key] = v && typeof v === "object" ? painted(v) : v;
    }
    return copy;
  };

  const axis = (own) => ({
    automargin: true, zeroline: false, gridcolor: css("--line"), linecolor: css("--faint"), tickcolor: css("--faint"),
    ...own, title: { ...own.title, standoff: 10 },
  });

  const draw = (id) => {
    const { data, layout } = painted(charts[id]);
    for (const trace of data) {
      trace.visible = !hidden.has(key(trace.meta.of, trace.meta.group)) && (layers[id] === undefined || trace.meta.layer === layers[id]);
    }
    const across = charts[id].across?.[layers[id]]; // what the horizontal axis shows, where layers differ in it
    const xaxis = across ? { ...layout.xaxis, title: { text: across } } : layout.xaxis;
    const turned = layout.scene && { ...layout.scene, dragmode: "turntable", bgcolor: "rgba(0,0,0,0)" };
    for (const name of turned ? ["xaxis", "yaxis", "zaxis"] : []) {
      turned[name] = { ...turned[name], gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--faint"), showspikes: false };
    }
    const look = {
      ...layout, ...(turned && { scene: turned }), xaxis: axis(xaxis), yaxis: axis(layout.yaxis), showlegend: false,
      margin: { l: 8, r: 16, t: 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif", size: narrow.matches ? 12 : 13,
        color: css("--soft") },
      hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--ink") }, namelength: -1 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--faint"), activecolor: css("--ink") },
      dragmode: touch.matches ? false : "zoom",
    };
    const config = { responsive: true, displaylogo: false, displayModeBar: touch.matches ? false : "hover",
      modeBarButtons: [turned ? ["toImage", "resetCameraDefault3d"] : ["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
    return Plotly.react(id, data, look, config);
  };
  const all = () => Promise.all(Object.keys(charts).map(draw));

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const group = key(button.parentElement.dataset.of, button.dataset.group);
      hidden.has(group) ? hidden.delete(group) : hidden.add(group);
      button.setAttribute("aria-pressed", String(!hidden.has(group)));
      all();
    });
  }
  for (const select of document.querySelectorAll("select[data-chart]")) {
    layers[select.dataset.chart] = Number(select.value);
    select.addEventListener("change", () => {
      layers[select.dataset.chart] = Number(select.value);
      draw(select.dataset.chart);
    });
  }
  dark.addEventListener("change", all);
  narrow.addEventListener("change", all);
  all().then(() => document.documentElement.setAttribute("data-drawn", String(Object.keys(charts).length)));
})();

// Plotly, from its package, loaded when the first chart is drawn. Where it is not installed the tables beside the charts do.
let loading = null;

function library() {
  loading ??= new Promise((done) => {
    const script = document.createElement("script");
    script.src = "/console/plotly.min.js";
    script.onload = () => done(window.Plotly);
    script.onerror = () => done(null);
    document.head.append(script);
  });
  return loading;
}

const COLOURS = { exact: "#2a8c70", semantic: "#6fb8e8", join: "#9b8bd9", offload: "#e0a23c", forward: "#8a949b", refuse: "#d2564b" };
const ink = () => getComputedStyle(document.documentElement).getPropertyValue("color");

function layout(more) {
  const colour = getComputedStyle(document.body).color || ink();
  return {
    margin: { l: 46, r: 12, t: 8, b: 36 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour, size: 12 },
    xaxis: { gridcolor: "rgba(128,128,128,.2)" }, yaxis: { gridcolor: "rgba(128,128,128,.2)", rangemode: "tozero" },
    legend: { orientation: "h", y: 1.18 }, ...more,
  };
}

async function draw(node, traces, more) {
  const plotly = await library();
  node.hidden = plotly === null || !traces.some((trace) => trace.x.length);
  if (node.hidden) return;
  if (!node.isConnected) return;
  await plotly.react(node, traces, layout(more), { displayModeBar: false, responsive: true });
}

/** Requests a minute by how they ended, stacked. */
export function traffic(node, minutes) {
  const words = Object.keys(COLOURS).filter((word) => minutes.some((minute) => minute.counts[word]));
  const at = minutes.map((minute) => new Date(1000 * minute.at));
  const traces = words.map((word) => ({
    name: word, type: "bar", x: at, y: minutes.map((minute) => minute.counts[word] ?? 0), marker: { color: COLOURS[word] },
  }));
  return draw(node, traces, { barmode: "stack", bargap: 0.1, yaxis: { title: { text: "requests" }, rangemode: "tozero", gridcolor: "rgba(128,128,128,.2)" } });
}

/** False-hit rate of each category with its interval, in per cent. */
export function falseHits(node, rows) {
  const known = rows.filter((row) => row.hits.rate !== null);
  const trace = {
    type: "scatter", mode: "markers", y: known.map((row) => row.name), x: known.map((row) => 100 * row.hits.rate), marker: { size: 10, color: COLOURS.exact },
    error_x: {
      type: "data", symmetric: false, array: known.map((row) => 100 * (row.hits.high - row.hits.rate)),
      arrayminus: known.map((row) => 100 * (row.hits.rate - row.hits.low)), color: COLOURS.forward,
    },
  };
  return draw(node, [trace], {
    margin: { l: 120, r: 12, t: 8, b: 40 }, xaxis: { title: { text: "wrong hits, % of hits" }, rangemode: "tozero", gridcolor: "rgba(128,128,128,.2)" },
    yaxis: { automargin: true },
  });
}

/** Load of each backend, 0 idle to 1 at capacity. */
export function load(node, backends) {
  const trace = { type: "bar", orientation: "h", y: backends.map((b) => b.id), x: backends.map((b) => b.load ?? 0), marker: { color: COLOURS.semantic } };
  return draw(node, [trace], { margin: { l: 140, r: 12, t: 8, b: 40 }, xaxis: { range: [0, 1.2], title: { text: "load" } }, yaxis: { automargin: true } });
}

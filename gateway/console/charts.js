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

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const WORDS = ["exact", "semantic", "join", "offload", "forward", "refuse"];
const resolved = document.createElement("span"); // light-dark() is known to elements only

function colour(name) {
  if (!resolved.isConnected) { resolved.hidden = true; document.body.append(resolved); }
  resolved.style.color = `var(--${name})`;
  return getComputedStyle(resolved).color;
}

const titled = (text) => ({ text, standoff: 8, font: { size: 12 } });

async function draw(node, traces, { rows = null, ...more }) {
  const plotly = await library();
  node.hidden = plotly === null || !traces.some((trace) => trace.x.length);
  if (node.hidden || !node.isConnected) return;
  if (rows !== null) node.style.height = `${70 + 34 * rows}px`;
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), fixedrange: true, automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  await plotly.react(node, traces, {
    margin: { l: 44, r: 10, t: 6, b: 32 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: style("font-family") || "system-ui, sans-serif", size: 12, color: colour("quiet") }, dragmode: false, barcornerradius: 2,
    hoverlabel: { bgcolor: colour("sheet"), bordercolor: colour("line"), font: { color: colour("ink") } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" }, xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  }, { displayModeBar: false, responsive: true });
}

/** Requests a minute by how they ended, stacked, of the last so many minutes. */
export function traffic(node, minutes, span) {
  const now = 60 * Math.floor(Date.now() / 60000);
  const recent = minutes.filter((minute) => minute.at > now - 60 * span);
  const traces = WORDS.filter((word) => recent.some((minute) => minute.counts[word])).map((word) => ({
    name: word, type: "bar", x: recent.map((minute) => new Date(1000 * minute.at)), y: recent.map((minute) => minute.counts[word] ?? 0),
    marker: { color: colour(word) }, width: 50000,
  }));
  return draw(node, traces, {
    barmode: "stack", showlegend: true, yaxis: { rangemode: "tozero", title: titled("requests a minute") },
    xaxis: { range: [new Date(1000 * (now - 60 * span)), new Date(1000 * (now + 60))], showgrid: false },
  });
}

/** Wrong hits of each category with their interval and their budget, in per cent of its look-ups. */
export function falseHits(node, rows) {
  const known = rows.filter((row) => row.error !== null), limited = rows.filter((row) => row.error !== null && row.max_error !== null);
  const share = (list, of) => list.map((row) => 100 * of(row));
  return draw(node, [
    { name: "wrong, with its 95 % interval", type: "scatter", mode: "markers", y: known.map((row) => row.name), x: share(known, (row) => row.error),
      marker: { size: 10, color: colour("semantic") },
      error_x: { type: "data", symmetric: false, thickness: 2, width: 5, color: colour("semantic"),
        array: share(known, (row) => row.error_high - row.error), arrayminus: share(known, (row) => row.error - row.error_low) } },
    { name: "budget", type: "scatter", mode: "markers", y: limited.map((row) => row.name), x: share(limited, (row) => row.max_error),
      marker: { size: 18, symbol: "line-ns-open", color: colour("bad"), line: { width: 3 } } },
  ], { rows: known.length + 1, showlegend: true, xaxis: { title: titled("% of semantic look-ups"), rangemode: "tozero" }, yaxis: { type: "category", showgrid: false } });
}

/** What each category has saved, by way; `of` takes the figure from a row of the ledger. */
export function savings(node, rows, of, title) {
  const names = [...new Set(rows.map((row) => row.category))].sort();
  const sum = (name, how) => rows.filter((row) => row.category === name && row.how === how).reduce((all, row) => all + of(row), 0);
  const traces = WORDS.filter((how) => rows.some((row) => row.how === how)).map((how) => ({
    name: how, type: "bar", orientation: "h", y: names, x: names.map((name) => sum(name, how)), marker: { color: colour(how) } }));
  return draw(node, traces, { rows: names.length + 1, barmode: "relative", showlegend: true, xaxis: { title: titled(title) }, yaxis: { type: "category", showgrid: false } });
}

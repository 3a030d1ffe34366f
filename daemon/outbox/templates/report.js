"use strict";
{
  const byId = (id) => document.getElementById(id);
  const { rows, frames } = JSON.parse(byId("facts").textContent);
  const NAMES = ["total", "style", "content"];

  // Before and after: a range input lies over the pictures, so mouse, touch and keyboard are the browser's own.
  const compare = document.querySelector("#compare .frame");
  if (compare) {
    const cut = compare.querySelector("input");
    const move = () => {
      compare.style.setProperty("--cut", `${cut.value / 10}%`);
      cut.setAttribute("aria-valuetext", `${Math.round(cut.value / 10)} % photo`);
    };
    cut.addEventListener("input", move);
    cut.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!way) return;
      event.preventDefault();
      cut.value = Number(cut.value) + 20 * way;
      move();
    });
    move();
  }

  // The way: one row of the loss table is shown, by the scrubber or the pointer over the curve.
  const curve = byId("curve"), scrub = byId("scrub"), frame = byId("frame");
  const readable = (value) => {
    if (value === null) return "–";
    if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5)) return String(Number(value.toPrecision(3)));
    const [digits, power] = value.toExponential(1).split("e");
    const raised = [...String(Number(power))].map((sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻").join("");
    return `${digits === "1.0" ? "" : `${Number(digits)}·`}10${raised}`;
  };
  const cells = Object.fromEntries(["iteration", ...NAMES].map((name) => {
    const cell = byId("readout").appendChild(document.createElement("span"));
    if (name !== "iteration") cell.dataset.name = name;
    cell.append(name);
    return [name, cell.appendChild(document.createElement("b"))];
  }));

  const add = (parent, kind, attributes, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return parent.appendChild(node);
  };
  const LEFT = 48, RIGHT = 14, TOP = 24, BOTTOM = 28;
  const first = rows[0][0], last = Math.max(rows.at(-1)[0], first + 1);
  const losses = rows.flatMap((row) => row.slice(2)).filter((loss) => loss > 0);
  const low = Math.log10(losses.reduce((a, b) => Math.min(a, b), Infinity)) || 0;
  const high = Math.max(Math.log10(losses.reduce((a, b) => Math.max(a, b), 0)) || 0, low + 0.1);
  let now = rows.length - 1, x, y, marks;

  const drawTicks = (width, height) => {
    const steps = high - low > 2 ? [1] : [1, 2, 5];
    const every = Math.ceil((high - low) / 6);
    for (let power = Math.floor(low); power <= high; power += 1) {
      for (const loss of steps.map((step) => step * 10 ** power)) {
        const log = Math.log10(loss);
        if (log < low || log > high || (steps.length === 1 && power % every)) continue;
        add(curve, "line", { x1: LEFT, x2: width - RIGHT, y1: y(loss), y2: y(loss) });
        add(curve, "text", { x: LEFT - 8, y: y(loss) + 4, "text-anchor": "end" }, readable(loss));
      }
    }
    const rough = (last - first) / Math.max(2, Math.floor(width / 90));
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = Math.max(1, [1, 2, 5, 10].find((factor) => factor * unit >= rough) * unit);
    for (let at = Math.ceil(first / step) * step; at <= last; at += step) {
      add(curve, "text", { x: x(at), y: height - 6, "text-anchor": "middle" }, String(at));
    }
  };

  const draw = () => {
    const { width, height } = curve.getBoundingClientRect();
    if (!width) return;
    curve.replaceChildren();
    curve.setAttribute("viewBox", `0 0 ${width} ${height}`);
    x = (iteration) => LEFT + ((iteration - first) / (last - first)) * (width - LEFT - RIGHT);
    y = (loss) => TOP + ((high - Math.log10(loss)) / (high - low)) * (height - TOP - BOTTOM);
    drawTicks(width, height);
    let labelEnd = 0;
    rows.forEach(([iteration, size], i) => {
      if (i && rows[i - 1][1] === size) return;
      if (i) add(curve, "line", { class: "size", x1: x(iteration), x2: x(iteration), y1: TOP - 8, y2: height - BOTTOM });
      const start = Math.min(Math.max(x(iteration) + 4, labelEnd), width - 36);
      labelEnd = start + add(curve, "text", { x: start, y: 12 }, `${size} px`).getComputedTextLength() + 8;
    });
    NAMES.forEach((name, column) => {
      let d = "", isOpen = false;
      rows.forEach((row, i) => {
        const loss = row[column + 2];
        isOpen = isOpen && loss > 0 && rows[i - 1][1] === row[1];
        if (loss > 0) d += `${isOpen ? "L" : "M"}${x(row[0]).toFixed(1)} ${y(loss).toFixed(1)}`;
        isOpen = loss > 0;
      });
      add(curve, "path", { d, "data-name": name });
    });
    marks = add(curve, "g", {});
    show(now);
  };

  const show = (index) => {
    now = index;
    const [iteration, size, ...values] = rows[index];
    const shown = frames.findLastIndex((number) => number <= iteration);
    cells.iteration.textContent = String(iteration);
    NAMES.forEach((name, i) => { cells[name].textContent = readable(values[i]); });
    if (marks) {
      marks.replaceChildren();
      add(marks, "line", { class: "now", x1: x(iteration), x2: x(iteration), y1: TOP, y2: curve.clientHeight - BOTTOM });
      NAMES.forEach((name, i) => values[i] > 0 && add(marks, "circle", { cx: x(iteration), cy: y(values[i]), r: 4, "data-name": name }));
    }
    if (!frame || shown < 0) return;
    const address = (number) => `frames/${String(number).padStart(4, "0")}.png`;
    if (frame.getAttribute("src") !== address(frames[shown])) frame.src = address(frames[shown]);
    frame.alt = `The picture at iteration ${frames[shown]}`;
    byId("frame-name").textContent = `at iteration ${frames[shown]}`;
    scrub.value = shown;
    scrub.setAttribute("aria-valuetext", `iteration ${iteration} at ${size} px, total loss ${readable(values[0])}`);
    for (const near of [frames[shown + 1], frames[shown - 1]]) if (near !== undefined) new Image().src = address(near);
  };

  const point = (event) => {
    const at = first + ((event.clientX - curve.getBoundingClientRect().left - LEFT) / (x(last) - LEFT)) * (last - first);
    show(rows.reduce((best, row, i) => (Math.abs(row[0] - at) < Math.abs(rows[best][0] - at) ? i : best), 0));
  };
  curve.addEventListener("pointermove", point);
  curve.addEventListener("pointerdown", point);
  scrub?.addEventListener("input", () => show(rows.findIndex((row) => row[0] === frames[scrub.value])));
  new ResizeObserver(draw).observe(curve);
  draw();

  byId("copy").addEventListener("click", async () => {
    const text = byId("sidecar"), done = byId("copied");
    try {
      await navigator.clipboard.writeText(text.textContent);
      done.textContent = "Copied.";
    } catch {
      text.closest("details").open = true;
      getSelection().selectAllChildren(text);
      done.textContent = document.execCommand("copy") ? "Copied." : "It is selected: copy it with Ctrl+C.";
    }
  });
  const time = document.querySelector("time");
  time.textContent = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "long", timeStyle: "short" });
}

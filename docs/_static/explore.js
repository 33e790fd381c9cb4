// The page Explore: shows the run that the controls name. The runs are in explore_data.js, see docs/make_explore.py.
"use strict";

(() => {
  const { steps, rates, momenta, unit, lowest, perDecade, optimizers, landscapes } = EXPLORE;
  const points = steps + 1;
  const form = document.querySelector("form.explore");
  const controls = form.elements;
  const byId = (id) => document.getElementById(id);
  const hasMomentum = (optimizer) => optimizer.call.includes("{momentum}");

  // Where the runs of each optimizer begin; for each run, a length and three sequences of low and of high bytes.
  let offset = 0;
  for (const optimizer of optimizers) {
    optimizer.momenta = hasMomentum(optimizer) ? momenta.length : 1;
    optimizer.runs = landscapes.length * optimizer.momenta * rates.length;
    optimizer.offset = offset;
    offset += optimizer.runs * (1 + 6 * points);
  }

  async function inflate(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function decode(bytes, { landscape, optimizer, momentum, rate }) {
    const chosen = optimizers[optimizer];
    const row = hasMomentum(chosen) ? momentum : 0;
    const run = (landscape * chosen.momenta + row) * rates.length + rate;
    const length = bytes[chosen.offset + run];
    const sequence = (which) => {
      const low = chosen.offset + chosen.runs * (1 + 2 * which * points) + run * points;
      const high = low + chosen.runs * points;
      const values = [];
      for (let i = 0, sum = 0; i < length; i++) {
        const code = bytes[low + i] + 256 * bytes[high + i];
        sum += code % 2 ? -(code + 1) / 2 : code / 2;
        values.push(sum);
      }
      return values;
    };
    const [x, y, loss] = [0, 1, 2].map(sequence);
    return { length, x: x.map((v) => v / unit), y: y.map((v) => v / unit), loss: loss.map((v) => v / perDecade + lowest) };
  }

  function element(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const polyline = (xs, ys) => xs.map((x, i) => `${i ? "L" : "M"}${x.toFixed(1)} ${ys[i].toFixed(1)}`).join("");
  const dots = (xs, ys) => xs.map((x, i) => `M${x.toFixed(1)} ${ys[i].toFixed(1)}h0`).join("");

  function drawCurve(xs, ys, step) {
    const at = Math.min(step, xs.length - 1);
    return [
      element("path", { class: "path", d: polyline(xs, ys) }),
      element("path", { class: "step", d: dots(xs, ys) }),
      element("circle", { class: "start", cx: xs[0], cy: ys[0], r: 10 }),
      element("circle", { class: "now", cx: xs[at], cy: ys[at], r: 12 }),
    ];
  }

  function drawPath(landscape, run, step) {
    const cross = ([x, y]) => `M${x} ${y}m-12 -12l24 24m0 -24l-24 24`;
    byId("explore-path").replaceChildren(
      element("path", { class: "level", d: landscape.contours }),
      element("path", { class: "least", d: landscape.least.map(cross).join("") }),
      ...drawCurve(run.x.map((x) => 400 + 100 * x), run.y.map((y) => 300 - 100 * y), step),
    );
    byId("explore-formula").textContent = landscape.formula;
  }

  function drawLoss(run, step) {
    const [left, right, top, bottom, highest] = [90, 760, 20, 540, 2];
    const x = (i) => left + ((right - left) * i) / steps;
    const y = (decade) => bottom - ((bottom - top) * (Math.min(decade, highest) - lowest)) / (highest - lowest);
    const parts = [];
    for (let decade = lowest; decade <= highest; decade += 2) {
      parts.push(element("path", { class: "level", d: `M${left} ${y(decade)}H${right}` }));
      const text = decade === 0 ? "1" : decade === 2 ? "100" : `1e${decade}`;
      parts.push(element("text", { x: left - 10, y: y(decade) + 9, "text-anchor": "end" }, text));
    }
    for (let i = 0; i <= steps; i += 25) {
      parts.push(element("text", { x: x(i), y: bottom + 42, "text-anchor": "middle" }, i));
    }
    parts.push(...drawCurve(run.loss.map((_, i) => x(i)), run.loss.map(y), step));
    byId("explore-loss").replaceChildren(...parts);
  }

  const show = (number) => (number < 1e-3 || number >= 1e4 ? number.toExponential(1) : `${Number(number.toPrecision(2))}`);
  const showLoss = (decade) => (decade <= lowest ? `at most 1e${lowest}` : show(10 ** decade));

  function describe(run, step) {
    const at = Math.min(step, run.length - 1);
    const place = `(${run.x[at].toFixed(2)}, ${run.y[at].toFixed(2)})`;
    const end = run.length < points ? ` The run diverges: after step ${run.length - 1} it is far outside.` : "";
    return `Step ${at}: the loss is ${showLoss(run.loss[at])}, at ${place}.${end}`;
  }

  function read() {
    const value = (name) => Number(controls[name].value);
    return Object.fromEntries(["landscape", "optimizer", "rate", "momentum", "step"].map((name) => [name, value(name)]));
  }

  function update(bytes) {
    const chosen = read();
    const optimizer = optimizers[chosen.optimizer];
    const [rate, momentum] = [rates[chosen.rate], momenta[chosen.momentum]];
    const run = decode(bytes, chosen);
    controls.momentum.disabled = !hasMomentum(optimizer);
    const texts = { rate, momentum: hasMomentum(optimizer) ? momentum : "none", step: chosen.step };
    for (const [name, text] of Object.entries(texts)) {
      controls[name].parentElement.querySelector("output").textContent = text;
      controls[name].setAttribute("aria-valuetext", text);
    }
    drawPath(landscapes[chosen.landscape], run, chosen.step);
    drawLoss(run, chosen.step);
    byId("explore-said").textContent = describe(run, chosen.step);
    byId("explore-call").textContent = optimizer.call.replace("{rate}", rate).replace("{momentum}", momentum);
    const names = [landscapes[chosen.landscape].name, optimizer.name, rate, momentum, chosen.step];
    history.replaceState(null, "", `#${names.join("/")}`);
  }

  // An address such as explore.html#saddle/Adam/0.1/0.9/100 names a run.
  function restore() {
    const [landscape, optimizer, rate, momentum, step] = decodeURIComponent(location.hash.slice(1)).split("/");
    const choose = (name, index, otherwise) => (controls[name].value = index >= 0 ? index : otherwise);
    choose("landscape", landscapes.findIndex((one) => one.name === landscape), 1);
    choose("optimizer", optimizers.findIndex((one) => one.name === optimizer), 0);
    choose("rate", rates.indexOf(Number(rate)), rates.indexOf(0.1));
    choose("momentum", momenta.indexOf(Number(momentum || NaN)), momenta.indexOf(0.9));
    choose("step", step === undefined ? -1 : Number(step), steps);
  }

  function fill() {
    landscapes.forEach((one, i) => controls.landscape.add(new Option(one.title, i)));
    optimizers.forEach((one, i) => controls.optimizer.add(new Option(one.name, i)));
    controls.rate.max = rates.length - 1;
    controls.momentum.max = momenta.length - 1;
    controls.step.max = steps;
  }

  fill();
  restore();
  inflate(EXPLORE.runs).then((bytes) => {
    form.addEventListener("input", () => update(bytes));
    form.addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("hashchange", () => {
      restore();
      update(bytes);
    });
    update(bytes);
  });
})();

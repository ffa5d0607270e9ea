"use strict";
(() => {
  const live = JSON.parse(document.getElementById("live").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // theme: what the system says until someone chooses
  const themeButton = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = { get: () => { try { return localStorage.getItem("lgdlm-theme"); } catch { return null; } },
                   set: (value) => { try { localStorage.setItem("lgdlm-theme", value); } catch { /* a file without storage */ } } };
  const showTheme = () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    themeButton.textContent = now === "dark" ? "Light" : "Dark";
    themeButton.setAttribute("aria-label", `Switch to ${now === "dark" ? "light" : "dark"} colours`);
    return now;
  };
  if (["light", "dark"].includes(stored.get())) root.dataset.theme = stored.get();
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    root.dataset.theme = showTheme() === "dark" ? "light" : "dark";
    stored.set(root.dataset.theme);
    showTheme();
  });
  dark.addEventListener("change", showTheme);
  showTheme();

  // curves: legends switch them, the pointer and the arrow keys read them
  const rawBox = document.getElementById("raw");
  if (rawBox) rawBox.addEventListener("change", () => root.classList.toggle("noraw", !rawBox.checked));
  const format = (value) => Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  for (const figure of all("figure.plot")) {
    const chart = live.charts[figure.dataset.chart];
    const svg = figure.querySelector("svg"), reading = figure.querySelector(".reading"), resting = reading.textContent;
    const hidden = new Set();
    for (const button of all("[data-toggle]", figure)) {
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true", label = button.dataset.toggle;
        button.setAttribute("aria-pressed", String(on));
        if (on) hidden.delete(label); else hidden.add(label);
        for (const mark of all("[data-series]", svg)) if (mark.dataset.series === label) mark.classList.toggle("off", !on);
      });
    }
    const box = svg.viewBox.baseVal, cursor = document.createElementNS(svg.namespaceURI, "line");
    cursor.setAttribute("class", "cursor off");
    cursor.setAttribute("y1", "10");
    cursor.setAttribute("y2", "222");
    svg.append(cursor);
    svg.tabIndex = 0;
    let at = chart.high;
    const read = (step) => {
      at = Math.min(chart.high, Math.max(chart.low, step));
      const x = (chart.left + (at - chart.low) / (chart.high - chart.low) * (chart.right - chart.left)) * box.width;
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.classList.remove("off");
      reading.textContent = `step ${Math.round(at).toLocaleString("en")}: `;
      chart.series.filter((series) => !hidden.has(series.label)).forEach((series, i) => {
        let best = 0;
        series.steps.forEach((s, j) => { if (Math.abs(s - at) < Math.abs(series.steps[best] - at)) best = j; });
        const value = document.createElement("b");
        value.textContent = format(series.values[best]);
        reading.append(`${i ? "; " : ""}${series.label} `, value);
      });
    };
    const leave = () => { cursor.classList.add("off"); reading.textContent = resting; };
    const point = (event) => {
      const area = svg.getBoundingClientRect(), share = (event.clientX - area.left) / area.width;
      read(chart.low + (share - chart.left) / (chart.right - chart.left) * (chart.high - chart.low));
    };
    for (const kind of ["pointerdown", "pointermove"]) svg.addEventListener(kind, point);  // a tap does not move
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.2, PageUp: 0.2 }[event.key];
      if (move) { read(at + move * (chart.high - chart.low)); event.preventDefault(); }
    });
  }

  // map: the nearest dot under the pointer, the next dot in an arrow's direction
  const mapBox = document.getElementById("mapbox");
  if (mapBox) {
    const svg = mapBox.querySelector("svg"), text = document.getElementById("maptext");
    const dots = all("circle", svg), places = dots.map((dot) => [dot.cx.baseVal.value, dot.cy.baseVal.value]);
    const off = new Set(), names = {};
    for (const button of all("[data-kind]")) {
      const kind = Number(button.dataset.kind);
      names[kind] = button.firstChild.textContent.trim();
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        if (on) off.delete(kind); else off.add(kind);
        dots.forEach((dot, i) => { if (live.map[i][0] === kind) dot.classList.toggle("off", !on); });
      });
    }
    const ring = document.createElementNS(svg.namespaceURI, "circle");
    ring.setAttribute("class", "here off");
    ring.setAttribute("r", "6");
    svg.append(ring);
    let chosen = -1;
    const choose = (i) => {
      chosen = i;
      ring.setAttribute("cx", places[i][0]);
      ring.setAttribute("cy", places[i][1]);
      ring.classList.remove("off");
      const kind = document.createElement("span");
      kind.textContent = names[live.map[i][0]];
      text.replaceChildren(kind, live.map[i][1] || "(empty)");
    };
    const nearest = (x, y, allowed) => {
      let best = -1, least = Infinity;
      places.forEach(([px, py], i) => {
        if (off.has(live.map[i][0])) return;
        const cost = allowed ? allowed(px - x, py - y, i) : (px - x) ** 2 + (py - y) ** 2;
        if (cost < least) { least = cost; best = i; }
      });
      return best;
    };
    const point = (event) => {
      const area = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / area.width;
      const i = nearest((event.clientX - area.left) * scale, (event.clientY - area.top) * scale);
      if (i >= 0 && i !== chosen) choose(i);
    };
    for (const kind of ["pointerdown", "pointermove"]) svg.addEventListener(kind, point);  // a tap does not move
    mapBox.addEventListener("focus", () => { if (chosen < 0) { const i = nearest(svg.viewBox.baseVal.width / 2, svg.viewBox.baseVal.height / 2); if (i >= 0) choose(i); } });
    mapBox.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way || chosen < 0) return;
      event.preventDefault();
      const i = nearest(places[chosen][0], places[chosen][1], (dx, dy, j) => {
        const along = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
        return j === chosen || along <= 0 ? Infinity : along + 3 * aside;
      });
      if (i >= 0) choose(i);
    });
    document.getElementById("find").addEventListener("input", (event) => {
      const word = event.target.value.trim().toLowerCase();
      svg.classList.toggle("finding", word !== "");
      dots.forEach((dot, i) => dot.classList.toggle("hit", word !== "" && live.map[i][1].toLowerCase().includes(word)));
    });
  }

  // denoising: scrub with the slider, the arrow keys, or play
  for (const trace of all(".trace")) {
    const steps = live.trajectory[Number(trace.dataset.trace)];
    const last = steps[steps.length - 1];
    const scrub = trace.querySelector(".scrub"), line = scrub.querySelector(".tokens");
    const slider = scrub.querySelector("input"), play = scrub.querySelector(".play"), output = scrub.querySelector("output");
    let timer = 0;
    const show = (i) => {
      const step = steps[i], before = steps[i - 1];
      slider.value = i;
      line.replaceChildren(...step.tokens.map((token, j) => {
        const fresh = before && before.masked[j] && !step.masked[j];
        const part = document.createElement(fresh ? "ins" : "span");
        if (step.masked[j]) {
          part.className = "mask";  // as wide as the token that will stand there, so that nothing jumps
          part.style.width = `${Math.min(24, Math.max(1, [...last.tokens[j]].length)) + 0.2}ch`;
        } else part.textContent = token;
        return part;
      }));
      const shown = step.masked.filter((masked) => !masked).length;
      output.textContent = `step ${i} of ${steps.length - 1}, t = ${step.clock.toFixed(2)}, ${shown} of ${step.masked.length} tokens`;
      slider.setAttribute("aria-valuetext", `${output.textContent}: ${step.tokens.map((token, j) => step.masked[j] ? " mask" : token).join("")}`);
    };
    const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
    const move = (i) => { stop(); show(Math.min(steps.length - 1, Math.max(0, i))); };
    slider.addEventListener("input", () => move(Number(slider.value)));
    line.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: Number(slider.value) - 1, ArrowRight: Number(slider.value) + 1, Home: 0, End: steps.length - 1 }[event.key];
      if (to !== undefined) { move(to); event.preventDefault(); }
    });
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(slider.value) === steps.length - 1) show(0);
      play.textContent = "Pause";
      timer = setInterval(() => { if (Number(slider.value) === steps.length - 1) stop(); else show(Number(slider.value) + 1); }, 160);
    });
    trace.querySelector("details").open = false;
    scrub.hidden = false;
    show(Math.floor((steps.length - 1) / 2));
  }

  // paper shows everything
  let closed = [];
  addEventListener("beforeprint", () => { closed = all("details:not([open])"); for (const part of closed) part.open = true; });
  addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
})();

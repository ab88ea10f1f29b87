// Shows times in the user's time zone, updates pages, and draws the chart. Inserts no HTML from text.
"use strict";
(function () {
  const EVERY = 5000, HISTORY_EVERY = 30000; // milliseconds
  const EDGE = { left: 4, right: 52, top: 8, bottom: 22 }; // around the chart, in pixels
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

  function ago(at) {
    const passed = Math.max(0, Math.floor((Date.now() - at) / 1000));
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (passed >= size) return `${Math.floor(passed / size)} ${unit} ago`;
    }
    return `${passed} s ago`;
  }

  function showTimes() {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      time.title = full.format(at);
      const text = `${full.format(at)} (${ago(at)})`;
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // --- automatic updates ---

  async function get(url) {
    const answer = await fetch(url, { signal: AbortSignal.timeout(10000) });
    if (!answer.ok || answer.redirected) throw new Error(`status ${answer.status}; log in again`);
    return answer;
  }

  // A part that has the focus is not replaced.
  function replaceParts(page, news) {
    for (const part of page.querySelectorAll("[data-part]")) {
      const other = news.querySelector(`[data-part="${part.dataset.part}"]`);
      if (other && !part.contains(document.activeElement)) part.replaceChildren(...other.childNodes);
    }
  }

  let nextRefresh = 0;

  async function refresh(page) {
    clearTimeout(nextRefresh);
    let trouble = "";
    try {
      const answer = await get(location.href);
      replaceParts(page, new DOMParser().parseFromString(await answer.text(), "text/html"));
      showTimes();
    } catch (error) {
      trouble = `The page cannot be updated: ${error.message}`;
    }
    page.querySelector(".trouble").textContent = trouble;
    clearTimeout(nextRefresh); // set by a refresh that ran at the same time
    nextRefresh = setTimeout(refresh, document.hidden ? 4 * EVERY : EVERY, page);
  }

  // --- the chart ---

  function shape(name, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  function clock(at, step) {
    const options = step > 600 ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit" };
    return new Intl.DateTimeFormat(undefined, options).format(at * 1000);
  }

  // One point for each step of the range, also without a row. The last step may be incomplete.
  function allSteps({ start, end, step, points }) {
    const known = new Map(points.map(point => [point.at, point]));
    const steps = [], first = points.length ? points[0].at : end;
    for (let at = start; at < end; at += step) {
      const point = known.get(at);
      const length = Math.max(1, Math.min(step, Date.now() / 1000 - at));
      const rate = point ? point.handled / length : 0;
      const isOver = at + step < Date.now() / 1000;
      if (!isOver && !point) continue; // its row is written when it ends
      const isGap = isOver && at >= first && (!point || point.connected < .95 * step);
      steps.push({ at, point, rate, isGap });
    }
    return steps;
  }

  function say({ at, point, rate, isGap }) {
    const when = full.format(at * 1000);
    if (!point) return `${when}: no data`;
    const p95 = point.p95 === null ? "" : `, handler 95 %: ${(point.p95 * 1000).toFixed(1)} ms`;
    return `${when}: ${rate.toFixed(1)} messages/s, received ${point.received}, failed ${point.failed}, `
      + `waiting ${point.waiting}, reconnects ${point.reconnects}${p95}${isGap ? "; not connected all the time" : ""}`;
  }

  function draw(figure, history) {
    const svg = figure.querySelector(".chart"), scrubber = figure.querySelector(".scrubber");
    const { width, height } = svg.getBoundingClientRect();
    const steps = allSteps(history), { start, end, step } = history;
    const highest = Math.max(1, ...steps.map(each => each.rate));
    const right = width - EDGE.right, low = height - EDGE.bottom;
    const x = at => EDGE.left + (right - EDGE.left) * (at - start) / (end - start);
    const y = rate => low - (low - EDGE.top) * rate / highest;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", `Messages handled per second, at most ${highest.toFixed(1)}`);
    const grid = [0, .5, 1].flatMap(part => [
      shape("line", { class: "grid", x1: EDGE.left, x2: right, y1: y(highest * part), y2: y(highest * part) }),
      shape("text", { x: right + 6, y: y(highest * part) + 4 }, (highest * part).toFixed(1))]);
    const every = (end - start) / Math.max(2, Math.min(6, Math.floor(width / 110)));
    const ticks = [];
    for (let at = start + every / 2; at < end; at += every) {
      ticks.push(shape("text", { x: x(at), y: height - 6, "text-anchor": "middle" }, clock(at, step)));
    }
    const gaps = steps.filter(each => each.isGap).map(each => shape("rect", {
      class: "gap", x: x(each.at), y: EDGE.top, width: Math.max(1, x(each.at + step) - x(each.at)), height: low - EDGE.top }));
    const line = steps.map(each => `${x(each.at + step / 2).toFixed(1)},${y(each.rate).toFixed(1)}`).join(" ");
    const here = shape("line", { class: "here", y1: EDGE.top, y2: low });
    svg.replaceChildren(...gaps, ...grid, ...ticks, shape("polyline", { fill: "none", points: line }), here);
    const isAtEnd = scrubber.value === scrubber.max;
    scrubber.max = steps.length - 1;
    if (isAtEnd) scrubber.value = scrubber.max;
    function point() {
      const chosen = steps[Number(scrubber.value)], text = say(chosen), middle = x(chosen.at + step / 2);
      here.setAttribute("x1", middle);
      here.setAttribute("x2", middle);
      scrubber.setAttribute("aria-valuetext", text);
      const tooltip = figure.querySelector(".tooltip");
      if (tooltip.textContent !== text) tooltip.textContent = text;
    }
    scrubber.oninput = point;
    svg.onpointermove = event => {
      const share = (event.offsetX - EDGE.left) / (right - EDGE.left);
      scrubber.value = Math.max(0, Math.min(steps.length - 1, Math.floor(share * (end - start) / step)));
      point();
    };
    point();
  }

  async function showHistory(page) {
    try {
      const { history } = await (await get(page.dataset.url)).json();
      const figure = page.querySelector("figure");
      draw(figure, history);
      window.onresize = () => draw(figure, history);
    } catch (error) {
      page.querySelector(".trouble").textContent = `The history cannot be shown: ${error.message}`;
    }
    setTimeout(showHistory, HISTORY_EVERY, page);
  }

  // --- bulk actions: each response is the form for the remaining messages ---

  async function carryOn(form) {
    const buttons = form.querySelectorAll("[type=submit]");
    for (const button of buttons) button.disabled = true;
    try {
      const answer = await fetch(form.action, { method: "POST", body: new FormData(form) });
      if (!answer.ok || answer.redirected) throw new Error(`status ${answer.status}; log in again`);
      const news = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(form.id);
      form.replaceChildren(...news.childNodes);
      if ("continue" in news.dataset) await carryOn(form);
    } catch (error) {
      for (const button of buttons) button.disabled = false;
      form.querySelector(".trouble").textContent =
        `The action stopped: ${error.message}. Press ${buttons[0].value} to go on.`;
    }
  }

  function beginWork(form) {
    if (!form) return;
    form.addEventListener("submit", event => {
      event.preventDefault();
      carryOn(form);
    });
    if ("continue" in form.dataset) form.requestSubmit();
  }

  function begin() {
    showTimes();
    setInterval(showTimes, 1000);
    beginWork(document.getElementById("datastream-bulk"));
    const page = document.querySelector("[data-refresh]");
    if (!page) return;
    nextRefresh = setTimeout(refresh, EVERY, page);
    document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(page); });
    if (page.dataset.url) showHistory(page);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();

// Requests new data twice a second, and shows it. Inserts no HTML from text.
"use strict";
(function () {
  const EVERY = 500; // milliseconds
  const KEPT = 200; // events
  const { live, seconds, candle } = document.body.dataset;
  const SPAN = Number(seconds), CANDLE = Number(candle);
  const EDGE = { left: 4, right: 58, top: 10, bottom: 24 }; // around the chart, in pixels
  const money = new Intl.NumberFormat("en", { style: "currency", currency: "EUR" });
  const clock = new Intl.DateTimeFormat("en", { timeStyle: "medium", hour12: false });
  let chosen = null, newestEvent = 0, latest = null;

  const find = selector => document.querySelector(selector);
  const price = cents => money.format(cents / 100);
  const time = at => clock.format(at * 1000);

  function element(name, words = {}, ...children) {
    const made = document.createElement(name);
    Object.assign(made, words);
    made.append(...children);
    return made;
  }

  function shape(name, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  function direction(from, to) { return to < from ? "falls" : "rises"; }

  // --- streams, flags, events ---

  function showStreams(streams) {
    find(".streams").replaceChildren(...streams.map(({ name, state, reconnects }) => element(
      "li", { className: state }, `${name} `,
      element("span", {}, state === "ready" ? `ready, ${reconnects} reconnects` : state))));
  }

  function showFlags(flags) {
    const list = find(".flags");
    if (list.children.length !== flags.length) {
      list.replaceChildren(...flags.map(() => element("li", {}, element("i"), element("span"), element("b"))));
    }
    flags.forEach(({ key, is_on }, number) => {
      const [, name, word] = list.children[number].children;
      list.children[number].className = is_on ? "on" : "off";
      name.textContent = key;
      word.textContent = is_on ? "on" : "off";
    });
  }

  function showEvents(events) {
    const unseen = events.filter(event => event.id > newestEvent);
    if (!unseen.length) return;
    newestEvent = Math.max(...unseen.map(event => event.id));
    const list = find("ol.events");
    list.prepend(...unseen.map(({ at, stream, kind, text }) => element(
      "li", { className: kind }, element("time", {}, time(at)),
      element("span", {}, element("strong", {}, `${stream} ${kind}`), ` ${text}`))));
    while (list.children.length > KEPT) list.lastChild.remove();
  }

  // --- prices ---

  function byProduct(candles) {
    const products = new Map();
    for (const each of candles) products.set(each.product, [...products.get(each.product) || [], each]);
    return new Map([...products].sort());
  }

  function showProducts(products) {
    const box = find(".products");
    if (box.children.length !== products.size) box.replaceChildren(...[...products.keys()].map(card));
    for (const button of box.children) {
      const candles = products.get(button.value), from = candles[0].open, to = candles.at(-1).close;
      const [, change, now, line] = button.children;
      button.ariaPressed = button.value === chosen;
      now.textContent = price(to);
      change.className = `change ${direction(from, to)}`;
      change.textContent = `${to < from ? "▼" : "▲"} ${Math.abs(100 * (to / from - 1)).toFixed(1)} %`;
      line.setAttribute("class", direction(from, to));
      line.firstChild.setAttribute("points", sparkline(candles));
    }
  }

  function card(product) {
    const line = shape("svg", { viewBox: "0 0 60 30", preserveAspectRatio: "none", "aria-hidden": "true" });
    line.append(shape("polyline", {}));
    const parts = ["name", "change", "price"].map(className => element("span", { className }));
    parts[0].textContent = product;
    const button = element("button", { type: "button", value: product }, ...parts, line);
    button.addEventListener("click", () => { chosen = product; show(latest); });
    return button;
  }

  function sparkline(candles) {
    const closes = candles.map(each => each.close), low = Math.min(...closes);
    const high = Math.max(low + 1, ...closes), step = 60 / Math.max(1, closes.length - 1);
    return closes.map((cents, n) => `${n * step},${28 - 26 * (cents - low) / (high - low)}`).join(" ");
  }

  // --- the chart ---

  function showChart(candles, gaps, now) {
    const svg = find(".chart"), { width, height } = svg.getBoundingClientRect();
    const low = Math.min(...candles.map(each => each.low)), high = Math.max(low + 1, ...candles.map(each => each.high));
    const last = candles.at(-1).close, right = width - EDGE.right;
    const end = Math.max(now, candles.at(-1).start + CANDLE);
    const x = at => EDGE.left + (right - EDGE.left) * (1 - (end - at) / SPAN);
    const y = cents => EDGE.top + (height - EDGE.top - EDGE.bottom) * (high - cents) / (high - low);
    const words = `${price(low)} to ${price(high)} in ${SPAN / 60} minutes`;
    const title = svg.firstElementChild;
    title.textContent = `${chosen}: now ${price(last)}, ${words}`;
    find("[data-field=product]").textContent = chosen;
    find("[data-field=range]").textContent = words;
    svg.replaceChildren(
      title, ...gaps.flatMap(gap => band(gap, x, height)), ...grid(low, high, last, y, right),
      ...ticks(now, x, height), ...candles.map(each => drawn(each, x, y)),
      shape("line", { class: "now", x1: EDGE.left, x2: right, y1: y(last), y2: y(last) }),
      shape("text", { class: "tag", x: right + 6, y: y(last) + 4 }, price(last)));
  }

  // A gap without a connection, whose prices came later.
  function band({ began, ended }, x, height) {
    const from = Math.max(EDGE.left, x(began)), width = Math.max(2, x(ended) - from);
    return x(ended) < EDGE.left ? [] : [shape("rect", {
      class: "gap", x: from, y: EDGE.top, width, height: height - EDGE.top - EDGE.bottom })];
  }

  function grid(low, high, last, y, right) {
    return [0, 1, 2, 3, 4].flatMap(quarter => {
      const cents = Math.round(low + quarter * (high - low) / 4), at = y(cents);
      const line = shape("line", { class: "grid", x1: EDGE.left, x2: right, y1: at, y2: at });
      const hidden = Math.abs(at - y(last)) < 16; // behind the current price
      return hidden ? [line] : [line, shape("text", { x: right + 6, y: at + 4 }, price(cents))];
    });
  }

  function ticks(now, x, height) {
    const texts = [];
    for (let at = Math.ceil((now - SPAN) / 30) * 30; at < now; at += 30) {
      if (x(at) < EDGE.left + 30) continue;
      texts.push(shape("text", { x: x(at), y: height - 6, "text-anchor": "middle" }, time(at)));
    }
    return texts;
  }

  function drawn({ start, open, high, low, close }, x, y) {
    const group = shape("g", { class: `candle ${direction(open, close)}` });
    const middle = x(start + CANDLE / 2), wide = Math.max(2, (x(start + CANDLE) - x(start)) * .6);
    const top = y(Math.max(open, close)), tall = Math.max(1, y(Math.min(open, close)) - top);
    group.append(
      shape("line", { x1: middle, x2: middle, y1: y(high), y2: y(low) }),
      shape("rect", { x: middle - wide / 2, y: top, width: wide, height: tall }));
    return group;
  }

  // --- updates ---

  function show(news) {
    latest = news;
    showStreams(news.streams);
    showFlags(news.flags);
    showEvents(news.events);
    const products = byProduct(news.candles);
    if (!products.size) return;
    if (!products.has(chosen)) chosen = products.keys().next().value;
    showProducts(products);
    showChart(products.get(chosen), news.gaps, news.now);
  }

  async function update() {
    let trouble = "";
    try {
      const answer = await fetch(live, { signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show(await answer.json());
    } catch (error) {
      trouble = `The site does not respond (${error.message}); retrying.`;
    }
    find(".trouble").textContent = trouble;
    setTimeout(update, document.hidden ? 4 * EVERY : EVERY);
  }

  update();
})();

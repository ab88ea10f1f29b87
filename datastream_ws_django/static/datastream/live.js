// Shows one stream's runners, and again every two seconds. Text goes in as text, never as markup.
"use strict";
(function () {
  const page = document.getElementById("datastream-live");
  const EVERY = 2000, POINTS = 150, WELL = ["ready", "standby", "paused"];
  const maxAge = Number(page.dataset.maxAge) * 1000;
  const rates = [];
  let before = null;

  function field(name) { return page.querySelector(`[data-field="${name}"]`); }
  function say(name, text) { field(name).textContent = text; }
  function time(text) { return text ? new Date(text).toLocaleTimeString() : "–"; }
  function sum(runners, name) { return runners.reduce((all, runner) => all + runner[name], 0); }

  // Messages handled between the last two heartbeats, over all processes.
  function rate(runners) {
    const now = new Map(runners.map(runner => [`${runner.host}:${runner.pid}`, runner]));
    let handled = 0, seconds = 0;
    for (const [key, runner] of now) {
      const old = before && before.get(key);
      const passed = old ? (new Date(runner.beat_at) - new Date(old.beat_at)) / 1000 : 0;
      if (passed > 0) {
        handled += Math.max(0, runner.messages_handled - old.messages_handled);
        seconds = Math.max(seconds, passed);
      }
    }
    if (!before || seconds > 0) before = now;
    return seconds > 0 ? handled / seconds : null;
  }

  function draw() {
    const highest = Math.max(1, ...rates.map(point => point[1]));
    const start = rates[0][0], span = Math.max(1, rates[rates.length - 1][0] - start);
    const points = rates.map(([at, value]) =>
      `${(600 * (at - start) / span).toFixed(1)},${(115 - 110 * value / highest).toFixed(1)}`);
    page.querySelector("polyline").setAttribute("points", points.join(" "));
    page.querySelector("polygon").setAttribute("points", `0,115 ${points.join(" ")} 600,115`);
    say("span", Math.round(span / 1000));
    say("highest", Math.max(0, ...rates.map(point => point[1])).toFixed(1));
  }

  function row(runner, isFresh) {
    const state = isFresh ? runner.state : `stale, was ${runner.state}`;
    const cells = [`${runner.host}, ${runner.pid}`, state, time(runner.beat_at),
      runner.messages_received, runner.messages_handled, runner.messages_failed,
      runner.messages_dropped, runner.messages_waiting, runner.reconnects];
    const line = document.createElement("tr");
    line.className = isFresh ? "" : "stale";
    for (const text of cells) line.appendChild(document.createElement("td")).textContent = text;
    return line;
  }

  function show(runners, now) {
    const fresh = runners.filter(runner => new Date(now) - new Date(runner.beat_at) < maxAge);
    const best = fresh.find(runner => runner.state === "ready")
      || fresh.find(runner => WELL.includes(runner.state)) || fresh[0];
    const state = best ? best.state : runners.length ? "stale" : "never started";
    say("state", state);
    field("state").className = `state ${WELL.includes(state) ? "well" : "unwell"}`;
    const newest = rate(fresh);
    if (newest !== null) {
      rates.push([Date.now(), newest]);
      rates.splice(0, rates.length - POINTS);
      say("rate", newest.toFixed(1));
      draw();
    }
    say("reconnects", sum(fresh, "reconnects"));
    const last = runners.map(runner => runner.last_message_at).filter(Boolean).sort().pop();
    say("last_message", time(last));
    const failing = runners.find(runner => runner.last_error);
    say("last_error", failing ? failing.last_error : "none");
    page.querySelector("tbody").replaceChildren(...runners.map(runner => row(runner, fresh.includes(runner))));
  }

  async function update() {
    let trouble = "";
    try {
      const answer = await fetch(page.dataset.url, { signal: AbortSignal.timeout(10000) });
      if (!answer.ok || answer.redirected) throw new Error(`status ${answer.status}; are you still logged in?`);
      const news = await answer.json();
      show(news.runners, news.now);
    } catch (error) {
      trouble = `No news: ${error.message}`;
    }
    page.querySelector(".trouble").textContent = trouble;
    setTimeout(update, EVERY);
  }

  update();
})();

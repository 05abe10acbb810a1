// Pulls sooner: a hint from the server that something changed becomes a DOM event, upon
// which the page's fragments fetch themselves. Without it they poll, only slower.
(() => {
  const path = document.body.dataset.live;
  if (!path) return;
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  let wait = 1000;
  let missed = false;

  const changed = () => {
    missed = document.hidden;
    if (!missed) document.body.dispatchEvent(new CustomEvent("application-changed"));
  };
  const connect = () => {
    const socket = new WebSocket(url);
    socket.onopen = () => (wait = 1000);
    socket.onmessage = changed;
    socket.onclose = () => {
      setTimeout(connect, wait * (1 + Math.random()));
      wait = Math.min(wait * 2, 60000);
    };
  };
  document.addEventListener("visibilitychange", () => missed && changed());
  connect();
})();

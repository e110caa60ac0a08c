// Pointers on the stage: one draws (mouse, pen or finger), two pinch, the wheel zooms, and the
// middle button or the space bar drags. The right button draws where takesRight() says so.

const LEFT = 0;
const MIDDLE = 1;
const RIGHT = 2;
const PEN_ERASER = 5;

export function listen(stage, view, { begin, extend, end, abandon, hover, leave, takesRight }) {
  const down = new Map();
  let dragging = false;
  let drawing = null;
  let space = false;

  const setSpace = (held) => {
    space = held;
    stage.classList.toggle("grab", held);
  };
  addEventListener("keydown", (event) => {
    if (event.code !== "Space" || isControl(event.target)) return;
    event.preventDefault();
    setSpace(true);
  });
  addEventListener("keyup", (event) => { if (event.code === "Space") setSpace(false); });
  addEventListener("blur", () => setSpace(false));

  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button, label, #working")) return;
    if (![LEFT, MIDDLE, PEN_ERASER].includes(event.button) && !(event.button === RIGHT && takesRight())) return;
    event.preventDefault();
    document.activeElement?.blur();
    stage.setPointerCapture(event.pointerId);
    down.set(event.pointerId, view.onStage(event));
    if (down.size > 1) {
      if (drawing !== null) abandon();
      drawing = null;
      dragging = true;
    } else if (event.button === MIDDLE || space) {
      dragging = true;
    } else {
      drawing = event.pointerId;
      begin(event);
    }
  });

  stage.addEventListener("pointermove", (event) => {
    hover(event);
    const last = down.get(event.pointerId);
    if (!last) return;
    const here = view.onStage(event);
    if (drawing === event.pointerId) {
      const steps = event.getCoalescedEvents?.() ?? [];
      for (const step of steps.length ? steps : [event]) extend(step);
    } else if (down.size === 2) {
      pinch(view, last, here, other(down, event.pointerId));
    } else if (dragging) {
      view.move(here.x - last.x, here.y - last.y);
    }
    down.set(event.pointerId, here);
  });

  const lift = (event) => {
    if (!down.delete(event.pointerId)) return;
    if (drawing === event.pointerId) {
      drawing = null;
      if (event.type === "pointercancel") abandon();
      else end();
    }
    if (down.size === 0) dragging = false;
  };
  stage.addEventListener("pointerup", lift);
  stage.addEventListener("pointercancel", lift);
  stage.addEventListener("pointerleave", leave);
  stage.addEventListener("contextmenu", (event) => { if (takesRight()) event.preventDefault(); });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    view.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), view.onStage(event));
  }, { passive: false });
}

function other(down, id) {
  for (const [key, point] of down) if (key !== id) return point;
  return null;
}

function pinch(view, last, here, anchor) {
  const before = Math.hypot(last.x - anchor.x, last.y - anchor.y);
  const after = Math.hypot(here.x - anchor.x, here.y - anchor.y);
  if (before > 0 && after > 0) {
    view.zoom(after / before, { x: (last.x + anchor.x) / 2, y: (last.y + anchor.y) / 2 });
  }
  view.move((here.x - last.x) / 2, (here.y - last.y) / 2);
}

// Space presses a focused button; then it must not drag the photo.
export function isControl(element) {
  return Boolean(element.closest?.("button, a, select, input, label"));
}

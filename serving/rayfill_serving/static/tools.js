// What the pointer does to the mask: brush and eraser paint; box and select add or take out.

const SLACK_PX = 6; // on the screen: a tap wobbles, a drag goes farther

export function painter(mask, view, { size, erases }) {
  return {
    begin: (event) => mask.begin(view.onPhoto(event), size(), erases || event.buttons === 32),
    extend: (event) => mask.extend(view.onPhoto(event)),
    end: () => mask.end(),
    abandon: () => mask.abandon(),
  };
}

export function boxer(mask, view, marquee, { takesOut }) {
  let from = null; // { photo, stage, out }
  let to = null;
  const stop = () => {
    from = null;
    to = null;
    marquee.hidden = true;
  };
  return {
    begin(event) {
      from = { photo: view.onPhoto(event), stage: view.onStage(event), out: takesOut(event) };
    },
    extend(event) {
      if (!from) return;
      const here = view.onStage(event);
      if (!to && distance(from.stage, here) < SLACK_PX) return;
      to = view.onPhoto(event);
      marquee.hidden = false;
      marquee.classList.toggle("out", from.out);
      marquee.style.left = `${Math.min(from.stage.x, here.x)}px`;
      marquee.style.top = `${Math.min(from.stage.y, here.y)}px`;
      marquee.style.width = `${Math.abs(from.stage.x - here.x)}px`;
      marquee.style.height = `${Math.abs(from.stage.y - here.y)}px`;
    },
    end() {
      if (to) mask.box(from.photo, to, from.out);
      stop();
    },
    abandon: stop,
  };
}

// Calls pick(event, takeOut) for a click or tap within the photo, not for drags and pinches.
export function clicker(view, { pick, takesOut }) {
  let pressed = null;
  return {
    begin(event) {
      const { x, y } = view.onPhoto(event);
      const within = x >= 0 && y >= 0 && x < view.width && y < view.height;
      pressed = within ? { photo: { x, y }, stage: view.onStage(event), out: takesOut(event) } : null;
    },
    extend(event) {
      if (pressed && distance(pressed.stage, view.onStage(event)) > SLACK_PX) pressed = null;
    },
    end() {
      if (pressed) pick(pressed);
      pressed = null;
    },
    abandon() { pressed = null; },
  };
}

function distance(one, other) { return Math.hypot(one.x - other.x, one.y - other.y); }

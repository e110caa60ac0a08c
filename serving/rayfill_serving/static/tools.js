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

// Calls cover({ from, to, out, at }) with corners in the photo and the middle on the stage, for
// drags; and click({ place, at, out }) for a click or tap within the photo.
export function boxer(view, marquee, { cover, click = () => {}, takesOut }) {
  let from = null; // { photo, stage, out }
  let to = null;
  let last = null; // on the stage
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
      last = here;
      marquee.hidden = false;
      marquee.classList.toggle("out", from.out);
      marquee.style.left = `${Math.min(from.stage.x, here.x)}px`;
      marquee.style.top = `${Math.min(from.stage.y, here.y)}px`;
      marquee.style.width = `${Math.abs(from.stage.x - here.x)}px`;
      marquee.style.height = `${Math.abs(from.stage.y - here.y)}px`;
    },
    end() {
      if (to) cover({ from: from.photo, to, out: from.out, at: between(from.stage, last) });
      else if (from && within(view, from.photo)) click({ place: from.photo, at: from.stage, out: from.out });
      stop();
    },
    abandon: stop,
  };
}

// Calls pick({ box, at, out }) for a rectangle dragged, as far as it lies on the photo, and
// pick({ place, at, out }) for a click.
export function selector(view, marquee, { pick, takesOut }) {
  const cover = ({ from, to, out, at }) => {
    const [left, right] = [from.x, to.x].sort((a, b) => a - b).map((x) => clamp(x, view.width));
    const [top, bottom] = [from.y, to.y].sort((a, b) => a - b).map((y) => clamp(y, view.height));
    if (right - left >= 2 && bottom - top >= 2) pick({ box: [left, top, right, bottom], at, out });
  };
  return boxer(view, marquee, { cover, click: pick, takesOut });
}

function within(view, { x, y }) { return x >= 0 && y >= 0 && x < view.width && y < view.height; }
function clamp(value, end) { return Math.min(end, Math.max(0, value)); }
function between(one, other) { return { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 }; }

function distance(one, other) { return Math.hypot(one.x - other.x, one.y - other.y); }

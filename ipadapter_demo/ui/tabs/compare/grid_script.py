"""The grid of a comparison in the browser: zoom into all pictures at once, and seconds that count
down. The wheel alone scrolls the page."""

# `element` and the functions are gradio's. Whoever chose a cell by its keys stays there when the
# grid is written anew.
ON_LOAD = """
const MOST = 8, FACTOR = 1.5;
let zoom = 1, at = [50, 50], focused = null, came = performance.now();
let apart = 0, between = null;  // two fingers
const aim = (x, y) => {
    at = [x, y].map((v) => Math.min(100, Math.max(0, v)));
    element.style.setProperty("--x", `${at[0]}%`);
    element.style.setProperty("--y", `${at[1]}%`);
};
const aimAt = ({ clientX, clientY }, frame) => {
    const { left, top, width, height } = frame.getBoundingClientRect();
    if (zoom === 1) aim(100 * (clientX - left) / width, 100 * (clientY - top) / height);
};
const magnify = (factor) => {
    zoom = Math.min(MOST, Math.max(1, zoom * factor));
    if (zoom < 1.05) zoom = 1;
    element.style.setProperty("--zoom", zoom);
};
const KEYS = {
    "+": () => magnify(FACTOR), "=": () => magnify(FACTOR), "-": () => magnify(1 / FACTOR),
    "0": () => magnify(0),
};
const MOVES = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
element.addEventListener("wheel", (event) => {
    const frame = event.target.closest(".cell");
    if (!frame || !(event.ctrlKey || event.metaKey)) return;  // a trackpad's pinch has ctrlKey
    event.preventDefault();
    aimAt(event, frame);
    magnify(event.deltaY < 0 ? 1.25 : 0.8);
}, { passive: false });
element.addEventListener("touchmove", (event) => {
    const frame = event.target.closest(".cell"), [one, other] = event.touches;
    if (!frame || !other) return;
    event.preventDefault();
    const now = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const [x, y] = ["clientX", "clientY"].map((axis) => (one[axis] + other[axis]) / 2);
    if (!apart) aimAt({ clientX: x, clientY: y }, frame);
    if (apart) magnify(now / apart);
    if (apart && zoom > 1) {  // the picture goes along with the fingers
        const { width, height } = frame.getBoundingClientRect();
        aim(at[0] - 100 * (x - between[0]) / width / (zoom - 1),
            at[1] - 100 * (y - between[1]) / height / (zoom - 1));
    }
    [apart, between] = [now, [x, y]];
}, { passive: false });
element.addEventListener("touchend", () => { apart = 0; });
element.addEventListener("dblclick", () => magnify(0));
element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = zoom > 1 && event.target.closest(".cell") && MOVES[event.key];
    if (move) aim(at[0] + move[0], at[1] + move[1]);
    else if (KEYS[event.key]) KEYS[event.key]();
    else return;
    event.preventDefault();
});
element.addEventListener("click", ({ target }) => {
    const by = target.closest("[data-zoom]"), cell = target.closest("[data-cell]");
    if (by) magnify({ in: FACTOR, out: 1 / FACTOR, whole: 0 }[by.dataset.zoom]);
    if (cell) trigger("click", { cell: cell.dataset.cell });
});
element.addEventListener("focusin", ({ target }) => { focused = target.dataset.cell; });
element.addEventListener("focusout", ({ target }) => { if (target.isConnected) focused = null; });
const count = () => element.querySelectorAll("[data-left]").forEach((one) => {
    const left = Math.round(one.dataset.left - (performance.now() - came) / 1000);
    one.textContent = left >= 1 ? `${left} s` : "soon";
});
watch("value", () => {
    came = performance.now();
    count();
    if (focused && document.activeElement === document.body)
        element.querySelector(`[data-cell="${focused}"]`)?.focus({ preventScroll: true });
});
setInterval(count, 1000);
"""
